//! Cancellation as an error value: how a wait says that its fiber was cancelled.
//!
//! Never [`ErrorKind::Interrupted`](io::ErrorKind::Interrupted), which std's loops retry for ever,
//! and never an unwind.

use std::error::Error;
use std::fmt;
use std::io;

use crate::sched::wait::Interrupt;

/// Says that the fiber was cancelled: the payload of the [`io::Error`] that its waits return.
///
/// ```
/// # use fibra_runtime as fibra;
/// let error = std::io::Error::other(fibra::Cancelled);
/// let payload = error.get_ref().and_then(|payload| payload.downcast_ref::<fibra::Cancelled>());
/// assert_eq!(payload, Some(&fibra::Cancelled));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled;

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the fiber was cancelled")
    }
}

impl Error for Cancelled {}

impl From<Interrupt> for io::Error {
    /// As std where std has the thing: a socket's own timeout is `WouldBlock`.
    fn from(interrupt: Interrupt) -> Self {
        match interrupt {
            Interrupt::Cancelled => Cancelled.into(),
            Interrupt::Deadline => {
                Self::new(io::ErrorKind::TimedOut, "the deadline of the fiber has passed")
            }
            Interrupt::Timeout => Self::from_raw_os_error(libc::EAGAIN),
        }
    }
}

impl From<Cancelled> for io::Error {
    fn from(cancelled: Cancelled) -> Self {
        Self::other(cancelled)
    }
}

/// Tells whether `error` says that the fiber was cancelled.
///
/// Errors that wrap another one (as TLS and protocol crates make them) are looked into.
///
/// ```
/// # use fibra_runtime as fibra;
/// assert!(fibra::is_cancelled(&fibra::Cancelled.into()));
/// assert!(!fibra::is_cancelled(&std::io::ErrorKind::TimedOut.into()));
/// ```
pub fn is_cancelled(error: &io::Error) -> bool {
    let mut next: Option<&(dyn Error + 'static)> = match error.get_ref() {
        Some(payload) => Some(payload),
        None => return false,
    };
    while let Some(error) = next {
        if error.is::<Cancelled>() {
            return true;
        }
        // `io::Error::source` skips its own payload, so that one is looked at here.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(payload) => Some(payload),
            None => error.source(),
        };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Wrapper(io::Error);

    impl fmt::Display for Wrapper {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.fmt(f)
        }
    }

    impl Error for Wrapper {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn a_cancel_is_found_inside_wrapping_errors() {
        let plain: io::Error = Cancelled.into();
        assert_eq!(plain.kind(), io::ErrorKind::Other);
        assert_eq!(plain.to_string(), "the fiber was cancelled");
        let nested = io::Error::new(io::ErrorKind::InvalidData, plain);
        assert!(is_cancelled(&nested));
        let wrapped = io::Error::other(Wrapper(nested));
        assert!(is_cancelled(&wrapped));
    }

    #[test]
    fn other_errors_are_no_cancel() {
        assert!(!is_cancelled(&io::Error::from_raw_os_error(libc::ECANCELED)));
        assert!(!is_cancelled(&io::Error::other("the fiber was cancelled")));
    }
}
