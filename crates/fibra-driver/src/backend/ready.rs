//! Completions made from readiness: the engine that epoll, poll and select share.
//!
//! ```text
//!   submit --try--> finished? -------------------------------> Done(result), no completion
//!              |   "would block", or known to be not ready
//!              v
//!       slot + last of the descriptor's queue, descriptor registered
//!              |   event            cancel
//!              v                      |
//!       try the first of the queue    |        entry of a descriptor:  read  [op]->[op]->[op]
//!        | result    | would block    v                                write [op]
//!        v           +-> stays    -ECANCELED                           watch [op]->[op]
//!   completion queue, try the next
//! ```
//!
//! Rules:
//! 1. A direction is served in order: nobody tries while others wait. Whoever finishes passes the
//!    baton on inside the same event, so that an edge is never left with someone who went away.
//! 2. Edge-triggered pollers learn of a descriptor once, and report each change once. So after
//!    "would block" or a short read (see [`attempt::learned`]) the next op waits without trying;
//!    an edge ends that. This knowledge holds only while registered, and never after the end of
//!    the stream or an error was seen: data and end in one event give one edge for two reads.
//! 3. Level-triggered pollers are asked only for what somebody waits for.
//! 4. A waiting op proves that its descriptor is alive. An entry without one is never a reason to
//!    touch the descriptor; only its number is used, and that only until the entry is forgotten.
//! 5. A slot is freed when its completion is reaped, so the completion queue is bounded by
//!    `in_flight_max` too.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use crate::backend::ready::attempt::{attempt, learned, queue};
use crate::backend::ready::table::{
    CLOSED, DRAINED, FULL, Queue, REGISTERED, SHORT_MEANS_DRAINED, Table,
};
use crate::clock::Deadline;
use crate::config::Config;
use crate::contract::{Contract, Metrics};
use crate::interest::{Interest, Readiness};
use crate::notifier::Notifier;
use crate::op::{Completion, OpId, RawOp, Submitted};
use crate::slots::Slots;
use crate::sys::{self, RawFd};

mod attempt;
mod table;
#[cfg(all(test, unix))]
mod tests;

pub(crate) use table::Remove;

/// What a poller provides: the verbs, in the order their files write them.
pub(crate) trait Poller {
    /// Whether it reports each change once, for both directions from one registration. Else it
    /// reports what is ready, for the interest it was given last.
    const EDGE: bool;
    /// Whether an interest is spent by an event and must be given again.
    const ONE_SHOT: bool = false;

    /// Starts to watch a descriptor. The token is never 0.
    fn add(&mut self, fd: RawFd, token: u64, interest: Interest) -> io::Result<()>;

    /// Changes the interest in a descriptor (not if edge-triggered).
    fn modify(&mut self, fd: RawFd, token: u64, interest: Interest) -> io::Result<()>;

    /// Stops watching a descriptor, which is open still or was found dead.
    fn remove(&mut self, fd: RawFd, token: u64);

    /// Sleeps until there are events, a notification, or the timeout has passed: never shorter
    /// than that for the timeout alone, except that signals may end it.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// Takes one event of the last wait. Token 0 is the notification.
    fn next(&mut self) -> Option<(u64, Readiness)>;

    /// Ends the wait from other threads.
    fn notifier(&self) -> Notifier;

    /// How other threads stop it from watching a descriptor that is about to be closed.
    fn remover(&self) -> io::Result<Remove>;

    /// Why ops on this number are refused, as a negated error; 0 if they are not.
    #[inline]
    fn refusal(&self, _fd: RawFd) -> i32 {
        0
    }

    /// Accepts a connection that this poller can watch.
    #[inline]
    fn accept(&mut self, listener: RawFd) -> i32 {
        sys::accept(listener)
    }
}

/// An op in flight: waiting in a list of an entry, or completed and not yet reaped.
#[derive(Clone, Copy)]
struct Waiting {
    op: RawOp,
    /// `None` once completed.
    place: Option<(u32, Queue)>,
    next: u64,
    previous: u64,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { op: RawOp::Nop, place: None, next: 0, previous: 0 }
    }
}

// SAFETY: the pointers are used by whichever thread runs the driver, under the promise of `submit`,
// which is bound to no thread.
unsafe impl Send for Waiting {}

/// The engine; see the file's page.
pub(crate) struct Ready<P> {
    poller: P,
    slots: Slots<Waiting>,
    table: Table,
    completions: VecDeque<(OpId, i32)>,
    notifier: Notifier,
    /// `in_flight_count` is filled in when asked for.
    metrics: Metrics,
}

