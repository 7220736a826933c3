//! Workers: the loop of one runtime thread.
//!
//! ```text
//!        +--> next: in rounds, those that have not started, then those that are ready
//!        |      |
//!        |      v
//!        |    resume it until it parks, yields or returns
//!        |      |
//!        |    every 64 runs, or 32 queued ops: submit, reap, timers, inbox
//!        |      |
//!        +------+--- nothing left: steal what has not started
//!                      |
//!                    announce PARKED, look at every queue once more,
//!                    sleep in the driver until the next timer
//! ```
//!
//! Promises: user code never runs on a worker's own stack; a worker that owns a started fiber never
//! ends; a panic that escapes into this loop aborts the process, because unwinding further would run
//! thread-local destructors under suspended frames.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use corosensei::CoroutineResult;
use fibra_driver::{Deadline, Instant};

use super::block::{Block, BlockPtr, Context, Status, Trim};
use super::current;
use super::home::Home;
use super::job::{self, FiberId, Job};
use super::job_ref::{Cells, JobRef};
use super::local::Local;
use super::port::Port;
use super::ready::ReadyQueue;
use super::shared::{Phase, Shared};
use super::wheel::Wheel;
use crate::stack::{self, StackPool};

/// Runs between two looks at the driver while there is work (D34).
const RUNS_PER_TICK: u64 = 64;
/// Queued ops after which they are submitted at once (D34).
const QUEUED_MAX: u32 = 32;
/// Ops that may complete at once in one run before the fiber lets others run.
const BUDGET: u32 = 128;
/// A fiber that stays parked this long, twice, gives unused pages of its stack back (D32).
const TRIM_EVERY: Duration = Duration::from_secs(1);
/// Blocks looked at for that in one go.
const TRIM_COUNT: usize = 4096;
/// Free control blocks kept by one worker; surplus goes back in batches (D46).
const BLOCKS_MAX: usize = 256;
const BLOCKS_BATCH: usize = 32;

/// One runtime thread. Lives on its stack; reached through [`current`].
pub(crate) struct Worker {
    pub home: Arc<Home>,
    pub shared: Arc<Shared>,
    /// The fiber on the CPU.
    pub current: Cell<Option<BlockPtr>>,
    ready: Local<ReadyQueue>,
    /// Fibers for which there was no stack; tried again when one comes back.
    starved: Local<VecDeque<BlockPtr>>,
    round: Local<Round>,
    pub(super) port: Local<Port>,
    pub(super) wheel: Local<Wheel<BlockPtr>>,
    blocks: Local<Vec<BlockPtr>>,
    pub(super) cells: Local<Cells>,
    stacks: Local<StackPool>,
    budget: Cell<u32>,
    runs: Cell<u64>,
    queued: Cell<u32>,
    started: Cell<usize>,
    ids: Cell<u64>,
    /// Started fibers that will never end, because `exit` was called in them.
    given_up: Cell<usize>,
    cancelled_all: Cell<bool>,
    /// Waits that lend nothing unwind instead of parking (opt-in, at shutdown).
    unwinding: Cell<bool>,
    /// A fiber has parked since every parked fiber was last known to be trimmed.
    untrimmed: Cell<bool>,
    next_trim: Cell<Instant>,
    trim_from: Cell<usize>,
    seen_parked: Cell<bool>,
    chaos: Cell<u64>,
}

