//! What a fiber can say about itself: who it is, how long it may wait, where it must not.

use std::panic::Location;
use std::time::Duration;

use fibra_driver::Instant;

use crate::sched::block::BlockPtr;
use crate::sched::current as running;
use crate::sched::job::FiberId;
use crate::sched::wait::{may_suspend, unwind_if_told};

/// The fiber that is running.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Current {
    id: FiberId,
    name: Option<Box<str>>,
    worker: usize,
    cancelled: bool,
}

impl Current {
    /// Identifies it.
    pub fn id(&self) -> FiberId {
        self.id
    }

    /// Its name, if it was given one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The index of the worker it runs on, for life.
    pub fn worker(&self) -> usize {
        self.worker
    }

    /// Whether it has been asked to end (when this was made).
    pub fn is_cancelled(&self) -> bool {
        self.cancelled
    }
}

/// The fiber that is running, or `None` outside fibers.
///
/// ```
/// assert!(fibra_runtime::current().is_none());
/// fibra_runtime::run(|| assert_eq!(fibra_runtime::current().unwrap().name(), Some("main")));
/// ```
pub fn current() -> Option<Current> {
    let (worker, block) = running::fiber()?;
    let header = block.header()?;
    Some(Current {
        id: header.id,
        name: header.name.clone(),
        worker: worker.home.index,
        cancelled: header.is_cancelled(),
    })
}

/// Lets the other fibers that are ready run first. On a plain thread: `std::thread::yield_now`.
///
/// # Suspends
/// Yes. Never fails.
// Inlined up to the switch itself: a `ret` between two switches is predicted wrong, because the
// processor remembers the call of the other side. That was two thirds of the time of a switch.
#[inline]
pub fn yield_now() {
    match running::fiber() {
        Some((worker, block)) if !std::thread::panicking() => {
            may_suspend(block);
            if worker.is_unwinding() {
                unwind_if_told(worker, block);
            }
            worker.yield_now(block);
        }
        Some(_) => {}
        None => std::thread::yield_now(),
    }
}

/// Runs `f`; a wait inside panics, naming this call. For code that relies on stack order in a
/// thread-local: initialisers of lazy thread-locals, scoped thread-locals (`docs/soundness.md`).
///
/// ```should_panic
/// fibra_runtime::run(|| fibra_runtime::no_suspend(|| fibra_runtime::yield_now()));
/// ```
///
/// # Panics
/// A wait inside `f` panics.
#[track_caller]
pub fn no_suspend<T>(f: impl FnOnce() -> T) -> T {
    let Some((_, block)) = running::fiber() else { return f() };
    let before = block.no_suspend.get();
    block.no_suspend.set(before.or(Some(Location::caller())));
    let _restore = Restore(|| block.no_suspend.set(before));
    f()
}

/// Runs `f` with cancel and inherited deadlines suspended: for clean-up that must wait.
pub fn shield<T>(f: impl FnOnce() -> T) -> T {
    let Some((_, block)) = running::fiber() else { return f() };
    block.shielded.set(block.shielded.get() + 1);
    let _restore = Restore(|| block.shielded.set(block.shielded.get() - 1));
    f()
}

/// Runs `f`; every fallible wait in it, and in structured children, fails with
/// [`TimedOut`](std::io::ErrorKind::TimedOut) once `limit` has passed. Deadlines nest: the earliest
/// holds. Fibers made with [`spawn`](crate::spawn) do not inherit it.
///
/// On a plain thread `f` just runs: a thread has no deadline.
pub fn deadline<T>(limit: Duration, f: impl FnOnce() -> T) -> T {
    let Some((_, block)) = running::fiber() else { return f() };
    let before = block.deadline.get();
    let ours = Instant::now() + limit;
    block.deadline.set(Some(before.map_or(ours, |before| before.min(ours))));
    let _restore = Restore(|| block.deadline.set(before));
    f()
}

/// The deadline structured children inherit.
pub(crate) fn inherited_deadline() -> Option<Instant> {
    let (_, block): (_, BlockPtr) = running::fiber()?;
    block.deadline.get()
}

/// Runs a closure when dropped, also while unwinding.
struct Restore<F: FnMut()>(F);

impl<F: FnMut()> Drop for Restore<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