impl<P: Poller> Ready<P> {
    pub fn new(poller: P, config: &Config) -> io::Result<Self> {
        Ok(Self {
            slots: Slots::new(config.in_flight_max),
            table: Table::new(poller.remover()?),
            completions: VecDeque::new(),
            notifier: poller.notifier(),
            metrics: Metrics::default(),
            poller,
        })
    }

    /// Puts an op that could not finish at the end of its queue.
    fn park(&mut self, op: RawOp, data: u64, place: (u32, Queue)) -> Submitted {
        let (index, queue) = place;
        let Some(id) =
            self.slots.insert(data, Waiting { op, place: Some(place), ..Default::default() })
        else {
            return Submitted::Done(sys::NO_BUFFERS);
        };
        self.table.settle(index);
        let list = &mut self.table.entries[index as usize].lists[queue as usize];
        let last = OpId::from_u64(list.tail);
        list.tail = id.as_u64();
        match last.and_then(|last| self.slots.get_mut(last)) {
            Some(last) => last.next = id.as_u64(),
            None => list.head = id.as_u64(),
        }
        if let (Some(last), Some(waiting)) = (last, self.slots.get_mut(id)) {
            waiting.previous = last.as_u64();
        }
        if let Err(error) = self.watch(index) {
            self.unlink(id);
            self.slots.finish(id);
            return Submitted::Done(sys::negated(&error));
        }
        Submitted::Pending(id)
    }

    /// Takes an op out of its queue, if it waits in one: its entry.
    fn unlink(&mut self, id: OpId) -> Option<u32> {
        let waiting = self.slots.get_mut(id)?;
        let (index, queue) = waiting.place.take()?;
        let (previous, next) = (waiting.previous, waiting.next);
        let list = &mut self.table.entries[index as usize].lists[queue as usize];
        match OpId::from_u64(previous).and_then(|id| self.slots.get_mut(id)) {
            Some(waiting) => waiting.next = next,
            None => list.head = next,
        }
        match OpId::from_u64(next).and_then(|id| self.slots.get_mut(id)) {
            Some(waiting) => waiting.previous = previous,
            None => list.tail = previous,
        }
        Some(index)
    }

    /// Ends an op that waits: it leaves its queue and its completion is there to be reaped.
    fn complete(&mut self, id: OpId, result: i32) -> Option<u32> {
        let index = self.unlink(id)?;
        self.completions.push_back((id, result));
        Some(index)
    }

    /// Registers an entry with an edge-triggered poller, unless it is.
    fn register(&mut self, index: u32) -> io::Result<()> {
        let token = self.table.token(index);
        let entry = &mut self.table.entries[index as usize];
        if entry.bits & REGISTERED == 0 {
            let both = Interest::READABLE | Interest::WRITABLE;
            self.poller.add(entry.fd, token, both)?;
            let drained = if sys::short_means_drained(entry.fd) { SHORT_MEANS_DRAINED } else { 0 };
            entry.bits = REGISTERED | drained;
        }
        Ok(())
    }

    /// Tells a level-triggered poller what the waiters of an entry want now.
    fn watch(&mut self, index: u32) -> io::Result<()> {
        if P::EDGE {
            return Ok(());
        }
        let token = self.table.token(index);
        let entry = &self.table.entries[index as usize];
        let [read, write, watch] = entry.lists;
        let mut wanted = u8::from(read.head != 0) | u8::from(write.head != 0) << 1;
        let mut next = watch.head;
        while let Some(waiting) = OpId::from_u64(next).and_then(|id| self.slots.get(id)) {
            if let RawOp::Ready { interest, .. } = waiting.op {
                wanted |= u8::from(interest.is_readable()) | u8::from(interest.is_writable()) << 1;
            }
            next = waiting.next;
        }
        let entry = &mut self.table.entries[index as usize];
        let interest = match wanted {
            0 if entry.interest == 0 => return Ok(()),
            0 => {
                entry.interest = 0;
                self.poller.remove(entry.fd, token);
                return Ok(());
            }
            1 => Interest::READABLE,
            2 => Interest::WRITABLE,
            _ => Interest::READABLE | Interest::WRITABLE,
        };
        if entry.interest == 0 {
            self.poller.add(entry.fd, token, interest)?;
        } else if entry.interest != wanted || P::ONE_SHOT {
            self.poller.modify(entry.fd, token, interest)?;
        }
        entry.interest = wanted;
        Ok(())
    }

