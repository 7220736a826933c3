//! io_uring: ops become entries of a ring that one call submits, waits for and reaps.
//!
//! ```text
//!   submit --> slot --> entry --push--> submission queue --+
//!                         | full, and the kernel refuses   | one io_uring_enter per wait:
//!                         v                                | submit all, make completions,
//!                      backlog ---------- next wait ------>| sleep if there are none
//!                                                          v
//!   reap <-- slot's generation checked <----------- completion queue
//! ```
//!
//! 1. `submit` and `cancel` write memory only. A system call is made when the queue is full and in
//!    `wait`; when to flush is the caller's business.
//! 2. A slot is given up at the final completion that carries its number, at no other time: not when
//!    a call fails after the push, not when the cancel is answered.
//! 3. Entries keep their order, through the backlog too, so a cancel never overtakes its op.
//! 4. `wait` does not sleep while a completion lies in the queue, the backlog holds an entry or a
//!    notification is pending.
//! 5. The completion queue may overflow: the kernel keeps what does not fit and hands it out at the
//!    next call. Nothing is lost (NODROP); the backlog and the kernel's list are bounded by
//!    `in_flight_max`.
//! 6. The ring is made disabled and belongs to the thread that first flushes it.

mod drain;
mod notify;
mod prepare;
mod reap;
mod ring;
#[cfg(test)]
mod tests;
mod trial;

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::time::Duration;

use io_uring::opcode;
use io_uring::squeue::Entry;

use crate::clock::Deadline;
use crate::config::Config;
use crate::driver::{Contract, Metrics};
use crate::notifier::Notifier;
use crate::op::{Completion, OpId, RawOp, Submitted};
use crate::slots::Slots;
use crate::sys;

pub(crate) use trial::trial;

use notify::{Kick, Means, means};
use prepare::{OPCODES, Verb};
use reap::{CANCEL, NOTIFIED};
use ring::{Entered, Look, Ring};

/// How long to wait for memory or for room when the kernel refuses entries and nothing else can be
/// done meanwhile.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);

/// What a slot knows about its op.
#[derive(Clone, Copy, Debug, Default)]
struct InFlight {
    verb: Verb,
    cancel_retries: u8,
}

/// The io_uring backend.
pub(crate) struct Uring {
    /// Dropped by `Drop`, unless it must be leaked.
    ring: ManuallyDrop<Ring>,
    slots: Slots<InFlight>,
    kick: Kick,
    /// Entries that the kernel refused to take for now.
    backlog: VecDeque<Entry>,
    /// Ops whose cancel missed; see `reap`.
    missed_cancels: Vec<OpId>,
    /// Completions that did not come from the ring.
    ready: VecDeque<Completion>,
    metrics: Metrics,
}

impl Uring {
    /// Makes a driver with a disabled ring of its own.
    pub fn new(config: &Config) -> io::Result<Self> {
        let entries = config.entries;
        let completions = config.completion_entries.unwrap_or(entries.saturating_mul(4));
        let ring = Ring::new(entries, completions).map_err(name_the_limit)?;
        let means = means(ring.raw_fd());
        Self::with_ring(ring, means, config.in_flight_max)
    }

    fn with_ring(ring: Ring, means: Means, in_flight_max: usize) -> io::Result<Self> {
        let kick = Kick::new(ring.raw_fd(), NOTIFIED, means).map_err(name_the_limit)?;
        Ok(Self {
            ring: ManuallyDrop::new(ring),
            slots: Slots::new(in_flight_max),
            kick,
            backlog: VecDeque::new(),
            missed_cancels: Vec::new(),
            ready: VecDeque::new(),
            metrics: Metrics::default(),
        })
    }

    /// Queues an entry, in order (rule 3).
    ///
    /// Takes how to make it, so that it is made in registers and written once, into the queue: made
    /// in memory first, to be kept in case the queue is full, it took twice as long.
    ///
    /// # Safety
    /// As for [`Ring::push`].
    #[inline]
    unsafe fn push(&mut self, entry: impl Fn() -> Entry) {
        // SAFETY: forwarded; the caller keeps the promise.
        if !self.backlog.is_empty() || !unsafe { self.ring.push(&entry()) } {
            self.push_slow(entry());
        }
    }

    /// The queue is full, or the backlog comes first.
    #[cold]
    fn push_slow(&mut self, entry: Entry) {
        self.backlog.push_back(entry);
        self.push_backlog();
        if !self.backlog.is_empty() {
            // An error shows again in the next wait; the entry waits in the backlog (rule 2).
            let _ = self.ring.enter(0, None);
            self.push_backlog();
        }
    }

    /// Moves entries from the backlog to the queue as far as there is room.
    fn push_backlog(&mut self) {
        while let Some(entry) = self.backlog.front() {
            // SAFETY: whoever called `push` with this entry keeps the promise.
            if !unsafe { self.ring.push(entry) } {
                return;
            }
            self.backlog.pop_front();
        }
    }

