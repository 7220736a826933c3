//! Raw system calls: the one home of them and of their `unsafe` in this crate.
//!
//! Each platform file defines the same items: `RawFd`, `OwnedFd`, `BorrowedFd`, `MessageHeader`,
//! `IoBuffer`, `raw_fd`, `as_fd`, `monotonic_nanos`, and the non-blocking form of every op:
//! `accept`, `connect`, `connect_result`, `recv`, `send`, `recv_vectored`, `send_vectored`,
//! `shutdown`, `close`, `ready`. They answer like a [`Completion`](crate::Completion): a number, or
//! a negated OS error number; `WOULD_BLOCK` if it cannot be done now.

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub use unix::RawFd;
#[cfg(unix)]
pub(crate) use unix::*;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(crate) use linux::*;

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub use windows::RawFd;
#[cfg(windows)]
pub(crate) use windows::*;
