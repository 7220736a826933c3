//! Owned ops: the safe face of the driver, for whoever uses this crate alone.
//!
//! An owned op takes its buffer and keeps its socket alive, so no caller can do harm with it. It
//! passes the gate of its direction, takes what abandoned ops left behind first, and comes back
//! from [`Driver::reap_owned`] as a [`Finished`] with everything that was handed in.
//!
//! ```text
//!   recv, send, ... --> AtGate --turn--> stash? --no--> backend --> InFlight --final--> Done
//!                         |               | yes            | at once                     ^ |
//!                         |               +----------------+-----------------------------+ |
//!                      abandon                                     reap_owned: Finished <--+
//!                         |                                        abandon: stash       <--+
//!                         v
//!                      withdrawn                               then the gate is left
//! ```
//!
//! Rules:
//! 1. The memory of an op is freed after its final completion, or never (see [`Driver`]).
//! 2. The gate is left when the result is *taken*, not when it arrives: an op that is abandoned
//!    after it had won puts its bytes into the stash before any other op of that direction reads.
//! 3. An abandoned send that was cut in its middle is finished in the background; if that fails, the
//!    write side of the socket has failed.
//! 4. The words of owned ops have bit 63 set, those of raw ops have not. Each of
//!    [`reap`](Driver::reap) and [`reap_owned`](Driver::reap_owned) keeps what the other looks for.
//! 5. Owned ops make progress in the calls on their driver: call `reap_owned` after every `wait`.
//!
//! ```
//! use fibra_driver::owned::Outcome;
//! use fibra_driver::{Config, Deadline, Driver, Socket};
//!
//! let mut driver = Driver::new(&Config::default())?;
//! let listener = Socket::listen(&"127.0.0.1:0".parse().unwrap(), 16)?;
//! let (address, mut server) = (listener.local_addr()?, None);
//! let client = Socket::tcp(&address)?;
//! driver.accept(&listener, 1);
//! driver.connect(&client, address, 2);
//! driver.send(&client, b"hello".to_vec(), 3); // Waits at the gate until connected.
//! let bytes = loop {
//!     match driver.reap_owned().map(|finished| finished.outcome) {
//!         Some(Outcome::Accepted(socket)) => {
//!             driver.recv(server.insert(socket?), vec![0; 64], 4);
//!         }
//!         Some(Outcome::Received(count, buffer)) => break buffer[..count?].to_vec(),
//!         Some(_) => {}
//!         None => driver.wait(Deadline::Never)?,
//!     }
//! };
//! assert_eq!(bytes, b"hello");
//! # Ok::<(), std::io::Error>(())
//! ```

mod mailbox;
mod table;
mod work;

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use crate::clock::{Deadline, Instant};
use crate::driver::{Contract, Driver};
use crate::gate::Ticket;
use crate::interest::{Interest, Readiness};
use crate::op::{Completion, Shutdown, Submitted};
use crate::socket::{OpHandle, Socket};
use crate::stash::Stashed;
use crate::sys;

use mailbox::Letter;
use table::{Entry, Stage};
use work::{Sending, Vectored, Work};

pub(crate) use table::Table;

/// Bytes that an op owns, and the part of them that it fills or sends: a `Vec<u8>` or a
/// `Box<[u8]>`, or a vector with a range.
///
/// An array is refused, because its bytes would move with the op:
///
/// ```compile_fail
/// let buffer = fibra_driver::owned::Buffer::from([0_u8; 1024]);
/// ```
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    range: Range<usize>,
}

/// Names one owned op of a driver, until its [`Finished`] was taken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OwnedId(u64);

/// An owned op that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Which op.
    pub id: OwnedId,
    /// The word that was given with it.
    pub key: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// How an owned op ended, with what it owned. An op that was cancelled before it had an effect
