//! Gates: one op at a time per direction of a socket, first come first served.
//!
//! Promises: nobody is inside together with another; who queued first enters first; a place that is
//! given up, even after its turn has come, holds nobody up.
//!
//! ```text
//!                try_enter (CAS)               first waiter queues (locked)
//!        FREE ---------------------> HELD ---------------------------------> HELD_WITH_WAITERS
//!          ^                        |  ^                                      |   ^      |
//!          +----- leave (CAS) ------+  +---- last waiter left the queue ------+   +------+
//!                                            (its turn, or withdrawn; locked)   leave: baton
//! ```
//!
//! Rules:
//! 1. FREE and HELD change into each other by compare-and-swap. Every change that HELD_WITH_WAITERS
//!    takes part in happens under the lock of the queue, and at each unlock the state is
//!    HELD_WITH_WAITERS exactly if the queue is not empty.
//! 2. `leave` with waiters never sets FREE: it takes the first one out of the queue, and that one
//!    *is* inside from then on (the baton). So nobody who comes later can barge in.
//! 3. A queued ticket that is not in the queue any more has its turn. That is all `poll_enter` has
//!    to look at, so spurious polls and late wakes are harmless.
//! 4. Wakers are foreign code: they are cloned before, and woken and dropped after the lock.
//!
//! Tried and dropped: waking the first waiter and letting it race for FREE (newcomers win, the
//! waiter starves); one waiter slot per direction (the second reader's wake is lost).

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::task::{Poll, Wake, Waker};
use std::thread::{self, Thread};

use crate::clock::Deadline;

#[cfg(all(test, loom))]
use loom::sync::{Mutex, MutexGuard, atomic};
#[cfg(not(all(test, loom)))]
use std::sync::{Mutex, MutexGuard, atomic};

use atomic::{AtomicU32, Ordering};

/// Nobody is inside and nobody waits.
const FREE: u32 = 0;
/// Somebody is inside and nobody waits.
const HELD: u32 = 1;
/// Somebody is inside and the queue is not empty.
const HELD_WITH_WAITERS: u32 = 2;

/// A first-in first-out lock without a guard: who enters must [`leave`](Self::leave), from any
/// thread, when its op is final.
///
/// The queue has one entry per ticket, so its bound is the number of ops that wait;
/// [`waiter_count`](Self::waiter_count) tells how many do.
#[derive(Default)]
pub struct Gate {
    state: AtomicU32,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    /// Ascending by id, because ids are given out in order and the queue is first in, first out.
    waiters: VecDeque<Waiter>,
    last_id: u64,
}

struct Waiter {
    id: u64,
    waker: Waker,
}

/// A place in the queue of a [`Gate`].
///
/// It does not know its gate: whoever owns it polls it at one gate only, and before dropping it
/// either has been told `Ready` or calls [`Gate::withdraw`]. A queued ticket that is just dropped
/// would be handed a turn that nobody takes, and stop the gate for ever; debug builds panic.
#[derive(Debug, Default)]
pub struct Ticket {
    /// 0: not queued.
    id: u64,
}

impl Ticket {
    /// Whether it has a place in a queue (or an untaken turn), so that it must not be dropped.
    pub fn is_queued(&self) -> bool {
        self.id != 0
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        debug_assert!(
            self.id == 0 || thread::panicking(),
            "a queued ticket must be withdrawn before it is dropped"
        );
    }
}

