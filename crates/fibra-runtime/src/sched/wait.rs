//! Waiting: the one way in which everything above parks.
//!
//! Whoever waits is one of three, and the same calls serve all of them:
//! - a **fiber** parks, and its worker runs others;
//! - a **plain thread** (or a worker outside any fiber) blocks, by `poll(2)` or `park`;
//! - a thread that is **unwinding** never switches (contract 4): ops run as `poll(2)` for at most
//!   100 ms, other waits block the thread or give up.
//!
//! Rules for fibers:
//! 1. Every wait loops on its own completion word; a resume carries no meaning.
//! 2. The fiber itself turns a cancel or a deadline into `driver.cancel`, then goes on waiting for
//!    the op's final completion: memory it lent is still lent. If the op had won, that is returned.
//! 3. A wait that fails at once by a cancel or deadline the fiber has been told of 64 times before
//!    parks 10 ms first, so that loops that ignore errors do not burn a core.

use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Wake, Waker};
use std::thread::panicking;
use std::time::Duration;

use fibra_driver::{Deadline, Gate, Instant, RawOp, Ticket};

use super::block::{BlockPtr, FiberRef};
use super::blocking::in_pool;
use super::current;
use super::waiter::Waiter;
use super::worker::{Worker, fatal};
use crate::cancel::Cancelled;

/// The longest a descriptor op may block a thread that is unwinding.
const UNWINDING_MAX: Duration = Duration::from_millis(100);
/// Failed waits in a row after which each one parks first.
const FAILED_WAITS_MAX: u32 = 64;
const FAILED_WAIT_PAUSE: Duration = Duration::from_millis(10);

/// Why a wait ended without what it waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Interrupt {
    /// The fiber was cancelled.
    Cancelled,
    /// A deadline it inherited has passed.
    Deadline,
    /// The time given to this wait has passed.
    Timeout,
}

/// Waits for one op.
///
/// `Ok` as in [`Completion::result`](fibra_driver::Completion::result).
///
/// # Safety
/// As [`Driver::submit`](fibra_driver::Driver::submit); the memory is lent until this returns.
pub(crate) unsafe fn wait_op(op: RawOp, timeout: Option<Instant>) -> Result<i32, Interrupt> {
    let Some((worker, block)) = current::fiber() else {
        // SAFETY: forwarded.
        return unsafe { block_thread(op, timeout) };
    };
    if panicking() {
        // SAFETY: forwarded.
        return unsafe { block_thread(op, timeout) };
    }
    may_suspend(block);
    let limit = Limit::of(block, timeout);
    if let Some(interrupt) = limit.told_before(block) {
        return fail(worker, block, interrupt);
    }
    // SAFETY: forwarded; the fiber stays in this call until `op_done`.
    if let Some(result) = worker.port.with(|port| unsafe { port.submit(op, block) }) {
        block.failed_waits.set(0);
        worker.spend_budget(block);
        return Ok(result);
    }
    worker.op_queued();
    let result = finish_op(worker, block, &limit);
    if result.is_ok() {
        block.failed_waits.set(0);
    }
    result
}

/// Rule 1 and 2: parks until the final completion, cancelling the op when told to.
fn finish_op(worker: &Worker, block: BlockPtr, limit: &Limit) -> Result<i32, Interrupt> {
    limit.arm(worker, block);
    let mut interrupt = None;
    loop {
        if block.op_done.load(Ordering::Acquire) {
            break;
        }
        if interrupt.is_none() {
            interrupt = limit.passed(block);
            if interrupt.is_some() {
                worker.port.with(|port| port.cancel(block));
                worker.op_queued();
            }
        }
        worker.park(block);
    }
    limit.disarm(worker, block);
    block.op.set(None);
    let result = block.op_result.load(Ordering::Relaxed);
    match interrupt {
        Some(interrupt) if result == -fibra_driver::ECANCELED => Err(interrupt),
        _ => Ok(result),
    }
}

/// The same on a thread that cannot park.
///
/// # Safety
/// As `wait_op`.
unsafe fn block_thread(op: RawOp, timeout: Option<Instant>) -> Result<i32, Interrupt> {
    let unwinding = panicking().then(|| Instant::now() + UNWINDING_MAX);
    let deadline = match (timeout, unwinding) {
        (Some(one), Some(other)) => Deadline::At(one.min(other)),
        (Some(one), None) | (None, Some(one)) => Deadline::At(one),
        (None, None) => Deadline::Never,
    };
    // SAFETY: forwarded.
    let result = unsafe { fibra_driver::run_blocking(op, deadline) };
    let over = |then: Option<Instant>| then.is_some_and(|then| Instant::now() >= then);
    match result {
        // The kernel says the same of a connection that it gave up: then no time is over.
        other if other != -fibra_driver::ETIMEDOUT => Ok(other),
        _ if over(timeout) => Err(Interrupt::Timeout),
        _ if over(unwinding) => Err(Interrupt::Deadline),
        timed_out => Ok(timed_out),
    }
}

