//! The scheduler: who waits, where, and how it is woken.

#[allow(dead_code, reason = "the runtime owns the pool; it is being written")]
pub(crate) mod blocking;
pub(crate) mod wait;
