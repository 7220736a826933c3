//! Scheduler, stacks, fibers, net and time.

mod cancel;
pub mod net;
mod sched;

pub use cancel::{Cancelled, is_cancelled};
