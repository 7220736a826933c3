//! Signals: ending a program from outside.
//!
//! The library installs no SIGINT or SIGTERM handler unless asked to. [`shutdown`] is what a
//! service wants: the first signal cancels the main fiber, the second ends the process.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fibra_driver::{Descriptor, Interest, RawOp, Target};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::fiber;
use crate::runtime::Handle;
use crate::sched::wait::{Interrupt, wait_op};

/// From now on the first SIGINT or SIGTERM cancels the main fiber (its `accept` fails,
/// `incoming()` ends, `run` drains the rest), and a second one ends the process at once, with 130
/// or 143.
///
/// ```no_run
/// # use std::io;
/// fn serve() -> io::Result<()> {
///     fibra_runtime::signal::shutdown()?;
///     let listener = fibra_runtime::net::TcpListener::bind("127.0.0.1:8081")?;
///     for stream in listener.incoming() {
///         if stream.as_ref().is_err_and(fibra_runtime::is_cancelled) {
///             break;
///         }
///         drop(stream?);
///     }
///     Ok(())
/// }
/// ```
///
/// # Errors
/// No descriptors, or the handlers cannot be installed.
///
/// # Panics
/// Outside a runtime.
pub fn shutdown() -> io::Result<()> {
    let handle = Handle::expect("signal::shutdown");
    // Set by the handler of the first signal, before anybody has reacted to it, so that a second one
    // that follows at once ends the process; and by the watchers when nobody waits for a first one.
    let last_warning = Arc::new(AtomicBool::new(false));
    for (signal, name) in [(SIGINT, "SIGINT watcher"), (SIGTERM, "SIGTERM watcher")] {
        signal_hook::flag::register_conditional_shutdown(
            signal,
            128 + signal,
            Arc::clone(&last_warning),
        )?;
        // After the line above: handlers of a signal run in the order they were registered.
        signal_hook::flag::register(signal, Arc::clone(&last_warning))?;
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(signal, writer)?;
        let source = Descriptor::new(OwnedFd::from(reader));
        let (handle, last_warning) = (handle.clone(), Arc::clone(&last_warning));
        fiber::Builder::new().name(name).spawn(move || {
            let signalled = wait_readable(&source).is_ok();
            // First: whoever sees that main ends must not find the next signal swallowed.
            last_warning.store(true, Ordering::SeqCst);
            if signalled {
                handle.shared.cancel_main();
            }
        })?;
    }
    Ok(())
}

fn wait_readable(source: &Descriptor) -> Result<i32, Interrupt> {
    let op = RawOp::Ready { on: Target::new(source), interest: Interest::READABLE };
    // SAFETY: the descriptor is borrowed until `wait_op` returns; the op lends no other memory.
    unsafe { wait_op(op, None) }
}
