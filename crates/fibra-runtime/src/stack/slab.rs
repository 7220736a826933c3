//! Slabs: big reservations cut into stacks of one class, and the stacks themselves.
//!
//! One mapping for many stacks keeps the process far from its limit of mappings. Stacks are made
//! in batches, so that a program with three fibers does not pay for the guards of hundreds.

use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use corosensei::stack::StackPointer;
use corosensei::stack::valgrind::ValgrindStackRegistration;

use super::guard::{self, Protected};
use super::registry::{self, Registration};
use super::shared::{Counters, Origin, SharedStacks};
use super::sys::{self, Advice, Range};
use super::{GUARD_BYTES, OwnerInfo, StackArea, StackError, StackSize};

pub(super) use super::sys::signal_frame_bytes;

/// A stack for one fiber, guard included. Keeps its slab mapped.
///
/// One word, because it is moved around on every spawn; all about it is in its slot.
///
/// Put it back into a [`StackPool`](super::StackPool) after use; a dropped one finds its way to the
/// shared pool, but more slowly.
pub struct Stack {
    /// # Invariant
    /// Points to a slot of a slab of which this value holds a strong count. No other `Stack`
    /// points there.
    slot: NonNull<Slot>,
}

// SAFETY: a slot is atomic or constant, and may be used and its slab freed on any thread.
unsafe impl Send for Stack {}
// SAFETY: as above; through a shared reference only the owner changes, atomically.
unsafe impl Sync for Stack {}

/// What is known of a stack. Dense, and not on the stack itself, whose top page must suffice.
#[derive(Debug)]
pub(super) struct Slot {
    /// Who runs on the stack; null if nobody.
    pub owner: AtomicPtr<OwnerInfo>,
    /// Where the first frame starts: below the top by the colour.
    base: StackPointer,
    /// The slab this is part of.
    slab: *const Slab,
    size: StackSize,
}

impl Stack {
    /// The size of this stack.
    #[inline]
    pub fn size(&self) -> StackSize {
        self.slot().size
    }

    /// Names the fiber on this stack to the fault handler.
    ///
    /// # Safety
    /// - `owner` and the name in it stay readable and unchanged until the stack is put back,
    ///   dropped, or given another owner.
    #[inline]
    pub unsafe fn set_owner(&self, owner: *const OwnerInfo) {
        self.slot().owner.store(owner.cast_mut(), Ordering::Release);
    }

    /// Takes the fiber's name off this stack.
    #[inline]
    pub fn clear_owner(&self) {
        self.slot().owner.store(ptr::null_mut(), Ordering::Release);
    }

    /// Gives this stack up for ever, because frames on it may still be referred to.
    ///
    /// Its slab stays mapped. A coroutine that owns its stack is forgotten instead, which does the
    /// same, and counted with [`StackPool::count_leaked`](super::StackPool::count_leaked).
    pub fn leak(self) {
        self.slab().counters.leaked.fetch_add(1, Ordering::Relaxed);
        std::mem::forget(self);
    }

    /// Where this stack lies. Note it before a coroutine takes the stack.
    #[inline]
    pub fn area(&self) -> StackArea {
        let slot = self.slot();
        let top = (slot.base.get() + COLOURS * COLOUR_BYTES - 1) & !(COLOURS * COLOUR_BYTES - 1);
        StackArea { top, size: slot.size }
    }

    #[inline]
    fn slot(&self) -> &Slot {
        // SAFETY: by the invariant of `slot`; the slab owns its slots.
        unsafe { self.slot.as_ref() }
    }

    fn slab(&self) -> &Slab {
        // SAFETY: by the invariant of `slot`.
        unsafe { &*self.slot().slab }
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stack").field(&self.area()).finish()
    }
}

// SAFETY: base, guard start and top come from one slab, `base` being at most 2 KiB below the top
// (see `Slab::map`); below the usable part lie GUARD_BYTES which `Slab::prepare` guarded before
// it made the first `Stack` of this index, and nothing takes a guard away while the slab is mapped,
// which the Arc ensures. The smallest class leaves 64 KiB. Both addresses are multiples of 64.
unsafe impl corosensei::stack::Stack for Stack {
    #[inline]
    fn base(&self) -> StackPointer {
        self.slot().base
    }

    #[inline]
    fn limit(&self) -> StackPointer {
        StackPointer::new(self.area().limit()).expect("no slab is mapped at address 0")
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.clear_owner();
        if self.size().class().is_some()
            && let Some(home) = self.slab().home.upgrade()
        {
            // The strong count moves on with the slot.
            home.put(&mut vec![Self { slot: self.slot }]);
            return;
        }
        // SAFETY: `slab` came from an Arc, and by the invariant of `slot` this count is ours.
        unsafe { Arc::decrement_strong_count(self.slot().slab) };
    }
}

