//! Stacks on Windows: single reservations of corosensei's making, behind the same types.
//!
//! The system commits and guards stacks itself and insists on knowing their bounds, so there are no
//! slabs, no colours, no trimming and no fault handler of ours: an overflow ends the process with
//! the system's own message.

use std::io;
use std::sync::{Arc, Weak, atomic::Ordering::Relaxed};

use corosensei::stack::{DefaultStack, Stack as _, StackPointer, StackTebFields};

use super::shared::{Counters, Origin, SharedStacks};
use super::{OwnerInfo, StackError, StackSize};

/// A stack for one fiber, guard included.
///
/// Put it back into a [`StackPool`](super::StackPool) after use.
pub struct Stack {
    inner: Option<DefaultStack>,
    size: StackSize,
    home: Weak<SharedStacks>,
    counters: Arc<Counters>,
}

impl Stack {
    /// The size of this stack.
    pub fn size(&self) -> StackSize {
        self.size
    }

    /// Does nothing: there is no fault handler that could ask.
    ///
    /// # Safety
    /// As on Unix.
    pub unsafe fn set_owner(&self, _owner: *const OwnerInfo) {}

    /// Does nothing, as [`Stack::set_owner`].
    pub fn clear_owner(&self) {}

    /// Gives this stack up for ever, because frames on it may still be referred to.
    pub fn leak(self) {
        self.counters.leaked.fetch_add(1, Relaxed);
        std::mem::forget(self);
    }

    /// Where this stack lies.
    pub fn area(&self) -> StackArea {
        let inner = self.inner();
        StackArea { limit: inner.limit().get(), base: inner.base().get(), size: self.size }
    }

    fn new(size: StackSize, origin: &Origin) -> Result<Self, StackError> {
        let bytes = size.usable();
        let inner =
            DefaultStack::new(bytes).map_err(|source| StackError::Reserve { bytes, source })?;
        origin.counters.made.fetch_add(1, Relaxed);
        origin.counters.reserved.fetch_add(size.reserve(), Relaxed);
        let counters = Arc::clone(&origin.counters);
        Ok(Self { inner: Some(inner), size, home: origin.home.clone(), counters })
    }

    fn inner(&self) -> &DefaultStack {
        self.inner.as_ref().expect("taken in drop only")
    }
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stack").field("size", &self.size).finish_non_exhaustive()
    }
}

// SAFETY: every method hands on to corosensei's own stack, which upholds the contract.
unsafe impl corosensei::stack::Stack for Stack {
    fn base(&self) -> StackPointer {
        self.inner().base()
    }

    fn limit(&self) -> StackPointer {
        self.inner().limit()
    }

    fn teb_fields(&self) -> StackTebFields {
        self.inner().teb_fields()
    }

    fn update_teb_fields(&mut self, stack_limit: usize, guaranteed_stack_bytes: usize) {
        let inner = self.inner.as_mut().expect("taken in drop only");
        inner.update_teb_fields(stack_limit, guaranteed_stack_bytes);
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if self.size.class().is_some()
            && let Some(home) = self.home.upgrade()
        {
            let stack = Self {
                inner: self.inner.take(),
                size: self.size,
                home: self.home.clone(),
                counters: Arc::clone(&self.counters),
            };
            home.put(&mut vec![stack]);
            return;
        }
        self.counters.made.fetch_sub(1, Relaxed);
        self.counters.reserved.fetch_sub(self.size.reserve(), Relaxed);
    }
}

/// The addresses of a stack, to be noted before a coroutine takes the [`Stack`].
#[derive(Clone, Copy, Debug)]
pub struct StackArea {
    limit: usize,
    base: usize,
    size: StackSize,
}

impl StackArea {
    /// Whether `address` is in the stack.
    pub fn contains(&self, address: usize) -> bool {
        (self.limit..self.base).contains(&address)
    }

    /// The size of the stack.
    pub fn size(&self) -> StackSize {
        self.size
    }

    /// Not known here.
    ///
    /// # Errors
    /// Always.
    pub fn high_water(&self) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Not known here.
    ///
    /// # Errors
    /// Always.
    pub fn resident(&self) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Where new stacks of one class come from.
#[derive(Debug, Default)]
pub(super) struct Source;

impl Source {
    pub(super) fn make(
        &mut self,
        size: StackSize,
        origin: &Origin,
        stacks: &mut Vec<Stack>,
    ) -> Result<(), StackError> {
        stacks.push(Stack::new(size, origin)?);
        Ok(())
    }
}

pub(super) fn large(size: StackSize, origin: &Origin) -> Result<Stack, StackError> {
    Stack::new(size, origin)
}

pub(super) fn populate(_stacks: &[Stack]) {}

pub(super) fn give_back(_stacks: &[Stack], _keep_top: bool) {}

pub(super) fn protected_count() -> usize {
    0
}

pub(super) fn protected_max() -> usize {
    usize::MAX
}

/// Handlers run on the faulting stack here.
pub(super) fn signal_frame_bytes() -> usize {
    4096
}

/// Does nothing: pages of a stack cannot be given back safely here.
#[derive(Debug)]
pub struct Trim;

impl Trim {
    /// As on Unix, where it means something.
    pub const TOLERANCE: usize = 2048;

    /// An empty collection.
    pub fn new(_keep_pages: usize) -> Self {
        Self
    }

    /// Does nothing.
    ///
    /// # Safety
    /// As on Unix.
    pub unsafe fn add(&mut self, _area: StackArea, _sp: usize) {}

    /// Does nothing.
    pub fn flush(&mut self) {}
}

/// Guards are the system's business here.
///
/// # Errors
/// Always.
pub fn probe_guards() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Does nothing: the system reports overflows itself.
///
/// # Errors
/// Never.
pub fn install() -> io::Result<()> {
    Ok(())
}

/// Nothing is needed per thread here.
#[derive(Debug)]
pub struct SignalStack;

/// Does nothing: there are no signal stacks here.
///
/// # Errors
/// Never.
pub fn install_for_thread() -> io::Result<SignalStack> {
    Ok(SignalStack)
}

/// Stacks moved at a time.
pub(super) const BATCH_MAX: usize = 32;