impl Worker {
    pub fn new(home: Arc<Home>, shared: Arc<Shared>, port: Port, stacks: StackPool) -> Self {
        let chaos = if shared.config.chaos { 0x9e37_79b9_7f4a_7c15 ^ home.index as u64 } else { 0 };
        Self {
            ids: Cell::new((home.index as u64 + 1) << 48),
            home,
            shared,
            current: Cell::new(None),
            ready: Local::new(ReadyQueue::new()),
            round: Local::new(Round::default()),
            starved: Local::new(VecDeque::new()),
            port: Local::new(port),
            wheel: Local::new(Wheel::new(Instant::now().as_nanos())),
            blocks: Local::new(Vec::with_capacity(BLOCKS_MAX)),
            cells: Local::new(Cells::new()),
            stacks: Local::new(stacks),
            budget: Cell::new(BUDGET),
            runs: Cell::new(0),
            queued: Cell::new(0),
            started: Cell::new(0),
            given_up: Cell::new(0),
            cancelled_all: Cell::new(false),
            unwinding: Cell::new(false),
            untrimmed: Cell::new(false),
            next_trim: Cell::new(Instant::now() + TRIM_EVERY),
            trim_from: Cell::new(0),
            seen_parked: Cell::new(false),
            chaos: Cell::new(chaos),
        }
    }

    /// The loop. Returns when the runtime closes and no fiber is left here.
    pub fn run(&self) {
        let bomb = AbortOnUnwind;
        current::enter(self);
        loop {
            match self.next() {
                Some(block) => {
                    self.resume(block);
                    if self.runs.get().is_multiple_of(RUNS_PER_TICK)
                        || self.queued.get() >= QUEUED_MAX
                    {
                        self.tick();
                    }
                }
                None if self.may_end() => break,
                None => self.idle(),
            }
        }
        current::leave();
        std::mem::forget(bomb);
    }

    /// What to run next, in rounds: those fresh when the round began, then those ready then. So
    /// nobody waits longer than a round, and a batch of children runs before its parent looks again.
    #[inline]
    fn next(&self) -> Option<BlockPtr> {
        self.round.with(|round| {
            if round.fresh == 0 && round.ready == 0 {
                round.fresh = self.home.fresh.len() + self.home.incoming.len();
                round.ready = self.ready.with(|ready| ready.len());
            }
            if round.fresh > 0 {
                round.fresh -= 1;
                if let Some(block) = self.take_fresh() {
                    return Some(block);
                }
                // Somebody stole what was left.
                round.fresh = 0;
            }
            round.ready = round.ready.saturating_sub(1);
            self.ready.with(|ready| {
                let block = ready.pop();
                // Memory of many fibers is cold: ask for the next ones' while this one runs.
                if let (Some(next), Some(second)) = (ready.peek(0), ready.peek(1)) {
                    next.prefetch_stack();
                    second.prefetch();
                }
                block
            })
        })
    }

    fn take_fresh(&self) -> Option<BlockPtr> {
        self.home.fresh.pop().or_else(|| self.home.incoming.pop())
    }

    /// Runs a fiber until it parks, yields or returns.
    #[inline]
    fn resume(&self, block: BlockPtr) {
        let runs = self.runs.get().wrapping_add(1);
        self.runs.set(runs);
        self.home.run_count.store(runs, Ordering::Relaxed);
        if block.status.get() == Status::Fresh && !self.start(block) {
            return;
        }
        block.status.set(Status::Running);
        self.budget.set(BUDGET);
        self.current.set(Some(block));
        // SAFETY: only the home thread touches the context; `start` filled it and `finish` has not
        // taken it. The reference is not used after the fiber runs again (no one else resumes it).
        let result = match unsafe { &mut *block.context.get() } {
            Some(context) => context.resume(()),
            None => unreachable!("a started fiber has a context"),
        };
        self.current.set(None);
        if let CoroutineResult::Return(()) = result {
            self.finish(block);
        }
    }

