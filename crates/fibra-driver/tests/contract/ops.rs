//! Each op does what it says, and answers once.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::thread;

use fibra_driver::{BackendKind, Descriptor, Interest, RawOp, Readiness, Socket};

use crate::support::{Rig, listener, pair, tcp_pair};

pub fn every_op_gives_its_answer_once(backend: BackendKind) {
    let mut rig = Rig::new(backend);
    let (listener, to) = listener();
    let client = Socket::tcp(&to).unwrap();
    rig.nop(0);
    rig.accept(&listener, 1);
    rig.connect(&client, to, 2);
    assert_eq!(rig.result(0), 0);
    assert_eq!(rig.result(2), 0);
    // SAFETY: the result of an accept, taken once.
    let server = unsafe { Socket::from_accepted(rig.result(1)) };
    assert_eq!(server.peer_addr().unwrap(), client.local_addr().unwrap());

    rig.recv(&server, 16, 3);
    rig.send(&client, b"hello", 4);
    assert_eq!(rig.result(4), 5);
    assert_eq!(rig.bytes(3), b"hello");
    rig.start(|on| RawOp::Shutdown { on: on.target(), how: Shutdown::Write }, &client, 5);
    assert_eq!(rig.result(5), 0);
    rig.recv(&server, 16, 6);
    assert_eq!(rig.result(6), 0, "the end of the stream");

    let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let fd = Descriptor::new(ours.into()).into_fd();
    // SAFETY: it borrows nothing; the number is ours to close, and forgotten here.
    unsafe { rig.submit(RawOp::Close { fd: fd.as_raw_fd() }, 7) };
    std::mem::forget(fd);
    assert_eq!(rig.result(7), 0);
    assert_eq!(theirs.read(&mut [0; 1]).unwrap(), 0, "it was closed");
    assert_eq!(rig.driver.metrics().in_flight_count, 0);
    assert_eq!(rig.driver.metrics().unknown_completion_count, 0);
}

pub fn ops_end_in_whatever_order_their_causes_come(backend: BackendKind) {
    let mut rig = Rig::new(backend);
    let mut pairs: Vec<_> = (0..64).map(|_| tcp_pair()).collect();
    for (word, (here, _)) in pairs.iter().enumerate() {
        rig.recv(here, 8, word as u64);
    }
    rig.look();
    // 29 is prime to 64: every one once, in an order that is not the order of submission.
    for turn in 0..64 {
        let word = turn * 29 % 64;
        pairs[word].1.write_all(&[word as u8; 3]).unwrap();
        assert_eq!(rig.bytes(word as u64), [word as u8; 3]);
        for later in turn + 1..64 {
            assert!(!rig.has_ended((later * 29 % 64) as u64), "nothing was sent to it yet");
        }
    }
}

pub fn several_buffers_are_sent_and_filled_in_order(backend: BackendKind) {
    let mut rig = Rig::new(backend);
    let (here, there) = pair();
    let there = Socket::from_owned(there.into()).unwrap();
    rig.recv_vectored(&there, &[2, 0, 3, 8], 0);
    rig.look();
    rig.send_vectored(&here, &[b"ab", b"", b"cdefg"], 1);
    assert_eq!(rig.result(1), 7);
    assert_eq!(rig.bytes(0), b"abcdefg");
    rig.recv_vectored(&there, &[4, 4], 2);
    rig.send_vectored(&here, &[b"0123456789"], 3);
    assert_eq!(rig.bytes(2), b"01234567");
    rig.recv_vectored(&there, &[4, 4], 4);
    assert_eq!(rig.bytes(4), b"89");
}

pub fn a_peek_leaves_the_bytes(backend: BackendKind) {
    let mut rig = Rig::new(backend);
    let (here, mut there) = tcp_pair();
    rig.recv_or_peek(&here, 2, true, 0);
    rig.look();
    there.write_all(b"abc").unwrap();
    assert_eq!(rig.bytes(0), b"ab");
    rig.recv_or_peek(&here, 8, true, 1);
    assert_eq!(rig.bytes(1), b"abc");
    rig.recv(&here, 8, 2);
    assert_eq!(rig.bytes(2), b"abc");
}

