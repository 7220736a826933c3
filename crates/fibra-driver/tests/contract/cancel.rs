//! Cancel: the op ends early, exactly once, and what it had won counts.

use std::io::Write;

use fibra_driver::{BackendKind, Deadline, Instant, OpId, Socket};

use crate::support::{CANCELLED, Rig, listener, pair, tcp_pair};

pub fn a_cancel_before_the_kernel_saw_the_op(backend: BackendKind) {
    let mut rig = Rig::new(backend);
    let (here, mut there) = tcp_pair();
    let id = rig.recv(&here, 8, 0).unwrap();
    rig.driver.cancel(id);
    assert_eq!(rig.result(0), CANCELLED);
    there.write_all(b"abc").unwrap();
    rig.recv(&here, 8, 1);
    assert_eq!(rig.bytes(1), b"abc", "it took nothing along");
}

pub fn a_cancel_while_the_op_waits(backend: BackendKind) {
    let mut rig = Rig::new(backend);
    let (here, _there) = tcp_pair();
    let (listener, _) = listener();
    let ids = [rig.recv(&here, 8, 0), rig.accept(&listener, 1), rig.recv_vectored(&here, &[4], 2)];
    rig.look();
    for id in ids {
        // Asking twice is no more than asking once.
        rig.driver.cancel(id.unwrap());
        rig.driver.cancel(id.unwrap());
    }
    assert!(rig.ended(3).values().all(|result| *result == CANCELLED));
    rig.look();
    assert_eq!(rig.driver.metrics().in_flight_count, 0);
    assert_eq!(rig.driver.metrics().unknown_completion_count, 0);
}

pub fn a_cancel_after_the_op_has_ended(backend: BackendKind) {
    let mut rig = Rig::new(backend);
    let (here, mut there) = pair();
    let old = rig.recv(&here, 8, 0).unwrap();
    rig.look();
    there.write_all(b"abc").unwrap();
    assert_eq!(rig.bytes(0), b"abc");
    // The slot is in use again, under another generation.
    let new = rig.recv(&here, 8, 1).unwrap();
    assert_ne!(old, new);
    rig.driver.cancel(old);
    rig.driver.cancel(OpId::from_u64(u64::MAX >> 1).unwrap());
    rig.look();
    rig.look();
    assert!(!rig.has_ended(1), "the wrong op was cancelled");
    there.write_all(b"def").unwrap();
    assert_eq!(rig.bytes(1), b"def");
}

/// The bytes are there when the cancel is asked for, and nobody has looked: either they are the
/// result or they are still in the socket.
pub fn success_wins_over_cancel_and_no_byte_is_lost(backend: BackendKind) {
    let mut rig = Rig::new(backend);
    let (here, mut there) = pair();
    let (mut won, mut word) = (0, 0);
    for round in 0..200_u8 {
        let id = rig.recv(&here, 8, word).unwrap();
        // In some rounds the kernel has seen the op by then, in the others it has not.
        if round % 2 == 0 {
            rig.look();
        }
        there.write_all(&[round; 3]).unwrap();
        if round % 3 == 0 {
            rig.look();
        }
        rig.driver.cancel(id);
        word += 1;
        if rig.result(word - 1) == CANCELLED {
            rig.recv(&here, 8, word);
            assert_eq!(rig.bytes(word), [round; 3]);
            word += 1;
        } else {
            assert_eq!(rig.bytes(word - 1), [round; 3]);
            won += 1;
        }
    }
    assert!(won >= 200 / 6, "ops that had ended were cancelled all the same: {won} won");
}

pub fn a_cancel_ends_one_op_and_no_other(backend: BackendKind) {
    let mut rig = Rig::new(backend);
    let (here, mut there) = pair();
    let ids: Vec<_> = (0..8).map(|word| rig.recv(&here, 1, word).unwrap()).collect();
    rig.look();
    for cancelled in [0, 3, 7] {
        rig.driver.cancel(ids[cancelled]);
        assert_eq!(rig.result(cancelled as u64), CANCELLED);
    }
    there.write_all(b"abcde").unwrap();
    let mut bytes: Vec<_> = [1, 2, 4, 5, 6].into_iter().flat_map(|word| rig.bytes(word)).collect();
    bytes.sort_unstable();
    assert_eq!(bytes, b"abcde");
}

pub fn a_connect_that_nobody_answers_can_be_given_up(backend: BackendKind) {
    let mut rig = Rig::new(backend);
    let any = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0));
    let listener = Socket::listen(&any, 0).unwrap();
    let to = listener.local_addr().unwrap();
    // A backlog of 0 takes one connection; the kernel drops what comes after it.
    let first = std::net::TcpStream::connect(to).unwrap();
    let client = Socket::tcp(&to).unwrap();
    let id = rig.connect(&client, to, 0).unwrap();
    let then = Instant::now() + std::time::Duration::from_millis(20);
    while Instant::now() < then {
        rig.driver.wait(Deadline::At(then)).unwrap();
        rig.reap();
    }
    assert!(!rig.has_ended(0), "nobody has answered");
    rig.driver.cancel(id);
    assert_eq!(rig.result(0), CANCELLED);
    drop(first);
}
