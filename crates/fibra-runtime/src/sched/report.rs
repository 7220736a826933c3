//! Reports: what a blocked worker is doing, told by the worker's own thread.
//!
//! ```text
//!   watchdog                               blocked worker's thread
//!   --------                               -----------------------
//!   IDLE -> ASKED(worker), signal -------> handler: ASKED -> FILLING
//!                                            copies its stack's return addresses, its running
//!                                            fiber and the suspended ones into REPORT
//!   waits at most 200 ms       <---------- FILLING -> READY
//!   READY -> IDLE, prints
//! ```
//!
//! Only that thread may look at its fibers, so it must tell itself; it does so in a signal handler,
//! which therefore only reads memory and copies into a fixed buffer. Names and lines are looked up
//! afterwards, by the asking thread.

use std::cell::UnsafeCell;
use std::fmt::Write as _;
use std::io;
use std::panic::Location;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::block::Block;
use super::current;
use super::home::Home;
use super::job::FiberId;
use crate::stack::interrupt;

const FRAMES_MAX: usize = 48;
const FIBERS_MAX: usize = 64;
const NAME_MAX: usize = 48;

const IDLE: u32 = 0;
const FILLING: u32 = 1;
const READY: u32 = 2;
/// Plus the worker's index.
const ASKED: u32 = 16;

static STATE: AtomicU32 = AtomicU32::new(IDLE);
static REPORT: Cell = Cell(UnsafeCell::new(Report::EMPTY));
/// One question at a time in the process.
static ASKING: Mutex<()> = Mutex::new(());

struct Cell(UnsafeCell<Report>);

// SAFETY: written by the thread that moved STATE to FILLING, read by the one that saw READY and
// holds ASKING; STATE hands it over with release and acquire.
unsafe impl Sync for Cell {}

/// One fiber, in plain data.
#[derive(Clone, Copy)]
struct Line {
    id: u64,
    name: [u8; NAME_MAX],
    name_len: usize,
    site: Option<&'static Location<'static>>,
}

/// What the worker told.
#[derive(Clone, Copy)]
pub(crate) struct Report {
    frames: [usize; FRAMES_MAX],
    frame_count: usize,
    running: Option<Line>,
    suspended: [Line; FIBERS_MAX],
    suspended_count: usize,
}

impl Line {
    const EMPTY: Self = Self { id: 0, name: [0; NAME_MAX], name_len: 0, site: None };

    fn of(block: &Block) -> Option<Self> {
        let header = block.header()?;
        let mut line = Self { id: header.id.0, site: Some(header.site), ..Self::EMPTY };
        if let Some(name) = &header.name {
            line.name_len = name.len().min(NAME_MAX);
            line.name[..line.name_len].copy_from_slice(&name.as_bytes()[..line.name_len]);
        }
        Some(line)
    }

    fn describe(&self) -> String {
        let mut out = match self.name_len {
            0 => format!("fiber {}", FiberId(self.id)),
            len => format!("fiber '{}'", String::from_utf8_lossy(&self.name[..len])),
        };
        if let Some(site) = self.site {
            let _ = write!(out, " spawned at {site}");
        }
        out
    }
}

impl Report {
    const EMPTY: Self = Self {
        frames: [0; FRAMES_MAX],
        frame_count: 0,
        running: None,
        suspended: [Line::EMPTY; FIBERS_MAX],
        suspended_count: 0,
    };

    /// A line per fiber: the running one first.
    pub fn fibers(&self) -> Vec<String> {
        let running = self.running.iter().map(|line| format!("{} (running)", line.describe()));
        let suspended = &self.suspended[..self.suspended_count.min(FIBERS_MAX)];
        running.chain(suspended.iter().map(Line::describe)).collect()
    }

