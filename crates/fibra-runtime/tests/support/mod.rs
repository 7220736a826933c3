//! What the tests of this crate share: every backend and topology, and child processes.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fibra_driver::{BackendKind, Choice};
use fibra_runtime::net::TcpListener;
use fibra_runtime::{Builder, IoMode, spawn};

/// Every Linux backend, in both topologies.
pub fn everywhere() -> impl Iterator<Item = Builder> {
    BackendKind::ALL.into_iter().flat_map(|kind| {
        [IoMode::PerWorker, IoMode::Dedicated]
            .map(|io| Builder::new().workers(2).driver(Choice::Named(kind)).io(io))
    })
}

/// One worker, so that fibers share a thread.
pub fn one_worker() -> Builder {
    Builder::new().workers(1)
}

const CHILD: &str = "FIBRA_TEST_CHILD";

/// Whether this process is the child that [`child`] started for this test.
pub fn is_child(test: &str) -> bool {
    std::env::var(CHILD).is_ok_and(|name| name == test)
}

/// Starts this test again in a process of its own, where [`is_child`] is true.
pub fn child(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(CHILD, test);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for a child, at most `limit`; kills it and fails otherwise.
pub fn finish(mut child: Child, limit: Duration) -> Output {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > limit {
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            panic!(
                "the child hung for {limit:?}\nstdout: {}\nstderr: {}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// What a child printed on stderr.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits for a flag that another thread sets; on a fiber it lets others run.
pub fn until(flag: &AtomicBool) {
    while !flag.load(Ordering::Acquire) {
        fibra_runtime::yield_now();
    }
}

/// Serves until the process is killed; prints its address.
pub fn serve_until_killed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("listening on {}", listener.local_addr().unwrap());
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        spawn(move || {
            let mut buf = [0; 4096];
            while let Ok(n @ 1..) = stream.read(&mut buf) {
                if stream.write_all(&buf[..n]).is_err() {
                    break;
                }
            }
        });
    }
}

/// The address that a child printed.
pub fn address_of(process: &mut Child) -> SocketAddr {
    let mut lines = BufReader::new(process.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening on ") {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the server ended");
    }
    line.rsplit(' ').next().unwrap().trim().parse().unwrap()
}
