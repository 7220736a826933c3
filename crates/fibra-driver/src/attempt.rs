//! One try of an op on the calling thread, without a driver and without waiting.

use crate::op::{RawOp, Target};
use crate::sys;

/// Tries `op` once: its result, or `None` if it cannot finish now. A connect is never tried, because
/// a second try of a started one means something else.
///
/// # Safety
/// As for [`Driver::submit`](crate::Driver::submit), until this returns.
pub unsafe fn attempt(op: RawOp) -> Option<i32> {
    // SAFETY: the descriptor is in place and open by the caller's promise.
    let fd = |on: Target| unsafe { on.0.as_ref() }.raw_fd();
    let result = match op {
        RawOp::Nop => 0,
        RawOp::Connect { .. } => return None,
        RawOp::Accept { on } => sys::accept(fd(on)),
        // SAFETY: valid by the caller's promise.
        RawOp::Recv { on, buf, len, peek } => unsafe { sys::recv(fd(on), buf, len, peek) },
        // SAFETY: valid by the caller's promise.
        RawOp::Send { on, buf, len } => unsafe { sys::send(fd(on), buf, len) },
        // SAFETY: valid by the caller's promise.
        RawOp::RecvVectored { on, message } => unsafe { sys::recv_vectored(fd(on), message) },
        // SAFETY: valid by the caller's promise.
        RawOp::SendVectored { on, message } => unsafe { sys::send_vectored(fd(on), message) },
        RawOp::Shutdown { on, how } => sys::shutdown(fd(on), how),
        RawOp::Close { fd } => sys::close(fd),
        RawOp::Ready { on, interest } => match sys::ready(fd(on), interest, 0) {
            0 => sys::WOULD_BLOCK,
            result => result,
        },
    };
    (result != sys::WOULD_BLOCK).then_some(result)
}
