//! Fibers: functions with a stack of their own, which park where a thread would block.
//!
//! A fiber is spawned on the worker with the fewest fibers and stays there for life once it has
//! started; see `docs/soundness.md` for what follows from that.

mod handle;
mod local;
mod packet;
mod scope;
mod spawn;

pub use crate::sched::job::FiberId;
pub use handle::JoinHandle;
pub(crate) use handle::wait_done_or;
pub use local::{Current, current, deadline, no_suspend, shield, yield_now};
pub use packet::Result;
pub use scope::{Scope, ScopedJoinHandle, scope};
pub use spawn::{Builder, spawn, spawn_inherit};
pub(crate) use spawn::{Plan, end_refused, main_fiber, spawn_on};
