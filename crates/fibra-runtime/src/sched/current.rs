//! Which worker, and which fiber, this thread is running.

use std::cell::Cell;
use std::ptr;

use super::block::BlockPtr;
use super::worker::Worker;

thread_local! {
    // Const-initialised and without a destructor: half a nanosecond to read, at any time.
    static CURRENT: Cell<*const Worker> = const { Cell::new(ptr::null()) };
}

/// The worker whose thread this is.
#[inline]
pub(crate) fn worker<'a>() -> Option<&'a Worker> {
    // SAFETY: set by `enter` to a worker that lives until `leave`; callers use it on this thread
    // and within one call, and a started fiber never leaves its thread.
    CURRENT.with(|current| unsafe { current.get().as_ref() })
}

/// The worker and the fiber that is running on it.
#[inline]
pub(crate) fn fiber<'a>() -> Option<(&'a Worker, BlockPtr)> {
    let worker = worker()?;
    Some((worker, worker.current.get()?))
}

/// Makes `worker` the worker of this thread until `leave`.
pub(crate) fn enter(worker: &Worker) {
    CURRENT.with(|current| current.set(worker));
}

/// This thread is no worker any more.
pub(crate) fn leave() {
    CURRENT.with(|current| current.set(ptr::null()));
}
