//! Probing: which backends run here, found out by a real round trip, once per process. (Stub.)

use std::io;

use crate::config::{BackendKind, Choice};

/// Which backend to use under `choice`.
pub fn choose(choice: Choice) -> io::Result<BackendKind> {
    match choice {
        Choice::Named(kind) => Ok(kind),
        Choice::Auto => Ok(BackendKind::Epoll),
    }
}
