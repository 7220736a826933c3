//! Accepting while descriptors run out. Alone in its process, because the limit is the process's.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod sides;

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fibra_runtime::net::{TcpListener, TcpStream};
use rustix::process::{Resource, getrlimit, setrlimit};
use sides::{on_every_side, spawn};

/// Counts warnings of ours about accepting.
struct Warnings(AtomicUsize);

struct Collector(Arc<Warnings>);

impl tracing::Subscriber for Collector {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN && metadata.target().contains("shortage")
    }
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.0.fetch_add(1, Ordering::SeqCst);
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// The limit that leaves room for exactly `count` more descriptors; the numbers in use may have
/// gaps.
fn limit_for(count: usize) -> u64 {
    let names = std::fs::read_dir("/proc/self/fd").unwrap();
    let number =
        |name: std::io::Result<std::fs::DirEntry>| name.unwrap().file_name().to_str()?.parse().ok();
    let used: std::collections::HashSet<u64> = names.filter_map(number).collect();
    // The list itself was read through a descriptor that is closed again.
    let free = (0..).filter(|number| !used.contains(number) || !is_open(*number));
    free.take(count).last().map_or(0, |last| last + 1)
}

fn is_open(number: u64) -> bool {
    std::fs::read_link(format!("/proc/self/fd/{number}")).is_ok()
}

/// The soft limit while this lives.
struct SoftLimit(rustix::process::Rlimit);

impl SoftLimit {
    fn set(count: u64) -> Self {
        let before = getrlimit(Resource::Nofile);
        let lower = rustix::process::Rlimit { current: Some(count), maximum: before.maximum };
        setrlimit(Resource::Nofile, lower).unwrap();
        Self(before)
    }
}

impl Drop for SoftLimit {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.0).unwrap();
    }
}

#[test]
fn two_hundred_clients_are_served_with_room_for_sixty_four() {
    const CLIENTS: usize = 200;
    let warnings = Arc::new(Warnings(AtomicUsize::new(0)));
    tracing::subscriber::set_global_default(Collector(Arc::clone(&warnings))).unwrap();
    on_every_side(move || {
        let before = warnings.0.load(Ordering::SeqCst);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients: Vec<_> =
            (0..CLIENTS).map(|_| TcpStream::connect(address).unwrap()).collect();
        let limit = SoftLimit::set(limit_for(64));

        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let acceptor = spawn(move || {
            let mut handlers = Vec::new();
            for stream in listener.incoming().take(CLIENTS) {
                let mut stream = stream.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                handlers.push(spawn(move || {
                    let mut byte = [0];
                    while stream.read(&mut byte).unwrap() == 1 {
                        stream.write_all(&byte).unwrap();
                    }
                }));
            }
            handlers.into_iter().for_each(sides::Peer::join);
        });
        while accepted.load(Ordering::SeqCst) < 64 {
            fibra_runtime::yield_now();
        }

        // Full: nothing spins. A share of the time and not a time, so load changes nothing.
        let (wall, cpu) = (Instant::now(), cpu_time());
        fibra_runtime::sleep(Duration::from_millis(500));
        let (wall, cpu) = (wall.elapsed(), cpu_time() - cpu);
        assert!(cpu * 5 < wall, "{cpu:?} of {wall:?} while full");
        assert_eq!(accepted.load(Ordering::SeqCst), 64, "more than the limit allows");

        // Every client is served in the end, those that wait as soon as others have left.
        for client in &mut clients {
            client.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
            client.shutdown(std::net::Shutdown::Both).unwrap();
        }
        acceptor.join();
        drop(limit);
        // An episode ends 10 s after the last failure, so one side may go on with another's.
        let warnings = warnings.0.load(Ordering::SeqCst);
        assert!((1..=before + 1).contains(&warnings), "{before} warnings, then {warnings}");
    });

    // A listener that must not wait says so while the process is full.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let limit = SoftLimit::set(0);
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(limit);

    // A runtime that was built to return every error returns this one too.
    let builder = fibra_runtime::Builder::new().workers(1).accept_errors(true);
    let error = builder.run(|| {
        let _limit = SoftLimit::set(0);
        listener.set_nonblocking(false).unwrap();
        listener.accept().unwrap_err()
    });
    assert_eq!(error.unwrap().raw_os_error(), Some(libc::EMFILE));
}
