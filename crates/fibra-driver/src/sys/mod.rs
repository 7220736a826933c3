//! Raw system calls: the one home of them and of their `unsafe` in this crate.
//!
//! Each platform file defines the same items: `RawFd`, `OwnedFd`, `BorrowedFd`, `MessageHeader`,
//! `IoBuffer`, `raw_fd`, `as_fd`, `monotonic_nanos`, and the non-blocking form of every op:
//! `accept`, `connect`, `connect_result`, `recv`, `send`, `recv_vectored`, `send_vectored`,
//! `shutdown`, `close`, `ready`. They answer like a [`Completion`](crate::Completion): a number, or
//! a negated OS error number; `WOULD_BLOCK` if it cannot be done now. For the pollers: `Events`,
//! `Sources`, `MIO_EDGES`, `short_means_drained`, and on Unix the sleeping calls of `wait.rs`.

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub(crate) use unix::*;
#[cfg(unix)]
pub use unix::{DESCRIPTOR_TOO_HIGH, ECANCELED, ETIMEDOUT, RawFd};

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub(crate) use windows::*;
#[cfg(windows)]
pub use windows::{DESCRIPTOR_TOO_HIGH, ECANCELED, ETIMEDOUT, RawFd};

#[cfg(target_os = "linux")]
mod epoll;
#[cfg(target_os = "linux")]
pub(crate) use epoll::Events;

#[cfg(not(target_os = "linux"))]
mod kqueue_iocp;
#[cfg(not(target_os = "linux"))]
pub(crate) use kqueue_iocp::Events;

#[cfg(unix)]
mod wait;
#[cfg(unix)]
pub(crate) use wait::*;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(crate) use linux::*;
