//! TCP connections.
//!
//! Every read and write takes the path of `direction`; what is here is std's shape around it.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use fibra_driver::{Direction, Message, RawOp, Socket};

use super::address::{ToSocketAddrs, first_that_works};
use super::direction::{self, LEN_MAX, as_io_result};
use super::shortage::OnClose;
use crate::sched::wait::{self, Interrupt};

/// A TCP connection between a local and a remote socket.
///
/// Like [`std::net::TcpStream`], to be used from fibers and from plain threads, from several at
/// once if need be: each direction serves its callers first come first served. The connection is
/// closed when the last handle is dropped; a call that another fiber or thread makes at that time
/// keeps its handle alive.
///
/// There is no `IntoRawFd`: see [`into_std`](Self::into_std).
///
/// # Suspends
/// Reads, until there are bytes, the end of the stream or an error; writes, until there is room.
///
/// # Cancellation
/// A read or write that is cancelled, or whose deadline passes, fails unless it had moved bytes
/// already: then it returns their number, and the next wait of the fiber fails instead. Nothing is
/// lost and nothing is sent twice. The stream stays usable.
///
/// # Examples
/// ```
/// # use fibra_runtime as fibra;
/// use std::io::{Read, Write};
/// use fibra::net::{TcpListener, TcpStream};
///
/// # fn main() -> std::io::Result<()> {
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let mut client = TcpStream::connect(listener.local_addr()?)?;
/// let (mut server, _) = listener.accept()?;
///
/// client.write_all(b"hello")?;
/// drop(client);
/// let mut text = String::new();
/// server.read_to_string(&mut text)?;
/// assert_eq!(text, "hello");
/// # Ok(())
/// # }
/// ```
pub struct TcpStream {
    socket: Socket,
    /// Dropped after the socket.
    _on_close: OnClose,
}

impl TcpStream {
    /// Connects to the first of the addresses that accepts.
    ///
    /// # Suspends
    /// Until an attempt has succeeded or all have failed, and while a name is looked up.
    ///
    /// # Errors
    /// The error of the last address; `InvalidInput` if there was none.
    ///
    /// # Cancellation
    /// The attempt under way is given up, its socket closed, and no further address is tried.
    pub fn connect<A: ToSocketAddrs>(address: A) -> io::Result<Self> {
        let given_up = std::cell::Cell::new(false);
        first_that_works(
            address,
            |_| given_up.get(),
            |address| match Self::connect_one(address, None) {
                Ok(stream) => Ok(stream),
                Err(Failure::Io(error)) => Err(error),
                Err(Failure::Interrupted(interrupt)) => {
                    given_up.set(true);
                    Err(interrupt.into())
                }
            },
        )
    }

    /// Connects to one address, waiting no longer than `timeout`.
    ///
    /// # Suspends
    /// Until the attempt has ended.
    ///
    /// # Errors
    /// `InvalidInput` if the timeout is zero; `TimedOut` once it has passed; else what connecting
    /// gave.
    ///
    /// # Cancellation
    /// As for [`connect`](Self::connect).
    pub fn connect_timeout(address: &SocketAddr, timeout: Duration) -> io::Result<Self> {
        check_timeout(timeout)?;
        let until = fibra_driver::Instant::now() + timeout;
        Self::connect_one(address, Some(until)).map_err(|failure| match failure {
            Failure::Io(error) => error,
            Failure::Interrupted(Interrupt::Timeout) => {
                io::Error::new(io::ErrorKind::TimedOut, "connection timed out")
            }
            Failure::Interrupted(interrupt) => interrupt.into(),
        })
    }

    fn connect_one(
        address: &SocketAddr,
        until: Option<fibra_driver::Instant>,
    ) -> Result<Self, Failure> {
        let socket = Socket::tcp(address).map_err(Failure::Io)?;
        let address = socket2::SockAddr::from(*address);
        let op = RawOp::Connect { on: socket.target(), address: &address };
        // No gate: nobody else knows this socket yet.
        // SAFETY: `socket` and `address` live on this frame, which stays until the op is final.
        let outcome = unsafe { wait::wait_op(op, until) };
        let result = outcome.map_err(Failure::Interrupted)?;
        as_io_result(result).map_err(Failure::Io)?;
        Ok(Self::from_socket(socket))
    }

    #[cfg(test)]
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(crate) fn from_socket(socket: Socket) -> Self {
        Self { socket, _on_close: OnClose }
    }

