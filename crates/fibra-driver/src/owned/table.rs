//! The table of owned ops: which exist, by index and generation, and at what stage.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::gate::Ticket;
use crate::notifier::Notifier;
use crate::op::{Completion, OpId};
use crate::socket::{OpHandle, Side};

use super::mailbox::Mailbox;
use super::work::Work;
use super::{OWNED, OwnedId};

/// Where an op is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Before the gate of its direction, perhaps in its queue.
    AtGate,
    /// With the backend. Inside the gate, if it has one.
    InFlight(OpId),
    /// Final with this result, which nobody has taken. Still inside the gate, so that no other op
    /// overtakes it should it be abandoned now.
    Done(i32),
    /// Refused before it reached its gate.
    Refused(i32),
}

pub(super) struct Entry {
    pub key: u64,
    /// Keeps the descriptor open. `None` only for ops without a socket.
    pub socket: Option<OpHandle>,
    pub work: Work,
    pub ticket: Ticket,
    pub stage: Stage,
    /// The user has forgotten this op: its result goes to the stash.
    pub abandoned: bool,
}

impl Entry {
    /// The side of the socket whose gate it passes, with its ticket.
    pub fn side(&mut self) -> Option<(&Side, &mut Ticket)> {
        let direction = self.work.direction()?;
        let socket = self.socket.as_ref()?;
        Some((socket.side(direction), &mut self.ticket))
    }
}

#[derive(Default)]
struct Slot {
    generation: u32,
    entry: Option<Entry>,
}

/// The owned ops of one driver.
pub(crate) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// How many ops are `AtGate` or `InFlight` at most.
    max: usize,
    /// The ids of exactly the entries that are `Done` or `Refused`: as many as the user has
    /// submitted and not reaped.
    pub(super) finished: VecDeque<OwnedId>,
    /// Completions of raw ops that came up while an owned one was looked for. At most as many as
    /// raw ops were in flight.
    pub(super) set_aside: VecDeque<Completion>,
    pub(super) mailbox: Arc<Mailbox>,
    /// The driver is being dropped: nothing is submitted any more.
    pub(super) closing: bool,
}

impl Table {
    pub fn new(notifier: Notifier, max: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            max,
            finished: VecDeque::new(),
            set_aside: VecDeque::new(),
            mailbox: Mailbox::new(notifier),
            closing: false,
        }
    }

    /// Whether something can be reaped without asking the backend.
    #[inline]
    pub fn has_ready(&self) -> bool {
        !self.finished.is_empty() || !self.set_aside.is_empty()
    }

    /// A completion of a raw op that came up while an owned one was looked for.
    #[inline]
    pub fn take_set_aside(&mut self) -> Option<Completion> {
        if self.set_aside.is_empty() { None } else { self.set_aside.pop_front() }
    }

    /// How many owned ops have no final result yet.
    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len() - self.finished.len()
    }

    /// How many results wait to be reaped.
    pub fn finished_count(&self) -> usize {
        self.finished.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.in_flight() >= self.max
    }

    pub(super) fn insert(&mut self, entry: Entry) -> OwnedId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.entry = Some(entry);
        // One bit less than 32, so that `OWNED` stays free; never 0 in the first place.
        slot.generation = slot.generation % 0x7fff_ffff + 1;
        OwnedId(u64::from(slot.generation) << 32 | u64::from(index))
    }

    pub(super) fn get_mut(&mut self, id: OwnedId) -> Option<&mut Entry> {
        let slot = self.slots.get_mut(id.0 as u32 as usize)?;
        if u64::from(slot.generation) == id.0 >> 32 { slot.entry.as_mut() } else { None }
    }

    pub(super) fn remove(&mut self, id: OwnedId) -> Option<Entry> {
        self.get_mut(id)?;
        let index = id.0 as u32;
        self.free.push(index);
        self.slots[index as usize].entry.take()
    }

    /// Takes back that an op is finished.
    pub(super) fn unfinish(&mut self, id: OwnedId) {
        self.finished.retain(|other| *other != id);
    }

    /// All ids.
    pub(super) fn ids(&self) -> Vec<OwnedId> {
        let id = |(index, slot): (usize, &Slot)| {
            slot.entry.as_ref()?;
            Some(OwnedId(u64::from(slot.generation) << 32 | index as u64))
        };
        self.slots.iter().enumerate().filter_map(id).collect()
    }

    /// Gives up all entries without dropping them, for the kernel may still use their memory.
    pub(super) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.slots));
        self.free.clear();
        self.finished.clear();
    }
}

/// The word under which an owned op is submitted.
pub(super) fn data(id: OwnedId) -> u64 {
    OWNED | id.0
}