impl Gate {
    /// Enters if nobody is inside and nobody waits. One compare-and-swap.
    #[inline]
    pub fn try_enter(&self) -> bool {
        // Acquire pairs with the release in `leave`: what the one before did is seen.
        self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Enters, or queues up and has `waker` woken when it is this ticket's turn; then poll again.
    ///
    /// `Ready` means inside, and the ticket may be dropped. Polling early is harmless; the waker of
    /// the last poll is the one that is woken.
    pub fn poll_enter(&self, ticket: &mut Ticket, waker: &Waker) -> Poll<()> {
        if !ticket.is_queued() && self.try_enter() {
            return Poll::Ready(());
        }
        let mut waker = waker.clone();
        let mut queue = self.lock();
        if ticket.is_queued() {
            return match queue.find(ticket.id) {
                Some(place) => {
                    std::mem::swap(&mut queue.waiters[place].waker, &mut waker);
                    // The old waker is dropped at the end, after the lock (rule 4).
                    drop(queue);
                    Poll::Pending
                }
                None => {
                    ticket.id = 0;
                    Poll::Ready(())
                }
            };
        }
        if !self.mark_waiters() {
            return Poll::Ready(());
        }
        queue.last_id += 1;
        ticket.id = queue.last_id;
        queue.waiters.push_back(Waiter { id: ticket.id, waker });
        Poll::Pending
    }

    /// Gives up a place in the queue, or the turn if it had come meanwhile (the baton is passed on).
    /// Does nothing for a ticket that is not queued.
    pub fn withdraw(&self, ticket: &mut Ticket) {
        if !ticket.is_queued() {
            return;
        }
        let mut queue = self.lock();
        let found = queue.find(ticket.id);
        ticket.id = 0;
        match found {
            Some(place) => {
                let waiter = queue.waiters.remove(place);
                self.settle(&queue);
                drop(queue);
                drop(waiter);
            }
            None => self.pass(queue),
        }
    }

    /// Leaves; the first in the queue is inside now, and its waker is woken. One compare-and-swap
    /// if nobody waits.
    #[inline]
    pub fn leave(&self) {
        // Release pairs with the acquire in `try_enter`.
        if self.state.compare_exchange(HELD, FREE, Ordering::Release, Ordering::Relaxed).is_err() {
            self.pass(self.lock());
        }
    }

    /// Enters as a plain thread, which sleeps until its turn. False if `deadline` came first.
    pub fn enter_blocking(&self, deadline: Deadline) -> bool {
        if self.try_enter() {
            return true;
        }
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut ticket = Ticket::default();
        loop {
            if self.poll_enter(&mut ticket, &waker).is_ready() {
                return true;
            }
            match deadline.remaining() {
                None => thread::park(),
                Some(left) if left.is_zero() => {
                    self.withdraw(&mut ticket);
                    return false;
                }
                Some(left) => thread::park_timeout(left),
            }
        }
    }

    /// Whether somebody is inside.
    pub fn is_held(&self) -> bool {
        self.state.load(Ordering::Relaxed) != FREE
    }

    /// How many tickets are queued: a metric, old as soon as it is returned.
    pub fn waiter_count(&self) -> usize {
        if self.state.load(Ordering::Relaxed) == HELD_WITH_WAITERS {
            self.lock().waiters.len()
        } else {
            0
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under the lock: announces a waiter. False if the gate was free and the caller is inside now.
    fn mark_waiters(&self) -> bool {
        loop {
            let (from, to) = match self.state.load(Ordering::Relaxed) {
                FREE => (FREE, HELD),
                HELD => (HELD, HELD_WITH_WAITERS),
                _ => return true,
            };
            // Acquire as in `try_enter`, for the case that it was free.
            if self.state.compare_exchange(from, to, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return to == HELD_WITH_WAITERS;
            }
        }
    }

    /// Under the lock, after an entry was removed while somebody is inside: rule 1.
    fn settle(&self, queue: &Queue) {
        if queue.waiters.is_empty() {
            // Nobody but the lock's holder changes HELD_WITH_WAITERS.
            self.state.store(HELD, Ordering::Relaxed);
        }
    }

    /// Under the lock, by who is inside: hands the turn to the first waiter or frees the gate.
    fn pass(&self, mut queue: MutexGuard<'_, Queue>) {
        match queue.waiters.pop_front() {
            Some(first) => {
                self.settle(&queue);
                // The lock carries what was written inside over to the next (it locks to see that
                // its turn has come).
                drop(queue);
                first.waker.wake();
            }
            // The state is HELD, by rule 1: the waiters that were announced have withdrawn.
            // Release as in `leave`.
            None => self.state.store(FREE, Ordering::Release),
        }
    }
}

impl Queue {
    fn find(&self, id: u64) -> Option<usize> {
        self.waiters.binary_search_by_key(&id, |waiter| waiter.id).ok()
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match self.state.load(Ordering::Relaxed) {
            FREE => "FREE",
            HELD => "HELD",
            _ => "HELD_WITH_WAITERS",
        };
        f.debug_tuple("Gate").field(&format_args!("{state}")).finish()
    }
}

/// Wakes a plain thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
#[path = "gate/tests.rs"]
mod tests;
