//! What the path of every op owes to abandoned ones, which only this crate can stage.

use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use fibra_driver::{Direction, Socket, Stashed};

use super::{TcpListener, TcpStream};

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

fn keep(stream: &TcpStream, what: Stashed) {
    stream.socket().side(Direction::Read).stash.push(what);
}

#[test]
fn what_an_abandoned_read_had_won_comes_before_what_is_in_the_socket() {
    let (mut near, mut far) = pair();
    far.write_all(b"later").unwrap();
    keep(&near, Stashed::Bytes(b"first".to_vec(), 0));
    assert_eq!(near.read(&mut []).unwrap(), 0, "nothing taken");
    let mut buf = [0; 16];
    assert_eq!(near.peek(&mut buf).unwrap(), 5);
    assert_eq!(near.read(&mut buf[..2]).unwrap(), 2);
    let (left, right) = buf.split_at_mut(1);
    let mut bufs = [IoSliceMut::new(left), IoSliceMut::new(right)];
    assert_eq!(near.read_vectored(&mut bufs).unwrap(), 3);
    assert_eq!(&buf[..3], b"rst");
    assert_eq!(near.read(&mut buf).unwrap(), 5);
    assert_eq!(&buf[..5], b"later");
}

#[test]
fn a_kept_error_is_told_once_and_a_kept_end_for_ever() {
    let (mut near, _far) = pair();
    keep(&near, Stashed::Error(-libc::ECONNRESET));
    keep(&near, Stashed::End);
    assert_eq!(near.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(near.read(&mut [0]).unwrap(), 0);
    assert_eq!(near.peek(&mut [0]).unwrap(), 0);
    assert_eq!(near.read_vectored(&mut [IoSliceMut::new(&mut [0])]).unwrap(), 0);
}

#[test]
fn a_nonblocking_read_sees_what_is_kept() {
    let (mut near, _far) = pair();
    near.set_nonblocking(true).unwrap();
    assert_eq!(near.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    keep(&near, Stashed::Bytes(b"x".to_vec(), 0));
    assert_eq!(near.read(&mut [0]).unwrap(), 1);
}

#[test]
fn a_read_waits_for_the_gate_no_longer_than_its_timeout() {
    let (mut near, mut far) = pair();
    far.write_all(b"x").unwrap();
    let socket = near.socket().clone();
    let gate = &socket.side(Direction::Read).gate;
    assert!(gate.try_enter());
    near.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    assert_eq!(near.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    near.set_nonblocking(true).unwrap();
    assert_eq!(near.peek(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    // The other direction has its own gate.
    assert_eq!(near.write(b"y").unwrap(), 1);
    gate.leave();
    near.set_nonblocking(false).unwrap();
    assert_eq!(near.read(&mut [0]).unwrap(), 1);
    assert!(!gate.is_held(), "every path leaves the gate");
}

#[test]
fn every_outcome_leaves_both_gates() {
    let (mut near, far) = pair();
    let mut buf = [0; 4];
    near.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let _ = near.read(&mut buf);
    keep(&near, Stashed::Error(-libc::ECONNRESET));
    let _ = near.read(&mut buf);
    keep(&near, Stashed::Bytes(vec![1], 0));
    let _ = near.read(&mut buf);
    drop(far);
    let _ = near.read_vectored(&mut [IoSliceMut::new(&mut buf)]);
    while near.write(&[0; 16]).is_ok() {}
    near.socket().fail_write();
    let _ = near.write_vectored(&[IoSlice::new(b"x")]);
    for direction in [Direction::Read, Direction::Write] {
        assert!(!near.socket().side(direction).gate.is_held(), "{direction:?}");
    }
}

#[test]
fn a_send_cut_in_its_middle_fails_every_later_write() {
    let (mut near, _far) = pair();
    near.socket().fail_write();
    for _ in 0..2 {
        assert_eq!(near.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
        let bufs = [IoSlice::new(b"x")];
        assert_eq!(near.write_vectored(&bufs).unwrap_err().kind(), ErrorKind::BrokenPipe);
    }
}

#[test]
fn into_std_refuses_while_bytes_are_kept_or_a_call_is_under_way() {
    let (mut near, _far) = pair();
    keep(&near, Stashed::Bytes(b"x".to_vec(), 0));
    near = near.into_std().unwrap_err();
    assert_eq!(near.read(&mut [0]).unwrap(), 1);
    assert!(near.socket().side(Direction::Write).gate.try_enter());
    near = near.into_std().unwrap_err();
    near.socket().side(Direction::Write).gate.leave();
    near.into_std().unwrap();
}

#[test]
fn a_connection_accepted_for_nobody_is_what_the_next_accept_gets() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    let fd = OwnedFd::from(far.into_std().unwrap());
    socket2::SockRef::from(&fd).set_nonblocking(true).unwrap();
    let socket: &Socket = listener.socket();
    socket.side(Direction::Read).stash.push(Stashed::Accepted(fd));
    let listener = listener.into_std().unwrap_err();
    listener.set_nonblocking(true).unwrap();
    let (mut far, from) = listener.accept().unwrap();
    assert_eq!(from, near.local_addr().unwrap());
    far.write_all(b"x").unwrap();
    assert_eq!((&near).read(&mut [0; 4]).unwrap(), 1);
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}
