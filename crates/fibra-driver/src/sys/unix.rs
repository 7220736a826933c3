//! Unix: the calls behind the readiness backends and blocking ops.

use std::mem;
use std::os::fd::AsRawFd;
use std::ptr;

use crate::interest::{Interest, Readiness};
use crate::op::{Message, Shutdown};

pub(crate) use std::os::fd::{BorrowedFd, OwnedFd};
/// A descriptor number.
pub type RawFd = std::os::fd::RawFd;
/// One entry of a list of buffers.
pub(crate) type IoBuffer = libc::iovec;

/// The message header the kernel reads.
pub(crate) struct MessageHeader(pub libc::msghdr);

impl MessageHeader {
    // SAFETY: msghdr is plain data for which all zeroes is "no name, no buffers, no control data".
    pub const EMPTY: Self = Self(unsafe { mem::zeroed() });
}

/// The error number of an op that was cancelled before it had an effect.
pub const ECANCELED: i32 = libc::ECANCELED;
/// The error number of a blocking op whose deadline has passed.
pub const ETIMEDOUT: i32 = libc::ETIMEDOUT;

/// The answer "not now" of the non-blocking calls below.
pub(crate) const WOULD_BLOCK: i32 = -libc::EAGAIN;
/// The result of an op that was cancelled before it had an effect.
pub(crate) const CANCELLED: i32 = -libc::ECANCELED;
/// The result of an op beyond the driver's limit.
pub(crate) const NO_BUFFERS: i32 = -libc::ENOBUFS;
/// The result of a blocking op past its deadline.
pub(crate) const TIMED_OUT: i32 = -libc::ETIMEDOUT;
/// The answer of a sleep that a signal ended.
pub(crate) const INTERRUPTED: i32 = -libc::EINTR;
/// The result of a send on a side that sends no more.
pub(crate) const BROKEN_PIPE: i32 = -libc::EPIPE;

/// Takes over a descriptor number, as an accept gives it.
///
/// # Safety
/// `fd` is open and nobody else owns it.
pub(crate) unsafe fn owned_fd(fd: i32) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: forwarded; the caller keeps the same promises.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Hands a descriptor out as a number, as an accept gives it.
pub(crate) fn into_raw_fd(fd: OwnedFd) -> i32 {
    use std::os::fd::IntoRawFd;
    fd.into_raw_fd()
}

pub(crate) fn raw_fd(fd: &OwnedFd) -> RawFd {
    fd.as_raw_fd()
}

pub(crate) fn as_fd(fd: &OwnedFd) -> BorrowedFd<'_> {
    use std::os::fd::AsFd;
    fd.as_fd()
}

pub(crate) fn monotonic_nanos() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The last OS error, negated. Never 0.
pub(crate) fn negated_errno() -> i32 {
    match std::io::Error::last_os_error().raw_os_error() {
        Some(code) if code != 0 => -code,
        _ => -libc::EIO,
    }
}

/// Turns the return value of a call into a result, retrying interrupted calls.
fn call(mut attempt: impl FnMut() -> isize) -> i32 {
    loop {
        match attempt() {
            -1 => match negated_errno() {
                code if code == -libc::EINTR => {}
                code => return code,
            },
            // Counts are capped by `COUNT_MAX`, descriptor numbers are ints: it fits.
            count => return count as i32,
        }
    }
}

/// The OS error number with which the `select` backend refuses a descriptor that `select(2)` cannot
/// name (its number is `FD_SETSIZE`, mostly 1024, or higher): `ERANGE`. Use another backend, or fewer
/// descriptors. Accepting answers `EMFILE` instead and leaves the connection in the backlog, as at
/// any other limit of descriptors.
pub const DESCRIPTOR_TOO_HIGH: i32 = libc::ERANGE;

/// The most bytes one call moves, so that a count fits an `i32` (Linux has the same limit).
pub(crate) const COUNT_MAX: usize = 0x7fff_f000;

#[cfg(any(target_os = "linux", target_os = "freebsd", target_os = "android"))]
const SEND_FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
#[cfg(not(any(target_os = "linux", target_os = "freebsd", target_os = "android")))]
const SEND_FLAGS: libc::c_int = libc::MSG_DONTWAIT;

/// Takes a connection; the new descriptor is close-on-exec and non-blocking.
#[cfg(any(target_os = "linux", target_os = "freebsd", target_os = "android"))]
pub(crate) fn accept(fd: RawFd) -> i32 {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: null for "no address wanted" is allowed; no memory is passed.
    call(|| unsafe { libc::accept4(fd, ptr::null_mut(), ptr::null_mut(), flags) } as isize)
}

