//! The sides a test body runs on, so that one body covers every way to wait.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![allow(dead_code, reason = "every test binary includes this file and uses a part of it")]

use std::panic;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use fibra_runtime::net::{TcpListener, TcpStream};

/// A body that has not ended by then hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `body` once on every side: today on a plain thread.
pub fn on_every_side(body: impl Fn() + Send + Clone + 'static) {
    bounded("plain thread", body);
}

/// Runs `body` on a thread of its own and fails if it hangs.
fn bounded(side: &str, body: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel::<()>();
    let thread = thread::Builder::new().name(side.into()).spawn(move || {
        let _done = done;
        body();
    });
    let thread = thread.unwrap();
    match ended.recv_timeout(PATIENCE) {
        Err(RecvTimeoutError::Timeout) => panic!("{side}: hangs"),
        _ => join(thread),
    }
}

fn join<T>(thread: thread::JoinHandle<T>) -> T {
    match thread.join() {
        Ok(value) => value,
        Err(payload) => panic::resume_unwind(payload),
    }
}

/// Somebody on the same side, running at the same time.
pub struct Peer<T>(thread::JoinHandle<T>);

/// Starts somebody on the same side.
pub fn spawn<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> Peer<T> {
    Peer(thread::spawn(body))
}

impl<T> Peer<T> {
    /// Waits for the end; a panic goes on here.
    pub fn join(self) -> T {
        join(self.0)
    }
}

/// Both ends of a new connection.
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
