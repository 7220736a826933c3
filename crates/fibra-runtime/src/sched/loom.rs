//! The one import of atomics, locks and cells for the scheduler's queues.
//!
//! `std` in a normal build; the model checker's own under `--cfg loom`, where every access is a
//! point at which the checker may switch threads. The queues name neither themselves. Their models
//! are the modules `loom_models`:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom \
//!     cargo test --release -p fibra-runtime --lib loom
//! ```
//!
//! What the checker cannot see: it treats SeqCst loads and stores as AcqRel (so the queues use
//! fences, which it models), and a load never answers a store that comes later in its execution (so
//! it does not notice when an ordering that keeps a load before a later store is dropped). What it
//! would overlook, and `explored` mends: see there.

#[cfg(loom)]
mod explored;

#[cfg(all(test, loom))]
pub(crate) use self::explored::check;
#[cfg(loom)]
pub(crate) use self::explored::{AtomicBool, AtomicPtr, AtomicU8, AtomicUsize};
#[cfg(loom)]
pub(crate) use ::loom::{
    hint,
    sync::{
        Mutex,
        atomic::{Ordering, fence},
    },
    thread::yield_now,
};

#[cfg(not(loom))]
pub(crate) use std::{
    hint,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicUsize, Ordering, fence},
    },
    thread::yield_now,
};

/// A cell whose content is reached through a closure, so that the model checker sees the access.
#[derive(Debug)]
pub(crate) struct SharedCell<T>(Inner<T>);

#[cfg(loom)]
type Inner<T> = ::loom::cell::UnsafeCell<T>;
#[cfg(not(loom))]
type Inner<T> = std::cell::UnsafeCell<T>;

impl<T> SharedCell<T> {
    /// Wraps `value`.
    pub(crate) fn new(value: T) -> Self {
        Self(Inner::new(value))
    }

    /// Runs `f` on the content, which it may change.
    ///
    /// # Safety
    /// Nobody else reaches the content while `f` runs.
    #[inline]
    pub(crate) unsafe fn with_mut<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        #[cfg(loom)]
        // SAFETY: the caller excludes every other access while `f` runs.
        return self.0.with_mut(|content| f(unsafe { &mut *content }));
        #[cfg(not(loom))]
        // SAFETY: the caller excludes every other access while `f` runs.
        return f(unsafe { &mut *self.0.get() });
    }
}
