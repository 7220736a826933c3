//! Guards: what makes an overflow fault instead of reaching the neighbour's stack.
//!
//! `MADV_GUARD_INSTALL` marks the pages in the page tables and costs no mapping. Kernels before
//! 6.13 do not know it and no kernel does it in locked memory, so it is tried for every batch and
//! `mprotect` is the fall-back. That splits the slab: two mappings a stack, and the process dies
//! in surprising places when it runs out of mappings, so the count stops well before.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::sys::{self, Range};
use super::{GUARD_BYTES, GuardMode, StackError};

/// Guards made with `mprotect`, to be given back when their slab is unmapped.
#[derive(Debug)]
pub(super) struct Protected(usize);

impl Protected {
    pub(super) const NONE: Self = Self(0);

    /// Takes over what `other` holds.
    pub(super) fn merge(&mut self, mut other: Self) {
        self.0 += std::mem::take(&mut other.0);
    }
}

impl Drop for Protected {
    fn drop(&mut self) {
        if self.0 != 0 {
            PROTECTED.fetch_sub(self.0, Relaxed);
        }
    }
}

/// Guards every range of `guards`.
///
/// # Safety
/// - Every range lies in a mapping made by [`sys::reserve`]. - Nothing in them is in use.
pub(super) unsafe fn install(guards: &[Range], mode: GuardMode) -> Result<Protected, StackError> {
    if mode != GuardMode::Mprotect {
        // SAFETY: passed on to the caller.
        match unsafe { mark(guards) } {
            Ok(()) => return Ok(Protected::NONE),
            Err(source) if mode == GuardMode::Madvise => return Err(StackError::Guard { source }),
            Err(_) => {}
        }
    }
    // SAFETY: passed on to the caller.
    unsafe { protect(guards) }
}

/// Tries whether guards can be had here without spending mappings on them.
///
/// # Errors
/// Why not: the kernel is older than 6.13, a sandbox refuses, or memory is locked.
pub fn probe_guards() -> io::Result<()> {
    let range = Range { start: sys::reserve(GUARD_BYTES)?, len: GUARD_BYTES };
    // SAFETY: the range was just mapped, for this only.
    let result = unsafe { mark(&[range]) };
    // SAFETY: as above.
    unsafe { sys::release(range) };
    result
}

/// # Safety
/// As [`install`].
#[cfg(target_os = "linux")]
unsafe fn mark(guards: &[Range]) -> io::Result<()> {
    // SAFETY: passed on to the caller.
    unsafe { sys::advise(guards, sys::Advice::Guard) }
}

/// # Safety
/// As [`install`].
#[cfg(not(target_os = "linux"))]
unsafe fn mark(_guards: &[Range]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// # Safety
/// As [`install`].
unsafe fn protect(guards: &[Range]) -> Result<Protected, StackError> {
    let count = guards.len();
    let limit = |guards| StackError::Limit {
        guards,
        guards_max: protected_max(),
        max_map_count: mappings_max(),
    };
    PROTECTED
        .fetch_update(Relaxed, Relaxed, |guards| {
            Some(guards + count).filter(|guards| *guards <= protected_max())
        })
        .map_err(limit)?;
    let protected = Protected(count);
    for guard in guards {
        // SAFETY: passed on to the caller.
        if let Err(source) = unsafe { sys::forbid(*guard) } {
            return Err(match source.raw_os_error() {
                // Mappings ran out although we counted: others in the process use many.
                Some(libc::ENOMEM) => limit(protected_count() - count),
                _ => StackError::Guard { source },
            });
        }
    }
    Ok(protected)
}

/// Stacks of this process guarded with `mprotect`.
pub(super) fn protected_count() -> usize {
    PROTECTED.load(Relaxed)
}

/// The most there may be: 45 stacks per 100 mappings, so nine tenths of the mappings are ours.
pub(super) fn protected_max() -> usize {
    mappings_max() * 45 / 100
}

fn mappings_max() -> usize {
    static MAX: OnceLock<usize> = OnceLock::new();
    // So that 45 times this does not overflow.
    *MAX.get_or_init(|| sys::mappings_max().min(usize::MAX / 100))
}

/// A limit of the process, so a count of the process.
static PROTECTED: AtomicUsize = AtomicUsize::new(0);
