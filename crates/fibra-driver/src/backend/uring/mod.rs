//! io_uring. (Stub: being written.)

use std::io;

use crate::clock::Deadline;
use crate::config::Config;
use crate::driver::{Contract, Metrics};
use crate::notifier::Notifier;
use crate::op::{Completion, OpId, RawOp, Submitted};

pub(crate) struct Uring;

impl Uring {
    pub fn new(_config: &Config) -> io::Result<Self> {
        unimplemented!()
    }
}

impl Contract for Uring {
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
