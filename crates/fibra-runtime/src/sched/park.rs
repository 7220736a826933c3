//! Parking: how a worker goes to sleep without missing a wake, and is woken once.
//!
//! Promise: a unit made visible in one of the worker's queues before `unpark` is called is run
//! without another wake. Per sleep at most one caller of `unpark` is told to notify the driver.
//!
//! ```text
//!                 begin_park                  unpark: exactly one waker gets `true`
//!     RUNNING ------------------> PARKED ------------------------> NOTIFIED
//!        ^                          |                                 |
//!        +--------- end_park -------+------------- end_park ----------+
//! ```
//!
//! | step | worker                         | waker                                   |
//! |-----:|--------------------------------|-----------------------------------------|
//! |   1. | state = PARKED (`begin_park`)  | push the unit into a queue              |
//! |   2. | full fence   (`begin_park`)    | full fence (`unpark`)                   |
//! |   3. | look at every queue once more  | look at the state (`unpark`)            |
//! |   4. | all empty: sleep in the driver | PARKED: swap to NOTIFIED, and notify    |
//! |   5. | state = RUNNING (`end_park`)   |                                         |
//!
//! Races, and the step that closes each:
//!
//! - The worker looks (3) just before the push (1), the waker looks (3) just before the
//!   announcement (1). Impossible: of two full fences one is first, and whoever comes after it
//!   sees what was before it. Without either fence both looks may be out of date, on x86 too.
//! - The waker finds PARKED, but the worker is not asleep yet. The notifier makes the driver's
//!   next wait return, so step 4 does not sleep.
//! - Many wakers at once. The swap from PARKED lets one through; the others find NOTIFIED.
//! - The worker woke by itself (a completion, a deadline) while a waker is between its swap and the
//!   notification. The notification comes late and ends a later wait early: harmless.
//! - A waker is held up before its swap until the worker parks again. It then notifies that sleep,
//!   for nothing: harmless, and still at most one.
//! - A waker that finds RUNNING or NOTIFIED does nothing. The worker then has steps 1 to 3 ahead of
//!   it before its next sleep, and by the fences that look sees the push.
//!
//! Tried and dropped: an atomic increment instead of fence and load in `unpark`. It is a write to
//! the worker's line for every wake, also when the worker runs, which is the common case.

use super::loom::{AtomicU8, Ordering, fence};

/// The worker runs, or is about to look at its queues. Set by `end_park`.
const RUNNING: u8 = 0;
/// The worker sleeps, or has announced that it will unless it finds something. Set by `begin_park`.
const PARKED: u8 = 1;
/// A waker saw PARKED and notifies the driver. Set by `unpark`, only from PARKED.
const NOTIFIED: u8 = 2;

/// The parked flag of one worker.
#[derive(Debug)]
pub(crate) struct Parker {
    state: AtomicU8,
}

impl Parker {
    /// A worker that runs.
    pub(crate) fn new() -> Self {
        Self { state: AtomicU8::new(RUNNING) }
    }

    /// Announces that the worker will sleep. After this it looks at every queue once more; finds
    /// something or sleeps; calls [`end_park`](Self::end_park) in either case.
    ///
    /// For the worker only.
    pub(crate) fn begin_park(&self) {
        debug_assert_eq!(self.state.load(Ordering::Relaxed), RUNNING, "parks are not nested");
        self.state.store(PARKED, Ordering::Relaxed);
        // Pairs with the fence in `unpark`: either that waker sees PARKED, or the look that
        // follows sees what it pushed.
        fence(Ordering::SeqCst);
    }

    /// The worker runs again. Answers whether a waker had called for it.
    ///
    /// For the worker only.
    pub(crate) fn end_park(&self) -> bool {
        // Acquire: pairs with the swap in `unpark`; what that waker pushed is visible.
        self.state.swap(RUNNING, Ordering::Acquire) == NOTIFIED
    }

    /// Says that something was pushed. On `true` the caller must now call the driver's notifier:
    /// nobody else will. For any thread.
    #[must_use = "on `true` the driver must be notified, or the worker sleeps on"]
    #[inline]
    pub(crate) fn unpark(&self) -> bool {
        // Pairs with the fence in `begin_park`.
        fence(Ordering::SeqCst);
        self.state.load(Ordering::Relaxed) == PARKED && self.claim()
    }

    /// Whether the worker sleeps or is about to. A hint, for choosing and for the metrics.
    pub(crate) fn is_parked(&self) -> bool {
        self.state.load(Ordering::Relaxed) != RUNNING
    }

    #[cold]
    fn claim(&self) -> bool {
        // Release: pairs with the swap in `end_park`.
        let (done, lost) = (Ordering::Release, Ordering::Relaxed);
        self.state.compare_exchange(PARKED, NOTIFIED, done, lost).is_ok()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_waker_of_a_sleep_is_told_to_notify() {
        let parker = Parker::new();
        assert!(!parker.unpark(), "a running worker needs no notification");
        parker.begin_park();
        assert!(parker.is_parked());
        assert!(parker.unpark());
        assert!(!parker.unpark());
        assert!(parker.end_park());
        assert!(!parker.is_parked());
        parker.begin_park();
        assert!(!parker.end_park(), "the last sleep's notification is not this one's");
    }
}

#[cfg(all(test, loom))]
mod loom_models;
