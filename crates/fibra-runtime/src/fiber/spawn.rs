//! Spawning: from a closure to a fiber in a queue.

use std::io;
use std::panic::Location;
use std::ptr::NonNull;
use std::sync::Arc;

use fibra_driver::Instant;

use super::handle::JoinHandle;
use super::local::inherited_deadline;
use super::packet::{Outcome, Packet};
use super::scope::{Scope, ScopedJoinHandle};
use crate::runtime::Handle;
use crate::sched::current;
use crate::sched::job::{Header, Job, dismiss};
use crate::sched::job_ref::JobRef;
use crate::sched::shared::{Phase, Refused, Shared};
use crate::stack::StackSize;

/// Makes a fiber that runs `f`, on the worker with the fewest fibers.
///
/// It inherits neither deadline nor cancel; [`scope`](crate::scope) gives children that do.
///
/// # Suspends
/// Never. The fiber takes a stack when it first runs.
///
/// # Panics
/// If there is no runtime: call it inside [`run`](crate::run). If the runtime is at its limit of
/// fibers; [`Builder::spawn`] gives an error instead.
#[track_caller]
pub fn spawn<F, T>(f: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let plan = Plan::new(Location::caller());
    let spawned = match current::worker() {
        Some(worker) => spawn_on(&worker.shared, plan, f),
        None => spawn_on(&Handle::expect("spawn").shared, plan, f),
    };
    spawned.unwrap_or_else(|error| panic!("fibra: {error}"))
}

/// Like [`spawn`], for background work that should end with its request: the fiber inherits the
/// deadline of the running one.
///
/// # Panics
/// As [`spawn`].
#[track_caller]
pub fn spawn_inherit<F, T>(f: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let plan = Plan { deadline: inherited_deadline(), ..Plan::new(Location::caller()) };
    let shared = Handle::expect("spawn_inherit").shared;
    spawn_on(&shared, plan, f).unwrap_or_else(|error| panic!("fibra: {error}"))
}

/// What is known about a fiber before it exists.
pub(crate) struct Plan {
    pub name: Option<Box<str>>,
    pub site: &'static Location<'static>,
    pub stack: Option<StackSize>,
    pub deadline: Option<Instant>,
}

impl Plan {
    pub fn new(site: &'static Location<'static>) -> Self {
        Self { name: None, site, stack: None, deadline: None }
    }

    pub fn header(self, shared: &Arc<Shared>) -> Header {
        let stack = self.stack.unwrap_or(shared.config.stack_size);
        Header::new(shared.next_id(), self.name, self.site, stack, self.deadline, shared.id)
    }
}

/// Spawns on a given runtime. When it is closing the handle is cancelled already.
pub(crate) fn spawn_on<F, T>(shared: &Arc<Shared>, plan: Plan, f: F) -> io::Result<JoinHandle<T>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    // SAFETY: the closure and its result are 'static.
    let (outcome, job) = unsafe { erase(Packet::pair(plan.header(shared), None, f)) };
    if let Err(refused) = shared.spawn(job) {
        end_refused(refused)?;
    }
    Ok(JoinHandle::new(outcome))
}

/// Ends a job that was not taken, where it is: its closure is dropped by the caller, its handle is
/// cancelled. An error if that was because of the limit.
pub(crate) fn end_refused(refused: Refused) -> io::Result<()> {
    let Refused { job, closing } = refused;
    dismiss(job);
    match closing {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::QuotaExceeded, AT_LIMIT)),
    }
}

const AT_LIMIT: &str = "too many fibers wait to be started: slow down whoever spawns, or raise \
                        Builder::fibers_max";