/// Until when a wait may last, and who says so.
struct Limit {
    timeout: Option<Instant>,
    deadline: Option<Instant>,
    cancellable: bool,
}

impl Limit {
    fn of(block: BlockPtr, timeout: Option<Instant>) -> Self {
        let shielded = block.shielded.get() > 0;
        let deadline = if shielded { None } else { block.deadline.get() };
        Self { timeout, deadline, cancellable: !shielded }
    }

    /// Only a time: neither cancel nor inherited deadline.
    fn only(timeout: Option<Instant>) -> Self {
        Self { timeout, deadline: None, cancellable: false }
    }

    fn cancelled(&self, block: BlockPtr) -> bool {
        self.cancellable && block.header().is_some_and(|header| header.is_cancelled())
    }

    /// A cancel or deadline that had come before the wait began. A timeout that has passed does not
    /// count: the op is tried first, as std does.
    fn told_before(&self, block: BlockPtr) -> Option<Interrupt> {
        if self.cancelled(block) {
            return Some(Interrupt::Cancelled);
        }
        let deadline = self.deadline?;
        (deadline <= Instant::now()).then_some(Interrupt::Deadline)
    }

    /// What has come since. Reads the clock only after the timer fired.
    fn passed(&self, block: BlockPtr) -> Option<Interrupt> {
        if self.cancelled(block) {
            return Some(Interrupt::Cancelled);
        }
        if !block.timer_fired.get() {
            return None;
        }
        match (self.timeout, self.deadline) {
            (Some(timeout), Some(deadline)) if deadline <= timeout => Some(Interrupt::Deadline),
            (Some(_), _) => Some(Interrupt::Timeout),
            (None, Some(_)) => Some(Interrupt::Deadline),
            (None, None) => None,
        }
    }

    fn first(&self) -> Option<Instant> {
        match (self.timeout, self.deadline) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    fn arm(&self, worker: &Worker, block: BlockPtr) {
        block.timer_fired.set(false);
        if let Some(first) = self.first() {
            let id = worker.wheel.with(|wheel| wheel.insert(first.as_nanos(), block));
            block.timer.set(Some(id));
        }
    }

    fn disarm(&self, worker: &Worker, block: BlockPtr) {
        if let Some(id) = block.timer.take() {
            worker.wheel.with(|wheel| wheel.cancel(id));
        }
        block.timer_fired.set(false);
    }
}

/// Panics if the running code has promised not to suspend.
#[inline]
pub(crate) fn may_suspend(block: BlockPtr) {
    if let Some(site) = block.no_suspend.get() {
        refuse_to_suspend(site);
    }
}

#[cold]
fn refuse_to_suspend(site: &Location<'_>) -> ! {
    panic!("fibra: a wait inside `no_suspend` entered at {site}: this code must not suspend");
}

/// Rule 3.
#[cold]
fn fail(worker: &Worker, block: BlockPtr, why: Interrupt) -> Result<i32, Interrupt> {
    unwind_if_told(worker, block);
    let failed = block.failed_waits.get().saturating_add(1);
    block.failed_waits.set(failed);
    if failed >= FAILED_WAITS_MAX {
        if failed == FAILED_WAITS_MAX
            && let Some(header) = block.header()
        {
            tracing::warn!(
                "{} goes on waiting after {failed} waits failed ({why:?}); each one pauses 10 ms now",
                header.describe()
            );
        }
        let _ = wait_until(
            worker,
            block,
            &Limit::only(Some(Instant::now() + FAILED_WAIT_PAUSE)),
            || None::<()>,
        );
    }
    Err(why)
}

/// Parks until `ready` gives something, or the limit has passed.
fn wait_until<T>(
    worker: &Worker,
    block: BlockPtr,
    limit: &Limit,
    mut ready: impl FnMut() -> Option<T>,
) -> Result<T, Interrupt> {
    if let Some(out) = ready() {
        return Ok(out);
    }
    limit.arm(worker, block);
    let out = loop {
        if let Some(out) = ready() {
            break Ok(out);
        }
        if let Some(interrupt) = limit.passed(block) {
            break Err(interrupt);
        }
        worker.park(block);
    };
    limit.disarm(worker, block);
    out
}

/// Which waits a cancel or an inherited deadline ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    /// Those that can report it.
    Fallible,
    /// None: the wait has no way to say so.
    Infallible,
    /// None, and it lends its frame: it must not be unwound at shutdown either.
    Lending,
}

