//! Control blocks: the record of one fiber, in type-stable memory.
//!
//! ```text
//!   FREE --spawn--> FRESH --first run--> RUNNING <--resume-- READY
//!    ^                |                   |  |  \             ^
//!    |             cancelled         return  |   yield--------+
//!    +----------------+-------------------+  +--park--> PARKED --wake--^
//! ```
//!
//! Rules:
//! 1. Blocks live in chunks that are freed only with the [`Blocks`] store, and the store is leaked
//!    if one of them is still in use. A pointer to a block is therefore valid as long as the
//!    `Arc<Home>` beside it.
//! 2. `Cell` fields belong to the thread of the home worker (`io_op`: to the I/O thread). Everybody
//!    else uses the atomics.
//! 3. **A resume carries no meaning.** A wake that comes late, twice or for the wrong fiber makes
//!    it run once for nothing; every wait loops on its own completion word.
//! 4. A block is in at most one inbox (see `inbox`): the pusher marks it queued, the reader clears
//!    that *before* it looks at `home`. A wake that was swallowed because of the mark happened
//!    before the clear, so the reader acts for it, even if the block has a new fiber by then.

use std::cell::{Cell, UnsafeCell};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use corosensei::{Coroutine, Yielder};
use fibra_driver::{Instant, OpId};

use super::current;
use super::home::Home;
use super::inbox::{Link, Node};
use super::job::{Header, Job};
use super::job_ref::JobRef;
use super::run_queue::Word;
use super::wheel::TimerId;
use crate::stack::{OwnerInfo, Stack, StackArea};

/// What the fiber is doing, as its home worker sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Status {
    /// Not in use.
    Free,
    /// Has a job and no stack; may move between workers.
    Fresh,
    /// On the CPU.
    Running,
    /// In the run queue of its home.
    Ready,
    /// Suspended until a wake.
    Parked,
}

/// How far a parked fiber's stack is on its way to being trimmed (D32).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trim {
    /// Parked since the last look.
    Parked,
    /// Was parked at the last look; if it still is at the next one its unused pages go back.
    Seen,
    /// Its unused pages have gone back.
    Done,
}

pub(crate) type Context = Coroutine<(), (), (), Stack>;

/// The record of one fiber. See the file's rules.
#[repr(C, align(64))]
pub(crate) struct Block {
    // What a switch touches, in one cache line.
    pub context: UnsafeCell<Option<Context>>,
    pub yielder: Cell<*const Yielder<(), ()>>,
    /// The address of a local of `park`: what is well below it is not in use.
    pub parked_sp: Cell<usize>,
    /// Site of the outermost `no_suspend`, if inside one.
    pub no_suspend: Cell<Option<&'static std::panic::Location<'static>>>,
    pub status: Cell<Status>,

    /// Rises with every reuse; a stale reference sees another number.
    generation: AtomicU32,
    /// Index + 1 of the worker on which the fiber started; 0 before and after.
    home: AtomicU32,
    /// Rule 4.
    link: Link<Block>,
    /// The op in flight has completed with `op_result`.
    pub op_done: AtomicBool,
    pub op_result: AtomicI32,
    /// Counts the ops of this block, so that a cancel that comes late misses (dedicated I/O).
    pub op_sequence: Cell<u32>,
    /// The op in flight in the worker's own driver.
    pub op: Cell<Option<OpId>>,
    /// The op in flight in the driver of the I/O thread, which alone touches this cell.
    pub io_op: Cell<Option<(OpId, u32)>>,

    /// A wake came while the fiber was running: its next park returns at once.
    pub notified: Cell<bool>,
    /// The timer of the current wait has fired.
    pub timer_fired: Cell<bool>,
    pub timer: Cell<Option<TimerId>>,
    /// Deadline of the innermost scope, if any.
    pub deadline: Cell<Option<Instant>>,
    /// Depth of `shield`.
    pub shielded: Cell<u32>,
    /// Waits that failed in a row by the same cancel or deadline.
    pub failed_waits: Cell<u32>,
    /// How far the fiber's stack is on its way to being trimmed while it stays parked.
    pub trim: Cell<Trim>,

    /// The job while it is fresh; moved into the fiber's frame at its first run.
    job: Cell<Option<JobRef<dyn Job>>>,
    /// The job's header while the fiber lives.
    header: Cell<*const Header>,
    /// What the overflow handler prints.
    owner: UnsafeCell<OwnerInfo>,
    /// Where its stack is, once it has one.
    pub area: Cell<Option<StackArea>>,
}

// SAFETY: rule 2: cells are touched by the thread of the home worker only; before the first run the
// block is owned by whoever popped it from a queue, and queues hand over with release and acquire.
unsafe impl Send for Block {}
// SAFETY: as above; all that other threads touch is atomic.
unsafe impl Sync for Block {}

