//! How another thread ends a wait inside the ring.
//!
//! ```text
//!   notifying thread                          driver's thread
//!   ----------------                          ---------------
//!   1. pending = true                         a. enable the ring (first time only)
//!   2. was it false? then kick:               b. pending? then do not sleep
//!      post a completion to the ring, or      c. sleep in the ring
//!      write the eventfd that the ring reads  d. pending = false: this wait was ended by it
//! ```
//!
//! 1. The flag is the notification. The kick only ends a sleep; its completion carries no meaning,
//!    so it may come late, and `reap` may swallow it without losing anything.
//! 2. Between (b) and (c) nothing can get lost: a kick is a completion, and a ring with a completion
//!    does not sleep.
//! 3. A disabled ring takes no kick. Then (2) came before (a), hence (1) before (b).
//! 4. A kick never outlives the ring: it holds the lock under which the driver takes the ring's
//!    number away, so it can reach no other file that got the same number.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::{opcode, types};

use crate::notifier::Notifier;
use crate::sys;

/// What the kernel says about kicks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Means {
    /// A completion posted to the ring from outside (Linux 6.13 and newer).
    MsgRing,
    /// An eventfd that a READ op in the ring waits for.
    EventFd,
}

/// The driver's end of its notifier.
pub(super) struct Kick {
    pub notifier: Notifier,
    target: Arc<Target>,
    /// The READ op of an eventfd is in flight.
    armed: bool,
    /// Where that READ op writes the count. Leaked with the ring if that cannot be drained.
    count: Box<u64>,
}

enum Target {
    /// # Invariant
    /// The number, if any, is the open ring's. The driver takes it away before it closes the ring.
    Ring(Mutex<Option<RawFd>>),
    EventFd(OwnedFd),
}

impl Kick {
    /// For a disabled ring. `user_data` marks the completions that kicks make.
    pub fn new(ring: RawFd, user_data: u64, means: Means) -> io::Result<Self> {
        let target = Arc::new(match means {
            Means::MsgRing => Target::Ring(Mutex::new(Some(ring))),
            Means::EventFd => Target::EventFd(sys::eventfd()?),
        });
        let other_end = Arc::clone(&target);
        let notifier = Notifier::new(move || other_end.kick(user_data));
        Ok(Self { notifier, target, armed: false, count: Box::new(0) })
    }

    /// The entry that must be pushed so that kicks are seen, if one is missing.
    #[inline]
    pub fn arm(&mut self, user_data: u64) -> Option<Entry> {
        match &*self.target {
            Target::Ring(_) => None,
            Target::EventFd(_) if self.armed => None,
            Target::EventFd(fd) => {
                self.armed = true;
                let count: *mut u64 = &mut *self.count;
                let entry = opcode::Read::new(types::Fd(fd.as_raw_fd()), count.cast(), 8);
                Some(entry.build().user_data(user_data))
            }
        }
    }

    /// Notes that the completion of a kick was taken.
    pub fn kicked(&mut self) {
        self.armed = false;
    }

    /// Whether the kernel may still write to memory of this value.
    pub fn is_armed(&self) -> bool {
        self.armed
    }

    /// Ends all kicking. The ring may be closed afterwards.
    pub fn close(&self) {
        if let Target::Ring(ring) = &*self.target {
            *ring.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// Gives up the memory that the kernel may still write.
    pub fn leak(&mut self) {
        Box::leak(std::mem::take(&mut self.count));
    }
}

impl Target {
    fn kick(&self, user_data: u64) {
        // Pairs with the fence in `Ring::enable_now` (rule 3).
        fence(Ordering::SeqCst);
        match self {
            Self::EventFd(fd) => sys::eventfd_kick(fd),
            Self::Ring(ring) => {
                let ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(ring) = *ring else { return };
                while let Err(error) = sys::uring_post(ring, user_data) {
                    match error.raw_os_error() {
                        // Short of memory for 200 bytes: it passes, and a lost kick is a hang.
                        Some(libc::ENOMEM | libc::EAGAIN) => {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                        Some(libc::EINTR) => {}
                        // Disabled (rule 3), or its thread has ended and nobody waits.
                        _ => return,
                    }
                }
            }
        }
    }
}

/// What this kernel offers. `ring` is disabled, so a kick that is understood is still refused.
pub(super) fn means(ring: RawFd) -> Means {
    match sys::uring_post(ring, 0) {
        Err(error) if error.raw_os_error() == Some(libc::EBADFD) => Means::MsgRing,
        _ => Means::EventFd,
    }
}