    /// Takes over a stream of std. Its timeouts and its blocking mode stay as they are, as far as
    /// this type shows them; another descriptor of the same connection (a `try_clone` of std's) is
    /// in non-blocking mode from then on.
    ///
    /// # Errors
    /// If the descriptor cannot be switched to non-blocking mode, which is ours from then on.
    pub fn from_std(stream: std::net::TcpStream) -> io::Result<Self> {
        let nonblocking = socket2::SockRef::from(&stream).nonblocking()?;
        let (read, write) = (stream.read_timeout()?, stream.write_timeout()?);
        let socket = Socket::from_owned(OwnedFd::from(stream))?;
        socket.set_read_timeout(read)?;
        socket.set_write_timeout(write)?;
        socket.set_nonblocking(nonblocking);
        Ok(Self::from_socket(socket))
    }

    /// Hands the connection over to std, with its timeouts and its blocking mode.
    ///
    /// # Errors
    /// Gives the stream back if it cannot leave just now: another handle of it exists, a call on it
    /// is under way, or bytes that were received for an abandoned call have not been read yet. Read
    /// on, drop the other handles, and try again.
    pub fn into_std(self) -> Result<std::net::TcpStream, Self> {
        let (read, write) = (self.socket.read_timeout(), self.socket.write_timeout());
        let fd = self.socket.try_into_owned().map_err(Self::from_socket)?;
        let stream = std::net::TcpStream::from(fd);
        // Neither can fail for an open socket.
        let _ = stream.set_read_timeout(read);
        let _ = stream.set_write_timeout(write);
        Ok(stream)
    }

