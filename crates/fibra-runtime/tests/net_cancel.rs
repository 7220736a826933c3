//! Calls of net that are ended early: what the caller is told, and that nothing is lost.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod sides;

use std::fmt::Debug;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fibra_runtime::net::{TcpListener, TcpStream};
use fibra_runtime::{deadline, is_cancelled, yield_now};
use sides::{noise, on_every_fiber_side, pair, spawn};

const SHORT: Duration = Duration::from_millis(20);

/// Cancels the call after a while, during which it has most likely begun to wait; it may also
/// find itself cancelled from the start, and must say the same.
fn cancelled<T: Debug + Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Error {
    let started = Arc::new(AtomicUsize::new(0));
    let ours = Arc::clone(&started);
    let fiber = spawn(move || {
        ours.store(1, Ordering::Release);
        call()
    });
    while started.load(Ordering::Acquire) == 0 {
        yield_now();
    }
    fibra_runtime::sleep(Duration::from_millis(1));
    fiber.cancel();
    fiber.join().unwrap_err()
}

/// A listener that takes no further connection, and what keeps it full.
fn full() -> (socket2::Socket, SocketAddr, Vec<std::net::TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    // Linux takes one more than the backlog.
    (socket, address, vec![std::net::TcpStream::connect(address).unwrap()])
}