    /// Handles one event.
    fn event(&mut self, token: u64, seen: Readiness) {
        let Some(index) = self.table.by_token(token) else {
            self.metrics.unknown_completion_count += 1;
            return;
        };
        let entry = &mut self.table.entries[index as usize];
        let closed = Readiness::READ_CLOSED | Readiness::HANG_UP | Readiness::ERROR;
        let closed = seen.intersects(closed);
        if closed {
            entry.bits |= CLOSED;
        }
        let readable = closed || seen.contains(Readiness::READABLE);
        let writable = closed || seen.contains(Readiness::WRITABLE);
        if readable {
            entry.bits &= !DRAINED;
        }
        if writable {
            entry.bits &= !FULL;
        }
        if !entry.has_waiters() {
            if self.table.is_stray(index) {
                self.deregister(index);
            }
            return;
        }
        self.tell_watchers(index);
        if readable {
            self.serve(index, Queue::Read);
        }
        if writable {
            self.serve(index, Queue::Write);
        }
        self.watch_or_fail(index);
    }

    /// Retries the ops of a queue, in order, until one would block.
    fn serve(&mut self, index: u32, queue: Queue) {
        let blocked = if queue == Queue::Read { DRAINED } else { FULL };
        loop {
            let entry = &self.table.entries[index as usize];
            let (fd, first) = (entry.fd, entry.lists[queue as usize].head);
            let Some(id) = OpId::from_u64(first) else { return };
            if entry.bits & blocked != 0 {
                return;
            }
            let Some(op) = self.slots.get(id).map(|waiting| waiting.op) else { return };
            // SAFETY: the op is in flight, so what it points to is valid and its descriptor is open
            // by the promise of `submit`.
            let result = unsafe { attempt(&mut self.poller, &op, fd, true) };
            self.learn(index, &op, result);
            if result == sys::WOULD_BLOCK {
                return;
            }
            self.complete(id, result);
        }
    }

    /// Tells every `Ready` op of an entry whose interest is met.
    fn tell_watchers(&mut self, index: u32) {
        let entry = &self.table.entries[index as usize];
        let (fd, mut next) = (entry.fd, entry.lists[Queue::Watch as usize].head);
        while let Some(id) = OpId::from_u64(next) {
            let Some(waiting) = self.slots.get(id).copied() else { return };
            next = waiting.next;
            // SAFETY: as in `serve`.
            let result = unsafe { attempt(&mut self.poller, &waiting.op, fd, true) };
            if result != sys::WOULD_BLOCK {
                self.complete(id, result);
            }
        }
    }

    /// Notes what a try says about the next one (rule 2).
    #[inline]
    fn learn(&mut self, index: u32, op: &RawOp, result: i32) {
        if result == sys::WOULD_BLOCK {
            self.metrics.would_block_count += 1;
        }
        let entry = &mut self.table.entries[index as usize];
        if P::EDGE && entry.bits & (REGISTERED | CLOSED) == REGISTERED {
            entry.bits |= learned(entry.bits, op, result);
        }
    }

    /// [`watch`](Self::watch) for ops that are in flight already: they end with the error.
    fn watch_or_fail(&mut self, index: u32) {
        if let Err(error) = self.watch(index) {
            self.fail(index, sys::negated(&error));
        }
    }

    /// Ends every op that waits for an entry.
    fn fail(&mut self, index: u32, result: i32) {
        for queue in 0..self.table.entries[index as usize].lists.len() {
            while let Some(id) =
                OpId::from_u64(self.table.entries[index as usize].lists[queue].head)
            {
                self.complete(id, result);
            }
        }
    }

    fn deregister(&mut self, index: u32) {
        let token = self.table.token(index);
        let entry = &mut self.table.entries[index as usize];
        if entry.bits & REGISTERED != 0 {
            entry.bits = 0;
            self.poller.remove(entry.fd, token);
        }
    }

    /// Frees the entries of descriptors that were closed. Nobody may wait for those; if somebody
    /// does, the op ends with an error and without a look at the number.
    fn forget_closed(&mut self) {
        while let Some(index) = self.table.forgotten() {
            self.fail(index, sys::BAD_DESCRIPTOR);
            if self.table.entries[index as usize].interest != 0 {
                let token = self.table.token(index);
                self.poller.remove(self.table.entries[index as usize].fd, token);
            }
            self.table.release(index);
        }
    }
}

