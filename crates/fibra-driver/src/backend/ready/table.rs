//! The entries of one driver: what it knows about each descriptor it was asked to wait for.
//!
//! An entry is made when an op first has to wait and lasts as long as the descriptor. It is found
//! through the descriptor's home hint (one comparison) or else through a map; nothing here is
//! shared with other drivers but the list of descriptors to forget. That list holds every entry at
//! most once, so it needs no other bound.

use std::collections::HashMap;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::descriptor::{Descriptor, Forget};
use crate::sys::RawFd;

/// The kernel watches this descriptor for us. Set by `register`, cleared by `deregister`.
pub(super) const REGISTERED: u8 = 1 << 0;
/// A short read (write) shows that nothing (no room) is left. Set once, when registered.
pub(super) const SHORT_MEANS_DRAINED: u8 = 1 << 1;
/// Nothing to read until the next edge. Never without `REGISTERED`, nor with `CLOSED`.
pub(super) const DRAINED: u8 = 1 << 2;
/// No room to write until the next edge. Never without `REGISTERED`, nor with `CLOSED`.
pub(super) const FULL: u8 = 1 << 3;
/// The end of the stream, a hang-up or an error was seen. Sticky: no edge may come any more, so
/// from now on reads and writes always try.
pub(super) const CLOSED: u8 = 1 << 4;

/// One of the queues of ops that wait for a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Queue {
    /// Receive, accept: first come first served.
    Read,
    /// Send, connect: first come first served.
    Write,
    /// `Ready` ops. They take nothing, so all of them are told.
    Watch,
}

/// A list of ops, linked through their slots; 0 is none.
#[derive(Clone, Copy, Default)]
pub(super) struct List {
    pub head: u64,
    pub tail: u64,
}

/// What the driver knows about a descriptor.
pub(super) struct Entry {
    /// The descriptor's id; 0 for a free entry.
    pub id: u64,
    pub fd: RawFd,
    /// Part of the token, so that events for an earlier user of the entry are recognised.
    pub generation: u32,
    pub bits: u8,
    /// Level-triggered pollers: what is asked of them now (1 read, 2 write).
    pub interest: u8,
    /// Events since somebody last waited.
    pub idle_events: u8,
    pub lists: [List; 3],
    home: Arc<AtomicU64>,
}

impl Entry {
    pub fn has_waiters(&self) -> bool {
        self.lists.iter().any(|list| list.head != 0)
    }
}

/// All entries of a driver.
pub(super) struct Table {
    pub entries: Vec<Entry>,
    free: Vec<u32>,
    by_id: HashMap<u64, u32>,
    /// Distinguishes home hints of different drivers.
    driver: u32,
    forgotten: Arc<Forgotten>,
    /// Swapped with the list of `forgotten`, to keep its lock short.
    ids: Vec<u64>,
}

/// Descriptors to forget, from any thread.
struct Forgotten {
    ids: Mutex<Vec<u64>>,
    some: AtomicBool,
    remove: Box<dyn Fn(RawFd) + Send + Sync>,
}

/// Removes a kernel registration; from any thread.
pub(crate) type Remove = Box<dyn Fn(RawFd) + Send + Sync>;

impl Forget for Forgotten {
    fn forget(&self, fd: RawFd, id: u64) {
        (self.remove)(fd);
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        // Release: pairs with the swap in `Table::forgotten`.
        self.some.store(true, Ordering::Release);
    }
}

static NEXT_DRIVER: AtomicU32 = AtomicU32::new(1);

