//! The `epoll` backend: mio, which is epoll on Linux, kqueue on the BSDs, IOCP on Windows.
//!
//! Edge-triggered where mio is: a descriptor is registered once, for both directions, and costs no
//! further call until it is closed. On Windows mio spends an interest with each event, so there it
//! is used as a level-triggered poller whose interest is given again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::ready::{Poller, Remove};
use crate::interest::{Interest, Readiness};
use crate::notifier::Notifier;
use crate::sys::{self, RawFd};

/// How many events one wait takes; more are taken by the next one.
const EVENTS_MAX: usize = 1024;

/// Tokens are 64 bits wide, and mio's have the width of a pointer.
const _: () = assert!(usize::BITS == 64, "the epoll backend needs a 64-bit target");

/// A poller on mio.
pub(crate) struct Epoll {
    poll: mio::Poll,
    events: sys::Events,
    sources: sys::Sources,
    notifier: Notifier,
}

impl Epoll {
    #[allow(clippy::default_constructed_unit_structs, reason = "empty on Unix only")]
    pub fn new() -> io::Result<Self> {
        let poll = mio::Poll::new()?;
        let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(0))?);
        let notifier = Notifier::new(move || {
            // It can only fail for want of kernel memory, and then there is nobody to tell.
            let _ = waker.wake();
        });
        Ok(Self {
            poll,
            events: sys::Events::new(EVENTS_MAX),
            sources: sys::Sources::new(),
            notifier,
        })
    }
}

impl Poller for Epoll {
    const EDGE: bool = sys::MIO_EDGES;
    const ONE_SHOT: bool = !sys::MIO_EDGES;

    fn add(&mut self, fd: RawFd, token: u64, interest: Interest) -> io::Result<()> {
        self.sources.add(self.poll.registry(), fd, token, interest)
    }

    fn modify(&mut self, _fd: RawFd, token: u64, interest: Interest) -> io::Result<()> {
        self.sources.modify(self.poll.registry(), token, interest)
    }

    fn remove(&mut self, fd: RawFd, token: u64) {
        self.sources.remove(self.poll.registry(), fd, token);
    }

    #[inline]
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.events.wait(&mut self.poll, timeout)
    }

    #[inline]
    fn next(&mut self) -> Option<(u64, Readiness)> {
        self.events.next()
    }

    fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    fn remover(&self) -> io::Result<Remove> {
        let registry = self.poll.registry().try_clone()?;
        Ok(Box::new(move |fd| sys::remove_source(&registry, fd)))
    }
}
