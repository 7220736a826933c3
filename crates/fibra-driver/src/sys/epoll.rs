//! Linux: reading events from mio's epoll descriptor, with timeouts in nanoseconds.
//!
//! mio rounds timeouts up to milliseconds, so a timer could be a millisecond late. The descriptor is
//! mio's, and so are the registrations; only the sleeping call is ours: `epoll_pwait2` (Linux 5.11)
//! where a fraction of a millisecond matters, else `epoll_wait`.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr;
use std::time::Duration;

use crate::interest::Readiness;

/// The events of one wait.
pub(crate) struct Events {
    /// # Invariant
    /// `list[..len]` was filled by the last wait.
    list: Box<[libc::epoll_event]>,
    len: usize,
    next: usize,
    /// Whether `epoll_pwait2` works here; found out by using it.
    nanos: bool,
}

impl Events {
    /// Room for `max` events per wait; more wait for the next one.
    pub fn new(max: usize) -> Self {
        let list = vec![libc::epoll_event { events: 0, u64: 0 }; max].into_boxed_slice();
        Self { list, len: 0, next: 0, nanos: true }
    }

    /// Sleeps until there is an event or the timeout has passed, never less. A signal ends it early.
    pub fn wait(&mut self, poll: &mut mio::Poll, timeout: Option<Duration>) -> io::Result<()> {
        (self.len, self.next) = (0, 0);
        match self.enter(poll.as_raw_fd(), timeout) {
            Ok(len) => self.len = len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Takes one event of the last wait: its token, and what was seen.
    #[inline]
    pub fn next(&mut self) -> Option<(u64, Readiness)> {
        let event = self.list[..self.len].get(self.next)?;
        self.next += 1;
        Some((event.u64, readiness(event.events)))
    }

    fn enter(&mut self, epoll: libc::c_int, timeout: Option<Duration>) -> io::Result<usize> {
        let whole_ms = timeout.is_none_or(|timeout| timeout.subsec_nanos() % 1_000_000 == 0);
        if self.nanos && !whole_ms {
            match self.enter_nanos(epoll, timeout.unwrap_or_default()) {
                // Older than 5.11, or a filter that does not know the call.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                    self.nanos = false;
                }
                result => return result,
            }
        }
        let ms = timeout.map_or(-1, |timeout| {
            libc::c_int::try_from(timeout.as_nanos().div_ceil(1_000_000))
                .unwrap_or(libc::c_int::MAX)
        });
        let max = self.list.len() as libc::c_int;
        // SAFETY: the list is valid for writes of `max` events.
        count(unsafe { libc::epoll_wait(epoll, self.list.as_mut_ptr(), max, ms) }.into())
    }

    fn enter_nanos(&mut self, epoll: libc::c_int, timeout: Duration) -> io::Result<usize> {
        let timeout = super::timespec(timeout);
        let max = self.list.len() as libc::c_int;
        // SAFETY: the list is valid for writes of `max` events, the timeout lives on this frame, and
        // a null signal mask changes nothing (its size is then not looked at).
        count(unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                epoll,
                self.list.as_mut_ptr(),
                max,
                &timeout,
                ptr::null::<libc::sigset_t>(),
                0_usize,
            )
        })
    }
}

fn count(result: libc::c_long) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

#[inline]
fn readiness(events: u32) -> Readiness {
    let mut out = Readiness::NONE;
    let mut map = |bits: libc::c_int, meaning: Readiness| {
        if events & bits as u32 != 0 {
            out = out | meaning;
        }
    };
    map(libc::EPOLLIN, Readiness::READABLE);
    map(libc::EPOLLOUT, Readiness::WRITABLE);
    map(libc::EPOLLRDHUP, Readiness::READ_CLOSED);
    map(libc::EPOLLHUP, Readiness::HANG_UP);
    map(libc::EPOLLERR, Readiness::ERROR);
    // Urgent data: reads end at its mark, so a short one must not be taken for drained. ERROR has
    // just that effect on the hint, and an event's bits go nowhere else.
    map(libc::EPOLLPRI, Readiness::READABLE | Readiness::ERROR);
    out
}
