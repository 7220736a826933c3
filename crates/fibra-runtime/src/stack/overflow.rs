//! The fault handler: a fiber that runs over its stack is named before the process ends.
//!
//! One handler per process for SIGSEGV and SIGBUS. If the address is in the guard of one of our
//! stacks it prints who ran over and which setting helps, and aborts; there is no way back from
//! half a call. Every other fault goes to the handler that was there before, so std keeps
//! reporting overflows of its threads, and what used to crash still crashes the same way.
//!
//! Rules, as all of this runs in a signal handler:
//! 1. No allocation, no lock, no panic; the message is built in a fixed buffer and written once.
//! 2. It needs a stack of its own: a thread that runs fibers holds a
//!    [`SignalStack`](super::SignalStack).
//! 3. A signal sent by a process is never taken for a fault, whatever its address says.

use std::fmt::{self, Write};
use std::io;
use std::mem;
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use libc::{c_int, c_void, sigaction, siginfo_t};

use super::registry::{self, Found};
use super::{GUARD_BYTES, OwnerInfo};

/// Installs the handler, once per process.
///
/// Threads that run fibers also need [`install_for_thread`](super::install_for_thread).
///
/// # Errors
/// What `sigaction` answered.
pub fn install() -> io::Result<()> {
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if *installed {
        return Ok(());
    }
    for previous in &PREVIOUS {
        // First look, then install: our handler may run before the second call returns.
        let before = exchange(previous.signal, None)?;
        previous.remember(&before);
        let before = exchange(previous.signal, Some(&ours()))?;
        previous.remember(&before);
    }
    *installed = true;
    Ok(())
}

/// Sets the disposition of `signal` if one is given, and returns the one before.
fn exchange(signal: c_int, new: Option<&sigaction>) -> io::Result<sigaction> {
    // SAFETY: sigaction is plain data for which all zeroes is the default disposition.
    let mut old: sigaction = unsafe { mem::zeroed() };
    let new = new.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: both pointers are valid or null; `new` is `ours`, whose handler fits its flags, or
    // the default disposition.
    match unsafe { libc::sigaction(signal, new, &mut old) } {
        0 => Ok(old),
        _ => Err(io::Error::last_os_error()),
    }
}

fn ours() -> sigaction {
    let mut action = default_action();
    action.sa_sigaction = on_fault as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    action
}

fn default_action() -> sigaction {
    // SAFETY: sigaction is plain data for which all zeroes is the default disposition with an
    // empty mask.
    unsafe { mem::zeroed() }
}

/// # Safety
/// Called by the kernel only, with `info` and `context` of a signal that is being delivered.
unsafe extern "C" fn on_fault(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid siginfo.
    let code = unsafe { (*info).si_code };
    if !is_sent(code) {
        // SAFETY: as above; a fault has an address.
        let address = unsafe { (*info).si_addr() } as usize;
        let found = registry::find(address);
        if let Some(found) = found.filter(|found| address - found.limit < GUARD_BYTES) {
            // SAFETY: the kernel passes the context of the interrupted thread; what `set_owner`
            // was promised holds, because the fiber is running.
            unsafe { report(&found, stack_pointer(context)) };
            die();
        }
    }
    if let Some(previous) = PREVIOUS.iter().find(|previous| previous.signal == signal) {
        // SAFETY: passed on as the kernel passed it to us.
        unsafe { previous.call(is_sent(code), info, context) };
    }
}

/// Whether a signal was sent by a process rather than caused by a fault.
///
/// Faults have small positive codes. Codes of sent signals are not positive on Linux, NetBSD and
/// OpenBSD, and begin at 0x10001 on macOS and FreeBSD.
fn is_sent(code: c_int) -> bool {
    !(1..=0x10000).contains(&code)
}

/// A disposition we replaced.
struct Previous {
    signal: c_int,
    handler: AtomicUsize,
    flags: AtomicI32,
}

static PREVIOUS: [Previous; 2] = [Previous::of(libc::SIGSEGV), Previous::of(libc::SIGBUS)];

impl Previous {
    const fn of(signal: c_int) -> Self {
        Self { signal, handler: AtomicUsize::new(libc::SIG_DFL), flags: AtomicI32::new(0) }
    }

    fn remember(&self, action: &sigaction) {
        if action.sa_sigaction == on_fault as *const () as usize {
            return;
        }
        self.flags.store(action.sa_flags, Relaxed);
        self.handler.store(action.sa_sigaction, Relaxed);
    }