    /// Prints the report of a blocked worker on stderr, in one piece.
    pub fn print(&self, worker: usize, blocked_for: Duration) {
        let mut out = String::new();
        let who = self.running.map_or_else(|| "no fiber".into(), |line| line.describe());
        let _ = writeln!(
            out,
            "fibra: worker {worker} has been blocked for {:.1} s by {who}; it is at",
            blocked_for.as_secs_f64()
        );
        for frame in &self.frames[..self.frame_count] {
            write_frame(&mut out, *frame);
        }
        let _ = writeln!(out, "  {} fibers cannot run until it goes on:", self.suspended_count);
        for line in &self.suspended[..self.suspended_count.min(FIBERS_MAX)] {
            let _ = writeln!(out, "    {}", line.describe());
        }
        let _ = writeln!(
            out,
            "  A std lock held across a wait, or a blocking call, stops its worker: do it in \
             `fibra::blocking`, or do not wait while holding it."
        );
        eprint!("{out}");
    }
}

fn write_frame(out: &mut String, address: usize) {
    let mut named = false;
    backtrace::resolve(address as *mut _, |symbol| {
        if let Some(name) = symbol.name() {
            named = true;
            let _ = write!(out, "    {name:#}");
            if let (Some(file), Some(line)) = (symbol.filename(), symbol.lineno()) {
                let _ = write!(out, " ({}:{line})", file.display());
            }
            let _ = writeln!(out);
        }
    });
    if !named {
        let _ = writeln!(out, "    {address:#x}");
    }
}

/// Installs the handler, once per process.
pub(crate) fn install() -> io::Result<()> {
    interrupt::install(fill)
}

/// Asks a worker what it is doing. `None` if it does not answer, or is not in a fiber.
pub(crate) fn take(home: &Home) -> Option<Report> {
    let thread = home.thread_id.load(Ordering::Acquire);
    if thread == 0 {
        return None;
    }
    let _asking = ASKING.lock().unwrap_or_else(PoisonError::into_inner);
    STATE.store(ASKED + home.index as u32, Ordering::Release);
    interrupt::send(thread);
    for _ in 0..200 {
        if STATE.load(Ordering::Acquire) == READY {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // If it has not begun it never will; if it is filling, wait for it.
    let asked = ASKED + home.index as u32;
    if STATE.compare_exchange(asked, IDLE, Ordering::AcqRel, Ordering::Acquire).is_ok() {
        return None;
    }
    while STATE.load(Ordering::Acquire) != READY {
        std::thread::yield_now();
    }
    // SAFETY: READY, and we hold ASKING: nobody writes it before the next question.
    let report = unsafe { *REPORT.0.get() };
    STATE.store(IDLE, Ordering::Release);
    report.running.is_some().then_some(report)
}

/// The handler, on the thread of the worker. Reads and copies; no lock is waited for, nothing is
/// allocated.
fn fill() {
    let Some(worker) = current::worker() else { return };
    let asked = ASKED + worker.home.index as u32;
    if STATE.compare_exchange(asked, FILLING, Ordering::AcqRel, Ordering::Acquire).is_err() {
        return;
    }
    // SAFETY: moving STATE to FILLING made this thread the only one that touches it.
    let report = unsafe { &mut *REPORT.0.get() };
    report.frame_count = 0;
    report.suspended_count = 0;
    report.running = worker.current.get().and_then(|block| Line::of(&block));
    if report.running.is_some() {
        // SAFETY: only one thread fills a report at a time, and frames are only walked, not named.
        unsafe {
            backtrace::trace_unsynchronized(|frame| {
                report.frames[report.frame_count] = frame.ip() as usize;
                report.frame_count += 1;
                report.frame_count < FRAMES_MAX
            });
        }
        worker.shared.blocks.walk_from_signal(|block| {
            if !worker.is_suspended_here(&block) {
                return;
            }
            if let (true, Some(line)) = (report.suspended_count < FIBERS_MAX, Line::of(&block)) {
                report.suspended[report.suspended_count] = line;
            }
            report.suspended_count += 1;
        });
    }
    STATE.store(READY, Ordering::Release);
}
