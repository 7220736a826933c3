//! The ring: its two queues in shared memory and the one call that moves them.
//!
//! A ring is made disabled, so that it can be made on one thread and used on another: whoever
//! enters it first owns it from then on (SINGLE_ISSUER). Its completions are made inside
//! [`Ring::enter`] only (DEFER_TASKRUN), never by interrupting the thread.

use std::cell::Cell;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::{EnterFlags, IoUring, Parameters, Probe};

use crate::sys::{self, RingNumber};

/// The smallest submission queue that is tried when memory is short.
const ENTRIES_MIN: u32 = 8;

/// What a call into the ring did, as far as its user cares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Entered {
    /// Entered; the queues say what happened.
    Yes,
    /// Refused for now, with entries still queued: completions must be reaped or memory is short.
    Refused,
}

/// What the next call would find to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Entries queued and not consumed.
    pub queued: u32,
    /// The completion queue was full and the kernel holds more completions.
    pub overflown: bool,
    /// Completions are ready to be made.
    pub has_work: bool,
}

/// An io_uring and how to call it.
pub(super) struct Ring {
    queues: IoUring,
    number: RingNumber,
    /// The thread that enabled the ring, the only one that may enter it.
    owner: Option<ThreadNumber>,
    wait_flags: EnterFlags,
    has_sqarray: bool,
    /// Calls of `io_uring_enter`.
    pub enter_count: u64,
}

impl Ring {
    /// Makes a disabled ring. Short of memory, it is made smaller before that is an error.
    pub fn new(entries: u32, completion_entries: u32) -> io::Result<Self> {
        let (mut entries, mut completion_entries) = (entries.max(1), completion_entries.max(1));
        entries = entries.min(completion_entries);
        let mut has_sqarray = false;
        loop {
            let error = match Self::build(entries, completion_entries, has_sqarray) {
                Ok(ring) => return Ok(ring),
                Err(error) => error,
            };
            match error.raw_os_error() {
                // Before 6.6 the index array cannot be left out.
                Some(libc::EINVAL) if !has_sqarray => has_sqarray = true,
                // The memory of rings closed just now is given back in the background.
                Some(libc::ENOMEM) if entries > ENTRIES_MIN => {
                    entries /= 2;
                    completion_entries = (completion_entries / 2).max(entries);
                }
                _ => return Err(error),
            }
        }
    }

