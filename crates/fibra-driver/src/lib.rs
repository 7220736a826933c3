//! Ops in, completions out: one contract over io_uring, epoll (mio), poll and select.
//!
//! ```text
//!   who waits                     driver                              kernel
//!   ---------                     ------                              ------
//!   RawOp + a word --submit-----> slot (generation, word) --queue--->
//!                                                         --wait----> enter / epoll_wait / poll
//!                                        slot <--generation checked-- answer
//!   result + the word <--reap---- slot freed at the final one
//!   cancel(id) -----------------> "end early": it still completes, exactly once
//! ```
//!
//! Promises, for every backend:
//! - A submitted op either finishes at once or gives exactly one completion.
//! - Success wins over cancel: bytes that arrived are never thrown away.
//! - A late, duplicate or unknown answer of the kernel is counted and dropped.
//! - No user code ever runs inside the driver, and nothing runs on another thread.
//!
//! The runtime above waits with [`Driver::submit`], which borrows memory. Whoever uses this crate
//! alone takes the safe, owning face in [`owned`].

mod attempt;
mod backend;
mod blocking;
mod clock;
mod config;
mod contract;
mod descriptor;
mod driver;
mod gate;
mod interest;
mod notifier;
mod op;
pub mod owned;
pub mod probe;
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only io_uring answers cancels"))]
mod slots;
mod socket;
mod stash;
mod sys;

pub use attempt::attempt;
pub use blocking::{run_blocking, run_blocking_until};
pub use clock::{Deadline, Instant};
pub use config::{BackendKind, Choice, Config};
pub use contract::Metrics;
pub use descriptor::Descriptor;
pub use driver::Driver;
pub use gate::{Gate, Ticket};
pub use interest::{Interest, Readiness};
pub use notifier::Notifier;
pub use op::{Completion, Message, OpId, RawOp, Shutdown, Submitted, Target};
pub use socket::{Canceller, Direction, OpHandle, Side, Socket};
pub use stash::{Stash, Stashed};
pub use sys::{DESCRIPTOR_TOO_HIGH, ECANCELED, ETIMEDOUT, RawFd};
