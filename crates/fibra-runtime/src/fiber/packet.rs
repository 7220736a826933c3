//! Packets: a fiber's closure and its result, in the one allocation of a spawn.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use crate::cancel::Cancelled;
use crate::fiber::scope::ScopeData;
use crate::sched::job::{Header, Job, Region};
use crate::sched::job_ref::{Counted, JobRef};

/// What a fiber ended with; std's shape. A fiber that was cancelled before it started ends with the
/// payload [`Cancelled`].
pub type Result<T> = std::thread::Result<T>;

/// A fiber's closure, then its result.
pub(crate) struct Packet<F, T> {
    header: Header,
    /// Told when the fiber has ended and dropped all it borrowed from the scope.
    scope: Option<Arc<ScopeData>>,
    /// # Invariant
    /// Touched by the fiber that runs the job, until `done` is complete.
    body: UnsafeCell<Option<F>>,
    /// # Invariant
    /// Written by the fiber before it completes `done`; after that taken by the one handle.
    result: UnsafeCell<Option<Result<T>>>,
}

// SAFETY: body and result are handed over by the job's single run and by `done` (release and
// acquire); nobody holds references into them, so `Send` is enough for `Sync`.
unsafe impl<F: Send, T: Send> Sync for Packet<F, T> {}

impl<F: FnOnce() -> T + Send, T: Send> Packet<F, T> {
    /// Both references to a new packet: the fiber's and the handle's.
    pub fn pair(
        header: Header,
        scope: Option<Arc<ScopeData>>,
        body: F,
    ) -> (JobRef<Self>, JobRef<Self>) {
        JobRef::pair(Self {
            header,
            scope,
            body: UnsafeCell::new(Some(body)),
            result: UnsafeCell::new(None),
        })
    }

    /// Publishes the result and wakes who waits for it. The last access of the fiber to it.
    fn publish(&self, result: Result<T>) {
        // SAFETY: the field's invariant: this is the fiber, and `done` is not complete.
        unsafe { *self.result.get() = Some(result) };
        if let Some(waiter) = self.header.done.complete() {
            waiter.wake();
        }
    }
}

impl<F, T> Drop for Packet<F, T> {
    fn drop(&mut self) {
        // Whoever lets go last is here: the fiber, or the thread that drops the handle. Nobody has
        // taken the result then.
        let Some(result) = self.result.get_mut().take() else { return };
        let unhandled = matches!(&result, Err(payload) if !payload.is::<Cancelled>());
        // Foreign code: its panic must not unwind into the scheduler, nor out of a `Drop`.
        if catch_unwind(AssertUnwindSafe(|| drop(result))).is_err() {
            tracing::warn!(
                "the result of {} panicked while it was dropped",
                self.header.describe()
            );
        }
        if unhandled && let Some(scope) = &self.scope {
            scope.unhandled_panic();
        }
    }
}

impl<F: FnOnce() -> T + Send, T: Send> Job for Packet<F, T> {
    fn header(&self) -> &Header {
        &self.header
    }

    unsafe fn run(&self) {
        // SAFETY: the field's invariant: this is the fiber, and it runs once.
        let body = unsafe { (*self.body.get()).take() };
        let Some(body) = body else { unreachable!("a job runs once") };
        self.publish(catch_unwind(AssertUnwindSafe(body)));
    }

    unsafe fn cancel(&self) {
        // SAFETY: the field's invariant: the job will not run, this is the only access.
        let body = unsafe { (*self.body.get()).take() };
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(body)));
        self.publish(match dropped {
            Ok(()) => Err(Box::new(Cancelled)),
            Err(payload) => Err(payload),
        });
    }

    fn region(&self) -> Option<Arc<dyn Region>> {
        self.scope.clone().map(|scope| scope as _)
    }
}

// SAFETY: always the header's counter.
unsafe impl<F, T> Counted for Packet<F, T> {
    fn refs(&self) -> &AtomicU32 {
        &self.header.refs
    }
}

/// What a handle sees of a packet: the closure's type is gone.
pub(crate) trait Outcome<T>: Counted + Send + Sync {
    /// What outsiders may know.
    fn header(&self) -> &Header;

    /// Takes the result.
    ///
    /// # Safety
    /// `header().done` is complete, and only one handle ever calls this.
    unsafe fn take(&self) -> Option<Result<T>>;
}

impl<F: Send, T: Send> Outcome<T> for Packet<F, T> {
    fn header(&self) -> &Header {
        &self.header
    }

    unsafe fn take(&self) -> Option<Result<T>> {
        // SAFETY: the field's invariant, by the caller's promise.
        unsafe { (*self.result.get()).take() }
    }
}
