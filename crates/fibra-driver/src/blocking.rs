//! Blocking ops: the same ops on a plain thread, without a driver.
//!
//! Every op is a non-blocking system call and, as long as that says "not now", `poll(2)`. No driver
//! is involved, so a thread that blocks here waits for nobody's event loop.

use std::time::Duration;

use crate::attempt::attempt;
use crate::clock::{Deadline, Instant};
use crate::interest::Interest;
use crate::op::{RawOp, Target};
use crate::socket::{Direction, Socket};
use crate::sys;

/// Runs one op on the calling thread as `poll(2)` and non-blocking system calls.
/// The result is like that of a [`Completion`](crate::Completion); `-ETIMEDOUT` past the deadline,
/// never earlier. An op that can be done at once is done even if the deadline has passed.
///
/// Neither gates nor stashes are looked at: see [`Socket::run_blocking`].
///
/// # Safety
/// As for [`Driver::submit`](crate::Driver::submit), until this returns.
pub unsafe fn run_blocking(op: RawOp, deadline: Deadline) -> i32 {
    // SAFETY: forwarded; the caller keeps the same promises.
    unsafe { run(op, deadline, None) }
}

/// [`run_blocking`] that ends with `-ECANCELED` when `cancelled` says so, which is asked every time
/// before the thread sleeps and every 100 ms meanwhile.
///
/// # Safety
/// As for [`Driver::submit`](crate::Driver::submit), until this returns.
pub unsafe fn run_blocking_until(
    op: RawOp,
    deadline: Deadline,
    cancelled: &dyn Fn() -> bool,
) -> i32 {
    // SAFETY: forwarded; the caller keeps the same promises.
    unsafe { run(op, deadline, Some(cancelled)) }
}

impl Socket {
    /// [`run_blocking`] as one of many users of this socket: waits for its turn at the gate of the
    /// op's direction, takes what abandoned ops left behind, and only then asks the kernel.
    ///
    /// # Safety
    /// As for [`Driver::submit`](crate::Driver::submit), until this returns; and the op's target is
    /// this socket.
    pub unsafe fn run_blocking(&self, op: RawOp, deadline: Deadline) -> i32 {
        let gate = Direction::of(&op).map(|direction| &self.side(direction).gate);
        if gate.is_some_and(|gate| !gate.enter_blocking(deadline)) {
            return sys::TIMED_OUT;
        }
        // SAFETY: forwarded; the caller keeps the same promises, and we are inside the gate.
        let kept = unsafe { self.take_stashed(&op) };
        let result = kept.unwrap_or_else(|| {
            // SAFETY: forwarded; the caller keeps the same promises.
            unsafe { run_blocking(op, deadline) }
        });
        if let Some(gate) = gate {
            gate.leave();
        }
        result
    }
}

/// How long a thread that can be cancelled sleeps at a time.
const CANCEL_POLL: Duration = Duration::from_millis(100);

/// # Safety
/// As for [`run_blocking`].
unsafe fn run(op: RawOp, deadline: Deadline, cancelled: Option<&dyn Fn() -> bool>) -> i32 {
    if let RawOp::Ready { on, interest } = op {
        // SAFETY: forwarded; the caller keeps the same promises.
        return unsafe { poll(on, interest, deadline, cancelled) };
    }
    let mut connecting = false;
    loop {
        // SAFETY: forwarded; the caller keeps the same promises.
        let result = unsafe { try_once(op, &mut connecting) };
        let (Some(on), sys::WOULD_BLOCK) = (op.target(), result) else { return result };
        let interest = match Direction::of(&op) {
            Some(Direction::Read) => Interest::READABLE,
            _ => Interest::WRITABLE,
        };
        // SAFETY: forwarded; the caller keeps the same promises.
        let ready = unsafe { poll(on, interest, deadline, cancelled) };
        if ready < 0 {
            return ready;
        }
    }
}

/// One try of `op`, or the next look at a connect that was started.
///
/// # Safety
/// As for [`run_blocking`].
unsafe fn try_once(op: RawOp, connecting: &mut bool) -> i32 {
    let RawOp::Connect { on, address } = op else {
        // SAFETY: forwarded; the caller keeps the same promises.
        return unsafe { attempt(op) }.unwrap_or(sys::WOULD_BLOCK);
    };
    // SAFETY: the descriptor is in place and open by the caller's promise.
    let fd = unsafe { on.0.as_ref() }.raw_fd();
    if *connecting {
        return sys::connect_result(fd);
    }
    *connecting = true;
    // SAFETY: valid by the caller's promise.
    unsafe { sys::connect(fd, address) }
}

/// Sleeps until the descriptor is ready: the bits of [`Readiness`](crate::Readiness), or an error.
///
/// # Safety
/// The descriptor of `on` is in place and open.
unsafe fn poll(
    on: Target,
    interest: Interest,
    deadline: Deadline,
    cancelled: Option<&dyn Fn() -> bool>,
) -> i32 {
    // SAFETY: in place and open by the caller's promise.
    let fd = unsafe { on.0.as_ref() }.raw_fd();
    loop {
        if cancelled.is_some_and(|cancelled| cancelled()) {
            return sys::CANCELLED;
        }
        let left = deadline.remaining();
        let nap = match (left, cancelled) {
            (Some(left), Some(_)) => Some(left.min(CANCEL_POLL)),
            (None, Some(_)) => Some(CANCEL_POLL),
            (left, None) => left,
        };
        match sys::ready(fd, interest, whole_millis(nap)) {
            0 if is_over(deadline) => return sys::TIMED_OUT,
            0 | sys::INTERRUPTED => {}
            result => return result,
        }
    }
}

/// Rounded up, because sleeping again costs a call and waking early would be wrong; -1 for ever.
fn whole_millis(nap: Option<Duration>) -> i32 {
    match nap {
        None => -1,
        Some(nap) => i32::try_from(nap.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX),
    }
}

fn is_over(deadline: Deadline) -> bool {
    match deadline {
        Deadline::Now => true,
        Deadline::At(then) => Instant::now() >= then,
        Deadline::Never => false,
    }
}