/// Parks the fiber or thread until `ready` gives something. `register` is called with a waiter
/// before the first sleep, and again whenever `ready` has been looked at in vain.
///
/// `blocked_by` names what is waited for, and is asked only when the thread is unwinding and the
/// wait cannot be given up: it says where the other side runs.
pub(crate) fn wait_for<T>(
    ends: Ends,
    timeout: Option<Instant>,
    mut ready: impl FnMut(&mut dyn FnMut() -> Waiter) -> Option<T>,
    blocked_by: impl Fn() -> Holder,
) -> Result<T, Interrupt> {
    let Some((worker, block)) = current::fiber() else {
        return wait_thread(timeout, ready);
    };
    let mut me = || Waiter::Fiber(FiberRef::new(block, Arc::clone(&worker.home)));
    if panicking() {
        return wait_unwinding(ends, worker, block, timeout, ready, blocked_by);
    }
    may_suspend(block);
    let limit = match ends {
        Ends::Fallible => Limit::of(block, timeout),
        Ends::Infallible | Ends::Lending => Limit::only(timeout),
    };
    if let Some(out) = ready(&mut me) {
        worker.spend_budget(block);
        return Ok(out);
    }
    if let Some(interrupt) = limit.told_before(block) {
        let _ = fail(worker, block, interrupt);
        return Err(interrupt);
    }
    let out = wait_until(worker, block, &limit, || {
        if ends != Ends::Lending {
            unwind_if_told(worker, block);
        }
        ready(&mut me)
    });
    if out.is_ok() {
        block.failed_waits.set(0);
    }
    out
}

/// D5: ends a fiber that ignores its cancel, where nothing is lent, if that was asked for. No panic
/// hook runs.
pub(crate) fn unwind_if_told(worker: &Worker, block: BlockPtr) {
    if !worker.is_unwinding() || block.shielded.get() > 0 {
        return;
    }
    if let (Some(header), 0) = (block.header(), block.failed_waits.replace(u32::MAX)) {
        tracing::warn!("{} did not end within the grace: it is unwound", header.describe());
    }
    std::panic::resume_unwind(Box::new(Cancelled))
}

fn wait_thread<T>(
    timeout: Option<Instant>,
    mut ready: impl FnMut(&mut dyn FnMut() -> Waiter) -> Option<T>,
) -> Result<T, Interrupt> {
    let mut me = || Waiter::Thread(std::thread::current());
    loop {
        if let Some(out) = ready(&mut me) {
            return Ok(out);
        }
        match timeout {
            None => std::thread::park(),
            Some(then) => match then.duration_since(Instant::now()) {
                Duration::ZERO => return Err(Interrupt::Timeout),
                left => std::thread::park_timeout(left),
            },
        }
    }
}

/// Where the other side of a wait runs.
pub(crate) enum Holder {
    /// On this worker, or nowhere yet: if this thread blocks it can never run.
    Here(String),
    /// On another thread: it can go on while this one blocks.
    Elsewhere,
}

/// D8: a wait reached from a `Drop` while its fiber unwinds. The thread may block, never switch.
fn wait_unwinding<T>(
    ends: Ends,
    worker: &Worker,
    block: BlockPtr,
    timeout: Option<Instant>,
    mut ready: impl FnMut(&mut dyn FnMut() -> Waiter) -> Option<T>,
    blocked_by: impl Fn() -> Holder,
) -> Result<T, Interrupt> {
    let mut never = || Waiter::Thread(std::thread::current());
    if let Some(out) = ready(&mut never) {
        return Ok(out);
    }
    if ends == Ends::Fallible {
        let brief = Instant::now() + UNWINDING_MAX;
        let until = timeout.map_or(brief, |timeout| timeout.min(brief));
        return wait_thread(Some(until), ready).map_err(|_| Interrupt::Deadline);
    }
    match blocked_by() {
        Holder::Elsewhere => wait_thread(timeout, ready),
        Holder::Here(what) => {
            let me = block.header().map_or_else(String::new, |header| header.describe());
            fatal(&format!(
                "{me} panics, and a destructor it runs waits for {what}, which can only run on the \
                 same worker ({}); a worker never switches while it unwinds",
                worker.home.index
            ))
        }
    }
}

