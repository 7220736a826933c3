//! Time: the clock and sleeping.

use std::io;
use std::time::Duration;

pub use fibra_driver::Instant;

use crate::sched::wait::sleep_until;

/// Sleeps for `delay`; never less, unless the fiber is cancelled or its deadline passes first.
/// Works on plain threads too.
///
/// # Suspends
/// Yes.
///
/// # Cancellation
/// Returns early; [`try_sleep`] tells.
pub fn sleep(delay: Duration) {
    let _ = sleep_until(Instant::now() + delay);
}

/// Sleeps for `delay` and tells if it was cut short.
///
/// # Suspends
/// Yes.
///
/// # Errors
/// `Other` holding [`Cancelled`](crate::Cancelled) if the fiber was cancelled; `TimedOut` if its
/// deadline has passed.
pub fn try_sleep(delay: Duration) -> io::Result<()> {
    Ok(sleep_until(Instant::now() + delay)?)
}
