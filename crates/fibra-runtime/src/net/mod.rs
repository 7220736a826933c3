//! TCP with std's shape, for fibers and for plain threads.
//!
//! Replace `std::net` by `fibra::net`. In a fiber a call that has to wait parks the fiber; on a
//! plain thread, inside a runtime or not, it blocks the thread. [`TcpStream`] and `&TcpStream` are
//! [`Read`](std::io::Read) and [`Write`](std::io::Write), so whatever is written against those
//! traits works on top: `BufReader`, `io::copy`, synchronous TLS and protocol crates.
//!
//! Guaranteed, beyond what std says:
//! - Several fibers and threads may use one socket at once. Each direction serves them one at a
//!   time, first come first served; the two directions are independent.
//! - A call that is ended early (cancel, deadline, timeout) loses no bytes and no connection: what
//!   the kernel had handed over already is what the next call gets.
//! - How a wait ended can be told from the error: a socket timeout is `WouldBlock` (as in std on
//!   Unix), an inherited deadline is `TimedOut`, a cancel is found by
//!   [`is_cancelled`](crate::is_cancelled).
//! - Only what says `# Suspends` suspends a fiber (it blocks a plain thread), and nothing does in
//!   non-blocking mode. Dropping, cloning, `shutdown`, getters and setters never do.
//!
//! Names of what is plain data (addresses, [`Shutdown`]) are std's own types, found here too.

mod address;
mod direction;
mod shortage;
mod tcp_listener;
mod tcp_stream;

pub use address::ToSocketAddrs;
pub use std::net::{
    AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, SocketAddrV6,
};
pub use tcp_listener::{Incoming, IntoIncoming, TcpListener};
pub use tcp_stream::TcpStream;

#[cfg(test)]
mod tests;
