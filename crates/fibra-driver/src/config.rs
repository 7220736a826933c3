//! Configuration: which backend, and the limits of its queues.

use std::fmt;
use std::str::FromStr;

/// One of the backends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum BackendKind {
    /// io_uring (Linux 6.1 or newer).
    Uring,
    /// epoll on Linux, kqueue or IOCP elsewhere, through mio.
    Epoll,
    /// `poll(2)`.
    Poll,
    /// `select(2)`; refuses descriptors from `FD_SETSIZE` on.
    Select,
}

impl BackendKind {
    /// All backends, in order of preference.
    pub const ALL: [Self; 4] = [Self::Uring, Self::Epoll, Self::Poll, Self::Select];

    /// The name used on the command line and in `FIBRA_DRIVER`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Epoll => "epoll",
            Self::Poll => "poll",
            Self::Select => "select",
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which backend to use: a named one or the best that runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Choice {
    /// io_uring if a real round trip through it works, else epoll, else poll.
    #[default]
    Auto,
    /// This one; if it cannot run, that is an error.
    Named(BackendKind),
}

impl Choice {
    /// The choice named by the environment variable `FIBRA_DRIVER`, if it is set and not empty.
    ///
    /// # Errors
    /// A text for the user if it names no driver.
    pub fn from_env() -> Result<Option<Self>, String> {
        match std::env::var("FIBRA_DRIVER") {
            Ok(name) if name.is_empty() => Ok(None),
            Ok(name) => name.parse().map(Some).map_err(|error| format!("FIBRA_DRIVER: {error}")),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => Err("FIBRA_DRIVER: not UTF-8: expected \
                 auto, uring, epoll, poll or select"
                .to_owned()),
        }
    }
}

impl FromStr for Choice {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        if name == "auto" {
            return Ok(Self::Auto);
        }
        match BackendKind::ALL.into_iter().find(|kind| kind.name() == name) {
            Some(kind) => Ok(Self::Named(kind)),
            None => {
                Err(format!("unknown driver '{name}': expected auto, uring, epoll, poll or select"))
            }
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Named(kind) => kind.fmt(f),
        }
    }
}

/// How to make a [`Driver`](crate::Driver).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Which backend.
    pub choice: Choice,
    /// Entries of the submission queue (io_uring); the completion queue has four times as many.
    pub entries: u32,
    /// Entries of the completion queue (io_uring) if not four times `entries`.
    pub completion_entries: Option<u32>,
    /// How many ops may be in flight in one driver.
    pub in_flight_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            choice: Choice::Auto,
            entries: 1024,
            completion_entries: None,
            in_flight_max: 1 << 20,
        }
    }
}
