//! Notifiers: how another thread ends a driver's wait.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Wakes one driver from any thread. Cheap to clone; outlives its driver harmlessly.
///
/// Coalesced: between two waits of the driver only the first call enters the kernel.
#[derive(Clone)]
pub struct Notifier(Arc<Shared>);

struct Shared {
    /// A notification was sent and the driver has not taken it. Set here, cleared by the driver.
    pending: AtomicBool,
    kick: Box<dyn Fn() + Send + Sync>,
}

impl Notifier {
    /// A notifier whose first call after each [`take`](Self::take) runs `kick`.
    pub(crate) fn new(kick: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared { pending: AtomicBool::new(false), kick: Box::new(kick) }))
    }

    /// Ends the driver's current wait, or else its next one.
    pub fn notify(&self) {
        // AcqRel: what was written before `notify` is seen after `take`.
        if !self.0.pending.swap(true, Ordering::AcqRel) {
            (self.0.kick)();
        }
    }

    /// Called by the driver after it woke up, before it looks at what the notification was for.
    #[inline]
    pub(crate) fn take(&self) -> bool {
        // Looked at before it is written: there mostly is none, and a look is ten times cheaper. One
        // that is missed so is seen after its kick has ended the sleep.
        self.0.pending.load(Ordering::Acquire) && self.0.pending.swap(false, Ordering::AcqRel)
    }
}

impl fmt::Debug for Notifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifier").field("pending", &self.0.pending).finish_non_exhaustive()
    }
}
