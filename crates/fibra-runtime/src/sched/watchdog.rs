//! The watchdog: one thread per runtime that looks after its workers.
//!
//! Every few milliseconds while a worker is busy it looks at each worker's pulse (`run_count`):
//! - a worker that stands still while fibers wait to be started in its queues: a sleeping worker is
//!   woken to take them over (rescue);
//! - a worker that stands still for longer than the limit is reported once: its running fiber, what
//!   it is executing, and the fibers that cannot run because of it.
//!
//! When all workers sleep it sleeps too, without a timeout; the first worker to wake up wakes it. An
//! idle process therefore makes no system call at all.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use fibra_driver::Instant;

use super::home::Home;
use super::report;
use super::shared::Shared;

/// Between two looks while somebody works.
const LOOK: Duration = Duration::from_millis(20);

/// The thread and how to stop it.
pub(crate) struct Watchdog {
    bell: Arc<Bell>,
    thread: std::thread::JoinHandle<()>,
}

/// Wakes the watchdog from its long sleep.
#[derive(Default)]
pub(crate) struct Bell {
    /// The watchdog is in its long sleep. Set by it, cleared by whoever rings.
    asleep: AtomicBool,
    stopping: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    /// Called by a worker that wakes up: one load unless the watchdog sleeps.
    #[inline]
    pub fn ring(&self) {
        if self.asleep.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        let _held = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.store(false, Ordering::Relaxed);
        self.changed.notify_all();
    }
}

/// What is known of one worker.
#[derive(Clone, Copy)]
struct Pulse {
    run_count: u64,
    since: Instant,
    reported: bool,
}

impl Watchdog {
    /// Starts the thread; `None` if it is switched off and there is nobody to rescue for.
    pub fn start(shared: &Arc<Shared>) -> io::Result<Option<Self>> {
        if shared.config.stall_limit.is_zero() && shared.homes.len() == 1 {
            return Ok(None);
        }
        report::install()?;
        let (bell, weak) = (Arc::clone(&shared.bell), Arc::downgrade(shared));
        let watching = Arc::clone(&bell);
        let thread = std::thread::Builder::new()
            .name("fibra-watchdog".into())
            .spawn(move || watch(&weak, &watching))?;
        Ok(Some(Self { bell, thread }))
    }

    /// Ends the thread.
    pub fn stop(self) {
        *self.bell.stopping.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.bell.changed.notify_all();
        let _ = self.thread.join();
    }

    /// Notes which thread a worker is, so that it can be asked what it is doing.
    pub fn register_thread(home: &Home) {
        home.thread_id.store(crate::stack::interrupt::this_thread(), Ordering::Release);
    }

    /// What the workers that do not answer are doing, a line each, for the report at shutdown.
    pub fn report_stuck(shared: &Shared) -> Vec<String> {
        let stuck = shared.homes.iter().filter(|home| home.run_count.load(Ordering::Relaxed) > 0);
        stuck.filter_map(|home| report::take(home)).flat_map(|report| report.fibers()).collect()
    }
}

fn watch(shared: &Weak<Shared>, bell: &Bell) {
    let mut pulses: Vec<Pulse> = Vec::new();
    let mut quiet = 0;
    loop {
        {
            let Some(shared) = shared.upgrade() else { return };
            let busy = look(&shared, &mut pulses);
            quiet = if busy { 0 } else { quiet + 1 };
        }
        let stopping = bell.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        if *stopping {
            return;
        }
        // A second of quiet first: otherwise a ping-pong load would ring at every round.
        if quiet > 50 {
            bell.asleep.store(true, Ordering::SeqCst);
            let woken = bell
                .changed
                .wait_while(stopping, |stopping| !*stopping && bell.asleep.load(Ordering::Relaxed));
            drop(woken);
            quiet = 0;
        } else {
            drop(bell.changed.wait_timeout(stopping, LOOK));
        }
    }
}

/// One look at every worker. Whether one of them is busy.
fn look(shared: &Shared, pulses: &mut Vec<Pulse>) -> bool {
    let now = Instant::now();
    let fresh = Pulse { run_count: u64::MAX, since: now, reported: false };
    pulses.resize(shared.homes.len(), fresh);
    let mut busy = false;
    for (home, pulse) in shared.homes.iter().zip(pulses.iter_mut()) {
        let run_count = home.run_count.load(Ordering::Relaxed);
        let parked = home.parker.is_parked();
        if run_count != pulse.run_count || parked {
            busy |= run_count != pulse.run_count;
            *pulse = Pulse { run_count, ..fresh };
            home.stuck.store(false, Ordering::Relaxed);
            continue;
        }
        busy = true;
        if home.fresh.len() + home.incoming.len() > 0 {
            home.stuck.store(true, Ordering::Relaxed);
            rescue(shared, home.index);
        }
        let limit = shared.config.stall_limit;
        if !pulse.reported && !limit.is_zero() && now.duration_since(pulse.since) >= limit {
            pulse.reported = true;
            if let Some(report) = report::take(home) {
                report.print(home.index, now.duration_since(pulse.since));
            }
        }
    }
    busy
}

/// Wakes a sleeping worker, which steals what has not started.
fn rescue(shared: &Shared, blocked: usize) {
    let sleeper = shared.homes.iter().find(|home| home.index != blocked && home.parker.is_parked());
    if let Some(sleeper) = sleeper {
        sleeper.unpark();
    }
}