    /// Gives a fresh fiber a stack and binds it to this worker. False if there is no stack.
    fn start(&self, block: BlockPtr) -> bool {
        let Some(header) = block.header() else { unreachable!("a fresh fiber has a job") };
        let stack = match self.stacks.with(|stacks| stacks.take(header.stack)) {
            Ok(stack) => stack,
            Err(error) => {
                self.shared.warn_starved(&error);
                self.starved.with(|starved| starved.push_back(block));
                return false;
            }
        };
        block.name_stack(header, &stack);
        block.area.set(Some(stack.area()));
        block.set_home(self.home.index);
        self.started.set(self.started.get() + 1);
        self.home.started_count.store(self.started.get(), Ordering::Relaxed);
        header.set_started(block);
        if self.shared.phase() != Phase::Running {
            // What has not started when the runtime closes never runs (D12).
            header.cancelled.store(true, Ordering::SeqCst);
        }
        let context = Context::with_stack(stack, move |yielder, ()| {
            block.yielder.set(yielder);
            if let Some(job) = block.take_job() {
                job::perform(job);
            }
        });
        // SAFETY: as in `resume`; the block has no context yet.
        unsafe { *block.context.get() = Some(context) };
        true
    }

    /// A fiber has returned: its stack and block are free again.
    fn finish(&self, block: BlockPtr) {
        // SAFETY: as in `resume`; the coroutine has returned, so no frame is left on the stack.
        let context = unsafe { (*block.context.get()).take() };
        if let Some(context) = context {
            self.stacks.with(|stacks| stacks.put(context.into_stack()));
        }
        block.clear();
        self.free_block(block);
        self.started.set(self.started.get() - 1);
        // Release: pairs with the load in `nobody_spawns`.
        self.home.started_count.store(self.started.get(), Ordering::Release);
        if self.started.get() == 0 && self.shared.phase() != Phase::Running {
            self.shared.unpark_all();
        }
        if let Some(starved) = self.starved.with(VecDeque::pop_front) {
            self.ready.with(|ready| ready.push(starved));
        }
    }

    /// Takes back a block that has no fiber.
    pub fn free_block(&self, block: BlockPtr) {
        self.blocks.with(|blocks| {
            if blocks.len() == BLOCKS_MAX {
                self.shared.blocks.give(blocks.drain(..BLOCKS_BATCH));
            }
            blocks.push(block);
        });
    }

    /// A free control block.
    pub fn take_block(&self) -> BlockPtr {
        self.blocks.with(|blocks| {
            if blocks.is_empty() {
                self.shared.blocks.take(blocks, BLOCKS_BATCH);
            }
            match blocks.pop() {
                Some(block) => block,
                None => unreachable!("the store makes blocks when it has none"),
            }
        })
    }

    /// A number no other fiber of the runtime has.
    pub fn next_id(&self) -> FiberId {
        self.ids.set(self.ids.get() + 1);
        FiberId(self.ids.get())
    }

    /// Puts a fresh fiber into this worker's own queue, or gives it back at the limit.
    pub fn push_fresh(&self, block: BlockPtr) -> Result<(), BlockPtr> {
        // SAFETY: this worker is the queue's one writer.
        unsafe { self.home.fresh.push(block) }.or_else(|block| self.home.incoming.push(block))
    }

    /// Wakes a fiber of this worker: it becomes ready, or its next park returns at once.
    pub fn wake_local(&self, block: BlockPtr) {
        match block.status.get() {
            Status::Parked => {
                block.status.set(Status::Ready);
                self.ready.with(|ready| ready.push(block));
            }
            Status::Running | Status::Ready => block.notified.set(true),
            Status::Fresh | Status::Free => {}
        }
    }

    /// Parks the running fiber until a wake; returns at once if one came before. May return for no
    /// reason: the caller loops on its own word.
    pub fn park(&self, block: BlockPtr) {
        if block.notified.replace(false) {
            return;
        }
        block.status.set(Status::Parked);
        block.trim.set(Trim::Parked);
        self.untrimmed.set(true);
        self.suspend(block);
        block.notified.set(false);
    }

    /// Puts the running fiber behind all that are ready.
    #[inline(always)]
    pub fn yield_now(&self, block: BlockPtr) {
        block.status.set(Status::Ready);
        self.ready.with(|ready| ready.push(block));
        self.suspend(block);
    }