/// The main fiber of a runtime. Its closure may borrow: `run` waits for it.
///
/// # Safety
/// The caller does not return before `header().done` is complete.
pub(crate) unsafe fn main_fiber<'a, F, T>(
    shared: &Arc<Shared>,
    site: &'static Location<'static>,
    f: F,
) -> (JobRef<dyn Outcome<T> + 'a>, std::result::Result<(), Refused>)
where
    F: FnOnce() -> T + Send + 'a,
    T: Send + 'a,
{
    let plan = Plan {
        name: Some("main".into()),
        stack: Some(shared.config.main_stack_size),
        ..Plan::new(site)
    };
    let closing = CloseOnDrop(Arc::clone(shared));
    let f = move || {
        // Here and not in the caller of `run`: what has not started when `f` returns never does.
        let _closing = closing;
        f()
    };
    // SAFETY: the closure is gone when `done` is complete, and the result when the handle has taken
    // it; the caller stays until then.
    let (outcome, job) = unsafe { erase(Packet::pair(plan.header(shared), None, f)) };
    shared.set_main(&job);
    (outcome, shared.spawn(job))
}

/// Begins the shutdown when the main fiber ends, in whichever way.
struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.advance(Phase::Closing);
    }
}

/// The two references to a packet, as the handle and as the scheduler see it.
///
/// # Safety
/// What the closure borrows outlives the job's `run` or `cancel`, and what the result borrows
/// outlives the handle.
#[expect(clippy::type_complexity, reason = "one packet, twice; a name would hide it")]
pub(crate) unsafe fn erase<'a, F, T>(
    (outcome, job): (JobRef<Packet<F, T>>, JobRef<Packet<F, T>>),
) -> (JobRef<dyn Outcome<T> + 'a>, JobRef<dyn Job>)
where
    F: FnOnce() -> T + Send + 'a,
    T: Send + 'a,
{
    let outcome: NonNull<dyn Outcome<T> + 'a> = outcome.into_raw();
    let job: NonNull<dyn Job + 'a> = job.into_raw();
    // SAFETY: the same pointer; the lifetime is the caller's promise.
    let job = unsafe { std::mem::transmute::<NonNull<dyn Job + 'a>, NonNull<dyn Job>>(job) };
    // SAFETY: both came from `into_raw` of references to the same packet.
    unsafe { (JobRef::from_raw(outcome), JobRef::from_raw(job)) }
}

/// Gives a fiber a name or a stack of another size before it is spawned.
///
/// ```
/// # fibra_runtime::run(|| {
/// let child = fibra_runtime::fiber::Builder::new()
///     .name("parser")
///     .stack_size(1 << 20)
///     .spawn(|| fibra_runtime::current().unwrap().name().map(str::to_owned))?;
/// assert_eq!(child.join().unwrap().as_deref(), Some("parser"));
/// # std::io::Result::Ok(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug, Default)]
pub struct Builder {
    name: Option<Box<str>>,
    stack_size: Option<usize>,
}

impl Builder {
    /// A builder with the runtime's settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names the fiber; reports show it.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into().into_boxed_str());
        self
    }

    /// Reserves a stack of at least `bytes`; rounded up to one of a few sizes.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = Some(bytes);
        self
    }

    /// Makes the fiber.
    ///
    /// # Errors
    /// No runtime, its limit of fibers is reached, or a stack size out of range.
    #[track_caller]
    pub fn spawn<F, T>(self, f: F) -> io::Result<JoinHandle<T>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let plan = self.plan(Location::caller())?;
        let handle = Handle::find().ok_or_else(|| {
            io::Error::other("no fibra runtime here: spawn inside `fibra::run` or with a Handle")
        })?;
        spawn_on(&handle.shared, plan, f)
    }

    /// Makes the fiber as a child of a scope; see [`Scope::spawn`].
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    #[track_caller]
    pub fn spawn_scoped<'scope, F, T>(
        self,
        scope: &'scope Scope<'scope, '_>,
        f: F,
    ) -> io::Result<ScopedJoinHandle<'scope, T>>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        scope.spawn_planned(self.plan(Location::caller())?, f)
    }

    fn plan(self, site: &'static Location<'static>) -> io::Result<Plan> {
        let stack = self.stack_size.map(StackSize::with_reserve).transpose()?;
        Ok(Plan { name: self.name, site, stack, deadline: None })
    }
}
