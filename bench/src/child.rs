//! Child processes: pinned, timed out, and gone when the harness is.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};

/// Figures a sample process printed, one `name value` a line.
pub type Figures = BTreeMap<String, f64>;

/// Where the samples run. With one core they share it.
#[derive(Clone, Copy)]
pub struct Cores {
    pub subject: usize,
    pub load: usize,
}

impl Cores {
    /// The last and the first core we may use.
    pub fn choose() -> io::Result<Cores> {
        // SAFETY: a cpu_set_t is plain bits, for which zero is a value.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: `set` is writable and as long as we say.
        if unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the index is below the size of the set.
        let is_ours = |core: &usize| unsafe { libc::CPU_ISSET(*core, &set) };
        let ours: Vec<usize> = (0..libc::CPU_SETSIZE as usize).filter(is_ours).collect();
        let first = ours.first().copied().unwrap_or(0);
        Ok(Cores { subject: ours.last().copied().unwrap_or(first), load: first })
    }
}

/// Makes the child run on `core` only if there is one, end after `seconds`, and die with this
/// process.
pub fn confine(command: &mut Command, core: Option<usize>, seconds: u32) -> &mut Command {
    let confine = move || {
        // SAFETY: a cpu_set_t is plain bits, for which zero is a value.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        if let Some(core) = core {
            // SAFETY: `core` came from such a set, so it is below its size.
            unsafe { libc::CPU_SET(core, &mut set) };
            // SAFETY: `set` is readable and as long as we say.
            if unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: takes numbers only.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        // SAFETY: takes a number only; the alarm survives exec and ends a child that hangs.
        unsafe { libc::alarm(seconds) };
        Ok(())
    };
    // SAFETY: between fork and exec the closure only makes system calls and allocates nothing.
    unsafe { command.pre_exec(confine) }
}

/// This program again, with a hidden subcommand.
pub fn this_program<const N: usize>(arguments: [&str; N]) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).stdin(Stdio::null());
    Ok(command)
}

/// Runs a sample to its end; what it printed, or why there is nothing.
pub fn output(command: &mut Command, core: Option<usize>, seconds: u32) -> Result<String, String> {
    let output = confine(command, core, seconds).output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let error = String::from_utf8_lossy(&output.stderr);
    let first = error.lines().next().unwrap_or("no message");
    Err(format!("{}: {first}", output.status))
}

/// Reads `name value` lines; others are left out.
pub fn figures(text: &str) -> Figures {
    let pair = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_string(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

/// An echo server that is killed when dropped.
pub struct RunningServer {
    child: Child,
    pub port: u16,
    // Open as long as the server: its next line must not find the pipe closed.
    _stdout: BufReader<ChildStdout>,
}

impl RunningServer {
    pub fn start(command: &mut Command, core: usize) -> io::Result<RunningServer> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = confine(command, Some(core), 120).spawn()?;
        let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        let read = stdout.read_line(&mut line);
        match (read, line.trim().strip_prefix("port ").map(str::parse)) {
            (Ok(_), Some(Ok(port))) => Ok(RunningServer { child, port, _stdout: stdout }),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                Err(io::Error::other("the server did not say its port"))
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process this one started, if it started one: the server, when this is its tracer.
    pub fn pid_of_child(&self) -> Option<u32> {
        let pid = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// Ends the process `pid` and waits until this one has ended of itself.
    pub fn end_after(mut self, pid: u32) -> io::Result<()> {
        // SAFETY: takes numbers only; the process is our descendant and was not reaped yet.
        if unsafe { libc::kill(pid as i32, libc::SIGTERM) } < 0 {
            return Err(io::Error::last_os_error());
        }
        self.child.wait().map(drop)
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
