//! What runs inside a sample process: batches, the gate that times switches, and parking.
//!
//! One sample is one process, so that address layout and heap history vary between the rounds
//! instead of favouring one subject in all of them. Inside it many short batches run and their
//! median counts: short against a time slice, so that being preempted spoils few of them.

use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::{allocations, proc, stats, tracepoint::SyscallCounter};

/// Batches a sample takes after its warm-up, unless they take too long.
const BATCHES: usize = 100;
/// Batches a sample takes however long they take.
const BATCHES_MIN: usize = 15;
/// Time after which a sample takes no more batches than it must.
const LONG: Duration = Duration::from_millis(100);
/// Batches that are run and thrown away.
const WARM_UP: usize = 4;
/// How long a lap of switches should take.
const BATCH: Duration = Duration::from_micros(300);
/// Spawns in a batch.
pub const SPAWNS: usize = 1000;

/// How many batches were run, and what each took for one unit of work.
struct Batches {
    begun: Instant,
    count: usize,
    ns: Vec<f64>,
}

impl Batches {
    fn new() -> Batches {
        Batches { begun: Instant::now(), count: 0, ns: Vec::with_capacity(BATCHES) }
    }

    fn is_enough(&self) -> bool {
        let count = self.ns.len();
        count >= BATCHES || (count >= BATCHES_MIN && self.begun.elapsed() > LONG)
    }

    fn add(&mut self, ns: f64) {
        self.count += 1;
        if self.count > WARM_UP {
            self.ns.push(ns);
        }
    }
}

/// Switches: units that live for the whole sample and yield in turn, timed in laps.
///
/// Unit 0 sets the pace: it takes a time every so many of its own turns, when with a fair scheduler
/// every other unit has had as many. With another the result is corrected by the turns all units
/// took in fact: a switch is a switch, whoever gets it. (tokio's yields go in batches of 61 and
/// come back reversed, so with 64 units some get two turns for one of unit 0.) No unit starts or
/// ends while the laps are timed.
pub mod laps {
    use super::*;

    static ARRIVED: AtomicUsize = AtomicUsize::new(0);
    static STOP: AtomicBool = AtomicBool::new(false);
    /// Turns of all units while and before the laps were timed.
    static TURNS: AtomicU64 = AtomicU64::new(0);
    static PACE: Mutex<Option<Pace>> = Mutex::new(None);

    /// One unit's turns. Made by the unit itself, asked before each yield.
    pub struct Turns {
        taken: u64,
        lap_end: u64,
        is_alone: bool,
        pace: Option<Pace>,
    }

    struct Pace {
        units: usize,
        turns_per_lap: u64,
        lap_begun: Instant,
        batches: Batches,
        total: u64,
    }

    impl Turns {
        /// The turns of one of `units`, numbered from 0.
        pub fn new(unit: usize, units: usize) -> Turns {
            let pace = (unit == 0).then(|| Pace {
                units,
                turns_per_lap: 1,
                lap_begun: Instant::now(),
                batches: Batches::new(),
                total: 0,
            });
            ARRIVED.fetch_add(1, Ordering::SeqCst);
            Turns { taken: 0, lap_end: if unit == 0 { 1 } else { u64::MAX }, is_alone: false, pace }
        }

        /// True if the unit should yield once more.
        #[inline]
        pub fn next(&mut self) -> bool {
            self.taken += 1;
            if self.taken < self.lap_end && !STOP.load(Ordering::Relaxed) {
                return true;
            }
            self.lap_or_end()
        }

        #[cold]
        fn lap_or_end(&mut self) -> bool {
            if let Some(pace) = &mut self.pace {
                if ARRIVED.load(Ordering::SeqCst) < pace.units {
                    self.lap_end = self.taken + 1;
                    pace.lap_begun = Instant::now();
                    return true;
                }
                if !pace.is_over() {
                    pace.lap();
                    self.lap_end = self.taken + pace.turns_per_lap;
                    return true;
                }
                STOP.store(true, Ordering::SeqCst);
            }
            false
        }