/// ends with the error `ECANCELED`; one that there was no room for, with `ENOBUFS`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// A [`nop`](Driver::nop).
    Nop,
    /// A new connection.
    Accepted(io::Result<Socket>),
    /// The socket is connected.
    Connected(io::Result<()>),
    /// How many bytes were received, 0 at the end of the stream, and the buffer.
    Received(io::Result<usize>, Vec<u8>),
    /// How many bytes were sent, and the buffer.
    Sent(io::Result<usize>, Vec<u8>),
    /// As `Received`, of several buffers.
    ReceivedVectored(io::Result<usize>, Vec<Vec<u8>>),
    /// As `Sent`, of several buffers.
    SentVectored(io::Result<usize>, Vec<Vec<u8>>),
    /// What the socket is ready for.
    Ready(io::Result<Readiness>),
    /// Halves of the connection were shut down.
    ShutDown(io::Result<()>),
}

/// Marks the words of owned ops.
const OWNED: u64 = 1 << 63;

/// How long dropping a driver waits for its owned ops.
const DRAIN_MAX: Duration = Duration::from_secs(1);

/// Owned ops. Each gives exactly one [`Finished`] with `key` in it, unless it is abandoned.
impl Driver {
    /// Ends at the next [`wait`](Self::wait).
    pub fn nop(&mut self, key: u64) -> OwnedId {
        self.start(None, Work::Nop, key)
    }

    /// Takes one connection from a listener.
    pub fn accept(&mut self, listener: &Socket, key: u64) -> OwnedId {
        self.start(Some(listener), Work::Accept, key)
    }

    /// Connects a socket made by [`Socket::tcp`].
    pub fn connect(&mut self, socket: &Socket, address: SocketAddr, key: u64) -> OwnedId {
        self.start(Some(socket), Work::Connect(work::Stable::new(address.into())), key)
    }

    /// Receives into the buffer, up to its length (not its capacity).
    pub fn recv(&mut self, socket: &Socket, buffer: impl Into<Buffer>, key: u64) -> OwnedId {
        self.start(Some(socket), Work::Recv { buffer: buffer.into(), peek: false }, key)
    }

    /// Receives and leaves the bytes in the socket.
    pub fn peek(&mut self, socket: &Socket, buffer: impl Into<Buffer>, key: u64) -> OwnedId {
        self.start(Some(socket), Work::Recv { buffer: buffer.into(), peek: true }, key)
    }

    /// Sends as many bytes of the buffer as the socket takes at once.
    pub fn send(&mut self, socket: &Socket, buffer: impl Into<Buffer>, key: u64) -> OwnedId {
        self.start(Some(socket), Work::Send(Sending::new(buffer.into(), false)), key)
    }

    /// Sends the whole buffer. If that fails in its middle, the write side of the socket has failed.
    pub fn send_all(&mut self, socket: &Socket, buffer: impl Into<Buffer>, key: u64) -> OwnedId {
        self.start(Some(socket), Work::Send(Sending::new(buffer.into(), true)), key)
    }

    /// Receives into several buffers.
    pub fn recv_vectored(&mut self, socket: &Socket, buffers: Vec<Vec<u8>>, key: u64) -> OwnedId {
        self.start(Some(socket), Work::RecvVectored(Vectored::new(buffers)), key)
    }

    /// Sends from several buffers as many bytes as the socket takes at once.
    pub fn send_vectored(&mut self, socket: &Socket, buffers: Vec<Vec<u8>>, key: u64) -> OwnedId {
        self.start(Some(socket), Work::SendVectored(Vectored::new(buffers)), key)
    }

    /// Waits until the socket is ready. Passes no gate.
    pub fn ready(&mut self, socket: &Socket, interest: Interest, key: u64) -> OwnedId {
        self.start(Some(socket), Work::Ready(interest), key)
    }

    /// Shuts down one or both halves of a connection. Passes no gate.
    pub fn shutdown(&mut self, socket: &Socket, how: Shutdown, key: u64) -> OwnedId {
        self.start(Some(socket), Work::Shutdown(how), key)
    }

    /// Asks that an owned op end early. It still gives its [`Finished`], and if it had already
    /// succeeded that says so.
    pub fn cancel_owned(&mut self, id: OwnedId) {
        match self.owned.get_mut(id) {
            Some(Entry { abandoned: true, .. }) | None => {}
            Some(_) => self.end_early(id),
        }
    }