    /// Returns another handle on the same connection.
    ///
    /// Both share everything: the one descriptor, timeouts, blocking mode, and the order in which
    /// calls are served. Unlike in std there is no second descriptor.
    ///
    /// # Errors
    /// None today; the type is std's.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self::from_socket(self.socket.clone()))
    }

    /// Returns the address of the other side.
    ///
    /// # Errors
    /// `NotConnected` if the connection is gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket.peer_addr()
    }

    /// Returns the address of this side.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Shuts down one or both halves, for all handles. Reads and writes that wait in that half end.
    ///
    /// # Errors
    /// `NotConnected` if the connection is gone.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.options().shutdown(how)
    }

    /// Receives without taking: the next read gets the same bytes again.
    ///
    /// # Suspends
    /// Until there are bytes, the end of the stream or an error.
    ///
    /// # Errors
    /// As [`Read::read`] on this stream.
    ///
    /// # Cancellation
    /// Nothing is taken either way.
    pub fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.recv(buf, true)
    }

    /// Sets how long a read may wait; then it fails with `WouldBlock`, as in std on Unix. `None`
    /// (the default) is for ever. Reads that wait already keep what they began with.
    ///
    /// # Errors
    /// `InvalidInput` if the timeout is zero.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(timeout)
    }

    /// Sets how long a write may wait; then it fails with `WouldBlock`, as in std on Unix. `None`
    /// (the default) is for ever. Writes that wait already keep what they began with.
    ///
    /// # Errors
    /// `InvalidInput` if the timeout is zero.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_write_timeout(timeout)
    }

    /// Returns how long a read may wait.
    ///
    /// # Errors
    /// None today; the type is std's.
    pub fn read_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.socket.read_timeout())
    }

    /// Returns how long a write may wait.
    ///
    /// # Errors
    /// None today; the type is std's.
    pub fn write_timeout(&self) -> io::Result<Option<Duration>> {
        Ok(self.socket.write_timeout())
    }

    /// Sets whether small writes go out at once (`TCP_NODELAY`).
    ///
    /// # Errors
    /// The system's.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.socket.options().set_tcp_nodelay(nodelay)
    }

    /// Returns whether small writes go out at once.
    ///
    /// # Errors
    /// The system's.
    pub fn nodelay(&self) -> io::Result<bool> {
        self.socket.options().tcp_nodelay()
    }

    /// Sets the time-to-live of packets sent (`IP_TTL`).
    ///
    /// # Errors
    /// The system's.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        self.socket.options().set_ttl_v4(ttl)
    }

    /// Returns the time-to-live of packets sent.
    ///
    /// # Errors
    /// The system's.
    pub fn ttl(&self) -> io::Result<u32> {
        self.socket.options().ttl_v4()
    }

    /// Takes the error that is pending on the socket (`SO_ERROR`), if any.
    ///
    /// # Errors
    /// The system's.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.socket.options().take_error()
    }

    /// Sets whether calls fail with `WouldBlock` instead of waiting, for all handles.
    ///
    /// A flag of ours: the descriptor itself is always in non-blocking mode. Calls that wait
    /// already go on.
    ///
    /// # Errors
    /// None today; the type is std's.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.socket.set_nonblocking(nonblocking);
        Ok(())
    }

    #[inline]
    fn recv(&self, buf: &mut [u8], peek: bool) -> io::Result<usize> {
        if buf.is_empty() {
            return self.recv_nothing();
        }
        let (on, len) = (self.socket.target(), buf.len().min(LEN_MAX));
        let op = RawOp::Recv { on, buf: buf.as_mut_ptr(), len, peek };
        // SAFETY: `self` keeps the descriptor and `buf` is lent exclusively until this returns.
        unsafe { direction::perform(&self.socket, Direction::Read, op) }.map(|count| count as usize)
    }

    #[inline]
    fn send(&self, buf: &[u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return self.send_nothing();
        }
        let (on, len) = (self.socket.target(), buf.len().min(LEN_MAX));
        let op = RawOp::Send { on, buf: buf.as_ptr(), len };
        // SAFETY: `self` keeps the descriptor and `buf` is lent until this returns.
        unsafe { direction::perform(&self.socket, Direction::Write, op) }
            .map(|count| count as usize)
    }

    /// Reads into an empty buffer, as Linux does for std: waits until there is something to read,
    /// an end or an error; 0 also when the timeout has passed.
    #[cold]
    fn recv_nothing(&self) -> io::Result<usize> {
        let is_timeout = |error: &io::Error| {
            error.kind() == io::ErrorKind::WouldBlock && !self.socket.is_nonblocking()
        };
        match self.recv(&mut [0], true) {
            Err(error) if !is_timeout(&error) => Err(error),
            _ => Ok(0),
        }
    }

    /// Writes nothing, which never waits but fails if the connection does not take bytes any more.
    #[cold]
    fn send_nothing(&self) -> io::Result<usize> {
        let op = RawOp::Send { on: self.socket.target(), buf: [].as_ptr(), len: 0 };
        // SAFETY: `self` keeps the descriptor; no memory is lent.
        let outcome = unsafe { direction::attempt(op) };
        as_io_result(outcome.map_err(io::Error::from)?).map(|count| count as usize)
    }

    fn recv_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        // As `readv`, which std uses; `recvmsg` would wait for bytes it has no room for.
        if bufs.iter().all(|buf| buf.is_empty()) {
            return Ok(0);
        }
        let mut message = Message::to_receive(bufs);
        let op = RawOp::RecvVectored { on: self.socket.target(), message: &mut message };
        // SAFETY: `self` keeps the descriptor, `bufs` is lent exclusively and `message` stays in
        // place on this frame until this returns.
        unsafe { direction::perform(&self.socket, Direction::Read, op) }.map(|count| count as usize)
    }

    fn send_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        // As `writev`, which std uses; `sendmsg` would look at the state of the connection.
        if bufs.iter().all(|buf| buf.is_empty()) {
            return Ok(0);
        }
        let mut message = Message::to_send(bufs);
        let op = RawOp::SendVectored { on: self.socket.target(), message: &mut message };
        // SAFETY: `self` keeps the descriptor, `bufs` is lent and `message` stays in place on this
        // frame until this returns.
        unsafe { direction::perform(&self.socket, Direction::Write, op) }
            .map(|count| count as usize)
    }
}

/// Why a connect failed.
enum Failure {
    /// The system says so.
    Io(io::Error),
    /// It was ended early.
    Interrupted(Interrupt),
}

fn check_timeout(timeout: Duration) -> io::Result<()> {
    if timeout.is_zero() {
        let message = "cannot set a 0 duration timeout";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(())
}

impl Read for TcpStream {
    #[inline]
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.recv(buf, false)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.recv_vectored(bufs)
    }
}

impl Write for TcpStream {
    #[inline]
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.send(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.send_vectored(bufs)
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for &TcpStream {
    #[inline]
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.recv(buf, false)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.recv_vectored(bufs)
    }
}

impl Write for &TcpStream {
    #[inline]
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.send(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.send_vectored(bufs)
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The descriptor is shared by all handles of the connection and always in non-blocking mode. Use
/// it for socket options; reading or writing through it bypasses bytes that were received for an
/// abandoned call, and the order of calls.
impl AsFd for TcpStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// See [`AsFd`] of this type. The number is valid as long as a handle of the connection is.
impl AsRawFd for TcpStream {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("TcpStream");
        if let Ok(address) = self.local_addr() {
            fields.field("addr", &address);
        }
        if let Ok(address) = self.peer_addr() {
            fields.field("peer", &address);
        }
        fields.field("fd", &self.as_raw_fd()).finish()
    }
}
