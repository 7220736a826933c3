//! Metrics: counters and sizes of a runtime, always on.

use std::sync::atomic::Ordering;

use crate::sched::shared::Shared;

/// Counters and sizes of a runtime at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Fibers per worker, those that have not started included.
    pub fiber_counts: Vec<usize>,
    /// Fibers that wait to be started.
    pub fresh_count: usize,
    /// Times a worker resumed or started a fiber.
    pub run_count: u64,
    /// Times a sleeping worker was woken by another thread.
    pub kick_count: u64,
    /// Fibers that were started by another worker than the one they were queued on.
    pub stolen_count: usize,
    /// Requests the dedicated I/O thread has taken.
    pub io_requests: u64,
    /// Results it has handed back.
    pub io_answers: u64,
    /// Jobs that wait for a thread of the blocking pool.
    pub blocking_queue_len: usize,
}

impl Metrics {
    pub(crate) fn of(shared: &Shared) -> Self {
        let homes = || shared.homes.iter();
        Self {
            fiber_counts: homes().map(|home| home.load()).collect(),
            fresh_count: homes().map(|home| home.fresh.len() + home.incoming.len()).sum(),
            run_count: homes().map(|home| home.run_count.load(Ordering::Relaxed)).sum(),
            kick_count: homes().map(|home| home.kick_count.load(Ordering::Relaxed)).sum(),
            stolen_count: shared.stolen_count.load(Ordering::Relaxed),
            io_requests: shared.io_requests.load(Ordering::Relaxed),
            io_answers: shared.io_answers.load(Ordering::Relaxed),
            blocking_queue_len: shared.pool.metrics().queue_len,
        }
    }
}
