//! Abandoned ops: what they had won is not lost, and nobody overtakes it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use fibra_driver::owned::Outcome;
use fibra_driver::{BackendKind, Deadline, Direction, Driver, Instant, RawOp, Socket};

use crate::support::{LIMIT, driver, finished, listener, pair, soon, tcp_pair, until_quiet};

/// Receives once: the bytes.
fn recv(driver: &mut Driver, socket: &Socket) -> std::io::Result<Vec<u8>> {
    driver.recv(socket, vec![0xee; 64], 99);
    let one = finished(driver);
    assert_eq!(one.key, 99, "an abandoned op gives no word");
    let Outcome::Received(result, mut buffer) = one.outcome else { panic!("{:?}", one.outcome) };
    result.map(|count| {
        buffer.truncate(count);
        buffer
    })
}

/// Waits until some owned op has its result, and leaves it there.
fn until_won(driver: &mut Driver) {
    let limit = Instant::now() + LIMIT;
    while driver.metrics().finished_count == 0 {
        assert!(Instant::now() < limit, "nothing was won");
        driver.wait(Deadline::At(limit)).unwrap();
        assert!(driver.reap().is_none());
    }
}

pub fn an_abandoned_receive_that_had_won_keeps_its_bytes(backend: BackendKind) {
    let mut driver = driver(backend);
    let (here, mut there) = tcp_pair();
    let id = driver.recv(&here, (vec![0; 10], 4..9), 0);
    there.write_all(b"abc").unwrap();
    until_won(&mut driver);
    // Another one is queued behind it, and must not get "def" before "abc".
    driver.recv(&here, vec![0; 2], 1);
    there.write_all(b"def").unwrap();
    driver.abandon(id);
    driver.abandon(id);
    driver.cancel_owned(id);
    let one = finished(&mut driver);
    let Outcome::Received(Ok(2), buffer) = one.outcome else { panic!("{:?}", one.outcome) };
    assert_eq!((one.key, &buffer[..]), (1, &b"ab"[..]));
    assert_eq!(recv(&mut driver, &here).unwrap(), b"c");
    assert_eq!(recv(&mut driver, &here).unwrap(), b"def");
}

pub fn an_abandoned_receive_that_had_won_unnoticed_keeps_its_bytes(backend: BackendKind) {
    let mut driver = driver(backend);
    let (here, mut there) = pair();
    let id = driver.recv(&here, vec![0; 8], 0);
    driver.wait(Deadline::Now).unwrap();
    there.write_all(b"abc").unwrap();
    // The answer is there, and nobody has taken it.
    driver.wait(soon()).unwrap();
    driver.abandon(id);
    there.write_all(b"def").unwrap();
    assert_eq!(recv(&mut driver, &here).unwrap(), b"abc");
    assert_eq!(recv(&mut driver, &here).unwrap(), b"def");
}

pub fn abandoned_receives_lose_no_byte_whenever_they_are_abandoned(backend: BackendKind) {
    let mut driver = driver(backend);
    let (here, mut there) = pair();
    let (mut sent, mut heard) = (Vec::new(), Vec::new());
    for round in 0..400_u32 {
        let id = driver.recv(&here, vec![0; 3], 0);
        if round % 2 == 0 {
            driver.wait(Deadline::Now).unwrap();
        }
        let message = round.to_ne_bytes();
        there.write_all(&message).unwrap();
        sent.extend(message);
        if round % 3 == 0 {
            driver.wait(Deadline::Now).unwrap();
        }
        if round % 5 == 0 {
            driver.reap();
        }
        driver.abandon(id);
        if round % 7 == 0 {
            heard.extend(recv(&mut driver, &here).unwrap());
        }
        // Before the socket is full of messages that nobody takes.
        while round % 50 == 0 && heard.len() < sent.len() {
            heard.extend(recv(&mut driver, &here).unwrap());
        }
    }
    while heard.len() < sent.len() {
        heard.extend(recv(&mut driver, &here).unwrap());
    }
    assert!(heard == sent, "the bytes are not what was sent, or not in order");
}