/// Takes a connection; the new descriptor is close-on-exec and non-blocking.
#[cfg(not(any(target_os = "linux", target_os = "freebsd", target_os = "android")))]
pub(crate) fn accept(fd: RawFd) -> i32 {
    // SAFETY: null for "no address wanted" is allowed; no memory is passed.
    let new = call(|| unsafe { libc::accept(fd, ptr::null_mut(), ptr::null_mut()) } as isize);
    if new >= 0 {
        // SAFETY: `new` is the descriptor just made; fcntl takes no memory here.
        unsafe {
            libc::fcntl(new, libc::F_SETFD, libc::FD_CLOEXEC);
            libc::fcntl(new, libc::F_SETFL, libc::O_NONBLOCK);
        }
    }
    new
}

/// Starts to connect. `WOULD_BLOCK` means started: wait until writable, then `connect_result`.
///
/// # Safety
/// `address` is valid.
pub(crate) unsafe fn connect(fd: RawFd, address: *const socket2::SockAddr) -> i32 {
    // SAFETY: valid by the caller's promise.
    let address = unsafe { &*address };
    // SAFETY: the pointer and the length describe the address just borrowed.
    let result =
        call(|| unsafe { libc::connect(fd, address.as_ptr().cast(), address.len()) } as isize);
    // A connect that was interrupted goes on by itself; asking again says EALREADY.
    if result == -libc::EINPROGRESS || result == -libc::EALREADY { WOULD_BLOCK } else { result }
}

/// How a started connect ended: 0, an error, or `WOULD_BLOCK` while it is under way.
pub(crate) fn connect_result(fd: RawFd) -> i32 {
    // SAFETY: the caller of this module passes open descriptors only.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let socket = socket2::SockRef::from(&fd);
    match socket.take_error() {
        Ok(None) => match socket.peer_addr() {
            Ok(_) => 0,
            Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => WOULD_BLOCK,
            Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
        },
        Ok(Some(error)) | Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
    }
}

/// Receives without waiting.
///
/// # Safety
/// `buf` is valid for writes of `len` bytes.
pub(crate) unsafe fn recv(fd: RawFd, buf: *mut u8, len: usize, peek: bool) -> i32 {
    let flags = libc::MSG_DONTWAIT | if peek { libc::MSG_PEEK } else { 0 };
    // SAFETY: valid by the caller's promise.
    call(|| unsafe { libc::recv(fd, buf.cast(), len.min(COUNT_MAX), flags) })
}

/// Sends without waiting.
///
/// # Safety
/// `buf` is valid for reads of `len` bytes.
pub(crate) unsafe fn send(fd: RawFd, buf: *const u8, len: usize) -> i32 {
    // SAFETY: valid by the caller's promise.
    call(|| unsafe { libc::send(fd, buf.cast(), len.min(COUNT_MAX), SEND_FLAGS) })
}

/// Fills the header of a message, which stays valid as long as the message does not move.
///
/// # Safety
/// `message` is valid.
pub(crate) unsafe fn prepare(message: *mut Message) -> *mut libc::msghdr {
    // SAFETY: valid by the caller's promise; nobody else uses it before the final completion.
    let message = unsafe { &mut *message };
    message.header.0.msg_iov = message.buffers.cast_mut();
    // More than IOV_MAX buffers: the rest is for the next call, as with std.
    message.header.0.msg_iovlen = message.count.min(1024) as _;
    &mut message.header.0
}

/// Receives into several buffers without waiting.
///
/// # Safety
/// `message` and what it describes is valid for writes.
pub(crate) unsafe fn recv_vectored(fd: RawFd, message: *mut Message) -> i32 {
    // SAFETY: valid by the caller's promise.
    let header = unsafe { prepare(message) };
    // SAFETY: the header was just filled from a valid message.
    call(|| unsafe { libc::recvmsg(fd, header, libc::MSG_DONTWAIT) })
}

/// Sends from several buffers without waiting.
///
/// # Safety
/// `message` and what it describes is valid for reads.
pub(crate) unsafe fn send_vectored(fd: RawFd, message: *mut Message) -> i32 {
    // SAFETY: valid by the caller's promise.
    let header = unsafe { prepare(message) };
    // SAFETY: the header was just filled from a valid message.
    call(|| unsafe { libc::sendmsg(fd, header, SEND_FLAGS) })
}

/// Shuts down one or both halves.
pub(crate) fn shutdown(fd: RawFd, how: Shutdown) -> i32 {
    let how = match how {
        Shutdown::Read => libc::SHUT_RD,
        Shutdown::Write => libc::SHUT_WR,
        Shutdown::Both => libc::SHUT_RDWR,
    };
    // SAFETY: no memory is passed.
    call(|| unsafe { libc::shutdown(fd, how) } as isize)
}

/// Closes a number. Never retried: on Linux the number is gone even after EINTR.
pub(crate) fn close(fd: RawFd) -> i32 {
    // SAFETY: the caller of this module owns the number.
    if unsafe { libc::close(fd) } == 0 { 0 } else { negated_errno() }
}

