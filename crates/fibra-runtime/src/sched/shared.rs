//! Shared: what all workers of one runtime have in common, and its phases.
//!
//! ```text
//!   RUNNING --main returned, or exit--> CLOSING --all ended, or the grace is over--> ENDED
//!
//!   CLOSING: spawn gives a handle that is cancelled already; what has not started is dropped on a
//!            fiber; every fiber is cancelled.
//!   UNWINDING (between the two, only if asked for): waits that lend nothing unwind.
//!   ENDED:   a worker that still owns started fibers reports them and sleeps for ever.
//! ```

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use fibra_driver::BackendKind;

use super::block::{BlockPtr, Blocks};
use super::blocking::{Limits, Pool};
use super::current;
use super::home::Home;
use super::job::{FiberId, Job};
use super::job_ref::JobRef;
use super::watchdog::Bell;
use super::worker::Worker;
use crate::config::Config;
use crate::stack::StackError;

/// Where a runtime is in its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(crate) enum Phase {
    Running = 0,
    Closing = 1,
    Unwinding = 2,
    Ended = 3,
}

/// Names a runtime; never reused in a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RuntimeId(u64);

/// The runtimes of this process whose workers have not all ended, oldest first.
static LIVE: Mutex<Vec<Arc<Shared>>> = Mutex::new(Vec::new());

/// What all workers of one runtime have in common.
pub(crate) struct Shared {
    pub id: RuntimeId,
    pub config: Config,
    pub homes: Box<[Arc<Home>]>,
    pub blocks: Arc<Blocks>,
    pub pool: Pool,
    pub bell: Arc<Bell>,
    pub backend: BackendKind,
    phase: AtomicU8,
    /// Threads outside that are leaving a fiber right now.
    spawning: AtomicUsize,
    /// Ids for fibers made outside.
    ids: AtomicU64,
    /// Set by `exit`: the code the process ends with once it has drained; -1 for none.
    exit_code: AtomicI64,
    pub stolen_count: AtomicUsize,
    pub io_requests: AtomicU64,
    pub io_answers: AtomicU64,
    starved_warned: AtomicBool,
    /// The main fiber's job and the thread that waits for it in `run`.
    main: OnceLock<(JobRef<dyn Job>, Thread)>,
    /// Workers whose threads have not ended, and what the stubborn ones reported.
    ending: Mutex<Ending>,
    ended: Condvar,
}

#[derive(Default)]
struct Ending {
    live: usize,
    detached: usize,
    leaked: Vec<String>,
}

impl Shared {
    pub fn new(
        config: Config,
        homes: Box<[Arc<Home>]>,
        blocks: Arc<Blocks>,
        backend: BackendKind,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let live = homes.len();
        Self {
            id: RuntimeId(NEXT.fetch_add(1, Ordering::Relaxed)),
            pool: Pool::new(Limits { threads_max: config.blocking_max, ..Limits::default() }),
            bell: Arc::default(),
            config,
            homes,
            blocks,
            backend,
            phase: AtomicU8::new(Phase::Running as u8),
            spawning: AtomicUsize::new(0),
            ids: AtomicU64::new(0),
            exit_code: AtomicI64::new(-1),
            stolen_count: AtomicUsize::new(0),
            io_requests: AtomicU64::new(0),
            io_answers: AtomicU64::new(0),
            starved_warned: AtomicBool::new(false),
            main: OnceLock::new(),
            ending: Mutex::new(Ending { live, ..Ending::default() }),
            ended: Condvar::new(),
        }
    }

