//! Why a stack could not be had, and what to do about it.

use std::error::Error;
use std::fmt;
use std::io;

/// Why a stack could not be had.
#[derive(Debug)]
#[non_exhaustive]
pub enum StackError {
    /// A size beyond what one stack may reserve was asked for.
    TooLarge {
        /// What was asked for, in bytes.
        bytes: usize,
        /// The most that can be asked for, in bytes.
        bytes_max: usize,
    },
    /// The operating system refused the address space.
    Reserve {
        /// The size of the smallest reservation that was tried, in bytes.
        bytes: usize,
        /// What it answered.
        source: io::Error,
    },
    /// The named way of making guards does not work here.
    Guard {
        /// What the operating system answered.
        source: io::Error,
    },
    /// Guards are made with `mprotect` here, and one more stack would come too close to the number
    /// of mappings a process may have.
    Limit {
        /// Stacks guarded with `mprotect` in this process.
        guards: usize,
        /// The most there may be.
        guards_max: usize,
        /// The limit of the system, `vm.max_map_count`, that this is derived from.
        max_map_count: usize,
    },
}

impl fmt::Display for StackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { bytes, bytes_max } => {
                write!(f, "a stack of {bytes} bytes was asked for; the most is {bytes_max} bytes")
            }
            Self::Reserve { bytes, source } => write!(
                f,
                "cannot reserve {} KiB of address space for fiber stacks: {source}; \
                 look at `ulimit -v`, `ulimit -l`, vm.overcommit_memory and vm.max_map_count",
                bytes / 1024
            ),
            Self::Guard { source } => write!(
                f,
                "cannot guard fiber stacks with MADV_GUARD_INSTALL: {source}; it needs Linux 6.13 \
                 and memory that is not locked; FIBRA_GUARDS=auto falls back to mprotect"
            ),
            Self::Limit { guards, guards_max, max_map_count } => write!(
                f,
                "no more fiber stacks: {guards} are guarded with mprotect and {guards_max} is the \
                 most that vm.max_map_count = {max_map_count} leaves room for; raise it with \
                 `sysctl -w vm.max_map_count=N`, or use Linux 6.13, where guards cost no mapping"
            ),
        }
    }
}

impl Error for StackError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Reserve { source, .. } | Self::Guard { source } => Some(source),
            Self::TooLarge { .. } | Self::Limit { .. } => None,
        }
    }
}

impl From<StackError> for io::Error {
    fn from(error: StackError) -> Self {
        let kind = match &error {
            StackError::TooLarge { .. } => io::ErrorKind::InvalidInput,
            StackError::Guard { .. } => io::ErrorKind::Unsupported,
            StackError::Reserve { .. } | StackError::Limit { .. } => io::ErrorKind::OutOfMemory,
        };
        io::Error::new(kind, error)
    }
}
