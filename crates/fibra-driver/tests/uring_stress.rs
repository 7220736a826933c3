//! Receives that are cancelled at random points: every op ends exactly once and no byte is lost,
//! doubled or out of order.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::os::unix::net::UnixStream;

use fibra_driver::{
    BackendKind, Choice, Completion, Config, Deadline, Descriptor, Driver, OpId, RawOp, Submitted,
    Target,
};

const SOCKETS: usize = 24;
const STEPS: usize = 20_000;

/// A small generator, so that a failure can be run again from its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % limit
    }
}

struct Socket {
    here: Box<Descriptor>,
    there: UnixStream,
    /// Stays in place while a receive is in flight.
    buffer: Box<[u8; 64]>,
    in_flight: Option<OpId>,
    sent: u64,
    received: u64,
}

impl Socket {
    fn new() -> Self {
        let (here, there) = UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        there.set_nonblocking(true).unwrap();
        let here = Box::new(Descriptor::new(here.into()));
        let buffer = Box::new([0; 64]);
        Self { here, there, buffer, in_flight: None, sent: 0, received: 0 }
    }

    fn receive(&mut self, driver: &mut Driver, index: usize, len: usize) {
        let (on, buf) = (Target::new(&self.here), self.buffer.as_mut_ptr());
        let op = RawOp::Recv { on, buf, len, peek: false };
        // SAFETY: descriptor and buffer are boxed and outlive the driver.
        match unsafe { driver.submit(op, index as u64) } {
            Submitted::Pending(id) => assert!(self.in_flight.replace(id).is_none()),
            Submitted::Done(result) => panic!("done at once: {result}"),
        }
    }

    /// The bytes of a stream count up, so each one tells its place.
    fn send(&mut self, len: usize) {
        let bytes = (0..len as u64).map(|at| (self.sent + at) as u8).collect::<Vec<_>>();
        if let Ok(len) = self.there.write(&bytes) {
            self.sent += len as u64;
        }
    }

    fn finish(&mut self, completion: Completion) {
        assert_eq!(self.in_flight.take(), Some(completion.id), "an op ended twice");
        if completion.result == -libc::ECANCELED {
            return;
        }
        assert!(completion.result > 0, "{completion:?}");
        for byte in &self.buffer[..completion.result as usize] {
            assert_eq!(*byte, self.received as u8, "a byte is lost or out of order");
            self.received += 1;
        }
    }
}

fn run(seed: u64, entries: u32, completion_entries: u32) {
    println!("seed {seed:#x}, queues {entries} and {completion_entries}");
    let mut config = Config::default();
    config.choice = Choice::Named(BackendKind::Uring);
    config.entries = entries;
    config.completion_entries = Some(completion_entries);
    let mut sockets = (0..SOCKETS).map(|_| Socket::new()).collect::<Vec<_>>();
    let mut driver = Driver::new(&config).unwrap();
    let mut random = Random(seed);
    let mut cancelled = 0;
    for _ in 0..STEPS {
        let index = random.below(SOCKETS);
        let socket = &mut sockets[index];
        match (random.below(8), socket.in_flight) {
            (0..4, None) => socket.receive(&mut driver, index, 1 + random.below(64)),
            (0..4, Some(id)) => driver.cancel(id),
            (4, _) => socket.send(1 + random.below(40)),
            (5, _) => driver.wait(Deadline::Now).unwrap(),
            _ => {
                while let Some(completion) = driver.reap() {
                    cancelled += usize::from(completion.result == -libc::ECANCELED);
                    sockets[completion.data as usize].finish(completion);
                }
            }
        }
    }
    // What is left in the sockets is received to the last byte.
    while sockets.iter().any(|socket| socket.received < socket.sent || socket.in_flight.is_some()) {
        for (index, socket) in sockets.iter_mut().enumerate() {
            match socket.in_flight {
                None if socket.received < socket.sent => socket.receive(&mut driver, index, 64),
                Some(id) if socket.received == socket.sent => driver.cancel(id),
                _ => {}
            }
        }
        driver.wait(Deadline::Never).unwrap();
        while let Some(completion) = driver.reap() {
            sockets[completion.data as usize].finish(completion);
        }
    }
    let metrics = driver.metrics();
    assert_eq!((metrics.in_flight_count, metrics.unknown_completion_count), (0, 0));
    assert!(cancelled > STEPS / 50, "only {cancelled} cancelled: the test tests little");
}

#[test]
fn cancelled_receives_lose_no_byte() {
    for seed in [1, 2, 3, 4, 5] {
        run(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed), 64, 256);
    }
}

#[test]
fn cancelled_receives_lose_no_byte_in_queues_that_are_always_full() {
    for seed in [1, 2, 3, 4, 5] {
        run(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed), 2, 4);
    }
}