    /// Lists the runtime, so that calls from outside find it.
    pub fn list(self: &Arc<Self>) {
        LIVE.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(self));
    }

    /// Takes it off the list: nothing of it can be woken from outside any more.
    pub fn unlist(&self) {
        LIVE.lock().unwrap_or_else(PoisonError::into_inner).retain(|live| live.id != self.id);
    }

    /// The listed runtime of that number.
    pub fn find(id: RuntimeId) -> Option<Arc<Self>> {
        let live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
        live.iter().find(|live| live.id == id).cloned()
    }

    /// The runtime that has been listed for longest.
    pub fn oldest() -> Option<Arc<Self>> {
        LIVE.lock().unwrap_or_else(PoisonError::into_inner).first().cloned()
    }

    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Running,
            1 => Phase::Closing,
            2 => Phase::Unwinding,
            _ => Phase::Ended,
        }
    }

    /// Moves to a later phase and tells every worker.
    pub fn advance(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::SeqCst);
        self.unpark_all();
    }

    pub fn unpark_all(&self) {
        for home in &self.homes {
            home.unpark();
        }
    }

    /// Whether nobody but worker `index` can still leave a fiber in its queues.
    pub fn nobody_spawns(&self, index: usize) -> bool {
        self.phase() == Phase::Ended
            || self.spawning.load(Ordering::SeqCst) == 0
                && self.homes.iter().enumerate().all(|(other, home)| {
                    other == index || home.started_count.load(Ordering::Acquire) == 0
                })
    }

    /// Queues a job as a fresh fiber on the worker with the fewest fibers. Gives the job back when
    /// the runtime closes or is at its limit of fibers.
    pub fn spawn(self: &Arc<Self>, job: JobRef<dyn Job>) -> Result<(), Refused> {
        match current::worker() {
            Some(worker) if Arc::ptr_eq(&worker.shared, self) => self.spawn_here(worker, job),
            _ => self.spawn_outside(job),
        }
    }

    #[inline]
    fn spawn_here(&self, worker: &Worker, job: JobRef<dyn Job>) -> Result<(), Refused> {
        if self.phase() != Phase::Running {
            return Err(Refused { job, closing: true });
        }
        let target = self.place(Some(worker.home.index));
        let block = worker.load(job);
        let queued = match target == worker.home.index {
            true => worker.push_fresh(block),
            false => self.leave(target, block),
        };
        queued.map_err(|block| {
            let refused = unload(block);
            worker.free_block(block);
            refused
        })
    }

    fn spawn_outside(&self, job: JobRef<dyn Job>) -> Result<(), Refused> {
        self.spawning.fetch_add(1, Ordering::SeqCst);
        let out = self.spawn_counted(job);
        self.spawning.fetch_sub(1, Ordering::SeqCst);
        if self.phase() != Phase::Running {
            // Workers that wait for the last spawner to be gone.
            self.unpark_all();
        }
        out
    }

    fn spawn_counted(&self, job: JobRef<dyn Job>) -> Result<(), Refused> {
        if self.phase() != Phase::Running {
            return Err(Refused { job, closing: true });
        }
        let mut blocks = Vec::with_capacity(1);
        self.blocks.take(&mut blocks, 1);
        let Some(block) = blocks.pop() else { unreachable!("the store makes blocks") };
        block.load(job);
        self.leave(self.place(None), block).map_err(|block| {
            let refused = unload(block);
            self.blocks.give(std::iter::once(block));
            refused
        })
    }

    fn leave(&self, target: usize, block: BlockPtr) -> Result<(), BlockPtr> {
        self.homes[target].incoming.push(block)?;
        self.homes[target].unpark();
        Ok(())
    }

    /// The worker with the fewest fibers; ties go to the spawner (D15).
    fn place(&self, spawner: Option<usize>) -> usize {
        if self.homes.len() == 1 {
            return 0;
        }
        let mut best = spawner.unwrap_or(0);
        let mut fewest = self.homes[best].load();
        for (index, home) in self.homes.iter().enumerate() {
            let load = home.load();
            if load < fewest {
                (best, fewest) = (index, load);
            }
        }
        best
    }

    /// An id for a fiber that is made by the calling thread.
    pub fn next_id(self: &Arc<Self>) -> FiberId {
        match current::worker() {
            Some(worker) if Arc::ptr_eq(&worker.shared, self) => worker.next_id(),
            _ => FiberId(self.ids.fetch_add(1, Ordering::Relaxed) + 1),
        }
    }

    pub fn warn_starved(&self, error: &StackError) {
        if !self.starved_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!("a fiber waits for a stack: {error}");
        }
    }

    /// Notes the main fiber, before it is queued, and that the calling thread waits for it.
    pub fn set_main(&self, job: &JobRef<dyn Job>) {
        let _ = self.main.set((job.clone(), std::thread::current()));
    }

    /// Asks the main fiber to end.
    pub fn cancel_main(&self) {
        if let Some((main, _)) = self.main.get() {
            main.header().cancel();
        }
    }

    /// Asks the process to end with `code` once everything has drained.
    pub fn exit(&self, code: i32) {
        let _ = self.exit_code.compare_exchange(
            -1,
            i64::from(code as u32),
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
        self.advance(Phase::Closing);
        if let Some((_, caller)) = self.main.get() {
            caller.unpark();
        }
    }

    /// The code asked for with `exit`.
    pub fn exit_code(&self) -> Option<i32> {
        u32::try_from(self.exit_code.load(Ordering::SeqCst)).ok().map(|code| code as i32)
    }

    /// Called by a worker whose thread is about to end.
    pub fn worker_ended(&self) {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner).live -= 1;
        self.ended.notify_all();
    }

    /// Called by a worker that has stubborn fibers when the grace is over: reports them and never
    /// returns, because their frames may be lent (contract 2 and 3).
    pub fn detach(&self, worker: &Worker, report: bool) -> ! {
        {
            let mut ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
            self.blocks.walk(|block| {
                if report
                    && worker.is_suspended_here(&block)
                    && let Some(header) = block.header()
                {
                    ending.leaked.push(header.describe());
                }
                true
            });
            ending.live -= 1;
            ending.detached += 1;
        }
        self.ended.notify_all();
        // Nothing here will spawn any more: the others need not wait for it (`nobody_spawns`).
        worker.home.started_count.store(0, Ordering::Release);
        self.unpark_all();
        loop {
            std::thread::park();
        }
    }

    /// Waits until every worker has ended or detached, at most `patience`. Whether all ended.
    pub fn wait_ended(&self, patience: Duration) -> bool {
        let ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        let (ending, _) = self
            .ended
            .wait_timeout_while(ending, patience, |ending| ending.live > 0)
            .unwrap_or_else(PoisonError::into_inner);
        ending.live == 0
    }

    /// What the stubborn workers reported, and how many threads never end: detached or stuck.
    pub fn leftovers(&self) -> (Vec<String>, usize) {
        let mut ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut ending.leaked), ending.live + ending.detached)
    }
}

/// A job that was not accepted: the runtime closes, or is at its limit of fibers.
pub(crate) struct Refused {
    pub job: JobRef<dyn Job>,
    pub closing: bool,
}

/// Takes the job back out of a block that no queue took.
fn unload(block: BlockPtr) -> Refused {
    let Some(job) = block.take_job() else { unreachable!("a fresh block has a job") };
    block.clear();
    Refused { job, closing: false }
}