    /// Does what would have happened without us.
    ///
    /// # Safety
    /// As [`on_fault`].
    unsafe fn call(&self, sent: bool, info: *mut siginfo_t, context: *mut c_void) {
        match self.handler.load(Relaxed) {
            // The faulting instruction runs again and ends the process; a signal that was sent
            // would be gone, so it is sent again.
            libc::SIG_DFL => {
                self.set(&default_action());
                if sent {
                    // SAFETY: raise can be called from a handler.
                    unsafe { libc::raise(self.signal) };
                }
            }
            // The kernel does not let a fault be ignored either.
            libc::SIG_IGN => {
                if !sent {
                    self.set(&default_action());
                }
            }
            handler => {
                // SAFETY: `handler` came from sigaction together with these flags, which say
                // which of the two signatures it has; the arguments are the kernel's.
                unsafe {
                    if self.flags.load(Relaxed) & libc::SA_SIGINFO != 0 {
                        mem::transmute::<usize, LongHandler>(handler)(self.signal, info, context);
                    } else {
                        mem::transmute::<usize, ShortHandler>(handler)(self.signal);
                    }
                }
                // std's handler takes every address it does not know for the end of the process
                // and removes itself, and us with it. One `kill -SEGV` must not disarm us.
                if sent {
                    self.set(&ours());
                }
            }
        }
    }

    fn set(&self, action: &sigaction) {
        // Fails for invalid signal numbers only.
        let _ = exchange(self.signal, Some(action));
    }
}

type LongHandler = unsafe extern "C" fn(c_int, *mut siginfo_t, *mut c_void);
type ShortHandler = unsafe extern "C" fn(c_int);

/// Says on stderr which fiber ran over and what to do.
///
/// # Safety
/// - The owner of `found` is null or valid, as [`Stack::set_owner`](super::Stack::set_owner) asks.
unsafe fn report(found: &Found, sp: Option<usize>) {
    let mut text = Text { bytes: [0; 1024], len: 0 };
    // Writing to `Text` cannot fail.
    let _ = text.write_str("\nfibra: stack overflow in ");
    // SAFETY: passed on to the caller.
    let owner = unsafe { found.owner.as_ref() };
    // SAFETY: passed on to the caller.
    let _ = unsafe { write_owner(&mut text, owner) };
    let _ =
        writeln!(text, ": all {} KiB of its stack are used", (found.stride - GUARD_BYTES) / 1024);
    if let Some(site) = owner.and_then(|owner| owner.site) {
        let _ = writeln!(text, "  spawned at {site}");
    }
    if sp.is_some_and(|sp| sp < found.limit || sp - found.limit >= found.stride) {
        let _ = text.write_str(
            "  (the code that touched its guard runs elsewhere: perhaps a wild pointer)\n",
        );
    }
    let _ = text.write_str(
        "  give this fiber more with fiber::Builder::stack_size,\n  \
         or every fiber with Builder::stack_size or FIBRA_STACK_SIZE\n",
    );
    text.print();
}

/// # Safety
/// As [`report`].
unsafe fn write_owner(text: &mut Text, owner: Option<&OwnerInfo>) -> fmt::Result {
    let Some(owner) = owner else {
        return text.write_str("a stack that belongs to no fiber");
    };
    text.write_str("fiber ")?;
    if owner.name_len != 0 {
        let len = owner.name_len.min(NAME_LEN_MAX);
        // SAFETY: passed on to the caller.
        let name = unsafe { slice::from_raw_parts(owner.name, len) };
        text.write_char('\'')?;
        for chunk in name.utf8_chunks() {
            for char in chunk.valid().chars() {
                text.write_char(if char.is_control() { '?' } else { char })?;
            }
        }
        text.write_str("' ")?;
    }
    write!(text, "(id {})", owner.id)
}

/// Ends the process with SIGABRT, past any handler there may be for it.
fn die() -> ! {
    let _ = exchange(libc::SIGABRT, Some(&default_action()));
    // SAFETY: abort may be called from a handler; it unblocks the signal itself.
    unsafe { libc::abort() }
}

/// The stack pointer at the fault, where we know how to read it.
///
/// # Safety
/// - `context` is what the kernel passed to a handler with SA_SIGINFO.
unsafe fn stack_pointer(context: *mut c_void) -> Option<usize> {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    {
        let context = context.cast::<libc::ucontext_t>();
        // SAFETY: passed on to the caller.
        Some(unsafe { (*context).uc_mcontext.gregs[libc::REG_RSP as usize] } as usize)
    }
    #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
    {
        let context = context.cast::<libc::ucontext_t>();
        // SAFETY: passed on to the caller.
        Some(unsafe { (*context).uc_mcontext.sp } as usize)
    }
    #[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
    {
        let _ = context;
        None
    }
}

/// A message of bounded length; what does not fit is cut off.
struct Text {
    bytes: [u8; 1024],
    len: usize,
}

impl Text {
    /// Writes the message to stderr.
    fn print(&self) {
        let mut rest = &self.bytes[..self.len];
        while !rest.is_empty() {
            // SAFETY: `rest` is readable for its length.
            let written =
                unsafe { libc::write(libc::STDERR_FILENO, rest.as_ptr().cast(), rest.len()) };
            match written {
                1.. => rest = &rest[(written as usize).min(rest.len())..],
                // Nobody can be told that nobody can be told.
                _ => return,
            }
        }
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.len..];
        let len = text.len().min(room.len());
        room[..len].copy_from_slice(&text.as_bytes()[..len]);
        self.len += len;
        Ok(())
    }
}

/// Longer names are cut off, so that the advice still fits.
const NAME_LEN_MAX: usize = 128;
