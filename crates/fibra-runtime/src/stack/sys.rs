//! The system calls stacks need, and nothing above them.
//!
//! Advice is given to many ranges with one `process_madvise` on our own process where the kernel
//! can do that (measured: a guard then costs half), else range by range. The own process is named
//! by `PIDFD_SELF`, not by a descriptor: none is held, and after `fork` it cannot mean the parent.

use std::io;
use std::ptr;
use std::sync::OnceLock;

/// A piece of a mapping.
///
/// Laid out as an `iovec`, so that a slice of these is what `process_madvise` takes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    /// Address of the first byte, a multiple of the page size.
    pub start: usize,
    /// Bytes, a multiple of the page size.
    pub len: usize,
}

/// Maps `len` bytes that are committed only as they are touched.
pub(super) fn reserve(len: usize) -> io::Result<usize> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANON | EXTRA_FLAGS;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory.
    let address = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let range = Range { start: address as usize, len };
    // A huge page would commit eight stacks at the first touch of one. Kernels without huge pages
    // refuse the advice, which is just as well.
    #[cfg(target_os = "linux")]
    // SAFETY: the range was just mapped, and this advice discards nothing.
    let _ = unsafe { advise_one(range, Advice::NoHugePage) };
    Ok(range.start)
}

/// Unmaps `range`.
///
/// # Safety
/// - `range` is a whole mapping made by [`reserve`]. - Nothing in it is used any more.
pub(super) unsafe fn release(range: Range) {
    // SAFETY: passed on to the caller.
    let result = unsafe { libc::munmap(range.start as *mut _, range.len) };
    debug_assert_eq!(result, 0, "munmap of a slab: {}", io::Error::last_os_error());
}

/// Makes `range` inaccessible, as a mapping of its own.
///
/// # Safety
/// - `range` lies in a mapping made by [`reserve`]. - Nothing in it is used any more.
pub(super) unsafe fn forbid(range: Range) -> io::Result<()> {
    // SAFETY: passed on to the caller.
    match unsafe { libc::mprotect(range.start as *mut _, range.len, libc::PROT_NONE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What can be said about ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// Discard the contents and fault on every later access, without a mapping of its own.
    #[cfg(target_os = "linux")]
    Guard,
    /// Commit the pages now.
    #[cfg(target_os = "linux")]
    Populate,
    /// Never use huge pages.
    #[cfg(target_os = "linux")]
    NoHugePage,
    /// Discard the contents and give the memory back; guards stay.
    GiveBack,
}

impl Advice {
    fn number(self) -> libc::c_int {
        match self {
            // MADV_GUARD_INSTALL, Linux 6.13; libc does not have it yet.
            #[cfg(target_os = "linux")]
            Self::Guard => 102,
            #[cfg(target_os = "linux")]
            Self::Populate => libc::MADV_POPULATE_WRITE,
            #[cfg(target_os = "linux")]
            Self::NoHugePage => libc::MADV_NOHUGEPAGE,
            Self::GiveBack => libc::MADV_DONTNEED,
        }
    }
}

/// Gives the same advice about every range.
///
/// # Safety
/// - Every range lies in a mapping made by [`reserve`].
/// - If the advice discards contents, nobody uses them any more.
pub(super) unsafe fn advise(ranges: &[Range], advice: Advice) -> io::Result<()> {
    for chunk in ranges.chunks(RANGES_PER_CALL_MAX) {
        // SAFETY: passed on to the caller.
        if chunk.len() > 1 && unsafe { batch::advise(chunk, advice) } {
            continue;
        }
        // Advice can be repeated, so what a batch did before it failed does no harm.
        for range in chunk {
            // SAFETY: passed on to the caller.
            unsafe { advise_one(*range, advice) }?;
        }
    }
    Ok(())
}

/// # Safety
/// As [`advise`].
unsafe fn advise_one(range: Range, advice: Advice) -> io::Result<()> {
    loop {
        // SAFETY: passed on to the caller.
        let result = unsafe { libc::madvise(range.start as *mut _, range.len, advice.number()) };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) {
            return Err(error);
        }
    }
}

#[cfg(target_os = "linux")]
mod batch {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use super::{Advice, Range};

    /// Cleared by the first refusal that says the kernel cannot do this at all.
    static WORKS: AtomicBool = AtomicBool::new(true);

    /// PIDFD_SELF_THREAD. A kernel that does not know it answers EBADF.
    const SELF: libc::c_long = -10_000;

    /// Tries one call for all ranges; false if some of them may be left.
    ///
    /// # Safety
    /// As [`super::advise`].
    pub(super) unsafe fn advise(ranges: &[Range], advice: Advice) -> bool {
        if !WORKS.load(Relaxed) {
            return false;
        }
        // SAFETY: `Range` is laid out as iovec and the slice outlives the call; that the ranges
        // may be advised is passed on to the caller.
        let done = unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                SELF,
                ranges.as_ptr(),
                ranges.len(),
                libc::c_long::from(advice.number()),
                0_usize,
            )
        };
        if done >= 0 {
            let total: usize = ranges.iter().map(|range| range.len).sum();
            return done as usize == total;
        }
        let error = std::io::Error::last_os_error().raw_os_error();
        if matches!(error, Some(libc::EBADF | libc::ENOSYS | libc::EPERM)) {
            WORKS.store(false, Relaxed);
        }
        false
    }
}

