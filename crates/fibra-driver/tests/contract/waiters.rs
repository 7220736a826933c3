//! Several ops on one socket: none lost, none stuck, in order where gates are passed.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Mutex;
use std::thread;

use fibra_driver::owned::Outcome;
use fibra_driver::{BackendKind, RawOp, Socket};

use crate::support::{Rig, driver, finished, pair, soon, tcp_pair};

pub fn eight_readers_share_one_byte_messages(backend: BackendKind) {
    let mut rig = Rig::new(backend);
    let (here, mut there) = tcp_pair();
    for round in 0..50 {
        for word in 0..8 {
            rig.recv(&here, 1, round * 8 + word);
        }
        if round % 2 == 0 {
            rig.look();
        }
        for byte in 0..8 {
            there.write_all(&[byte]).unwrap();
        }
        let mut bytes: Vec<_> = (0..8).flat_map(|word| rig.bytes(round * 8 + word)).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}

pub fn eight_owned_readers_are_served_in_order(backend: BackendKind) {
    let mut driver = driver(backend);
    let (here, mut there) = tcp_pair();
    for round in 0..50 {
        for key in 0..8 {
            driver.recv(&here, vec![0; 1], key);
        }
        for byte in 0..8 {
            there.write_all(&[byte]).unwrap();
            if round % 2 == 0 {
                expect_byte(&mut driver, byte);
            }
        }
        if round % 2 != 0 {
            (0..8).for_each(|byte| expect_byte(&mut driver, byte));
        }
    }
    assert_eq!(driver.metrics().owned_count, 0);
}

fn expect_byte(driver: &mut fibra_driver::Driver, byte: u8) {
    let one = finished(driver);
    let Outcome::Received(Ok(1), buffer) = one.outcome else { panic!("{one:?}") };
    assert_eq!((one.key, buffer[0]), (u64::from(byte), byte));
}

pub fn eight_writers_send_whole_messages_through_the_gate(backend: BackendKind) {
    const LEN: usize = 200_000;
    let mut driver = driver(backend);
    let (here, mut there) = tcp_pair();
    let reader = thread::spawn(move || {
        let mut messages = Vec::new();
        for _ in 0..8 {
            let mut message = vec![0; LEN];
            there.read_exact(&mut message).unwrap();
            assert!(message.iter().all(|byte| *byte == message[0]), "messages were mixed");
            messages.push(message[0]);
        }
        messages
    });
    for key in 0..8 {
        driver.send_all(&here, vec![key as u8; LEN], key);
    }
    for key in 0..8 {
        let one = finished(&mut driver);
        assert_eq!(one.key, key);
        assert!(matches!(one.outcome, Outcome::Sent(Ok(LEN), _)), "{:?}", one.outcome);
    }
    assert_eq!(reader.join().unwrap(), [0, 1, 2, 3, 4, 5, 6, 7]);
}

pub fn data_and_the_end_in_one_event(backend: BackendKind) {
    for len in [8, 3, 2] {
        for armed in [false, true] {
            let (tcp, tcp_there) = tcp_pair();
            let (unix, unix_there) = pair();
            read_to_the_end(backend, &tcp, tcp_there, len, armed, |there| {
                there.shutdown(Shutdown::Write).unwrap();
            });
            read_to_the_end(backend, &unix, unix_there, len, armed, |there| {
                there.shutdown(Shutdown::Write).unwrap();
            });
        }
    }
}

fn read_to_the_end<T: Write>(
    backend: BackendKind,
    here: &Socket,
    mut there: T,
    len: usize,
    armed: bool,
    end: impl FnOnce(&T),
) {
    let mut rig = Rig::new(backend);
    // Something before, so that the driver knows the descriptor and has seen it drained.
    there.write_all(b"first").unwrap();
    rig.recv(here, 64, 0);
    assert_eq!(rig.bytes(0), b"first");
    let mut word = 1;
    if armed {
        rig.recv(here, len, word);
        rig.look();
    }
    there.write_all(b"abc").unwrap();
    end(&there);
    if !armed {
        rig.recv(here, len, word);
    }
    let mut bytes = Vec::new();
    loop {
        let part = rig.bytes(word);
        word += 1;
        if part.is_empty() {
            break;
        }
        bytes.extend(part);
        rig.recv(here, len, word);
    }
    assert_eq!(bytes, b"abc");
    rig.recv(here, len, word);
    assert_eq!(rig.result(word), 0, "the end stays");
}

pub fn a_reader_and_a_writer_do_not_wait_for_each_other(backend: BackendKind) {
    let mut driver = driver(backend);
    let (here, mut there) = tcp_pair();
    // More than all buffers on the way hold: it waits until the peer reads.
    driver.send_all(&here, vec![1; 16 << 20], 1);
    for byte in 0..5 {
        driver.recv(&here, vec![0; 4], 2);
        there.write_all(&[byte]).unwrap();
        let one = finished(&mut driver);
        assert!(matches!(one.outcome, Outcome::Received(Ok(1), _)), "{:?}", one.outcome);
    }
    let reader = thread::spawn(move || {
        let mut heard = vec![0; 16 << 20];
        there.read_exact(&mut heard).unwrap();
    });
    let one = finished(&mut driver);
    assert!(matches!(one.outcome, Outcome::Sent(Ok(_), _)), "{:?}", one.outcome);
    reader.join().unwrap();
}

pub fn two_drivers_and_a_thread_share_a_socket(backend: BackendKind) {
    const BYTES: usize = 600;
    let (here, mut there) = pair();
    let taken = Mutex::new(Vec::new());
    let take = |byte: u8| taken.lock().unwrap().push(byte);
    thread::scope(|scope| {
        for _ in 0..2 {
            let (here, take) = (here.clone(), &take);
            scope.spawn(move || {
                let mut driver = driver(backend);
                loop {
                    driver.recv(&here, vec![0; 1], 0);
                    match finished(&mut driver).outcome {
                        Outcome::Received(Ok(1), buffer) => take(buffer[0]),
                        Outcome::Received(Ok(0), _) => break,
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
        scope.spawn(|| {
            loop {
                let mut byte = 0;
                let op = RawOp::Recv { on: here.target(), buf: &mut byte, len: 1, peek: false };
                // SAFETY: socket and buffer outlive the call.
                match unsafe { here.run_blocking(op, soon()) } {
                    1 => take(byte),
                    result => break assert_eq!(result, 0),
                }
            }
        });
        for byte in 0..BYTES {
            there.write_all(&[byte as u8]).unwrap();
        }
        there.shutdown(Shutdown::Write).unwrap();
    });
    let mut bytes = taken.into_inner().unwrap();
    let mut sent: Vec<_> = (0..BYTES).map(|byte| byte as u8).collect();
    bytes.sort_unstable();
    sent.sort_unstable();
    assert_eq!(bytes, sent);
}