/// The `poll(2)` bits that stand for an interest.
pub(crate) fn poll_events(interest: Interest) -> libc::c_short {
    let mut events = 0;
    if interest.is_readable() {
        events |= libc::POLLIN;
        #[cfg(target_os = "linux")]
        {
            events |= libc::POLLRDHUP;
        }
    }
    if interest.is_writable() {
        events |= libc::POLLOUT;
    }
    events
}

/// The readiness that `poll(2)` bits stand for.
pub(crate) fn readiness(events: libc::c_short) -> Readiness {
    let mut out = Readiness::NONE;
    let mut map = |bits: libc::c_short, meaning: Readiness| {
        if events & bits != 0 {
            out = out | meaning;
        }
    };
    map(libc::POLLIN, Readiness::READABLE);
    map(libc::POLLOUT, Readiness::WRITABLE);
    #[cfg(target_os = "linux")]
    map(libc::POLLRDHUP, Readiness::READ_CLOSED);
    map(libc::POLLHUP, Readiness::HANG_UP);
    map(libc::POLLERR | libc::POLLNVAL, Readiness::ERROR);
    out
}

/// Sleeps until `fd` is ready or the timeout (milliseconds, -1 for ever) has passed: the bits of
/// [`Readiness`], 0 if it is not ready, or a negated error; `-EBADF` if `fd` is not open. Interrupted
/// sleeps end with `-EINTR`; a timeout of 0 is no sleep and always answers.
pub(crate) fn ready(fd: RawFd, interest: Interest, timeout_ms: i32) -> i32 {
    let mut entry = libc::pollfd { fd, events: poll_events(interest), revents: 0 };
    loop {
        // SAFETY: one entry, which lives on this frame for the whole call.
        match unsafe { libc::poll(&mut entry, 1, timeout_ms) } {
            -1 => match negated_errno() {
                // A pending signal interrupts even a call that does not sleep.
                code if code == -libc::EINTR && timeout_ms == 0 => {}
                code => return code,
            },
            _ if entry.revents & libc::POLLNVAL != 0 => return -libc::EBADF,
            _ => return i32::from(readiness(entry.revents).bits()),
        }
    }
}

/// The result of an op whose descriptor was closed under it.
pub(crate) const BAD_DESCRIPTOR: i32 = -libc::EBADF;
/// The result of a connect whose socket was closed before it was connected or refused.
pub(crate) const NOT_CONNECTED: i32 = -libc::ENOTCONN;

/// The descriptor in the result of an accept, if it is one.
pub(crate) fn accepted(result: i32) -> Option<RawFd> {
    (result >= 0).then_some(result)
}

/// The error number behind `error`, negated.
pub(crate) fn negated(error: &std::io::Error) -> i32 {
    -error.raw_os_error().filter(|code| *code > 0).unwrap_or(libc::EIO)
}

/// Whether a read (write) of fewer bytes than asked shows that nothing (no room) is left: true only
/// for TCP. Datagrams end a read early, and so do descriptors sent along over a Unix socket.
#[cfg(target_os = "linux")]
pub(crate) fn short_means_drained(fd: RawFd) -> bool {
    // SAFETY: the caller of this module passes open descriptors only.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    matches!(socket2::SockRef::from(&fd).protocol(), Ok(Some(socket2::Protocol::TCP)))
}

/// Whether a short read shows that nothing is left: not relied on here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn short_means_drained(_fd: RawFd) -> bool {
    false
}

/// Whether mio reports edges here, once each, and re-arms by itself.
pub(crate) const MIO_EDGES: bool = true;

/// What mio keeps per registered descriptor: nothing, the kernel does.
pub(crate) struct Sources;

impl Sources {
    pub fn new() -> Self {
        Self
    }

    /// Registers both directions, whatever was asked: there is no call to make later then.
    pub fn add(
        &mut self,
        registry: &mio::Registry,
        fd: RawFd,
        token: u64,
        _interest: Interest,
    ) -> std::io::Result<()> {
        let interest = mio::Interest::READABLE | mio::Interest::WRITABLE;
        // Urgent data ends reads early; its edge says so.
        #[cfg(target_os = "linux")]
        let interest = interest | mio::Interest::PRIORITY;
        let (mut source, token) = (mio::unix::SourceFd(&fd), mio::Token(token as usize));
        match registry.register(&mut source, token, interest) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                registry.reregister(&mut source, token, interest)
            }
            result => result,
        }
    }

    /// Nothing: both directions are registered.
    pub fn modify(
        &mut self,
        _registry: &mio::Registry,
        _token: u64,
        _interest: Interest,
    ) -> std::io::Result<()> {
        Ok(())
    }

    /// Removes a registration.
    pub fn remove(&mut self, registry: &mio::Registry, fd: RawFd, _token: u64) {
        remove_source(registry, fd);
    }
}

/// Removes a registration; from any thread.
pub(crate) fn remove_source(registry: &mio::Registry, fd: RawFd) {
    // ENOENT: it was never registered, or removed already. Nothing is left either way.
    let _ = registry.deregister(&mut mio::unix::SourceFd(&fd));
}
