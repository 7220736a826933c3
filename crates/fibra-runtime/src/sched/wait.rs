//! Waiting for one op: the one place where a model of waiting meets the driver.
//! (Stub: plain threads only.)

use fibra_driver::{Deadline, Gate, Instant, RawOp, run_blocking};

/// Why a wait ended without its op having succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "plain threads are neither cancelled nor do they inherit a deadline")]
pub(crate) enum Interrupt {
    /// The fiber was cancelled.
    Cancelled,
    /// An inherited deadline has passed.
    Deadline,
    /// The timeout of this wait has passed.
    Timeout,
}

/// Waits for one op: a fiber parks, a plain thread blocks, while unwinding it is `poll(2)` for at
/// most 100 ms. Counts against the cooperative budget, so it may yield if the op finished at once.
///
/// Ok is the result of the op (see [`fibra_driver::Completion::result`]); Err if it was ended early
/// by a cancel, an inherited deadline, or `timeout`.
///
/// # Safety
/// As for [`fibra_driver::Driver::submit`]; the memory stays lent only until this returns.
#[inline]
pub(crate) unsafe fn wait_op(op: RawOp, timeout: Option<Instant>) -> Result<i32, Interrupt> {
    let deadline = timeout.map_or(Deadline::Never, Deadline::At);
    // SAFETY: forwarded; the caller keeps the same promises.
    let result = unsafe { run_blocking(op, deadline) };
    match timeout {
        // The kernel says the same of a connection that timed out by itself.
        Some(then) if result == -libc::ETIMEDOUT && Instant::now() >= then => {
            Err(Interrupt::Timeout)
        }
        _ => Ok(result),
    }
}

/// Enters the gate of one direction, waiting in its FIFO.
pub(crate) fn enter_gate(gate: &Gate, timeout: Option<Instant>) -> Result<(), Interrupt> {
    let deadline = timeout.map_or(Deadline::Never, Deadline::At);
    if gate.enter_blocking(deadline) { Ok(()) } else { Err(Interrupt::Timeout) }
}

/// Runs `f` on the blocking pool and waits for it: a fiber parks, a plain thread runs it itself.
pub(crate) fn offload<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    f()
}
