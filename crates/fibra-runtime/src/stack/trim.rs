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
}

impl Trim {
    /// An empty collection. Allocates nothing.
    pub const fn new() -> Self {
        Self { ranges: [Range { start: 0, len: 0 }; BATCH_MAX], len: 0 }
    }

    /// Adds the pages of the stack at `area` that are more than two pages below `sp`.
    ///
    /// A full collection is given back at once, so any number can be added.
    ///
    /// # Safety
    /// - The fiber on that stack, which is mapped, is suspended, with its stack pointer at most a page below `sp`.
    /// - It is not resumed before [`Trim::flush`] returned or this value is gone.
    pub unsafe fn add(&mut self, area: StackArea, sp: usize) {
        debug_assert!(area.contains(sp), "sp is not on this stack");
        let page = sys::page_bytes();
        let end = (sp & !(page - 1)).saturating_sub(KEEP_PAGES * page);
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

impl Default for Trim {
    fn default() -> Self {
        Self::new()
    }
}

/// Whole pages kept below the page of the stack pointer: the part of that page, one for the
/// tolerance in `sp`, and one that the next call would fault in again at once.
const KEEP_PAGES: usize = 2;