pub fn abandoned_vectored_bytes_come_first_too(backend: BackendKind) {
    let mut driver = driver(backend);
    let (here, mut there) = pair();
    let id = driver.recv_vectored(&here, vec![vec![0; 2], vec![], vec![0; 4]], 0);
    there.write_all(b"abcde").unwrap();
    until_won(&mut driver);
    driver.abandon(id);
    there.write_all(b"fg").unwrap();
    driver.recv_vectored(&here, vec![vec![0; 1], vec![0; 1], vec![0; 9]], 1);
    let Outcome::ReceivedVectored(Ok(5), buffers) = finished(&mut driver).outcome else { panic!() };
    assert_eq!(&buffers.concat()[..5], b"abcde");
    assert_eq!(recv(&mut driver, &here).unwrap(), b"fg");
}

pub fn an_end_and_an_error_that_were_won_are_told_to_the_next(backend: BackendKind) {
    let mut driver = driver(backend);
    let (here, there) = tcp_pair();
    let id = driver.recv(&here, vec![0; 8], 0);
    there.shutdown(Shutdown::Write).unwrap();
    until_won(&mut driver);
    driver.abandon(id);
    assert!(!here.side(Direction::Read).stash.is_empty(), "the end is kept, not asked for again");
    assert_eq!(recv(&mut driver, &here).unwrap(), b"");
    assert_eq!(recv(&mut driver, &here).unwrap(), b"");

    let (here, there) = tcp_pair();
    let id = driver.recv(&here, vec![0; 8], 0);
    driver.wait(Deadline::Now).unwrap();
    socket2::SockRef::from(&there.as_fd()).set_linger(Some(Duration::ZERO)).unwrap();
    drop(there);
    until_won(&mut driver);
    driver.abandon(id);
    // The kernel has told it, and would not again.
    let error = recv(&mut driver, &here).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(recv(&mut driver, &here).unwrap(), b"");
}

pub fn an_abandoned_accept_that_had_won_hands_its_connection_on(backend: BackendKind) {
    let mut driver = driver(backend);
    let (listener, to) = listener();
    let id = driver.accept(&listener, 0);
    let client = TcpStream::connect(to).unwrap();
    until_won(&mut driver);
    driver.abandon(id);
    driver.accept(&listener, 1);
    let one = finished(&mut driver);
    let Outcome::Accepted(Ok(server)) = one.outcome else { panic!("{:?}", one.outcome) };
    assert_eq!(one.key, 1);
    assert_eq!(server.peer_addr().unwrap(), client.local_addr().unwrap());
}

pub fn an_abandoned_accept_that_had_won_is_closed_with_the_listener(backend: BackendKind) {
    let mut driver = driver(backend);
    let (listener, to) = listener();
    let id = driver.accept(&listener, 0);
    let mut client = TcpStream::connect(to).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    until_won(&mut driver);
    driver.abandon(id);
    client.set_nonblocking(true).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
    client.set_nonblocking(false).unwrap();
    drop(listener);
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
}

pub fn an_abandoned_send_is_whole_or_not_there(backend: BackendKind) {
    const LEN: usize = 8 << 20;
    let mut driver = driver(backend);
    let (here, mut there) = tcp_pair();
    // No socket takes that much at once: it is cut, and goes on in the background.
    let id = driver.send(&here, vec![1; LEN], 0);
    let mut first = [0];
    driver.wait(Deadline::Now).unwrap();
    there.read_exact(&mut first).unwrap();
    driver.abandon(id);
    // This one never starts.
    let never = driver.send(&here, vec![2; 10], 0);
    driver.abandon(never);
    let parts = vec![vec![3; LEN / 2], vec![3; LEN / 2]];
    let id = driver.send_vectored(&here, parts, 0);
    let reader = thread::spawn(move || {
        let mut message = vec![0; LEN];
        there.read_exact(&mut message[1..]).unwrap();
        assert!(message[1..].iter().all(|byte| *byte == 1), "the first message was cut");
        there.read_exact(&mut message).unwrap();
        assert!(message.iter().all(|byte| *byte == 3), "the second message was cut");
        there.read_exact(&mut message[..1]).unwrap();
        message[0]
    });
    let Outcome::SentVectored(Ok(count @ 1..), _) = next_but_keep(&mut driver, id) else {
        panic!("it was sent in part")
    };
    // What is left of it, as a caller would send it who did not abandon it.
    driver.send_all(&here, vec![3; LEN - count], 1);
    driver.send_all(&here, vec![4; 1], 2);
    for key in [1, 2] {
        let one = finished(&mut driver);
        assert!(one.key == key && matches!(one.outcome, Outcome::Sent(Ok(_), _)), "{one:?}");
    }
    assert_eq!(reader.join().unwrap(), 4);
    assert!(!here.is_write_failed());
}

