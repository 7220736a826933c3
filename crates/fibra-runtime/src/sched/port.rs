//! Ports: where a worker's ops go - its own driver, or the one I/O thread.
//!
//! In the dedicated topology one read takes five steps:
//!
//! ```text
//!   worker thread                              I/O thread
//!   -------------                              ----------
//!   1 called; tried without waiting: not now
//!   2 request posted, fiber parked;
//!     another fiber runs          ----------> 3 request taken, submitted to the driver
//!                                               ... the kernel completes it ...
//!   5 resumed with the result     <---------- 4 result stored, fiber made ready
//! ```

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fibra_driver::{Completion, Deadline, Driver, RawOp, Submitted};

use super::block::{Block, BlockPtr};
use super::io_thread::IoThread;

/// Where a worker's ops go.
#[expect(clippy::large_enum_variant, reason = "one a worker, and the large one is the hot one")]
pub(crate) enum Port {
    /// The worker's own driver, and how many ops are in flight in it.
    Own { driver: Driver, in_flight: usize },
    /// The one I/O thread; the worker itself sleeps in `sleeper`.
    Dedicated { io: Arc<IoThread>, sleeper: Arc<Sleeper> },
}

impl Port {
    /// Starts an op for the fiber of `block`: the result if it finished at once.
    ///
    /// # Safety
    /// As [`Driver::submit`]; the fiber stays parked until `op_done`.
    pub unsafe fn submit(&mut self, op: RawOp, block: BlockPtr) -> Option<i32> {
        block.op_done.store(false, Ordering::Relaxed);
        match self {
            Self::Own { driver, in_flight } => {
                // SAFETY: forwarded.
                match unsafe { driver.submit(op, block.0.as_ptr() as u64) } {
                    Submitted::Done(result) => Some(result),
                    Submitted::Pending(id) => {
                        block.op.set(Some(id));
                        *in_flight += 1;
                        None
                    }
                }
            }
            Self::Dedicated { io, .. } => {
                // SAFETY: forwarded.
                if let Some(result) = unsafe { fibra_driver::attempt(op) } {
                    return Some(result);
                }
                block.op_sequence.set(block.op_sequence.get().wrapping_add(1));
                // SAFETY: forwarded.
                unsafe { io.post(op, block, block.op_sequence.get()) };
                None
            }
        }
    }

    /// Asks that the op of `block` end early. It still completes.
    pub fn cancel(&mut self, block: BlockPtr) {
        match self {
            Self::Own { driver, .. } => {
                if let Some(id) = block.op.get() {
                    driver.cancel(id);
                }
            }
            Self::Dedicated { io, .. } => io.cancel(block, block.op_sequence.get()),
        }
    }

    /// Whether completions may come.
    pub fn has_ops(&self) -> bool {
        matches!(self, Self::Own { in_flight: 1.., .. })
    }

    /// Submits what is queued and sleeps until the deadline, a completion or a kick.
    pub fn wait(&mut self, deadline: Deadline) -> io::Result<()> {
        match self {
            Self::Own { driver, .. } => driver.wait(deadline),
            Self::Dedicated { sleeper, .. } => {
                sleeper.sleep(deadline);
                Ok(())
            }
        }
    }

    /// Takes one completion. In the dedicated topology they come through the inbox instead.
    pub fn reap(&mut self) -> Option<(BlockPtr, i32)> {
        match self {
            Self::Own { driver, in_flight } => {
                let completion = driver.reap()?;
                *in_flight -= 1;
                Some(fiber_of(completion))
            }
            Self::Dedicated { .. } => None,
        }
    }
}

/// The fiber whose op has completed, and its result.
pub(super) fn fiber_of(completion: Completion) -> (BlockPtr, i32) {
    let block = completion.data as *mut Block;
    // SAFETY: every op of these drivers was submitted with the address of a block as its word; the
    // driver's generation check lets each word out once, while the fiber waits for it.
    (BlockPtr(unsafe { std::ptr::NonNull::new_unchecked(block) }), completion.result)
}

/// Sleep and kick for a worker without a driver.
#[derive(Default)]
pub(crate) struct Sleeper {
    kicked: std::sync::Mutex<bool>,
    changed: std::sync::Condvar,
}

impl Sleeper {
    fn sleep(&self, deadline: Deadline) {
        let mut kicked = self.kicked.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !*kicked {
            kicked = match deadline.remaining() {
                Some(time) if time.is_zero() => kicked,
                Some(time) => match self.changed.wait_timeout(kicked, time) {
                    Ok((kicked, _)) => kicked,
                    Err(poisoned) => poisoned.into_inner().0,
                },
                None => {
                    self.changed.wait(kicked).unwrap_or_else(std::sync::PoisonError::into_inner)
                }
            };
        }
        *kicked = false;
    }

    pub fn kick(&self) {
        *self.kicked.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = true;
        self.changed.notify_one();
    }
}