impl<P: Poller> Contract for Ready<P> {
    unsafe fn submit(&mut self, op: RawOp, data: u64) -> Submitted {
        self.metrics.submitted_count += 1;
        let (Some(target), Some(queue)) = (op.target(), queue(&op)) else {
            // SAFETY: forwarded; the caller keeps the same promises.
            return unsafe { self.submit_at_once(op, data) };
        };
        // SAFETY: the target is in place and open by the caller's promise.
        let descriptor = unsafe { target.0.as_ref() };
        let fd = descriptor.raw_fd();
        if self.poller.refusal(fd) != 0 {
            return Submitted::Done(self.poller.refusal(fd));
        }
        let mut index = self.table.find(descriptor);
        let blocked = match (index, queue) {
            (None, _) | (_, Queue::Watch) => false,
            (Some(index), _) => {
                let entry = &self.table.entries[index as usize];
                let bit = if queue == Queue::Read { DRAINED } else { FULL };
                entry.bits & bit != 0 || entry.lists[queue as usize].head != 0
            }
        };
        if !blocked {
            // SAFETY: forwarded; the descriptor is open.
            let result = unsafe { attempt(&mut self.poller, &op, fd, false) };
            if result != sys::WOULD_BLOCK {
                if let Some(index) = index {
                    self.learn(index, &op, result);
                }
                return Submitted::Done(result);
            }
        }
        let entry = *index.get_or_insert_with(|| {
            self.forget_closed();
            self.table.create(descriptor)
        });
        if P::EDGE
            && let Err(error) = self.register(entry)
        {
            return Submitted::Done(sys::negated(&error));
        }
        if !blocked {
            self.learn(entry, &op, sys::WOULD_BLOCK);
        }
        self.park(op, data, (entry, queue))
    }

    fn cancel(&mut self, id: OpId) {
        if let Some(index) = self.complete(id, sys::CANCELLED) {
            self.watch_or_fail(index);
        }
    }

    /// Looks at the kernel even if completions are there already, so that a caller who always has
    /// some starves no socket; it does not sleep then.
    fn wait(&mut self, deadline: Deadline) -> io::Result<()> {
        self.forget_closed();
        let timeout =
            if self.completions.is_empty() { deadline.remaining() } else { Some(Duration::ZERO) };
        self.metrics.enter_count += 1;
        self.poller.wait(timeout)?;
        while let Some((token, seen)) = self.poller.next() {
            if token == 0 {
                self.notifier.take();
            } else {
                self.event(token, seen);
            }
        }
        Ok(())
    }

    #[inline]
    fn reap(&mut self) -> Option<Completion> {
        let (id, result) = self.completions.pop_front()?;
        let (data, _) = self.slots.finish(id)?;
        Some(Completion { id, data, result })
    }

    fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    fn metrics(&self) -> Metrics {
        Metrics { in_flight_count: self.slots.in_flight(), ..self.metrics }
    }

    fn inject(&mut self, user_data: u64, result: i32) {
        match OpId::from_u64(user_data).and_then(|id| self.complete(id, result)) {
            Some(index) => self.watch_or_fail(index),
            None => self.metrics.unknown_completion_count += 1,
        }
    }
}

impl<P: Poller> Ready<P> {
    /// Ops that never wait. A nop ends at the next wait, so it takes a slot.
    ///
    /// # Safety
    /// As for [`Contract::submit`].
    unsafe fn submit_at_once(&mut self, op: RawOp, data: u64) -> Submitted {
        Submitted::Done(match op {
            RawOp::Close { fd } => sys::close(fd),
            RawOp::Shutdown { on, how } => {
                // SAFETY: the target is in place and open by the caller's promise.
                sys::shutdown(unsafe { on.0.as_ref() }.raw_fd(), how)
            }
            _ => match self.slots.insert(data, Waiting::default()) {
                Some(id) => {
                    self.completions.push_back((id, 0));
                    return Submitted::Pending(id);
                }
                None => sys::NO_BUFFERS,
            },
        })
    }
}

impl<P> Drop for Ready<P> {
    /// Nothing is in the kernel. Connections that were accepted and not reaped are closed.
    fn drop(&mut self) {
        for (id, result) in self.completions.drain(..) {
            if let Some(Waiting { op: RawOp::Accept { .. }, .. }) = self.slots.get(id)
                && let Some(fd) = sys::accepted(result)
            {
                sys::close(fd);
            }
        }
    }
}
