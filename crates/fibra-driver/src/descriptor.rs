//! Descriptors: what ops work on, open until the last of them is final.
//!
//! Readiness backends register a descriptor with their own poller lazily, at its first
//! `WouldBlock`. Each driver keeps its own registration, in its own table, so that no state is
//! shared on the hot path:
//!
//! 1. `home` is a hint, "driver and entry that used me last". A driver that finds another driver
//!    there looks in its own map by [`Descriptor::id`], which is never reused.
//! 2. Every driver that has an entry leaves a [`Forget`] behind, weakly: drivers may go first.
//!    Before the number is closed each of them is told: the kernel registration goes first (a closed
//!    number whose description lives on in a dup could not be removed any more), then the entry.
//! 3. A driver that sees events for a descriptor nobody waits for there, and whose home is
//!    elsewhere, removes its kernel registration itself. It cannot look at the descriptor then (who
//!    promised that it exists were the waiters), so it shares the hint: [`Descriptor::home_cell`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use crate::sys::{self, OwnedFd, RawFd};

/// Something that must forget a descriptor before its number is closed.
pub(crate) trait Forget: Send + Sync {
    /// Removes the kernel registration of `fd` and asks the driver to drop its entry for `id`. Called
    /// on any thread, once per entry, while `fd` is still open.
    fn forget(&self, fd: RawFd, id: u64);
}

/// An open descriptor and what drivers know about it.
pub struct Descriptor {
    /// # Invariant
    /// Open for the whole life of this value; nobody else closes it. `None` only inside
    /// [`into_fd`](Self::into_fd) and `drop`.
    fd: Option<OwnedFd>,
    id: u64,
    /// The hint of rule 1. Made by the first driver that keeps an entry; io_uring needs none.
    home: OnceLock<Arc<AtomicU64>>,
    registrations: Mutex<Vec<Weak<dyn Forget>>>,
}

/// Ids start at 1 and are never reused in a process: 2^64 of them last for ever.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Descriptor {
    /// Takes over an open descriptor, which must be in non-blocking mode.
    pub fn new(fd: OwnedFd) -> Self {
        Self {
            fd: Some(fd),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            home: OnceLock::new(),
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
    #[inline]
    pub(crate) fn home(&self) -> u64 {
        self.home.get().map_or(0, |home| home.load(Ordering::Relaxed))
    }

    /// Where the hint lives. Its value is read and set relaxed: a stale one only costs a look into
    /// a map.
    pub(crate) fn home_cell(&self) -> &Arc<AtomicU64> {
        self.home.get_or_init(Arc::default)
    }

    /// Leaves word of an entry (rule 2). One per driver: an entry lasts as long as the descriptor.
    pub(crate) fn registered(&self, who: Weak<dyn Forget>) {
        let mut list = self.registrations.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|other| other.strong_count() > 0);
        list.push(who);
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
        for who in list.drain(..).filter_map(|who| who.upgrade()) {
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