    /// Forgets an owned op: it is cancelled and gives no [`Finished`]. What it had won already -
    /// bytes, the end, an error, a connection - is kept for the next op on that socket.
    pub fn abandon(&mut self, id: OwnedId) {
        let Some(entry) = self.owned.get_mut(id) else { return };
        if entry.abandoned {
            return;
        }
        entry.abandoned = true;
        match entry.stage {
            Stage::AtGate | Stage::InFlight(_) => self.end_early(id),
            Stage::Done(result) => {
                self.owned.unfinish(id);
                self.end(id, result);
            }
            Stage::Refused(_) => {
                self.owned.unfinish(id);
                drop(self.owned.remove(id));
            }
        }
    }

    /// Takes one owned op that has ended, or `None` if none has.
    pub fn reap_owned(&mut self) -> Option<Finished> {
        loop {
            let letters = self.owned.mailbox.take();
            let told = !letters.is_empty();
            for letter in letters {
                match letter {
                    Letter::Turn(id) => self.enter(id),
                    Letter::Closed(id) => self.end_early(id),
                }
            }
            if let Some(id) = self.owned.finished.pop_front() {
                return self.conclude(id);
            }
            match self.backend.reap() {
                Some(completion) if is_owned(&completion) => self.complete(completion),
                Some(completion) => self.owned.set_aside.push_back(completion),
                None if told => {}
                None => return None,
            }
        }
    }

    fn start(&mut self, socket: Option<&Socket>, work: Work, key: u64) -> OwnedId {
        let refused = self.owned.is_full();
        let id = self.owned.insert(Entry {
            key,
            socket: socket.map(Socket::op_handle),
            work,
            ticket: Ticket::default(),
            stage: Stage::AtGate,
            abandoned: false,
        });
        if refused {
            self.refuse(id, sys::NO_BUFFERS);
        } else {
            self.enter(id);
        }
        id
    }

    /// Passes the gate if it is this op's turn, or queues up.
    fn enter(&mut self, id: OwnedId) {
        let mailbox = self.owned.mailbox.clone();
        let Some(entry) = self.owned.get_mut(id) else { return };
        if entry.stage != Stage::AtGate {
            return;
        }
        let Some((side, ticket)) = entry.side() else { return self.launch(id) };
        // The waker costs an allocation, so it is made only if it is needed.
        if !ticket.is_queued() && side.gate.try_enter() {
            return self.launch(id);
        }
        if side.gate.poll_enter(ticket, &mailbox.waker(id)).is_ready() {
            return self.launch(id);
        }
        if let Some(socket) = &mut entry.socket {
            socket.register(mailbox, id.0);
        }
    }

    /// Inside the gate: takes what was kept, else asks the backend.
    fn launch(&mut self, id: OwnedId) {
        let Some(entry) = self.owned.get_mut(id) else { return };
        let op = entry.work.raw(entry.socket.as_ref().map(OpHandle::target));
        // SAFETY: the pointers are into the entry's own blocks.
        let kept = entry.socket.as_ref().and_then(|socket| unsafe { socket.take_stashed(&op) });
        if let Some(result) = kept {
            return self.end(id, result);
        }
        // SAFETY: the entry keeps the socket (by its handle) and all memory in place; it is dropped
        // after the final completion or leaked (`close_owned`), and when the driver is leaked, so is
        // the table in it.
        match unsafe { self.backend.submit(op, table::data(id)) } {
            Submitted::Done(result) => self.end(id, result),
            Submitted::Pending(op) => {
                let mailbox = self.owned.mailbox.clone();
                let Some(entry) = self.owned.get_mut(id) else { return };
                entry.stage = Stage::InFlight(op);
                if let Some(socket) = &mut entry.socket {
                    socket.register(mailbox, id.0);
                }
            }
        }
    }

    /// Handles the completion of an owned op.
    pub(crate) fn complete(&mut self, completion: Completion) {
        let id = OwnedId(completion.data & !OWNED);
        match self.owned.get_mut(id) {
            Some(entry) if entry.stage == Stage::InFlight(completion.id) => {
                self.end(id, completion.result);
            }
            // A raw op was submitted with a word that is not its to use.
            _ => debug_assert!(false, "the words of raw ops must be below 1 << 63"),
        }
    }

