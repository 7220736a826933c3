//! Which errors of an accept end it, and how it waits while there are no descriptors left.
//!
//! An accept loop written as in std's manual ends with its first error, and one that ignores errors
//! spins when descriptors run out. So here `accept` deals with what is no fault of its caller:
//!
//! | error | what it is | what `accept` does |
//! |---|---|---|
//! | ECONNABORTED, EPROTO, EINTR, network errors | this one connection failed | takes the next one |
//! | EMFILE, ENFILE, ENOBUFS, ENOMEM | the process or machine is full | waits and tries again |
//! | anything else | the listener is unusable | returns it |
//!
//! While full, connections stay in the backlog of the kernel, so nobody is turned away. A pause
//! ends when one of our sockets is closed, or else after 10 ms, doubling up to 1 s: descriptors are
//! freed in other ways too. One that is closed between a failed accept and its pause is not seen;
//! that costs the rest of the pause and no more.
//! `Builder::accept_errors` switches all this off.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fibra_driver::{Gate, Instant};

use crate::sched::current;
use crate::sched::wait::{self, Interrupt};

/// The first pause.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// An episode has ended if nothing failed for that long.
const EPISODE_GAP: Duration = Duration::from_secs(10);

/// When an accept failed for lack of descriptors the last time, in nanoseconds; 0 for never.
static LAST_SHORTAGE: AtomicU64 = AtomicU64::new(0);

/// The accepts that pause, oldest first; as many as there are. Each has a gate of its own that it
/// has entered and enters again: that waits until somebody else leaves it, once.
static PAUSED: Mutex<Vec<Arc<Gate>>> = Mutex::new(Vec::new());

/// How many there are in `PAUSED`: so that closing a socket costs one load as long as all is well.
static PAUSED_COUNT: AtomicUsize = AtomicUsize::new(0);

/// Whether the runtime of this call was built to return every error from `accept`, as std does.
pub(crate) fn returns_every_error() -> bool {
    current::worker().is_some_and(|worker| worker.shared.config.accept_errors)
}

/// What an accept does about an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Take the next connection.
    Next,
    /// Wait for descriptors or memory.
    Pause,
    /// Return the error.
    Return,
}

/// Judges an error of an accept.
pub(crate) fn judge(error: &io::Error) -> Verdict {
    if returns_every_error() { Verdict::Return } else { judge_by_code(error) }
}

fn judge_by_code(error: &io::Error) -> Verdict {
    match error.raw_os_error() {
        // Linux hands on errors that were pending on the new connection; its manual says to treat
        // them like "try again".
        Some(
            libc::ECONNABORTED
            | libc::EPROTO
            | libc::EINTR
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH,
        ) => Verdict::Next,
        #[cfg(any(target_os = "linux", target_os = "android"))]
        Some(libc::ENONET) => Verdict::Next,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => Verdict::Pause,
        _ => Verdict::Return,
    }
}

/// The pauses of one accept: 10 ms, doubling up to 1 s.
pub(crate) struct Pauses {
    next: Duration,
}

impl Pauses {
    pub fn new() -> Self {
        Self { next: PAUSE_MIN }
    }

    /// Waits a while after `error`, or until a socket is closed; the first one of an episode is logged. No gate may be held: the
    /// log is foreign code, and others need not wait for us.
    pub fn pause(&mut self, error: &io::Error) -> Result<(), Interrupt> {
        let now = Instant::now().as_nanos();
        let last = LAST_SHORTAGE.swap(now, Ordering::Relaxed);
        if last == 0 || now.saturating_sub(last) > EPISODE_GAP.as_nanos() as u64 {
            tracing::warn!(
                %error,
                "cannot accept connections: they wait in the backlog; raise the limit on open \
                 files (ulimit -n) or close some"
            );
        }
        let pause = self.next;
        self.next = (pause * 2).min(PAUSE_MAX);
        sleep_until_closed(pause).map(|_| ())
    }
}

/// Sleeps no longer than that; whether a socket was closed.
fn sleep_until_closed(pause: Duration) -> Result<bool, Interrupt> {
    let gate = Arc::new(Gate::default());
    let entered = gate.try_enter();
    debug_assert!(entered, "nobody else knows this gate yet");
    let mut paused = lock_paused();
    paused.push(Arc::clone(&gate));
    PAUSED_COUNT.store(paused.len(), Ordering::Relaxed);
    drop(paused);
    let outcome = wait::enter_gate(&gate, Some(Instant::now() + pause));
    let mut paused = lock_paused();
    paused.retain(|other| !Arc::ptr_eq(other, &gate));
    PAUSED_COUNT.store(paused.len(), Ordering::Relaxed);
    drop(paused);
    match outcome {
        Ok(()) => Ok(true),
        Err(Interrupt::Timeout) => Ok(false),
        Err(interrupt) => Err(interrupt),
    }
}

/// Ends the pause of the accept that has paused longest. Call it after a descriptor was closed.
#[inline]
pub(crate) fn descriptor_closed() {
    // Relaxed: seeing it late costs a pause, see the file's page.
    if PAUSED_COUNT.load(Ordering::Relaxed) != 0 {
        end_a_pause();
    }
}

#[cold]
fn end_a_pause() {
    let mut paused = lock_paused();
    if paused.is_empty() {
        return;
    }
    let first = paused.remove(0);
    PAUSED_COUNT.store(paused.len(), Ordering::Relaxed);
    // It wakes somebody, which is foreign code.
    drop(paused);
    first.leave();
}

fn lock_paused() -> MutexGuard<'static, Vec<Arc<Gate>>> {
    PAUSED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says [`descriptor_closed`] when it is dropped: the last field of whatever owns a socket.
#[derive(Debug)]
pub(crate) struct OnClose;

impl Drop for OnClose {
    #[inline]
    fn drop(&mut self) {
        descriptor_closed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_one_connection_are_skipped_and_shortages_waited_for() {
        let verdict = |code| judge_by_code(&io::Error::from_raw_os_error(code));
        for code in [libc::ECONNABORTED, libc::EPROTO, libc::EINTR, libc::ENETUNREACH] {
            assert_eq!(verdict(code), Verdict::Next);
        }
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            assert_eq!(verdict(code), Verdict::Pause);
        }
        for code in [libc::EBADF, libc::EINVAL, libc::EAGAIN, libc::ENOTSOCK, libc::EOPNOTSUPP] {
            assert_eq!(verdict(code), Verdict::Return);
        }
        assert_eq!(judge_by_code(&crate::Cancelled.into()), Verdict::Return);
    }

    #[test]
    fn closing_a_socket_ends_the_longest_pause() {
        let listener = crate::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let pausing = std::thread::spawn(|| sleep_until_closed(Duration::from_secs(30)));
        // Another test of this process may close a socket first.
        while PAUSED_COUNT.load(Ordering::Relaxed) == 0 && !pausing.is_finished() {
            std::thread::yield_now();
        }
        drop(listener);
        assert_eq!(pausing.join().unwrap(), Ok(true));
        // One that ends by itself leaves nothing behind.
        assert!(sleep_until_closed(Duration::from_millis(1)).is_ok());
        assert!(lock_paused().is_empty());
    }

    #[test]
    fn pauses_double_up_to_a_second() {
        let mut pauses = Pauses::new();
        let mut seen = Vec::new();
        for _ in 0..9 {
            seen.push(pauses.next.as_millis());
            pauses.next = (pauses.next * 2).min(PAUSE_MAX);
        }
        assert_eq!(seen, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
    }
}
