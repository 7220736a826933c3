//! Gates: one op per direction of a socket, first come first served. (Stub: being written.)

use std::task::{Poll, Waker};

/// One op at a time; see the file's page.
#[derive(Debug, Default)]
pub struct Gate;

/// A place in the queue of a [`Gate`].
#[derive(Debug, Default)]
pub struct Ticket;

impl Gate {
    /// Enters if nobody is inside and nobody waits. One compare-and-swap.
    pub fn try_enter(&self) -> bool {
        unimplemented!()
    }
    /// Enters, or queues up and has `waker` woken when it is this ticket's turn.
    pub fn poll_enter(&self, _ticket: &mut Ticket, _waker: &Waker) -> Poll<()> {
        unimplemented!()
    }
    /// Gives up a place in the queue, or the turn if it had come meanwhile (the baton is passed on).
    pub fn withdraw(&self, _ticket: &mut Ticket) {
        unimplemented!()
    }
    /// Leaves; the first in the queue is inside now.
    pub fn leave(&self) {
        unimplemented!()
    }
}
