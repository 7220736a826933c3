//! TCP listeners, and what they do about errors that are no fault of their caller.

use std::fmt;
use std::io;
use std::iter::FusedIterator;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use fibra_driver::{Direction, RawOp, Socket};

use super::address::{ToSocketAddrs, first_that_works};
use super::direction;
use super::shortage::{self, OnClose, Pauses, Verdict};
use super::tcp_stream::TcpStream;
use crate::cancel::is_cancelled;

/// How many connections may wait to be accepted; the kernel lowers it to
/// `/proc/sys/net/core/somaxconn`, which is 4096 by default.
const BACKLOG: i32 = 4096;

/// A TCP socket that listens for connections.
///
/// Like [`std::net::TcpListener`], to be used from fibers and from plain threads, from several at
/// once if need be: they are served first come first served.
///
/// # Examples
/// ```
/// # use fibra_runtime as fibra;
/// use std::io::{Read, Write};
/// use fibra::net::{TcpListener, TcpStream};
///
/// # fn main() -> std::io::Result<()> {
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let address = listener.local_addr()?;
/// let echo = std::thread::spawn(move || -> std::io::Result<()> {
///     for stream in listener.incoming().take(1) {
///         let stream = stream?;
///         std::io::copy(&mut &stream, &mut &stream)?;
///     }
///     Ok(())
/// });
///
/// let mut client = TcpStream::connect(address)?;
/// client.write_all(b"hello")?;
/// client.shutdown(std::net::Shutdown::Write)?;
/// let mut text = String::new();
/// client.read_to_string(&mut text)?;
/// assert_eq!(text, "hello");
/// # echo.join().unwrap()
/// # }
/// ```
pub struct TcpListener {
    socket: Socket,
    /// Dropped after the socket.
    _on_close: OnClose,
}

impl TcpListener {
    /// Listens on the first of the addresses that can be bound. Port 0 lets the system choose one:
    /// see [`local_addr`](Self::local_addr).
    ///
    /// On Unix with `SO_REUSEADDR`, so that a server can be started straight after it was stopped,
    /// and with as long a backlog as the system allows. Never with `SO_REUSEPORT`: a second
    /// listener on the same address is `AddrInUse`.
    ///
    /// # Suspends
    /// While a name is looked up; an address needs no wait.
    ///
    /// # Errors
    /// The error of the last address; `InvalidInput` if there was none.
    pub fn bind<A: ToSocketAddrs>(address: A) -> io::Result<Self> {
        let listen = |address: &SocketAddr| Socket::listen(address, BACKLOG);
        first_that_works(address, |_| false, listen).map(Self::from_socket)
    }

    /// Takes over a listener of std. Its blocking mode stays as it is.
    ///
    /// # Errors
    /// If the descriptor cannot be switched to non-blocking mode, which is ours from then on.
    pub fn from_std(listener: std::net::TcpListener) -> io::Result<Self> {
        let nonblocking = socket2::SockRef::from(&listener).nonblocking()?;
        let socket = Socket::from_owned(OwnedFd::from(listener))?;
        socket.set_nonblocking(nonblocking);
        Ok(Self::from_socket(socket))
    }

    /// Hands the listener over to std, with its blocking mode.
    ///
    /// # Errors
    /// Gives the listener back if it cannot leave just now: another handle of it exists, a call on
    /// it is under way, or a connection that was accepted for an abandoned call has not been taken
    /// yet.
    pub fn into_std(self) -> Result<std::net::TcpListener, Self> {
        let fd = self.socket.try_into_owned().map_err(Self::from_socket)?;
        Ok(std::net::TcpListener::from(fd))
    }

