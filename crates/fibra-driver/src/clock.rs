//! Time, read in one place, so that a simulated driver can own it.

use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

/// A point of the monotonic clock, in nanoseconds.
///
/// Our own type on purpose: a program that takes its time from here runs unchanged on a virtual
/// clock. Reading it costs about 25 ns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Instant {
    nanos: u64,
}

impl Instant {
    /// Reads the clock.
    pub fn now() -> Self {
        Self { nanos: crate::sys::monotonic_nanos() }
    }

    /// Nanoseconds since the clock's own origin (on Linux: the boot of the machine).
    pub const fn as_nanos(self) -> u64 {
        self.nanos
    }

    /// The instant that many nanoseconds after the clock's origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self { nanos }
    }

    /// Time passed from `earlier` to `self`; zero if `earlier` is later.
    pub fn duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(earlier.nanos))
    }

    /// Time passed since `self`.
    pub fn elapsed(self) -> Duration {
        Self::now().duration_since(self)
    }

    /// The instant `delay` later; the end of time (584 years) if that is out of range.
    pub fn saturating_add(self, delay: Duration) -> Self {
        let delay = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        Self { nanos: self.nanos.saturating_add(delay) }
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, delay: Duration) -> Self {
        self.saturating_add(delay)
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, delay: Duration) {
        *self = *self + delay;
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.duration_since(earlier)
    }
}

impl From<std::time::Instant> for Instant {
    fn from(then: std::time::Instant) -> Self {
        let (now, here) = (std::time::Instant::now(), Self::now());
        match then.checked_duration_since(now) {
            Some(ahead) => here + ahead,
            None => {
                let ago = u64::try_from(now.duration_since(then).as_nanos()).unwrap_or(u64::MAX);
                Self { nanos: here.nanos.saturating_sub(ago) }
            }
        }
    }
}

impl From<Instant> for std::time::Instant {
    fn from(then: Instant) -> Self {
        let (now, here) = (std::time::Instant::now(), Instant::now());
        match then.nanos.checked_sub(here.nanos) {
            Some(ahead) => now + Duration::from_nanos(ahead),
            None => now.checked_sub(here.duration_since(then)).unwrap_or(now),
        }
    }
}

/// Until when a wait may last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deadline {
    /// Look, but do not sleep.
    Now,
    /// Sleep until then at the longest.
    At(Instant),
    /// Sleep until something happens.
    Never,
}

impl Deadline {
    /// How long that is from now on; `None` for ever.
    pub fn remaining(self) -> Option<Duration> {
        match self {
            Self::Now => Some(Duration::ZERO),
            Self::At(then) => Some(then.duration_since(Instant::now())),
            Self::Never => None,
        }
    }
}
