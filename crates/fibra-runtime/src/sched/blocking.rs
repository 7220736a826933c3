//! The blocking pool: OS threads for calls that block and cannot be ops (name resolution, C code).
//!
//! Promises:
//! - A job that was accepted runs exactly once, also after [`Pool::shutdown`]: somebody waits for
//!   it, perhaps with memory lent to it.
//! - Threads are made on demand up to `threads_max`; one that had nothing to do for `idle_max`
//!   ends. Nothing is made before the first job.
//! - The queue is bounded by `queue_len_max`; beyond it a job is refused and comes back.
//! - A thread that is idle and one that is being made are never forgotten: a job stays queued
//!   without a wake-up only if as many threads as allowed are busy.
//!
//! A job should not panic (whoever makes one catches and hands the panic on). One that does is
//! counted and costs nothing else.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use fibra_driver::Instant;

/// One call to run on a thread of the pool.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// The limits of a [`Pool`].
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// How many threads there may be.
    pub threads_max: usize,
    /// How many jobs may wait for a thread.
    pub queue_len_max: usize,
    /// How long a thread waits for a job before it ends.
    pub idle_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { threads_max: 512, queue_len_max: 65_536, idle_max: Duration::from_secs(10) }
    }
}

/// What a [`Pool`] has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metrics {
    /// Threads there are, those being made included.
    pub thread_count: usize,
    /// Threads that wait for a job.
    pub idle_count: usize,
    /// Jobs that wait for a thread.
    pub queue_len: usize,
    /// The most jobs that ever waited for a thread.
    pub queue_len_peak: usize,
    /// Jobs refused.
    pub refused_count: u64,
    /// Jobs that ended, those that panicked included.
    pub finished_count: u64,
    /// Jobs that panicked.
    pub panicked_count: u64,
}

/// Why a job was refused.
#[derive(Debug)]
pub(crate) enum Reason {
    /// `queue_len_max` jobs wait already.
    QueueFull,
    /// The pool was shut down.
    ShutDown,
    /// There is no thread and none could be made.
    NoThread(io::Error),
}

/// A job that was refused, and why.
pub(crate) struct Refused {
    /// The job, not run.
    pub job: Job,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QueueFull => f.write_str(
                "the queue of the blocking pool is full: its threads are all busy; \
                 allow more threads or start fewer blocking calls at once",
            ),
            Self::ShutDown => f.write_str("the blocking pool was shut down with its runtime"),
            Self::NoThread(error) => write!(
                f,
                "no thread for a blocking call could be made ({error}); \
                 raise the limit on processes (ulimit -u) or on memory"
            ),
        }
    }
}

/// Threads for blocking calls. Clones are the same pool; see the file's page.
#[derive(Clone)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    limits: Limits,
    state: Mutex<State>,
    /// Signalled once per job queued for an idle thread, and for all at shutdown.
    work: Condvar,
}

#[derive(Default)]
struct State {
    /// Jobs that wait, each with the time it came.
    queue: VecDeque<(Instant, Job)>,
    /// When it was reported last that jobs wait too long.
    reported: Option<Instant>,
    metrics: Metrics,
    /// Threads being made, which will take a job without being signalled.
    starting_count: usize,
    /// For the names of threads.
    made_count: usize,
    shut_down: bool,
}

/// A job that waited longer is reported.
const STALL: Duration = Duration::from_secs(1);
/// At most one report in that time.
const REPORT_GAP: Duration = Duration::from_secs(10);