impl Block {
    fn new() -> Self {
        Self {
            generation: AtomicU32::new(0),
            home: AtomicU32::new(0),
            link: Link::new(),
            op_done: AtomicBool::new(false),
            op_result: AtomicI32::new(0),
            op_sequence: Cell::new(0),
            op: Cell::new(None),
            io_op: Cell::new(None),
            status: Cell::new(Status::Free),
            notified: Cell::new(false),
            timer_fired: Cell::new(false),
            timer: Cell::new(None),
            deadline: Cell::new(None),
            shielded: Cell::new(0),
            no_suspend: Cell::new(None),
            failed_waits: Cell::new(0),
            trim: Cell::new(Trim::Parked),
            area: Cell::new(None),
            yielder: Cell::new(std::ptr::null()),
            context: UnsafeCell::new(None),
            job: Cell::new(None),
            header: Cell::new(std::ptr::null()),
            owner: UnsafeCell::new(OwnerInfo {
                id: 0,
                name: std::ptr::null(),
                name_len: 0,
                site: None,
            }),
            parked_sp: Cell::new(0),
        }
    }

    /// Asks the processor for what a switch to this fiber will touch of the block.
    #[inline]
    pub fn prefetch(&self) {
        crate::stack::prefetch(std::ptr::from_ref(self).cast());
    }

    /// The same for the fiber's stack: the lines around the frame that suspended it.
    #[inline]
    pub fn prefetch_stack(&self) {
        crate::stack::prefetch(self.parked_sp.get() as *const u8);
    }

    /// Puts a job into a free block.
    pub fn load(&self, job: JobRef<dyn Job>) {
        debug_assert_eq!(self.status.get(), Status::Free);
        let header = job.header();
        self.deadline.set(header.deadline);
        self.header.set(header);
        self.job.set(Some(job));
        self.status.set(Status::Fresh);
    }

    /// Names the fiber to the overflow handler, for as long as it has `stack`.
    pub fn name_stack(&self, header: &Header, stack: &Stack) {
        let (name, name_len) =
            header.name.as_ref().map_or((std::ptr::null(), 0), |name| (name.as_ptr(), name.len()));
        let owner = OwnerInfo { id: header.id.0, name, name_len, site: Some(header.site) };
        // SAFETY: only the home thread is here, and no stack names this block yet.
        unsafe { *self.owner.get() = owner };
        // SAFETY: the block never moves, the header lives as long as the fiber, and the stack is put
        // back (which takes the name off) when the fiber has ended, before the block is cleared.
        unsafe { stack.set_owner(self.owner.get()) };
    }

    /// Takes the job out, at the first run.
    pub fn take_job(&self) -> Option<JobRef<dyn Job>> {
        self.job.take()
    }

    /// The header of the job. Only on the home thread (or by the owner of a fresh block), and only
    /// while the fiber lives.
    pub fn header(&self) -> Option<&Header> {
        // SAFETY: set by `load` from a job that the block or the fiber's frame holds until
        // `clear`, which sets it back to null.
        unsafe { self.header.get().as_ref() }
    }

    /// Binds the fiber to a worker, for life.
    pub fn set_home(&self, index: usize) {
        // Release: pairs with the load in `home`: whoever sees the home sees a started block.
        self.home.store(index as u32 + 1, Ordering::Release);
    }

    /// The worker on which the fiber started.
    pub fn home(&self) -> Option<usize> {
        (self.home.load(Ordering::Acquire) as usize).checked_sub(1)
    }

    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Ends a fiber's use of the block: stale references no longer match.
    pub fn clear(&self) {
        self.header.set(std::ptr::null());
        self.home.store(0, Ordering::Release);
        // Not a locked instruction: only the thread that owns the block writes it.
        self.generation.store(self.generation.load(Ordering::Relaxed) + 1, Ordering::Release);
        self.notified.set(false);
        self.timer_fired.set(false);
        self.deadline.set(None);
        self.shielded.set(0);
        self.no_suspend.set(None);
        self.failed_waits.set(0);
        self.trim.set(Trim::Parked);
        self.area.set(None);
        self.yielder.set(std::ptr::null());
        self.status.set(Status::Free);
    }
}

/// A pointer to a block whose store outlives it. `Copy`, like the references the queues hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockPtr(pub NonNull<Block>);

// SAFETY: a block may be referred to from any thread (rule 2).
unsafe impl Send for BlockPtr {}
// SAFETY: as above.
unsafe impl Sync for BlockPtr {}

// SAFETY: `link` answers the same field always; wakes may come from any thread.
unsafe impl Node for Block {
    fn link(&self) -> &Link<Self> {
        &self.link
    }
}

