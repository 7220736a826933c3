//! The run queue of units that have not started: a ring of fixed size, first in first out.
//!
//! Promise: every word pushed is taken exactly once, by the owner or by one thief; nobody waits.
//!
//! ```text
//!          pop, steal (CAS)                push (owner only)
//!               |                               |
//!               v                               v
//!    ....... [ head ][ w ][ w ][ w ][ w ][ w ][ tail ] .......      taken <= head <= tail
//! ```
//!
//! 1. `push` writes the slot, then stores `tail` with Release. Who loads `tail` with Acquire sees
//!    the slots below it, and what was written to the units before they were pushed.
//! 2. A taker loads `head`, then `tail`, copies the slots it wants, then moves `head` over them by
//!    compare-and-swap with Release. If that fails the copies are thrown away.
//! 3. `push` loads `head` with Acquire before it overwrites a slot. With the Release of 2 this puts
//!    the taker's copying before the overwriting. A taker that was too slow may still copy a
//!    newer word (slots are atomic, so this is no data race); then `head` has moved on and its
//!    swap fails.
//! 4. ABA: the swap of 2 would wrongly succeed only if `head` had come back to the same count.
//!    It counts words taken, never wraps to the slot, and has the width of `usize`: on a 64-bit
//!    machine it does not repeat in a century at a push per nanosecond. On a 32-bit one a thief
//!    would have to sleep between two loads and a swap while exactly 2^32 words pass.
//!
//! Tried and dropped: a Chase-Lev deque. The owner's end needs a full fence per pop to be LIFO, and
//! units that have not started should be first in first out anyway.

use std::fmt;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};

use super::loom::{AtomicPtr, AtomicUsize, Ordering};

/// How many words a [`FreshQueue`] holds. Small in models, where every slot costs states.
pub(crate) const FRESH_LEN_MAX: usize = if cfg!(loom) { 4 } else { 1024 };

/// A word that a queue can hand to another thread: the address or number of a unit.
///
/// # Safety
/// - `from_raw(into_raw(word))` is `word`.
/// - What the word leads to may be used by another thread, once; or using it is `unsafe` and its
///   user answers for that.
pub(crate) unsafe trait Word: Copy {
    /// The word as a pointer, not necessarily to anything.
    fn into_raw(self) -> *mut ();

    /// The word back.
    ///
    /// # Safety
    /// `raw` came from [`into_raw`](Self::into_raw).
    unsafe fn from_raw(raw: *mut ()) -> Self;
}

/// The per-worker ring. One thread pushes; any thread takes.
pub(crate) struct FreshQueue<T> {
    /// Words taken so far. Moved by takers only, by compare-and-swap.
    head: Line<AtomicUsize>,
    /// Words pushed so far. Stored by the owner only.
    tail: Line<AtomicUsize>,
    slots: Box<[AtomicPtr<()>; FRESH_LEN_MAX]>,
    words: PhantomData<fn(T) -> T>,
}

/// Keeps what thieves write off the line that the owner writes.
#[repr(align(128))]
struct Line<T>(T);

impl<T: Word> FreshQueue<T> {
    /// An empty queue. The only allocation of its life.
    pub(crate) fn new() -> Self {
        let slots = std::array::from_fn(|_| AtomicPtr::new(ptr::null_mut()));
        Self {
            head: Line(AtomicUsize::new(0)),
            tail: Line(AtomicUsize::new(0)),
            slots: Box::new(slots),
            words: PhantomData,
        }
    }

    /// Appends `word`, or gives it back if the queue is full.
    ///
    /// # Safety
    /// Only one thread at a time calls this: the owner. (Two would overwrite each other's slot, and
    /// one unit would be lost.)
    #[inline]
    pub(crate) unsafe fn push(&self, word: T) -> Result<(), T> {
        // Relaxed: this thread is the only one that stores it.
        let tail = self.tail.0.load(Ordering::Relaxed);
        // Acquire: pairs with the swap in `take`; its copying is over before we overwrite.
        let head = self.head.0.load(Ordering::Acquire);
        if tail.wrapping_sub(head) >= FRESH_LEN_MAX {
            return Err(word);
        }
        self.slots[tail % FRESH_LEN_MAX].store(word.into_raw(), Ordering::Relaxed);
        // Release: pairs with the load in `bounds`; publishes the slot and the unit.
        self.tail.0.store(tail.wrapping_add(1), Ordering::Release);
        Ok(())
    }

    /// Takes the oldest word. For the owner and for thieves.
    #[inline]
    pub(crate) fn pop(&self) -> Option<T> {
        loop {
            let (head, len) = self.bounds();
            if len == 0 {
                return None;
            }
            let raw = self.slots[head % FRESH_LEN_MAX].load(Ordering::Relaxed);
            if self.take(head, 1) {
                // SAFETY: the slot below `tail` held a word that `push` put there, and since
                // `head` had not moved it was still that word.
                return Some(unsafe { T::from_raw(raw) });
            }
        }
    }