#[test]
fn every_call_that_waits_tells_a_cancel_as_cancelled() {
    on_every_fiber_side(|| {
        let calls: [fn(&TcpStream) -> io::Result<()>; 5] = [
            |mut stream| stream.read(&mut [0]).map(drop),
            |stream| stream.peek(&mut [0]).map(drop),
            |mut stream| stream.read_vectored(&mut [io::IoSliceMut::new(&mut [0])]).map(drop),
            |mut stream| stream.read_exact(&mut [0; 4]),
            |mut stream| stream.read(&mut []).map(drop),
        ];
        let (near, _far) = pair();
        for call in calls {
            let stream = near.try_clone().unwrap();
            let error = cancelled(move || call(&stream));
            assert!(is_cancelled(&error), "{error:?}");
            assert_eq!(error.kind(), ErrorKind::Other);
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(is_cancelled(&cancelled(move || listener.accept())));
        let stream = near.try_clone().unwrap();
        let flood = cancelled(move || -> io::Result<()> {
            loop {
                (&stream).write_all(&[0; 65536])?
            }
        });
        assert!(is_cancelled(&flood), "{flood:?}");
    });
}

#[test]
fn a_timeout_a_deadline_and_a_cancel_stay_apart_through_std_s_readers() {
    on_every_fiber_side(|| {
        let calls: [fn(TcpStream) -> io::Result<()>; 4] = [
            |stream| BufReader::new(stream).read_line(&mut String::new()).map(drop),
            |stream| BufReader::new(stream).read_exact(&mut [0; 4]),
            |mut stream| io::copy(&mut stream, &mut io::sink()).map(drop),
            |mut stream| stream.read_to_end(&mut Vec::new()).map(drop),
        ];
        for call in calls {
            let (near, mut far) = pair();
            far.write_all(b"ab").unwrap();
            near.set_read_timeout(Some(SHORT)).unwrap();
            let error = call(near).unwrap_err();
            assert_eq!((error.kind(), is_cancelled(&error)), (ErrorKind::WouldBlock, false));

            let (near, mut far) = pair();
            far.write_all(b"ab").unwrap();
            let error = deadline(SHORT, || call(near)).unwrap_err();
            assert_eq!((error.kind(), is_cancelled(&error)), (ErrorKind::TimedOut, false));

            let (near, mut far) = pair();
            far.write_all(b"ab").unwrap();
            let error = cancelled(move || call(near));
            assert_eq!((error.kind(), is_cancelled(&error)), (ErrorKind::Other, true));
        }
    });
}

#[test]
fn the_earlier_of_a_timeout_and_a_deadline_decides() {
    on_every_fiber_side(|| {
        let (mut near, _far) = pair();
        let long = Duration::from_secs(600);
        near.set_read_timeout(Some(long)).unwrap();
        let error = deadline(SHORT, || near.read(&mut [0])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        near.set_read_timeout(Some(SHORT)).unwrap();
        let error = deadline(long, || near.read(&mut [0])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    });
}

#[test]
fn cancelled_reads_lose_no_bytes() {
    const LEN: usize = 200_000;
    on_every_fiber_side(|| {
        let (near, far) = pair();
        let sent = noise(6, LEN);
        let bytes = sent.clone();
        let writer = spawn(move || {
            // Small pieces, so that reads begin to wait again and again.
            for piece in bytes.chunks(777) {
                (&far).write_all(piece).unwrap();
                yield_now();
            }
        });
        let mut got = Vec::new();
        let mut round = 0;
        while got.len() < LEN {
            let stream = near.try_clone().unwrap();
            let reader = spawn(move || {
                let (mut got, mut buf) = (Vec::new(), [0; 5000]);
                loop {
                    match (&stream).read(&mut buf) {
                        Ok(0) => return got,
                        Ok(count) => got.extend_from_slice(&buf[..count]),
                        Err(error) if is_cancelled(&error) => return got,
                        Err(error) => panic!("{error}"),
                    }
                }
            });
            round += 1;
            for _ in 0..round % 7 {
                yield_now();
            }
            reader.cancel();
            // A fiber that is cancelled before it has begun never begins.
            if let Some(more) = reader.outcome() {
                got.extend_from_slice(&more);
            }
        }
        assert!(got == sent, "{} bytes of {LEN}, or in the wrong order", got.len());
        writer.join();
    });
}

#[test]
fn a_write_that_is_ended_early_has_sent_what_it_said() {
    on_every_fiber_side(|| {
        let (near, mut far) = pair();
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let error = cancelled(move || -> io::Result<()> {
            let bytes = noise(7, 1 << 16);
            loop {
                let at = count.load(Ordering::Relaxed) % bytes.len();
                let more = (&near).write(&bytes[at..])?;
                count.fetch_add(more, Ordering::Relaxed);
            }
        });
        assert!(is_cancelled(&error));
        let mut got = Vec::new();
        far.read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), sent.load(Ordering::Relaxed));
        let bytes = noise(7, 1 << 16);
        assert!(got.chunks(bytes.len()).all(|part| part == &bytes[..part.len()]));
    });
}

#[test]
fn accepts_that_are_ended_early_lose_no_connection() {
    const CLIENTS: usize = 60;
    on_every_fiber_side(|| {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        let clients = spawn(move || {
            let connect = |number: usize| {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.write_all(&[number as u8]).unwrap();
                yield_now();
                stream
            };
            (0..CLIENTS).map(connect).collect::<Vec<_>>()
        });
        let mut seen = Vec::new();
        while seen.len() < CLIENTS {
            let ours = Arc::clone(&listener);
            let acceptor = spawn(move || ours.accept());
            yield_now();
            acceptor.cancel();
            match acceptor.outcome() {
                Some(Ok((mut stream, _))) => {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    seen.push(usize::from(byte[0]));
                }
                Some(Err(error)) => assert!(is_cancelled(&error), "{error}"),
                None => {}
            }
            let brief = Duration::from_micros(50);
            if let Ok((mut stream, _)) = deadline(brief, || listener.accept()) {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                seen.push(usize::from(byte[0]));
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..CLIENTS).collect::<Vec<_>>());
        // None of them was closed on the way.
        for mut client in clients.join() {
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
        }
    });
}

#[test]
fn a_connect_is_given_up_and_no_further_address_is_tried() {
    on_every_fiber_side(|| {
        let (_full, address, _kept) = full();
        let second = TcpListener::bind("127.0.0.1:0").unwrap();
        second.set_nonblocking(true).unwrap();
        let choice = [address, second.local_addr().unwrap()];
        let error = deadline(SHORT, || TcpStream::connect(&choice[..])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let error = cancelled(move || TcpStream::connect(&choice[..]));
        assert!(is_cancelled(&error), "{error:?}");
        assert_eq!(second.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    });
}

#[test]
fn one_that_is_cancelled_in_the_queue_holds_nobody_up() {
    on_every_fiber_side(|| {
        let (near, mut far) = pair();
        let near = Arc::new(near);
        let readers: Vec<_> = (0..9)
            .map(|_| {
                let near = Arc::clone(&near);
                spawn(move || {
                    let mut byte = [0];
                    (&*near).read(&mut byte).map(|count| (count, byte[0]))
                })
            })
            .collect();
        fibra_runtime::sleep(Duration::from_millis(2));
        let mut left = Vec::new();
        for (number, reader) in readers.into_iter().enumerate() {
            if number % 3 == 0 {
                reader.cancel();
                let outcome = reader.outcome();
                assert!(outcome.is_none_or(|result| is_cancelled(&result.unwrap_err())));
            } else {
                left.push(reader);
            }
        }
        far.write_all(b"abcdef").unwrap();
        let mut seen: Vec<_> = left.into_iter().map(|reader| reader.join().unwrap()).collect();
        seen.sort_unstable();
        let expected: Vec<_> = b"abcdef".iter().map(|byte| (1, *byte)).collect();
        assert_eq!(seen, expected);
    });
}

#[test]
fn threads_and_fibers_take_turns_on_one_stream() {
    const MESSAGES: usize = 2000;
    on_every_fiber_side(|| {
        let (near, mut far) = pair();
        let near = Arc::new(near);
        let seen = Arc::new(AtomicUsize::new(0));
        let body = || {
            let (near, seen) = (Arc::clone(&near), Arc::clone(&seen));
            move || {
                while (&*near).read(&mut [0]).unwrap() == 1 {
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let fibers: Vec<_> = (0..4).map(|_| spawn(body())).collect();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(body())).collect();
        for _ in 0..MESSAGES {
            far.write_all(b"x").unwrap();
        }
        drop(far);
        fibers.into_iter().for_each(sides::Peer::join);
        for thread in threads {
            // Joining would block the worker.
            while !thread.is_finished() {
                yield_now();
            }
            thread.join().unwrap();
        }
        assert_eq!(seen.load(Ordering::Relaxed), MESSAGES);
    });
}

#[test]
fn dropping_the_last_handle_after_a_cancelled_read_closes_the_connection() {
    on_every_fiber_side(|| {
        for _ in 0..20 {
            let (near, mut far) = pair();
            assert!(is_cancelled(&cancelled(move || (&near).read(&mut [0]))));
            assert_eq!(far.read(&mut [0]).unwrap(), 0);
        }
    });
}
