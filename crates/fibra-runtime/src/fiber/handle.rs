//! Join handles: waiting for a fiber, and asking it to end.

use std::fmt;

use super::packet::{Outcome, Result};
use crate::sched::job::{FiberId, Header};
use crate::sched::job_ref::JobRef;
use crate::sched::wait::{Ends, Holder, wait_for};

/// A handle on a fiber. Dropping it lets the fiber run on by itself.
///
/// ```
/// let answer = fibra_runtime::run(|| {
///     let child = fibra_runtime::spawn(|| 6 * 7);
///     child.join().unwrap()
/// });
/// assert_eq!(answer, 42);
/// ```
pub struct JoinHandle<T> {
    packet: JobRef<dyn Outcome<T>>,
}

impl<T> JoinHandle<T> {
    pub(crate) fn new(packet: JobRef<dyn Outcome<T>>) -> Self {
        Self { packet }
    }

    /// Waits until the fiber has ended and returns what it returned.
    ///
    /// Works on fibers, on plain threads and after the end of the runtime.
    ///
    /// # Suspends
    /// Yes. Not ended by a cancel: the fiber waited for is what ends it.
    ///
    /// # Errors
    /// The payload of its panic; [`Cancelled`](crate::Cancelled) if it was cancelled before it
    /// started.
    pub fn join(self) -> Result<T> {
        wait_done(self.packet.header());
        // SAFETY: done is complete, and `join` consumes the only handle.
        match unsafe { self.packet.take() } {
            Some(result) => result,
            None => unreachable!("a packet holds its result until the handle takes it"),
        }
    }

    /// Whether the fiber has ended, so that [`join`](Self::join) returns at once.
    pub fn is_finished(&self) -> bool {
        self.packet.header().done.is_done()
    }

    /// Asks the fiber to end: its current and every later fallible wait fails with
    /// [`Cancelled`](crate::Cancelled). It is an error value, not an unwind; the fiber decides. A
    /// fiber that has not started never will.
    ///
    /// # Cancellation
    /// An op that has succeeded meanwhile is reported as a success: no bytes are lost.
    pub fn cancel(&self) {
        self.packet.header().cancel();
    }

    /// Identifies the fiber.
    pub fn id(&self) -> FiberId {
        self.packet.header().id
    }

    /// Its name, if it was given one.
    pub fn name(&self) -> Option<&str> {
        self.packet.header().name.as_deref()
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("id", &self.id())
            .field("name", &self.name())
            .field("finished", &self.is_finished())
            .finish()
    }
}

/// Waits until a job is done, whatever happens meanwhile.
pub(crate) fn wait_done(header: &Header) {
    wait_done_or(header, || false);
}

/// Waits until a job is done, or `enough` says so when the waiter is woken.
pub(crate) fn wait_done_or(header: &Header, enough: impl Fn() -> bool) {
    let done = &header.done;
    if done.is_done() {
        return;
    }
    let waited = wait_for(
        Ends::Infallible,
        None,
        |me| (done.is_done() || enough() || done.register(me()).is_err()).then_some(()),
        || match header.runs_elsewhere() {
            true => Holder::Elsewhere,
            false => Holder::Here(header.describe()),
        },
    );
    debug_assert!(waited.is_ok(), "nothing ends this wait early");
}
