//! Descriptors: what ops work on, open until the last of them is final.
//!
//! Readiness backends register a descriptor with their own poller lazily, at its first
//! `WouldBlock`. Each driver keeps its own registration, in its own table, so that no state is
//! shared on the hot path:
//!
//! 1. `home` is a hint, "driver and entry that used me last". A driver that finds another driver
//!    there looks in its own map by [`Descriptor::id`], which is never reused.
//! 2. Every driver that registered leaves a [`Forget`] behind. Before the number is closed each of
//!    them is told: the kernel registration goes first (a closed number whose description lives on
//!    in a dup could not be removed any more), then the driver's own entry.
//! 3. A driver that sees events for a descriptor nobody waits for there, and whose home is
//!    elsewhere, removes its registration itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::sys::{self, OwnedFd, RawFd};

/// Something that must forget a descriptor before its number is closed.
pub(crate) trait Forget: Send + Sync {
    /// Removes the kernel registration of `fd` and asks the driver to drop its entry for `id`.
    fn forget(&self, fd: RawFd, id: u64);
}

/// An open descriptor and what drivers know about it.
pub struct Descriptor {
    /// # Invariant
    /// Open for the whole life of this value; nobody else closes it. `None` only inside
    /// [`into_fd`](Self::into_fd) and `drop`.
    fd: Option<OwnedFd>,
    id: u64,
    home: AtomicU64,
    registrations: Mutex<Vec<Arc<dyn Forget>>>,
}

/// Ids start at 1 and are never reused in a process: 2^64 of them last for ever.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Descriptor {
    /// Takes over an open descriptor, which must be in non-blocking mode.
    pub fn new(fd: OwnedFd) -> Self {
        Self {
            fd: Some(fd),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            home: AtomicU64::new(0),
            registrations: Mutex::new(Vec::new()),
        }
    }

    /// The number.
    pub fn raw_fd(&self) -> RawFd {
        match &self.fd {
            Some(fd) => sys::raw_fd(fd),
            None => unreachable!("a descriptor is open as long as it exists"),
        }
    }

    /// The number, borrowed.
    pub fn as_fd(&self) -> sys::BorrowedFd<'_> {
        match &self.fd {
            Some(fd) => sys::as_fd(fd),
            None => unreachable!("a descriptor is open as long as it exists"),
        }
    }

    /// A number that no other descriptor of this process has or will have.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The hint of rule 1; 0 before the first registration.
    pub(crate) fn home(&self) -> u64 {
        self.home.load(Ordering::Relaxed)
    }

    /// Sets the hint of rule 1. Relaxed: a stale value only costs a look into the map.
    pub(crate) fn set_home(&self, home: u64) {
        self.home.store(home, Ordering::Relaxed);
    }

    /// Leaves word of a registration (rule 2).
    pub(crate) fn registered(&self, who: Arc<dyn Forget>) {
        self.registrations.lock().unwrap_or_else(PoisonError::into_inner).push(who);
    }

    /// Removes what [`registered`](Self::registered) left, when a driver gives up its registration.
    pub(crate) fn deregistered(&self, who: &Arc<dyn Forget>) {
        let mut list = self.registrations.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|other| !Arc::ptr_eq(other, who));
    }

    /// Forgets every registration and hands the descriptor out, for
    /// [`RawOp::Close`](crate::RawOp::Close) or another owner.
    pub fn into_fd(mut self) -> OwnedFd {
        self.forget();
        match self.fd.take() {
            Some(fd) => fd,
            None => unreachable!("a descriptor is open as long as it exists"),
        }
    }

    fn forget(&mut self) {
        let (fd, id) = (self.raw_fd(), self.id);
        let list = self.registrations.get_mut().unwrap_or_else(PoisonError::into_inner);
        for who in list.drain(..) {
            who.forget(fd, id);
        }
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if self.fd.is_some() {
            self.forget();
        }
    }
}

impl std::fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Descriptor").field("fd", &self.fd).field("id", &self.id).finish()
    }
}