        /// Those of all units at once, for one that resumes each of them in its turn.
        #[cfg(feature = "peers")]
        pub fn alone(units: usize) -> Turns {
            ARRIVED.store(units - 1, Ordering::SeqCst);
            let mut turns = Turns::new(0, units);
            turns.is_alone = true;
            turns
        }
    }

    impl Drop for Turns {
        fn drop(&mut self) {
            let mut turns = self.taken;
            if let Some(mut pace) = self.pace.take() {
                pace.total = self.taken;
                if self.is_alone {
                    turns *= pace.units as u64;
                }
                *PACE.lock().unwrap_or_else(|e| e.into_inner()) = Some(pace);
            }
            TURNS.fetch_add(turns, Ordering::SeqCst);
        }
    }

    impl Pace {
        fn is_over(&self) -> bool {
            self.batches.is_enough()
        }

        fn lap(&mut self) {
            let now = Instant::now();
            let switches = self.turns_per_lap as f64 * self.units as f64;
            let ns = (now - self.lap_begun).as_nanos() as f64 / switches;
            self.batches.add(ns);
            if self.batches.count <= WARM_UP {
                let fitting = BATCH.as_nanos() as f64 / ns.max(0.5) / self.units as f64;
                self.turns_per_lap = (fitting as u64).clamp(1, self.turns_per_lap * 64);
            }
            self.lap_begun = Instant::now();
        }
    }

    /// True once unit 0 has timed its last lap.
    pub fn are_over() -> bool {
        STOP.load(Ordering::SeqCst)
    }

    /// What a switch took in the median lap, and how many turns were taken for each that a fair
    /// scheduler would have given; after all units have ended.
    pub fn ns_and_fairness() -> Option<(f64, f64)> {
        let pace = PACE.lock().unwrap_or_else(|e| e.into_inner());
        let pace = pace.as_ref()?;
        let fair = (pace.total * pace.units as u64) as f64;
        let fairness = TURNS.load(Ordering::SeqCst) as f64 / fair;
        Some((stats::median(&pace.batches.ns) / fairness, fairness))
    }
}

/// Times batches of [`SPAWNS`] spawns; the last batch is not timed but counted.
pub struct Spawns {
    batches: Batches,
    begun: Instant,
    is_counted: bool,
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
            batches: Batches::new(),
            begun: Instant::now(),
            is_counted: false,
            counter,
            syscalls_before: 0,
            allocations: f64::NAN,
            syscalls: f64::NAN,
        }
    }

    /// True if another batch is wanted; its time starts now.
    pub fn begin(&mut self) -> bool {
        if self.is_counted {
            return false;
        }
        if self.batches.is_enough() {
            self.is_counted = true;
            allocations::start();
            self.syscalls_before = self.counter.as_ref().map_or(0, SyscallCounter::read);
        }
        self.begun = Instant::now();
        true
    }

    /// Ends the batch.
    pub fn end(&mut self) {
        let took = self.begun.elapsed();
        if !self.is_counted {
            self.batches.add(took.as_nanos() as f64 / SPAWNS as f64);
            return;
        }
        if let Some(counter) = &self.counter {
            // Less the read that ends the count, which counts itself.
            let count = counter.read() - self.syscalls_before - 1;
            self.syscalls = count as f64 / SPAWNS as f64;
        }
        self.allocations = allocations::stop() as f64 / SPAWNS as f64;
    }

    pub fn ns_per_spawn(&self) -> f64 {
        stats::median(&self.batches.ns)
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
    /// Report once more after [`Parking::LATER`], when cold pages may have been given back.
    pub later: bool,
}

static PARKED: AtomicUsize = AtomicUsize::new(0);

impl Parking {
    /// Spawned units between two reports.
    pub const STEP: usize = 1000;
    /// How long the last report waits.
    pub const LATER: Duration = Duration::from_secs(2);

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
