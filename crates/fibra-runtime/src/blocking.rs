//! Blocking calls: out of the way of the fibers.

use crate::sched::wait::offload;

/// Runs `f`, which may block its thread, on a thread of the blocking pool while this fiber waits.
/// `f` may borrow. On plain threads, and on the pool itself, it runs where it is.
///
/// ```
/// let text = String::from("borrowed");
/// let len = fibra_runtime::run(|| fibra_runtime::blocking(|| text.len()));
/// assert_eq!(len, 8);
/// ```
///
/// # Suspends
/// Yes, until `f` has returned.
///
/// # Panics
/// With `f`'s panic.
///
/// # Cancellation
/// None: `f` may hold borrows, so it must have ended; neither a cancel nor a deadline ends this
/// call.
pub fn blocking<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    offload(f)
}