    #[inline(always)]
    fn suspend(&self, block: BlockPtr) {
        let here = 0_u8;
        block.parked_sp.set(&raw const here as usize);
        // SAFETY: set when the fiber started, points into its own live frame.
        unsafe { (*block.yielder.get()).suspend(()) };
        debug_assert!(current::worker().is_some_and(|worker| std::ptr::eq(worker, self)));
    }

    /// Parks the running fiber for ever: the process is about to end.
    pub fn give_up(&self, block: BlockPtr) -> ! {
        self.given_up.set(self.given_up.get() + 1);
        loop {
            block.notified.set(false);
            self.park(block);
        }
    }

    /// Counts an op that completed at once; lets others run when the budget is used up.
    pub fn spend_budget(&self, block: BlockPtr) {
        match self.budget.get().checked_sub(1) {
            Some(left) => self.budget.set(left),
            None => self.yield_now(block),
        }
    }

    /// Notes an op, or a cancel, that waits to be submitted.
    pub fn op_queued(&self) {
        self.queued.set(self.queued.get() + 1);
    }

    /// What a worker looks at while it has work: driver, timers, inbox, shutdown.
    fn tick(&self) {
        // Without an op in flight there is nothing to look for, and on epoll a look is a call.
        if self.port.with(|port| port.has_ops()) {
            self.poll_io(Deadline::Now);
        }
        self.expire_timers();
        self.drain_inbox();
        self.follow_phase();
        self.make_chaos();
        if self.untrimmed.get() && self.runs.get().is_multiple_of(RUNS_PER_TICK * 64) {
            self.trim_parked();
        }
    }

    /// Gives back the unused pages of fibers that have been parked for two looks, which are a
    /// second apart.
    fn trim_parked(&self) {
        let now = Instant::now();
        if now < self.next_trim.get() {
            return;
        }
        let mut trim = stack::Trim::new(0);
        let mut seen = false;
        let next = self.shared.blocks.walk_some(self.trim_from.get(), TRIM_COUNT, |block| {
            let parked = || block.status.get() == Status::Parked;
            if block.home() != Some(self.home.index) || !parked() {
                return;
            }
            match (block.trim.get(), block.area.get()) {
                (Trim::Seen, Some(area)) => {
                    // SAFETY: the fiber is suspended by this worker, in `park`, where `parked_sp`
                    // was taken; it is resumed by this worker only, after `flush`.
                    unsafe { trim.add(area, block.parked_sp.get()) };
                    block.trim.set(Trim::Done);
                }
                (Trim::Parked, Some(_)) => {
                    block.trim.set(Trim::Seen);
                    seen = true;
                }
                _ => {}
            }
        });
        trim.flush();
        self.trim_from.set(next);
        self.seen_parked.set(self.seen_parked.get() | seen);
        if next == 0 {
            // A whole round is done: the next one in a second, if it has something to do. Free stacks
            // keep only their top pages.
            self.stacks.with(|stacks| stacks.release_cold());
            self.untrimmed.set(self.seen_parked.replace(false));
            self.next_trim.set(now + TRIM_EVERY);
        }
    }

    fn poll_io(&self, deadline: Deadline) {
        self.queued.set(0);
        let waited: io::Result<()> = self.port.with(|port| port.wait(deadline));
        if let Err(error) = waited {
            fatal(&format!("the I/O driver of worker {} failed: {error}", self.home.index));
        }
        while let Some((block, result)) = self.port.with(Port::reap) {
            block.op_result.store(result, Ordering::Relaxed);
            block.op_done.store(true, Ordering::Release);
            self.wake_local(block);
        }
    }

    fn expire_timers(&self) {
        if self.wheel.with(|wheel| wheel.len() == 0) {
            return;
        }
        let now = Instant::now().as_nanos();
        self.wheel.with(|wheel| {
            wheel.expire(now, |block: BlockPtr| {
                block.timer.set(None);
                block.timer_fired.set(true);
                self.wake_local(block);
            });
        });
    }

