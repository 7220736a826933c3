//! A cell for state that one worker thread owns.

use std::cell::UnsafeCell;

/// State of one thread, borrowed only inside [`with`](Self::with).
///
/// Cheaper than `RefCell` and checked in debug builds: the closure must not reach the same cell
/// again and must not suspend. Worker code calls no foreign code inside.
pub(crate) struct Local<T> {
    value: UnsafeCell<T>,
    #[cfg(debug_assertions)]
    borrowed: std::cell::Cell<bool>,
}

impl<T> Local<T> {
    pub const fn new(value: T) -> Self {
        Self {
            value: UnsafeCell::new(value),
            #[cfg(debug_assertions)]
            borrowed: std::cell::Cell::new(false),
        }
    }

    /// Borrows the value for the length of `f`.
    #[inline(always)]
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        #[cfg(debug_assertions)]
        assert!(!self.borrowed.replace(true), "worker state is borrowed once at a time");
        // SAFETY: `Local` is not `Sync`, so only its thread is here; the closures of this crate do
        // not reach the same cell again (checked in debug builds) and never suspend.
        let out = f(unsafe { &mut *self.value.get() });
        #[cfg(debug_assertions)]
        self.borrowed.set(false);
        out
    }
}
