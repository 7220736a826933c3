//! Sockets: created, bound, configured and closed here, shared by every model.
//!
//! ```text
//!   Socket   Socket (clone)   OpHandle   OpHandle        user handles and op handles are counted
//!      \        |                |         /             apart, but all of them keep the
//!       +-------+--- Shared -----+--------+              descriptor open
//!                 descriptor, read side, write side, ops in flight
//! ```
//!
//! Rules:
//! 1. A clone is a second handle on the same descriptor, gates and stash, never a dup: two stashes
//!    for one stream would reorder it.
//! 2. Dropping the last *user* handle cancels the ops in flight. The descriptor is closed when the
//!    last of them is final, so its number is not reused under them, and the peer still gets its
//!    FIN although an abandoned read would have waited for ever.
//! 3. The descriptor itself is always in non-blocking mode. What the user of a std-shaped type asks
//!    for with `set_nonblocking` is a flag here.

use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Type};

use crate::descriptor::Descriptor;
use crate::gate::Gate;
use crate::interest::Readiness;
use crate::op::{RawOp, Target};
use crate::stash::Stash;
use crate::sys::{self, OwnedFd};

/// One of the two directions of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Receive, accept, peek.
    Read,
    /// Send, connect.
    Write,
}

impl Direction {
    /// The direction whose gate an op has to pass; `None` for ops that neither take nor give
    /// anything.
    pub fn of(op: &RawOp) -> Option<Self> {
        match op {
            RawOp::Accept { .. } | RawOp::Recv { .. } | RawOp::RecvVectored { .. } => {
                Some(Self::Read)
            }
            RawOp::Connect { .. } | RawOp::Send { .. } | RawOp::SendVectored { .. } => {
                Some(Self::Write)
            }
            RawOp::Nop | RawOp::Ready { .. } | RawOp::Shutdown { .. } | RawOp::Close { .. } => None,
        }
    }
}

/// One direction of a socket: its gate and its stash.
#[derive(Debug, Default)]
pub struct Side {
    /// One op at a time.
    pub gate: Gate,
    /// What abandoned ops had won.
    pub stash: Stash,
}

/// Something that can be asked to end an op: the mailbox of the driver that runs it.
pub trait Canceller: Send + Sync {
    /// Asks that the op known under `word` end early. Called when the last user handle of its
    /// socket is dropped, from whatever thread that happens on; must not block. The op may have
    /// ended already.
    fn cancel(&self, word: u64);
}

/// A user's handle on a socket. Clones share the descriptor, the gates and the stash.
///
/// Dropping the last one cancels the ops in flight; the descriptor is closed after them.
#[derive(Debug)]
pub struct Socket {
    /// # Invariant
    /// Counted in `Shared::user_count`.
    shared: Arc<Shared>,
}

/// An op's handle on a socket: keeps the descriptor open, but is no reason to keep the ops going.
#[derive(Debug)]
pub struct OpHandle {
    shared: Arc<Shared>,
    /// The entry in `Shared::ops`; 0 for none.
    registration: u64,
}

struct Shared {
    descriptor: Descriptor,
    read: Side,
    write: Side,
    user_count: AtomicUsize,
    /// A send was cut in its middle: what would follow it makes no sense to the peer.
    write_failed: AtomicBool,
    nonblocking: AtomicBool,
    /// Nanoseconds; 0 for none.
    read_timeout: AtomicU64,
    write_timeout: AtomicU64,
    ops: Mutex<Ops>,
}

/// The ops in flight that are to be cancelled with the last user handle. As many as there are op
/// handles registered.
#[derive(Default)]
struct Ops {
    last_key: u64,
    list: Vec<Registered>,
}

#[derive(Clone)]
struct Registered {
    key: u64,
    canceller: Arc<dyn Canceller>,
    word: u64,
}

impl Socket {
    /// Makes a TCP socket of the family of `address`.
    ///
    /// # Errors
    /// What `socket(2)` says: no descriptors or memory left, or no such address family.
    pub fn tcp(address: &SocketAddr) -> io::Result<Self> {
        Self::new(new_tcp(address)?)
    }

