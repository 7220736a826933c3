//! Handles, releases and blocking ops, without a driver.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Barrier;
use std::thread;

use super::*;
use crate::clock::{Deadline, Instant};
use crate::interest::{Interest, Readiness};
use crate::op::Shutdown;
use crate::{Message, Stashed, run_blocking, run_blocking_until};

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn pair() -> (Socket, TcpStream) {
    let listener = Socket::listen(&ANY, 16).unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    // SAFETY: the listener outlives the call.
    let fd = unsafe { run_blocking(RawOp::Accept { on: listener.target() }, Deadline::Never) };
    // SAFETY: just accepted.
    (unsafe { Socket::from_accepted(fd) }, theirs)
}

fn recv(socket: &Socket, buf: &mut [u8], deadline: Deadline) -> i32 {
    let (len, buf) = (buf.len(), buf.as_mut_ptr());
    let op = RawOp::Recv { on: socket.target(), buf, len, peek: false };
    // SAFETY: the socket and the buffer outlive the call.
    unsafe { socket.run_blocking(op, deadline) }
}

#[derive(Default)]
struct Words(Mutex<Vec<u64>>);

impl Canceller for Words {
    fn cancel(&self, word: u64) {
        self.0.lock().unwrap().push(word);
    }
}

#[test]
fn the_last_user_handle_cancels_the_ops_and_the_last_op_closes() {
    let (ours, mut theirs) = pair();
    let words = Arc::new(Words::default());
    let (mut first, mut second, third) = (ours.op_handle(), ours.op_handle(), ours.op_handle());
    first.register(words.clone(), 1);
    second.register(words.clone(), 2);
    drop(first);
    let clone = ours.clone();
    drop(ours);
    assert!(words.0.lock().unwrap().is_empty(), "a clone is left");
    drop(clone);
    assert_eq!(*words.0.lock().unwrap(), [2]);
    let mut late = OpHandle { shared: second.shared.clone(), registration: 0 };
    late.register(words.clone(), 3);
    assert_eq!(*words.0.lock().unwrap(), [2, 3], "too late is told at once");
    // The descriptor is open as long as an op has it.
    theirs.write_all(b"x").unwrap();
    let mut buf = [0; 1];
    let op = RawOp::Recv { on: third.target(), buf: buf.as_mut_ptr(), len: 1, peek: false };
    // SAFETY: handle and buffer outlive the call.
    assert_eq!(unsafe { run_blocking(op, Deadline::Never) }, 1);
    drop((second, third));
    theirs.set_nonblocking(true).unwrap();
    assert_eq!(theirs.read(&mut buf).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    theirs.set_nonblocking(false).unwrap();
    drop(late);
    assert_eq!(theirs.read(&mut buf).unwrap(), 0);
}

#[test]
fn a_socket_is_given_away_only_when_nothing_would_be_lost() {
    let (ours, mut theirs) = pair();
    let clone = ours.clone();
    let ours = ours.try_into_owned().expect_err("a clone");
    drop(clone);
    let handle = ours.op_handle();
    let ours = ours.try_into_owned().expect_err("an op");
    drop(handle);
    ours.side(Direction::Read).stash.push(Stashed::Bytes(b"a".to_vec(), 0));
    let ours = ours.try_into_owned().expect_err("kept bytes");
    let op = RawOp::Ready { on: ours.target(), interest: Interest::READABLE };
    // SAFETY: the socket outlives the call.
    let ready = unsafe { ours.run_blocking(op, Deadline::Never) };
    assert_eq!(ready, i32::from(Readiness::READABLE.bits()), "kept bytes can be read");
    assert_eq!(recv(&ours, &mut [0; 8], Deadline::Never), 1);
    assert!(ours.side(Direction::Write).gate.try_enter());
    let ours = ours.try_into_owned().expect_err("somebody is inside a gate");
    ours.side(Direction::Write).gate.leave();
    ours.side(Direction::Read).stash.push(Stashed::End);
    let fd = ours.try_into_owned().expect("the kernel tells the end again");
    let mut std = TcpStream::from(fd);
    let reader = thread::spawn(move || {
        let mut buf = [0; 1];
        std.read_exact(&mut buf).map(|()| buf)
    });
    theirs.write_all(b"z").unwrap();
    assert_eq!(reader.join().unwrap().unwrap(), *b"z", "it blocks, as std's do");
}

#[test]
fn timeouts_and_the_mode_are_shared_by_clones() {
    let (ours, _theirs) = pair();
    let clone = ours.clone();
    assert_eq!(ours.read_timeout(), None);
    clone.set_read_timeout(Some(Duration::from_millis(7))).unwrap();
    clone.set_write_timeout(Some(Duration::MAX)).unwrap();
    clone.set_nonblocking(true);
    assert_eq!(ours.read_timeout(), Some(Duration::from_millis(7)));
    assert!(ours.write_timeout().unwrap() > Duration::from_secs(1 << 30));
    assert!(ours.is_nonblocking());
    let error = ours.set_read_timeout(Some(Duration::ZERO)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn a_thread_connects_sends_receives_and_sees_the_end() {
    let listener = Socket::listen(&ANY, 16).unwrap();
    let to = listener.local_addr().unwrap();
    let client = Socket::tcp(&to).unwrap();
    let address = to.into();
    let op = RawOp::Connect { on: client.target(), address: &address };
    // SAFETY: sockets, address and buffers live on this frame, here and below.
    assert_eq!(unsafe { client.run_blocking(op, Deadline::Never) }, 0);
    let accept = RawOp::Accept { on: listener.target() };
    // SAFETY: see above.
    let fd = unsafe { listener.run_blocking(accept, Deadline::Never) };
    // SAFETY: just accepted.
    let server = unsafe { Socket::from_accepted(fd) };
    assert_eq!(server.peer_addr().unwrap(), client.local_addr().unwrap());

    let parts = [io::IoSlice::new(b"vec"), io::IoSlice::new(b"tored")];
    let mut message = Message::to_send(&parts);
    let op = RawOp::SendVectored { on: client.target(), message: &mut message };
    // SAFETY: see above.
    assert_eq!(unsafe { client.run_blocking(op, Deadline::Never) }, 8);
    let op = RawOp::Shutdown { on: client.target(), how: Shutdown::Write };
    // SAFETY: see above.
    assert_eq!(unsafe { client.run_blocking(op, Deadline::Never) }, 0);

    let op = RawOp::Ready { on: server.target(), interest: Interest::READABLE };
    // SAFETY: see above.
    let ready = unsafe { server.run_blocking(op, Deadline::Never) };
    assert!(Readiness::from_bits(ready as u8).contains(Readiness::READABLE));
    let mut buf = [0; 16];
    let op = RawOp::Recv { on: server.target(), buf: buf.as_mut_ptr(), len: 3, peek: true };
    // SAFETY: see above.
    assert_eq!(unsafe { server.run_blocking(op, Deadline::Never) }, 3);
    assert_eq!(recv(&server, &mut buf, Deadline::Never), 8);
    assert_eq!(&buf[..8], b"vectored");
    assert_eq!(recv(&server, &mut buf, Deadline::Never), 0);
}

#[test]
fn a_refused_connect_says_so() {
    let listener = Socket::listen(&ANY, 1).unwrap();
    let to = listener.local_addr().unwrap();
    drop(listener);
    let client = Socket::tcp(&to).unwrap();
    let address = to.into();
    let op = RawOp::Connect { on: client.target(), address: &address };
    // SAFETY: socket and address outlive the call.
    assert_eq!(unsafe { client.run_blocking(op, Deadline::Never) }, -libc::ECONNREFUSED);
}

#[test]
fn a_blocking_op_ends_at_its_deadline_and_never_before() {
    let (ours, _theirs) = pair();
    let mut buf = [0; 1];
    assert_eq!(recv(&ours, &mut buf, Deadline::Now), -libc::ETIMEDOUT);
    for micros in [1, 300, 2_500] {
        let then = Instant::now() + Duration::from_micros(micros);
        assert_eq!(recv(&ours, &mut buf, Deadline::At(then)), -libc::ETIMEDOUT);
        assert!(Instant::now() >= then);
    }
    // In a held gate the deadline holds as well.
    assert!(ours.side(Direction::Read).gate.try_enter());
    let then = Instant::now() + Duration::from_millis(1);
    assert_eq!(recv(&ours, &mut buf, Deadline::At(then)), -libc::ETIMEDOUT);
    assert!(Instant::now() >= then);
    ours.side(Direction::Read).gate.leave();
}

#[test]
fn a_blocking_op_can_be_cancelled() {
    let (ours, _theirs) = pair();
    let mut buf = [0; 1];
    let op = RawOp::Recv { on: ours.target(), buf: buf.as_mut_ptr(), len: 1, peek: false };
    let asked = AtomicUsize::new(0);
    let cancelled = || asked.fetch_add(1, Ordering::Relaxed) == 1;
    // SAFETY: socket and buffer outlive the call.
    let result = unsafe { run_blocking_until(op, Deadline::Never, &cancelled) };
    assert_eq!(result, -libc::ECANCELED);
}

#[test]
fn threads_that_read_one_socket_get_every_byte_once() {
    const THREADS: usize = 8;
    let (ours, mut theirs) = pair();
    let start = Barrier::new(THREADS + 1);
    let bytes = thread::scope(|scope| {
        let readers: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    let mut buf = [0; 1];
                    start.wait();
                    assert_eq!(recv(&ours, &mut buf, Deadline::Never), 1);
                    buf[0]
                })
            })
            .collect();
        start.wait();
        for byte in 0..THREADS as u8 {
            theirs.write_all(&[byte]).unwrap();
        }
        let mut bytes: Vec<_> = readers.into_iter().map(|one| one.join().unwrap()).collect();
        bytes.sort_unstable();
        bytes
    });
    assert_eq!(bytes, (0..THREADS as u8).collect::<Vec<_>>());
}

#[test]
fn a_failed_write_side_refuses_every_send() {
    let (ours, _theirs) = pair();
    ours.side(Direction::Write).stash.push(Stashed::Error(-libc::ECONNRESET));
    ours.fail_write();
    let send = || {
        let op = RawOp::Send { on: ours.target(), buf: b"x".as_ptr(), len: 1 };
        // SAFETY: socket and buffer outlive the call.
        unsafe { ours.run_blocking(op, Deadline::Never) }
    };
    assert_eq!(send(), -libc::ECONNRESET, "what the abandoned send was told comes first");
    assert_eq!(send(), -libc::EPIPE);
    assert_eq!(send(), -libc::EPIPE);
}
