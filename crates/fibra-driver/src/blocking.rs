//! Blocking ops: the same ops on a plain thread, without a driver. (Stub: being written.)

use crate::clock::Deadline;
use crate::op::RawOp;

/// Runs one op on the calling thread as `poll(2)` and non-blocking system calls.
/// The result is like that of a [`Completion`](crate::Completion); `-ETIMEDOUT` past the deadline,
/// `-ECANCELED` when `cancelled` says so (looked at whenever `poll` returns).
///
/// # Safety
/// As for [`Driver::submit`](crate::Driver::submit), until this returns.
pub unsafe fn run_blocking(_op: RawOp, _deadline: Deadline) -> i32 {
    unimplemented!()
}
