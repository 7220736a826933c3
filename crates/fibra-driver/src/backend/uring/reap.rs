//! What an answer of the kernel means.
//!
//! ```text
//!   63            32 31 30           0
//!   | generation    | C | slot       |      C = 0: the final completion of an op
//!                                           C = 1: the answer to its cancel
//!   generation 0 is no op's: 0 is nothing, NOTIFIED and CANCELLED_ALL are the driver's own
//! ```
//!
//! 1. An op ends with its final completion, never with the answer to its cancel: bytes that arrived
//!    before the cancel did are reported, not lost.
//! 2. A cancel that found nothing (ENOENT) or came too late (EALREADY) is normal. Should the op be in
//!    flight all the same at the next wait, the cancel is sent again.
//! 3. Whatever names no op in flight is counted and dropped.

use crate::op::{Completion, OpId};
use crate::sys;

use super::prepare::Verb;
use super::{InFlight, Uring};

/// Marks the answer to a cancel.
pub(super) const CANCEL: u64 = 1 << 31;
/// A kick of the notifier.
pub(super) const NOTIFIED: u64 = 0xffff_ffff;
/// The answer to the cancel of everything, when the driver is dropped.
pub(super) const CANCELLED_ALL: u64 = 0xffff_fffe;

/// How often a cancel that missed is sent again without being asked. An op waits for a socket, so
/// one or two are enough; what runs in a thread of the kernel ends by itself.
const CANCEL_RETRIES_MAX: u8 = 64;

impl Uring {
    /// Handles one answer. The op's completion, if it is one.
    #[inline]
    pub(super) fn resolve(&mut self, user_data: u64, result: i32) -> Option<Completion> {
        if user_data & CANCEL != 0 {
            self.resolve_own(user_data, result);
            return None;
        }
        let finished = OpId::from_u64(user_data).and_then(|id| Some((id, self.slots.finish(id)?)));
        let Some((id, (data, InFlight { verb, .. }))) = finished else {
            self.metrics.unknown_completion_count += 1;
            return None;
        };
        let result = if verb == Verb::Ready && result >= 0 {
            i32::from(sys::readiness(result as libc::c_short).bits())
        } else {
            result
        };
        Some(Completion { id, data, result })
    }

    #[cold]
    fn resolve_own(&mut self, user_data: u64, result: i32) {
        match user_data {
            NOTIFIED => self.kick.kicked(),
            CANCELLED_ALL => {}
            _ => match OpId::from_u64(user_data & !CANCEL) {
                Some(id) if self.slots.cancel_answered(id) => {
                    if result < 0
                        && let Some(op) = self.slots.get_mut(id)
                        && op.cancel_retries < CANCEL_RETRIES_MAX
                    {
                        op.cancel_retries += 1;
                        self.missed_cancels.push(id);
                    }
                }
                _ => self.metrics.unknown_completion_count += 1,
            },
        }
    }

    /// Sends the cancels of rule 2 again, for ops that are still in flight.
    #[cold]
    pub(super) fn repeat_cancels(&mut self) {
        for id in std::mem::take(&mut self.missed_cancels) {
            self.cancel_op(id);
        }
    }
}