pub fn a_refused_connect_says_so(backend: BackendKind) {
    let mut rig = Rig::new(backend);
    // A port that was ours a moment ago, and on which nobody listens.
    let (gone, to) = listener();
    drop(gone);
    let client = Socket::tcp(&to).unwrap();
    rig.connect(&client, to, 0);
    assert_eq!(rig.result(0), -libc::ECONNREFUSED);
}

pub fn readiness_is_told_and_takes_nothing(backend: BackendKind) {
    let mut rig = Rig::new(backend);
    let (here, mut there) = tcp_pair();
    let ready = |interest| move |on: &Socket| RawOp::Ready { on: on.target(), interest };
    rig.start(ready(Interest::WRITABLE), &here, 0);
    assert!(readiness(rig.result(0)).contains(Readiness::WRITABLE));
    rig.start(ready(Interest::READABLE), &here, 1);
    rig.look();
    assert!(!rig.has_ended(1), "there is nothing to read");
    there.write_all(b"x").unwrap();
    assert!(readiness(rig.result(1)).contains(Readiness::READABLE));
    rig.start(ready(Interest::READABLE), &here, 2);
    assert!(readiness(rig.result(2)).contains(Readiness::READABLE), "it is there still");
    rig.recv(&here, 8, 3);
    assert_eq!(rig.bytes(3), b"x");
    rig.start(ready(Interest::READABLE), &here, 4);
    rig.look();
    assert!(!rig.has_ended(4), "it was taken");
    drop(there);
    assert!(readiness(rig.result(4)).intersects(Readiness::READABLE | Readiness::READ_CLOSED));
}

fn readiness(result: i32) -> Readiness {
    Readiness::from_bits(u8::try_from(result).expect("bits, no error"))
}

pub fn a_half_closed_connection_goes_on_in_the_other_direction(backend: BackendKind) {
    let mut rig = Rig::new(backend);
    let (here, mut there) = tcp_pair();
    there.shutdown(Shutdown::Write).unwrap();
    rig.recv(&here, 8, 0);
    assert_eq!(rig.result(0), 0);
    for word in 1..4 {
        rig.send(&here, b"ping", word);
        assert_eq!(rig.result(word), 4);
        let mut heard = [0; 4];
        there.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"ping");
    }
}

pub fn a_peer_that_vanishes_is_an_error_or_an_end(backend: BackendKind) {
    let mut rig = Rig::new(backend);
    let (here, there) = tcp_pair();
    rig.recv(&here, 8, 0);
    rig.look();
    // With nothing to linger for, the kernel resets the connection.
    socket2::SockRef::from(&there.as_fd()).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(there);
    assert_eq!(rig.result(0), -libc::ECONNRESET);
    rig.recv(&here, 8, 1);
    assert_eq!(rig.result(1), 0, "the error is told once");
    rig.send(&here, b"x", 2);
    assert_eq!(rig.result(2), -libc::EPIPE, "and no signal was raised");
}

pub fn a_large_transfer_arrives_byte_for_byte(backend: BackendKind) {
    const LEN: usize = 4 << 20;
    let mut rig = Rig::new(backend);
    let (here, mut there) = tcp_pair();
    let bytes: Vec<u8> = (0..LEN).map(|at| (at * 31 + at / 4093) as u8).collect();
    let echo = thread::spawn(move || {
        let mut heard = vec![0; LEN];
        there.read_exact(&mut heard).unwrap();
        there.write_all(&heard).unwrap();
    });
    let (mut sent, mut word) = (0, 0);
    while sent < LEN {
        rig.send(&here, &bytes[sent..(sent + 300_000).min(LEN)], word);
        sent += usize::try_from(rig.result(word)).unwrap();
        word += 1;
    }
    let mut heard = Vec::new();
    while heard.len() < LEN {
        rig.recv(&here, 70_000, word);
        let part = rig.bytes(word);
        assert!(!part.is_empty(), "ended after {} bytes", heard.len());
        heard.extend(part);
        word += 1;
    }
    assert!(heard == bytes);
    echo.join().unwrap();
}