    /// Waits for a connection: it and the address of the other side.
    ///
    /// Unlike in std, errors that are not the caller's concern do not come out: a connection that
    /// failed before it was accepted (`ECONNABORTED`, `EPROTO`, and what Linux hands on from the
    /// network) is skipped, and while the process is out of descriptors or memory (`EMFILE`,
    /// `ENFILE`, `ENOBUFS`, `ENOMEM`) this waits, with one warning in the log, and the connections
    /// stay in the backlog.
    ///
    /// # Suspends
    /// Until there is a connection.
    ///
    /// # Errors
    /// `WouldBlock` in non-blocking mode, also while out of descriptors; else only what makes the
    /// listener unusable.
    ///
    /// # Cancellation
    /// A connection that had been accepted already is returned; one that is accepted while nobody
    /// waits any more is what the next call gets.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let mut pauses = Pauses::new();
        loop {
            let error = match self.accept_once() {
                Ok(accepted) => return Ok(accepted),
                Err(error) => error,
            };
            match shortage::judge(&error) {
                Verdict::Return => return Err(error),
                Verdict::Next => {}
                Verdict::Pause if self.socket.is_nonblocking() => {
                    return Err(io::Error::from_raw_os_error(libc::EAGAIN));
                }
                Verdict::Pause => pauses.pause(&error)?,
            }
        }
    }

    fn from_socket(socket: Socket) -> Self {
        Self { socket, _on_close: OnClose }
    }

    #[cfg(test)]
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    fn accept_once(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let op = RawOp::Accept { on: self.socket.target() };
        // SAFETY: `self` keeps the descriptor; no memory is lent.
        let fd = unsafe { direction::perform(&self.socket, Direction::Read, op) }?;
        // SAFETY: a successful accept hands over a new descriptor in non-blocking mode.
        let socket = unsafe { Socket::from_accepted(fd) };
        let stream = TcpStream::from_socket(socket);
        match stream.peer_addr() {
            Ok(address) => Ok((stream, address)),
            // Reset before we looked: the same thing as a connection aborted in the backlog.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                Err(io::Error::from_raw_os_error(libc::ECONNABORTED))
            }
            Err(error) => Err(error),
        }
    }

    /// Returns an iterator over the connections, which is [`accept`](Self::accept) in a loop.
    ///
    /// # Suspends
    /// Each step, until there is a connection.
    ///
    /// # Cancellation
    /// Yields the error of a cancel or of an inherited deadline once and then ends, so that a loop
    /// that skips errors ends too.
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming { listener: self, ended: false }
    }

    /// Turns this into an iterator over the connections, like [`incoming`](Self::incoming).
    pub fn into_incoming(self) -> IntoIncoming {
        IntoIncoming { listener: self, ended: false }
    }

    /// Returns the address that is listened on.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Returns another handle on the same listener: one descriptor, one queue of callers.
    ///
    /// # Errors
    /// None today; the type is std's.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self::from_socket(self.socket.clone()))
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

    /// Sets whether [`accept`](Self::accept) fails with `WouldBlock` instead of waiting, for all
    /// handles. Accepted streams start in blocking mode either way. A flag of ours: the descriptor
    /// itself is always in non-blocking mode.
    ///
    /// # Errors
    /// None today; the type is std's.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.socket.set_nonblocking(nonblocking);
        Ok(())
    }
}

/// Whether every further wait of the caller would fail in the same way.
fn is_sticky(error: &io::Error) -> bool {
    is_cancelled(error) || error.kind() == io::ErrorKind::TimedOut
}

/// The connections of a listener: what [`TcpListener::incoming`] returns.
///
/// Ends only after it has yielded a cancel or an inherited deadline.
#[derive(Debug)]
#[must_use = "iterators accept nothing unless consumed"]
pub struct Incoming<'a> {
    listener: &'a TcpListener,
    ended: bool,
}

impl Iterator for Incoming<'_> {
    type Item = io::Result<TcpStream>;

    fn next(&mut self) -> Option<Self::Item> {
        next(&mut self.ended, || self.listener.accept().map(|(stream, _)| stream))
    }
}

impl FusedIterator for Incoming<'_> {}

/// The connections of a listener: what [`TcpListener::into_incoming`] returns.
///
/// Ends only after it has yielded a cancel or an inherited deadline.
#[derive(Debug)]
#[must_use = "iterators accept nothing unless consumed"]
pub struct IntoIncoming {
    listener: TcpListener,
    ended: bool,
}

impl Iterator for IntoIncoming {
    type Item = io::Result<TcpStream>;

    fn next(&mut self) -> Option<Self::Item> {
        next(&mut self.ended, || self.listener.accept().map(|(stream, _)| stream))
    }
}

impl FusedIterator for IntoIncoming {}

fn next<T>(ended: &mut bool, accept: impl FnOnce() -> io::Result<T>) -> Option<io::Result<T>> {
    if *ended {
        return None;
    }
    let next = accept();
    *ended = next.as_ref().is_err_and(is_sticky);
    Some(next)
}

/// The descriptor is shared by all handles of the listener and always in non-blocking mode.
impl AsFd for TcpListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// See [`AsFd`] of this type. The number is valid as long as a handle of the listener is.
impl AsRawFd for TcpListener {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("TcpListener");
        if let Ok(address) = self.local_addr() {
            fields.field("addr", &address);
        }
        fields.field("fd", &self.as_raw_fd()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cancelled;

    #[test]
    fn incoming_yields_a_cancel_or_a_deadline_once_and_ends() {
        for sticky in [io::Error::from(Cancelled), io::ErrorKind::TimedOut.into()] {
            let (mut ended, mut sticky) = (false, Some(sticky));
            assert!(matches!(next(&mut ended, || Ok(1)), Some(Ok(1))));
            let other = || Err::<i32, _>(io::ErrorKind::WouldBlock.into());
            assert!(matches!(next(&mut ended, other), Some(Err(_))));
            let first = next(&mut ended, || Err::<i32, _>(sticky.take().unwrap()));
            assert!(matches!(first, Some(Err(_))));
            assert!(next(&mut ended, || -> io::Result<i32> { panic!("asked again") }).is_none());
        }
    }
}
