//! Where a stack lies: what can be asked about one while a coroutine owns it.

use std::io;

use super::sys::{self, Range};
use super::{GUARD_BYTES, StackSize};

/// The addresses of a stack, to be noted before a coroutine takes the [`Stack`](super::Stack).
///
/// Only addresses: what it says is meaningless once the stack was dropped, but never unsafe.
#[derive(Clone, Copy, Debug)]
pub struct StackArea {
    /// The address behind the highest byte.
    pub(super) top: usize,
    pub(super) size: StackSize,
}

impl StackArea {
    /// Whether `address` is in the part of the stack that can be used.
    #[inline]
    pub fn contains(&self, address: usize) -> bool {
        (self.floor()..self.top).contains(&address)
    }

    /// The size of the stack.
    #[inline]
    pub fn size(&self) -> StackSize {
        self.size
    }

    /// The distance from the top to the lowest page in memory, in bytes: how deep the stack was
    /// ever used since its pages were last given back.
    ///
    /// For dumps and diagnosis; a system call.
    ///
    /// # Errors
    /// What `mincore` answered, for example that the stack is not mapped any more.
    pub fn high_water(&self) -> io::Result<usize> {
        let usable = self.usable();
        let mut deepest = 0;
        sys::resident_pages(usable, |page| {
            deepest = usable.len - page * sys::page_bytes();
            false
        })?;
        Ok(deepest)
    }

    /// Bytes of the stack that are in memory.
    ///
    /// For dumps and diagnosis; a system call.
    ///
    /// # Errors
    /// As [`StackArea::high_water`].
    pub fn resident(&self) -> io::Result<usize> {
        let mut pages = 0;
        sys::resident_pages(self.usable(), |_| {
            pages += 1;
            true
        })?;
        Ok(pages * sys::page_bytes())
    }

    /// Lowest address of the guard.
    #[inline]
    pub(super) fn limit(&self) -> usize {
        self.top - self.size.reserve()
    }

    /// Lowest address that can be used.
    #[inline]
    pub(super) fn floor(&self) -> usize {
        self.limit() + GUARD_BYTES
    }

    /// All that can be used.
    pub(super) fn usable(&self) -> Range {
        Range { start: self.floor(), len: self.size.usable() }
    }

    /// The page the first frames lie on.
    pub(super) fn top_page(&self) -> Range {
        let page = sys::page_bytes();
        Range { start: self.top - page, len: page }
    }
}
