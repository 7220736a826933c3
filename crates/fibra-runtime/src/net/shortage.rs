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
//! While full, connections stay in the backlog of the kernel, so nobody is turned away.
//! `Builder::accept_errors` switches all this off.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fibra_driver::Instant;

use crate::sched::{current, wait};

/// The first pause.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// An episode has ended if nothing failed for that long.
const EPISODE_GAP: Duration = Duration::from_secs(10);

/// When an accept failed for lack of descriptors the last time, in nanoseconds; 0 for never.
static LAST_SHORTAGE: AtomicU64 = AtomicU64::new(0);

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

    /// Waits a while after `error`; the first one of an episode is logged. No gate may be held: the
    /// log is foreign code, and others need not wait for us.
    pub fn pause(&mut self, error: &io::Error) -> Result<(), wait::Interrupt> {
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
        wait::sleep_cancellable(pause)
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
