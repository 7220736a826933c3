//! Whether io_uring runs here, found out by using it.
//!
//! Set-up alone proves nothing: some sandboxes accept it and then answer every op at once with
//! number 0 and result 0. So, each step a reason to refuse:
//!
//! 1. A ring with the flags the driver uses, on this kernel, under this seccomp filter.
//! 2. The features the driver relies on, and every opcode it uses.
//! 3. One receive: submitted while nothing is there, it must not complete; then bytes are sent, and
//!    number, result and bytes must be the right ones, within a deadline.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use io_uring::{opcode, types};

use crate::clock::{Deadline, Instant};
use crate::probe::{Detail, Refusal};
use crate::sys;

use super::{Means, OPCODES, Ring, means};

/// How long the round trip may take before io_uring counts as broken.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(500);
/// How often the kernel may come back early without an answer.
const EARLY_RETURNS_MAX: u32 = 100;

/// Tries io_uring out.
pub(crate) fn trial() -> Result<Detail, Refusal> {
    let mut ring = Ring::new(8, 32).map_err(|error| set_up_refused(&error))?;
    check_features(&ring)?;
    let mut ops = check_opcodes(&ring)?;
    if means(ring.raw_fd()) == Means::MsgRing {
        ops.retain(|op| *op != "READ");
        ops.push("MSG_RING");
    }
    round_trip(&mut ring)?;
    Ok(Detail { flags: ring.flag_names(), ops })
}

fn check_features(ring: &Ring) -> Result<(), Refusal> {
    let params = ring.params();
    let needed = [
        (params.is_feature_nodrop(), "NODROP"),
        (params.is_feature_submit_stable(), "SUBMIT_STABLE"),
        (params.is_feature_ext_arg(), "EXT_ARG"),
    ];
    match needed.iter().find(|(present, _)| !present) {
        None => Ok(()),
        Some((_, name)) => Err(rubbish(&format!("the feature {name} is missing"))),
    }
}

fn check_opcodes(ring: &Ring) -> Result<Vec<&'static str>, Refusal> {
    let probe = ring
        .probe()
        .map_err(|error| rubbish(&format!("it does not list its opcodes: {}", text(&error))))?;
    match OPCODES.iter().find(|(code, _)| !probe.is_supported(*code)) {
        None => Ok(OPCODES.iter().map(|(_, name)| *name).collect()),
        Some((_, name)) => Err(rubbish(&format!("the op {name} is missing"))),
    }
}

fn round_trip(ring: &mut Ring) -> Result<(), Refusal> {
    let failed = |error: io::Error| Refusal::new(error.kind(), text(&error));
    let (here, mut there) = UnixStream::pair().map_err(failed)?;
    here.set_nonblocking(true).map_err(failed)?;
    // Unlike 0, and unlike everything a sandbox could guess.
    let number = RandomState::new().hash_one(0) | 1;
    let sent = RandomState::new().hash_one(1).to_ne_bytes();
    let mut bytes = Box::new([0; 8]);

    let recv = opcode::Recv::new(types::Fd(here.as_raw_fd()), bytes.as_mut_ptr(), 8).build();
    // SAFETY: `bytes` is freed below only after the completion, and leaked without one.
    let pushed = unsafe { ring.push(&recv.user_data(number)) };
    let answer = if pushed {
        exchange(ring, &mut there, sent)
    } else {
        Err(rubbish("an empty queue takes no entry"))
    };
    match answer {
        Ok(answer) if answer == (number, 8) && *bytes == sent => Ok(()),
        other => {
            // The receive may still be in flight.
            Box::leak(bytes);
            let (number, result) = other?;
            Err(rubbish(&format!("a receive was answered wrongly ({number:#x}, {result})")))
        }
    }
}

/// Submits the receive, then sends what it waits for. The answer's number and result.
fn exchange(ring: &mut Ring, there: &mut UnixStream, sent: [u8; 8]) -> Result<(u64, i32), Refusal> {
    let failed = |error: io::Error| Refusal::new(error.kind(), text(&error));
    ring.enter(0, None).map_err(failed)?;
    if ring.look().queued != 0 {
        return Err(rubbish("it accepts ops and does nothing"));
    }
    if ring.has_completions() {
        return Err(rubbish("it answers before there is anything to answer"));
    }
    there.write_all(&sent).map_err(failed)?;

    let deadline = Deadline::At(Instant::now() + ROUND_TRIP_MAX);
    for _ in 0..EARLY_RETURNS_MAX {
        let left = deadline.remaining().unwrap_or_default();
        if left.is_zero() {
            break;
        }
        ring.enter(1, Some(left)).map_err(failed)?;
        if let Some(answer) = ring.pop() {
            return Ok(answer);
        }
    }
    Err(rubbish("it does not answer"))
}

fn rubbish(what: &str) -> Refusal {
    let kind = io::ErrorKind::Unsupported;
    Refusal::new(kind, format!("io_uring can be set up here but does not work: {what}"))
}

/// The likely cause behind an error of the set-up.
fn set_up_refused(error: &io::Error) -> Refusal {
    let release = sys::kernel_release();
    let cause = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => match disabled_by_sysctl() {
            Some(level) => format!("the sysctl kernel.io_uring_disabled is {level}"),
            None => "seccomp, as in most containers, or another security policy".to_owned(),
        },
        Some(libc::ENOSYS) => {
            "this kernel is built without io_uring, or a sandbox hides it".to_owned()
        }
        Some(libc::EINVAL) => {
            format!("kernel {release}; the driver needs DEFER_TASKRUN, so 6.1 or newer")
        }
        Some(libc::ENOMEM) => "raise `ulimit -l` (memlock) or the memory limit".to_owned(),
        Some(libc::EMFILE) => "raise `ulimit -n` (nofile)".to_owned(),
        Some(libc::ENFILE) => "raise the sysctl fs.file-max".to_owned(),
        _ => format!("kernel {release}"),
    };
    Refusal::new(error.kind(), format!("io_uring refused: {} ({cause})", text(error)))
}

/// The value of the sysctl that refuses io_uring, if it does.
fn disabled_by_sysctl() -> Option<u32> {
    let value = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?;
    value.trim().parse().ok().filter(|level| *level != 0)
}

/// The text of an OS error without its number.
fn text(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
