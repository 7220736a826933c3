//! Sockets: created, bound, configured and closed here, shared by every model. (Stub.)

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::descriptor::Descriptor;
use crate::gate::Gate;
use crate::op::Target;
use crate::stash::Stash;
use crate::sys::OwnedFd;

/// One of the two directions of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Receive, accept, peek.
    Read,
    /// Send, connect.
    Write,
}

/// One direction of a socket: its gate and its stash.
#[derive(Debug, Default)]
pub struct Side {
    /// One op at a time.
    pub gate: Gate,
    /// What abandoned ops had won.
    pub stash: Stash,
}

/// A user's handle on a socket. Clones share the descriptor, the gates and the stash.
#[derive(Clone, Debug)]
pub struct Socket {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    descriptor: Descriptor,
    read: Side,
    write: Side,
}

impl Socket {
    /// Makes a TCP socket of the family of `address`.
    pub fn tcp(_address: &SocketAddr) -> io::Result<Self> {
        unimplemented!()
    }
    /// A bound, listening TCP socket (SO_REUSEADDR on Unix).
    pub fn listen(_address: &SocketAddr, _backlog: i32) -> io::Result<Self> {
        unimplemented!()
    }
    /// Takes over an open socket, which is put into non-blocking mode.
    pub fn from_owned(fd: OwnedFd) -> io::Result<Self> {
        let shared = Shared {
            descriptor: Descriptor::new(fd),
            read: Side::default(),
            write: Side::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }
    /// Takes over the result of an accept.
    ///
    /// # Safety
    /// `fd` is an open, non-blocking descriptor number that nobody else owns.
    pub unsafe fn from_accepted(_fd: i32) -> Self {
        unimplemented!()
    }
    /// The target for ops on this socket. The socket must outlive them.
    pub fn target(&self) -> Target {
        Target::new(&self.shared.descriptor)
    }
    /// One of its two directions.
    pub fn side(&self, direction: Direction) -> &Side {
        match direction {
            Direction::Read => &self.shared.read,
            Direction::Write => &self.shared.write,
        }
    }
    /// For options and addresses.
    pub fn options(&self) -> socket2::SockRef<'_> {
        unimplemented!()
    }
}
