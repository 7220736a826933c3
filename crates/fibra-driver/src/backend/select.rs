//! The `select` backend: `select(2)` over what somebody waits for, for completeness and comparison.
//!
//! `select(2)` cannot name descriptors from `FD_SETSIZE` on. Ops on those are refused with
//! [`DESCRIPTOR_TOO_HIGH`](crate::DESCRIPTOR_TOO_HIGH). Accepting stops in time: near the limit the
//! next free number is looked at first, and if it is too high the answer is `EMFILE` and the
//! connection stays in the backlog. (If another thread is faster and the accepted number is too
//! high after all, that one connection is closed: nobody could serve it.)

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::ready::{Poller, Remove};
use crate::interest::{Interest, Readiness};
use crate::notifier::Notifier;
use crate::sys::{self, FD_SETSIZE, FdSet, RawFd};

/// How far below the limit an accepted number makes accepting careful: about as many descriptors
/// as other threads may open between two accepts.
const MARGIN: RawFd = 64;

/// A poller on `select(2)`.
pub(crate) struct Select {
    /// By descriptor number; 0 for those not watched. Never longer than `FD_SETSIZE`.
    tokens: Vec<u64>,
    /// To read and to write.
    wanted: Box<[FdSet; 2]>,
    seen: Box<[FdSet; 2]>,
    /// Found closed by the last wait.
    dead: Vec<RawFd>,
    /// Numbers from here on are not watched.
    end: usize,
    /// Numbers from here on were looked at since the last wait.
    next: usize,
    /// The number accepted last was near the limit.
    careful: bool,
    alarm: Arc<sys::Alarm>,
    notifier: Notifier,
}

impl Select {
    pub fn new() -> io::Result<Self> {
        let alarm = Arc::new(sys::Alarm::new()?);
        let (fd, ring) = (alarm.fd(), Arc::clone(&alarm));
        let mut poller = Self {
            tokens: Vec::new(),
            wanted: Box::new([FdSet::new(); 2]),
            seen: Box::new([FdSet::new(); 2]),
            dead: Vec::new(),
            end: 0,
            next: 0,
            careful: false,
            alarm,
            notifier: Notifier::new(move || ring.ring()),
        };
        if poller.refusal(fd) != 0 {
            let text = format!(
                "the select backend cannot be made: descriptors up to {fd} are in use, and \
                 select(2) cannot name those from {FD_SETSIZE} on; use another backend"
            );
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        poller.watch(fd, Some(Interest::READABLE));
        Ok(poller)
    }

    fn watch(&mut self, fd: RawFd, interest: Option<Interest>) {
        self.wanted[0].set(fd, interest.is_some_and(Interest::is_readable));
        self.wanted[1].set(fd, interest.is_some_and(Interest::is_writable));
        let number = fd as usize;
        if interest.is_some() {
            self.end = self.end.max(number + 1);
        } else if self.end == number + 1 {
            let watched = |fd: &usize| self.wanted.iter().any(|set| set.contains(*fd as RawFd));
            self.end = (0..number).rev().find(watched).map_or(0, |fd| fd + 1);
        }
    }

    /// Finds the closed descriptors that made a whole wait fail. The others are waited for next time.
    fn find_dead(&mut self) {
        *self.seen = [FdSet::new(); 2];
        for fd in 0..self.end as RawFd {
            if self.wanted.iter().any(|set| set.contains(fd))
                && sys::ready(fd, Interest::READABLE, 0) == sys::BAD_DESCRIPTOR
            {
                self.dead.push(fd);
            }
        }
    }
}

impl Poller for Select {
    const EDGE: bool = false;

    fn add(&mut self, fd: RawFd, token: u64, interest: Interest) -> io::Result<()> {
        match self.refusal(fd) {
            0 => self.watch(fd, Some(interest)),
            error => return Err(io::Error::from_raw_os_error(-error)),
        }
        if self.tokens.len() <= fd as usize {
            self.tokens.resize(fd as usize + 1, 0);
        }
        self.tokens[fd as usize] = token;
        Ok(())
    }

    fn modify(&mut self, fd: RawFd, _token: u64, interest: Interest) -> io::Result<()> {
        self.watch(fd, Some(interest));
        Ok(())
    }

    fn remove(&mut self, fd: RawFd, token: u64) {
        // Another token: the number was closed and is watched for someone else by now.
        if self.tokens.get(fd as usize) == Some(&token) {
            self.tokens[fd as usize] = 0;
            self.watch(fd, None);
        }
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        *self.seen = *self.wanted;
        self.next = 0;
        let [read, write] = &mut *self.seen;
        match sys::select(self.end, read, write, timeout) {
            Ok(0) => {}
            Ok(_) => self.next = self.end,
            Err(error) if sys::negated(&error) == sys::BAD_DESCRIPTOR => self.find_dead(),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn next(&mut self) -> Option<(u64, Readiness)> {
        if let Some(fd) = self.dead.pop() {
            return Some((*self.tokens.get(fd as usize)?, Readiness::ERROR));
        }
        while self.next > 0 {
            self.next -= 1;
            let fd = self.next as RawFd;
            let bit = |set: &FdSet, bit| if set.contains(fd) { bit } else { Readiness::NONE };
            let seen =
                bit(&self.seen[0], Readiness::READABLE) | bit(&self.seen[1], Readiness::WRITABLE);
            if seen.is_empty() {
                continue;
            }
            if fd == self.alarm.fd() {
                self.alarm.reset();
                return Some((0, seen));
            }
            match self.tokens.get(self.next) {
                // Removed since the wait.
                None | Some(0) => {}
                Some(token) => return Some((*token, seen)),
            }
        }
        None
    }

    fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    fn remover(&self) -> io::Result<Remove> {
        // Without waiters a descriptor is not in the set.
        Ok(Box::new(|_| {}))
    }

    fn refusal(&self, fd: RawFd) -> i32 {
        if (fd as usize) < FD_SETSIZE { 0 } else { -crate::DESCRIPTOR_TOO_HIGH }
    }

    fn accept(&mut self, listener: RawFd) -> i32 {
        let limit = FD_SETSIZE as RawFd;
        if self.careful && sys::lowest_free(listener) >= limit {
            return -libc::EMFILE;
        }
        let fd = sys::accept(listener);
        if fd >= 0 {
            self.careful = fd >= limit - MARGIN;
        }
        if fd >= limit {
            sys::close(fd);
            return -libc::EMFILE;
        }
        fd
    }
}
