//! One op in one direction of a socket: the path that every read, write and accept takes.
//!
//! ```text
//!   gate ----> stash ----> op -----> leave
//!    |          |           |
//!    |          |           +-- the driver, through the one function of `sched::wait`
//!    |          +-- what an abandoned op had won already is taken first
//!    +-- one op at a time, first come first served
//! ```
//!
//! On the hot path that is one compare-and-swap, two loads, the op and one more
//! compare-and-swap: no lock, no allocation, no clock.

use std::io;

use fibra_driver::{Deadline, Direction, Gate, Instant, RawOp, Socket, run_blocking_until};

use crate::sched::wait::{self, Interrupt};

/// The most bytes one op moves; Linux has the same limit, and a count fits an `i32`.
pub(crate) const LEN_MAX: usize = 0x7fff_f000;

/// Performs `op` on `socket` as one of its many users. A negative result comes back as the error it
/// stands for.
///
/// # Safety
/// - As for [`Driver::submit`](fibra_driver::Driver::submit), until this returns.
/// - The op is one of `direction`, and its target is `socket`.
#[inline]
pub(crate) unsafe fn perform(socket: &Socket, direction: Direction, op: RawOp) -> io::Result<i32> {
    let wait = Wait::of(socket, direction);
    let gate = &socket.side(direction).gate;
    if !gate.try_enter() {
        queue_up(gate, wait)?;
    }
    let _inside = Inside(gate);
    // SAFETY: forwarded, and we are inside the gate.
    if let Some(result) = unsafe { socket.take_stashed(&op) } {
        return as_io_result(result);
    }
    let outcome = match wait {
        // SAFETY: forwarded; the caller keeps the same promises.
        Wait::Until(timeout) => unsafe { wait::wait_op(op, timeout) },
        // SAFETY: as above.
        Wait::Not => unsafe { attempt(op) },
    };
    match outcome {
        Ok(result) => as_io_result(result),
        Err(interrupt) => Err(interrupt.into()),
    }
}

/// Being inside a gate; left on drop.
struct Inside<'a>(&'a Gate);

impl Drop for Inside<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// How long an op may wait.
#[derive(Clone, Copy)]
enum Wait {
    Not,
    Until(Option<Instant>),
}

impl Wait {
    /// What was set for the socket. Only ops with a timeout read the clock.
    #[inline]
    fn of(socket: &Socket, direction: Direction) -> Self {
        if socket.is_nonblocking() {
            return Self::Not;
        }
        let timeout = match direction {
            Direction::Read => socket.read_timeout(),
            Direction::Write => socket.write_timeout(),
        };
        Self::Until(timeout.map(|timeout| Instant::now() + timeout))
    }
}

#[cold]
fn queue_up(gate: &Gate, wait: Wait) -> io::Result<()> {
    match wait {
        // Whoever is inside either has taken what there is or waits because there is nothing.
        Wait::Not => Err(Interrupt::Timeout.into()),
        Wait::Until(timeout) => wait::enter_gate(gate, timeout).map_err(io::Error::from),
    }
}

/// Performs `op` if it can be done without waiting. It neither parks nor enters a driver.
///
/// # Safety
/// As for [`Driver::submit`](fibra_driver::Driver::submit), until this returns.
#[cold]
pub(crate) unsafe fn attempt(op: RawOp) -> Result<i32, Interrupt> {
    // Not a deadline of now: what that says, ETIMEDOUT, is also an error of connections.
    // SAFETY: forwarded; the caller keeps the same promises.
    match unsafe { run_blocking_until(op, Deadline::Never, &|| true) } {
        result if result == -libc::ECANCELED => Err(Interrupt::Timeout),
        result => Ok(result),
    }
}

/// The result of an op (a negated OS error number if negative) as a value.
#[inline]
pub(crate) fn as_io_result(result: i32) -> io::Result<i32> {
    if result < 0 { Err(os_error(result)) } else { Ok(result) }
}

#[cold]
fn os_error(result: i32) -> io::Error {
    io::Error::from_raw_os_error(result.saturating_neg())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_interrupt_has_its_own_kind() {
        use io::ErrorKind;
        let cancelled = io::Error::from(Interrupt::Cancelled);
        assert!(crate::is_cancelled(&cancelled));
        assert_eq!(cancelled.kind(), ErrorKind::Other);
        assert_eq!(io::Error::from(Interrupt::Deadline).kind(), ErrorKind::TimedOut);
        let timeout = io::Error::from(Interrupt::Timeout);
        assert_eq!(
            (timeout.kind(), timeout.raw_os_error()),
            (ErrorKind::WouldBlock, Some(libc::EAGAIN))
        );
    }
}