/// Enters the gate of one direction of a socket, in the order of arrival.
#[inline]
pub(crate) fn enter_gate(gate: &Gate, timeout: Option<Instant>) -> Result<(), Interrupt> {
    if gate.try_enter() { Ok(()) } else { queue_at_gate(gate, timeout) }
}

#[cold]
fn queue_at_gate(gate: &Gate, timeout: Option<Instant>) -> Result<(), Interrupt> {
    let mut ticket = Ticket::default();
    let mut waker = None;
    let entered = wait_for(
        Ends::Fallible,
        timeout,
        |me| {
            let waker = waker.get_or_insert_with(|| Waker::from(Arc::new(WaiterWaker::new(me()))));
            match gate.poll_enter(&mut ticket, waker) {
                Poll::Ready(()) => Some(()),
                Poll::Pending => None,
            }
        },
        || Holder::Elsewhere,
    );
    if entered.is_err() {
        gate.withdraw(&mut ticket);
    }
    entered
}

/// A std waker for a fiber or thread.
pub(crate) enum WaiterWaker {
    Fiber(FiberRef),
    Thread(std::thread::Thread),
}

impl WaiterWaker {
    fn new(waiter: Waiter) -> Self {
        match waiter {
            Waiter::Fiber(fiber) => Self::Fiber(fiber),
            Waiter::Thread(thread) => Self::Thread(thread),
            Waiter::Waker(_) => unreachable!("only fibers and threads wait here"),
        }
    }
}

impl Wake for WaiterWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        match &**self {
            Self::Fiber(fiber) => fiber.wake(),
            Self::Thread(thread) => thread.unpark(),
        }
    }
}

/// Sleeps, at most until the fiber is cancelled or its deadline passes.
pub(crate) fn sleep_until(then: Instant) -> Result<(), Interrupt> {
    match wait_for(Ends::Fallible, Some(then), |_| None::<()>, || Holder::Elsewhere) {
        Ok(()) | Err(Interrupt::Timeout) => Ok(()),
        Err(other) => Err(other),
    }
}

/// Runs `f` on the blocking pool while the fiber parks. On plain threads, and while unwinding, it
/// runs inline. Ignores cancel and deadlines: `f` may borrow, so it must have ended.
pub(crate) fn offload<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    let Some((worker, block)) = current::fiber() else { return f() };
    if panicking() || in_pool() {
        return f();
    }
    may_suspend(block);
    let mut f = Some(f);
    let mut out = None;
    {
        let finished = AtomicBool::new(false);
        let task = OffloadFrame {
            body: &mut || {
                if let Some(f) = f.take() {
                    out = Some(std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)));
                }
            },
            finished: &finished,
            fiber: FiberRef::new(block, Arc::clone(&worker.home)),
        };
        // A job that is refused (the pool is closing or full) runs here: it lends this frame.
        if let Err(refused) = worker.shared.pool.submit(task.erase()) {
            tracing::warn!("a blocking call runs on its worker: {}", refused.reason);
            (refused.job)();
        }
        while !finished.load(Ordering::Acquire) {
            worker.park(block);
        }
    }
    match out {
        Some(Ok(out)) => out,
        Some(Err(payload)) => std::panic::resume_unwind(payload),
        None => unreachable!("the pool runs every job it accepts"),
    }
}

/// A closure that borrows from a parked fiber's frame.
struct OffloadFrame<'a> {
    body: &'a mut (dyn FnMut() + Send),
    finished: &'a AtomicBool,
    fiber: FiberRef,
}

impl OffloadFrame<'_> {
    /// Forgets the lifetime of the frame.
    fn erase(self) -> Box<dyn FnOnce() + Send> {
        let job: Box<dyn FnOnce() + Send + '_> = Box::new(move || {
            let fiber = self.fiber;
            (self.body)();
            // The last access to the frame: after this the fiber may leave it.
            self.finished.store(true, Ordering::Release);
            fiber.wake();
        });
        // SAFETY: `offload` does not leave its frame before `finished` is set, which is the job's
        // last access to it; it cannot unwind in between, and a parked fiber's stack is never freed.
        unsafe {
            std::mem::transmute::<Box<dyn FnOnce() + Send + '_>, Box<dyn FnOnce() + Send>>(job)
        }
    }
}
