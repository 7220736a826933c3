//! Completion of something that others may wait for: once, one waiter at a time.
//!
//! Promise: a waiter that `register` took in is handed out exactly once: by `complete`, to be
//! woken, or by `deregister` or a later `register`. After `is_done` has said yes, `complete` does
//! not touch the memory any more: the waiter may free it.
//!
//! ```text
//!              register: BUSY, write waiter        complete: BUSY, take waiter
//!      EMPTY <=============================> WAITING ----------------+
//!        |     deregister: BUSY, take waiter                         | store, the last access
//!        |                                                           v
//!        +------------- complete: swap, the last access ----------> DONE    then: wake the waiter
//! ```
//!
//! 1. The result, wherever it is, is written before `complete` is called. DONE is stored with
//!    Release and read with Acquire, so who sees DONE sees the result.
//! 2. `complete` takes the waiter out *before* it publishes DONE, in one step. Whoever waits may run
//!    at once (by a spurious resume, on another worker) and free the node: afterwards nothing is
//!    read or written in it. The waiter is with the caller of `complete` by then, who wakes it last.
//! 3. BUSY is a lock of a few instructions around the waiter's cell. `complete` never waits for
//!    it: it swaps BUSY for DONE, and the other side, which finds DONE where it left BUSY, takes its
//!    waiter back and reports "done". The other side does wait for `complete`'s own BUSY, since it
//!    may not leave (and free the node) before DONE.
//! 4. Nothing foreign runs under BUSY: waiters are moved, never woken, cloned or dropped there.
//!
//! A resume carries no meaning: who was registered and is resumed without DONE is still registered
//! and sleeps again.

use std::fmt;

use super::loom::{AtomicU8, Ordering, SharedCell, hint, yield_now};

/// Nobody waits. The cell is empty.
const EMPTY: u8 = 0;
/// The cell holds a waiter. Set by `register`, cleared by whoever takes the waiter out.
const WAITING: u8 = 1;
/// `register` or `deregister` is at the cell. May be followed by DONE at any time.
const BUSY: u8 = 2;
/// `complete` is at the cell. Followed by DONE, and by nothing else.
const COMPLETING: u8 = 3;
/// Completed. Never left again. The cell is empty, or belongs to who set BUSY before.
const DONE: u8 = 4;

/// A completion word with room for one waiter. `W` is whatever its user knows how to wake.
pub(crate) struct Oneshot<W> {
    state: AtomicU8,
    /// # Invariant
    /// Reached only by who moved `state` to BUSY or COMPLETING, until it moves it on or finds that
    /// `complete` has moved it from BUSY to DONE and then is through with the cell.
    waiter: SharedCell<Option<W>>,
}

// SAFETY: a shared `Oneshot` moves waiters between threads (hence `Send`), and lends none; the
// invariant of `waiter` excludes access from two threads at once.
unsafe impl<W: Send> Sync for Oneshot<W> {}

impl<W> Oneshot<W> {
    /// Not done, nobody waits.
    pub(crate) fn new() -> Self {
        Self { state: AtomicU8::new(EMPTY), waiter: SharedCell::new(None) }
    }

    /// Whether it is completed. If so the result is visible and the node is the caller's to free.
    #[inline]
    pub(crate) fn is_done(&self) -> bool {
        // Acquire: pairs with the swaps in `complete`.
        self.state.load(Ordering::Acquire) == DONE
    }

    /// Leaves `waiter` to be handed out by `complete`, and answers the one it replaces, to be
    /// dropped by the caller.
    ///
    /// # Errors
    /// It is done: the waiter comes back, and nobody will wake it. (One that it had replaced is
    /// dropped, under no lock.)
    pub(crate) fn register(&self, waiter: W) -> Result<Option<W>, W> {
        if self.lock().is_none() {
            return Err(waiter);
        }
        // SAFETY: `lock` moved the state to BUSY.
        let replaced = unsafe { self.waiter.with_mut(|cell| cell.replace(waiter)) };
        if self.unlock(WAITING) {
            return Ok(replaced);
        }
        // SAFETY: DONE followed our BUSY, so `complete` never reaches the cell.
        let waiter = unsafe { self.waiter.with_mut(Option::take) };
        drop(replaced);
        Err(waiter.expect("the cell holds what was written above"))
    }

