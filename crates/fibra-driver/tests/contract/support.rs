//! What the suite is written with: a rig that owns whatever its raw ops borrow.

use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use fibra_driver::owned::Finished;
use fibra_driver::{
    BackendKind, Choice, Completion, Config, Deadline, Driver, Instant, Message, OpId, RawOp,
    Socket, Submitted,
};

/// A test that would hang fails after this long.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A negated OS error number as ops answer it.
pub const CANCELLED: i32 = -libc::ECANCELED;

pub fn config(backend: BackendKind) -> Config {
    let mut config = Config::default();
    config.choice = Choice::Named(backend);
    config.entries = 64;
    config
}

pub fn driver(backend: BackendKind) -> Driver {
    let driver = Driver::new(&config(backend)).unwrap();
    assert_eq!(driver.kind(), backend);
    driver
}

pub fn soon() -> Deadline {
    Deadline::At(Instant::now() + LIMIT)
}

/// A listener on a free port, and where it is.
pub fn listener() -> (Socket, SocketAddr) {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = Socket::listen(&any, 1024).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A TCP connection: our end, and the peer's as std's.
pub fn tcp_pair() -> (Socket, TcpStream) {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (here, _) = listener.accept().unwrap();
    there.set_nodelay(true).unwrap();
    there.set_read_timeout(Some(LIMIT)).unwrap();
    (Socket::from_owned(here.into()).unwrap(), there)
}

/// The same over a Unix socket, where what is written is there at once.
pub fn pair() -> (Socket, UnixStream) {
    let (here, there) = UnixStream::pair().unwrap();
    there.set_read_timeout(Some(LIMIT)).unwrap();
    (Socket::from_owned(here.into()).unwrap(), there)
}

/// A driver with raw ops. Each has a word of its own, under which the rig keeps its result and
/// whatever it borrows; an op that finished at once is like one that completed.
pub struct Rig {
    /// Dropped first, so that nothing below is freed under an op.
    pub driver: Driver,
    results: HashMap<u64, i32>,
    buffers: HashMap<u64, Vec<Vec<u8>>>,
    kept: Vec<Box<dyn std::any::Any>>,
}

impl Rig {
    pub fn new(backend: BackendKind) -> Self {
        Self::with(&config(backend))
    }

    pub fn with(config: &Config) -> Self {
        let driver = Driver::new(config).unwrap();
        Self { driver, results: HashMap::new(), buffers: HashMap::new(), kept: Vec::new() }
    }

    /// Submits an op; its id, unless it finished at once.
    ///
    /// # Safety
    /// As for `Driver::submit`, until the rig is dropped.
    pub unsafe fn submit(&mut self, op: RawOp, word: u64) -> Option<OpId> {
        // SAFETY: forwarded.
        match unsafe { self.driver.submit(op, word) } {
            Submitted::Pending(id) => Some(id),
            Submitted::Done(result) => {
                self.note(word, result);
                None
            }
        }
    }

    /// Submits an op that borrows the socket and nothing else.
    pub fn start(
        &mut self,
        op: impl FnOnce(&Socket) -> RawOp,
        on: &Socket,
        word: u64,
    ) -> Option<OpId> {
        self.kept.push(Box::new(on.clone()));
        // SAFETY: the socket is kept, and every op that borrows more has a method of its own below.
        unsafe { self.submit(op(on), word) }
    }

    pub fn nop(&mut self, word: u64) -> Option<OpId> {
        // SAFETY: it borrows nothing.
        unsafe { self.submit(RawOp::Nop, word) }
    }

    pub fn accept(&mut self, on: &Socket, word: u64) -> Option<OpId> {
        self.start(|on| RawOp::Accept { on: on.target() }, on, word)
    }

    pub fn recv(&mut self, on: &Socket, len: usize, word: u64) -> Option<OpId> {
        self.recv_or_peek(on, len, false, word)
    }

    pub fn recv_or_peek(&mut self, on: &Socket, len: usize, peek: bool, word: u64) -> Option<OpId> {
        let buf = self.keep(word, vec![vec![0xee; len]])[0].as_mut_ptr();
        self.start(|on| RawOp::Recv { on: on.target(), buf, len, peek }, on, word)
    }

    pub fn send(&mut self, on: &Socket, bytes: &[u8], word: u64) -> Option<OpId> {
        let buf = self.keep(word, vec![bytes.to_vec()])[0].as_ptr();
        self.start(|on| RawOp::Send { on: on.target(), buf, len: bytes.len() }, on, word)
    }

    pub fn recv_vectored(&mut self, on: &Socket, lens: &[usize], word: u64) -> Option<OpId> {
        let buffers = self.keep(word, lens.iter().map(|len| vec![0xee; *len]).collect());
        let list = buffers.iter_mut().map(|buffer| {
            let (start, len) = (buffer.as_mut_ptr(), buffer.len());
            // SAFETY: the rig keeps the block in place and looks at it after the completion only.
            IoSliceMut::new(unsafe { std::slice::from_raw_parts_mut(start, len) })
        });
        let list: &'static mut [IoSliceMut<'static>] = Box::leak(list.collect());
        let message: *mut Message = Box::leak(Box::new(Message::to_receive(list)));
        self.start(|on| RawOp::RecvVectored { on: on.target(), message }, on, word)
    }

    pub fn send_vectored(
        &mut self,
        on: &Socket,
        parts: &[&'static [u8]],
        word: u64,
    ) -> Option<OpId> {
        let list = parts.iter().map(|part| IoSlice::new(part));
        let list: &'static [IoSlice<'static>] = Box::leak(list.collect());
        let message: *mut Message = Box::leak(Box::new(Message::to_send(list)));
        self.start(|on| RawOp::SendVectored { on: on.target(), message }, on, word)
    }

    pub fn connect(&mut self, on: &Socket, to: SocketAddr, word: u64) -> Option<OpId> {
        let address = Box::new(socket2::SockAddr::from(to));
        let pointer = std::ptr::from_ref(&*address);
        self.kept.push(address);
        self.start(|on| RawOp::Connect { on: on.target(), address: pointer }, on, word)
    }

    fn keep(&mut self, word: u64, buffers: Vec<Vec<u8>>) -> &mut Vec<Vec<u8>> {
        assert!(self.buffers.insert(word, buffers).is_none(), "a word of its own for each op");
        self.buffers.get_mut(&word).unwrap()
    }

    fn note(&mut self, word: u64, result: i32) {
        let before = self.results.insert(word, result);
        assert_eq!(before, None, "op {word} ended twice");
    }

    /// Takes what has ended so far.
    pub fn reap(&mut self) {
        while let Some(Completion { data, result, .. }) = self.driver.reap() {
            self.note(data, result);
        }
    }

    /// Waits until `done` says so.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let limit = Instant::now() + LIMIT;
        loop {
            self.reap();
            if done(self) {
                return;
            }
            assert!(Instant::now() < limit, "waited too long for {what}");
            self.driver.wait(Deadline::At(limit)).unwrap();
        }
    }

    /// Waits for the result of one op.
    pub fn result(&mut self, word: u64) -> i32 {
        self.until(&format!("op {word}"), |rig| rig.results.contains_key(&word));
        self.results[&word]
    }

    /// Waits until that many ops have ended, at once or later.
    pub fn ended(&mut self, count: usize) -> &HashMap<u64, i32> {
        self.until("all ops", |rig| rig.results.len() >= count);
        &self.results
    }

    /// Whether an op has ended, as far as was reaped.
    pub fn has_ended(&self, word: u64) -> bool {
        self.results.contains_key(&word)
    }

    /// Submits what is queued and looks for completions, without sleeping.
    pub fn look(&mut self) {
        self.driver.wait(Deadline::Now).unwrap();
        self.reap();
    }

    /// The bytes that an ended receive got.
    pub fn bytes(&mut self, word: u64) -> Vec<u8> {
        let count = usize::try_from(self.result(word)).expect("it succeeded");
        let all = self.buffers[&word].concat();
        assert!(all[count..].iter().all(|byte| *byte == 0xee), "written beyond the count");
        all[..count].to_vec()
    }
}

/// Waits for the next owned op that ends.
pub fn finished(driver: &mut Driver) -> Finished {
    let limit = Instant::now() + LIMIT;
    loop {
        if let Some(finished) = driver.reap_owned() {
            return finished;
        }
        assert!(Instant::now() < limit, "waited too long for an owned op");
        driver.wait(Deadline::At(limit)).unwrap();
    }
}

/// Waits until no owned op is left, with none of them ending.
pub fn until_quiet(driver: &mut Driver) {
    let limit = Instant::now() + LIMIT;
    while driver.metrics().owned_count > 0 {
        assert!(Instant::now() < limit, "waited too long for the abandoned ops");
        driver.wait(Deadline::At(limit)).unwrap();
        let none = driver.reap_owned();
        assert!(none.is_none(), "an abandoned op gives no word: {none:?}");
    }
}
