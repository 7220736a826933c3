//! One non-blocking try of an op, and what its outcome says about the next one.

use crate::backend::ready::Poller;
use crate::backend::ready::table::{DRAINED, FULL, Queue, SHORT_MEANS_DRAINED};
use crate::interest::{Interest, Readiness};
use crate::op::RawOp;
use crate::sys::{self, RawFd};

/// Where an op waits; `None` for ops that never do.
#[inline]
pub(super) fn queue(op: &RawOp) -> Option<Queue> {
    match op {
        RawOp::Accept { .. } | RawOp::Recv { .. } | RawOp::RecvVectored { .. } => Some(Queue::Read),
        RawOp::Connect { .. } | RawOp::Send { .. } | RawOp::SendVectored { .. } => {
            Some(Queue::Write)
        }
        RawOp::Ready { .. } => Some(Queue::Watch),
        RawOp::Nop | RawOp::Shutdown { .. } | RawOp::Close { .. } => None,
    }
}

/// Tries an op once, without waiting: its result, or `WOULD_BLOCK`. `again`: it was tried before.
///
/// # Safety
/// `fd` is open and the pointers of `op` are valid as [`Driver::submit`](crate::Driver::submit)
/// demands.
#[inline]
pub(super) unsafe fn attempt<P: Poller>(poller: &mut P, op: &RawOp, fd: RawFd, again: bool) -> i32 {
    match *op {
        // SAFETY: valid by the caller's promise.
        RawOp::Recv { buf, len, peek, .. } => unsafe { sys::recv(fd, buf, len, peek) },
        // SAFETY: valid by the caller's promise.
        RawOp::Send { buf, len, .. } => unsafe { sys::send(fd, buf, len) },
        // SAFETY: valid by the caller's promise.
        RawOp::RecvVectored { message, .. } => unsafe { sys::recv_vectored(fd, message) },
        // SAFETY: valid by the caller's promise.
        RawOp::SendVectored { message, .. } => unsafe { sys::send_vectored(fd, message) },
        RawOp::Accept { .. } => poller.accept(fd),
        RawOp::Connect { .. } if again => connected(fd),
        // SAFETY: valid by the caller's promise.
        RawOp::Connect { address, .. } => unsafe { sys::connect(fd, address) },
        RawOp::Ready { interest, .. } => match sys::ready(fd, interest, 0) {
            0 => sys::WOULD_BLOCK,
            result => result,
        },
        RawOp::Shutdown { .. } | RawOp::Close { .. } | RawOp::Nop => {
            unreachable!("ops without a queue are done when they are submitted")
        }
    }
}

/// How a connect ended that was started before, or `WOULD_BLOCK`.
fn connected(fd: RawFd) -> i32 {
    match sys::connect_result(fd) {
        sys::WOULD_BLOCK => {
            let seen = Readiness::from_bits(sys::ready(fd, Interest::WRITABLE, 0).max(0) as u8);
            // Neither connected nor refused, and over: somebody else took the error.
            if seen.contains(Readiness::HANG_UP) { sys::NOT_CONNECTED } else { sys::WOULD_BLOCK }
        }
        result => result,
    }
}

/// The bits that the outcome of a try adds to an entry that is registered for edges.
///
/// A short read of a TCP stream means that the receive queue was empty when the call returned:
/// whatever comes later makes a new edge. That saves the empty call that `WOULD_BLOCK` would cost.
#[inline]
pub(super) fn learned(bits: u8, op: &RawOp, result: i32) -> u8 {
    let short = |len: usize| {
        bits & SHORT_MEANS_DRAINED != 0 && result > 0 && (result as usize) < len.min(sys::COUNT_MAX)
    };
    match *op {
        RawOp::Accept { .. } | RawOp::RecvVectored { .. } if result == sys::WOULD_BLOCK => DRAINED,
        RawOp::Recv { .. } if result == sys::WOULD_BLOCK => DRAINED,
        // A peek leaves the bytes where they are.
        RawOp::Recv { len, peek: false, .. } if short(len) => DRAINED,
        RawOp::Connect { .. } | RawOp::SendVectored { .. } if result == sys::WOULD_BLOCK => FULL,
        RawOp::Send { .. } if result == sys::WOULD_BLOCK => FULL,
        RawOp::Send { len, .. } if short(len) => FULL,
        _ => 0,
    }
}