#[cfg(not(target_os = "linux"))]
mod batch {
    use super::{Advice, Range};

    /// # Safety
    /// None: there is no such call here.
    pub(super) unsafe fn advise(_ranges: &[Range], _advice: Advice) -> bool {
        false
    }
}

/// Calls `found` with the index of every page of `range` that is in memory, lowest first, until it
/// answers false.
#[cfg(target_os = "linux")]
pub(super) fn resident_pages(range: Range, mut found: impl FnMut(usize) -> bool) -> io::Result<()> {
    let page = page_bytes();
    let mut map = [0_u8; 256];
    let mut first = 0;
    while first * page < range.len {
        let pages = map.len().min(range.len / page - first);
        let start = (range.start + first * page) as *mut libc::c_void;
        // SAFETY: `map` has a byte for each page asked for; nothing else is written, and an
        // address that is not mapped is an error.
        let result = unsafe { libc::mincore(start, pages * page, map.as_mut_ptr()) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        for (index, state) in map[..pages].iter().enumerate() {
            if state & 1 != 0 && !found(first + index) {
                return Ok(());
            }
        }
        first += pages;
    }
    Ok(())
}

/// Not known here.
#[cfg(not(target_os = "linux"))]
pub(super) fn resident_pages(_range: Range, _found: impl FnMut(usize) -> bool) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Bytes of a page.
pub(super) fn page_bytes() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| {
        // SAFETY: sysconf reads a constant of the system.
        let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(bytes).unwrap_or(4096)
    })
}

/// Bytes the kernel puts on a stack to deliver a signal.
pub(super) fn signal_frame_bytes() -> usize {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: getauxval reads a table the kernel made at exec.
        let bytes = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } as usize;
        bytes.max(libc::MINSIGSTKSZ)
    }
    #[cfg(not(target_os = "linux"))]
    {
        libc::MINSIGSTKSZ
    }
}

/// How many mappings a process may have, `vm.max_map_count`.
pub(super) fn mappings_max() -> usize {
    if !cfg!(target_os = "linux") {
        return usize::MAX;
    }
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count");
    let limit = text.ok().and_then(|text| text.trim().parse().ok());
    // The kernel's default, for when /proc is not mounted.
    limit.unwrap_or(65_530)
}

// Without NORESERVE the default overcommit heuristic counts the whole reservation. MAP_STACK is
// what OpenBSD demands of a stack, keeps huge pages away on Linux, and means something else on
// FreeBSD.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "netbsd"))]
const EXTRA_FLAGS: libc::c_int = libc::MAP_NORESERVE | libc::MAP_STACK;
#[cfg(target_vendor = "apple")]
const EXTRA_FLAGS: libc::c_int = libc::MAP_NORESERVE;
#[cfg(target_os = "openbsd")]
const EXTRA_FLAGS: libc::c_int = libc::MAP_STACK;
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "netbsd",
    target_vendor = "apple",
    target_os = "openbsd"
)))]
const EXTRA_FLAGS: libc::c_int = 0;

/// The kernel takes at most UIO_MAXIOV = 1024.
const RANGES_PER_CALL_MAX: usize = 512;
