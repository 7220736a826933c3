//! Scheduler, stacks, fibers, net and time.