    /// One attempt at [`new`](Self::new).
    pub fn build(entries: u32, completion_entries: u32, has_sqarray: bool) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(completion_entries)
            .dontfork();
        if !has_sqarray {
            builder.setup_no_sqarray();
        }
        let queues: IoUring = builder.build(entries)?;
        let mut wait_flags = EnterFlags::GETEVENTS;
        if queues.params().is_feature_no_iowait() {
            // A thread that waits for a socket is idle, not "waiting for the disk".
            wait_flags |= EnterFlags::NO_IOWAIT;
        }
        let number = RingNumber::Descriptor(queues.as_raw_fd());
        Ok(Self { queues, number, owner: None, wait_flags, has_sqarray, enter_count: 0 })
    }

    /// Makes the calling thread the owner, unless there is one.
    ///
    /// # Errors
    /// Another thread is. The kernel would refuse it too, but not reliably: the registered number
    /// may be another ring's in the calling thread's table.
    #[inline]
    pub fn enable(&mut self) -> io::Result<()> {
        match self.owner {
            Some(owner) if owner == this_thread() => Ok(()),
            Some(_) => Err(broken(libc::EEXIST)),
            None => self.enable_now(),
        }
    }

    #[cold]
    fn enable_now(&mut self) -> io::Result<()> {
        sys::uring_enable(self.raw_fd())?;
        self.owner = Some(this_thread());
        // Saves the kernel a lookup at each call; the table has 16 places, so it may be full.
        if let Ok(index) = sys::uring_register_number(self.raw_fd()) {
            self.number = RingNumber::Registered(index);
        }
        // Pairs with the fence in `Kick::kick`: a notifier that found the ring disabled has set its
        // flag before, and we look at that flag after.
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// Appends an entry. False if the queue is full.
    ///
    /// # Safety
    /// What the entry points to stays valid, and unaliased where it is written, until the
    /// completion with its number has been taken.
    #[inline]
    pub unsafe fn push(&mut self, entry: &Entry) -> bool {
        // SAFETY: forwarded; the caller keeps the promise.
        unsafe { self.queues.submission().push(entry) }.is_ok()
    }

    /// Takes one completion: its number and its result.
    #[inline]
    pub fn pop(&mut self) -> Option<(u64, i32)> {
        self.queues.completion().next().map(|entry| (entry.user_data(), entry.result()))
    }

    /// Whether completions lie in the queue.
    #[inline]
    pub fn has_completions(&mut self) -> bool {
        !self.queues.completion().is_empty()
    }

    /// What a call would find to do.
    #[inline]
    pub fn look(&mut self) -> Look {
        let queue = self.queues.submission();
        Look {
            queued: queue.len() as u32,
            overflown: queue.cq_overflow(),
            has_work: queue.taskrun(),
        }
    }

    /// Submits everything queued, makes the completions that are ready, and waits for `want` of
    /// them, at most `timeout` long.
    pub fn enter(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<Entered> {
        let queued = self.queues.submission().len() as u32;
        self.enter_with(queued, want, timeout)
    }

    /// As [`enter`](Self::enter), without submitting.
    pub fn wait_only(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<Entered> {
        self.enter_with(0, want, timeout)
    }

    fn enter_with(
        &mut self,
        to_submit: u32,
        want: u32,
        timeout: Option<Duration>,
    ) -> io::Result<Entered> {
        self.enable()?;
        self.enter_count += 1;
        let result = sys::uring_enter(self.number, to_submit, want, self.wait_flags, timeout);
        match -result {
            ..=0 => Ok(Entered::Yes),
            // A signal, or the time is up. Entries may have been consumed: the queue says so.
            libc::EINTR | libc::ETIME => Ok(Entered::Yes),
            libc::EBUSY | libc::EAGAIN => Ok(Entered::Refused),
            code => Err(broken(code)),
        }
    }

    /// Whether the calling thread may enter the ring.
    pub fn is_ours(&self) -> bool {
        self.owner.is_none_or(|owner| owner == this_thread())
    }

    /// The descriptor.
    pub fn raw_fd(&self) -> RawFd {
        self.queues.as_raw_fd()
    }

    /// What the kernel can do.
    pub fn params(&self) -> &Parameters {
        self.queues.params()
    }

    /// Asks the kernel which opcodes it knows.
    pub fn probe(&self) -> io::Result<Probe> {
        let mut probe = Probe::new();
        self.queues.submitter().register_probe(&mut probe)?;
        Ok(probe)
    }

    /// The set-up flags in use, by their names in the manual.
    pub fn flag_names(&self) -> Vec<&'static str> {
        let mut names = vec![
            "R_DISABLED",
            "SINGLE_ISSUER",
            "DEFER_TASKRUN",
            "TASKRUN_FLAG",
            "SUBMIT_ALL",
            "CLAMP",
            "CQSIZE",
        ];
        names.extend((!self.has_sqarray).then_some("NO_SQARRAY"));
        names.extend(matches!(self.number, RingNumber::Registered(_)).then_some("REGISTERED_RING"));
        names.extend(self.wait_flags.contains(EnterFlags::NO_IOWAIT).then_some("NO_IOWAIT"));
        names
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if let RingNumber::Registered(index) = self.number
            && self.is_ours()
        {
            // The table would keep the ring alive until the thread ends. Nothing can be done if
            // that fails, and nothing depends on it.
            let _ = sys::uring_unregister_number(self.raw_fd(), index);
        }
    }
}

/// A number that no other thread of this process has or will have; unlike the kernel's, it is never
/// reused, and reading it is no call.
type ThreadNumber = NonZeroU64;

#[inline]
fn this_thread() -> ThreadNumber {
    thread_local! {
        static NUMBER: Cell<Option<ThreadNumber>> = const { Cell::new(None) };
    }
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NUMBER.with(|number| match number.get() {
        Some(number) => number,
        None => {
            let new = ThreadNumber::new(NEXT.fetch_add(1, Ordering::Relaxed));
            number.set(new);
            new.unwrap_or(ThreadNumber::MAX)
        }
    })
}

#[cold]
fn broken(code: i32) -> io::Error {
    let error = io::Error::from_raw_os_error(code);
    let why = match code {
        libc::EEXIST => "the driver was used on another thread than the one that it runs on",
        libc::EBADR => "the kernel had no memory for a completion and lost it",
        _ => "the ring is broken",
    };
    io::Error::new(error.kind(), format!("io_uring: {why} ({error})"))
}
