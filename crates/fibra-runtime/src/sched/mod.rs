//! The scheduler: what runs next, where it waits and who wakes it.
//!
//! It runs [`job`]s on stacks and knows nothing of what a job is: closures and results live in
//! `fiber`, sockets in `net`.
//!
//! | hand-over | type | writers | readers |
//! |---|---|---|---|
//! | fibers that have not started, own worker | [`run_queue::FreshQueue`] | owner | owner, thieves |
//! | fibers placed here by other threads | [`incoming::Incoming`] | any thread | owner, thieves |
//! | wakes of started fibers | [`inbox::Inbox`] | any thread | owner |
//! | "the worker sleeps" | [`park::Parker`] | owner, any waker | any thread |
//! | timers | [`wheel::Wheel`] | owner | owner |
//! | "it has ended", for a join | [`done::Oneshot`] | the completer | who waits |

pub(crate) mod block;
pub(crate) mod blocking;
pub(crate) mod current;
pub(crate) mod done;
pub(crate) mod home;
pub(crate) mod inbox;
pub(crate) mod incoming;
pub(crate) mod io_thread;
pub(crate) mod job;
pub(crate) mod job_ref;
mod local;
pub(crate) mod loom;
pub(crate) mod park;
pub(crate) mod port;
mod ready;
mod report;
pub(crate) mod run_queue;
pub(crate) mod shared;
pub(crate) mod wait;
pub(crate) mod waiter;
pub(crate) mod watchdog;
pub(crate) mod wheel;
pub(crate) mod worker;

#[cfg(all(test, not(loom)))]
mod measure;