    /// A bound, listening TCP socket (SO_REUSEADDR on Unix, so that a restarted server can bind
    /// while connections of the one before linger).
    ///
    /// # Errors
    /// The address is in use or not ours, or the port needs a permission.
    pub fn listen(address: &SocketAddr, backlog: i32) -> io::Result<Self> {
        let socket = new_tcp(address)?;
        // On Windows the option means something else: others could take the port over.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.bind(&(*address).into())?;
        socket.listen(backlog)?;
        Self::new(socket)
    }

    fn new(socket: socket2::Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self::wrap(socket.into()))
    }

    /// Takes over an open socket, which is put into non-blocking mode.
    ///
    /// # Errors
    /// The mode cannot be set; the socket is closed then.
    pub fn from_owned(fd: OwnedFd) -> io::Result<Self> {
        SockRef::from(&fd).set_nonblocking(true)?;
        Ok(Self::wrap(fd))
    }

    /// Takes over the result of an accept.
    ///
    /// # Safety
    /// `fd` is an open, non-blocking descriptor number that nobody else owns.
    pub unsafe fn from_accepted(fd: i32) -> Self {
        // SAFETY: forwarded; the caller keeps the same promises.
        Self::wrap(unsafe { sys::owned_fd(fd) })
    }

    fn wrap(fd: OwnedFd) -> Self {
        let shared = Shared {
            descriptor: Descriptor::new(fd),
            read: Side::default(),
            write: Side::default(),
            user_count: AtomicUsize::new(1),
            write_failed: AtomicBool::new(false),
            nonblocking: AtomicBool::new(false),
            read_timeout: AtomicU64::new(0),
            write_timeout: AtomicU64::new(0),
            ops: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The target for ops on this socket. The socket must outlive them.
    #[inline]
    pub fn target(&self) -> Target {
        Target::new(&self.shared.descriptor)
    }

    /// One of its two directions.
    #[inline]
    pub fn side(&self, direction: Direction) -> &Side {
        self.shared.side(direction)
    }

    /// For options and addresses.
    pub fn options(&self) -> SockRef<'_> {
        SockRef::from(&*self.shared)
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// What `getsockname(2)` says, or `InvalidInput` if it is no IP socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        ip(self.options().local_addr()?)
    }

    /// The address of its peer.
    ///
    /// # Errors
    /// `NotConnected`, or `InvalidInput` if it is no IP socket.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        ip(self.options().peer_addr()?)
    }

    /// A number that no other socket of this process has or will have.
    pub fn id(&self) -> u64 {
        self.shared.descriptor.id()
    }

    /// A handle for an op: keeps the descriptor open, but does not count as a user's.
    pub fn op_handle(&self) -> OpHandle {
        OpHandle { shared: self.shared.clone(), registration: 0 }
    }

    /// What the user of the std-shaped type asked for; the descriptor itself never blocks.
    pub fn is_nonblocking(&self) -> bool {
        self.shared.nonblocking.load(Ordering::Relaxed)
    }

    /// Sets the flag of [`is_nonblocking`](Self::is_nonblocking), for all clones.
    pub fn set_nonblocking(&self, nonblocking: bool) {
        self.shared.nonblocking.store(nonblocking, Ordering::Relaxed);
    }

    /// How long a read may wait; `None` for ever. Stored here for all clones, applied by whoever
    /// waits.
    #[inline]
    pub fn read_timeout(&self) -> Option<Duration> {
        load_timeout(&self.shared.read_timeout)
    }

    /// How long a write may wait; `None` for ever.
    #[inline]
    pub fn write_timeout(&self) -> Option<Duration> {
        load_timeout(&self.shared.write_timeout)
    }

    /// Sets [`read_timeout`](Self::read_timeout).
    ///
    /// # Errors
    /// `InvalidInput` for a timeout of zero, as std has it.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        store_timeout(&self.shared.read_timeout, timeout)
    }

    /// Sets [`write_timeout`](Self::write_timeout).
    ///
    /// # Errors
    /// `InvalidInput` for a timeout of zero, as std has it.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        store_timeout(&self.shared.write_timeout, timeout)
    }

    /// Whether an abandoned send was cut in its middle: writing more would put it into the wrong
    /// place of the stream, so every write fails with `EPIPE`.
    #[inline]
    pub fn is_write_failed(&self) -> bool {
        self.shared.write_failed.load(Ordering::Relaxed)
    }

    /// Marks the write side as failed, for all clones and for ever. Call it inside the write gate.
    pub fn fail_write(&self) {
        self.shared.write_failed.store(true, Ordering::Relaxed);
    }

    /// What an op has to be answered without asking the kernel, if anything: a kept result, or the
    /// failure of the write side. Call it inside the gate of the op's direction, if it has one.
    ///
    /// # Safety
    /// The pointers in `op` are valid as for [`Driver::submit`](crate::Driver::submit).
    #[inline]
    pub unsafe fn take_stashed(&self, op: &RawOp) -> Option<i32> {
        // SAFETY: forwarded; the caller keeps the same promises.
        unsafe { self.shared.take_stashed(op) }
    }

    /// Gives the descriptor away, in the blocking mode that
    /// [`is_nonblocking`](Self::is_nonblocking) tells.
    ///
    /// # Errors
    /// The socket itself, if it has other handles (clones, ops in flight) or if abandoned ops left
    /// bytes, an error or a connection in a stash: all these would be lost or come out of order.
    pub fn try_into_owned(self) -> Result<OwnedFd, Self> {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used again and never dropped, so the reference has one owner.
        let shared = unsafe { std::ptr::read(&this.shared) };
        let shared = match Arc::try_unwrap(shared) {
            Ok(shared) => shared,
            // Still counted as a user handle, because no `drop` ran.
            Err(shared) => return Err(Self { shared }),
        };
        let refuse = |shared| Err(Self { shared: Arc::new(shared) });
        if shared.is_in_use() {
            return refuse(shared);
        }
        let nonblocking = shared.nonblocking.load(Ordering::Relaxed);
        if SockRef::from(&shared).set_nonblocking(nonblocking).is_err() {
            return refuse(shared);
        }
        Ok(shared.descriptor.into_fd())
    }
}

