//! System calls: a server makes those of the backend it was told to use, and no others; in the
//! dedicated topology its workers wait for nothing but each other.
//!
//! Looked at is what happens between "it listens" and the signal that ends it. One call means two
//! things: `poll` on one descriptor with no time is how the readiness backends look at the pipe of a
//! signal before they wait for it; it is no wait.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::load::{Load, served};
use crate::server::*;

const WORKERS: usize = 2;
/// Calls in which a thread waits for descriptors, by backend.
const WAITS: [(&str, &[&str]); 4] = [
    ("uring", &["io_uring_enter"]),
    ("epoll", &["epoll_wait", "epoll_pwait", "epoll_pwait2"]),
    ("poll", &["poll", "ppoll"]),
    ("select", &["select", "pselect6"]),
];
/// Calls that move bytes and connections one at a time; io_uring needs none of them.
const TRANSFERS: [&str; 8] =
    ["recvfrom", "recvmsg", "sendto", "sendmsg", "readv", "writev", "accept", "accept4"];
/// What a `poll` that waits for nothing is counted as.
const LOOK: &str = "poll (a look)";

/// What the threads of a server did, by name: each call and how often.
struct Trace {
    calls: BTreeMap<String, BTreeMap<String, usize>>,
    text: String,
}

/// The file of one trace, gone afterwards.
struct File(PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Traces a server with clients.
fn trace(kind: Kind) -> Trace {
    if let Err(error) = Command::new("strace").arg("-V").output() {
        panic!("strace cannot be run ({error}); scripts/install-deps installs it");
    }
    let name = format!("fibra-{}-{}", kind.name.replace(' ', "-"), std::process::id());
    let file = File(std::env::temp_dir().join(name));
    let server = start_traced(kind, &file.0);
    // A worker that has not begun would leave all clients to the other one.
    server.wait_until_idle();
    let clients: Vec<TcpStream> = (0..30).map(|_| served(server.address)).collect();
    let threads = server.threads();
    drop(clients);
    let echoed = Load { connections: 20, bytes: 200_000, vanishing: 3 }.run(server.address);
    assert!(echoed >= 200_000);
    // Its end comes after strace's: both hold its stderr.
    assert_eq!(server.stop(Signal::INT).summary().0, 53, "{}", kind.name);
    check_threads(kind, &threads);
    let text = fs::read_to_string(&file.0).expect("strace wrote it");
    Trace::read(&text, &threads)
}

fn start_traced(kind: Kind, file: &Path) -> Server {
    let mut command = Command::new("strace");
    // -D: the server is our child, strace is not.
    clean(&mut command).args(["-D", "-f", "-qq", "-s", "16", "-o"]).arg(file);
    command.arg(env!("CARGO_BIN_EXE_fibra")).args(["echo", "--listen", "127.0.0.1:0"]);
    command.args(["--workers", &WORKERS.to_string()]).args(kind.options);
    Server::launch(command).unwrap_or_else(|ended| panic!("{kind:?} under strace: {ended:?}"))
}

/// With 30 connections open: no thread but those that a runtime has anyway.
fn check_threads(kind: Kind, threads: &[(u32, String)]) {
    let mut names: Vec<&str> = threads.iter().map(|(_, name)| name.as_str()).collect();
    names.sort_unstable();
    let mut expected = vec!["fibra", "fibra-watchdog", "fibra-worker-0", "fibra-worker-1"];
    if is_dedicated(kind) {
        expected.insert(1, "fibra-io");
    }
    assert_eq!(names, expected, "{}", kind.name);
}

fn is_dedicated(kind: Kind) -> bool {
    kind.options.contains(&"dedicated")
}

impl Trace {
    fn read(text: &str, threads: &[(u32, String)]) -> Self {
        let window = text
            .lines()
            .skip_while(|line| !line.contains("write(1, \"listening on"))
            .skip(1)
            .take_while(|line| !line.contains("--- SIGINT"));
        let (mut calls, mut kept) = (BTreeMap::<_, BTreeMap<_, usize>>::new(), String::new());
        for line in window {
            kept.push_str(line);
            kept.push('\n');
            let Some((number, call)) = line.split_once(' ') else { continue };
            let Some((call, rest)) = call.trim_start().split_once('(') else { continue };
            // The second half of a call that another thread interrupted in the trace.
            if call.starts_with('<') {
                continue;
            }
            let call = if call == "poll" && is_look(rest) { LOOK } else { call };
            let named = threads.iter().find(|(thread, _)| number.parse() == Ok(*thread));
            let name = named.map_or("unknown", |(_, name)| name);
            let count = calls.entry(name.to_owned()).or_default().entry(call.to_owned());
            *count.or_default() += 1;
        }
        Self { calls, text: kept }
    }

    /// How often threads with this beginning of a name made one of these calls.
    fn count(&self, threads: &str, calls: &[&str]) -> usize {
        let of = |made: &BTreeMap<String, usize>| -> usize {
            made.iter().filter(|(call, _)| calls.contains(&call.as_str())).map(|(_, n)| n).sum()
        };
        self.calls
            .iter()
            .filter(|(name, _)| name.starts_with(threads))
            .map(|(_, made)| of(made))
            .sum()
    }

    /// Asserts that no transfer could have blocked its thread.
    fn check_transfers(&self, name: &str) {
        for line in self.text.lines() {
            // The flags of a receive that was interrupted are in its second half.
            let receives = line.contains("recvfrom") && line.contains(") = ");
            if receives || line.contains("sendto(") {
                assert!(line.contains("MSG_DONTWAIT"), "{name}: {line}");
            }
        }
    }
}

/// `poll` on one descriptor, without time.
fn is_look(arguments: &str) -> bool {
    arguments.split_once("}], 1, ").is_some_and(|(first, time)| {
        !first.contains("}, {") && (time.starts_with("0 ") || time.starts_with("0)"))
    })
}

/// The waits of a kind's backend, and those of all others.
fn waits(kind: Kind) -> (&'static [&'static str], Vec<&'static str>) {
    let (own, others): (Vec<_>, Vec<_>) =
        WAITS.into_iter().partition(|(backend, _)| kind.options.contains(backend));
    (own[0].1, others.into_iter().flat_map(|(_, calls)| calls.iter().copied()).collect())
}

