//! The inbox: wakes from other threads. Many writers, one reader, no lock, no allocation.
//!
//! Promise: a node pushed after something happened to it is taken at least once after that; it is
//! in one inbox at most, once at most; nodes come out in the order they went in.
//!
//! ```text
//!   writer                          node                        reader
//!   ------                          ----                        ------
//!   change the node's state
//!   queued: swap(true) --was true-> (already on its way) -----> 3. sees the change all the same
//!        | was false
//!        v
//!   next = head; head = node -----> head -> n3 -> n2 -> n1
//!                                                               1. take all: head = null
//!                                                               2. turn round: n1 n2 n3
//!                                                               3. per node: read next, then
//!                                                                  queued: swap(false), then
//!                                                                  look at its state
//! ```
//!
//! 1. A writer changes the node's state first, then sets `queued`. If it was set, the writer is
//!    done: the reader has yet to clear it, and looks at the state after that.
//! 2. So the reader clears `queued` *before* it looks at the state. The other way round, a change
//!    between look and clear would be lost: its writer saw `queued` and relied on the reader.
//! 3. The clear is a read-modify-write with Acquire: it must see what the last writer that swapped
//!    `queued` had done before. A plain store would not.
//! 4. The reader reads `next` *before* it clears `queued`: from then on another writer may push the
//!    node again, and `next` is that writer's. Turning the chain round comes before all clears.
//! 5. A writer's last access to the node is the swap of `head` that publishes it (or the swap of
//!    `queued`, if that was set). The reader may free the node as soon as it has it.
//! 6. Only the writer that found the inbox empty needs to wake the reader: the others' nodes lie
//!    under one whose writer does, or has done, so; the reader takes all of them.
//!
//! ABA: the writers' swap of `head` may succeed although nodes were taken and pushed again
//! meanwhile. That is harmless: it makes `next` point at the node that is on top *now*, which is
//! all it needs. The reader never pops a single node, which is where a stack suffers from ABA.

use std::fmt;
use std::ptr::{self, NonNull};

use super::loom::{AtomicBool, AtomicPtr, Ordering};

/// Something that can lie in an [`Inbox`].
///
/// # Safety
/// - `link` returns the same link for as long as the node is in an inbox or a batch.
/// - A node may be pushed by any thread, and taken by another.
pub(crate) unsafe trait Node: Sized {
    /// The node's link. One per node, used by inboxes only.
    fn link(&self) -> &Link<Self>;
}

/// What a node holds to be in an inbox.
pub(crate) struct Link<N> {
    /// The node is in an inbox, or in a batch and not yet taken. Set by the writer that pushes it,
    /// cleared by the reader that takes it.
    queued: AtomicBool,
    /// The node below. Written by whoever set `queued`, and by the reader that turns the chain.
    next: AtomicPtr<N>,
}

impl<N> Link<N> {
    /// A link that is in no inbox.
    pub(crate) fn new() -> Self {
        Self { queued: AtomicBool::new(false), next: AtomicPtr::new(ptr::null_mut()) }
    }
}

/// What became of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the reader may sleep, and a node that was not taken in is still the caller's"]
pub(crate) enum Push {
    /// In. The inbox was empty: wake the reader if it sleeps.
    First,
    /// In, on top of others: who pushed the lowest wakes the reader.
    Later,
    /// It was queued already, in this inbox or another, and will be taken after this call. What the
    /// caller would have handed over with it (a count of references) is still the caller's.
    Already,
}

/// Many writers, one reader.
pub(crate) struct Inbox<N> {
    /// The node pushed last; null if none.
    head: AtomicPtr<N>,
}

impl<N: Node> Inbox<N> {
    /// An empty inbox.
    pub(crate) fn new() -> Self {
        Self { head: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Puts `node` in, unless it is queued already. For any thread.
    ///
    /// # Safety
    /// - `node` is valid during this call, whatever the reader does.
    /// - If it goes in, it stays valid and in place until [`Batch::pop`] has returned it.
    #[inline]
    pub(crate) unsafe fn push(&self, node: NonNull<N>) -> Push {
        // SAFETY: valid by the caller's first promise; only shared references are made of it.
        let link = unsafe { node.as_ref() }.link();
        // AcqRel: pairs with the swap in `pop`. Release: who clears it sees the state that our
        // caller changed. Acquire: our `next` comes after the reader's look at the last one.
        if link.queued.swap(true, Ordering::AcqRel) {
            return Push::Already;
        }
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            link.next.store(head, Ordering::Relaxed);
            // Release: pairs with the swap in `take_all`; publishes `next` and the node.
            let (new, done, lost) = (node.as_ptr(), Ordering::Release, Ordering::Relaxed);
            match self.head.compare_exchange_weak(head, new, done, lost) {
                // From here on the node may be gone (rule 5).
                Ok(_) if head.is_null() => return Push::First,
                Ok(_) => return Push::Later,
                Err(now) => head = now,
            }
        }
    }

    /// Takes everything that is in it, oldest first.
    ///
    /// # Safety
    /// Only the reader calls this.
    #[inline]
    pub(crate) unsafe fn take_all(&self) -> Batch<N> {
        if self.is_empty() {
            return Batch::new();
        }
        // Acquire: pairs with the swap in `push` (and with those below, which are a chain of
        // read-modify-writes); all nodes and their `next` are visible.
        let mut node = self.head.swap(ptr::null_mut(), Ordering::Acquire);
        let mut oldest = ptr::null_mut();
        while let Some(whole) = NonNull::new(node) {
            // SAFETY: a pushed node stays valid until `pop` has returned it.
            let next = &unsafe { whole.as_ref() }.link().next;
            let below = next.load(Ordering::Relaxed);
            next.store(oldest, Ordering::Relaxed);
            (oldest, node) = (node, below);
        }
        Batch { oldest }
    }

    /// Whether nothing is in it. One load.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        // Relaxed: a hint. Who must not miss a node (a worker before it sleeps) has a fence.
        self.head.load(Ordering::Relaxed).is_null()
    }
}

