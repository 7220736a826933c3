//! What an owned op does, and the memory it owns for it.

use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::ptr::NonNull;

use socket2::SockAddr;

use crate::interest::{Interest, Readiness};
use crate::op::{Message, RawOp, Shutdown, Target};
use crate::socket::{Direction, Socket};

use super::{Buffer, Outcome};

/// One owned op. What the kernel is given pointers to lies in blocks of its own, so this value may
/// move; it may be dropped only when the op is final.
pub(super) enum Work {
    Nop,
    Accept,
    Connect(Stable<SockAddr>),
    Recv { buffer: Buffer, peek: bool },
    Send(Sending),
    RecvVectored(Stable<Vectored>),
    SendVectored(Stable<Vectored>),
    Ready(Interest),
    Shutdown(Shutdown),
}

/// A send and how far it is.
pub(super) struct Sending {
    /// What is left to send.
    pub buffer: Buffer,
    /// How many bytes were sent, if this send goes on after a part.
    sent: usize,
    /// Whether it goes on until everything is sent.
    pub all: bool,
}

/// Several buffers with the list of them in the kernel's layout.
pub(super) struct Vectored {
    message: Message,
    /// What `message` points to. Never looked at here once it is made.
    _list: Vec<IoSliceMut<'static>>,
    /// What the list points to.
    buffers: Vec<Vec<u8>>,
}

// SAFETY: the pointers inside point into blocks that this value owns.
unsafe impl Send for Vectored {}

/// A box whose content is shared with the kernel: unlike `Box`, moving it does not claim that
/// nobody else uses the content.
pub(super) struct Stable<T>(NonNull<T>);

// SAFETY: it owns its content, as a box does.
unsafe impl<T: Send> Send for Stable<T> {}

impl<T> Stable<T> {
    pub fn new(content: T) -> Self {
        Self(NonNull::from(Box::leak(Box::new(content))))
    }

    fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }

    /// Takes the content out.
    pub fn into_inner(self) -> T {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: made by `Box` in `new`, and `this` is not dropped.
        *unsafe { Box::from_raw(this.0.as_ptr()) }
    }
}

