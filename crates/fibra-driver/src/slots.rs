//! The slot table: which ops are in flight, by index and generation.
//!
//! ```text
//!   id = generation (32 bits) << 32 | slot (31 bits)      generation is never 0, so neither is id
//!
//!            insert                 final            cancel's answer, if a cancel was sent
//!   FREE ------------> IN_FLIGHT ----------> FREE
//!                         | cancel_sent         ^
//!                         v                     |
//!                      IN_FLIGHT|CANCEL --final--> CANCEL --answered--> FREE
//! ```
//!
//! A slot is reused only when nothing that names it can still come from the kernel, and even then
//! its generation has moved on: an answer that is late, doubled or made up finds no op and is
//! dropped by the caller.

use crate::op::OpId;

/// The op awaits its final completion. Set by `insert`, cleared by `finish`.
const IN_FLIGHT: u8 = 1 << 0;
/// A cancel was handed to the kernel and has not been answered. Set by `cancel_sent`, cleared by
/// `cancel_answered`. May outlive `IN_FLIGHT`; the slot is not free before both are clear.
const CANCEL: u8 = 1 << 1;

const NIL: u32 = u32::MAX;

struct Slot<T> {
    generation: u32,
    bits: u8,
    next_free: u32,
    data: u64,
    payload: T,
}

/// Ops in flight, each with the caller's word and a payload of the backend.
pub(crate) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: u32,
    in_flight: usize,
    max: usize,
}

impl<T: Copy + Default> Slots<T> {
    /// An empty table for at most `max` ops.
    pub fn new(max: usize) -> Self {
        Self { slots: Vec::new(), free: NIL, in_flight: 0, max: max.min(NIL as usize >> 1) }
    }

    /// Takes a slot, or `None` at the limit.
    pub fn insert(&mut self, data: u64, payload: T) -> Option<OpId> {
        let index = if self.free == NIL {
            if self.slots.len() == self.max {
                return None;
            }
            let slot = Slot { generation: 1, bits: 0, next_free: NIL, data: 0, payload };
            self.slots.push(slot);
            (self.slots.len() - 1) as u32
        } else {
            let index = self.free;
            self.free = self.slots[index as usize].next_free;
            index
        };
        let slot = &mut self.slots[index as usize];
        slot.bits = IN_FLIGHT;
        slot.data = data;
        slot.payload = payload;
        self.in_flight += 1;
        OpId::from_u64(u64::from(slot.generation) << 32 | u64::from(index))
    }

    /// The payload of an op in flight.
    pub fn get(&self, id: OpId) -> Option<&T> {
        let slot = self.slots.get(index(id))?;
        (slot.generation == generation(id) && slot.bits & IN_FLIGHT != 0).then_some(&slot.payload)
    }

    /// The payload of an op in flight.
    pub fn get_mut(&mut self, id: OpId) -> Option<&mut T> {
        let slot = self.slots.get_mut(index(id))?;
        (slot.generation == generation(id) && slot.bits & IN_FLIGHT != 0)
            .then_some(&mut slot.payload)
    }

    /// Ends an op: its word and payload, once. `None` for an id that names no op in flight.
    #[inline]
    pub fn finish(&mut self, id: OpId) -> Option<(u64, T)> {
        let slot = self.slots.get_mut(index(id))?;
        if slot.generation != generation(id) || slot.bits & IN_FLIGHT == 0 {
            return None;
        }
        let out = (slot.data, slot.payload);
        slot.bits &= !IN_FLIGHT;
        slot.free_if_clear(index(id), &mut self.free);
        self.in_flight -= 1;
        Some(out)
    }

    /// Notes that the kernel was asked to cancel an op. False if it is not in flight or was asked
    /// already.
    pub fn cancel_sent(&mut self, id: OpId) -> bool {
        match self.slots.get_mut(index(id)) {
            Some(slot) if slot.generation == generation(id) && slot.bits == IN_FLIGHT => {
                slot.bits |= CANCEL;
                true
            }
            _ => false,
        }
    }

    /// Notes the kernel's answer to a cancel. False if none was awaited.
    pub fn cancel_answered(&mut self, id: OpId) -> bool {
        match self.slots.get_mut(index(id)) {
            Some(slot) if slot.generation == generation(id) && slot.bits & CANCEL != 0 => {
                slot.bits &= !CANCEL;
                slot.free_if_clear(index(id), &mut self.free);
                true
            }
            _ => false,
        }
    }

    /// How many ops are in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether some slot is not free: an op in flight, or a cancel without an answer.
    pub fn is_busy(&self) -> bool {
        self.slots.iter().any(|slot| slot.bits != 0)
    }

    /// The ids of all ops in flight.
    pub fn ids(&self) -> impl Iterator<Item = OpId> + '_ {
        self.slots.iter().enumerate().filter(|(_, slot)| slot.bits & IN_FLIGHT != 0).filter_map(
            |(index, slot)| OpId::from_u64(u64::from(slot.generation) << 32 | index as u64),
        )
    }
}

impl<T: Default> Slot<T> {
    /// Puts the slot at the head of the list of free ones, under its next generation.
    #[inline]
    fn free_if_clear(&mut self, index: usize, free: &mut u32) {
        if self.bits == 0 {
            self.payload = T::default();
            // Never 0.
            self.generation = self.generation.wrapping_add(1).max(1);
            self.next_free = *free;
            *free = index as u32;
        }
    }
}

fn index(id: OpId) -> usize {
    (id.as_u64() & 0x7fff_ffff) as usize
}

fn generation(id: OpId) -> u32 {
    (id.as_u64() >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_for_a_finished_op_names_nothing() {
        let mut slots = Slots::<()>::new(4);
        let first = slots.insert(7, ()).unwrap();
        assert_eq!(slots.finish(first), Some((7, ())));
        let second = slots.insert(8, ()).unwrap();
        assert_ne!(first, second, "the slot is reused under another generation");
        assert_eq!(slots.finish(first), None);
        assert_eq!(slots.finish(second), Some((8, ())));
    }

    #[test]
    fn a_slot_waits_for_the_answer_to_its_cancel() {
        let mut slots = Slots::<()>::new(4);
        let id = slots.insert(1, ()).unwrap();
        assert!(slots.cancel_sent(id));
        assert!(!slots.cancel_sent(id), "one cancel at a time");
        assert!(slots.finish(id).is_some());
        let other = slots.insert(2, ()).unwrap();
        assert_ne!(other.as_u64() as u32, id.as_u64() as u32, "not reused before the answer");
        assert!(slots.cancel_answered(id));
        assert!(!slots.cancel_answered(id));
        assert_eq!(slots.in_flight(), 1);
    }

    #[test]
    fn the_limit_is_a_refusal_and_zero_is_no_id() {
        let mut slots = Slots::<()>::new(1);
        assert!(slots.insert(0, ()).is_some());
        assert!(slots.insert(0, ()).is_none());
        assert!(OpId::from_u64(0).is_none());
    }
}
