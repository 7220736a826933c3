//! The pool behind the workers' pools: surplus of one is the shortage of another.
//!
//! Under its lock stacks move 32 at a time, so a worker comes here once in 32 times at most. A free
//! stack is *warm* (its top page is in memory) or *cold* (none is). Both lists hold at most what
//! was in use at once, as stacks are made only when both are empty.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::guard::{protected_count, protected_max};
use super::size::CLASS_COUNT;
use super::slab::{self, Source, Stack};
use super::{GuardMode, StackError, StackSize};

/// The stacks of a runtime, shared by its workers' [`StackPool`](super::StackPool)s.
#[derive(Debug)]
pub struct SharedStacks {
    classes: [Mutex<Class>; CLASS_COUNT],
    origin: Origin,
    /// How many stacks each worker's pool holds, written by that worker.
    cached: Mutex<Vec<Arc<AtomicUsize>>>,
}

impl SharedStacks {
    /// An empty pool that guards its stacks as `guards` says. Reserves nothing yet.
    pub fn new(guards: GuardMode) -> Arc<Self> {
        Arc::new_cyclic(|home| Self {
            classes: Default::default(),
            origin: Origin { home: home.clone(), counters: Arc::default(), guards },
            cached: Mutex::default(),
        })
    }

    /// What there is now. Takes locks; the parts are not read at one instant.
    pub fn metrics(&self) -> StackMetrics {
        let counters = &self.origin.counters;
        let cached = self.caches().iter().map(|cached| cached.load(Relaxed)).sum();
        let (mut warm, mut cold) = (0, 0);
        for index in 0..CLASS_COUNT {
            let class = self.class(index);
            warm += class.warm.len();
            cold += class.cold.len();
        }
        let leaked = counters.leaked.load(Relaxed);
        let idle = cached + warm + cold + leaked;
        StackMetrics {
            live: counters.made.load(Relaxed).saturating_sub(idle),
            cached,
            warm,
            cold,
            leaked,
            slabs: counters.slabs.load(Relaxed),
            reserved_bytes: counters.reserved.load(Relaxed),
            guards: self.origin.guards,
            mprotect_guards: protected_count(),
            mprotect_guards_max: protected_max(),
        }
    }

    /// Counts a stack that was forgotten together with the coroutine that owns it.
    pub(super) fn count_leaked(&self) {
        self.origin.counters.leaked.fetch_add(1, Relaxed);
    }

    /// Appends a batch of free stacks to `stacks`: at least one, made now if need be.
    pub(super) fn take(
        &self,
        size: StackSize,
        index: usize,
        stacks: &mut Vec<Stack>,
    ) -> Result<(), StackError> {
        let mut class = self.class(index);
        if !class.warm.is_empty() {
            let keep = class.warm.len().saturating_sub(slab::BATCH_MAX);
            stacks.extend(class.warm.drain(keep..));
            return Ok(());
        }
        if class.cold.is_empty() {
            class.source.make(size, &self.origin, stacks)?;
        } else {
            let keep = class.cold.len().saturating_sub(slab::BATCH_MAX);
            stacks.extend(class.cold.drain(keep..));
        }
        drop(class);
        slab::populate(stacks);
        Ok(())
    }

    /// Makes a stack too large to be pooled.
    pub(super) fn take_large(&self, size: StackSize) -> Result<Stack, StackError> {
        slab::large(size, &self.origin)
    }

    /// Takes all of `stacks`, which are free and of one class.
    ///
    /// Memory below the top page goes back, and the top page too where enough are warm.
    pub(super) fn put(&self, stacks: &mut Vec<Stack>) {
        let Some(index) = stacks.first().and_then(|stack| stack.size().class()) else {
            stacks.clear();
            return;
        };
        let warm = {
            let mut class = self.class(index);
            let warm = class.warm.len() + class.claimed + stacks.len() <= WARM_MAX;
            class.claimed += if warm { stacks.len() } else { 0 };
            warm
        };
        // A system call on up to 32 stacks: not under the lock.
        slab::give_back(stacks, warm);
        let mut class = self.class(index);
        if warm {
            class.claimed -= stacks.len();
            class.warm.append(stacks);
        } else {
            class.cold.append(stacks);
        }
    }

    /// Adds a worker's count of cached stacks to the metrics.
    pub(super) fn join(&self, cached: &Arc<AtomicUsize>) {
        self.caches().push(Arc::clone(cached));
    }

    /// Takes a worker's count out of the metrics.
    pub(super) fn part(&self, cached: &Arc<AtomicUsize>) {
        self.caches().retain(|other| !Arc::ptr_eq(other, cached));
    }

    fn class(&self, index: usize) -> MutexGuard<'_, Class> {
        self.classes[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn caches(&self) -> MutexGuard<'_, Vec<Arc<AtomicUsize>>> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What there is in a [`SharedStacks`] and the pools on top of it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct StackMetrics {
    /// Stacks in use.
    pub live: usize,
    /// Free stacks in the workers' own pools.
    pub cached: usize,
    /// Free stacks in the shared pool whose top page is in memory.
    pub warm: usize,
    /// Free stacks in the shared pool that hold no memory.
    pub cold: usize,
    /// Stacks given up for ever.
    pub leaked: usize,
    /// Reservations.
    pub slabs: usize,
    /// Address space reserved, in bytes.
    pub reserved_bytes: usize,
    /// How guards were asked for.
    pub guards: GuardMode,
    /// Stacks of the whole process guarded with `mprotect`: 0 where guards cost no mapping.
    pub mprotect_guards: usize,
    /// The most there may be.
    pub mprotect_guards_max: usize,
}

/// What every new stack needs to know.
#[derive(Debug)]
pub(super) struct Origin {
    pub home: Weak<SharedStacks>,
    pub counters: Arc<Counters>,
    pub guards: GuardMode,
}

/// Counts kept by slabs, which can outlive their pool. Relaxed: they order nothing.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub made: AtomicUsize,
    pub leaked: AtomicUsize,
    pub slabs: AtomicUsize,
    pub reserved: AtomicUsize,
}

#[derive(Debug, Default)]
struct Class {
    warm: Vec<Stack>,
    /// Places in `warm` promised to stacks that are on their way.
    claimed: usize,
    cold: Vec<Stack>,
    source: Source,
}

/// Free stacks per class that keep a page in the shared pool.
const WARM_MAX: usize = 1024;
