//! One slot of the wheel: a list of entries, linked by index, oldest insertion first.

/// No entry.
pub(super) const NIL: u32 = u32::MAX;

/// A timer, or a free place in the slab.
pub(super) struct Entry<T> {
    pub(super) deadline: u64,
    /// The number of the timer, never given twice; 0 in a free place.
    pub(super) sequence: u64,
    pub(super) prev: u32,
    /// The next in the slot, or the next free place.
    pub(super) next: u32,
    pub(super) token: T,
}

/// A doubly linked list, with the soonest deadline in it.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    first: u32,
    last: u32,
    /// No deadline in the slot is sooner; `u64::MAX` if it is empty.
    pub(super) soonest: u64,
}

impl Slot {
    pub(super) const EMPTY: Self = Self { first: NIL, last: NIL, soonest: u64::MAX };

    pub(super) fn is_empty(&self) -> bool {
        self.first == NIL
    }

    pub(super) fn first(&self) -> u32 {
        self.first
    }

    /// Adds an entry that is in no slot.
    pub(super) fn append<T>(&mut self, entries: &mut [Entry<T>], index: u32) {
        let last = self.last;
        let entry = &mut entries[index as usize];
        (entry.prev, entry.next) = (last, NIL);
        self.soonest = self.soonest.min(entry.deadline);
        match entries.get_mut(last as usize) {
            Some(before) => before.next = index,
            None => self.first = index,
        }
        self.last = index;
    }

    /// Takes an entry of this slot out. `soonest` stays, unless the slot is empty now.
    pub(super) fn unlink<T>(&mut self, entries: &mut [Entry<T>], index: u32) {
        let Entry { prev, next, .. } = entries[index as usize];
        match entries.get_mut(prev as usize) {
            Some(before) => before.next = next,
            None => self.first = next,
        }
        match entries.get_mut(next as usize) {
            Some(after) => after.prev = prev,
            None => self.last = prev,
        }
        if self.is_empty() {
            self.soonest = u64::MAX;
        }
    }

    /// The soonest deadline, if the slot has no more than `len_max` entries.
    pub(super) fn look_for_soonest<T>(&self, entries: &[Entry<T>], len_max: usize) -> Option<u64> {
        let (mut soonest, mut index) = (u64::MAX, self.first);
        for _ in 0..len_max {
            let entry = entries.get(index as usize)?;
            soonest = soonest.min(entry.deadline);
            index = entry.next;
            if index == NIL {
                return Some(soonest);
            }
        }
        None
    }
}