    /// An op inside its gate has a result: it is final, or a send that goes on.
    fn end(&mut self, id: OwnedId, result: i32) {
        let closing = self.owned.closing;
        let Some(entry) = self.owned.get_mut(id) else { return };
        if entry.abandoned {
            entry.work.unvector();
        }
        if let Work::Send(sending) = &mut entry.work
            && (sending.all || entry.abandoned)
        {
            if result > 0 && sending.advance(result as usize) && !closing {
                return self.launch(id);
            }
            if let (true, Some(socket)) = (sending.is_cut(), &entry.socket) {
                socket.fail_write();
            }
        }
        if entry.abandoned {
            return self.settle(id, result);
        }
        entry.stage = Stage::Done(result);
        self.owned.finished.push_back(id);
    }

    /// An op that never got into its gate has its result.
    fn refuse(&mut self, id: OwnedId, result: i32) {
        if let Some(entry) = self.owned.get_mut(id) {
            entry.stage = Stage::Refused(result);
            self.owned.finished.push_back(id);
        }
    }

    /// Ends an op that has no result yet.
    fn end_early(&mut self, id: OwnedId) {
        let Some(entry) = self.owned.get_mut(id) else { return };
        match entry.stage {
            Stage::AtGate => {
                let abandoned = entry.abandoned;
                if let Some((side, ticket)) = entry.side() {
                    side.gate.withdraw(ticket);
                }
                if abandoned {
                    drop(self.owned.remove(id));
                } else {
                    self.refuse(id, sys::CANCELLED);
                }
            }
            Stage::InFlight(op) => self.backend.cancel(op),
            Stage::Done(_) | Stage::Refused(_) => {}
        }
    }

    /// Hands a result to the user and leaves the gate.
    fn conclude(&mut self, id: OwnedId) -> Option<Finished> {
        let Entry { key, socket, work, stage, .. } = self.owned.remove(id)?;
        let direction = work.direction();
        let (result, inside) = match stage {
            Stage::Done(result) => (result, direction),
            Stage::Refused(result) => (result, None),
            Stage::AtGate | Stage::InFlight(_) => unreachable!("only ended ops are queued"),
        };
        let outcome = work.outcome(result);
        if let (Some(direction), Some(socket)) = (inside, socket) {
            socket.side(direction).gate.leave();
        }
        Some(Finished { id, key, outcome })
    }

    /// Puts the result of an abandoned op where the next one finds it, and leaves the gate.
    fn settle(&mut self, id: OwnedId, result: i32) {
        let Some(Entry { socket, work, .. }) = self.owned.remove(id) else { return };
        let (Some(socket), Some(direction)) = (socket, work.direction()) else { return };
        let side = socket.side(direction);
        match work {
            Work::Recv { buffer, peek: false } => {
                side.stash.push_received(buffer.bytes, buffer.range, result);
            }
            Work::RecvVectored(parts) => {
                let bytes = parts.into_inner().into_buffers().concat();
                let all = 0..bytes.len();
                side.stash.push_received(bytes, all, result);
            }
            // SAFETY: the result of an accept, which this op owns and hands on here.
            Work::Accept => unsafe { side.stash.push_accepted(result) },
            Work::Send(_) | Work::SendVectored(_) | Work::Connect(_) => {
                if result < 0 && result != sys::CANCELLED && result != sys::NO_BUFFERS {
                    side.stash.push(Stashed::Error(result));
                }
            }
            Work::Recv { peek: true, .. } | Work::Nop | Work::Ready(_) | Work::Shutdown(_) => {}
        }
        side.gate.leave();
    }

    /// Ends all owned ops as if abandoned; what does not end in time is leaked.
    pub(crate) fn close_owned(&mut self) {
        self.owned.closing = true;
        for id in self.owned.ids() {
            self.abandon(id);
            // Those that were abandoned before, sends in the background among them.
            self.end_early(id);
        }
        let deadline = Deadline::At(Instant::now() + DRAIN_MAX);
        while self.owned.in_flight() > 0 {
            if deadline.remaining() == Some(Duration::ZERO) || self.backend.wait(deadline).is_err()
            {
                return self.owned.leak();
            }
            while let Some(completion) = self.backend.reap() {
                if is_owned(&completion) {
                    self.complete(completion);
                }
            }
        }
    }
}

/// Whether a completion belongs to an owned op.
#[inline]
pub(crate) fn is_owned(completion: &Completion) -> bool {
    completion.data & OWNED != 0
}