/// Where new stacks of one class come from.
#[derive(Debug, Default)]
pub(super) struct Source {
    current: Option<Arc<Slab>>,
    /// Stacks of `current` that were made.
    next: usize,
    /// Stacks made from all slabs.
    made: usize,
}

impl Source {
    /// Makes a batch of stacks and appends them to `stacks`: at least one.
    pub(super) fn make(
        &mut self,
        size: StackSize,
        origin: &Origin,
        stacks: &mut Vec<Stack>,
    ) -> Result<(), StackError> {
        let slab = match &self.current {
            Some(slab) if self.next < slab.slots.len() => slab,
            _ => {
                let count = stacks_per_slab(size, self.made);
                self.next = 0;
                self.current.insert(Slab::map(size, count, origin)?)
            }
        };
        let batch = self.next..slab.slots.len().min(self.next + stacks_per_batch(size));
        slab.prepare(batch.clone(), origin)?;
        self.made += batch.len();
        self.next = batch.end;
        stacks.extend(batch.map(|index| Slab::stack(slab, index)));
        Ok(())
    }
}

/// Makes a stack that is too large to be pooled: it has a slab of its own.
pub(super) fn large(size: StackSize, origin: &Origin) -> Result<Stack, StackError> {
    let slab = Slab::map(size, 1, origin)?;
    slab.prepare(0..1, origin)?;
    Ok(Slab::stack(&slab, 0))
}