/// Every worker waits in its own driver.
fn workers_wait(kind: Kind) -> Trace {
    let trace = trace(kind);
    let (own, others) = waits(kind);
    for worker in ["fibra-worker-0", "fibra-worker-1"] {
        assert!(trace.count(worker, own) > 0, "{}: {:?}", kind.name, trace.calls);
    }
    assert_eq!(trace.count("", &others), 0, "{}: {:?}", kind.name, trace.calls);
    trace.check_transfers(kind.name);
    trace
}

/// The I/O thread waits; workers try, post what would block, and sleep on a futex.
fn one_thread_waits(kind: Kind) -> Trace {
    let trace = trace(kind);
    let (own, others) = waits(kind);
    assert!(trace.count("fibra-io", own) > 0, "{}: {:?}", kind.name, trace.calls);
    assert_eq!(trace.count("fibra-worker", own), 0, "{}: {:?}", kind.name, trace.calls);
    assert_eq!(trace.count("", &others), 0, "{}: {:?}", kind.name, trace.calls);
    assert!(trace.count("fibra-worker", &["futex"]) > 0, "{}: {:?}", kind.name, trace.calls);
    trace.check_transfers(kind.name);
    trace
}

#[test]
fn uring_workers_enter_their_rings_and_do_nothing_else() {
    let trace = workers_wait(URING);
    assert_eq!(trace.count("", &TRANSFERS), 0, "{:?}", trace.calls);
    assert_eq!(trace.count("", &[LOOK]), 0, "{:?}", trace.calls);
}

#[test]
fn epoll_workers_wait_in_epoll_only() {
    let trace = workers_wait(EPOLL);
    assert!(trace.count("fibra-worker", &TRANSFERS) > 0, "{:?}", trace.calls);
}

#[test]
fn poll_workers_wait_in_poll_only() {
    let trace = workers_wait(POLL);
    assert_eq!(trace.count("", &["epoll_ctl"]), 0, "{:?}", trace.calls);
}

#[test]
fn select_workers_wait_in_select_only() {
    let trace = workers_wait(SELECT);
    assert_eq!(trace.count("", &["epoll_ctl"]), 0, "{:?}", trace.calls);
}

#[test]
fn the_dedicated_thread_has_the_ring_and_workers_do_not_wait_for_io() {
    let trace = one_thread_waits(DEDICATED_URING);
    assert_eq!(trace.count("fibra-io", &TRANSFERS), 0, "{:?}", trace.calls);
}

#[test]
fn the_dedicated_thread_has_the_poller_and_workers_do_not_wait_for_io() {
    one_thread_waits(DEDICATED_EPOLL);
    one_thread_waits(DEDICATED_POLL);
    one_thread_waits(DEDICATED_SELECT);
}
