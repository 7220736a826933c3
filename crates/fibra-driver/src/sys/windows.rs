//! Windows: the calls behind the mio backend, on top of socket2 and WinSock.
//!
//! Sockets are in non-blocking mode (whoever makes a `Descriptor` promises it), so a plain call is
//! the non-blocking one. Only type-checked so far, never run.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::windows::io::{AsRawSocket, AsSocket, FromRawSocket, IntoRawSocket};
use std::slice;

use socket2::{MaybeUninitSlice, SockRef};
use windows_sys::Win32::Networking::WinSock;
use windows_sys::Win32::System::Performance;

use crate::interest::{Interest, Readiness};
use crate::op::{Message, Shutdown};

pub(crate) use std::os::windows::io::{BorrowedSocket as BorrowedFd, OwnedSocket as OwnedFd};
/// A socket handle.
pub type RawFd = std::os::windows::io::RawSocket;
/// One entry of a list of buffers.
pub(crate) type IoBuffer = WinSock::WSABUF;

/// Nothing: the calls take the list of buffers as it is.
pub(crate) struct MessageHeader;

impl MessageHeader {
    pub const EMPTY: Self = Self;
}

/// The error number of an op that was cancelled before it had an effect.
pub const ECANCELED: i32 = WinSock::WSAECANCELLED;
/// The error number of a blocking op whose deadline has passed.
pub const ETIMEDOUT: i32 = WinSock::WSAETIMEDOUT;

/// The answer "not now" of the non-blocking calls below.
pub(crate) const WOULD_BLOCK: i32 = -WinSock::WSAEWOULDBLOCK;
/// The result of an op that was cancelled before it had an effect.
pub(crate) const CANCELLED: i32 = -ECANCELED;
/// The result of an op beyond the driver's limit.
pub(crate) const NO_BUFFERS: i32 = -WinSock::WSAENOBUFS;
/// The result of a blocking op past its deadline.
pub(crate) const TIMED_OUT: i32 = -ETIMEDOUT;
/// The answer of a sleep that a signal ended: never here.
pub(crate) const INTERRUPTED: i32 = -WinSock::WSAEINTR;
/// The result of a send on a side that sends no more.
pub(crate) const BROKEN_PIPE: i32 = -WinSock::WSAESHUTDOWN;
/// The result of an op whose descriptor was closed under it.
pub(crate) const BAD_DESCRIPTOR: i32 = -WinSock::WSAENOTSOCK;
/// The result of a connect whose socket was closed before it was connected or refused.
pub(crate) const NOT_CONNECTED: i32 = -WinSock::WSAENOTCONN;
/// The OS error number with which the `select` backend refuses a descriptor; that backend does not
/// exist here.
pub const DESCRIPTOR_TOO_HIGH: i32 = WinSock::WSAEMFILE;
/// The most bytes one call moves, so that a count fits an `i32`.
pub(crate) const COUNT_MAX: usize = 0x7fff_f000;

/// Takes over a socket handle, as an accept gives it.
///
/// # Safety
/// `fd` is open and nobody else owns it.
pub(crate) unsafe fn owned_fd(fd: i32) -> OwnedFd {
    // SAFETY: forwarded; the caller keeps the same promises.
    unsafe { OwnedFd::from_raw_socket(fd as RawFd) }
}

/// Hands a socket out as a number, as an accept gives it: handles have 32 significant bits.
pub(crate) fn into_raw_fd(fd: OwnedFd) -> i32 {
    fd.into_raw_socket() as i32
}

pub(crate) fn raw_fd(fd: &OwnedFd) -> RawFd {
    fd.as_raw_socket()
}

pub(crate) fn as_fd(fd: &OwnedFd) -> BorrowedFd<'_> {
    fd.as_socket()
}

pub(crate) fn monotonic_nanos() -> u64 {
    let (mut count, mut per_second) = (0_i64, 0_i64);
    // SAFETY: writes one integer, and cannot fail since Windows XP.
    unsafe { Performance::QueryPerformanceCounter(&mut count) };
    // SAFETY: writes one integer, and cannot fail since Windows XP.
    unsafe { Performance::QueryPerformanceFrequency(&mut per_second) };
    (count.max(0) as u128 * 1_000_000_000 / per_second.max(1) as u128) as u64
}

