//! Ops: one requested I/O action each, described as plain data.
//!
//! A [`RawOp`] is `Copy` and holds raw pointers, because the memory it lends belongs to whoever
//! submits it: a frame that is suspended until the final completion, or a block that its owner
//! frees only then. That is the whole safety argument of a borrowed op, and the reason why
//! [`Driver::submit`](crate::Driver::submit) is `unsafe`. Safe, owned ops are in
//! [`owned`](crate::owned).

use std::fmt;
use std::num::NonZeroU64;
use std::ptr::NonNull;

use crate::descriptor::Descriptor;
use crate::interest::Interest;

/// Which half of a connection to shut down; std's type.
pub use std::net::Shutdown;

/// The descriptor an op works on.
///
/// # Invariant
/// Points to a [`Descriptor`] that stays in place and open until the op's final completion. Whoever
/// submits the op guarantees it (see [`Driver::submit`](crate::Driver::submit)), so a number that
/// is closed and reused between queueing and submission cannot happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target(pub(crate) NonNull<Descriptor>);

impl Target {
    /// Names `descriptor` as the target of an op.
    pub fn new(descriptor: &Descriptor) -> Self {
        Self(NonNull::from(descriptor))
    }
}

/// One I/O action. Pointers must stay valid, unmoved and unaliased until the final completion.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum RawOp {
    /// Completes with 0 at the next [`wait`](crate::Driver::wait); it wakes nothing else.
    Nop,
    /// Takes one connection from a listener. Result: the new descriptor number, close-on-exec and
    /// non-blocking; the caller owns it.
    Accept {
        /// The listener.
        on: Target,
    },
    /// Connects a socket. Result: 0.
    Connect {
        /// The socket, not yet connected.
        on: Target,
        /// Where to connect.
        address: *const socket2::SockAddr,
    },
    /// Receives up to `len` bytes. Result: the number of bytes, 0 at the end of the stream.
    Recv {
        /// The socket.
        on: Target,
        /// Start of the memory to fill.
        buf: *mut u8,
        /// Length of that memory in bytes.
        len: usize,
        /// Whether the bytes stay in the socket (`MSG_PEEK`).
        peek: bool,
    },
    /// Sends up to `len` bytes; never raises SIGPIPE. Result: the number of bytes taken.
    Send {
        /// The socket.
        on: Target,
        /// Start of the bytes.
        buf: *const u8,
        /// How many bytes.
        len: usize,
    },
    /// Receives into several buffers. Result: the number of bytes.
    RecvVectored {
        /// The socket.
        on: Target,
        /// The list of buffers, and memory the backend may use until the final completion.
        message: *mut Message,
    },
    /// Sends from several buffers. Result: the number of bytes.
    SendVectored {
        /// The socket.
        on: Target,
        /// The list of buffers, and memory the backend may use until the final completion.
        message: *mut Message,
    },
    /// Waits until the descriptor is ready. Result: the bits of a
    /// [`Readiness`](crate::interest::Readiness).
    Ready {
        /// The descriptor.
        on: Target,
        /// What to wait for.
        interest: Interest,
    },
    /// Shuts down one or both halves of a connection. Result: 0.
    Shutdown {
        /// The socket.
        on: Target,
        /// Which half.
        how: Shutdown,
    },
    /// Closes a descriptor number that nobody else owns. Result: 0.
    Close {
        /// The number; see [`Descriptor::into_fd`].
        fd: crate::sys::RawFd,
    },
}

impl RawOp {
    /// The descriptor this op works on, if it has one.
    pub fn target(&self) -> Option<Target> {
        match *self {
            Self::Nop | Self::Close { .. } => None,
            Self::Accept { on }
            | Self::Connect { on, .. }
            | Self::Recv { on, .. }
            | Self::Send { on, .. }
            | Self::RecvVectored { on, .. }
            | Self::SendVectored { on, .. }
            | Self::Ready { on, .. }
            | Self::Shutdown { on, .. } => Some(on),
        }
    }
}

/// A list of buffers in the layout the kernel reads, with the message header around it.
///
/// The header is filled by [`RawOp::RecvVectored`] and [`RawOp::SendVectored`] when they start and
/// must not move until the final completion.
pub struct Message {
    #[cfg_attr(windows, allow(dead_code, reason = "the calls there take the list as it is"))]
    pub(crate) header: crate::sys::MessageHeader,
    pub(crate) buffers: *const crate::sys::IoBuffer,
    pub(crate) count: usize,
}

impl Message {
    /// Describes buffers to fill. The list itself must stay in place as long as the message is used.
    pub fn to_receive(buffers: &mut [std::io::IoSliceMut<'_>]) -> Self {
        // `IoSliceMut` promises the layout of `iovec` (Unix) and `WSABUF` (Windows).
        Self {
            header: crate::sys::MessageHeader::EMPTY,
            buffers: buffers.as_ptr().cast(),
            count: buffers.len(),
        }
    }

    /// Describes buffers to send. The list itself must stay in place as long as the message is used.
    pub fn to_send(buffers: &[std::io::IoSlice<'_>]) -> Self {
        Self {
            header: crate::sys::MessageHeader::EMPTY,
            buffers: buffers.as_ptr().cast(),
            count: buffers.len(),
        }
    }
}

/// Names one op in flight: a generation and a slot. Never an address, never 0, and not reused
/// until the op's final completion *and* that of its cancel.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct OpId(pub(crate) NonZeroU64);

impl OpId {
    /// The number as the kernel sees it: `generation << 32 | slot`.
    pub fn as_u64(self) -> u64 {
        self.0.get()
    }

    /// The id behind a number made by [`as_u64`](Self::as_u64); `None` for 0.
    pub fn from_u64(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }
}

impl fmt::Debug for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpId({}.{})", self.0.get() >> 32, self.0.get() as u32)
    }
}

/// What [`Driver::submit`](crate::Driver::submit) did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Submitted {
    /// Finished at once with this result (see [`Completion::result`]); no completion will come.
    Done(i32),
    /// In flight; exactly one final completion will come.
    Pending(OpId),
}

/// The outcome of an op.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// The op.
    pub id: OpId,
    /// The word given to [`Driver::submit`](crate::Driver::submit).
    pub data: u64,
    /// A count, a descriptor number or bits, as each [`RawOp`] says; negative: an OS error number,
    /// negated. `ECANCELED` if the op was cancelled before it had an effect.
    pub result: i32,
}
