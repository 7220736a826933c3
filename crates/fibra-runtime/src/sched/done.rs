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
mod loom_models {
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicUsize, Ordering};
    use loom::thread;

    use super::super::loom::check;
    use super::*;

    /// A completion with its result beside it. The waiter is a number; `woken` are those whom the
    /// completer woke.
    struct Join {
        done: Oneshot<usize>,
        result: UnsafeCell<u8>,
        woken: [AtomicUsize; 3],
    }

    // SAFETY: the result is written before `complete` and read after `is_done`; the model checks.
    unsafe impl Sync for Join {}
    // SAFETY: as above.
    unsafe impl Send for Join {}

    impl Join {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                done: Oneshot::new(),
                result: UnsafeCell::new(0),
                woken: Default::default(),
            })
        }

        fn complete(&self) {
            // SAFETY: nobody reads it before `is_done`.
            self.result.with_mut(|result| unsafe { *result = 42 });
            if let Some(waiter) = self.done.complete() {
                self.woken[waiter].fetch_add(1, Ordering::Relaxed);
            }
        }

        fn check_result(&self) {
            // First: whatever told the caller that it is done must make the result visible.
            // SAFETY: it is done, so the completer does not write it any more.
            self.result.with(|result| assert_eq!(unsafe { *result }, 42));
            assert!(self.done.is_done());
        }

        fn woken(&self, waiter: usize) -> usize {
            self.woken[waiter].load(Ordering::Relaxed)
        }
    }

    fn spawn_completer(join: &Arc<Join>) -> thread::JoinHandle<()> {
        let join = join.clone();
        thread::spawn(move || join.complete())
    }

    /// Either the waiter is told "done" at once, or it is woken: exactly one of both.
    #[test]
    fn a_waiter_is_woken_or_told() {
        loom::model(|| {
            let join = Join::new();
            let completer = spawn_completer(&join);
            let told = join.done.register(0).is_err();
            if told {
                join.check_result();
            }
            completer.join().expect("the completer does not panic");
            assert_eq!(join.woken(0), usize::from(!told));
            join.check_result();
        });
    }

    /// A future polled again with another waker: the last one in is woken, the others come back.
    #[test]
    fn a_replaced_waiter_comes_back_or_is_woken() {
        loom::model(|| {
            let join = Join::new();
            let completer = spawn_completer(&join);
            let first = join.done.register(0);
            let second = join.done.register(1);
            completer.join().expect("the completer does not panic");
            let woken = (join.woken(0), join.woken(1));
            match (first, second) {
                (Err(0), Err(1)) => assert_eq!(woken, (0, 0)),
                // Completed between the two, or during the second.
                (Ok(None), Err(1)) => assert!(woken == (1, 0) || woken == (0, 0)),
                (Ok(None), Ok(Some(0))) => assert_eq!(woken, (0, 1)),
                other => panic!("cannot be: {other:?}"),
            }
            join.check_result();
        });
    }

    /// A deadline passes while it completes: the waiter comes back, or it is done and was woken.
    #[test]
    fn a_waiter_taken_back_is_ours_or_it_is_done() {
        loom::model(|| {
            let join = Join::new();
            assert_eq!(join.done.register(0), Ok(None));
            let completer = spawn_completer(&join);
            let back = join.done.deregister();
            if back.is_none() {
                join.check_result();
            }
            completer.join().expect("the completer does not panic");
            assert_eq!(join.woken(0), usize::from(back.is_none()));
        });
    }

    /// Registered, taken back and registered again, as a `select` does.
    #[test]
    fn registering_again_after_taking_back_loses_no_wake() {
        loom::model(|| {
            let join = Join::new();
            let completer = spawn_completer(&join);
            let mut told = join.done.register(0).is_err();
            if !told && join.done.deregister().is_some() {
                told = join.done.register(1).is_err();
                completer.join().expect("the completer does not panic");
                assert_eq!((join.woken(0), join.woken(1)), (0, usize::from(!told)));
            } else {
                join.check_result();
                completer.join().expect("the completer does not panic");
                assert_eq!(join.woken(0), usize::from(!told));
            }
        });
    }

    /// Two handles of one completion race to register: one replaces the other, none is lost.
    #[test]
    fn of_two_waiters_each_is_woken_told_or_replaced() {
        check(3, || {
            let join = Join::new();
            let completer = spawn_completer(&join);
            let other = {
                let join = join.clone();
                thread::spawn(move || join.done.register(1))
            };
            let outcomes = [join.done.register(0), other.join().expect("no panic")];
            completer.join().expect("the completer does not panic");
            let mut fates = [join.woken(0), join.woken(1)];
            for outcome in outcomes {
                match outcome {
                    Ok(Some(replaced)) => fates[replaced] += 1,
                    Err(told) => fates[told] += 1,
                    Ok(None) => {}
                }
            }
            // One that was replaced by a waiter that was told was dropped by `register`.
            assert!(fates.iter().all(|fate| *fate <= 1), "{fates:?}");
            assert!(fates.iter().sum::<usize>() >= 1);
        });
    }

    /// Who sees DONE frees the node at once; the completer must not touch it any more. Freeing is
    /// an exclusive access to the cell and the word, which the model checks against all others.
    #[test]
    fn the_node_may_go_as_soon_as_it_is_done() {
        loom::model(|| {
            let done = Box::into_raw(Box::new(Oneshot::<usize>::new()));
            // SAFETY: allocated above.
            let shared = unsafe { &*done };
            assert_eq!(shared.register(0), Ok(None));
            let completer = thread::spawn(move || shared.complete());
            // A spurious resume: look, and sleep again.
            while !shared.is_done() {
                thread::yield_now();
            }
            // SAFETY: it is done.
            let mut owned = unsafe { Box::from_raw(done) };
            owned.state.with_mut(|state| assert_eq!(*state, DONE));
            // SAFETY: it is done: nobody else reaches the cell.
            assert_eq!(unsafe { owned.waiter.with_mut(|cell| *cell) }, None);
            drop(owned);
            assert_eq!(completer.join().expect("the completer does not panic"), Some(0));
        });
    }
}
