//! A server under test: started, waited for, stopped, and ended whatever happens.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything here takes, on any machine: a server that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(180);

/// What a server is started with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kind {
    /// For messages.
    pub name: &'static str,
    /// The options that make the difference.
    pub options: &'static [&'static str],
}

const fn kind(name: &'static str, options: &'static [&'static str]) -> Kind {
    Kind { name, options }
}

pub const URING: Kind = kind("uring", &["--driver", "uring"]);
pub const EPOLL: Kind = kind("epoll", &["--driver", "epoll"]);
pub const POLL: Kind = kind("poll", &["--driver", "poll"]);
pub const SELECT: Kind = kind("select", &["--driver", "select"]);
pub const DEDICATED_URING: Kind =
    kind("dedicated uring", &["--driver", "uring", "--io", "dedicated"]);
pub const DEDICATED_EPOLL: Kind =
    kind("dedicated epoll", &["--driver", "epoll", "--io", "dedicated"]);
pub const DEDICATED_POLL: Kind = kind("dedicated poll", &["--driver", "poll", "--io", "dedicated"]);
pub const DEDICATED_SELECT: Kind =
    kind("dedicated select", &["--driver", "select", "--io", "dedicated"]);
pub const THREAD: Kind = kind("thread", &["--model", "thread"]);

/// Every backend with every topology, and the baseline.
pub const ALL: [Kind; 9] = [
    URING,
    EPOLL,
    POLL,
    SELECT,
    DEDICATED_URING,
    DEDICATED_EPOLL,
    DEDICATED_POLL,
    DEDICATED_SELECT,
    THREAD,
];

/// `fibra` with these words, in an environment without settings.
pub fn fibra(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fibra"));
    clean(&mut command).args(words);
    command
}

/// Takes the settings of whoever runs the tests out of the environment.
pub fn clean(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_setting(name)) {
        command.env_remove(name);
    }
    command
}

fn is_setting(name: &std::ffi::OsStr) -> bool {
    name.to_string_lossy().starts_with("FIBRA_")
}

/// What a command that should end by itself leaves behind. One that does not is killed.
pub fn run(mut command: Command) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
    let _alive = watch(&child);
    child.wait_with_output().expect("a child of ours")
}

/// A running server. Dropping it kills it.
pub struct Server {
    pub address: SocketAddr,
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// Dropped when the server has ended: calls off the killer.
    _alive: Sender<()>,
}

/// What a server leaves behind.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    /// What it printed after `listening on`.
    pub stdout: String,
    pub stderr: String,
}

impl Server {
    /// Starts one on a free port and waits until it listens.
    pub fn start(kind: Kind) -> Self {
        Self::start_at(kind, "127.0.0.1:0").unwrap_or_else(|ended| panic!("{kind:?}: {ended:?}"))
    }

    /// Starts one at this address; what it left behind if it does not listen.
    pub fn start_at(kind: Kind, address: &str) -> Result<Self, Ended> {
        let mut command = fibra(&["echo", "--listen", address]);
        command.args(kind.options);
        Self::launch(command)
    }

    /// Starts a command that is a server.
    pub fn launch(mut command: Command) -> Result<Self, Ended> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
        let alive = watch(&child);
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("the output can be read");
        match line.trim_end().strip_prefix("listening on ") {
            Some(address) => {
                let address = address.parse().expect("an address is printed");
                Ok(Self { address, child, stdout, _alive: alive })
            }
            None => Err(end(&mut child, stdout)),
        }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the server runs");
    }

    /// Waits until all its threads wait for something: those that have been made have begun.
    pub fn wait_until_idle(&self) {
        let begun = Instant::now();
        loop {
            let before = self.asleep();
            if before.is_some() && before == self.asleep() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE / 10, "without clients it does not come to rest");
            std::thread::yield_now();
        }
    }

    /// Its threads: the number and the name of each.
    pub fn threads(&self) -> Vec<(u32, String)> {
        let tasks = self.tasks();
        let name = |task: &PathBuf| fs::read_to_string(task.join("comm")).unwrap_or_default();
        let number = |task: &PathBuf| task.file_name()?.to_str()?.parse().ok();
        tasks.iter().filter_map(|at| Some((number(at)?, name(at).trim().to_owned()))).collect()
    }

    /// Whether the server waits to write to this client, which does not read: it does nothing, has
    /// left bytes unread, and its kernel has been told to send no more.
    pub fn stuck(&self, client: &TcpStream) -> Stuck {
        let before = self.asleep();
        let client = client.local_addr().expect("a socket");
        let connection = Connection::find(self.address, client);
        // Who slept before and after, without a switch in between, slept all the time.
        let slept = before.is_some() && before == self.asleep();
        match connection.filter(|connection| slept && connection.is_shut_out) {
            Some(connection) if connection.unread > connection.room() => Stuck::ForGood,
            Some(connection) if connection.unread > 0 => Stuck::ForNow,
            _ => Stuck::No,
        }
    }

    /// How often each thread has given up its core, if all of them wait for something.
    fn asleep(&self) -> Option<Vec<String>> {
        let switches = |task: &PathBuf| {
            let status = fs::read_to_string(task.join("status")).unwrap_or_default();
            let field = |name| status.lines().find_map(|line: &str| line.strip_prefix(name));
            let waits = field("State:")?.trim_start().starts_with('S');
            waits.then(|| field("voluntary_ctxt_switches:").map(str::to_owned))?
        };
        self.tasks().iter().map(switches).collect()
    }

    fn tasks(&self) -> Vec<PathBuf> {
        let folder = format!("/proc/{}/task", self.child.id());
        let tasks = fs::read_dir(folder).expect("the server runs");
        tasks.filter_map(|task| Some(task.ok()?.path())).collect()
    }

    /// Waits for its next line.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the output can be read");
        line.trim_end().to_owned()
    }

    /// Waits until it ends.
    pub fn wait(mut self) -> Ended {
        let stdout = std::mem::replace(&mut self.stdout, empty());
        end(&mut self.child, stdout)
    }

    /// Sends a signal and waits for an orderly end; the summary is what it printed last.
    pub fn stop(self, signal: Signal) -> Ended {
        self.signal(signal);
        self.wait()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Errors mean that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Asserts an orderly end with a summary: how many connections and bytes it names.
    pub fn summary(&self) -> (usize, usize) {
        assert_eq!(self.status.code(), Some(0), "{self:?}");
        let line = self.stdout.lines().last().unwrap_or_default();
        let words: Vec<&str> = line.split(' ').collect();
        let ["served", connections, _, bytes, "bytes,", "in", _, "seconds"] = words[..] else {
            panic!("no summary: {self:?}");
        };
        (connections.parse().expect("a number"), bytes.parse().expect("a number"))
    }
}