impl Table {
    pub fn new(remove: Remove) -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            driver: NEXT_DRIVER.fetch_add(1, Ordering::Relaxed),
            forgotten: Arc::new(Forgotten {
                ids: Mutex::new(Vec::new()),
                some: AtomicBool::new(false),
                remove,
            }),
            ids: Vec::new(),
        }
    }

    /// The entry of a descriptor.
    #[inline]
    pub fn find(&self, descriptor: &Descriptor) -> Option<u32> {
        let home = descriptor.home();
        if (home >> 32) as u32 == self.driver {
            // The id decides: driver numbers repeat after 2^32 drivers.
            let entry = self.entries.get(home as u32 as usize);
            if entry.is_some_and(|entry| entry.id == descriptor.id()) {
                return Some(home as u32);
            }
        }
        if home == 0 { None } else { self.by_id.get(&descriptor.id()).copied() }
    }

    /// Makes the entry of a descriptor that has none.
    pub fn create(&mut self, descriptor: &Descriptor) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry {
                id: 0,
                fd: descriptor.raw_fd(),
                generation: 1,
                bits: 0,
                interest: 0,
                idle_events: 0,
                lists: [List::default(); 3],
                home: Arc::clone(descriptor.home_cell()),
            });
            (self.entries.len() - 1) as u32
        });
        let entry = &mut self.entries[index as usize];
        entry.id = descriptor.id();
        entry.fd = descriptor.raw_fd();
        entry.home = Arc::clone(descriptor.home_cell());
        self.by_id.insert(descriptor.id(), index);
        let who: Arc<dyn Forget> = Arc::<Forgotten>::clone(&self.forgotten);
        descriptor.registered(Arc::downgrade(&who));
        index
    }

    /// Notes that somebody waits here now, which makes this driver the descriptor's home.
    #[inline]
    pub fn settle(&mut self, index: u32) {
        let home = self.home(index);
        let entry = &mut self.entries[index as usize];
        entry.idle_events = 0;
        if entry.home.load(Ordering::Relaxed) != home {
            entry.home.store(home, Ordering::Relaxed);
        }
    }

    /// Notes an event nobody waits for. True at the second one in a row if the descriptor's home is
    /// elsewhere: then we are registered for nothing.
    pub fn is_stray(&mut self, index: u32) -> bool {
        let home = self.home(index);
        let entry = &mut self.entries[index as usize];
        entry.idle_events = entry.idle_events.saturating_add(1);
        entry.idle_events >= 2 && entry.home.load(Ordering::Relaxed) != home
    }

    /// The number that stands for an entry in the kernel: never 0.
    pub fn token(&self, index: u32) -> u64 {
        u64::from(self.entries[index as usize].generation) << 32 | u64::from(index)
    }

    /// The entry a token stands for, if it still does.
    #[inline]
    pub fn by_token(&self, token: u64) -> Option<u32> {
        let entry = self.entries.get(token as u32 as usize)?;
        (entry.id != 0 && entry.generation == (token >> 32) as u32).then_some(token as u32)
    }

    /// Takes one entry whose descriptor is closed. Its number must not be used any more: it may
    /// name something else by now.
    #[inline]
    pub fn forgotten(&mut self) -> Option<u32> {
        // The relaxed look is only a hint; Acquire pairs with the store in `forget`.
        if self.ids.is_empty()
            && self.forgotten.some.load(Ordering::Relaxed)
            && self.forgotten.some.swap(false, Ordering::Acquire)
        {
            let mut ids = self.forgotten.ids.lock().unwrap_or_else(PoisonError::into_inner);
            mem::swap(&mut self.ids, &mut ids);
        }
        let id = self.ids.pop()?;
        self.by_id.remove(&id)
    }

    /// Frees an entry taken with [`forgotten`](Self::forgotten).
    pub fn release(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        entry.id = 0;
        entry.generation = entry.generation.checked_add(1).unwrap_or(1);
        (entry.bits, entry.interest, entry.idle_events) = (0, 0, 0);
        self.free.push(index);
    }

    /// How many descriptors have an entry.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        assert_eq!(self.by_id.len(), self.entries.len() - self.free.len());
        self.by_id.len()
    }

    fn home(&self, index: u32) -> u64 {
        u64::from(self.driver) << 32 | u64::from(index)
    }
}
