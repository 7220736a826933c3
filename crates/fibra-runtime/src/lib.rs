//! Scheduler, stacks, fibers, net and time: everything that waits, on one I/O driver.
//!
//! | module | its job |
//! |---|---|
//! | `sched` | workers, queues, parking, timers, waiting; knows no model and no socket |
//! | [`stack`] | memory of fibers, guards, and all raw system calls of this crate |
//! | [`fiber`] | functions with a stack of their own |
//! | [`net`], [`time`], [`signal`] | things worth waiting for |
//!
//! Users take all of it from the facade crate `fibra`.

mod blocking;
mod cancel;
mod config;
pub mod fiber;
mod metrics;
pub mod net;

mod runtime;
mod sched;
pub mod signal;
#[doc(hidden)]
pub mod stack;
pub mod time;

pub use blocking::blocking;
pub use cancel::{Cancelled, is_cancelled};
pub use config::IoMode;
pub use fiber::{
    Current, JoinHandle, Scope, ScopedJoinHandle, current, deadline, no_suspend, scope, shield,
    spawn, spawn_inherit, yield_now,
};
pub use metrics::Metrics;
pub use runtime::{Builder, Handle, exit, run};

pub use time::{sleep, try_sleep};
