//! A thousand drivers come and go and leave nothing behind. Alone in its process, because it counts
//! what the process holds.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::os::unix::net::UnixStream;

use fibra_driver::owned::Outcome;
use fibra_driver::{BackendKind, Choice, Config, Deadline, Driver, Socket};

/// What this process holds.
#[derive(Debug)]
struct Held {
    descriptors: usize,
    /// Mappings of rings.
    rings: usize,
    /// All mappings.
    mappings: usize,
}

fn held() -> Held {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    Held {
        descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count(),
        rings: maps.lines().filter(|line| line.contains("io_uring")).count(),
        mappings: maps.lines().count(),
    }
}

/// Makes a driver, has it end some ops, drops it with others in flight.
fn cycle(config: &Config, socket: &Socket, peer: &mut UnixStream) {
    let mut driver = Driver::new(config).unwrap();
    driver.recv(socket, vec![0; 64], 0);
    driver.recv(socket, vec![0; 64], 1);
    driver.notifier().notify();
    driver.wait(Deadline::Never).unwrap();
    peer.write_all(b"abc").unwrap();
    let finished = loop {
        match driver.reap_owned() {
            Some(finished) => break finished,
            None => driver.wait(Deadline::Never).unwrap(),
        }
    };
    assert!(matches!(finished.outcome, Outcome::Received(Ok(3), _)), "{finished:?}");
}

#[test]
fn a_thousand_drivers_leave_neither_descriptors_nor_mappings() {
    for backend in BackendKind::ALL {
        let mut config = Config::default();
        config.choice = Choice::Named(backend);
        config.entries = 64;
        let (here, mut there) = UnixStream::pair().unwrap();
        let socket = Socket::from_owned(here.into()).unwrap();
        // What is made once and kept: the probe's memory, the arenas of the allocator.
        for _ in 0..20 {
            cycle(&config, &socket, &mut there);
        }
        let before = held();
        for _ in 0..1_000 {
            cycle(&config, &socket, &mut there);
        }
        let after = held();
        assert_eq!(after.descriptors, before.descriptors, "{backend}: {before:?}, {after:?}");
        assert_eq!(after.rings, before.rings, "{backend}: {before:?}, {after:?}");
        // The allocator may split and add some; one per driver would be a thousand.
        assert!(after.mappings < before.mappings + 200, "{backend}: {before:?}, {after:?}");
    }
}
