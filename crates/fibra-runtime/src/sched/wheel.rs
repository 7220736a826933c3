//! The timer wheel: any number of deadlines, inserted and cancelled in constant time.
//!
//! Promise: `expire(now)` fires exactly the timers whose deadline has come, none early, in the
//! order of their deadlines, equal ones in the order of their insertion.
//!
//! After Varghese and Lauck: time is cut into ticks of 2^18 ns (262 us). A slot of level 0 is
//! one tick, a slot of level 1 is 64 of them, of level 2 64 times 64, and so on; eight levels reach
//! the end of the 64-bit clock, so no deadline is too far. With `elapsed` the tick reached so far,
//! and ticks read as numbers with eight digits of six bits:
//!
//! ```text
//!    elapsed    0 0 0 0 0  7 12 40
//!    deadline   0 0 0 0 0  9  3 61      first differing digit, from the left: of level 2
//!                         ^
//!    level 2   [ ][ ]..[7 elapsed][ ][9 here]..[ ]    its slot: the digit of the deadline there
//!    level 1   [ ].....[12].....[ ]                   everything in it is sooner than level 2
//!    level 0   [ ].....[40].....[ ]                   everything in it is sooner than level 1
//! ```
//!
//! 1. A timer lies where its deadline's first digit that differs from `elapsed` says; one that is
//!    due in this tick, or overdue, in level 0 at the last digit of `elapsed`.
//! 2. `elapsed` only grows, and never past the start of a slot with timers in it without emptying
//!    that slot into lower levels ("cascade"). So where a timer lies follows from `elapsed` and its
//!    deadline alone: `cancel` computes it, and timers of one tick are always together.
//! 3. By 1 the first slot with timers of the lowest level that has any holds the next deadline.
//!    Two bit maps find it. A timer cascades at most seven times in its life.
//! 4. The deadline itself is kept, so that the tick decides where to look, never what fires.
//!
//! Timers live in a slab that grows to the highest number there ever were, and is then reused.

mod slot;
#[cfg(all(test, not(loom)))]
mod tests;

use std::fmt;
use std::num::NonZeroU64;

use slot::{Entry, NIL, Slot};

/// A timer in a [`Wheel`]. Names that timer only, also after its place was used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerId {
    index: u32,
    sequence: NonZeroU64,
}

/// Deadlines of one worker, each with a token to hand out. Not shared between threads.
pub(crate) struct Wheel<T> {
    entries: Vec<Entry<T>>,
    /// The first free entry; the others follow by `next`.
    free: u32,
    /// How many timers there are.
    len: usize,
    /// The number of the next timer.
    sequence: NonZeroU64,
    /// The tick up to which slots were emptied.
    elapsed: u64,
    /// The levels that have timers, a bit each.
    levels: u8,
    /// Per level the slots that have timers, a bit each.
    occupied: [u64; LEVEL_COUNT],
    /// Per level the slots whose `soonest` may be too soon, since that timer was cancelled.
    stale: [u64; LEVEL_COUNT],
    slots: Box<[[Slot; SLOT_COUNT]; LEVEL_COUNT]>,
    /// Those of one tick that fire now. Empty between calls; kept for its memory.
    due: Vec<Due>,
}

/// Ordered by deadline, then by insertion.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    deadline: u64,
    sequence: NonZeroU64,
    index: u32,
}

impl<T: Copy> Wheel<T> {
    /// A wheel without timers, that stands at `now`.
    pub(crate) fn new(now: u64) -> Self {
        Self {
            entries: Vec::new(),
            free: NIL,
            len: 0,
            sequence: NonZeroU64::MIN,
            elapsed: now >> TICK_BITS,
            levels: 0,
            occupied: [0; LEVEL_COUNT],
            stale: [0; LEVEL_COUNT],
            slots: Box::new([const { [Slot::EMPTY; SLOT_COUNT] }; LEVEL_COUNT]),
            due: Vec::new(),
        }
    }

    /// How many timers there are. The metric; the bound is 2^32 - 1.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds a timer. `deadline` is in nanoseconds of the clock that [`expire`](Self::expire) is
    /// given, and may be past or as far as that clock goes.
    ///
    /// # Panics
    /// With 2^32 - 1 timers.
    pub(crate) fn insert(&mut self, deadline: u64, token: T) -> TimerId {
        let sequence = self.sequence;
        self.sequence = sequence.saturating_add(1);
        let entry = Entry { deadline, sequence: sequence.get(), prev: NIL, next: NIL, token };
        let index = self.free;
        let index = if let Some(place) = self.entries.get_mut(index as usize) {
            self.free = place.next;
            *place = entry;
            index
        } else {
            let index = u32::try_from(self.entries.len()).unwrap_or(NIL);
            assert!(index != NIL, "a timer wheel holds at most {NIL} timers");
            self.entries.push(entry);
            index
        };
        self.len += 1;
        self.link(index);
        TimerId { index, sequence }
    }

    /// Takes a timer out before it fires. `None` if it has fired or was cancelled.
    pub(crate) fn cancel(&mut self, id: TimerId) -> Option<T> {
        let entry = self.entries.get(id.index as usize)?;
        if entry.sequence != id.sequence.get() {
            return None;
        }
        let (deadline, token) = (entry.deadline, entry.token);
        let (level, digit) = self.place(deadline);
        let slot = &mut self.slots[level][digit];
        slot.unlink(&mut self.entries, id.index);
        if slot.is_empty() {
            self.vacate(level, digit);
        } else if slot.soonest == deadline {
            self.stale[level] |= 1 << digit;
        }
        self.release(id.index);
        Some(token)
    }

