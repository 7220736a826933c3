//! A worker's own stacks: last in, first out, so that the next fiber runs on warm memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::size::CLASS_COUNT;
use super::slab::{self, BATCH_MAX};
use super::{SharedStacks, Stack, StackError, StackSize};

/// The free stacks of one worker.
///
/// At most 256 of each class; surplus and shortage go through [`SharedStacks`] 32 at a time.
///
/// ```
/// use fibra_runtime::stack::{GuardMode, SharedStacks, StackPool, StackSize};
///
/// let mut pool = StackPool::new(SharedStacks::new(GuardMode::Auto));
/// let stack = pool.take(StackSize::SPAWNED)?;
/// pool.put(stack);
/// # Ok::<(), fibra_runtime::stack::StackError>(())
/// ```
#[derive(Debug)]
pub struct StackPool {
    classes: [Vec<Stack>; CLASS_COUNT],
    shared: Arc<SharedStacks>,
    /// Length of all lists together.
    len: usize,
    /// The same for the metrics. Written by this pool only.
    cached: Arc<AtomicUsize>,
}

impl StackPool {
    /// The most stacks of one class a pool keeps.
    pub const CACHED_MAX: usize = 256;

    /// An empty pool on top of `shared`.
    pub fn new(shared: Arc<SharedStacks>) -> Self {
        let cached = Arc::default();
        shared.join(&cached);
        Self { classes: Default::default(), shared, len: 0, cached }
    }

    /// The pool this one exchanges stacks with.
    pub fn shared(&self) -> &Arc<SharedStacks> {
        &self.shared
    }

    /// Takes the stack of this size that was put back last, or a new one.
    ///
    /// # Errors
    /// If there is none and none can be made.
    #[inline]
    pub fn take(&mut self, size: StackSize) -> Result<Stack, StackError> {
        let Some(index) = size.class() else {
            return self.shared.take_large(size);
        };
        if let Some(stack) = self.classes[index].pop() {
            self.count(-1);
            return Ok(stack);
        }
        self.refill(size, index)
    }

    /// Takes back a stack on which no frame is live any more.
    ///
    /// A fiber that can never be run to its end is forgotten instead, stack and all; see
    /// [`StackPool::count_leaked`].
    #[inline]
    pub fn put(&mut self, stack: Stack) {
        stack.clear_owner();
        // Too large to be pooled: dropping it unmaps it.
        let Some(index) = stack.size().class() else { return };
        if self.classes[index].len() >= Self::CACHED_MAX {
            self.drain(index);
        }
        self.classes[index].push(stack);
        self.count(1);
    }

    /// Counts a stack of this runtime that was forgotten together with the coroutine that owns it.
    pub fn count_leaked(&self) {
        self.shared.count_leaked();
    }

    /// Gives back the memory of the free stacks, but for their top pages.
    ///
    /// For a worker that has nothing to do: a system call for every 32 stacks.
    pub fn release_cold(&self) {
        for class in &self.classes {
            slab::give_back(class, true);
        }
    }

    /// Fetches a batch into an empty class and takes one of it.
    #[cold]
    fn refill(&mut self, size: StackSize, index: usize) -> Result<Stack, StackError> {
        let class = &mut self.classes[index];
        if class.capacity() == 0 {
            class.reserve_exact(Self::CACHED_MAX);
        }
        self.shared.take(size, index, class)?;
        let stack = class.pop().expect("a batch has at least one stack");
        self.count(self.classes[index].len() as isize);
        Ok(stack)
    }

    /// Moves the 32 stacks that were not used for longest to the shared pool.
    #[cold]
    fn drain(&mut self, index: usize) {
        let mut batch: Vec<Stack> = self.classes[index].drain(..BATCH_MAX).collect();
        self.shared.put(&mut batch);
        self.count(-(BATCH_MAX as isize));
    }

    #[inline]
    fn count(&mut self, change: isize) {
        self.len = self.len.wrapping_add_signed(change);
        // A store, not a locked instruction: there is one writer.
        self.cached.store(self.len, Relaxed);
    }
}

impl Drop for StackPool {
    fn drop(&mut self) {
        for class in &mut self.classes {
            while !class.is_empty() {
                let keep = class.len().saturating_sub(BATCH_MAX);
                let mut batch = class.split_off(keep);
                self.shared.put(&mut batch);
            }
        }
        self.shared.part(&self.cached);
    }
}
