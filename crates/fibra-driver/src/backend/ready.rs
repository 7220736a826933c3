//! Completions made from readiness: the engine that epoll, poll and select share.

use std::io;
use std::time::Duration;

use crate::clock::Deadline;
use crate::config::Config;
use crate::driver::{Contract, Metrics};
use crate::interest::{Interest, Readiness};
use crate::notifier::Notifier;
use crate::op::{Completion, OpId, RawOp, Submitted};
use crate::sys::RawFd;

/// What a poller provides: the verbs, in the order their files write them. (Stub: being written.)
pub(crate) trait Poller {
    fn add(&mut self, fd: RawFd, token: u64, interest: Interest) -> io::Result<()>;
    fn modify(&mut self, fd: RawFd, token: u64, interest: Interest) -> io::Result<()>;
    fn remove(&mut self, fd: RawFd, token: u64) -> io::Result<()>;
    fn wait(
        &mut self,
        timeout: Option<Duration>,
        events: &mut Vec<(u64, Readiness)>,
    ) -> io::Result<()>;
    fn notifier(&self) -> Notifier;
}

pub(crate) struct Ready<P> {
    _poller: P,
}

impl<P: Poller> Ready<P> {
    pub fn new(poller: P, _config: &Config) -> io::Result<Self> {
        Ok(Self { _poller: poller })
    }
}

impl<P: Poller> Contract for Ready<P> {
    unsafe fn submit(&mut self, _op: RawOp, _data: u64) -> Submitted {
        unimplemented!()
    }
    fn cancel(&mut self, _id: OpId) {
        unimplemented!()
    }
    fn wait(&mut self, _deadline: Deadline) -> io::Result<()> {
        unimplemented!()
    }
    fn reap(&mut self) -> Option<Completion> {
        unimplemented!()
    }
    fn notifier(&self) -> Notifier {
        unimplemented!()
    }
    fn metrics(&self) -> Metrics {
        unimplemented!()
    }
    fn inject(&mut self, _user_data: u64, _result: i32) {
        unimplemented!()
    }
}
