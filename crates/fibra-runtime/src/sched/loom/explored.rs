//! Atomics for models, whose loads the checker orders in every way.
//!
//! The checker (loom 0.7.2) tries another order of two accesses only if they depend on each other,
//! and remembers one last access per atomic. A thread that loads and then swaps, as all our loops
//! do, finds its own load there, and the order "my swap before your load" is never tried: models
//! then pass without ever having run the case that they are about. So each load here also changes
//! a second atomic: loads now depend on each other, and each of them gets to be the last.
//!
//! That change is Relaxed and nobody acquires it. It adds orders to try and no synchronisation.

use std::fmt;

use loom::sync::atomic::{self, Ordering};

/// Checks `model` in every order with at most `preemption_max` switches away from a thread that
/// could have gone on. For models with too many orders; bugs are known to need few such switches.
#[cfg(test)]
pub(crate) fn check(preemption_max: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemption_max);
    builder.check(model);
}

macro_rules! explored {
    ($($name:ident $(<$param:ident>)? : $value:ty;)*) => {$(
        /// See the file's page.
        pub(crate) struct $name $(<$param>)? {
            value: atomic::$name $(<$param>)?,
            order: atomic::AtomicUsize,
        }

        #[allow(dead_code, reason = "not every queue needs every verb")]
        impl $(<$param>)? $name $(<$param>)? {
            pub(crate) fn new(value: $value) -> Self {
                Self { value: atomic::$name::new(value), order: atomic::AtomicUsize::new(0) }
            }

            #[track_caller]
            pub(crate) fn load(&self, order: Ordering) -> $value {
                self.order.fetch_add(1, Ordering::Relaxed);
                self.value.load(order)
            }

            #[track_caller]
            pub(crate) fn store(&self, value: $value, order: Ordering) {
                self.value.store(value, order);
            }

            #[track_caller]
            pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                self.value.swap(value, order)
            }

            #[track_caller]
            pub(crate) fn compare_exchange(
                &self, current: $value, new: $value, done: Ordering, lost: Ordering,
            ) -> Result<$value, $value> {
                self.value.compare_exchange(current, new, done, lost)
            }

            #[track_caller]
            pub(crate) fn compare_exchange_weak(
                &self, current: $value, new: $value, done: Ordering, lost: Ordering,
            ) -> Result<$value, $value> {
                self.value.compare_exchange_weak(current, new, done, lost)
            }
        }

        impl $(<$param>)? fmt::Debug for $name $(<$param>)? {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )*};
}

explored! {
    AtomicBool: bool;
    AtomicPtr<T>: *mut T;
    AtomicU8: u8;
    AtomicUsize: usize;
}

#[cfg(test)]
impl<T> AtomicPtr<T> {
    /// Exclusive access, as freeing it would be: the checker compares it with all others.
    pub(crate) fn with_mut<R>(&mut self, f: impl FnOnce(&mut *mut T) -> R) -> R {
        self.value.with_mut(f)
    }
}

#[cfg(test)]
impl AtomicU8 {
    /// Exclusive access, as freeing it would be: the checker compares it with all others.
    pub(crate) fn with_mut<R>(&mut self, f: impl FnOnce(&mut u8) -> R) -> R {
        self.value.with_mut(f)
    }
}