impl Clone for Socket {
    fn clone(&self) -> Self {
        // Relaxed: who clones has a handle, so the count cannot fall to 0 meanwhile.
        self.shared.user_count.fetch_add(1, Ordering::Relaxed);
        Self { shared: self.shared.clone() }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Relaxed: what must be seen, the list of ops, is under a lock (see `register`).
        if self.shared.user_count.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.shared.cancel_all();
        }
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for Socket {
    /// The descriptor, which clones share: there is one of it, whatever the number of clones.
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.shared.descriptor.as_fd()
    }
}

impl OpHandle {
    /// The target for ops on this socket. The handle must outlive them.
    #[inline]
    pub fn target(&self) -> Target {
        Target::new(&self.shared.descriptor)
    }

    /// One of its two directions.
    #[inline]
    pub fn side(&self, direction: Direction) -> &Side {
        self.shared.side(direction)
    }

    /// As [`Socket::take_stashed`].
    ///
    /// # Safety
    /// The pointers in `op` are valid as for [`Driver::submit`](crate::Driver::submit).
    pub unsafe fn take_stashed(&self, op: &RawOp) -> Option<i32> {
        // SAFETY: forwarded; the caller keeps the same promises.
        unsafe { self.shared.take_stashed(op) }
    }

    /// As [`Socket::fail_write`].
    pub fn fail_write(&self) {
        self.shared.write_failed.store(true, Ordering::Relaxed);
    }

    /// Whether any user handle is left.
    pub fn has_users(&self) -> bool {
        self.shared.user_count.load(Ordering::Relaxed) != 0
    }

    /// Has `canceller` told when the last user handle is dropped, once, or at once if there is none
    /// any more. In force until this handle is dropped or registered anew.
    pub fn register(&mut self, canceller: Arc<dyn Canceller>, word: u64) {
        self.unregister();
        let mut ops = self.shared.lock_ops();
        ops.last_key += 1;
        let key = ops.last_key;
        self.registration = key;
        ops.list.push(Registered { key, canceller: canceller.clone(), word });
        drop(ops);
        // If the last user handle was dropped before we had the lock, we see that here; if it is
        // dropped later, `cancel_all` sees our entry.
        if !self.has_users() {
            canceller.cancel(word);
        }
    }

