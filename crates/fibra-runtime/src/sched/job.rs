//! Jobs: what a fiber runs, and what outsiders may know about it while it runs.
//!
//! A job is one allocation, shared by the fiber and whoever holds a handle on it. The scheduler
//! sees only this file's trait; the closure, its result and its type live above, in `fiber`.

use std::fmt;
use std::panic::Location;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use fibra_driver::Instant;

use super::block::{Block, BlockPtr, FiberRef};
use super::done::Oneshot;
use super::job_ref::{Counted, JobRef};
use super::shared::{RuntimeId, Shared};
use super::waiter::Waiter;
use crate::stack::StackSize;

/// What a fiber runs. [`perform`] or [`dismiss`] is called exactly once.
pub(crate) trait Job: Counted + Send + Sync {
    /// What outsiders may know.
    fn header(&self) -> &Header;

    /// Runs the body; never unwinds. Publishes the result and wakes whoever waits for it.
    ///
    /// # Safety
    /// Called once at most, and not together with `cancel`.
    unsafe fn run(&self);

    /// Drops the body unrun and publishes `Cancelled`; never unwinds.
    ///
    /// # Safety
    /// Called once at most, and not together with `run`.
    unsafe fn cancel(&self);

    /// Who is to be told when nothing of the job is left here.
    fn region(&self) -> Option<Arc<dyn Region>>;
}

/// A scope, as its children's jobs see it.
pub(crate) trait Region: Send + Sync {
    /// A child is about to end: its job is let go of, so that the reference is not the last one.
    fn let_go(&self, child: FiberId);

    /// A child has ended and touches nothing of the region any more.
    fn child_ended(&self);
}

/// Runs a job to its end, on its fiber; if it was cancelled meanwhile, dismisses it.
pub(crate) fn perform(job: JobRef<dyn Job>) {
    if job.header().is_cancelled() {
        return dismiss(job);
    }
    // SAFETY: whoever calls this gives up the one reference that a fiber holds.
    unsafe { job.run() };
    end(job);
}

/// Drops a job's closure where it is and lets its handle say `Cancelled`.
pub(crate) fn dismiss(job: JobRef<dyn Job>) {
    // SAFETY: as in `perform`.
    unsafe { job.cancel() };
    end(job);
}

/// Drops the job, which may drop its result, before its region hears of it.
fn end(job: JobRef<dyn Job>) {
    let Some(region) = job.region() else { return };
    region.let_go(job.header().id);
    drop(job);
    region.child_ended();
}

/// What outsiders may know about a job while it waits or runs.
pub(crate) struct Header {
    /// References to the job: at first the fiber's and the handle's.
    pub refs: AtomicU32,
    /// Unique in its runtime.
    pub id: FiberId,
    /// Given by the user, or none.
    pub name: Option<Box<str>>,
    /// Where it was spawned.
    pub site: &'static Location<'static>,
    /// Which stack it wants.
    pub stack: StackSize,
    /// Inherited by structured children only.
    pub deadline: Option<Instant>,
    /// Ask the fiber to end: its fallible waits fail. Never cleared.
    pub cancelled: AtomicBool,
    /// The runtime that runs it, by number, so that a job needs no reference to it.
    pub runtime: RuntimeId,
    /// The fiber's block once it has started, and that block's generation.
    block: AtomicPtr<Block>,
    generation: AtomicU32,
    /// Whether the result is there, and who waits for it.
    pub done: Oneshot<Waiter>,
}

impl Header {
    pub fn new(
        id: FiberId,
        name: Option<Box<str>>,
        site: &'static Location<'static>,
        stack: StackSize,
        deadline: Option<Instant>,
        runtime: RuntimeId,
    ) -> Self {
        Self {
            refs: AtomicU32::new(2),
            id,
            name,
            site,
            stack,
            deadline,
            cancelled: AtomicBool::new(false),
            runtime,
            block: AtomicPtr::new(ptr::null_mut()),
            generation: AtomicU32::new(0),
            done: Oneshot::new(),
        }
    }

    /// Notes the fiber that runs it, before it runs.
    pub fn set_started(&self, block: BlockPtr) {
        self.generation.store(block.generation(), Ordering::Relaxed);
        // SeqCst: see `cancel`. A swap, because a store alone may be delayed past the next load.
        self.block.swap(block.0.as_ptr(), Ordering::SeqCst);
    }

    /// The fiber that runs it, if it has started and its runtime is still there.
    fn fiber(&self) -> Option<FiberRef> {
        let block = NonNull::new(self.block.load(Ordering::SeqCst))?;
        let generation = self.generation.load(Ordering::Relaxed);
        // The runtime keeps the memory of its blocks, so it is asked for before the block is used.
        let shared = Shared::find(self.runtime)?;
        let block = BlockPtr(block);
        let home = block.home().filter(|_| block.generation() == generation)?;
        Some(FiberRef::with_generation(block, generation, Arc::clone(&shared.homes[home])))
    }

    /// Marks the job cancelled and wakes its fiber, so that its current wait notices.
    ///
    /// SeqCst on both sides: the fiber publishes `block` before it reads `cancelled` in a wait;
    /// here `cancelled` is written before `block` is read. One of the two sees the other.
    pub fn cancel(&self) {
        if !self.cancelled.swap(true, Ordering::SeqCst)
            && let Some(fiber) = self.fiber()
        {
            fiber.wake();
        }
    }

    /// Whether it runs on another thread than this, so that it can go on while this one blocks.
    pub fn runs_elsewhere(&self) -> bool {
        self.fiber().is_some_and(|fiber| !fiber.is_here())
    }

    /// Whether someone asked the fiber to end.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// `'name'` or `#id`, then where it was spawned.
    pub fn describe(&self) -> String {
        match &self.name {
            Some(name) => format!("fiber '{name}' spawned at {}", self.site),
            None => format!("fiber {} spawned at {}", self.id, self.site),
        }
    }
}

/// Identifies a fiber; unique in its runtime.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FiberId(pub(crate) u64);

impl fmt::Debug for FiberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FiberId({self})")
    }
}

/// `#worker.number`: the worker that made it (0 for threads outside) and a running number.
impl fmt::Display for FiberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}.{}", self.0 >> 48, self.0 & 0xffff_ffff_ffff)
    }
}