/// Runs `call` on a socket that somebody else owns.
fn with<T>(fd: RawFd, call: impl FnOnce(&SockRef<'_>) -> io::Result<T>) -> io::Result<T> {
    // SAFETY: the caller of this module passes open sockets only.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    call(&SockRef::from(&fd))
}

/// A count, or the error number, negated.
fn answer(result: io::Result<usize>) -> i32 {
    match result {
        Ok(count) => count as i32,
        Err(error) => negated(&error),
    }
}

/// Takes a connection; the new socket is not inherited by children and non-blocking.
pub(crate) fn accept(fd: RawFd) -> i32 {
    let accepted = with(fd, |listener| {
        let (socket, _) = listener.accept()?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    });
    match accepted {
        // Handles are small numbers: at most 32 bits of them are significant.
        Ok(socket) => match i32::try_from(socket.as_raw_socket()) {
            Ok(number) => {
                let _ = socket.into_raw_socket();
                number
            }
            Err(_) => -WinSock::WSAEMFILE,
        },
        Err(error) => negated(&error),
    }
}

/// The socket in the result of an accept, if it is one.
pub(crate) fn accepted(result: i32) -> Option<RawFd> {
    RawFd::try_from(result).ok()
}

/// Starts to connect. `WOULD_BLOCK` means started: wait until writable, then `connect_result`.
///
/// # Safety
/// `address` is valid.
pub(crate) unsafe fn connect(fd: RawFd, address: *const socket2::SockAddr) -> i32 {
    // SAFETY: valid by the caller's promise.
    let address = unsafe { &*address };
    match answer(with(fd, |socket| socket.connect(address)).map(|()| 0)) {
        // Asked again while it is under way; WSAEINVAL is the older way to say so.
        code if code == -WinSock::WSAEALREADY || code == -WinSock::WSAEINVAL => WOULD_BLOCK,
        result => result,
    }
}

/// How a started connect ended: 0, an error, or `WOULD_BLOCK` while it is under way.
pub(crate) fn connect_result(fd: RawFd) -> i32 {
    let result = with(fd, |socket| match socket.take_error()? {
        None => socket.peer_addr().map(|_| 0),
        Some(error) => Err(error),
    });
    match answer(result) {
        NOT_CONNECTED => WOULD_BLOCK,
        result => result,
    }
}

/// Receives without waiting.
///
/// # Safety
/// `buf` is valid for writes of `len` bytes.
pub(crate) unsafe fn recv(fd: RawFd, buf: *mut u8, len: usize, peek: bool) -> i32 {
    // SAFETY: valid by the caller's promise; nothing is read from it.
    let buf =
        unsafe { slice::from_raw_parts_mut(buf.cast::<MaybeUninit<u8>>(), len.min(COUNT_MAX)) };
    answer(with(fd, |socket| if peek { socket.peek(buf) } else { socket.recv(buf) }))
}

/// Sends without waiting.
///
/// # Safety
/// `buf` is valid for reads of `len` bytes.
pub(crate) unsafe fn send(fd: RawFd, buf: *const u8, len: usize) -> i32 {
    // SAFETY: valid by the caller's promise.
    let buf = unsafe { slice::from_raw_parts(buf, len.min(COUNT_MAX)) };
    answer(with(fd, |socket| socket.send(buf)))
}

/// Receives into several buffers without waiting.
///
/// # Safety
/// `message` and what it describes is valid for writes.
pub(crate) unsafe fn recv_vectored(fd: RawFd, message: *mut Message) -> i32 {
    // SAFETY: valid by the caller's promise.
    let message = unsafe { &mut *message };
    let list = message.buffers.cast_mut().cast::<MaybeUninitSlice<'_>>();
    // SAFETY: the list is valid by the caller's promise, and both types have the layout of WSABUF.
    let list = unsafe { slice::from_raw_parts_mut(list, message.count.min(1024)) };
    answer(with(fd, |socket| socket.recv_vectored(list)).map(|(count, _)| count))
}

/// Sends from several buffers without waiting.
///
/// # Safety
/// `message` and what it describes is valid for reads.
pub(crate) unsafe fn send_vectored(fd: RawFd, message: *mut Message) -> i32 {
    // SAFETY: valid by the caller's promise.
    let message = unsafe { &*message };
    let list = message.buffers.cast::<IoSlice<'_>>();
    // SAFETY: the list is valid by the caller's promise, and both types have the layout of WSABUF.
    let list = unsafe { slice::from_raw_parts(list, message.count.min(1024)) };
    answer(with(fd, |socket| socket.send_vectored(list)))
}

/// Shuts down one or both halves.
pub(crate) fn shutdown(fd: RawFd, how: Shutdown) -> i32 {
    answer(with(fd, |socket| socket.shutdown(how)).map(|()| 0))
}

/// Closes a socket.
pub(crate) fn close(fd: RawFd) -> i32 {
    // SAFETY: no memory is passed; the caller of this module owns the socket.
    match unsafe { WinSock::closesocket(fd as WinSock::SOCKET) } {
        0 => 0,
        _ => negated(&io::Error::last_os_error()),
    }
}

/// Sleeps until `fd` is ready or the timeout (milliseconds, -1 for ever) has passed: the bits of
/// [`Readiness`], 0 if it is not ready, or a negated error.
pub(crate) fn ready(fd: RawFd, interest: Interest, timeout_ms: i32) -> i32 {
    let mut events = 0;
    if interest.is_readable() {
        events |= WinSock::POLLRDNORM;
    }
    if interest.is_writable() {
        events |= WinSock::POLLWRNORM;
    }
    let mut entry = WinSock::WSAPOLLFD { fd: fd as WinSock::SOCKET, events, revents: 0 };
    // SAFETY: one entry, which lives on this frame for the whole call.
    if unsafe { WinSock::WSAPoll(&mut entry, 1, timeout_ms) } < 0 {
        return negated(&io::Error::last_os_error());
    }
    if entry.revents & WinSock::POLLNVAL != 0 {
        return BAD_DESCRIPTOR;
    }
    let mut out = Readiness::NONE;
    let mut map = |bits: i16, meaning: Readiness| {
        if entry.revents & bits != 0 {
            out = out | meaning;
        }
    };
    map(WinSock::POLLRDNORM, Readiness::READABLE);
    map(WinSock::POLLWRNORM, Readiness::WRITABLE);
    map(WinSock::POLLHUP, Readiness::HANG_UP);
    map(WinSock::POLLERR, Readiness::ERROR);
    i32::from(out.bits())
}

/// The error number behind `error`, negated.
pub(crate) fn negated(error: &io::Error) -> i32 {
    -error.raw_os_error().filter(|code| *code > 0).unwrap_or(WinSock::WSAEFAULT)
}

/// Whether a short read shows that nothing is left: not relied on here.
pub(crate) fn short_means_drained(_fd: RawFd) -> bool {
    false
}

/// Whether mio reports edges here, once each, and re-arms by itself: no, an interest is spent by its
/// event and has to be given again.
pub(crate) const MIO_EDGES: bool = false;

/// What mio keeps per registered socket, by token.
pub(crate) struct Sources(HashMap<u64, Source>);

impl Sources {
    pub fn new() -> Self {
        Self(HashMap::new())
    }

    /// Registers an interest.
    pub fn add(
        &mut self,
        registry: &mio::Registry,
        fd: RawFd,
        token: u64,
        interest: Interest,
    ) -> io::Result<()> {
        // SAFETY: the socket is open; `Source` does not close it.
        let stream = unsafe { mio::net::TcpStream::from_raw_socket(fd) };
        let mut source = Source(ManuallyDrop::new(stream));
        registry.register(&mut *source.0, mio::Token(token as usize), mio_interest(interest))?;
        self.0.insert(token, source);
        Ok(())
    }

    /// Gives an interest again, or another one.
    pub fn modify(
        &mut self,
        registry: &mio::Registry,
        token: u64,
        interest: Interest,
    ) -> io::Result<()> {
        match self.0.get_mut(&token) {
            Some(source) => {
                let (token, interest) = (mio::Token(token as usize), mio_interest(interest));
                registry.reregister(&mut *source.0, token, interest)
            }
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Removes a registration.
    pub fn remove(&mut self, _registry: &mio::Registry, _fd: RawFd, token: u64) {
        self.0.remove(&token);
    }
}

/// Nothing: only what somebody waits for is registered, and closing ends it too.
pub(crate) fn remove_source(_registry: &mio::Registry, _fd: RawFd) {}

fn mio_interest(interest: Interest) -> mio::Interest {
    match (interest.is_readable(), interest.is_writable()) {
        (true, true) => mio::Interest::READABLE | mio::Interest::WRITABLE,
        (false, true) => mio::Interest::WRITABLE,
        _ => mio::Interest::READABLE,
    }
}

/// A socket as mio knows it. mio registers only its own types; which one of them does not matter.
///
/// # Invariant
/// Taken only by `drop`, which lets go of the socket without closing it: somebody else owns it.
struct Source(ManuallyDrop<mio::net::TcpStream>);

impl Drop for Source {
    fn drop(&mut self) {
        // SAFETY: taken here only, and this value is not used afterwards.
        let stream = unsafe { ManuallyDrop::take(&mut self.0) };
        // Ends the registration; the handle goes back to its owner.
        let _ = stream.into_raw_socket();
    }
}
