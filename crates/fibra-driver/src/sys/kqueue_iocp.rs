//! Everywhere but Linux: events as mio gives them (kqueue in nanoseconds, IOCP in milliseconds,
//! rounded up).

use std::io;
use std::time::Duration;

use crate::interest::Readiness;

/// The events of one wait.
pub(crate) struct Events {
    list: mio::Events,
    /// mio's list has no cursor that could be kept between calls.
    seen: Vec<(u64, Readiness)>,
    next: usize,
}

impl Events {
    /// Room for `max` events per wait; more wait for the next one.
    pub fn new(max: usize) -> Self {
        Self { list: mio::Events::with_capacity(max), seen: Vec::with_capacity(max), next: 0 }
    }

    /// Sleeps until there is an event or the timeout has passed, never less. A signal ends it early.
    pub fn wait(&mut self, poll: &mut mio::Poll, timeout: Option<Duration>) -> io::Result<()> {
        self.seen.clear();
        self.next = 0;
        match poll.poll(&mut self.list, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        let seen = self.list.iter().map(|event| (event.token().0 as u64, readiness(event)));
        self.seen.extend(seen);
        Ok(())
    }

    /// Takes one event of the last wait: its token, and what was seen.
    #[inline]
    pub fn next(&mut self) -> Option<(u64, Readiness)> {
        let event = self.seen.get(self.next).copied()?;
        self.next += 1;
        Some(event)
    }
}

fn readiness(event: &mio::event::Event) -> Readiness {
    let mut out = Readiness::NONE;
    let mut map = |is: bool, meaning: Readiness| {
        if is {
            out = out | meaning;
        }
    };
    map(event.is_readable(), Readiness::READABLE);
    map(event.is_writable(), Readiness::WRITABLE);
    map(event.is_read_closed(), Readiness::READABLE | Readiness::READ_CLOSED);
    map(event.is_write_closed(), Readiness::WRITABLE | Readiness::ERROR);
    map(event.is_error(), Readiness::ERROR);
    out
}
