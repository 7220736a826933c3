//! The slabs of the process, readable from a signal handler.
//!
//! A list of entries that are never freed, only reused: a reader follows it without a lock and
//! allocates nothing. Writers take a lock.
//!
//! A reader looks for the slab its own thread just faulted in. That slab cannot go away meanwhile,
//! because the faulting thread runs on one of its stacks; other entries may change under the
//! reader, which at worst does not match them.

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::OwnerInfo;
use super::slab::Slot;

/// Keeps a slab in the registry.
#[derive(Debug)]
pub(super) struct Registration(&'static Entry);

/// The stack an address belongs to.
pub(super) struct Found {
    /// Lowest address of its guard.
    pub limit: usize,
    /// Bytes from there to its top.
    pub stride: usize,
    /// Who runs on it; null if nobody.
    pub owner: *const OwnerInfo,
}

/// Makes a slab known to the fault handler.
///
/// # Safety
/// - `slots` points to `len / stride` slots that stay in place until the registration is dropped.
pub(super) unsafe fn register(
    start: usize,
    len: usize,
    stride: usize,
    slots: *const Slot,
) -> Registration {
    let _writer = WRITERS.lock().unwrap_or_else(PoisonError::into_inner);
    let entry = free_entry();
    entry.len.store(len, Ordering::Relaxed);
    entry.stride.store(stride, Ordering::Relaxed);
    entry.slots.store(slots.cast_mut(), Ordering::Relaxed);
    // Pairs with the load in `find`: who sees this start sees what belongs to it.
    entry.start.store(start, Ordering::Release);
    Registration(entry)
}

impl Drop for Registration {
    fn drop(&mut self) {
        let _writer = WRITERS.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.start.store(0, Ordering::Release);
    }
}

/// Finds the stack `address` lies in, guard included. Async-signal-safe.
pub(super) fn find(address: usize) -> Option<Found> {
    let mut next = HEAD.load(Ordering::Acquire);
    // SAFETY: entries are never freed, and the acquire load (of the head or of a link) pairs with
    // the store in `free_entry` that made the entry reachable.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.next.load(Ordering::Acquire);
        let start = entry.start.load(Ordering::Acquire);
        let len = entry.len.load(Ordering::Relaxed);
        if start == 0 || address < start || address - start >= len {
            continue;
        }
        let stride = entry.stride.load(Ordering::Relaxed);
        let slots = entry.slots.load(Ordering::Relaxed);
        if stride == 0 || entry.start.load(Ordering::Acquire) != start {
            continue;
        }
        let index = (address - start) / stride;
        // SAFETY: the slab has a slot for every stride of its length and, as the caller faulted in
        // it, is still registered.
        let owner = unsafe { (*slots.add(index)).owner.load(Ordering::Acquire) };
        return Some(Found { limit: start + index * stride, stride, owner });
    }
    None
}

/// An entry with `start` 0; to be called with the writers' lock held.
fn free_entry() -> &'static Entry {
    let head = HEAD.load(Ordering::Relaxed);
    let mut next = head;
    // SAFETY: as in `find`; only writers, which hold the lock, add entries.
    while let Some(entry) = unsafe { next.as_ref() } {
        if entry.start.load(Ordering::Relaxed) == 0 {
            return entry;
        }
        next = entry.next.load(Ordering::Relaxed);
    }
    let entry: &'static Entry = Box::leak(Box::new(Entry {
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        stride: AtomicUsize::new(0),
        slots: AtomicPtr::new(ptr::null_mut()),
        next: AtomicPtr::new(head),
    }));
    // Pairs with the loads in `find`.
    HEAD.store(ptr::from_ref(entry).cast_mut(), Ordering::Release);
    entry
}

#[derive(Debug)]
struct Entry {
    /// First address of the slab; 0 while the entry is free. Written last, cleared first.
    start: AtomicUsize,
    len: AtomicUsize,
    stride: AtomicUsize,
    slots: AtomicPtr<Slot>,
    next: AtomicPtr<Entry>,
}

static HEAD: AtomicPtr<Entry> = AtomicPtr::new(ptr::null_mut());
static WRITERS: Mutex<()> = Mutex::new(());
