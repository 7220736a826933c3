//! Counts system calls through the kernel's `raw_syscalls:sys_enter` tracepoint.
//!
//! A tracer (strace) stops the process at every call, so a server falls behind, finds more ready at
//! each turn, and batches better than it does untraced. A counter in the kernel does not. It needs
//! root or a low `perf_event_paranoid`, and tracefs: where that is not mounted, the process mounts
//! it in a mount namespace of its own, which nobody else sees and which ends with it.

use std::ffi::CStr;
use std::fs;
use std::io::Read;
use std::os::fd::{FromRawFd, RawFd};

use crate::proc;

const ID: &str = "/sys/kernel/tracing/events/raw_syscalls/sys_enter/id";
const TRACEPOINT: u32 = 2; // PERF_TYPE_TRACEPOINT
const INHERIT: u64 = 1 << 1;

/// `perf_event_attr` as far as its first published version, 64 bytes.
#[repr(C)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    config1: u64,
}

/// Counts the system calls of some threads from its making on.
pub struct SyscallCounter {
    counters: Vec<fs::File>,
}

impl SyscallCounter {
    /// Counts this process: the calling thread and every thread it starts from now on.
    pub fn of_this_process() -> Option<SyscallCounter> {
        let id = tracepoint_id()?;
        Some(SyscallCounter { counters: vec![open(id, 0, INHERIT)?] })
    }

    /// Counts the threads another process has now. Call while this process has one thread.
    pub fn of(pid: u32) -> Option<SyscallCounter> {
        let id = tracepoint_id()?;
        let threads = proc::threads(pid).ok()?;
        let counters: Option<Vec<fs::File>> =
            threads.into_iter().map(|thread| open(id, thread as i32, 0)).collect();
        Some(SyscallCounter { counters: counters? })
    }

    /// Calls so far.
    pub fn read(&self) -> u64 {
        let mut sum = 0;
        for mut counter in &self.counters {
            let mut value = [0u8; 8];
            if counter.read_exact(&mut value).is_ok() {
                sum += u64::from_ne_bytes(value);
            }
        }
        sum
    }
}

fn tracepoint_id() -> Option<u64> {
    if !fs::exists(ID).ok()? {
        mount_privately();
    }
    fs::read_to_string(ID).ok()?.trim().parse().ok()
}

fn mount_privately() {
    fn mount(source: &CStr, at: &CStr, kind: &CStr, flags: u64) {
        // SAFETY: the strings are terminated and live across the call; data may be null.
        unsafe {
            libc::mount(source.as_ptr(), at.as_ptr(), kind.as_ptr(), flags, std::ptr::null());
        }
    }
    // SAFETY: takes flags only; on failure nothing changed and nothing is mounted.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0 {
        mount(c"none", c"/", c"none", libc::MS_REC | libc::MS_PRIVATE);
        mount(c"none", c"/sys/kernel/tracing", c"tracefs", 0);
    }
}

fn open(id: u64, thread: i32, flags: u64) -> Option<fs::File> {
    let attributes = Attributes {
        kind: TRACEPOINT,
        size: 64,
        config: id,
        period: 0,
        sample_type: 0,
        read_format: 0,
        flags,
        wakeup_events: 0,
        breakpoint_type: 0,
        config1: 0,
    };
    // SAFETY: `attributes` is as long as its `size` says and lives across the call.
    let fd = unsafe {
        libc::syscall(libc::SYS_perf_event_open, &raw const attributes, thread, -1, -1, 0)
    };
    // SAFETY: a descriptor just opened, owned by nobody else.
    (fd >= 0).then(|| unsafe { fs::File::from_raw_fd(fd as RawFd) })
}
