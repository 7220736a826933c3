//! Scheduler, stacks, fibers, net and time.

mod sched;
