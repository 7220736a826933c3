//! The dedicated I/O thread: one driver for all workers. The drawing is in `port`.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use fibra_driver::{Deadline, Driver, Notifier, RawOp, Submitted};

use super::block::BlockPtr;
use super::park::Parker;
use super::port::fiber_of;
use super::shared::Shared;
use super::worker::fatal;

/// The mailbox of the I/O thread. Bounded by the number of fibers: each posts one op at a time.
pub(crate) struct IoThread {
    requests: Mutex<VecDeque<Request>>,
    parker: Parker,
    notifier: OnceLock<Notifier>,
}

enum Request {
    Submit { op: SendOp, block: BlockPtr, sequence: u32 },
    Cancel { block: BlockPtr, sequence: u32 },
    Stop,
}

struct SendOp(RawOp);

// SAFETY: the pointers in it stay valid until the final completion, whichever thread submits it:
// the fiber that posted it is parked (see `IoThread::post`).
unsafe impl Send for SendOp {}

impl IoThread {
    pub fn new() -> Self {
        Self {
            requests: Mutex::new(VecDeque::new()),
            parker: Parker::new(),
            notifier: OnceLock::new(),
        }
    }

    /// Posts an op for the fiber of `block`, which parks until `op_done`.
    ///
    /// # Safety
    /// As [`Driver::submit`].
    pub unsafe fn post(&self, op: RawOp, block: BlockPtr, sequence: u32) {
        self.push(Request::Submit { op: SendOp(op), block, sequence });
    }

    /// Asks that op number `sequence` of `block` end early.
    pub fn cancel(&self, block: BlockPtr, sequence: u32) {
        self.push(Request::Cancel { block, sequence });
    }

    /// Ends the thread. No op is in flight any more.
    pub fn stop(&self) {
        self.push(Request::Stop);
    }

    fn push(&self, request: Request) {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push_back(request);
        if self.parker.unpark()
            && let Some(notifier) = self.notifier.get()
        {
            notifier.notify();
        }
    }

    fn pop(&self) -> Option<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Says how to end the thread's sleep. Once, before it runs.
    pub fn set_notifier(&self, notifier: Notifier) {
        let _ = self.notifier.set(notifier);
    }

    /// The loop of the I/O thread: take requests, sleep in the driver, hand results back.
    pub fn run(&self, mut driver: Driver, shared: &Arc<Shared>) {
        loop {
            while let Some(request) = self.pop() {
                match request {
                    Request::Submit { op, block, sequence } => {
                        shared.io_requests.fetch_add(1, Ordering::Relaxed);
                        self.start(&mut driver, op.0, block, sequence, shared);
                    }
                    Request::Cancel { block, sequence } => {
                        // `op` is this thread's; a cancel that comes late names an older sequence.
                        if let Some((id, current)) = block.io_op.get()
                            && current == sequence
                        {
                            driver.cancel(id);
                        }
                    }
                    Request::Stop => return,
                }
            }
            self.parker.begin_park();
            let empty = self.requests.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
            let deadline = if empty { Deadline::Never } else { Deadline::Now };
            if let Err(error) = driver.wait(deadline) {
                fatal(&format!("the I/O driver of the I/O thread failed: {error}"));
            }
            self.parker.end_park();
            while let Some(completion) = driver.reap() {
                let (block, result) = fiber_of(completion);
                answer(block, result, shared);
            }
        }
    }

    fn start(
        &self,
        driver: &mut Driver,
        op: RawOp,
        block: BlockPtr,
        sequence: u32,
        shared: &Arc<Shared>,
    ) {
        // SAFETY: promised by whoever posted it: the fiber is parked until `op_done`.
        match unsafe { driver.submit(op, block.0.as_ptr() as u64) } {
            Submitted::Done(result) => answer(block, result, shared),
            Submitted::Pending(id) => block.io_op.set(Some((id, sequence))),
        }
    }
}

/// Stores a result and makes the fiber ready. Its home is read before `op_done` is published: after
/// that the fiber may be gone.
fn answer(block: BlockPtr, result: i32, shared: &Arc<Shared>) {
    block.io_op.set(None);
    let home = block.home();
    block.op_result.store(result, Ordering::Relaxed);
    block.op_done.store(true, Ordering::Release);
    shared.io_answers.fetch_add(1, Ordering::Release);
    if let Some(home) = home {
        shared.homes[home].wake_remote(block);
    }
}
