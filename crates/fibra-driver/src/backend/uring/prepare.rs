//! From an op to an entry of the submission queue.
//!
//! Here would go `POLL_FIRST` (skip the first try of a receive that is known to find nothing), as
//! one more argument of the two receives, once a measurement asks for it.

use io_uring::opcode;
use io_uring::squeue::Entry;

use crate::op::{Message, RawOp, Target};
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

/// An entry as the kernel reads it. Built once, from plain numbers: an entry that is put together in
/// memory and then copied costs more than the rest of a submission.
#[repr(C)]
#[derive(Default)]
struct Sqe {
    opcode: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    offset: u64,
    address: u64,
    len: u32,
    op_flags: u32,
    user_data: u64,
    others: [u64; 3],
}

/// What differs between the entries of ops.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    pub verb: Verb,
    opcode: u8,
    fd: i32,
    /// Where the manual says `off`.
    offset: u64,
    address: u64,
    len: u32,
    op_flags: u32,
}

impl Parts {
    const NOTHING: Self = Self {
        verb: Verb::Nop,
        opcode: opcode::Nop::CODE,
        fd: -1,
        offset: 0,
        address: 0,
        len: 0,
        op_flags: 0,
    };

    /// The entry whose completion will carry `user_data`.
    #[inline]
    pub fn entry(&self, user_data: u64) -> Entry {
        let Self { opcode, fd, offset, address, len, op_flags, .. } = *self;
        let sqe = Sqe { opcode, fd, offset, address, len, op_flags, user_data, ..Sqe::default() };
        // SAFETY: both are the 64 bytes of the kernel's `io_uring_sqe`, in `repr(C)`.
        unsafe { std::mem::transmute::<Sqe, Entry>(sqe) }
    }
}

/// What the kernel is to be told about an op, or the result of one that is done here and now.
///
/// # Safety
/// As for [`Driver::submit`](crate::Driver::submit).
#[inline]
pub(super) unsafe fn prepare(op: RawOp) -> Result<Parts, i32> {
    let nothing = Parts::NOTHING;
    Ok(match op {
        RawOp::Nop => nothing,
        RawOp::Accept { on } => Parts {
            verb: Verb::Accept,
            opcode: opcode::Accept::CODE,
            fd: fd(on),
            op_flags: (libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u32,
            ..nothing
        },
        RawOp::Connect { on, address } => {
            // SAFETY: valid until the completion, by the caller's promise.
            let address = unsafe { &*address };
            Parts {
                verb: Verb::Connect,
                opcode: opcode::Connect::CODE,
                fd: fd(on),
                address: address.as_ptr() as u64,
                offset: u64::from(address.len()),
                ..nothing
            }
        }
        RawOp::Recv { on, buf, len, peek } => Parts {
            verb: Verb::Recv,
            opcode: opcode::Recv::CODE,
            fd: fd(on),
            address: buf as u64,
            len: len.min(MAX_COUNT) as u32,
            op_flags: if peek { libc::MSG_PEEK as u32 } else { 0 },
            ..nothing
        },
        RawOp::Send { on, buf, len } => Parts {
            verb: Verb::Send,
            opcode: opcode::Send::CODE,
            fd: fd(on),
            address: buf as u64,
            len: len.min(MAX_COUNT) as u32,
            op_flags: libc::MSG_NOSIGNAL as u32,
            ..nothing
        },
        RawOp::RecvVectored { on, message } => Parts {
            verb: Verb::RecvVectored,
            opcode: opcode::RecvMsg::CODE,
            // SAFETY: valid until the completion, by the caller's promise.
            ..unsafe { vectored(on, message) }
        },
        RawOp::SendVectored { on, message } => Parts {
            verb: Verb::SendVectored,
            opcode: opcode::SendMsg::CODE,
            op_flags: libc::MSG_NOSIGNAL as u32,
            // SAFETY: valid until the completion, by the caller's promise.
            ..unsafe { vectored(on, message) }
        },
        RawOp::Ready { on, interest } => Parts {
            verb: Verb::Ready,
            opcode: opcode::PollAdd::CODE,
            fd: fd(on),
            op_flags: poll_bits(sys::poll_events(interest)),
            ..nothing
        },
        // It never blocks, and the kernel's own SHUTDOWN op always goes to a thread of its pool.
        RawOp::Shutdown { on, how } => return Err(sys::shutdown(fd(on), how)),
        RawOp::Close { fd } => {
            Parts { verb: Verb::Close, opcode: opcode::Close::CODE, fd, ..nothing }
        }
    })
}

/// # Safety
/// `message` is valid until the completion.
#[inline]
unsafe fn vectored(on: Target, message: *mut Message) -> Parts {
    // SAFETY: by the caller's promise.
    let header = unsafe { sys::prepare(message) };
    Parts { fd: fd(on), address: header as u64, len: 1, ..Parts::NOTHING }
}

/// The bits of `poll(2)` in the kernel's 32-bit field, whose halves are swapped on big-endian.
#[inline]
fn poll_bits(events: libc::c_short) -> u32 {
    let bits = u32::from(events as u16);
    if cfg!(target_endian = "big") { bits.rotate_left(16) } else { bits }
}

#[inline]
fn fd(on: Target) -> i32 {
    // SAFETY: in place and open until the completion, by the invariant of `Target`.
    unsafe { on.0.as_ref() }.raw_fd()
}
