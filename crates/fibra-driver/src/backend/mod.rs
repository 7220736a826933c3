//! The backends, and the one table of which exists where.

use std::io;

use crate::clock::Deadline;
use crate::config::{BackendKind, Config};
use crate::driver::{Contract, Metrics};
use crate::notifier::Notifier;
use crate::op::{Completion, OpId, RawOp, Submitted};
use crate::probe;

mod epoll;
#[cfg(unix)]
mod poll;
mod ready;
#[cfg(unix)]
mod select;
#[cfg(target_os = "linux")]
pub(crate) mod uring;

/// One of the backends. An enum and not a trait object: the match is one predictable branch.
pub(crate) enum Backend {
    #[cfg(target_os = "linux")]
    Uring(uring::Uring),
    Epoll(ready::Ready<epoll::Epoll>),
    #[cfg(unix)]
    Poll(ready::Ready<poll::Poll>),
    #[cfg(unix)]
    Select(ready::Ready<select::Select>),
}

/// Calls the same verb on whichever backend it is.
macro_rules! each {
    ($self:expr, $backend:ident => $call:expr) => {
        match $self {
            #[cfg(target_os = "linux")]
            Backend::Uring($backend) => $call,
            Backend::Epoll($backend) => $call,
            #[cfg(unix)]
            Backend::Poll($backend) => $call,
            #[cfg(unix)]
            Backend::Select($backend) => $call,
        }
    };
}

impl Backend {
    /// Makes the backend that `config` names, or the best one that runs here.
    pub fn new(config: &Config) -> io::Result<Self> {
        match probe::choose(config.choice)? {
            #[cfg(target_os = "linux")]
            BackendKind::Uring => uring::Uring::new(config).map(Self::Uring),
            BackendKind::Epoll => ready::Ready::new(epoll::Epoll::new()?, config).map(Self::Epoll),
            #[cfg(unix)]
            BackendKind::Poll => ready::Ready::new(poll::Poll::new()?, config).map(Self::Poll),
            #[cfg(unix)]
            BackendKind::Select => {
                ready::Ready::new(select::Select::new()?, config).map(Self::Select)
            }
            #[cfg(not(target_os = "linux"))]
            other => Err(probe::unsupported(other)),
        }
    }

    /// Which backend this is.
    pub fn kind(&self) -> BackendKind {
        match self {
            #[cfg(target_os = "linux")]
            Self::Uring(_) => BackendKind::Uring,
            Self::Epoll(_) => BackendKind::Epoll,
            #[cfg(unix)]
            Self::Poll(_) => BackendKind::Poll,
            #[cfg(unix)]
            Self::Select(_) => BackendKind::Select,
        }
    }
}

impl Contract for Backend {
    #[inline]
    unsafe fn submit(&mut self, op: RawOp, data: u64) -> Submitted {
        // SAFETY: forwarded; the caller keeps the same promises.
        each!(self, backend => unsafe { backend.submit(op, data) })
    }

    fn cancel(&mut self, id: OpId) {
        each!(self, backend => backend.cancel(id));
    }

    #[inline]
    fn wait(&mut self, deadline: Deadline) -> io::Result<()> {
        each!(self, backend => backend.wait(deadline))
    }

    #[inline]
    fn reap(&mut self) -> Option<Completion> {
        each!(self, backend => backend.reap())
    }

    fn notifier(&self) -> Notifier {
        each!(self, backend => backend.notifier())
    }

    fn metrics(&self) -> Metrics {
        each!(self, backend => backend.metrics())
    }

    fn inject(&mut self, user_data: u64, result: i32) {
        each!(self, backend => backend.inject(user_data, result));
    }
}
