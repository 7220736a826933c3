//! Scheduler, stacks, fibers, net and time.

#[doc(hidden)]
pub mod stack;