fn end(child: &mut Child, mut stdout: BufReader<ChildStdout>) -> Ended {
    let mut ended =
        Ended { status: ExitStatus::default(), stdout: String::new(), stderr: String::new() };
    stdout.read_to_string(&mut ended.stdout).expect("the output can be read");
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut ended.stderr).expect("the output can be read");
    }
    ended.status = child.wait().expect("a child of ours");
    ended
}

/// How a server waits to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stuck {
    No,
    /// It is not woken before a good part of its buffer is free; but woken for another reason (that
    /// it shall end), it could send what it has not read and be done.
    ForNow,
    /// Even then it could not.
    ForGood,
}

/// A server's end of a connection, as its kernel sees it.
struct Connection {
    /// Bytes the client has not acknowledged.
    unsent: u64,
    /// Bytes the server has not read.
    unread: u64,
    /// There are bytes to send, all before them have arrived, and the other side has no room.
    is_shut_out: bool,
}

impl Connection {
    fn find(server: SocketAddr, client: SocketAddr) -> Option<Self> {
        let table = fs::read_to_string("/proc/net/tcp").expect("Linux has it");
        table.lines().find_map(|line| {
            // Number, address here, address there, state, bytes to send and unread, timer and when.
            let fields: Vec<&str> = line.split_whitespace().collect();
            let port =
                |field: usize| u16::from_str_radix(fields[field].rsplit(':').next()?, 16).ok();
            if (port(1)?, port(2)?) != (server.port(), client.port()) {
                return None;
            }
            let (unsent, unread) = fields[4].split_once(':')?;
            let number = |text| u64::from_str_radix(text, 16).ok();
            let (unsent, unread) = (number(unsent)?, number(unread)?);
            // Timer 4 asks for room again and again; that of bytes on their way is another.
            Some(Self { unsent, unread, is_shut_out: fields[5].starts_with("04:") })
        })
    }
}

impl Connection {
    /// More than the client and the kernel can still take, however far their buffers grow.
    fn room(&self) -> u64 {
        let limits = fs::read_to_string("/proc/sys/net/ipv4/tcp_wmem").expect("Linux has it");
        let buffer_max: u64 = limits
            .split_whitespace()
            .last()
            .and_then(|max| max.parse().ok())
            .expect("the last of three numbers");
        // The client's last bit of room is smaller than a segment.
        buffer_max.saturating_sub(self.unsent) + 64 * 1024
    }
}

/// Something to read that is at its end.
fn empty() -> BufReader<ChildStdout> {
    let (reader, _) = rustix::pipe::pipe().expect("descriptors are left");
    BufReader::new(reader.into())
}

/// Kills the child if it takes too long, so that a hang is a failure and not a hang of the tests.
fn watch(child: &Child) -> Sender<()> {
    let pid = Pid::from_child(child);
    let (alive, ended) = mpsc::channel();
    std::thread::spawn(move || {
        if ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            eprintln!("a server has not ended in {PATIENCE:?} and is killed");
            let _ = kill_process(pid, Signal::KILL);
        }
    });
    alive
}
