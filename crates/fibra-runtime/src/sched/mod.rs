//! The scheduler: what runs next, where it waits and who wakes it. Knows nothing of fibers.
//!
//! | hand-over | type | writers | readers |
//! |---|---|---|---|
//! | units that have not started, own worker | [`run_queue::FreshQueue`] | owner | owner, thieves |
//! | units placed here by other threads | [`incoming::Incoming`] | any thread | owner, thieves |
//! | wakes of started fibers | [`inbox::Inbox`] | any thread | owner |
//! | "the worker sleeps" | [`park::Parker`] | owner, any waker | any thread |
//! | timers | [`wheel::Wheel`] | owner | owner |
//! | "it has ended", for a join | [`done::Oneshot`] | the completer | who waits |

#[cfg_attr(any(not(test), loom), allow(dead_code, reason = "used by the worker"))]
pub(crate) mod done;
#[cfg_attr(any(not(test), loom), allow(dead_code, reason = "used by the worker"))]
pub(crate) mod inbox;
#[cfg_attr(any(not(test), loom), allow(dead_code, reason = "used by the worker"))]
pub(crate) mod incoming;
pub(crate) mod loom;
#[cfg_attr(any(not(test), loom), allow(dead_code, reason = "used by the worker"))]
pub(crate) mod park;
#[cfg_attr(any(not(test), loom), allow(dead_code, reason = "used by the worker"))]
pub(crate) mod run_queue;
#[cfg_attr(any(not(test), loom), allow(dead_code, reason = "used by the worker"))]
pub(crate) mod wheel;

#[cfg(all(test, not(loom)))]
mod measure;
