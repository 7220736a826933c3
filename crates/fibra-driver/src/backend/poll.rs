//! Poll. (Stub: being written.)

use std::io;
use std::time::Duration;

use crate::backend::ready::Poller;
use crate::interest::{Interest, Readiness};
use crate::notifier::Notifier;
use crate::sys::RawFd;

pub(crate) struct Poll;

impl Poll {
    pub fn new() -> io::Result<Self> {
        unimplemented!()
    }
}

impl Poller for Poll {
    fn add(&mut self, _fd: RawFd, _token: u64, _interest: Interest) -> io::Result<()> {
        unimplemented!()
    }
    fn modify(&mut self, _fd: RawFd, _token: u64, _interest: Interest) -> io::Result<()> {
        unimplemented!()
    }
    fn remove(&mut self, _fd: RawFd, _token: u64) -> io::Result<()> {
        unimplemented!()
    }
    fn wait(
        &mut self,
        _timeout: Option<Duration>,
        _events: &mut Vec<(u64, Readiness)>,
    ) -> io::Result<()> {
        unimplemented!()
    }
    fn notifier(&self) -> Notifier {
        unimplemented!()
    }
}
