//! The contract: what every backend provides. Each backend file writes these verbs, in this order.

use std::io;

use crate::clock::Deadline;
use crate::notifier::Notifier;
use crate::op::{Completion, OpId, RawOp, Submitted};

/// What every backend provides: the verbs, in the order their files write them.
pub(crate) trait Contract {
    /// Takes an op. Readiness backends try it first; if it finished, `Done` and no completion.
    ///
    /// Never blocks. The only refusal is `Done(-ENOBUFS)`, at `Config::in_flight_max`.
    ///
    /// # Safety
    /// As for [`Driver::submit`](crate::Driver::submit).
    unsafe fn submit(&mut self, op: RawOp, data: u64) -> Submitted;

    /// Asks that `id` end early. It still completes, exactly once; unknown ids are ignored.
    fn cancel(&mut self, id: OpId);

    /// Submits what is queued and sleeps until the deadline, a completion or a notification.
    /// Returns at once if completions are ready to be reaped.
    fn wait(&mut self, deadline: Deadline) -> io::Result<()>;

    /// Takes one completion. Pull-style, so that no borrow is held while the caller runs things.
    fn reap(&mut self) -> Option<Completion>;

    /// A handle with which other threads end [`wait`](Self::wait).
    fn notifier(&self) -> Notifier;

    /// Counters, and how many ops are in flight.
    fn metrics(&self) -> Metrics;

    /// Plays a kernel that answers `result` under `user_data`, which may be an op in flight, a late
    /// or doubled answer, zero or rubbish. For tests.
    fn inject(&mut self, user_data: u64, result: i32);
}

/// What a driver has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Ops that are in flight now (submitted, not yet final).
    pub in_flight_count: usize,
    /// Ops submitted, those finished at once included.
    pub submitted_count: u64,
    /// Kernel answers that named no op in flight: late, duplicate, zero or unknown. Dropped.
    pub unknown_completion_count: u64,
    /// Times the completion queue of the kernel was found full.
    pub overflow_count: u64,
    /// Calls that entered the kernel to submit or to wait.
    pub enter_count: u64,
    /// Owned ops that have no result yet, those before their gate included.
    pub owned_count: usize,
    /// Owned ops that have ended and wait to be reaped.
    pub finished_count: usize,
    /// Tries of the readiness backends that found nothing to do.
    pub would_block_count: u64,
}
