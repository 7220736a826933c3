//! A thousand connections. A test binary of its own: with this many descriptors in one process
//! `select` could not wait for the others'.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fibra_driver::BackendKind;
use fibra_runtime::net::TcpListener;
use fibra_runtime::{Builder, IoMode, current, spawn, yield_now};
use support::{address_of, child, is_child, serve_until_killed};

#[test]
fn a_burst_of_connections_spreads_over_the_workers() {
    for io in [IoMode::PerWorker, IoMode::Dedicated] {
        Builder::new()
            .workers(2)
            .io(io)
            .run(|| {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let address = listener.local_addr().unwrap();
                let clients = std::thread::spawn(move || {
                    (0..1000)
                        .map(|_| std::net::TcpStream::connect(address).unwrap())
                        .collect::<Vec<_>>()
                });
                let per_worker: Arc<[AtomicUsize; 2]> = Arc::default();
                for _ in 0..1000 {
                    let (mut stream, _) = listener.accept().unwrap();
                    let per_worker = Arc::clone(&per_worker);
                    spawn(move || {
                        per_worker[current().unwrap().worker()].fetch_add(1, Ordering::Relaxed);
                        let _ = stream.read(&mut [0; 8]);
                    });
                }
                let total = || per_worker.iter().map(|n| n.load(Ordering::Relaxed)).sum::<usize>();
                while total() < 1000 {
                    yield_now();
                }
                let counts: Vec<_> = per_worker.iter().map(|n| n.load(Ordering::Relaxed)).collect();
                let (min, max) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
                assert!(*max as f64 <= 1.2 * *min as f64, "{counts:?}");
                drop(fibra_runtime::blocking(|| clients.join().unwrap()));
            })
            .unwrap();
    }
}

/// Context switches of all threads of a process so far. A sleeping thread cannot make a system call
/// without one.
fn switches(pid: u32) -> u64 {
    let mut sum = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        for line in status.lines().filter(|line| line.contains("ctxt_switches")) {
            sum += line.rsplit('\t').next().unwrap().parse::<u64>().unwrap();
        }
    }
    sum
}

#[test]
fn a_thousand_idle_connections_cause_no_system_call_for_five_seconds() {
    const ME: &str = "a_thousand_idle_connections_cause_no_system_call_for_five_seconds";
    if is_child(ME) {
        Builder::new().run(serve_until_killed).unwrap();
    }
    let mut servers = Vec::new();
    for kind in [BackendKind::Uring, BackendKind::Epoll] {
        for io in ["per-worker", "dedicated"] {
            let mut command = child(ME);
            command.env("FIBRA_DRIVER", kind.name()).env("FIBRA_IO", io).env("FIBRA_WORKERS", "2");
            let mut server = command.spawn().unwrap();
            let address = address_of(&mut server);
            let mut clients: Vec<_> =
                (0..1000).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
            for client in &mut clients {
                client.write_all(b"x").unwrap();
                client.read_exact(&mut [0]).unwrap();
            }
            servers.push((server, clients, format!("{kind} {io}")));
        }
    }
    // Settled: the watchdog asleep, stacks trimmed. Then five seconds in which nothing may happen.
    for (server, _, name) in &servers {
        let start = Instant::now();
        let mut last = (switches(server.id()), Instant::now());
        while last.1.elapsed() < Duration::from_secs(5) {
            assert!(start.elapsed() < Duration::from_secs(40), "{name} never comes to rest");
            std::thread::sleep(Duration::from_millis(100));
            let now = switches(server.id());
            if now != last.0 {
                last = (now, Instant::now());
            }
        }
    }
    for (mut server, clients, _) in servers {
        drop(clients);
        server.kill().unwrap();
        server.wait().unwrap();
    }
}
