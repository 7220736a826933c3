//! The sides a test body runs on, so that one body covers every way to wait.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![allow(dead_code, reason = "every test binary includes this file and uses a part of it")]

use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use fibra_driver::{BackendKind, Choice};
use fibra_runtime::net::{TcpListener, TcpStream};
use fibra_runtime::{Builder, IoMode};

/// A body that has not ended by then hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `body` on a plain thread, then on a fiber of every backend in both topologies, and of two
/// backends with spurious resumes injected everywhere.
pub fn on_every_side(body: impl Fn() + Send + Clone + 'static) {
    bounded("plain thread", body.clone());
    on_every_fiber_side(body);
}

/// The same without the plain thread, which can neither be cancelled nor inherit a deadline.
pub fn on_every_fiber_side(body: impl Fn() + Send + Clone + 'static) {
    for kind in BackendKind::ALL {
        for io in [IoMode::PerWorker, IoMode::Dedicated] {
            on_a_fiber(kind, io, false, body.clone());
        }
    }
    on_a_fiber(BackendKind::Uring, IoMode::PerWorker, true, body.clone());
    on_a_fiber(BackendKind::Epoll, IoMode::PerWorker, true, body);
}

fn on_a_fiber(kind: BackendKind, io: IoMode, chaos: bool, body: impl FnOnce() + Send + 'static) {
    let side = format!("fiber on {kind}, {io:?}{}", if chaos { ", chaos" } else { "" });
    bounded(&side, move || {
        let builder = Builder::new().workers(2).driver(Choice::Named(kind)).io(io).chaos(chaos);
        builder.run(body).unwrap();
    });
}

/// Runs `body` on a thread of its own and fails if it panics or hangs.
fn bounded(side: &str, body: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel::<()>();
    let thread = thread::Builder::new().name(side.into()).spawn(move || {
        let _done = done;
        body();
    });
    let thread = thread.unwrap();
    if let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(PATIENCE) {
        panic!("{side}: hangs");
    }
    if thread.join().is_err() {
        panic!("{side}: failed, see above");
    }
}

/// Somebody on the same side, running at the same time.
pub enum Peer<T> {
    Thread(thread::JoinHandle<T>),
    Fiber(fibra_runtime::JoinHandle<T>),
}

/// Starts somebody on the same side.
pub fn spawn<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> Peer<T> {
    match fibra_runtime::current() {
        None => Peer::Thread(thread::spawn(body)),
        Some(_) => Peer::Fiber(fibra_runtime::spawn(body)),
    }
}

impl<T> Peer<T> {
    /// Cancels a fiber.
    pub fn cancel(&self) {
        match self {
            Self::Thread(_) => panic!("a plain thread cannot be cancelled"),
            Self::Fiber(fiber) => fiber.cancel(),
        }
    }

    /// Waits for the end of a fiber; `None` if it was cancelled before it began.
    pub fn outcome(self) -> Option<T> {
        match self {
            Self::Thread(_) => panic!("a plain thread always begins"),
            Self::Fiber(fiber) => match fiber.join() {
                Ok(value) => Some(value),
                Err(payload) if payload.is::<fibra_runtime::Cancelled>() => None,
                Err(_) => panic!("a peer failed, see above"),
            },
        }
    }

    /// Waits for the end; a panic goes on here.
    pub fn join(self) -> T {
        match self {
            Self::Thread(thread) => {
                thread.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
            }
            Self::Fiber(fiber) => match fiber.join() {
                Ok(value) => value,
                Err(_) => panic!("a peer failed, see above"),
            },
        }
    }
}

/// A place where some number of peers meet, as often as they like. Unlike std's barrier it does not
/// block a worker.
pub struct Meeting {
    size: usize,
    arrived: AtomicUsize,
}

impl Meeting {
    pub fn of(size: usize) -> Self {
        Self { size, arrived: AtomicUsize::new(0) }
    }

    /// Returns when all have come.
    pub fn wait(&self) {
        let round = self.arrived.fetch_add(1, Ordering::AcqRel) / self.size;
        while self.arrived.load(Ordering::Acquire) < (round + 1) * self.size {
            fibra_runtime::yield_now();
        }
    }
}

/// Both ends of a new connection.
#[track_caller]
pub fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    (near, far)
}

/// Bytes that compress badly and differ from place to place: xorshift64.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}
