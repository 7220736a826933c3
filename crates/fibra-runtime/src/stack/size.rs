//! Stack sizes: any request becomes one of few classes, each with slabs and pools of its own.
//!
//! The size of a class is its *reserve*: address space per stack, guard included. Powers of two
//! keep the share of page tables low (512 bytes per stack at 256 KiB).

use std::num::NonZeroU32;

use super::{GUARD_BYTES, StackError};

/// The size of a stack, rounded up to a class: 128, 256 or 512 KiB, 1, 2 or 8 MiB, beyond that
/// multiples of 8 MiB.
///
/// ```
/// use fibra_runtime::stack::StackSize;
///
/// let size = StackSize::with_usable(100 * 1024)?;
/// assert_eq!(size.reserve(), 256 * 1024);
/// assert_eq!(size.usable(), 192 * 1024);
/// # Ok::<(), fibra_runtime::stack::StackError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StackSize {
    /// # Invariant
    /// A class of `CLASSES` or a multiple of `LARGE_STEP`, in units of `UNIT`.
    units: NonZeroU32,
    /// Index of the class, `LARGE` if there is none. Kept because looking it up costs more than
    /// taking a stack.
    class: u8,
}

impl StackSize {
    /// What a spawned fiber gets if nothing else was said.
    pub const SPAWNED: Self =
        if cfg!(debug_assertions) { Self::constant(16) } else { Self::constant(4) };
    /// What the main fiber gets: as much as the main thread of a process.
    pub const MAIN: Self = Self::constant(128);
    /// What runner fibers get, on which foreign code runs: as much as a thread of std.
    pub const RUNNER: Self = Self::constant(32);
    /// The most one stack may reserve, in bytes.
    pub const RESERVE_MAX: usize =
        if usize::BITS > 32 { (64_u64 << 30) as usize } else { 256 << 20 };

    /// The smallest size of which at least `bytes` can be used, as `std::thread` counts.
    ///
    /// Small requests are raised to what a panic with a backtrace plus one signal frame need.
    ///
    /// # Errors
    /// [`StackError::TooLarge`] beyond [`StackSize::RESERVE_MAX`].
    pub fn with_usable(bytes: usize) -> Result<Self, StackError> {
        let bytes_max = Self::RESERVE_MAX - GUARD_BYTES;
        if bytes > bytes_max {
            return Err(StackError::TooLarge { bytes, bytes_max });
        }
        Ok(Self::round_up(bytes.max(minimum()) + GUARD_BYTES))
    }

    /// The smallest size that reserves at least `bytes` of address space, guard included.
    ///
    /// # Errors
    /// [`StackError::TooLarge`] beyond [`StackSize::RESERVE_MAX`].
    pub fn with_reserve(bytes: usize) -> Result<Self, StackError> {
        if bytes > Self::RESERVE_MAX {
            return Err(StackError::TooLarge { bytes, bytes_max: Self::RESERVE_MAX });
        }
        Ok(Self::round_up(bytes.max(minimum() + GUARD_BYTES)))
    }

    /// Bytes of address space, guard included.
    pub const fn reserve(self) -> usize {
        self.units.get() as usize * UNIT
    }

    /// Bytes the fiber can use.
    pub const fn usable(self) -> usize {
        self.reserve() - GUARD_BYTES
    }

    /// The index of the class, `None` for sizes too large to be pooled.
    #[inline]
    pub(super) const fn class(self) -> Option<usize> {
        if self.class == LARGE { None } else { Some(self.class as usize) }
    }

    fn round_up(bytes: usize) -> Self {
        let units = bytes.div_ceil(UNIT);
        for class in CLASSES {
            if units <= class as usize {
                return Self::constant(class);
            }
        }
        // At most RESERVE_MAX / UNIT = 2^20 units, which both callers checked.
        Self::constant((units.div_ceil(LARGE_STEP) * LARGE_STEP) as u32)
    }

    const fn constant(units: u32) -> Self {
        let mut class = 0;
        while class < CLASS_COUNT && CLASSES[class] != units {
            class += 1;
        }
        let class = if class < CLASS_COUNT { class as u8 } else { LARGE };
        match NonZeroU32::new(units) {
            Some(units) => Self { units, class },
            None => panic!("a stack size is at least one unit"),
        }
    }
}

impl Default for StackSize {
    fn default() -> Self {
        Self::SPAWNED
    }
}

/// The least a stack must offer: a panic with a backtrace used 22 KiB, and a signal handler
/// without its own stack puts the processor's state here, 3.4 KiB with AVX-512.
fn minimum() -> usize {
    32 * 1024 + super::slab::signal_frame_bytes()
}

/// Number of pooled classes.
pub(super) const CLASS_COUNT: usize = CLASSES.len();

/// What sizes are counted in.
const UNIT: usize = 64 * 1024;
/// Pooled reserves in units.
const CLASSES: [u32; 6] = [2, 4, 8, 16, 32, 128];
/// What stands for no class.
const LARGE: u8 = u8::MAX;
/// Larger reserves are multiples of this many units.
const LARGE_STEP: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_its_own_index_and_fits_its_request() {
        for (index, units) in CLASSES.into_iter().enumerate() {
            let size = StackSize::constant(units);
            assert_eq!(size.class(), Some(index));
            assert_eq!(StackSize::with_usable(size.usable()).unwrap(), size);
            assert_eq!(StackSize::with_reserve(size.reserve()).unwrap(), size);
            let next = StackSize::with_usable(size.usable() + 1).unwrap();
            assert!(next.reserve() > size.reserve());
        }
    }

    #[test]
    fn sizes_beyond_the_classes_are_multiples_of_8_mib() {
        let size = StackSize::with_usable(8 << 20).unwrap();
        assert_eq!(size.reserve(), 16 << 20);
        assert_eq!(size.class(), None);
        let max = StackSize::with_reserve(StackSize::RESERVE_MAX).unwrap();
        assert_eq!(max.reserve(), StackSize::RESERVE_MAX);
    }

    #[test]
    fn absurd_sizes_are_refused_and_tiny_ones_raised() {
        for bytes in [usize::MAX, StackSize::RESERVE_MAX] {
            let error = StackSize::with_usable(bytes).unwrap_err();
            assert!(error.to_string().contains(&bytes.to_string()), "{error}");
        }
        assert!(StackSize::with_usable(0).unwrap().usable() >= minimum());
        assert!(StackSize::with_reserve(0).unwrap().usable() >= minimum());
    }
}
