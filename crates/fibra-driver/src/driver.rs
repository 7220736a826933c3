//! The driver: the object that takes ops and yields completions, one per worker.
//!
//! [`Contract`] is what a backend provides. Every backend file writes these verbs, in this order.

use std::io;

use crate::backend::Backend;
use crate::clock::Deadline;
use crate::config::{BackendKind, Config};
use crate::notifier::Notifier;
use crate::op::{Completion, OpId, RawOp, Submitted};
use crate::owned;

/// What every backend provides: the verbs, in the order their files write them.
pub(crate) trait Contract {
    /// Takes an op. Readiness backends try it first; if it finished, `Done` and no completion.
    ///
    /// Never blocks. The only refusal is `Done(-ENOBUFS)`, at `Config::in_flight_max`.
    ///
    /// # Safety
    /// As for [`Driver::submit`].
    unsafe fn submit(&mut self, op: RawOp, data: u64) -> Submitted;

    /// Asks that `id` end early. It still completes, exactly once; unknown ids are ignored.
    fn cancel(&mut self, id: OpId);

    /// Submits what is queued and sleeps until the deadline, a completion or a notification.
    /// Returns at once if completions are ready to be reaped.
    fn wait(&mut self, deadline: Deadline) -> io::Result<()>;

    /// Takes one completion. Pull-style, so that no borrow is held while the caller runs things.
    fn reap(&mut self) -> Option<Completion>;

    /// A handle with which other threads end [`wait`](Self::wait).
    fn notifier(&self) -> Notifier;

    /// Counters, and how many ops are in flight.
    fn metrics(&self) -> Metrics;

    /// Plays a kernel that answers `result` under `user_data`, which may be an op in flight, a late
    /// or doubled answer, zero or rubbish. For tests.
    fn inject(&mut self, user_data: u64, result: i32);
}

/// What a driver has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Ops that are in flight now (submitted, not yet final).
    pub in_flight_count: usize,
    /// Ops submitted, those finished at once included.
    pub submitted_count: u64,
    /// Kernel answers that named no op in flight: late, duplicate, zero or unknown. Dropped.
    pub unknown_completion_count: u64,
    /// Times the completion queue of the kernel was found full.
    pub overflow_count: u64,
    /// Calls that entered the kernel to submit or to wait.
    pub enter_count: u64,
    /// Owned ops that have no result yet, those before their gate included.
    pub owned_count: usize,
    /// Owned ops that have ended and wait to be reaped.
    pub finished_count: usize,
    /// Tries of the readiness backends that found nothing to do.
    pub would_block_count: u64,
}

/// Takes ops, yields completions. One per thread that waits; see the crate page.
///
/// A driver can be made on one thread and moved to another before its first
/// [`submit`](Self::submit) or [`wait`](Self::wait); from then on it stays on that thread.
///
/// Dropping it cancels what is in flight and drains it; what does not end within a second is leaked
/// together with the memory the kernel may still write, never freed.
pub struct Driver {
    pub(crate) backend: Backend,
    pub(crate) owned: owned::Table,
}

impl Driver {
    /// Makes a driver with the backend that `config` names or, under
    /// [`Choice::Auto`](crate::Choice::Auto), the best one that runs here.
    ///
    /// # Errors
    /// A named backend that cannot run here, with the reason; a limit (descriptors, memory).
    pub fn new(config: &Config) -> io::Result<Self> {
        let backend = Backend::new(config)?;
        let owned = owned::Table::new(backend.notifier(), config.in_flight_max);
        Ok(Self { backend, owned })
    }

    /// Takes an op. `data` comes back in its [`Completion`]; its highest bit is not the caller's to
    /// set (it tells owned ops apart).
    ///
    /// # Safety
    /// Until the op's final completion has been taken with [`reap`](Self::reap) (or this returns
    /// [`Submitted::Done`]):
    /// - the descriptor behind [`RawOp::target`] stays in place and open;
    /// - every pointer in the op stays valid, in place, and for buffers to fill unaliased;
    /// - the driver is not leaked while that memory is freed (dropping it is fine).
    #[inline]
    pub unsafe fn submit(&mut self, op: RawOp, data: u64) -> Submitted {
        debug_assert!(data >> 63 == 0, "the highest bit of `data` marks owned ops");
        // SAFETY: forwarded; the caller keeps the same promises.
        unsafe { self.backend.submit(op, data) }
    }

    /// Asks that `id` end early. It still completes, exactly once, and if it had already succeeded
    /// the completion says so. Ids that are not in flight are ignored.
    pub fn cancel(&mut self, id: OpId) {
        self.backend.cancel(id);
    }

    /// Submits what is queued and sleeps until `deadline`, a completion or a notification,
    /// whichever is first. May return early for no reason.
    ///
    /// # Errors
    /// Only what no retry can mend (the ring or poller itself is broken). Interruptions and full
    /// queues are handled inside.
    #[inline]
    pub fn wait(&mut self, deadline: Deadline) -> io::Result<()> {
        let deadline = if self.owned.has_ready() { Deadline::Now } else { deadline };
        self.backend.wait(deadline)
    }

    /// Takes one completion of a raw op, oldest first, or `None`. Completions of owned ops are
    /// taken with [`reap_owned`](Self::reap_owned).
    #[inline]
    pub fn reap(&mut self) -> Option<Completion> {
        if let Some(completion) = self.owned.take_set_aside() {
            return Some(completion);
        }
        loop {
            // Field by field: moved as a whole it is written in small pieces and read in large ones,
            // which the processor has to wait for.
            let Completion { id, data, result } = self.backend.reap()?;
            if !owned::is_owned(&Completion { id, data, result }) {
                return Some(Completion { id, data, result });
            }
            self.complete(Completion { id, data, result });
        }
    }

    /// A handle with which other threads end [`wait`](Self::wait).
    pub fn notifier(&self) -> Notifier {
        self.backend.notifier()
    }

    /// Which backend runs.
    pub fn kind(&self) -> BackendKind {
        self.backend.kind()
    }

    /// What has been counted so far.
    pub fn metrics(&self) -> Metrics {
        Metrics {
            owned_count: self.owned.in_flight(),
            finished_count: self.owned.finished_count(),
            ..self.backend.metrics()
        }
    }

    /// Handles an answer as if the kernel had given it. For tests of late, duplicate, zero and
    /// unknown completions only: naming an op in flight breaks the promises of
    /// [`submit`](Self::submit).
    #[doc(hidden)]
    pub fn inject_completion(&mut self, user_data: u64, result: i32) {
        self.backend.inject(user_data, result);
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Before the backend is dropped: afterwards nobody could tell which ops are final.
        self.close_owned();
    }
}
