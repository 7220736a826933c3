//! The stack a thread's signal handlers run on, so that an overflow can be reported at all.
//!
//! Fiber stacks are full when their guard is touched. Handlers installed with SA_ONSTACK (ours,
//! std's, most profilers') run here instead, which also keeps them off small fiber stacks.

use std::io;
use std::marker::PhantomData;
use std::mem;
use std::ptr;

use super::sys::{self, Range};

/// The calling thread's signal stack. Dropped on the same thread, before that ends.
#[derive(Debug)]
pub struct SignalStack {
    /// The mapping: one inaccessible page, then the stack.
    mapping: Range,
    previous: libc::stack_t,
    /// A signal stack belongs to the thread that installed it.
    not_send: PhantomData<*mut ()>,
}

/// Gives the calling thread a signal stack of at least 64 KiB with a guard page.
///
/// It replaces the one of std, which is smaller, until the returned value is dropped.
///
/// # Errors
/// If memory runs out, or the caller is a signal handler.
pub fn install_for_thread() -> io::Result<SignalStack> {
    let page = sys::page_bytes();
    let stack_bytes = STACK_BYTES.max(8 * sys::signal_frame_bytes()).next_multiple_of(page);
    let mapping = Range { start: sys::reserve(page + stack_bytes)?, len: page + stack_bytes };
    let stack = libc::stack_t {
        ss_sp: (mapping.start + page) as *mut _,
        ss_flags: 0,
        ss_size: stack_bytes,
    };
    // SAFETY: the page is the lowest of the mapping just made.
    let installed = unsafe { sys::forbid(Range { start: mapping.start, len: page }) }
        .and_then(|()| exchange(Some(&stack)));
    match installed {
        Ok(previous) => Ok(SignalStack { mapping, previous, not_send: PhantomData }),
        Err(error) => {
            // SAFETY: the mapping is ours and was not installed.
            unsafe { sys::release(mapping) };
            Err(error)
        }
    }
}

impl Drop for SignalStack {
    fn drop(&mut self) {
        let page = sys::page_bytes();
        let mut previous = self.previous;
        previous.ss_flags &= libc::SS_DISABLE;
        // Some systems check the size even when the stack is to be disabled.
        if previous.ss_flags & libc::SS_DISABLE != 0 {
            previous.ss_size = previous.ss_size.max(libc::SIGSTKSZ);
        }
        let current = exchange(None).map(|stack| stack.ss_sp as usize);
        let is_current = current.is_ok_and(|start| start == self.mapping.start + page);
        if is_current && exchange(Some(&previous)).is_ok() {
            // SAFETY: the mapping is ours, and no handler of this thread runs on it any more.
            unsafe { sys::release(self.mapping) };
        }
        // Else somebody may return to it: it stays mapped.
    }
}

/// Sets the calling thread's signal stack if one is given, and returns the one before.
fn exchange(new: Option<&libc::stack_t>) -> io::Result<libc::stack_t> {
    // SAFETY: stack_t is plain data for which all zeroes is a valid value.
    let mut old: libc::stack_t = unsafe { mem::zeroed() };
    let new = new.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `old` is writable; `new` is null or describes memory that stays mapped until it is
    // replaced again.
    match unsafe { libc::sigaltstack(new, &mut old) } {
        0 => Ok(old),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Room for a signal frame and a handler that unwinds.
const STACK_BYTES: usize = 64 * 1024;
