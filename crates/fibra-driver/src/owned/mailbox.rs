//! The mailbox of a driver: what other threads, gates and closed sockets tell its owned ops.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use crate::notifier::Notifier;
use crate::socket::Canceller;

use super::OwnedId;

/// What can be told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Letter {
    /// The op may be inside its gate now.
    Turn(OwnedId),
    /// The last user handle of its socket was dropped.
    Closed(OwnedId),
}

/// Letters to a driver. At most two per op in its table: a gate forgets a waker that it has woken,
/// and the last user handle is dropped once.
pub(super) struct Mailbox {
    /// Whether `letters` may hold something; set and cleared under its lock.
    filled: AtomicBool,
    letters: Mutex<Vec<Letter>>,
    notifier: Notifier,
}

impl Mailbox {
    pub fn new(notifier: Notifier) -> Arc<Self> {
        Arc::new(Self { filled: AtomicBool::new(false), letters: Mutex::default(), notifier })
    }

    /// The waker that a gate gets for an op.
    pub fn waker(self: &Arc<Self>, id: OwnedId) -> Waker {
        Waker::from(Arc::new(Turn { mailbox: self.clone(), id }))
    }

    /// Takes all letters; no lock and nothing if there are none.
    pub fn take(&self) -> Vec<Letter> {
        // Relaxed: a letter posted later than this load comes with a notification.
        if !self.filled.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut letters = self.lock();
        self.filled.store(false, Ordering::Relaxed);
        std::mem::take(&mut *letters)
    }

    fn post(&self, letter: Letter) {
        let mut letters = self.lock();
        letters.push(letter);
        self.filled.store(true, Ordering::Relaxed);
        drop(letters);
        // Releases the store to whoever takes the notification.
        self.notifier.notify();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Letter>> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Canceller for Mailbox {
    fn cancel(&self, word: u64) {
        self.post(Letter::Closed(OwnedId(word)));
    }
}

struct Turn {
    mailbox: Arc<Mailbox>,
    id: OwnedId,
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.mailbox.post(Letter::Turn(self.id));
    }
}
