//! Homes: the part of a worker that other threads may touch.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::block::{Block, BlockPtr, Blocks};
use super::current;
use super::inbox::{Inbox, Push};
use super::incoming::Incoming;
use super::park::Parker;
use super::run_queue::FreshQueue;

/// The part of a worker that other threads may touch: where they leave work, and how they wake it.
pub(crate) struct Home {
    pub index: usize,
    /// Fibers that have not started, pushed by the worker itself; anybody may take them.
    pub fresh: FreshQueue<BlockPtr>,
    /// Fibers that have not started, left here by other threads; anybody may take them.
    pub incoming: Incoming<BlockPtr>,
    /// Started fibers to wake.
    pub inbox: Inbox<Block>,
    pub parker: Parker,
    /// Ends the worker's sleep.
    kick: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Fibers run so far: the watchdog's pulse. Written by the worker only.
    pub run_count: AtomicU64,
    /// Started fibers that live here. Written by the worker only.
    pub started_count: AtomicUsize,
    /// The watchdog saw the worker stand still while fibers wait in its queues.
    pub stuck: AtomicBool,
    /// Times another thread had to end this worker's sleep.
    pub kick_count: AtomicU64,
    /// The thread of the worker, for signals to it; 0 before it runs.
    pub thread_id: AtomicU64,
    /// Keeps the memory of the blocks that references point to.
    _blocks: Arc<Blocks>,
}

impl Home {
    pub fn new(index: usize, fibers_max: usize, blocks: Arc<Blocks>) -> Self {
        Self {
            index,
            fresh: FreshQueue::new(),
            incoming: Incoming::new(fibers_max),
            inbox: Inbox::new(),
            parker: Parker::new(),
            kick: OnceLock::new(),
            run_count: AtomicU64::new(0),
            started_count: AtomicUsize::new(0),
            stuck: AtomicBool::new(false),
            kick_count: AtomicU64::new(0),
            thread_id: AtomicU64::new(0),
            _blocks: blocks,
        }
    }

    /// Says how to end the worker's sleep. Once, before it runs.
    pub fn set_kick(&self, kick: impl Fn() + Send + Sync + 'static) {
        let first = self.kick.set(Box::new(kick)).is_ok();
        debug_assert!(first, "one way to wake a worker");
    }

    /// How many fibers live here, not started ones included: what placement goes by.
    pub fn load(&self) -> usize {
        self.started_count.load(Ordering::Relaxed) + self.fresh.len() + self.incoming.len()
    }

    /// Wakes a fiber that started here.
    pub fn wake(&self, block: BlockPtr) {
        match current::worker() {
            Some(worker) if std::ptr::eq(&*worker.home, self) => worker.wake_local(block),
            _ => self.wake_remote(block),
        }
    }

    /// Wakes a fiber that started here, from another thread.
    pub fn wake_remote(&self, block: BlockPtr) {
        // SAFETY: blocks are never freed while a reference to one is left (rule 1 of `block`).
        if unsafe { self.inbox.push(block.0) } == Push::First {
            self.unpark();
        }
    }

    /// Ends the worker's sleep if it sleeps. Call after the work is in its queue.
    pub fn unpark(&self) {
        if self.parker.unpark() {
            self.kick_count.fetch_add(1, Ordering::Relaxed);
            if let Some(kick) = self.kick.get() {
                kick();
            }
        }
    }
}
