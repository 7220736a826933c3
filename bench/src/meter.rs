//! What runs inside a sample process: batches, the gate that times switches, and parking.
//!
//! One sample is one process, so that address layout and heap history vary between the rounds
//! instead of favouring one subject in all of them. Inside it many short batches run and their
//! median counts, so that being preempted once does not spoil the sample.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::{allocations, proc, stats, tracepoint::SyscallCounter};

/// Batches a sample takes after its warm-up.
const BATCHES: u32 = 15;
/// Batches that are run and thrown away.
const WARM_UP: u32 = 4;
/// How long a batch of switches should take.
const BATCH: Duration = Duration::from_millis(3);
/// Spawns in a batch.
pub const SPAWNS: usize = 1000;

/// Hands out batches of switches and keeps their times.
pub struct Switches {
    pub units: usize,
    yields: u64,
    batch: u32,
    ns: Vec<f64>,
}

impl Switches {
    pub fn new(units: usize) -> Switches {
        Switches { units, yields: 8, batch: 0, ns: Vec::new() }
    }

    /// How often each unit yields in the next batch; None when there are enough.
    pub fn next(&self) -> Option<u64> {
        (self.batch < WARM_UP + BATCHES).then_some(self.yields)
    }

    /// Takes what the batch took, all units together.
    pub fn record(&mut self, took: Duration) {
        let switches = self.yields as f64 * self.units as f64;
        let per_switch = took.as_nanos() as f64 / switches;
        self.batch += 1;
        if self.batch > WARM_UP {
            self.ns.push(per_switch);
        } else {
            let fitting = BATCH.as_nanos() as f64 / per_switch.max(0.5) / self.units as f64;
            self.yields = (fitting as u64).max(8);
        }
    }

    pub fn ns_per_switch(&self) -> f64 {
        stats::median(&self.ns)
    }
}

/// The gate every unit of a batch of switches passes, so that spawning and joining are not timed.
///
/// A unit arrives, yields until the gate opens, yields its number, and finishes. The last to arrive
/// opens it: the main unit only joins, because some schedulers never look at what was woken from
/// outside while a local unit yields. The time runs from opening to the last finish.
pub mod gate {
    use super::*;

    static ARRIVED: AtomicUsize = AtomicUsize::new(0);
    static OPEN: AtomicBool = AtomicBool::new(false);
    static FINISHED: AtomicUsize = AtomicUsize::new(0);
    static OPENED_NS: AtomicU64 = AtomicU64::new(0);
    static FINISHED_NS: AtomicU64 = AtomicU64::new(0);

    fn now_ns() -> u64 {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }

    pub fn reset() {
        ARRIVED.store(0, Ordering::SeqCst);
        OPEN.store(false, Ordering::SeqCst);
        FINISHED.store(0, Ordering::SeqCst);
    }

    /// True for the last of `units`, for whom the gate has just opened.
    pub fn arrive(units: usize) -> bool {
        let is_last = ARRIVED.fetch_add(1, Ordering::SeqCst) + 1 == units;
        if is_last {
            OPENED_NS.store(now_ns(), Ordering::SeqCst);
            OPEN.store(true, Ordering::SeqCst);
        }
        is_last
    }

    pub fn is_open() -> bool {
        OPEN.load(Ordering::Relaxed)
    }

    pub fn finish(units: usize) {
        if FINISHED.fetch_add(1, Ordering::SeqCst) + 1 == units {
            FINISHED_NS.store(now_ns(), Ordering::SeqCst);
        }
    }

    /// From opening to the last finish; after all units were joined.
    pub fn took() -> Duration {
        let from = OPENED_NS.load(Ordering::SeqCst);
        Duration::from_nanos(FINISHED_NS.load(Ordering::SeqCst).saturating_sub(from))
    }
}

/// Times batches of [`SPAWNS`] spawns; the last batch is not timed but counted.
pub struct Spawns {
    batch: u32,
    begun: Instant,
    ns: Vec<f64>,
    counter: Option<SyscallCounter>,
    syscalls_before: u64,
    pub allocations: f64,
    pub syscalls: f64,
}

impl Spawns {
    /// With `count_syscalls`, must be made before the runtime starts threads: only those made
    /// after it are counted.
    pub fn new(count_syscalls: bool) -> Spawns {
        let counter = if count_syscalls { SyscallCounter::of_this_process() } else { None };
        Spawns {
            batch: 0,
            begun: Instant::now(),
            ns: Vec::new(),
            counter,
            syscalls_before: 0,
            allocations: f64::NAN,
            syscalls: f64::NAN,
        }
    }

    fn is_counted(&self) -> bool {
        self.batch == WARM_UP + BATCHES
    }

    /// True if another batch is wanted; its time starts now.
    pub fn begin(&mut self) -> bool {
        if self.batch > WARM_UP + BATCHES {
            return false;
        }
        if self.is_counted() {
            allocations::start();
            self.syscalls_before = self.counter.as_ref().map_or(0, SyscallCounter::read);
        }
        self.begun = Instant::now();
        true
    }

    /// Ends the batch.
    pub fn end(&mut self) {
        let took = self.begun.elapsed();
        if self.is_counted() {
            if let Some(counter) = &self.counter {
                // Less the read that ends the count, which counts itself.
                let count = counter.read() - self.syscalls_before - 1;
                self.syscalls = count as f64 / SPAWNS as f64;
            }
            self.allocations = allocations::stop() as f64 / SPAWNS as f64;
        } else if self.batch >= WARM_UP {
            self.ns.push(took.as_nanos() as f64 / SPAWNS as f64);
        }
        self.batch += 1;
    }

    pub fn ns_per_spawn(&self) -> f64 {
        stats::median(&self.ns)
    }
}

/// What a spawned unit does: nothing the compiler can leave out.
pub fn work(number: usize) -> usize {
    black_box(number)
}

/// Counts parked units and reports what the process holds.
#[derive(Clone, Copy)]
pub struct Parking {
    pub units: usize,
    pub deep: bool,
    /// Report once more after three seconds parked, when cold pages may have been given back.
    pub later: bool,
}

static PARKED: AtomicUsize = AtomicUsize::new(0);

impl Parking {
    /// Spawned units between two reports.
    pub const STEP: usize = 1000;
    /// How long the last report waits.
    pub const LATER: Duration = Duration::from_secs(3);

    /// What each unit runs before it parks.
    pub fn settle(self) {
        if self.deep {
            use_stack();
        }
        PARKED.fetch_add(1, Ordering::SeqCst);
    }

    pub fn parked() -> usize {
        PARKED.load(Ordering::SeqCst)
    }

    /// True when the spawner should wait for all to park and report.
    pub fn is_step(self, spawned: usize) -> bool {
        spawned.is_multiple_of(Parking::STEP) || spawned == self.units
    }

    /// Prints `LABEL units rss_kb pte_kb`.
    pub fn report(self, label: &str, spawned: usize) {
        let memory = proc::Memory::of_this_process();
        println!("{label} {spawned} {} {}", memory.rss_kb, memory.page_tables_kb);
    }

    /// Ends the process without taking anything down: that is not what is measured.
    pub fn end(self) -> ! {
        use std::io::Write;
        let _ = std::io::stdout().flush();
        // SAFETY: `_exit` takes no memory and does not return.
        unsafe { libc::_exit(0) }
    }
}

/// Touches 32 KiB of the stack below.
#[inline(never)]
fn use_stack() {
    let mut bytes = [0u8; 32 * 1024];
    for i in (0..bytes.len()).step_by(512) {
        bytes[i] = i as u8;
    }
    black_box(&mut bytes);
}