fn next_but_keep(driver: &mut Driver, id: fibra_driver::owned::OwnedId) -> Outcome {
    let one = finished(driver);
    assert_eq!(one.id, id);
    one.outcome
}

pub fn a_send_that_was_cut_fails_the_write_side(backend: BackendKind) {
    let (here, mut there) = tcp_pair();
    {
        let mut driver = driver(backend);
        let id = driver.send(&here, vec![1; 16 << 20], 0);
        driver.wait(Deadline::Now).unwrap();
        there.read_exact(&mut [0]).unwrap();
        driver.abandon(id);
        until_it_goes_on(&mut driver);
        assert!(!here.is_write_failed(), "it goes on in the background");
    }
    assert!(here.is_write_failed(), "the driver is gone, and the message is not whole");
    let mut driver = driver(backend);
    driver.send(&here, vec![2; 10], 0);
    let Outcome::Sent(Err(error), buffer) = finished(&mut driver).outcome else { panic!() };
    assert_eq!((error.kind(), buffer.len()), (ErrorKind::BrokenPipe, 10));
}

/// Lets an abandoned send take note of its first part and go on with the second.
fn until_it_goes_on(driver: &mut Driver) {
    for _ in 0..10 {
        driver.wait(Deadline::Now).unwrap();
        assert!(driver.reap_owned().is_none());
    }
    assert_eq!(driver.metrics().owned_count, 1);
}

pub fn a_thread_waits_for_an_abandoned_receive_and_takes_its_bytes(backend: BackendKind) {
    let mut driver = driver(backend);
    let (here, mut there) = pair();
    let id = driver.recv(&here, vec![0; 8], 0);
    driver.wait(Deadline::Now).unwrap();
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let mut buf = [0; 8];
            let op = RawOp::Recv { on: here.target(), buf: buf.as_mut_ptr(), len: 8, peek: false };
            // SAFETY: socket and buffer outlive the call.
            let count = unsafe { here.run_blocking(op, soon()) };
            buf[..usize::try_from(count).unwrap()].to_vec()
        });
        let limit = Instant::now() + LIMIT;
        while here.side(Direction::Read).gate.waiter_count() == 0 {
            assert!(Instant::now() < limit, "the thread does not come to the gate");
            thread::yield_now();
        }
        there.write_all(b"abc").unwrap();
        until_won(&mut driver);
        driver.abandon(id);
        there.write_all(b"def").unwrap();
        assert_eq!(thread.join().unwrap(), b"abc");
    });
    assert_eq!(recv(&mut driver, &here).unwrap(), b"def");
}

pub fn an_op_abandoned_at_its_gate_holds_nobody_up(backend: BackendKind) {
    let mut driver = driver(backend);
    let (here, mut there) = pair();
    let ids: Vec<_> = (0..4).map(|key| driver.recv(&here, vec![0; 1], key)).collect();
    assert_eq!(here.side(Direction::Read).gate.waiter_count(), 3);
    driver.abandon(ids[1]);
    driver.abandon(ids[0]);
    there.write_all(b"ab").unwrap();
    for (key, byte) in [(2, b'a'), (3, b'b')] {
        let one = finished(&mut driver);
        let Outcome::Received(Ok(1), buffer) = one.outcome else { panic!("{:?}", one.outcome) };
        assert_eq!((one.key, buffer[0]), (key, byte));
    }
    assert_eq!(here.side(Direction::Read).gate.waiter_count(), 0);
    until_quiet(&mut driver);
    assert!(!here.side(Direction::Read).gate.is_held());
}
