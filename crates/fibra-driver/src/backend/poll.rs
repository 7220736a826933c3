//! The `poll` backend: `poll(2)` over what somebody waits for.
//!
//! ```text
//!   fds        [alarm][fd 7][fd 9][fd 12]     handed to the kernel as it is
//!   tokens     [  0  ][ t3 ][ t0 ][ t5  ]     same order
//!   positions  entry -> index into both       removal swaps with the last one
//! ```
//!
//! Events are taken from the end to the start: what a removal moves then was looked at already.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::ready::{Poller, Remove};
use crate::interest::{Interest, Readiness};
use crate::notifier::Notifier;
use crate::sys::{self, RawFd};

/// A poller on `poll(2)`.
pub(crate) struct Poll {
    fds: Vec<libc::pollfd>,
    tokens: Vec<u64>,
    /// By entry, the low half of a token.
    positions: Vec<u32>,
    /// Indexes below this have not been looked at since the last wait.
    next: usize,
    /// Answers of the last wait that were not taken yet.
    answers: usize,
    alarm: Arc<sys::Alarm>,
    notifier: Notifier,
}

impl Poll {
    pub fn new() -> io::Result<Self> {
        let alarm = Arc::new(sys::Alarm::new()?);
        let (fd, ring) = (alarm.fd(), Arc::clone(&alarm));
        Ok(Self {
            fds: vec![libc::pollfd { fd, events: libc::POLLIN, revents: 0 }],
            tokens: vec![0],
            positions: Vec::new(),
            next: 0,
            answers: 0,
            alarm,
            notifier: Notifier::new(move || ring.ring()),
        })
    }

    /// Where a token is, if it is watched.
    fn position(&self, token: u64) -> Option<usize> {
        let position = *self.positions.get(token as u32 as usize)? as usize;
        (self.tokens.get(position) == Some(&token)).then_some(position)
    }
}

impl Poller for Poll {
    const EDGE: bool = false;

    fn add(&mut self, fd: RawFd, token: u64, interest: Interest) -> io::Result<()> {
        let entry = token as u32 as usize;
        if self.positions.len() <= entry {
            self.positions.resize(entry + 1, 0);
        }
        self.positions[entry] = self.fds.len() as u32;
        self.fds.push(libc::pollfd { fd, events: sys::poll_events(interest), revents: 0 });
        self.tokens.push(token);
        Ok(())
    }

    fn modify(&mut self, _fd: RawFd, token: u64, interest: Interest) -> io::Result<()> {
        if let Some(position) = self.position(token) {
            self.fds[position].events = sys::poll_events(interest);
        }
        Ok(())
    }

    fn remove(&mut self, _fd: RawFd, token: u64) {
        let Some(position) = self.position(token) else { return };
        self.fds.swap_remove(position);
        self.tokens.swap_remove(position);
        if let Some(moved) = self.tokens.get(position) {
            self.positions[*moved as u32 as usize] = position as u32;
        }
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        (self.answers, self.next) = (0, 0);
        self.answers = sys::poll(&mut self.fds, timeout)?;
        self.next = self.fds.len();
        Ok(())
    }

    fn next(&mut self) -> Option<(u64, Readiness)> {
        while self.answers > 0 && self.next > 0 {
            self.next -= 1;
            let entry = &mut self.fds[self.next];
            if entry.revents == 0 {
                continue;
            }
            let seen = sys::readiness(entry.revents);
            entry.revents = 0;
            self.answers -= 1;
            if self.next == 0 {
                self.alarm.reset();
            }
            return Some((self.tokens[self.next], seen));
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
}
