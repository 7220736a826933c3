//! From an op to an entry of the submission queue.
//!
//! Here would go `POLL_FIRST` (skip the first try of a receive that is known to find nothing), as
//! one more argument of the two receives, once a measurement asks for it.

use std::ptr;

use io_uring::squeue::Entry;
use io_uring::{opcode, types};

use crate::op::{RawOp, Target};
use crate::sys;

/// Which op a slot stands for: what its result means, and its name in messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Verb {
    #[default]
    Nop,
    Accept,
    Connect,
    Recv,
    Send,
    RecvVectored,
    SendVectored,
    Ready,
    Close,
}

/// The most bytes one op moves, so that a count fits an `i32` (the kernel has the same limit).
const MAX_COUNT: usize = 0x7fff_f000;

/// The opcodes that this file and its neighbours use, with their names in the manual.
pub(super) const OPCODES: [(u8, &str); 11] = [
    (opcode::Nop::CODE, "NOP"),
    (opcode::Accept::CODE, "ACCEPT"),
    (opcode::Connect::CODE, "CONNECT"),
    (opcode::Recv::CODE, "RECV"),
    (opcode::Send::CODE, "SEND"),
    (opcode::RecvMsg::CODE, "RECVMSG"),
    (opcode::SendMsg::CODE, "SENDMSG"),
    (opcode::PollAdd::CODE, "POLL_ADD"),
    (opcode::Close::CODE, "CLOSE"),
    (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
    (opcode::Read::CODE, "READ"),
];

impl Verb {
    #[inline]
    pub fn of(op: RawOp) -> Self {
        match op {
            RawOp::Nop | RawOp::Shutdown { .. } => Self::Nop,
            RawOp::Accept { .. } => Self::Accept,
            RawOp::Connect { .. } => Self::Connect,
            RawOp::Recv { .. } => Self::Recv,
            RawOp::Send { .. } => Self::Send,
            RawOp::RecvVectored { .. } => Self::RecvVectored,
            RawOp::SendVectored { .. } => Self::SendVectored,
            RawOp::Ready { .. } => Self::Ready,
            RawOp::Close { .. } => Self::Close,
        }
    }
}

/// The entry for an op, or the result of one that is done here and now.
///
/// # Safety
/// As for [`Driver::submit`](crate::Driver::submit).
#[inline]
pub(super) unsafe fn prepare(op: RawOp) -> Result<Entry, i32> {
    Ok(match op {
        RawOp::Nop => opcode::Nop::new().build(),
        RawOp::Accept { on } => opcode::Accept::new(fd(on), ptr::null_mut(), ptr::null_mut())
            .flags(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK)
            .build(),
        RawOp::Connect { on, address } => {
            // SAFETY: valid until the completion, by the caller's promise.
            let address = unsafe { &*address };
            opcode::Connect::new(fd(on), address.as_ptr().cast(), address.len()).build()
        }
        RawOp::Recv { on, buf, len, peek } => {
            let flags = if peek { libc::MSG_PEEK } else { 0 };
            opcode::Recv::new(fd(on), buf, len.min(MAX_COUNT) as u32).flags(flags).build()
        }
        RawOp::Send { on, buf, len } => {
            let len = len.min(MAX_COUNT) as u32;
            opcode::Send::new(fd(on), buf, len).flags(libc::MSG_NOSIGNAL).build()
        }
        RawOp::RecvVectored { on, message } => {
            // SAFETY: valid until the completion, by the caller's promise.
            let header = unsafe { sys::prepare(message) };
            opcode::RecvMsg::new(fd(on), header).build()
        }
        RawOp::SendVectored { on, message } => {
            // SAFETY: valid until the completion, by the caller's promise.
            let header = unsafe { sys::prepare(message) };
            opcode::SendMsg::new(fd(on), header).flags(libc::MSG_NOSIGNAL as u32).build()
        }
        RawOp::Ready { on, interest } => {
            let events = sys::poll_events(interest) as u16;
            opcode::PollAdd::new(fd(on), u32::from(events)).build()
        }
        // It never blocks, and the kernel's own SHUTDOWN op always goes to a thread of its pool.
        RawOp::Shutdown { on, how } => return Err(sys::shutdown(fd(on).0, how)),
        RawOp::Close { fd } => opcode::Close::new(types::Fd(fd)).build(),
    })
}

#[inline]
fn fd(on: Target) -> types::Fd {
    // SAFETY: in place and open until the completion, by the invariant of `Target`.
    types::Fd(unsafe { on.0.as_ref() }.raw_fd())
}