    /// Takes the waiter back. `None`: there is none, or `complete` has it, and then it is done now.
    #[cfg_attr(not(test), allow(dead_code, reason = "part of the modelled protocol"))]
    pub(crate) fn deregister(&self) -> Option<W> {
        if self.lock()? == EMPTY {
            self.unlock(EMPTY);
            return None;
        }
        // SAFETY: `lock` moved the state to BUSY.
        let waiter = unsafe { self.waiter.with_mut(Option::take) };
        // If it is done meanwhile, `complete` found no waiter, and this one is still ours.
        self.unlock(EMPTY);
        waiter
    }

    /// Marks it done and hands out the waiter, for the caller to wake. Never waits.
    ///
    /// To be called once, by the completer, after the result was written. The memory may be gone
    /// when this returns, so a caller that shares no ownership goes on with the waiter alone.
    pub(crate) fn complete(&self) -> Option<W> {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            debug_assert!(state < COMPLETING, "completed twice");
            let next = if state == WAITING { COMPLETING } else { DONE };
            // Acquire: pairs with the release of the lock; the waiter is visible. Release: pairs
            // with `is_done`; the result is visible. If next is DONE this is the last access.
            let (done, lost) = (Ordering::AcqRel, Ordering::Relaxed);
            match self.state.compare_exchange_weak(state, next, done, lost) {
                Ok(WAITING) => break,
                Ok(_) => return None,
                Err(now) => state = now,
            }
        }
        // SAFETY: the swap above moved the state from WAITING to COMPLETING.
        let waiter = unsafe { self.waiter.with_mut(Option::take) };
        // Release: pairs with `is_done`, and with `lock`, which may be waiting for this. A store does
        // for the swap, since nobody else leaves COMPLETING. The last access: here the node may go.
        self.state.store(DONE, Ordering::Release);
        waiter
    }

    /// Moves EMPTY or WAITING, which it answers, to BUSY. `None`: it is done.
    fn lock(&self) -> Option<u8> {
        let mut tries = 0;
        let mut state = self.state.load(Ordering::Acquire);
        loop {
            match state {
                DONE => return None,
                EMPTY | WAITING => {
                    // Acquire: pairs with `unlock`; the cell's content is visible.
                    let order = Ordering::Acquire;
                    match self.state.compare_exchange_weak(state, BUSY, order, order) {
                        Ok(_) => return Some(state),
                        Err(now) => state = now,
                    }
                }
                _ => {
                    // A few instructions of another thread, unless it was preempted there.
                    wait_a_moment(&mut tries);
                    state = self.state.load(Ordering::Acquire);
                }
            }
        }
    }

    /// Moves BUSY to `next`; `false` if `complete` has made it DONE meanwhile.
    fn unlock(&self, next: u8) -> bool {
        // Release: pairs with `lock` and `complete`; the cell's content is visible. Acquire on
        // failure: pairs with `complete`; the caller will report "done".
        let (done, lost) = (Ordering::Release, Ordering::Acquire);
        self.state.compare_exchange(BUSY, next, done, lost).is_ok()
    }
}

impl<W> fmt::Debug for Oneshot<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Oneshot").field("state", &self.state).finish_non_exhaustive()
    }
}

/// Lets a thread that is between two instructions go on: spins, then gives up the time slice.
fn wait_a_moment(tries: &mut u32) {
    *tries += 1;
    if cfg!(loom) || *tries > SPIN_MAX { yield_now() } else { hint::spin_loop() }
}

/// After that many looks the other thread was preempted, and spinning keeps it from going on.
const SPIN_MAX: u32 = 64;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_waiter_is_handed_to_the_completer() {
        let done = Oneshot::new();
        assert_eq!(done.register("first"), Ok(None));
        assert_eq!(done.register("second"), Ok(Some("first")));
        assert!(!done.is_done());
        assert_eq!(done.complete(), Some("second"));
        assert!(done.is_done());
        assert_eq!(done.register("late"), Err("late"));
        assert_eq!(done.deregister(), None);
    }

    #[test]
    fn a_waiter_taken_back_is_not_woken() {
        let done = Oneshot::new();
        assert_eq!(done.deregister(), None);
        assert_eq!(done.register(1), Ok(None));
        assert_eq!((done.deregister(), done.deregister()), (Some(1), None));
        assert_eq!(done.register(2), Ok(None));
        assert_eq!(done.deregister(), Some(2));
        assert_eq!(done.complete(), None);
        assert!(done.is_done());
    }

    #[test]
    fn a_waiter_left_behind_is_dropped_with_it() {
        let counted = std::rc::Rc::new(());
        let done = Oneshot::new();
        assert!(done.register(counted.clone()).is_ok());
        drop(done);
        assert_eq!(std::rc::Rc::strong_count(&counted), 1);
    }
}

#[cfg(all(test, loom))]
mod loom_models;
