//! What our streams promise beyond std, and what they carry.

mod sides;

use std::io::{self, BufReader, ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fibra_runtime::net::{TcpListener, TcpStream};
use sides::{Meeting, noise, on_every_side, pair, spawn};

const SHORT: Option<Duration> = Some(Duration::from_millis(40));

#[test]
fn streams_and_listeners_can_be_sent_and_shared() {
    fn check<T: Send + Sync + 'static>() {}
    check::<TcpStream>();
    check::<TcpListener>();
}

#[test]
fn an_echo_with_a_half_close_returns_every_byte() {
    on_every_side(|| {
        let (near, far) = pair();
        let echo = spawn(move || {
            io::copy(&mut &far, &mut &far).unwrap();
            far.shutdown(Shutdown::Write).unwrap();
        });
        let sent = noise(1, 300_000);
        let (clone, bytes) = (near.try_clone().unwrap(), sent.clone());
        let writer = spawn(move || {
            (&clone).write_all(&bytes).unwrap();
            clone.shutdown(Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        (&near).read_to_end(&mut got).unwrap();
        assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
        writer.join();
        echo.join();
    });
}

#[test]
fn a_megabyte_goes_both_ways_at_once() {
    on_every_side(|| {
        let (near, far) = pair();
        let mut ends = Vec::new();
        for (stream, sends, expects) in [(near, 2, 3), (far, 3, 2)] {
            let stream = Arc::new(stream);
            let writer = Arc::clone(&stream);
            ends.push(spawn(move || {
                // Odd sizes, so that writes and reads never line up.
                for chunk in noise(sends, 1 << 20).chunks(40_961) {
                    (&*writer).write_all(chunk).unwrap();
                }
                writer.shutdown(Shutdown::Write).unwrap();
            }));
            ends.push(spawn(move || {
                let mut got = Vec::new();
                BufReader::with_capacity(30_011, &*stream).read_to_end(&mut got).unwrap();
                assert!(got == noise(expects, 1 << 20), "{} bytes", got.len());
            }));
        }
        ends.into_iter().for_each(sides::Peer::join);
    });
}

#[test]
fn a_large_vectored_write_arrives_in_order() {
    on_every_side(|| {
        let (mut near, mut far) = pair();
        let sent = noise(4, 3_000_000);
        let expected = sent.clone();
        let writer = spawn(move || {
            let mut slices: Vec<_> = sent.chunks(997).map(IoSlice::new).collect();
            let mut rest = &mut slices[..];
            while !rest.is_empty() {
                let count = near.write_vectored(rest).unwrap();
                assert_ne!(count, 0);
                IoSlice::advance_slices(&mut rest, count);
            }
        });
        let mut got = vec![0; expected.len()];
        far.read_exact(&mut got).unwrap();
        assert!(got == expected);
        writer.join();
        assert_eq!(far.read(&mut [0]).unwrap(), 0);
    });
}

#[test]
fn eight_readers_of_one_stream_lose_no_message_and_none_is_stuck() {
    const READERS: usize = 8;
    const MESSAGES: usize = 4000;
    on_every_side(|| {
        let (near, mut far) = pair();
        let near = Arc::new(near);
        let seen = Arc::new(Mutex::new(vec![0_u32; 256]));
        let mut readers = Vec::new();
        for _ in 0..READERS {
            let (near, seen) = (Arc::clone(&near), Arc::clone(&seen));
            readers.push(spawn(move || {
                let mut byte = [0];
                while (&*near).read(&mut byte).unwrap() == 1 {
                    seen.lock().unwrap()[usize::from(byte[0])] += 1;
                }
            }));
        }
        for number in 0..MESSAGES {
            far.write_all(&[number as u8]).unwrap();
        }
        drop(far);
        readers.into_iter().for_each(sides::Peer::join);
        let expected: Vec<_> = (0..256).map(|n| ((MESSAGES + 255 - n) / 256) as u32).collect();
        assert_eq!(*seen.lock().unwrap(), expected);
    });
}

#[test]
fn two_reads_with_a_timeout_take_turns_and_the_bytes_reach_one_of_them() {
    on_every_side(|| {
        let (near, mut far) = pair();
        near.set_read_timeout(SHORT).unwrap();
        let start = Arc::new(Meeting::of(3));
        let readers = [near.try_clone().unwrap(), near].map(|stream| {
            let start = Arc::clone(&start);
            spawn(move || {
                start.wait();
                let first = (&stream).read(&mut [0]).unwrap_err().kind();
                start.wait();
                // Until the byte or the end.
                loop {
                    match (&stream).read(&mut [0]) {
                        Ok(count) => break (first, count),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                    }
                }
            })
        });
        start.wait();
        start.wait();
        far.write_all(b"x").unwrap();
        drop(far);
        let mut seen = readers.map(sides::Peer::join);
        seen.sort_by_key(|(_, count)| *count);
        assert_eq!(seen, [(ErrorKind::WouldBlock, 0), (ErrorKind::WouldBlock, 1)]);
    });
}

#[test]
fn a_waiting_read_ends_when_another_handle_shuts_the_stream_down() {
    on_every_side(|| {
        let (near, _far) = pair();
        let clone = near.try_clone().unwrap();
        let inside = Arc::new(Meeting::of(2));
        let started = Arc::clone(&inside);
        let reader = spawn(move || {
            started.wait();
            (&clone).read(&mut [0; 8]).unwrap()
        });
        inside.wait();
        near.shutdown(Shutdown::Read).unwrap();
        assert_eq!(reader.join(), 0);
    });
}

#[test]
fn into_std_refuses_while_another_handle_exists() {
    on_every_side(|| {
        let (near, mut far) = pair();
        let clone = near.try_clone().unwrap();
        let number = near.as_raw_fd();
        assert_eq!(clone.as_raw_fd(), number, "a clone is no dup");
        let near = near.into_std().unwrap_err();
        drop(clone);
        near.set_read_timeout(SHORT).unwrap();
        let mut plain = near.into_std().unwrap();
        assert_eq!(plain.as_raw_fd(), number);
        assert_eq!(plain.read_timeout().unwrap(), SHORT);
        // In blocking mode: a read of nothing lasts until the timeout instead of failing at once,
        // and a later one waits for the bytes.
        assert!(!socket2::SockRef::from(&plain).nonblocking().unwrap());
        far.write_all(b"std").unwrap();
        let mut text = [0; 3];
        plain.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"std");
    });
}

#[test]
fn a_stream_goes_to_std_and_back_with_its_settings() {
    on_every_side(|| {
        let (near, mut far) = pair();
        near.set_nonblocking(true).unwrap();
        near.set_write_timeout(SHORT).unwrap();
        let plain = near.into_std().unwrap();
        assert_eq!((&plain).read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        let mut near = TcpStream::from_std(plain).unwrap();
        assert_eq!(near.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!((near.read_timeout().unwrap(), near.write_timeout().unwrap()), (None, SHORT));
        near.set_nonblocking(false).unwrap();
        far.write_all(b"x").unwrap();
        assert_eq!(near.read(&mut [0; 4]).unwrap(), 1);
    });
}

#[test]
fn the_timeout_of_a_socket_is_no_cancel_and_costs_no_bytes() {
    on_every_side(|| {
        let (mut near, mut far) = pair();
        near.set_read_timeout(SHORT).unwrap();
        let error = near.read_exact(&mut [0; 4]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert!(!fibra_runtime::is_cancelled(&error));
        far.write_all(b"kept").unwrap();
        let mut text = [0; 4];
        near.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"kept");
    });
}

#[test]
fn a_connect_with_a_long_timeout_connects() {
    on_every_side(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut near = TcpStream::connect_timeout(&address, Duration::MAX).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        near.write_all(b"x").unwrap();
        assert_eq!(far.read(&mut [0; 4]).unwrap(), 1);
    });
}

#[test]
fn a_stream_outlives_the_thread_that_made_it() {
    on_every_side(|| {
        let (near, far) = spawn(pair).join();
        let mut near = spawn(move || {
            (&near).write_all(b"moved").unwrap();
            near
        })
        .join();
        let mut text = [0; 5];
        (&far).read_exact(&mut text).unwrap();
        assert_eq!(&text, b"moved");
        drop(far);
        assert_eq!(near.read(&mut [0]).unwrap(), 0);
    });
}
