//! A test bed: a driver with its completions, and sockets to try it on.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use fibra_driver::{
    BackendKind, Choice, Completion, Config, Deadline, Descriptor, Driver, Instant, OpId, RawOp,
    Submitted,
};

/// The backends that make completions from readiness.
pub const KINDS: [BackendKind; 3] = [BackendKind::Epoll, BackendKind::Poll, BackendKind::Select];

/// After this something is lost, not slow.
pub const LIMIT: Duration = Duration::from_secs(20);

pub struct Bed {
    pub driver: Driver,
    pub done: Vec<Completion>,
}

pub fn config(kind: BackendKind) -> Config {
    let mut config = Config::default();
    config.choice = Choice::Named(kind);
    config
}

pub fn each_backend(test: impl Fn(Bed)) {
    for kind in KINDS {
        println!("backend: {kind}");
        test(Bed::new(kind));
    }
}

impl Bed {
    pub fn new(kind: BackendKind) -> Self {
        Self { driver: Driver::new(&config(kind)).unwrap(), done: Vec::new() }
    }

    pub fn submit(&mut self, op: RawOp) -> Submitted {
        // SAFETY: the tests keep descriptors and buffers until the op is final or the driver gone.
        unsafe { self.driver.submit(op, 0) }
    }

    pub fn pending(&mut self, op: RawOp) -> OpId {
        match self.submit(op) {
            Submitted::Pending(id) => id,
            Submitted::Done(result) => panic!("finished at once with {result}"),
        }
    }

    pub fn run(&mut self, op: RawOp) -> i32 {
        let submitted = self.submit(op);
        self.finish(submitted)
    }

    pub fn finish(&mut self, submitted: Submitted) -> i32 {
        match submitted {
            Submitted::Done(result) => result,
            Submitted::Pending(id) => self.result(id),
        }
    }

    /// The result of an op, which must come within [`LIMIT`].
    pub fn result(&mut self, id: OpId) -> i32 {
        match self.patiently(id, LIMIT) {
            Some(result) => result,
            None => panic!("{id:?} never completed on {}", self.driver.kind()),
        }
    }

    pub fn patiently(&mut self, id: OpId, limit: Duration) -> Option<i32> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(result) = self.poll(id) {
                return Some(result);
            }
            if Instant::now() >= deadline {
                return None;
            }
            self.driver.wait(Deadline::At(deadline)).unwrap();
        }
    }

    /// The result of an op if it was reaped.
    pub fn poll(&mut self, id: OpId) -> Option<i32> {
        while let Some(completion) = self.driver.reap() {
            self.done.push(completion);
        }
        let index = self.done.iter().position(|completion| completion.id == id)?;
        Some(self.done.swap_remove(index).result)
    }
}

pub fn nonblocking(fd: impl Into<OwnedFd>) -> Descriptor {
    let fd = fd.into();
    socket2::SockRef::from(&fd).set_nonblocking(true).unwrap();
    Descriptor::new(fd)
}

pub fn adopt(number: i32) -> Descriptor {
    // SAFETY: the result of an accept, owned by nobody else.
    Descriptor::new(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A connection: our end for a driver, theirs blocking.
pub fn tcp() -> (Descriptor, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    theirs.set_nodelay(true).unwrap();
    (nonblocking(listener.accept().unwrap().0), theirs)
}

pub fn pair() -> (Descriptor, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (nonblocking(ours), theirs)
}

fn poll(fd: i32, events: i16) {
    let mut entry = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one entry on this frame.
    let count = unsafe { libc::poll(&mut entry, 1, LIMIT.as_millis() as i32) };
    assert_eq!(count, 1, "descriptor {fd} never became ready");
}

pub fn until_readable(descriptor: &Descriptor) {
    poll(descriptor.raw_fd(), libc::POLLIN);
}

/// Until the peer's end of the stream has arrived.
pub fn until_ended(descriptor: &Descriptor) {
    poll(descriptor.raw_fd(), libc::POLLRDHUP);
}

/// Until everything that was sent has been acknowledged.
pub fn until_acknowledged(socket: &socket2::Socket) {
    let deadline = std::time::Instant::now() + LIMIT;
    loop {
        let mut unsent = 0;
        // SAFETY: SIOCOUTQ writes one int.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &mut unsent) };
        assert_eq!(result, 0);
        if unsent == 0 {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{unsent} bytes never acknowledged");
        std::thread::yield_now();
    }
}