    /// Wakes what other threads asked to wake (rule 4 of `block`).
    fn drain_inbox(&self) {
        if self.home.inbox.is_empty() {
            return;
        }
        // SAFETY: this worker is the inbox's one reader.
        let mut batch = unsafe { self.home.inbox.take_all() };
        while let Some(block) = batch.pop().map(BlockPtr) {
            match block.home() {
                Some(home) if home == self.home.index => self.wake_local(block),
                // The block has been reused meanwhile; a wake for its new fiber may have been
                // swallowed by the bit just cleared, so hand it on.
                Some(home) => self.shared.homes[home].wake_remote(block),
                None => {}
            }
        }
    }

    /// Nothing to run: take over what has not started elsewhere, or sleep.
    fn idle(&self) {
        self.drain_inbox();
        if !self.ready.with(|ready| ready.is_empty()) || self.steal() || self.make_chaos() {
            return;
        }
        self.follow_phase();
        let next_timer = self.wheel.with(|wheel| wheel.next_deadline());
        let deadline = self.sleep_deadline(next_timer);
        self.home.parker.begin_park();
        let busy = !self.home.inbox.is_empty()
            || self.home.incoming.len() > 0
            || self.home.fresh.len() > 0
            || !self.ready.with(|ready| ready.is_empty())
            || self.phase_changed()
            // The last fiber elsewhere may have ended since the loop asked; its worker wakes only
            // those that had announced to sleep by then.
            || self.may_end();
        self.poll_io(if busy { Deadline::Now } else { deadline });
        self.home.parker.end_park();
        self.shared.bell.ring();
        self.expire_timers();
        self.drain_inbox();
        if self.untrimmed.get() {
            self.trim_parked();
        }
    }

    fn sleep_deadline(&self, next_timer: Option<u64>) -> Deadline {
        let timer = next_timer.map(Instant::from_nanos);
        // A fiber without a stack is tried again soon, even if nothing ends here meanwhile.
        let starved = (!self.starved.with(|starved| starved.is_empty())).then(|| {
            let block = self.starved.with(VecDeque::pop_front);
            if let Some(block) = block {
                self.ready.with(|ready| ready.push(block));
            }
            Instant::now() + std::time::Duration::from_millis(10)
        });
        let trim = self.untrimmed.get().then(|| self.next_trim.get());
        match [timer, starved, trim].into_iter().flatten().min() {
            Some(first) => Deadline::At(first),
            None => Deadline::Never,
        }
    }

    /// Takes fibers that have not started: all it can carry from a worker that stands still, and
    /// otherwise only so many that both have as many fibers, because they stay where they start.
    fn steal(&self) -> bool {
        let homes = &self.shared.homes;
        let mine = self.home.load();
        for offset in 1..homes.len() {
            let victim = &homes[(self.home.index + offset) % homes.len()];
            if victim.fresh.len() + victim.incoming.len() == 0 {
                continue;
            }
            let surplus = victim.load().saturating_sub(mine).div_ceil(2);
            let count = if victim.stuck.load(Ordering::Relaxed) { usize::MAX } else { surplus };
            let mut stolen = victim.fresh.steal_half(count, |block| self.take_over(block));
            if stolen == 0 {
                // Collected first: a thief must not hold a victim's lock while it takes its own.
                let mut blocks = Vec::new();
                stolen = victim.incoming.take_half(count, |block| blocks.push(block));
                blocks.into_iter().for_each(|block| self.take_over(block));
            }
            if stolen > 0 {
                self.shared.stolen_count.fetch_add(stolen, Ordering::Relaxed);
                return true;
            }
        }
        false
    }

    /// Queues a fiber that was stolen. It is fresh, but the ready queue runs it just as well.
    fn take_over(&self, block: BlockPtr) {
        if let Err(block) = self.push_fresh(block) {
            self.ready.with(|ready| ready.push(block));
        }
    }

