//! Scopes: children that borrow from their parent.
//!
//! ```text
//!   scope(|s| body)
//!     1 body runs; s.spawn makes children, counted before they are queued
//!     2 body's panic is caught; then, and if a child panicked, the others are cancelled
//!     3 wait until the count is zero - never skipped, never in a Drop
//!     4 resume the panic, or return
//! ```
//!
//! A child leaves (count down) as its very last act, when its closure and, if nobody holds the
//! handle, its result are dropped. So nothing that borrows is alive after step 3.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, Location, catch_unwind, panic_any, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::handle::wait_done;
use super::local::inherited_deadline;
use super::packet::{Outcome, Packet, Result};
use super::spawn::{Plan, end_refused, erase};
use crate::runtime::Handle;
use crate::sched::current;
use crate::sched::job::{FiberId, Job, Region, perform};
use crate::sched::job_ref::JobRef;
use crate::sched::wait::{Ends, Holder, wait_for};
use crate::sched::waiter::Waiter;

/// What a scope and its children share.
pub(crate) struct ScopeData {
    running: AtomicUsize,
    panicked: AtomicBool,
    waiter: Mutex<Option<Waiter>>,
    /// Children that have not ended, to be cancelled together. Each is let go of before it drops its
    /// own reference: else the last one, and a result that nobody took, would be found here.
    children: Mutex<BTreeMap<FiberId, JobRef<dyn Job>>>,
}

impl ScopeData {
    /// A child panicked and nobody took the panic with `join`: the other children are cancelled.
    pub fn unhandled_panic(&self) {
        if !self.panicked.swap(true, Ordering::AcqRel) {
            self.cancel_children();
        }
    }

    fn cancel_children(&self) {
        // Woken outside the lock: a wake may run foreign code.
        let children = {
            let list = self.children.lock().unwrap_or_else(PoisonError::into_inner);
            list.values().cloned().collect::<Vec<_>>()
        };
        for child in children {
            child.header().cancel();
        }
    }

    fn add(&self, child: &JobRef<dyn Job>) {
        self.running.fetch_add(1, Ordering::Relaxed);
        let mut list = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        list.insert(child.header().id, child.clone());
    }

    /// Step 3. A cancel of the parent is passed on to the children, once.
    fn wait(&self) {
        let mut passed_on = false;
        let waited = wait_for(
            Ends::Lending,
            None,
            |me| {
                if self.running.load(Ordering::Acquire) == 0 {
                    return Some(());
                }
                if !passed_on && parent_is_cancelled() {
                    passed_on = true;
                    self.cancel_children();
                }
                *self.waiter.lock().unwrap_or_else(PoisonError::into_inner) = Some(me());
                (self.running.load(Ordering::Acquire) == 0).then_some(())
            },
            || Holder::Here("the children of a scope".into()),
        );
        debug_assert!(waited.is_ok(), "nothing ends this wait early");
    }
}

impl Region for ScopeData {
    fn let_go(&self, child: FiberId) {
        let job = self.children.lock().unwrap_or_else(PoisonError::into_inner).remove(&child);
        // Outside the lock: if the handle is gone too this drops what the job holds.
        drop(job);
    }

    /// The last act of a child: after this it touches nothing of the scope.
    fn child_ended(&self) {
        // Release: what the child did is seen by whoever sees the count at zero.
        if self.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            let waiter = self.waiter.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(waiter) = waiter {
                waiter.wake();
            }
        }
    }
}

fn parent_is_cancelled() -> bool {
    current::fiber()
        .and_then(|(_, block)| Some(block.header()?.is_cancelled() && block.shielded.get() == 0))
        .unwrap_or(false)
}

/// A region that waits for all it spawned; see [`scope`].
pub struct Scope<'scope, 'env: 'scope> {
    data: Arc<ScopeData>,
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