/// Commits the top page of every stack with one call, which is cheaper than faulting it in later.
pub(super) fn populate(stacks: &[Stack]) {
    #[cfg(target_os = "linux")]
    for batch in stacks.chunks(BATCH_MAX) {
        let mut ranges = [Range { start: 0, len: 0 }; BATCH_MAX];
        for (range, stack) in ranges.iter_mut().zip(batch) {
            *range = stack.area().top_page();
        }
        // Only an optimisation: the page is faulted in if this is refused.
        // SAFETY: the pages are part of slabs, and this advice discards nothing.
        let _ = unsafe { sys::advise(&ranges[..batch.len()], Advice::Populate) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = stacks;
}

/// Gives the memory of free stacks back, but for their top pages if `keep_top`.
pub(super) fn give_back(stacks: &[Stack], keep_top: bool) {
    for batch in stacks.chunks(BATCH_MAX) {
        let mut ranges = [Range { start: 0, len: 0 }; BATCH_MAX];
        for (range, stack) in ranges.iter_mut().zip(batch) {
            *range = stack.area().usable();
            if keep_top {
                range.len -= stack.area().top_page().len;
            }
        }
        // Refused in locked memory, which the process asked to keep.
        // SAFETY: whoever owns a free stack vouches that it has no live frames.
        let _ = unsafe { sys::advise(&ranges[..batch.len()], Advice::GiveBack) };
    }
}

/// One reservation. Unmapped when the last of its stacks is gone.
struct Slab {
    start: usize,
    size: StackSize,
    slots: Box<[Slot]>,
    /// Undone when the slab goes.
    state: Mutex<State>,
    /// Stacks that were made, in no particular order with anything.
    prepared: AtomicUsize,
    home: Weak<SharedStacks>,
    counters: Arc<Counters>,
}

#[derive(Debug)]
struct State {
    registration: Option<Registration>,
    protected: Protected,
    valgrind: Vec<ValgrindStackRegistration>,
}

impl Slab {
    fn map(size: StackSize, mut count: usize, origin: &Origin) -> Result<Arc<Self>, StackError> {
        let start = loop {
            match sys::reserve(count * size.reserve()) {
                Ok(start) => break start,
                Err(source) if count == 1 => {
                    return Err(StackError::Reserve { bytes: size.reserve(), source });
                }
                // Under a limit of address space or locked memory less may still fit.
                Err(_) => count /= 2,
            }
        };
        let len = count * size.reserve();
        let slot = |slab, index: usize| Slot {
            owner: AtomicPtr::default(),
            base: StackPointer::new(
                start + (index + 1) * size.reserve() - index % COLOURS * COLOUR_BYTES,
            )
            .expect("the top of a mapping is not address 0"),
            slab,
            size,
        };
        origin.counters.slabs.fetch_add(1, Ordering::Relaxed);
        origin.counters.reserved.fetch_add(len, Ordering::Relaxed);
        Ok(Arc::new_cyclic(|slab: &Weak<Self>| {
            let slots: Box<[Slot]> = (0..count).map(|index| slot(slab.as_ptr(), index)).collect();
            // SAFETY: there is a slot for every stride, and `drop` removes the registration
            // before the slots go.
            let registration =
                unsafe { registry::register(start, len, size.reserve(), slots.as_ptr()) };
            let state = State {
                registration: Some(registration),
                protected: Protected::NONE,
                valgrind: Vec::new(),
            };
            Self {
                start,
                size,
                slots,
                state: Mutex::new(state),
                prepared: AtomicUsize::new(0),
                home: origin.home.clone(),
                counters: Arc::clone(&origin.counters),
            }
        }))
    }

    /// Guards the stacks `batch`, which were not made yet.
    fn prepare(&self, batch: std::ops::Range<usize>, origin: &Origin) -> Result<(), StackError> {
        let stride = self.size.reserve();
        let mut guards = [Range { start: 0, len: GUARD_BYTES }; BATCH_MAX];
        let guards = &mut guards[..batch.len()];
        for (guard, index) in guards.iter_mut().zip(batch.clone()) {
            guard.start = self.start + index * stride;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the ranges lie in this slab, below stacks nobody has yet.
        let protected = unsafe { guard::install(guards, origin.guards) }?;
        state.protected.merge(protected);
        // Valgrind takes a jump between stacks it does not know for a huge frame.
        state.valgrind.extend(batch.clone().map(|index| {
            let usable = self.start + index * stride + GUARD_BYTES;
            ValgrindStackRegistration::new(usable as *mut u8, self.size.usable())
        }));
        self.prepared.fetch_add(batch.len(), Ordering::Relaxed);
        self.counters.made.fetch_add(batch.len(), Ordering::Relaxed);
        Ok(())
    }

    /// The stack at `index`, which was prepared and has no `Stack` yet.
    fn stack(slab: &Arc<Self>, index: usize) -> Stack {
        // The count this value holds from now on.
        let slab = Arc::into_raw(Arc::clone(slab));
        // SAFETY: the count just taken keeps it alive.
        Stack { slot: NonNull::from_ref(unsafe { &(&(*slab).slots)[index] }) }
    }
}

// SAFETY: the pointers in the slots point to the slab itself, which is used from many threads
// through atomics and a lock only.
unsafe impl Send for Slab {}
// SAFETY: as above.
unsafe impl Sync for Slab {}

impl Drop for Slab {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.registration = None;
        state.valgrind.clear();
        let len = self.slots.len() * self.size.reserve();
        // SAFETY: the range is what `map` reserved. Every `Stack` of it holds an Arc, so none is
        // left, and leaked ones would have kept us from getting here.
        unsafe { sys::release(Range { start: self.start, len }) };
        // Only now, when the mappings are gone, may others be made instead.
        state.protected = Protected::NONE;
        self.counters.made.fetch_sub(self.prepared.load(Ordering::Relaxed), Ordering::Relaxed);
        self.counters.slabs.fetch_sub(1, Ordering::Relaxed);
        self.counters.reserved.fetch_sub(len, Ordering::Relaxed);
    }
}

impl fmt::Debug for Slab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slab")
            .field("start", &self.start)
            .field("size", &self.size)
            .field("prepared", &self.prepared)
            .finish_non_exhaustive()
    }
}

/// How many stacks the next slab gets: 64 MiB worth, and a quarter of what there is already, so
/// that a million stacks are a few hundred mappings even where neighbours do not merge.
fn stacks_per_slab(size: StackSize, made: usize) -> usize {
    let usual = (SLAB_BYTES / size.reserve()).clamp(1, 256);
    let most = (SLAB_BYTES_MAX / size.reserve()).max(usual);
    (made / 4).clamp(usual, most)
}

fn stacks_per_batch(size: StackSize) -> usize {
    (BATCH_BYTES / size.reserve()).clamp(1, BATCH_MAX)
}

/// Stacks made, moved and advised about at a time.
pub(super) const BATCH_MAX: usize = 32;
/// Reserve of the stacks made at a time, unless that would be too many.
const BATCH_BYTES: usize = 32 << 20;
/// Reserve of a usual slab.
const SLAB_BYTES: usize = 64 << 20;
/// Reserve of the largest slab.
const SLAB_BYTES_MAX: usize = if usize::BITS > 32 { 2 << 30 } else { 64 << 20 };
/// Initial stack pointers differ by up to this many cache lines: with all tops at one page offset
/// the hot lines of all fibers compete for the same sets of the first-level cache.
const COLOURS: usize = 32;
const COLOUR_BYTES: usize = 64;
