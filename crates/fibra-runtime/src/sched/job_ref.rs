//! Counted references to jobs, in memory that workers keep.
//!
//! `Arc` with two things left out, because a spawn is made of them: a job starts with two
//! references (the fiber's and the handle's) instead of one that is cloned, there are no weak ones,
//! and its memory is one cell of a fixed size that goes back to the worker which happens to drop it,
//! instead of to the allocator. A batch of 1,000 jobs is beyond what an allocator caches per
//! thread, and cost 380 instructions a job that way.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use super::current;

/// The size of a cell. Jobs that need more get memory of their own.
const CELL: Layout = match Layout::from_size_align(256, 16) {
    Ok(layout) => layout,
    Err(_) => panic!("256 and 16 are powers of two"),
};
/// Free cells kept by one worker.
const CELLS_MAX: usize = 1024;

/// Something with a reference count of its own.
///
/// # Safety
/// `refs` answers the same counter always, and only [`JobRef`] touches it.
pub(crate) unsafe trait Counted {
    /// The references there are.
    fn refs(&self) -> &AtomicU32;
}

/// A counted reference to a job, typed or not.
pub(crate) struct JobRef<J: Counted + ?Sized>(NonNull<J>);

// SAFETY: as `Arc`: shared and dropped from any thread.
unsafe impl<J: Counted + Send + Sync + ?Sized> Send for JobRef<J> {}
// SAFETY: as above.
unsafe impl<J: Counted + Send + Sync + ?Sized> Sync for JobRef<J> {}

impl<J: Counted> JobRef<J> {
    /// Moves a job, whose count is two, into a cell: both references.
    pub fn pair(job: J) -> (Self, Self) {
        debug_assert_eq!(job.refs().load(Ordering::Relaxed), 2);
        let layout = layout_of(Layout::new::<J>());
        let memory = take_cell(layout).cast::<J>();
        // SAFETY: the memory is large and aligned enough for a `J` and nobody else's.
        unsafe { memory.write(job) };
        (Self(memory), Self(memory))
    }
}

impl<J: Counted + ?Sized> JobRef<J> {
    /// The pointer, to be made a reference of another type again with `from_raw`.
    pub fn into_raw(self) -> NonNull<J> {
        ManuallyDrop::new(self).0
    }

    /// # Safety
    /// `raw` came from `into_raw`, possibly as a pointer to the same job by another type.
    pub unsafe fn from_raw(raw: NonNull<J>) -> Self {
        Self(raw)
    }
}

impl<J: Counted + ?Sized> Deref for JobRef<J> {
    type Target = J;
    #[inline]
    fn deref(&self) -> &J {
        // SAFETY: this reference is counted, so the job is there.
        unsafe { self.0.as_ref() }
    }
}

impl<J: Counted + ?Sized> Clone for JobRef<J> {
    fn clone(&self) -> Self {
        // Relaxed: a new reference comes from one that is held. 2^32 of them do not fit in memory.
        self.refs().fetch_add(1, Ordering::Relaxed);
        Self(self.0)
    }
}

impl<J: Counted + ?Sized> Drop for JobRef<J> {
    #[inline]
    fn drop(&mut self) {
        // Release and, for the last, Acquire: what others did to the job happened before its end.
        if self.refs().fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        fence(Ordering::Acquire);
        // SAFETY: the last reference: nobody else is here, and nobody will be.
        let layout = layout_of(Layout::for_value(unsafe { self.0.as_ref() }));
        // SAFETY: as above; dropped once.
        unsafe { self.0.drop_in_place() };
        give_cell(self.0.cast(), layout);
    }
}

/// The layout of the memory for a job: a cell if it fits.
fn layout_of(job: Layout) -> Layout {
    if job.size() <= CELL.size() && job.align() <= CELL.align() { CELL } else { job }
}

fn take_cell(layout: Layout) -> NonNull<u8> {
    if layout == CELL
        && let Some(worker) = current::worker()
        && let Some(cell) = worker.cells.with(|cells| cells.0.pop())
    {
        return cell;
    }
    // SAFETY: a job is never of size zero (it holds its count), and `CELL` is not.
    NonNull::new(unsafe { alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
}

fn give_cell(memory: NonNull<u8>, layout: Layout) {
    if layout == CELL
        && let Some(worker) = current::worker()
        && worker.cells.with(|cells| cells.keep(memory))
    {
        return;
    }
    // SAFETY: came from `alloc` with this layout, here or on another thread; nobody uses it.
    unsafe { dealloc(memory.as_ptr(), layout) };
}

/// Free cells of one worker.
pub(crate) struct Cells(Vec<NonNull<u8>>);

impl Cells {
    pub fn new() -> Self {
        Self(Vec::with_capacity(CELLS_MAX))
    }

    fn keep(&mut self, cell: NonNull<u8>) -> bool {
        let room = self.0.len() < CELLS_MAX;
        if room {
            self.0.push(cell);
        }
        room
    }
}

impl Drop for Cells {
    fn drop(&mut self) {
        for cell in self.0.drain(..) {
            // SAFETY: a free cell, from `alloc` with this layout.
            unsafe { dealloc(cell.as_ptr(), CELL) };
        }
    }
}
