//! Unix: the sleeping calls of the `poll` and `select` backends, and what wakes them.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use super::RawFd;

/// How many descriptors `select(2)` can name: those from here on it cannot.
pub(crate) const FD_SETSIZE: usize = libc::FD_SETSIZE;

pub(crate) fn timespec(timeout: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos() as _,
    }
}

/// Sleeps in `poll(2)`: how many entries have an answer. A signal ends it early, with none.
pub(crate) fn poll(entries: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<usize> {
    let count = entries.len() as libc::nfds_t;
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    let result = {
        let timeout = timeout.map(timespec);
        let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: the entries are valid for `count`, the timeout is null or lives on this frame, and
        // a null signal mask changes nothing.
        unsafe { libc::ppoll(entries.as_mut_ptr(), count, timeout, ptr::null()) }
    };
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    let result = {
        let ms = timeout.map_or(-1, |timeout| {
            let ms = timeout.as_nanos().div_ceil(1_000_000);
            libc::c_int::try_from(ms).unwrap_or(libc::c_int::MAX)
        });
        // SAFETY: the entries are valid for `count`.
        unsafe { libc::poll(entries.as_mut_ptr(), count, ms) }
    };
    answered(result)
}

/// Sleeps in `select(2)`: how many bits have an answer. The sets are what to wait for, and then what
/// is ready. A signal ends it early, with none.
pub(crate) fn select(
    end: usize,
    read: &mut FdSet,
    write: &mut FdSet,
    timeout: Option<Duration>,
) -> io::Result<usize> {
    let timeout = timeout.map(timespec);
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the sets are valid and hold bits below `end` <= FD_SETSIZE only, the timeout is null
    // or lives on this frame, null sets and a null signal mask are allowed.
    answered(unsafe {
        libc::pselect(
            end.min(FD_SETSIZE) as libc::c_int,
            &mut read.0,
            &mut write.0,
            ptr::null_mut(),
            timeout,
            ptr::null(),
        )
    })
    .inspect(|count| {
        // An interrupted call leaves the sets as they were.
        if *count == 0 {
            (*read, *write) = (FdSet::new(), FdSet::new());
        }
    })
}

fn answered(result: libc::c_int) -> io::Result<usize> {
    usize::try_from(result).or_else(|_| match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        error => Err(error),
    })
}

/// A set of descriptor numbers below [`FD_SETSIZE`].
#[derive(Clone, Copy)]
pub(crate) struct FdSet(libc::fd_set);

impl FdSet {
    /// The empty set.
    pub fn new() -> Self {
        // SAFETY: fd_set is an array of integers; all zeroes is the empty set.
        Self(unsafe { mem::zeroed() })
    }

    /// Adds or removes a number, which must be below [`FD_SETSIZE`].
    pub fn set(&mut self, fd: RawFd, member: bool) {
        assert!((0..FD_SETSIZE as RawFd).contains(&fd), "select cannot name descriptor {fd}");
        if member {
            // SAFETY: the number is inside the set, as just checked.
            unsafe { libc::FD_SET(fd, &mut self.0) }
        } else {
            // SAFETY: the number is inside the set, as just checked.
            unsafe { libc::FD_CLR(fd, &mut self.0) }
        }
    }

    /// Whether a number is in the set.
    pub fn contains(&self, fd: RawFd) -> bool {
        // SAFETY: a number outside the set is not looked up.
        (0..FD_SETSIZE as RawFd).contains(&fd) && unsafe { libc::FD_ISSET(fd, &self.0) }
    }
}

/// The lowest free descriptor number, or a negated error. Only a hint: others take numbers too.
pub(crate) fn lowest_free(fd: RawFd) -> i32 {
    // SAFETY: no memory is passed.
    match unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) } {
        -1 => super::negated(&io::Error::last_os_error()),
        new => {
            super::close(new);
            new
        }
    }
}

/// Something that becomes readable when another thread says so: an eventfd, elsewhere a pipe.
pub(crate) struct Alarm {
    read: OwnedFd,
    /// `None`: `read` is both ends.
    write: Option<OwnedFd>,
}

impl Alarm {
    /// A quiet alarm.
    #[cfg(target_os = "linux")]
    pub fn new() -> io::Result<Self> {
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        Ok(Self { read: rustix::event::eventfd(0, flags)?, write: None })
    }

    /// A quiet alarm.
    #[cfg(not(target_os = "linux"))]
    pub fn new() -> io::Result<Self> {
        let (read, write) = rustix::pipe::pipe()?;
        for end in [&read, &write] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(end, true)?;
        }
        Ok(Self { read, write: Some(write) })
    }

    /// The number to watch.
    pub fn fd(&self) -> RawFd {
        self.read.as_raw_fd()
    }

    /// Makes it readable. One that is already full is readable.
    pub fn ring(&self) {
        let _ = rustix::io::write(self.write.as_ref().unwrap_or(&self.read), &1_u64.to_ne_bytes());
    }

    /// Makes it quiet again.
    pub fn reset(&self) {
        let mut bytes = [0; 64];
        while let Ok(64) = rustix::io::read(&self.read, &mut bytes) {}
    }
}
