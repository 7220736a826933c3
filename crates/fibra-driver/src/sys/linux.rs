//! Linux: the calls of io_uring in the form the `uring` backend needs, and eventfd.
//!
//! The queues themselves are mapped by the `io-uring` crate. The calls are made here, because its
//! `Submitter` is rebuilt at every use and cannot keep the registered ring number, and because it
//! has no form of the synchronous `MSG_RING` of Linux 6.13.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::{EnterFlags, opcode, types};

use crate::sys::negated_errno;

/// `io_uring_getevents_arg` of the kernel.
#[repr(C)]
struct GetEventsArg {
    sigmask: u64,
    sigmask_len: u32,
    min_wait_usec: u32,
    timespec: u64,
}

/// `io_uring_rsrc_update` of the kernel, as `REGISTER_RING_FDS` uses it.
#[repr(C)]
struct RingUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

const REGISTER_ENABLE_RINGS: u32 = 12;
const REGISTER_RING_FDS: u32 = 20;
const UNREGISTER_RING_FDS: u32 = 21;
const REGISTER_SEND_MSG_RING: u32 = 31;

const _: () = assert!(size_of::<Entry>() == 64, "the kernel copies 64 bytes of an entry");

/// How a ring is named in a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RingNumber {
    /// By its descriptor.
    Descriptor(RawFd),
    /// By its index in the calling thread's table, which saves the lookup of the descriptor.
    Registered(u32),
}

/// Submits `to_submit` entries and waits for `want` completions, at most `timeout` long.
///
/// The number of entries consumed, or a negated OS error number. Not retried: the caller looks at
/// its queues first.
pub(crate) fn uring_enter(
    ring: RingNumber,
    to_submit: u32,
    want: u32,
    flags: EnterFlags,
    timeout: Option<Duration>,
) -> i32 {
    let (number, mut flags) = match ring {
        RingNumber::Descriptor(fd) => (fd, flags),
        RingNumber::Registered(index) => (index as RawFd, flags | EnterFlags::REGISTERED_RING),
    };
    let timespec = timeout.map(types::Timespec::from);
    let mut arg = GetEventsArg { sigmask: 0, sigmask_len: 0, min_wait_usec: 0, timespec: 0 };
    let (mut arg_ptr, mut arg_len) = (ptr::null(), 0);
    if let Some(timespec) = &timespec {
        flags |= EnterFlags::EXT_ARG;
        arg.timespec = ptr::from_ref(timespec) as u64;
        (arg_ptr, arg_len) = (ptr::from_ref(&arg), size_of::<GetEventsArg>());
    }
    // SAFETY: the argument, if any, lives on this frame for the whole call. What the queued entries
    // point to is promised by whoever pushed them (`Ring::push`).
    let result = unsafe {
        libc::syscall(
            libc::SYS_io_uring_enter,
            number,
            to_submit,
            want,
            flags.bits(),
            arg_ptr,
            arg_len,
        )
    };
    if result < 0 { negated_errno() } else { result as i32 }
}

/// Ends the disabled state of a ring; the calling thread becomes the only one that may use it.
pub(crate) fn uring_enable(ring: RawFd) -> io::Result<()> {
    // SAFETY: takes no memory.
    unsafe { register(ring, REGISTER_ENABLE_RINGS, ptr::null_mut(), 0) }.map(drop)
}

/// Enters the ring into the calling thread's table. Answers the index.
pub(crate) fn uring_register_number(ring: RawFd) -> io::Result<u32> {
    let mut update = RingUpdate { offset: u32::MAX, reserved: 0, data: ring as u64 };
    // SAFETY: one update, which lives on this frame for the whole call.
    unsafe { register(ring, REGISTER_RING_FDS, ptr::from_mut(&mut update).cast(), 1) }?;
    Ok(update.offset)
}

/// Takes the ring out of the calling thread's table, which would keep it alive.
pub(crate) fn uring_unregister_number(ring: RawFd, index: u32) -> io::Result<()> {
    let mut update = RingUpdate { offset: index, reserved: 0, data: 0 };
    // SAFETY: one update, which lives on this frame for the whole call.
    unsafe { register(ring, UNREGISTER_RING_FDS, ptr::from_mut(&mut update).cast(), 1) }.map(drop)
}

/// Posts a completion with `user_data` to `ring` from any thread, without a ring of one's own.
pub(crate) fn uring_post(ring: RawFd, user_data: u64) -> io::Result<()> {
    let mut entry = opcode::MsgRingData::new(types::Fd(ring), 0, user_data, None).build();
    // SAFETY: one entry of 64 bytes, which lives on this frame for the whole call.
    unsafe { register(-1, REGISTER_SEND_MSG_RING, ptr::from_mut(&mut entry).cast(), 1) }.map(drop)
}

/// # Safety
/// `arg` is what `opcode` wants, `count` times.
unsafe fn register(
    ring: RawFd,
    opcode: u32,
    arg: *mut libc::c_void,
    count: u32,
) -> io::Result<i32> {
    // SAFETY: by the caller's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_io_uring_register, ring, opcode, arg, count) } as i32;
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A counter that can be waited for. In blocking mode, so that a READ op on it waits on every
/// kernel; writes to it cannot block before 2^64 - 2 of them are unread.
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: takes no memory.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds one to a counter made by [`eventfd`].
pub(crate) fn eventfd_kick(fd: &OwnedFd) {
    let one = 1u64.to_ne_bytes();
    loop {
        // SAFETY: eight bytes, which live on this frame for the whole call.
        let written = unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        // Nothing else can fail: the descriptor is an open eventfd whose count stays small.
        if written >= 0 || negated_errno() != -libc::EINTR {
            return;
        }
    }
}

/// The release of the running kernel, as in "6.1.0-13-amd64".
pub(crate) fn kernel_release() -> String {
    // SAFETY: `utsname` is plain data for which all zeroes is a valid value.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: the memory lives on this frame for the whole call.
    if unsafe { libc::uname(&mut name) } != 0 {
        return "unknown".to_owned();
    }
    // SAFETY: the kernel fills the field with a string that ends in a zero byte.
    let release = unsafe { CStr::from_ptr(name.release.as_ptr()) };
    release.to_string_lossy().into_owned()
}