/// Runs `f` with a scope whose fibers may borrow from here, and waits for all of them.
///
/// ```
/// let mut numbers = [1, 2, 3, 4];
/// fibra_runtime::run(|| {
///     fibra_runtime::scope(|s| {
///         for number in &mut numbers {
///             s.spawn(move || *number *= 10);
///         }
///     });
/// });
/// assert_eq!(numbers, [10, 20, 30, 40]);
/// ```
///
/// # Suspends
/// Yes, until the last child has ended.
///
/// # Panics
/// If a child panicked and its panic was not taken with `join`, after all have ended; if `f` panics,
/// with its payload. In both cases the children that are left are cancelled first.
///
/// # Cancellation
/// A cancel of the parent is passed on to the children; children inherit its deadline.
pub fn scope<'env, F, T>(f: F) -> T
where
    F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T,
{
    let scope = Scope {
        data: Arc::new(ScopeData {
            running: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            waiter: Mutex::new(None),
            children: Mutex::default(),
        }),
        scope: PhantomData,
        env: PhantomData,
    };
    let result = catch_unwind(AssertUnwindSafe(|| f(&scope)));
    if result.is_err() {
        scope.data.cancel_children();
    }
    scope.data.wait();
    match result {
        Err(payload) => resume_unwind(payload),
        Ok(_) if scope.data.panicked.load(Ordering::Acquire) => {
            panic_any("a scoped fiber panicked")
        }
        Ok(value) => value,
    }
}

impl<'scope, 'env> Scope<'scope, 'env> {
    /// Makes a child fiber, which may borrow what outlives the scope.
    ///
    /// On a thread that is unwinding the child runs here and now, on the current stack, because
    /// the thread may not switch.
    ///
    /// # Panics
    /// As [`spawn`](crate::spawn).
    #[track_caller]
    pub fn spawn<F, T>(&'scope self, f: F) -> ScopedJoinHandle<'scope, T>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        self.spawn_planned(Plan::new(Location::caller()), f)
            .unwrap_or_else(|error| panic!("fibra: {error}"))
    }

    /// Makes a child as `plan` says.
    pub(super) fn spawn_planned<F, T>(
        &'scope self,
        plan: Plan,
        f: F,
    ) -> io::Result<ScopedJoinHandle<'scope, T>>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        let shared = Handle::expect("scope").shared;
        let plan = Plan { deadline: inherited_deadline(), ..plan };
        let packets = Packet::pair(plan.header(&shared), Some(Arc::clone(&self.data)), f);
        // SAFETY: `scope` waits for every child it counted, in every way out of it, and the handle
        // cannot leave the scope.
        let (packet, job) = unsafe { erase(packets) };
        self.data.add(&job);
        if std::thread::panicking() {
            perform(job);
        } else if let Err(refused) = shared.spawn(job) {
            end_refused(refused)?;
        }
        Ok(ScopedJoinHandle { packet, scope: PhantomData })
    }
}

/// A handle on a child of a [`scope`].
pub struct ScopedJoinHandle<'scope, T> {
    packet: JobRef<dyn Outcome<T> + 'scope>,
    scope: PhantomData<&'scope ()>,
}

impl<T> ScopedJoinHandle<'_, T> {
    /// Waits until the child has ended and returns what it returned. A panic that is taken here is
    /// not raised again by the scope.
    ///
    /// # Errors
    /// As [`JoinHandle::join`](crate::JoinHandle::join).
    pub fn join(self) -> Result<T> {
        wait_done(self.packet.header());
        // SAFETY: done is complete, and `join` consumes the only handle.
        match unsafe { self.packet.take() } {
            Some(result) => result,
            None => unreachable!("a packet holds its result until the handle takes it"),
        }
    }

    /// Whether the child has ended.
    pub fn is_finished(&self) -> bool {
        self.packet.header().done.is_done()
    }

    /// Asks the child to end, as [`JoinHandle::cancel`](crate::JoinHandle::cancel) does.
    pub fn cancel(&self) {
        self.packet.header().cancel();
    }

    /// Identifies the child.
    pub fn id(&self) -> FiberId {
        self.packet.header().id
    }
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("running", &self.data.running.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for ScopedJoinHandle<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopedJoinHandle").field("id", &self.id()).finish_non_exhaustive()
    }
}