    fn phase_changed(&self) -> bool {
        match self.shared.phase() {
            Phase::Running => false,
            Phase::Closing => !self.cancelled_all.get(),
            Phase::Unwinding => !self.unwinding.get(),
            Phase::Ended => true,
        }
    }

    /// Follows the runtime's shutdown: cancels every fiber once, and stops for ever when the grace
    /// is over and stubborn fibers are left.
    fn follow_phase(&self) {
        match self.shared.phase() {
            Phase::Running => {}
            Phase::Closing => {
                self.cancel_all();
                if self.given_up.get() > 0 && self.started.get() == self.given_up.get() {
                    self.shared.detach(self, false);
                }
            }
            Phase::Unwinding => {
                self.cancel_all();
                self.unwind_all();
            }
            Phase::Ended => {
                self.cancel_all();
                if self.started.get() > 0 {
                    self.shared.detach(self, true);
                }
            }
        }
    }

    fn cancel_all(&self) {
        if self.cancelled_all.replace(true) {
            return;
        }
        self.shared.blocks.walk(|block| {
            if block.home() == Some(self.home.index)
                && let Some(header) = block.header()
            {
                header.cancelled.store(true, Ordering::SeqCst);
                self.wake_local(block);
            }
            true
        });
    }

    /// Wakes every parked fiber once, to unwind if it waits where it lends nothing.
    fn unwind_all(&self) {
        if !self.unwinding.replace(true) {
            self.shared.blocks.walk(|block| {
                if block.home() == Some(self.home.index) {
                    self.wake_local(block);
                }
                true
            });
        }
    }

    /// Whether waits that lend nothing unwind instead of parking.
    #[inline]
    pub fn is_unwinding(&self) -> bool {
        self.unwinding.get()
    }

    /// Whether this worker can end: the runtime closes, nobody can leave work here any more, and
    /// nothing is left. In this order: what a spawner left is visible once it is seen to be gone.
    fn may_end(&self) -> bool {
        self.shared.phase() != Phase::Running
            && self.shared.nobody_spawns(self.home.index)
            && self.started.get() == 0
            && self.home.load() == 0
            && self.starved.with(|starved| starved.is_empty())
    }

    /// Chaos mode: wakes parked fibers for no reason, once between two sleeps. True if it woke one.
    fn make_chaos(&self) -> bool {
        let mut state = self.chaos.get();
        if state == 0 || state & 1 == 0 && self.ready.with(|ready| ready.is_empty()) {
            self.chaos.set(state | (state != 0) as u64);
            return false;
        }
        let mut woken = 0;
        self.shared.blocks.walk(|block| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let lucky = state >> 62 == 0;
            if lucky
                && block.home() == Some(self.home.index)
                && block.status.get() == Status::Parked
            {
                self.wake_local(block);
                woken += 1;
            }
            woken < 16
        });
        // Even: no chaos before the next round of real work.
        self.chaos.set((state | 2) & !1);
        woken > 0
    }

    /// Whether a fiber is suspended on this worker. Only on its own thread.
    pub fn is_suspended_here(&self, block: &Block) -> bool {
        block.home() == Some(self.home.index)
            && matches!(block.status.get(), Status::Parked | Status::Ready)
    }

    /// Puts a job into a free block.
    pub fn load(&self, job: JobRef<dyn Job>) -> BlockPtr {
        let block = self.take_block();
        block.load(job);
        block
    }
}

/// What is left of a round: how many fibers of each kind it still runs.
#[derive(Default)]
struct Round {
    fresh: usize,
    ready: usize,
}

/// A panic that leaves the worker loop ends the process, see the file's promises.
struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        fatal("a panic escaped into the scheduler, which is a bug in fibra");
    }
}

/// Prints why and aborts.
pub(crate) fn fatal(why: &str) -> ! {
    eprintln!("fibra: {why}; aborting");
    std::process::abort();
}