thread_local! {
    static IN_POOL: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread belongs to a pool. A blocking call made there runs inline: waiting
/// for another thread of a bounded pool could deadlock.
pub(crate) fn in_pool() -> bool {
    IN_POOL.try_with(Cell::get).unwrap_or(false)
}

impl Pool {
    /// Makes a pool without threads.
    pub fn new(limits: Limits) -> Self {
        let shared = Shared { limits, state: Mutex::default(), work: Condvar::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Queues a job, making a thread if none is idle and the limit allows it.
    pub fn submit(&self, job: Job) -> Result<(), Refused> {
        let mut state = self.shared.lock();
        let reason = if state.shut_down {
            Some(Reason::ShutDown)
        } else if state.queue.len() >= self.shared.limits.queue_len_max {
            Some(Reason::QueueFull)
        } else {
            None
        };
        if let Some(reason) = reason {
            state.metrics.refused_count += 1;
            return Err(Refused { job, reason });
        }
        let now = Instant::now();
        state.queue.push_back((now, job));
        let queue_len = state.queue.len();
        state.metrics.queue_len_peak = state.metrics.queue_len_peak.max(queue_len);
        // Every waiting job but this one has an idle or a starting thread of its own, or the
        // limit is reached.
        if state.metrics.idle_count + state.starting_count >= queue_len {
            drop(state);
            self.shared.work.notify_one();
            Ok(())
        } else if state.metrics.thread_count < self.shared.limits.threads_max {
            self.grow(state)
        } else {
            report_stall(state, now);
            Ok(())
        }
    }

    /// What has been counted so far.
    pub fn metrics(&self) -> Metrics {
        let state = self.shared.lock();
        Metrics { queue_len: state.queue.len(), ..state.metrics }
    }

    /// Refuses further jobs and ends every thread that is idle now or gets idle later. Jobs that
    /// were accepted still run. Does not wait for anything.
    pub fn shutdown(&self) {
        self.shared.lock().shut_down = true;
        self.shared.work.notify_all();
    }

    /// Makes a thread. With the lock held: should that fail, the newest job is certainly the
    /// caller's, and nobody can have counted on the thread meanwhile.
    fn grow(&self, mut state: MutexGuard<'_, State>) -> Result<(), Refused> {
        let shared = Arc::clone(&self.shared);
        let name = format!("fibra-blocking-{}", state.made_count);
        match thread::Builder::new().name(name).spawn(move || shared.work()) {
            Ok(_detached) => {
                state.made_count += 1;
                state.metrics.thread_count += 1;
                state.starting_count += 1;
                Ok(())
            }
            // The threads there are will get to it.
            Err(_) if state.metrics.thread_count > 0 => Ok(()),
            Err(error) => match state.queue.pop_back() {
                Some((_, job)) => {
                    state.metrics.refused_count += 1;
                    Err(Refused { job, reason: Reason::NoThread(error) })
                }
                None => Ok(()),
            },
        }
    }
}

/// Reports, once in [`REPORT_GAP`], that all threads are busy and the oldest job still waits.
fn report_stall(mut state: MutexGuard<'_, State>, now: Instant) {
    let waited =
        state.queue.front().map_or(Duration::ZERO, |(since, _)| now.duration_since(*since));
    let recently = |then: Instant| now.duration_since(then) < REPORT_GAP;
    if waited < STALL || state.reported.is_some_and(recently) {
        return;
    }
    state.reported = Some(now);
    let (threads, queue_len) = (state.metrics.thread_count, state.queue.len());
    // The log is foreign code.
    drop(state);
    tracing::warn!(
        threads,
        queue_len,
        ?waited,
        "blocking calls wait for a thread: all of the pool are busy; allow more threads or start \
         fewer blocking calls at once"
    );
}

impl Shared {
    /// The life of a thread.
    fn work(&self) {
        IN_POOL.set(true);
        let mut state = self.lock();
        state.starting_count -= 1;
        loop {
            if let Some((_, job)) = state.queue.pop_front() {
                drop(state);
                let panicked = match panic::catch_unwind(AssertUnwindSafe(job)) {
                    Ok(()) => false,
                    Err(payload) => {
                        // Dropping it would run foreign code, which may panic in turn.
                        std::mem::forget(payload);
                        true
                    }
                };
                state = self.lock();
                state.metrics.finished_count += 1;
                state.metrics.panicked_count += u64::from(panicked);
                continue;
            }
            if state.shut_down {
                break;
            }
            state.metrics.idle_count += 1;
            let (guard, wait) = self
                .work
                .wait_timeout(state, self.limits.idle_max)
                .unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.metrics.idle_count -= 1;
            // A signal that came with the timeout is not lost: its job is in the queue.
            if wait.timed_out() && state.queue.is_empty() {
                break;
            }
        }
        state.metrics.thread_count -= 1;
    }

    /// Nothing under the lock can panic, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("limits", &self.shared.limits)
            .field("metrics", &self.metrics())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::sync::{Barrier, OnceLock};

    use super::*;

    fn pool(threads_max: usize, queue_len_max: usize, idle_max: Duration) -> Pool {
        Pool::new(Limits { threads_max, queue_len_max, idle_max })
    }

    const LONG: Duration = Duration::from_secs(600);

    /// Polls metrics, which have no other signal; gives up loudly.
    fn wait_until(pool: &Pool, what: impl Fn(&Metrics) -> bool) {
        let begin = std::time::Instant::now();
        while !what(&pool.metrics()) {
            assert!(begin.elapsed() < Duration::from_secs(30), "never happened: {pool:?}");
            thread::yield_now();
        }
    }

    fn submit(pool: &Pool, job: impl FnOnce() + Send + 'static) {
        if let Err(refused) = pool.submit(Box::new(job)) {
            panic!("refused: {}", refused.reason);
        }
    }

    #[test]
    fn every_accepted_job_runs_once_and_no_more_threads_are_made_than_allowed() {
        let pool = pool(3, 1000, LONG);
        let (send, receive) = mpsc::channel();
        for number in 0..1000 {
            let send = send.clone();
            submit(&pool, move || {
                send.send((number, thread::current().name().map(String::from))).unwrap()
            });
        }
        drop(send);
        let mut seen: Vec<_> = receive.iter().collect();
        seen.sort();
        assert_eq!(seen.iter().map(|(n, _)| *n).collect::<Vec<_>>(), (0..1000).collect::<Vec<_>>());
        let names = ["fibra-blocking-0", "fibra-blocking-1", "fibra-blocking-2"];
        assert!(seen.iter().all(|(_, name)| names.contains(&name.as_deref().unwrap())));
        wait_until(&pool, |metrics| metrics.finished_count == 1000);
        assert!(pool.metrics().thread_count <= 3, "{pool:?}");
    }

    #[test]
    fn jobs_that_wait_for_each_other_all_get_a_thread() {
        let pool = pool(8, 8, LONG);
        for _ in 0..50 {
            let all = Arc::new(Barrier::new(9));
            for _ in 0..8 {
                let all = Arc::clone(&all);
                submit(&pool, move || {
                    all.wait();
                });
            }
            all.wait();
        }
    }

    #[test]
    fn an_idle_thread_is_used_again() {
        let pool = pool(8, 8, LONG);
        for round in 1..=20 {
            submit(&pool, || ());
            wait_until(&pool, |m| m.finished_count == round && m.idle_count == m.thread_count);
        }
        assert_eq!(pool.metrics().thread_count, 1);
    }

    #[test]
    fn a_full_queue_refuses_and_hands_the_job_back() {
        let pool = pool(1, 2, LONG);
        let gate = Arc::new(Barrier::new(2));
        let inside = Arc::new(Barrier::new(2));
        let (theirs, hold) = (Arc::clone(&gate), Arc::clone(&inside));
        submit(&pool, move || {
            hold.wait();
            theirs.wait();
        });
        inside.wait();
        submit(&pool, || ());
        submit(&pool, || ());
        let ran = Arc::new(OnceLock::new());
        let mark = Arc::clone(&ran);
        let refused = match pool.submit(Box::new(move || mark.set(()).unwrap())) {
            Err(refused) => refused,
            Ok(()) => panic!("a full queue took a job"),
        };
        assert!(matches!(refused.reason, Reason::QueueFull));
        assert_eq!(pool.metrics().refused_count, 1);
        assert_eq!(pool.metrics().queue_len_peak, 2);
        assert!(ran.get().is_none());
        (refused.job)();
        assert!(ran.get().is_some());
        gate.wait();
        wait_until(&pool, |metrics| metrics.finished_count == 3);
    }

    #[test]
    fn idle_threads_end_and_later_jobs_still_run() {
        let pool = pool(2, 100, Duration::from_millis(1));
        for _ in 0..20 {
            let (send, receive) = mpsc::channel();
            submit(&pool, move || send.send(()).unwrap());
            receive.recv().unwrap();
            wait_until(&pool, |metrics| metrics.thread_count == 0);
        }
    }

    #[test]
    fn a_panicking_job_costs_its_thread_nothing() {
        let pool = pool(1, 100, LONG);
        submit(&pool, || panic!("on purpose"));
        let (send, receive) = mpsc::channel();
        submit(&pool, move || send.send(()).unwrap());
        receive.recv().unwrap();
        wait_until(&pool, |metrics| metrics.finished_count == 2);
        assert_eq!(pool.metrics().panicked_count, 1);
        assert_eq!(pool.metrics().thread_count, 1);
    }

    #[test]
    fn after_shutdown_accepted_jobs_run_new_ones_are_refused_and_threads_end() {
        let pool = pool(1, 100, LONG);
        let gate = Arc::new(Barrier::new(2));
        let theirs = Arc::clone(&gate);
        submit(&pool, move || {
            theirs.wait();
        });
        let (send, receive) = mpsc::channel();
        submit(&pool, move || send.send(()).unwrap());
        pool.shutdown();
        let Err(refused) = pool.submit(Box::new(|| ())) else { panic!("accepted") };
        assert!(matches!(refused.reason, Reason::ShutDown));
        gate.wait();
        receive.recv().unwrap();
        wait_until(&pool, |metrics| metrics.thread_count == 0);
    }

    #[test]
    fn an_idle_thread_is_ended_by_shutdown() {
        let pool = pool(4, 100, LONG);
        submit(&pool, || ());
        wait_until(&pool, |metrics| metrics.idle_count == 1);
        pool.shutdown();
        wait_until(&pool, |metrics| metrics.thread_count == 0);
    }

    #[test]
    fn a_job_knows_that_it_runs_in_the_pool() {
        let pool = pool(1, 1, LONG);
        let (send, receive) = mpsc::channel();
        submit(&pool, move || send.send(in_pool()).unwrap());
        assert!(receive.recv().unwrap());
        assert!(!in_pool());
    }
}