// SAFETY: the conversions are casts; using a block is governed by the rules of this file.
unsafe impl Word for BlockPtr {
    fn into_raw(self) -> *mut () {
        self.0.as_ptr().cast()
    }

    unsafe fn from_raw(raw: *mut ()) -> Self {
        // SAFETY: comes from `into_raw` by the caller's promise, which never gives null.
        Self(unsafe { NonNull::new_unchecked(raw.cast()) })
    }
}

impl std::ops::Deref for BlockPtr {
    type Target = Block;
    fn deref(&self) -> &Block {
        // SAFETY: rule 1: the store outlives every worker, queue and `FiberRef` that holds one.
        unsafe { self.0.as_ref() }
    }
}

/// A counted reference to a started fiber, from anywhere, for waking it.
#[derive(Clone)]
pub(crate) struct FiberRef {
    block: BlockPtr,
    generation: u32,
    /// Keeps the store alive (rule 1).
    home: Arc<Home>,
}

impl FiberRef {
    pub fn new(block: BlockPtr, home: Arc<Home>) -> Self {
        let generation = block.generation();
        Self { block, generation, home }
    }

    /// The fiber that a block had when its generation was read.
    pub fn with_generation(block: BlockPtr, generation: u32, home: Arc<Home>) -> Self {
        Self { block, generation, home }
    }

    /// Makes the fiber run if it is parked; otherwise its next park returns at once.
    pub fn wake(&self) {
        if self.block.generation() == self.generation {
            self.home.wake(self.block);
        }
    }

    /// Whether it runs on the worker whose thread this is.
    pub fn is_here(&self) -> bool {
        current::worker().is_some_and(|worker| Arc::ptr_eq(&worker.home, &self.home))
    }
}

const CHUNK: usize = 64;

/// The store of all blocks of a runtime: chunks, dense and never moved.
pub(crate) struct Blocks {
    chunks: Mutex<Vec<Box<[Block]>>>,
    free: Mutex<Vec<BlockPtr>>,
}

impl Blocks {
    pub fn new() -> Self {
        Self { chunks: Mutex::new(Vec::new()), free: Mutex::new(Vec::new()) }
    }

    /// Moves up to `count` free blocks into `out`, making a chunk if there are none.
    pub fn take(&self, out: &mut Vec<BlockPtr>, count: usize) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.is_empty() {
            let chunk: Box<[Block]> = (0..CHUNK).map(|_| Block::new()).collect();
            free.extend(chunk.iter().rev().map(|block| BlockPtr(NonNull::from(block))));
            self.chunks.lock().unwrap_or_else(PoisonError::into_inner).push(chunk);
        }
        let at = free.len().saturating_sub(count);
        out.extend(free.drain(at..));
    }

    /// Takes back free blocks.
    pub fn give(&self, blocks: impl Iterator<Item = BlockPtr>) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).extend(blocks);
    }

    /// Visits `count` blocks from number `start` on; the number to go on with, 0 after the last.
    pub fn walk_some(&self, start: usize, count: usize, mut visit: impl FnMut(BlockPtr)) -> usize {
        let chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        let some =
            chunks[(start / CHUNK).min(chunks.len())..].iter().flat_map(|chunk| chunk.iter());
        some.take(count).for_each(|block| visit(BlockPtr(NonNull::from(block))));
        if start + count >= chunks.len() * CHUNK { 0 } else { start + count }
    }

    /// As [`walk`](Self::walk), for a signal handler, which must not wait: nothing at all if
    /// somebody has the list at this moment.
    pub fn walk_from_signal(&self, mut visit: impl FnMut(BlockPtr)) {
        let Ok(chunks) = self.chunks.try_lock() else { return };
        for block in chunks.iter().flat_map(|chunk| chunk.iter()) {
            visit(BlockPtr(NonNull::from(block)));
        }
    }

    /// Visits every block; `false` from `visit` ends the walk. Blocks may change meanwhile: read
    /// the atomics, or cells of your own worker's fibers.
    pub fn walk(&self, mut visit: impl FnMut(BlockPtr) -> bool) {
        let chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        for block in chunks.iter().flat_map(|chunk| chunk.iter()) {
            if !visit(BlockPtr(NonNull::from(block))) {
                return;
            }
        }
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        let chunks = self.chunks.get_mut().unwrap_or_else(PoisonError::into_inner);
        for chunk in chunks.drain(..) {
            let busy = chunk.iter().any(|block| block.home.load(Ordering::Acquire) != 0);
            if busy {
                // Rule 1, and contract 2: frames that are still alive keep their block.
                std::mem::forget(chunk);
            }
        }
    }
}
