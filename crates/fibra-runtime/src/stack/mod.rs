//! Fiber stacks: where they come from, what catches their overflow, when memory goes back.
//!
//! Promises:
//! - A stack that runs over meets its guard; the process ends with a message that names the fiber.
//!   It never reaches the neighbour, not even from C code with a frame of 48 KiB.
//! - Taking a warm stack and giving it back costs no system call and no lock.
//! - A stack with live frames is never reused and never unmapped. Leaking one is allowed.
//!
//! ```text
//!   slab: one reservation, committed page by page, all stacks of one class
//!   +-------+----------+-------+----------+-------+----------+ ...
//!   | guard | usable   | guard | usable   | guard | usable   |
//!   +-------+----------+-------+----------+-------+----------+ ...
//!   ^limit  ^floor     ^top of stack 0 = limit of stack 1
//!                    ^base of stack 0: top minus its colour, where the first frame starts
//!
//!   worker: StackPool --32 at a time--> SharedStacks: warm --beyond 1,024--> cold --empty--> slab
//!           LIFO, at most 256           top page kept         no page kept         prepared in
//!           every page kept                                                        batches
//! ```
//!
//! Rules:
//! 1. Every [`Stack`] keeps its slab alive. A slab is unmapped when its last stack is dropped after
//!    the pools are gone, so a stack that was [leaked](Stack::leak) keeps its slab mapped for ever.
//! 2. A stack dropped instead of [put](StackPool::put) goes to the shared pool by itself, as long
//!    as that pool lives. The caller of either guarantees that no frame is live on it.
//! 3. What the fault handler reads is only ever changed while no thread can fault in it: the record
//!    of a slab before the first and after the last of its stacks is in use.
//!
//! Raw system calls of this crate live in this folder.
//!
//! # Platforms
//! Linux 6.13 and newer guards stacks without spending mappings on it; elsewhere on Unix a guard
//! costs two mappings a stack and the number of stacks is limited ([`StackError::Limit`]). On
//! Windows stacks are single reservations, without slabs, trimming or our fault handler.

mod error;
#[cfg(unix)]
pub mod interrupt;
mod pool;
mod shared;
mod size;

#[cfg(unix)]
mod altstack;
#[cfg(unix)]
mod area;
#[cfg(unix)]
mod guard;
#[cfg(unix)]
mod overflow;
#[cfg(unix)]
mod registry;
#[cfg(unix)]
mod slab;
#[cfg(unix)]
mod sys;
#[cfg(unix)]
mod trim;

#[cfg(windows)]
#[path = "windows.rs"]
mod slab;
#[cfg(windows)]
use slab::{self as altstack, self as area, self as guard, self as overflow, self as trim};

use std::panic::Location;
use std::str::FromStr;

pub use altstack::{SignalStack, install_for_thread};
pub use area::StackArea;
pub use error::StackError;
pub use guard::probe_guards;
pub use overflow::install;
pub use pool::StackPool;
pub use shared::{SharedStacks, StackMetrics};
pub use size::StackSize;
pub use slab::Stack;
pub use trim::Trim;

/// Bytes below every stack that fault when touched.
///
/// One page would do for Rust code, which probes every page of a big frame. C code without
/// stack-clash protection does not, and what lies below is a neighbour's stack. Sixteen pages cost
/// the same as one: the page-table page is there either way.
pub const GUARD_BYTES: usize = 64 * 1024;

/// How the guards below stacks are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuardMode {
    /// Whatever works, tried again for every batch of stacks: `Madvise`, else `Mprotect`.
    #[default]
    Auto,
    /// Guard markers in the page tables (Linux 6.13 and newer, not in locked memory). No mappings
    /// are spent, so the number of stacks is limited by memory only.
    Madvise,
    /// Inaccessible mappings, two per stack. Stops at 45 % of `vm.max_map_count` stacks.
    Mprotect,
}

impl FromStr for GuardMode {
    type Err = String;

    /// Reads the value of `FIBRA_GUARDS`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "madvise" => Ok(Self::Madvise),
            "mprotect" => Ok(Self::Mprotect),
            other => Err(format!(
                "unknown stack guard mode {other:?}; use one of auto, madvise, mprotect"
            )),
        }
    }
}

/// What the fault handler prints about the fiber on a stack; see [`Stack::set_owner`].
///
/// Plain data, because it is read by a signal handler.
#[repr(C)]
#[derive(Debug)]
pub struct OwnerInfo {
    /// The fiber's number.
    pub id: u64,
    /// First byte of the fiber's name; dangling if it has none.
    pub name: *const u8,
    /// Length of the name in bytes; 0 if it has none.
    pub name_len: usize,
    /// Where the fiber was spawned.
    pub site: Option<&'static Location<'static>>,
}

/// Asks the processor to fetch the cache line at `address`, which may be any.
#[inline]
pub fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint: it faults at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