    /// Queues what is due besides new ops. Whether all of it found room.
    #[inline]
    fn fill(&mut self) -> bool {
        if !self.missed_cancels.is_empty() {
            self.repeat_cancels();
        }
        if let Some(entry) = self.kick.arm(NOTIFIED) {
            // SAFETY: the entry writes to memory that `kick` owns and leaks if need be.
            unsafe { self.push(|| entry.clone()) };
        }
        if !self.backlog.is_empty() {
            self.push_backlog();
        }
        self.backlog.is_empty()
    }

    fn cancel_op(&mut self, id: OpId) {
        if self.slots.cancel_sent(id) {
            let number = id.as_u64();
            let entry = opcode::AsyncCancel::new(number).build().user_data(number | CANCEL);
            // SAFETY: the entry points to no memory.
            unsafe { self.push(|| entry.clone()) };
        }
    }

    /// Submits, makes completions, and does not sleep. No call if there is nothing to do.
    #[inline]
    fn flush(&mut self, look: Look) -> io::Result<()> {
        if !look.overflown && !look.has_work && look.queued == 0 {
            return Ok(());
        }
        match self.ring.enter(0, None)? {
            Entered::Yes => Ok(()),
            Entered::Refused => self.refused(),
        }
    }

    /// Entries were refused. Completions that can be reaped make room; else only time does.
    #[cold]
    fn refused(&mut self) -> io::Result<()> {
        if self.ring.has_completions() {
            return Ok(());
        }
        self.ring.wait_only(1, Some(REFUSED_PAUSE)).map(drop)
    }
}

impl Contract for Uring {
    #[inline]
    unsafe fn submit(&mut self, op: RawOp, data: u64) -> Submitted {
        // SAFETY: forwarded; the caller keeps the promises of `Driver::submit`.
        let parts = match unsafe { prepare::prepare(op) } {
            Ok(parts) => parts,
            Err(result) => {
                self.metrics.submitted_count += 1;
                return Submitted::Done(result);
            }
        };
        let in_flight = InFlight { verb: parts.verb, cancel_retries: 0 };
        let Some(id) = self.slots.insert(data, in_flight) else {
            return Submitted::Done(sys::NO_BUFFERS);
        };
        self.metrics.submitted_count += 1;
        // SAFETY: the caller keeps everything in place until the completion with this number.
        unsafe { self.push(|| parts.entry(id.as_u64())) };
        Submitted::Pending(id)
    }

    fn cancel(&mut self, id: OpId) {
        self.cancel_op(id);
    }

    #[inline]
    fn wait(&mut self, deadline: Deadline) -> io::Result<()> {
        // Before the flag of the notifier is read; see `notify`.
        self.ring.enable()?;
        let all_queued = self.fill();
        let notified = self.kick.notifier.take();
        let timeout = deadline.remaining();
        let look = self.ring.look();
        self.metrics.overflow_count += u64::from(look.overflown);
        if notified
            || !all_queued
            || timeout == Some(Duration::ZERO)
            || !self.ready.is_empty()
            || self.ring.has_completions()
            || look.overflown
        {
            return self.flush(look);
        }
        let entered = self.ring.enter(1, timeout)?;
        self.kick.notifier.take();
        match entered {
            Entered::Yes => Ok(()),
            Entered::Refused => self.refused(),
        }
    }

    #[inline]
    fn reap(&mut self) -> Option<Completion> {
        if !self.ready.is_empty() {
            return self.ready.pop_front();
        }
        while let Some((user_data, result)) = self.ring.pop() {
            if let Some(completion) = self.resolve(user_data, result) {
                return Some(completion);
            }
        }
        None
    }

    fn notifier(&self) -> Notifier {
        self.kick.notifier.clone()
    }

    fn metrics(&self) -> Metrics {
        Metrics {
            in_flight_count: self.slots.in_flight(),
            enter_count: self.ring.enter_count,
            ..self.metrics
        }
    }

    fn inject(&mut self, user_data: u64, result: i32) {
        if let Some(completion) = self.resolve(user_data, result) {
            self.ready.push_back(completion);
        }
    }
}

/// Says which limit a ring ran into.
fn name_the_limit(error: io::Error) -> io::Error {
    let limit = match error.raw_os_error() {
        Some(libc::ENOMEM) => {
            "no memory for the ring; raise `ulimit -l` (memlock) or the memory limit of the \
             container, or set smaller `Config::entries`"
        }
        Some(libc::EMFILE) => "no descriptor for the ring; raise `ulimit -n` (nofile)",
        Some(libc::ENFILE) => "no descriptor for the ring; raise the sysctl fs.file-max",
        _ => "cannot make a ring; `FIBRA_DRIVER=epoll` does without",
    };
    io::Error::new(error.kind(), format!("io_uring: {limit} ({error})"))
}