    /// Takes the older half, rounded up but at most `count_max`, and gives each word to `into`, oldest
    /// first. Returns how many.
    ///
    /// `into` runs when all of them are taken: it may push to the thief's own queue.
    pub(crate) fn steal_half(&self, count_max: usize, mut into: impl FnMut(T)) -> usize {
        let mut copies = [MaybeUninit::<*mut ()>::uninit(); FRESH_LEN_MAX.div_ceil(2)];
        loop {
            let (head, len) = self.bounds();
            let count = len.div_ceil(2).min(count_max);
            if count == 0 {
                return 0;
            }
            for (offset, copy) in copies[..count].iter_mut().enumerate() {
                let slot = &self.slots[head.wrapping_add(offset) % FRESH_LEN_MAX];
                copy.write(slot.load(Ordering::Relaxed));
            }
            if self.take(head, count) {
                for copy in &copies[..count] {
                    // SAFETY: the loop above wrote the first `count` copies; each is a word that
                    // `push` put there, unchanged since `head` had not moved.
                    into(unsafe { T::from_raw(copy.assume_init()) });
                }
                return count;
            }
        }
    }

    /// How many words are in it. Exact for the owner when nobody steals, else a moment old.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.bounds().1
    }

    /// Where the oldest word is, and how many words there are from there on.
    #[inline]
    fn bounds(&self) -> (usize, usize) {
        // Acquire: pairs with the swap in `take`. Whoever moved `head` here had seen a `tail` at
        // least as far, so the load below does too, and the difference is never negative.
        let head = self.head.0.load(Ordering::Acquire);
        // Acquire: pairs with the store in `push`; the slots below `tail` are written.
        let tail = self.tail.0.load(Ordering::Acquire);
        // More than fits means that `head` is out of date; the swap will say so.
        (head, tail.wrapping_sub(head).min(FRESH_LEN_MAX))
    }

    /// Claims `count` words from `head` on, if nobody else did.
    #[inline]
    fn take(&self, head: usize, count: usize) -> bool {
        // Release: pairs with the load in `push`; our copying comes before its overwriting.
        let (new, done, lost) = (head.wrapping_add(count), Ordering::Release, Ordering::Relaxed);
        self.head.0.compare_exchange(head, new, done, lost).is_ok()
    }
}

impl<T> fmt::Debug for FreshQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FreshQueue")
            .field("head", &self.head.0)
            .field("tail", &self.tail.0)
            .finish_non_exhaustive()
    }
}

// SAFETY: a number leads nowhere; the round trip keeps every bit of the address.
unsafe impl Word for usize {
    #[inline]
    fn into_raw(self) -> *mut () {
        ptr::without_provenance_mut(self)
    }

    #[inline]
    unsafe fn from_raw(raw: *mut ()) -> Self {
        raw.addr()
    }
}

// SAFETY: the round trip is a cast; using the pointer is `unsafe`.
unsafe impl<X> Word for NonNull<X> {
    #[inline]
    fn into_raw(self) -> *mut () {
        self.as_ptr().cast()
    }

    #[inline]
    unsafe fn from_raw(raw: *mut ()) -> Self {
        // SAFETY: it was a `NonNull` before, by the caller's promise.
        unsafe { NonNull::new_unchecked(raw.cast()) }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn push(queue: &FreshQueue<usize>, word: usize) -> Result<(), usize> {
        // SAFETY: each test pushes from one thread.
        unsafe { queue.push(word) }
    }

    #[test]
    fn a_full_queue_gives_the_word_back_and_keeps_its_order() {
        let queue = FreshQueue::new();
        for word in 0..FRESH_LEN_MAX {
            assert_eq!(push(&queue, word), Ok(()));
        }
        assert_eq!(push(&queue, 999), Err(999));
        assert_eq!(queue.len(), FRESH_LEN_MAX);
        for word in 0..FRESH_LEN_MAX {
            assert_eq!(queue.pop(), Some(word));
        }
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn stealing_takes_the_older_half_rounded_up() {
        let queue = FreshQueue::new();
        // Start in the middle of the ring, so that the stolen half wraps around.
        for word in 0..FRESH_LEN_MAX - 2 {
            push(&queue, word).expect("there is room");
            assert_eq!(queue.pop(), Some(word));
        }
        for word in 0..5 {
            push(&queue, word).expect("there is room");
        }
        let mut stolen = Vec::new();
        assert_eq!(queue.steal_half(FRESH_LEN_MAX, |word| stolen.push(word)), 3);
        assert_eq!(stolen, [0, 1, 2]);
        assert_eq!((queue.pop(), queue.pop(), queue.pop()), (Some(3), Some(4), None));
        assert_eq!(queue.steal_half(FRESH_LEN_MAX, |_| ()), 0);
    }

    #[test]
    fn real_threads_take_every_word_once() {
        const COUNT: usize = 100_000;
        let queue = FreshQueue::new();
        let taken: Vec<_> = (0..COUNT).map(|_| std::sync::atomic::AtomicU8::new(0)).collect();
        let left = std::sync::atomic::AtomicUsize::new(COUNT);
        let take = |word: usize| {
            taken[word].fetch_add(1, Ordering::Relaxed);
            left.fetch_sub(1, Ordering::Relaxed);
        };
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while left.load(Ordering::Relaxed) > 0 {
                        if queue.steal_half(FRESH_LEN_MAX, take) == 0 {
                            std::thread::yield_now();
                        }
                    }
                });
            }
            for word in 0..COUNT {
                while push(&queue, word).is_err() {
                    if let Some(word) = queue.pop() {
                        take(word);
                    }
                }
            }
            while let Some(word) = queue.pop() {
                take(word);
            }
        });
        assert!(taken.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    }
}

#[cfg(all(test, loom))]
mod loom_models;