impl<T> Drop for Stable<T> {
    fn drop(&mut self) {
        // SAFETY: made by `Box` in `new` and owned by us. The op is final (see `Work`).
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl Vectored {
    pub fn new(mut buffers: Vec<Vec<u8>>) -> Stable<Self> {
        let list = buffers.iter_mut().map(|buffer| {
            let (start, len) = (buffer.as_mut_ptr(), buffer.len());
            // SAFETY: the block stays in place when the vector moves, and nobody touches it before
            // the list is dropped.
            IoSliceMut::new(unsafe { std::slice::from_raw_parts_mut(start, len) })
        });
        let mut list = list.collect::<Vec<_>>();
        let message = Message::to_receive(&mut list);
        Stable::new(Self { message, _list: list, buffers })
    }

    pub fn into_buffers(self) -> Vec<Vec<u8>> {
        self.buffers
    }
}

impl Work {
    /// The direction whose gate it passes.
    pub fn direction(&self) -> Option<Direction> {
        match self {
            Self::Accept | Self::Recv { .. } | Self::RecvVectored(_) => Some(Direction::Read),
            Self::Connect(_) | Self::Send(_) | Self::SendVectored(_) => Some(Direction::Write),
            Self::Nop | Self::Ready(_) | Self::Shutdown(_) => None,
        }
    }

    /// The op as the driver takes it. `on` is the socket; ops without one ignore it.
    pub fn raw(&mut self, on: Option<Target>) -> RawOp {
        let Some(on) = on else { return RawOp::Nop };
        match self {
            Self::Nop => RawOp::Nop,
            Self::Accept => RawOp::Accept { on },
            Self::Connect(address) => RawOp::Connect { on, address: address.as_ptr() },
            Self::Recv { buffer, peek } => {
                let peek = *peek;
                let part = buffer.part_mut();
                RawOp::Recv { on, buf: part.as_mut_ptr(), len: part.len(), peek }
            }
            Self::Send(Sending { buffer, .. }) => {
                let part = buffer.part_mut();
                RawOp::Send { on, buf: part.as_ptr(), len: part.len() }
            }
            Self::RecvVectored(parts) => {
                RawOp::RecvVectored { on, message: message(parts.as_ptr()) }
            }
            Self::SendVectored(parts) => {
                RawOp::SendVectored { on, message: message(parts.as_ptr()) }
            }
            Self::Ready(interest) => RawOp::Ready { on, interest: *interest },
            Self::Shutdown(how) => RawOp::Shutdown { on, how: *how },
        }
    }

    /// Makes a send from several buffers one from a single buffer, which can go on by itself.
    pub fn unvector(&mut self) {
        if let Self::SendVectored(_) = self
            && let Self::SendVectored(parts) = std::mem::replace(self, Self::Nop)
        {
            let bytes = parts.into_inner().into_buffers().concat();
            *self = Self::Send(Sending::new(bytes.into(), true));
        }
    }

    /// The final word to the user.
    pub fn outcome(self, result: i32) -> Outcome {
        let count = number(result).map(|count| count as usize);
        match self {
            Self::Nop => Outcome::Nop,
            Self::Accept => Outcome::Accepted(number(result).map(|fd| {
                // SAFETY: the result of an accept, which this op owns and hands on here.
                unsafe { Socket::from_accepted(fd) }
            })),
            Self::Connect(_) => Outcome::Connected(count.map(drop)),
            Self::Recv { buffer, .. } => Outcome::Received(count, buffer.bytes),
            // The last part of a send that goes on is in `sent` already.
            Self::Send(Sending { buffer, sent, all: true, .. }) => {
                Outcome::Sent(count.map(|_| sent), buffer.bytes)
            }
            Self::Send(Sending { buffer, .. }) => Outcome::Sent(count, buffer.bytes),
            Self::RecvVectored(parts) => {
                Outcome::ReceivedVectored(count, parts.into_inner().into_buffers())
            }
            Self::SendVectored(parts) => {
                Outcome::SentVectored(count, parts.into_inner().into_buffers())
            }
            Self::Ready(_) => {
                Outcome::Ready(number(result).map(|bits| Readiness::from_bits(bits as u8)))
            }
            Self::Shutdown(_) => Outcome::ShutDown(count.map(drop)),
        }
    }
}

impl Sending {
    pub fn new(buffer: Buffer, all: bool) -> Self {
        Self { buffer, sent: 0, all }
    }

    /// Takes note of a part that was sent. Whether anything is left to send.
    pub fn advance(&mut self, count: usize) -> bool {
        // At most what is left: an op that is abandoned after its end is told its end twice.
        let count = count.min(self.buffer.range.len());
        self.sent += count;
        self.buffer.range.start += count;
        !self.buffer.range.is_empty()
    }

    /// Whether it has ended in its middle.
    pub fn is_cut(&self) -> bool {
        self.sent > 0 && !self.buffer.range.is_empty()
    }
}

impl Buffer {
    fn part_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.range.clone()]
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { bytes, range }
    }
}

impl From<Box<[u8]>> for Buffer {
    fn from(bytes: Box<[u8]>) -> Self {
        bytes.into_vec().into()
    }
}

impl From<(Vec<u8>, Range<usize>)> for Buffer {
    /// # Panics
    /// The range is not inside the vector.
    fn from((bytes, range): (Vec<u8>, Range<usize>)) -> Self {
        assert!(
            range.start <= range.end && range.end <= bytes.len(),
            "the range {range:?} is not inside a buffer of {} bytes",
            bytes.len()
        );
        Self { bytes, range }
    }
}

/// The message inside, without a reference to the whole.
fn message(parts: *mut Vectored) -> *mut Message {
    // SAFETY: `parts` comes from a `Stable`, so the field is in place.
    unsafe { &raw mut (*parts).message }
}

/// A result as std has it.
fn number(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
}
