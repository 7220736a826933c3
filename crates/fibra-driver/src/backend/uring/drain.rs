//! The end of a driver: everything in flight is cancelled and drained, or the ring is leaked.
//!
//! The kernel may write to the memory of an op until its final completion. So the ring is closed only
//! when every slot is free. What does not end in time (a socket op always does) is named in an error
//! and leaked with the ring; its memory must then not be freed either.

use std::mem::ManuallyDrop;
use std::time::Duration;

use io_uring::{opcode, types};

use crate::clock::{Deadline, Instant};
use crate::op::OpId;
use crate::sys;

use super::Uring;
use super::prepare::Verb;
use super::reap::CANCELLED_ALL;

/// How long dropping a driver may take.
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// After this long without an end the cancel is sent again.
const CANCEL_AGAIN: Duration = Duration::from_millis(10);

impl Uring {
    fn is_busy(&self) -> bool {
        self.kick.is_armed() || self.slots.is_busy()
    }

    /// Ends everything in flight. Whether the kernel has let go of all memory.
    fn drain(&mut self) -> bool {
        if !self.is_busy() {
            return true;
        }
        if !self.ring.is_ours() {
            return false;
        }
        let deadline = Deadline::At(Instant::now() + DRAIN_MAX);
        let mut cancel_at = Deadline::Now;
        loop {
            self.push_backlog();
            if self.backlog.is_empty() && cancel_at.remaining() == Some(Duration::ZERO) {
                cancel_at = Deadline::At(Instant::now() + CANCEL_AGAIN);
                let everything = types::CancelBuilder::any().all();
                let entry = opcode::AsyncCancel2::new(everything).build();
                // SAFETY: the entry points to no memory.
                unsafe { self.push(|| entry.clone().user_data(CANCELLED_ALL)) };
            }
            let left = deadline.remaining().unwrap_or_default();
            if left.is_zero() || self.ring.enter(1, Some(left.min(CANCEL_AGAIN))).is_err() {
                return false;
            }
            while let Some((user_data, result)) = self.ring.pop() {
                let op = OpId::from_u64(user_data).and_then(|id| self.slots.get(id));
                let accepted = op.is_some_and(|op| op.verb == Verb::Accept);
                if self.resolve(user_data, result).is_some() && accepted && result >= 0 {
                    // Nobody will ever hear of this connection.
                    sys::close(result);
                }
            }
            if !self.is_busy() {
                return true;
            }
        }
    }

    #[cold]
    fn leak(&mut self) {
        self.kick.leak();
        let ops = self.slots.ids().filter_map(|id| Some((id, self.slots.get(id)?.verb)));
        let ops = ops.take(16).map(|(id, verb)| format!("{verb:?} {id:?}")).collect::<Vec<_>>();
        tracing::error!(
            target: "fibra_driver",
            in_flight = self.slots.in_flight(),
            ops = ops.join(", "),
            same_thread = self.ring.is_ours(),
            "a driver was dropped and its ops did not end within a second: the ring is leaked; \
             drop a driver on the thread that it runs on"
        );
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let drained = self.drain();
        self.kick.close();
        if drained {
            // SAFETY: dropped once, here; `self` is not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.ring) };
        } else {
            self.leak();
        }
    }
}