    /// Takes the registration back.
    pub fn unregister(&mut self) {
        if self.registration != 0 {
            let mut ops = self.shared.lock_ops();
            let place = ops.list.iter().position(|op| op.key == self.registration);
            let entry = place.map(|place| ops.list.swap_remove(place));
            self.registration = 0;
            // The canceller's `Drop` is foreign code: after the lock.
            drop(ops);
            drop(entry);
        }
    }
}

impl Drop for OpHandle {
    fn drop(&mut self) {
        self.unregister();
    }
}

impl Shared {
    fn side(&self, direction: Direction) -> &Side {
        match direction {
            Direction::Read => &self.read,
            Direction::Write => &self.write,
        }
    }

    /// # Safety
    /// The pointers in `op` are valid as for [`Driver::submit`](crate::Driver::submit).
    unsafe fn take_stashed(&self, op: &RawOp) -> Option<i32> {
        match *op {
            RawOp::Recv { buf, len, peek, .. } => {
                // SAFETY: forwarded; the caller keeps the same promises.
                unsafe { self.read.stash.recv(buf, len, peek) }
            }
            RawOp::RecvVectored { message, .. } => {
                // SAFETY: forwarded; the caller keeps the same promises.
                unsafe { self.read.stash.recv_vectored(message) }
            }
            RawOp::Accept { .. } => self.read.stash.accept(),
            RawOp::Send { .. } | RawOp::SendVectored { .. } | RawOp::Connect { .. } => {
                let failed = self.write_failed.load(Ordering::Relaxed).then_some(sys::BROKEN_PIPE);
                self.write.stash.take_error().or(failed)
            }
            // What is kept can be read, whatever the kernel has. A hint like all readiness, so it
            // needs no gate.
            RawOp::Ready { interest, .. } => (interest.is_readable()
                && !self.read.stash.is_empty())
            .then_some(i32::from(Readiness::READABLE.bits())),
            RawOp::Nop | RawOp::Shutdown { .. } | RawOp::Close { .. } => None,
        }
    }

    fn is_in_use(&self) -> bool {
        let side = |side: &Side| side.gate.is_held() || side.stash.holds_more_than_the_end();
        side(&self.read) || side(&self.write)
    }

    fn lock_ops(&self) -> MutexGuard<'_, Ops> {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cancel_all(&self) {
        // Copied, not taken: the handles find and remove their own entries.
        let list = self.lock_ops().list.clone();
        for op in list {
            op.canceller.cancel(op.word);
        }
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for Shared {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(windows)]
impl std::os::windows::io::AsSocket for Shared {
    fn as_socket(&self) -> std::os::windows::io::BorrowedSocket<'_> {
        self.descriptor.as_fd()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("descriptor", &self.descriptor)
            .field("read", &self.read)
            .field("write", &self.write)
            .field("user_count", &self.user_count)
            .finish_non_exhaustive()
    }
}

fn new_tcp(address: &SocketAddr) -> io::Result<socket2::Socket> {
    socket2::Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))
}

fn ip(address: socket2::SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "the address of this socket is no IP address")
    })
}

fn load_timeout(nanos: &AtomicU64) -> Option<Duration> {
    match nanos.load(Ordering::Relaxed) {
        0 => None,
        nanos => Some(Duration::from_nanos(nanos)),
    }
}

fn store_timeout(nanos: &AtomicU64, timeout: Option<Duration>) -> io::Result<()> {
    let value = match timeout {
        None => 0,
        Some(Duration::ZERO) => {
            let why = "a timeout of zero would always have passed; use None for no timeout";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Some(timeout) => u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX),
    };
    nanos.store(value, Ordering::Relaxed);
    Ok(())
}

#[cfg(all(test, not(loom), unix))]
#[path = "socket/tests.rs"]
mod tests;