    /// When to call [`expire`](Self::expire) next: the nearest deadline, never later.
    ///
    /// It is that deadline exactly, unless its timer was cancelled and shares a slot with more than
    /// 64 others; then it may be too soon, once for that slot.
    pub(crate) fn next_deadline(&mut self) -> Option<u64> {
        let (level, digit) = self.first_slot()?;
        let slot = &mut self.slots[level][digit];
        if self.stale[level] & 1 << digit != 0
            && let Some(soonest) = slot.look_for_soonest(&self.entries, LOOK_MAX)
        {
            slot.soonest = soonest;
            self.stale[level] &= !(1 << digit);
        }
        Some(slot.soonest)
    }

    /// Fires every timer whose deadline is at or before `now`: takes it out and gives its token to
    /// `fire`, which must not panic.
    pub(crate) fn expire(&mut self, now: u64, mut fire: impl FnMut(T)) {
        let target = (now >> TICK_BITS).max(self.elapsed);
        while let Some((level, digit)) = self.first_slot() {
            if self.start_of(level, digit) > target {
                break;
            }
            if level > 0 {
                self.cascade(level, digit);
                continue;
            }
            self.elapsed = self.start_of(0, digit);
            self.collect_due(digit, now);
            if self.due.is_empty() {
                break;
            }
            for position in 0..self.due.len() {
                let index = self.due[position].index;
                let token = self.entries[index as usize].token;
                self.release(index);
                fire(token);
            }
            self.due.clear();
        }
        self.elapsed = target;
    }

    /// Moves the timers of one level-0 slot that are due to `due`, in order.
    fn collect_due(&mut self, digit: usize, now: u64) {
        let slot = &mut self.slots[0][digit];
        if slot.soonest > now {
            return;
        }
        let mut later = u64::MAX;
        let mut index = slot.first();
        while index != NIL {
            let Entry { deadline, sequence, next, .. } = self.entries[index as usize];
            if deadline <= now {
                slot.unlink(&mut self.entries, index);
                let sequence = NonZeroU64::new(sequence).expect("a linked entry is in use");
                self.due.push(Due { deadline, sequence, index });
            } else {
                later = later.min(deadline);
            }
            index = next;
        }
        slot.soonest = later;
        self.stale[0] &= !(1 << digit);
        if slot.is_empty() {
            self.vacate(0, digit);
        }
        self.due.sort_unstable();
    }

    /// Enters a slot of a higher level: its timers go to lower ones, in order.
    fn cascade(&mut self, level: usize, digit: usize) {
        self.elapsed = self.start_of(level, digit);
        let mut index = std::mem::replace(&mut self.slots[level][digit], Slot::EMPTY).first();
        self.vacate(level, digit);
        while index != NIL {
            let next = self.entries[index as usize].next;
            self.link(index);
            index = next;
        }
    }

    /// Puts an entry at the end of the slot where it belongs.
    fn link(&mut self, index: u32) {
        let (level, digit) = self.place(self.entries[index as usize].deadline);
        self.slots[level][digit].append(&mut self.entries, index);
        self.occupied[level] |= 1 << digit;
        self.levels |= 1 << level;
    }

    /// Notes that a slot has become empty.
    fn vacate(&mut self, level: usize, digit: usize) {
        self.occupied[level] &= !(1 << digit);
        self.stale[level] &= !(1 << digit);
        if self.occupied[level] == 0 {
            self.levels &= !(1 << level);
        }
    }

    /// Gives an entry that is in no slot back to the slab.
    fn release(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        entry.sequence = 0;
        entry.next = self.free;
        self.free = index;
        self.len -= 1;
    }

    /// Where a deadline belongs: level and digit (rule 1).
    #[inline]
    fn place(&self, deadline: u64) -> (usize, usize) {
        let tick = (deadline >> TICK_BITS).max(self.elapsed);
        let differing = tick ^ self.elapsed;
        // The number of the highest differing digit; 0 if none differs.
        let level = (63 - (differing | 1).leading_zeros() as usize) / DIGIT_BITS;
        (level, tick as usize >> (level * DIGIT_BITS) & (SLOT_COUNT - 1))
    }

    /// The slot that holds the next deadline (rule 3).
    #[inline]
    fn first_slot(&self) -> Option<(usize, usize)> {
        if self.levels == 0 {
            return None;
        }
        let level = self.levels.trailing_zeros() as usize;
        Some((level, self.occupied[level].trailing_zeros() as usize))
    }

    /// The first tick of an occupied slot: the digits of `elapsed` above it, its own, zeros.
    #[inline]
    fn start_of(&self, level: usize, digit: usize) -> u64 {
        let bits = level * DIGIT_BITS;
        let above = self.elapsed >> bits & !(SLOT_COUNT as u64 - 1);
        (above | digit as u64) << bits
    }
}

impl<T> fmt::Debug for Wheel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wheel")
            .field("len", &self.len)
            .field("elapsed", &self.elapsed)
            .finish_non_exhaustive()
    }
}

/// A tick is two to this power of nanoseconds.
const TICK_BITS: u32 = 18;
/// A slot number has that many bits.
const DIGIT_BITS: usize = 6;
const SLOT_COUNT: usize = 1 << DIGIT_BITS;
/// Enough digits for every tick: 8 times 6 bits and the 18 of a tick are more than 64.
const LEVEL_COUNT: usize = 8;
/// How many timers `next_deadline` looks at to replace a deadline that was cancelled.
const LOOK_MAX: usize = 64;