impl<N> fmt::Debug for Inbox<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("head", &self.head).finish()
    }
}

/// Nodes taken together, oldest first. Belongs to the reader, who empties it before it sleeps (who
/// pushes a node that is still in here wakes nobody) and before it drops it.
#[derive(Debug)]
#[must_use = "nodes left in a batch are never woken"]
pub(crate) struct Batch<N> {
    oldest: *mut N,
}

impl<N: Node> Batch<N> {
    /// A batch of nothing.
    pub(crate) fn new() -> Self {
        Self { oldest: ptr::null_mut() }
    }

    /// Takes the oldest node. Look at its state *after* this (rule 2).
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<NonNull<N>> {
        let node = NonNull::new(self.oldest)?;
        // SAFETY: a pushed node stays valid until this returns it.
        let link = unsafe { node.as_ref() }.link();
        // Before the swap: rule 4.
        self.oldest = link.next.load(Ordering::Relaxed);
        // AcqRel: pairs with the swap in `push`, in both directions; see there.
        let queued = link.queued.swap(false, Ordering::AcqRel);
        debug_assert!(queued, "a node in a batch is queued");
        Some(node)
    }
}

impl<N> Drop for Batch<N> {
    fn drop(&mut self) {
        debug_assert!(self.oldest.is_null(), "a batch is emptied before it is dropped");
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    struct Unit {
        link: Link<Self>,
        wakes: AtomicU64,
        seen: AtomicU64,
    }

    // SAFETY: the link is a field; a unit is atomics only.
    unsafe impl Node for Unit {
        fn link(&self) -> &Link<Self> {
            &self.link
        }
    }

    fn unit() -> Unit {
        Unit { link: Link::new(), wakes: AtomicU64::new(0), seen: AtomicU64::new(0) }
    }

    #[test]
    fn nodes_come_out_in_the_order_they_went_in_and_once() {
        let inbox = Inbox::new();
        let units = [unit(), unit(), unit()];
        let nodes = units.each_ref().map(NonNull::from);
        // SAFETY: the units outlive the inbox; this thread is the reader.
        unsafe {
            assert_eq!(inbox.push(nodes[0]), Push::First);
            assert_eq!(inbox.push(nodes[1]), Push::Later);
            assert_eq!(inbox.push(nodes[0]), Push::Already);
            assert_eq!(inbox.push(nodes[2]), Push::Later);
            let mut batch = inbox.take_all();
            assert!(inbox.is_empty());
            assert_eq!(inbox.push(nodes[1]), Push::Already, "in a batch is still queued");
            assert_eq!(batch.pop(), Some(nodes[0]));
            assert_eq!(inbox.push(nodes[0]), Push::First, "taken: may come again");
            assert_eq!((batch.pop(), batch.pop()), (Some(nodes[1]), Some(nodes[2])));
            assert_eq!(batch.pop(), None);
            assert_eq!(inbox.take_all().pop(), Some(nodes[0]));
            assert_eq!(inbox.take_all().pop(), None);
        }
    }

    #[test]
    fn the_last_wake_of_real_threads_is_never_lost() {
        const WAKES: u64 = 100_000;
        let inbox = Inbox::new();
        let units = [unit(), unit(), unit()];
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for wake in 0..WAKES {
                        let unit = &units[wake as usize % 3];
                        unit.wakes.fetch_add(1, Ordering::Relaxed);
                        // SAFETY: the units outlive the scope.
                        let _ = unsafe { inbox.push(NonNull::from(unit)) };
                    }
                });
            }
            let mut left = 3 * WAKES;
            while left > 0 {
                // SAFETY: this thread is the reader.
                let mut batch = unsafe { inbox.take_all() };
                while let Some(node) = batch.pop() {
                    // SAFETY: the units outlive the scope.
                    let unit = unsafe { node.as_ref() };
                    let wakes = unit.wakes.load(Ordering::Relaxed);
                    left -= wakes - unit.seen.swap(wakes, Ordering::Relaxed);
                }
                std::thread::yield_now();
            }
        });
        assert!(inbox.is_empty());
    }
}

#[cfg(all(test, loom))]
mod loom_models;
