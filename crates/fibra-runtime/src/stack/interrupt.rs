//! Interrupting a thread: running a function on it, wherever it is.
//!
//! SIGURG is used: nobody sees it unless they ask for it, and it is ignored by default, so that a
//! stray one does no harm. The handler runs on the alternate stack, because a fiber's may be nearly
//! used up; system calls that can be restarted are.

use std::io;
use std::sync::OnceLock;

static HANDLER: OnceLock<fn()> = OnceLock::new();

/// Has `handler` run on a thread that is sent [`send`]. The first one stays for the process.
///
/// The handler must be async-signal-safe.
pub fn install(handler: fn()) -> io::Result<()> {
    if HANDLER.set(handler).is_err() {
        return Ok(());
    }
    // SAFETY: all zeroes is a valid sigaction: no flags, an empty mask, the default action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = run as extern "C" fn(libc::c_int) as usize;
    action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
    // SAFETY: the action is complete, and its function only calls the async-signal-safe handler.
    match unsafe { libc::sigaction(libc::SIGURG, &action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn run(_signal: libc::c_int) {
    // SAFETY: errno is this thread's own; what was interrupted must find it as it was.
    let saved = unsafe { *errno() };
    if let Some(handler) = HANDLER.get() {
        handler();
    }
    // SAFETY: as above.
    unsafe { *errno() = saved };
}

/// Identifies the calling thread for [`send`].
pub fn this_thread() -> u64 {
    // SAFETY: no arguments; cannot fail.
    unsafe { libc::pthread_self() as u64 }
}

/// Interrupts a thread that is alive. 0 is nobody.
pub fn send(thread: u64) {
    if thread != 0 {
        // SAFETY: the thread is a worker that has not ended: its runtime holds it until then.
        unsafe { libc::pthread_kill(thread as libc::pthread_t, libc::SIGURG) };
    }
}

fn errno() -> *mut libc::c_int {
    #[cfg(target_os = "linux")]
    // SAFETY: no arguments; always valid on a live thread.
    unsafe {
        libc::__errno_location()
    }
    #[cfg(not(target_os = "linux"))]
    // SAFETY: no arguments; always valid on a live thread.
    unsafe {
        libc::__error()
    }
}
