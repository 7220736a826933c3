//! Probing: which backends run here, found out by a trial, once per process.
//!
//! ```text
//!   Named(kind)  -> its trial: the backend, or an error with the reason. Never another backend.
//!   Auto         -> uring -> epoll -> poll: the first whose trial succeeds, and one log line.
//! ```
//!
//! io_uring's trial is a real receive, not only a set-up: see `backend/uring/trial.rs`. The others
//! are asked to look at nothing, without waiting.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
#[cfg(unix)]
use std::time::Duration;

use crate::config::{BackendKind, Choice};
#[cfg(unix)]
use crate::sys::{self, FdSet};

/// What the trial of a usable backend found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Detail {
    /// Set-up flags in use, by their names in the manual. Empty for the readiness backends.
    pub flags: Vec<&'static str>,
    /// Kernel ops in use, by their names in the manual. Empty for the readiness backends.
    pub ops: Vec<&'static str>,
}

/// Whether a backend runs here.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The backend.
    pub kind: BackendKind,
    /// What its trial found, or why it cannot run, as a text for the user.
    pub usable: Result<Detail, String>,
}

/// Why a backend cannot run.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    kind: io::ErrorKind,
    reason: String,
}

impl Refusal {
    pub fn new(kind: io::ErrorKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into() }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

/// The backends that [`Choice::Auto`] tries, best first.
const LADDER: [BackendKind; 3] = [BackendKind::Uring, BackendKind::Epoll, BackendKind::Poll];

/// Which backend to use under `choice`. Under [`Choice::Auto`] the first call of a process logs one
/// line: at level info which backend runs, at level warn if it is not the best one, and why.
///
/// # Errors
/// The named backend, or every one, cannot run here; with the reason.
pub fn choose(choice: Choice) -> io::Result<BackendKind> {
    match choice {
        Choice::Named(kind) => match trial(kind) {
            Ok(_) => Ok(kind),
            Err(Refusal { kind: error_kind, reason }) => {
                let text = format!("the driver '{kind}' cannot run here: {reason}");
                Err(io::Error::new(*error_kind, format!("{text}; use FIBRA_DRIVER=auto")))
            }
        },
        Choice::Auto => {
            let chosen = LADDER.into_iter().find(|kind| trial(*kind).is_ok());
            log_once(chosen);
            chosen.ok_or_else(no_backend)
        }
    }
}

/// What can run here and what cannot, each with its reason, best first.
pub fn report() -> Vec<Report> {
    BackendKind::ALL
        .into_iter()
        .map(|kind| Report { kind, usable: trial(kind).clone().map_err(|refusal| refusal.reason) })
        .collect()
}

/// The error for a backend that does not exist on this platform.
#[cfg_attr(target_os = "linux", expect(dead_code, reason = "Linux has all backends"))]
pub(crate) fn unsupported(kind: BackendKind) -> io::Error {
    let platform = std::env::consts::OS;
    let text = format!("the driver '{kind}' does not exist on {platform}; use FIBRA_DRIVER=auto");
    io::Error::new(io::ErrorKind::Unsupported, text)
}

/// The outcome of the one trial of this process.
fn trial(kind: BackendKind) -> &'static Result<Detail, Refusal> {
    static TRIALS: [OnceLock<Result<Detail, Refusal>>; BackendKind::ALL.len()] =
        [const { OnceLock::new() }; BackendKind::ALL.len()];
    let (cell, run): (_, fn() -> _) = match kind {
        BackendKind::Uring => (&TRIALS[0], uring_trial),
        BackendKind::Epoll => (&TRIALS[1], epoll_trial),
        BackendKind::Poll => (&TRIALS[2], poll_trial),
        BackendKind::Select => (&TRIALS[3], select_trial),
    };
    cell.get_or_init(run)
}

#[cfg(target_os = "linux")]
fn uring_trial() -> Result<Detail, Refusal> {
    crate::backend::uring::trial()
}

#[cfg(not(target_os = "linux"))]
fn uring_trial() -> Result<Detail, Refusal> {
    Err(Refusal::new(io::ErrorKind::Unsupported, "io_uring exists on Linux only"))
}

fn epoll_trial() -> Result<Detail, Refusal> {
    mio::Poll::new()?;
    Ok(Detail::default())
}

#[cfg(unix)]
fn poll_trial() -> Result<Detail, Refusal> {
    sys::poll(&mut [], Some(Duration::ZERO))?;
    Ok(Detail::default())
}

#[cfg(unix)]
fn select_trial() -> Result<Detail, Refusal> {
    let (mut read, mut write) = (FdSet::new(), FdSet::new());
    sys::select(0, &mut read, &mut write, Some(Duration::ZERO))?;
    Ok(Detail::default())
}

#[cfg(not(unix))]
fn poll_trial() -> Result<Detail, Refusal> {
    Err(unsupported(BackendKind::Poll).into())
}

#[cfg(not(unix))]
fn select_trial() -> Result<Detail, Refusal> {
    Err(unsupported(BackendKind::Select).into())
}

/// One line per process. Outside the trial's lock, for the log is foreign code.
fn log_once(chosen: Option<BackendKind>) {
    static LOGGED: AtomicBool = AtomicBool::new(false);
    let Some(chosen) = chosen else { return };
    if LOGGED.swap(true, Ordering::Relaxed) {
        return;
    }
    let refused = LADDER.into_iter().take_while(|kind| *kind != chosen);
    let reasons = refused.filter_map(|kind| trial(kind).as_ref().err());
    let reasons = reasons.map(|refusal| refusal.reason.as_str()).collect::<Vec<_>>().join("; ");
    // Only where io_uring could run is doing without it worth a warning.
    if reasons.is_empty() {
        tracing::info!(target: "fibra_driver", "driver: {chosen} (a trial round trip worked)");
    } else if cfg!(target_os = "linux") {
        tracing::warn!(
            target: "fibra_driver",
            "driver: {reasons}; using {chosen}; set FIBRA_DRIVER={chosen} to silence"
        );
    } else {
        tracing::info!(target: "fibra_driver", "driver: {chosen}");
    }
}

fn no_backend() -> io::Error {
    let reasons = report().into_iter().filter_map(|report| report.usable.err());
    let reasons = reasons.collect::<Vec<_>>().join("; ");
    io::Error::new(io::ErrorKind::Unsupported, format!("no driver can run here: {reasons}"))
}
