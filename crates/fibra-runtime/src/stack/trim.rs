//! Memory of parked fibers: what lies well below their stack pointers goes back.
//!
//! A fiber that once panicked, logged or did a TLS handshake keeps the pages it touched for as long
//! as it is parked. Whether it did is not looked up first: asking costs more than giving back.

use super::StackArea;
use super::slab::BATCH_MAX;
use super::sys::{self, Advice, Range};

/// Collects stacks of parked fibers and gives their unused pages back, many with one call.
#[derive(Debug)]
pub struct Trim {
    ranges: [Range; BATCH_MAX],
    len: usize,
    keep_bytes: usize,
}

impl Trim {
    /// How far below the address given to [`Trim::add`] a suspended fiber may still keep data, in
    /// bytes: the frames of the suspension itself and the red zone.
    pub const TOLERANCE: usize = 2048;

    /// An empty collection. Allocates nothing.
    ///
    /// `keep_pages` are left to each fiber below the page its data ends on, for the calls it makes
    /// first when it goes on.
    pub fn new(keep_pages: usize) -> Self {
        let keep_bytes = keep_pages * sys::page_bytes();
        Self { ranges: [Range { start: 0, len: 0 }; BATCH_MAX], len: 0, keep_bytes }
    }

    /// Adds the pages of the stack at `area` that are unused while the fiber is suspended.
    ///
    /// `sp` is any address in the frame that suspends. A full collection is given back at once, so
    /// any number can be added.
    ///
    /// # Safety
    /// - The stack is mapped and the fiber on it suspended, with nothing it still needs further
    ///   than [`Trim::TOLERANCE`] below `sp`.
    /// - It is not resumed before [`Trim::flush`] returned or this value is gone.
    pub unsafe fn add(&mut self, area: StackArea, sp: usize) {
        debug_assert!(area.contains(sp), "sp is not on this stack");
        let lowest = sp.saturating_sub(Self::TOLERANCE);
        let end = (lowest & !(sys::page_bytes() - 1)).saturating_sub(self.keep_bytes);
        if end <= area.floor() {
            return;
        }
        self.ranges[self.len] = Range { start: area.floor(), len: end - area.floor() };
        self.len += 1;
        if self.len == BATCH_MAX {
            self.flush();
        }
    }

    /// Gives the pages of what was added back, with one call.
    pub fn flush(&mut self) {
        let ranges = &self.ranges[..std::mem::take(&mut self.len)];
        // Refused in locked memory, which the process asked to keep.
        // SAFETY: `add` was promised that nobody uses what lies below, until here.
        let _ = unsafe { sys::advise(ranges, Advice::GiveBack) };
    }
}
