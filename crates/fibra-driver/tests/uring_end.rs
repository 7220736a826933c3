//! The end of an io_uring driver: nothing in flight survives it, nothing open or mapped is left.
//!
//! A process of its own, because it counts the descriptors and mappings of the whole process; its
//! tests take turns for the same reason.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fibra_driver::{
    BackendKind, Choice, Config, Deadline, Descriptor, Driver, Instant, Interest, RawOp, Submitted,
    Target,
};

fn driver() -> Driver {
    let mut config = Config::default();
    config.choice = Choice::Named(BackendKind::Uring);
    config.entries = 64;
    Driver::new(&config).unwrap()
}

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fd_count() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Mappings of rings; other mappings come and go with the threads of the test harness.
fn ring_map_count() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains("io_uring")).count()
}

/// Waits until both counts are back: the kernel ends a ring in the background.
fn assert_settles(fds: usize, maps: usize) {
    let limit = Instant::now() + Duration::from_secs(10);
    while (fd_count(), ring_map_count()) != (fds, maps) {
        assert!(
            Instant::now() < limit,
            "{} fds and {} maps are left",
            fd_count(),
            ring_map_count()
        );
        std::thread::yield_now();
    }
}

fn pair() -> (Descriptor, UnixStream) {
    let (here, there) = UnixStream::pair().unwrap();
    here.set_nonblocking(true).unwrap();
    (Descriptor::new(here.into()), there)
}

/// Every test keeps its buffers and descriptors until the driver's end.
fn start(driver: &mut Driver, op: RawOp) {
    // SAFETY: see above.
    let submitted = unsafe { driver.submit(op, 0) };
    assert!(matches!(submitted, Submitted::Pending(_)), "{submitted:?}");
}

#[test]
fn a_thousand_drivers_leave_no_descriptor_and_no_mapping() {
    let _turn = turn();
    drop(driver());
    let (fds, maps) = (fd_count(), ring_map_count());
    let (here, mut there) = pair();
    for round in 0..1_000 {
        let mut driver = driver();
        let notifier = driver.notifier();
        let mut byte = 0;
        let on = Target::new(&here);
        start(&mut driver, RawOp::Recv { on, buf: &mut byte, len: 1, peek: false });
        if round % 2 == 0 {
            driver.wait(Deadline::Now).unwrap();
        } else {
            there.write_all(b"x").unwrap();
        }
        drop(driver);
        notifier.notify();
    }
    drop((here, there));
    assert_settles(fds, maps);
}

#[test]
fn a_dropped_driver_writes_to_no_memory_any_more() {
    let _turn = turn();
    for _ in 0..50 {
        let (mut pairs, mut buffers) = (Vec::new(), vec![[0xa5_u8; 64]; 32]);
        let mut driver = driver();
        pairs.extend((0..buffers.len()).map(|_| pair()));
        for ((here, _), buffer) in pairs.iter().zip(&mut buffers) {
            let (buf, len) = (buffer.as_mut_ptr(), buffer.len());
            start(&mut driver, RawOp::Recv { on: Target::new(here), buf, len, peek: false });
        }
        driver.wait(Deadline::Now).unwrap();
        drop(driver);
        for (_, there) in &mut pairs {
            there.write_all(&[0x5a; 64]).unwrap();
        }
        assert!(buffers.iter().flatten().all(|byte| *byte == 0xa5), "written after the end");
    }
}

#[test]
fn a_driver_that_never_ran_ends_with_its_ops() {
    let _turn = turn();
    let (here, mut there) = pair();
    let mut byte = 0xa5;
    let mut driver = driver();
    let on = Target::new(&here);
    start(&mut driver, RawOp::Recv { on, buf: &mut byte, len: 1, peek: false });
    start(&mut driver, RawOp::Ready { on, interest: Interest::READABLE });
    drop(driver);
    there.write_all(b"x").unwrap();
    assert_eq!(byte, 0xa5);
}

#[test]
fn a_connection_accepted_for_a_dropped_driver_is_closed() {
    let _turn = turn();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = Descriptor::new(listener.into());
    let mut driver = driver();
    driver.wait(Deadline::Now).unwrap();
    let (fds, maps) = (fd_count(), ring_map_count());
    start(&mut driver, RawOp::Accept { on: Target::new(&listener) });
    let client = TcpStream::connect(address).unwrap();
    driver.wait(Deadline::Never).unwrap();
    drop(driver);
    drop(client);
    // The ring's own descriptor and its two mappings are gone too.
    assert_settles(fds - 1, maps - 2);
}

#[test]
fn a_driver_dropped_on_the_wrong_thread_is_leaked_when_busy() {
    let _turn = turn();
    let (fds, maps) = (fd_count(), ring_map_count());
    let (here, mut there) = pair();
    let mut driver = driver();
    driver.wait(Deadline::Now).unwrap();
    // Leaked like the ring.
    let byte = Box::leak(Box::new(0));
    let here = Box::leak(Box::new(here));
    let on = Target::new(here);
    start(&mut driver, RawOp::Recv { on, buf: byte, len: 1, peek: false });
    driver.wait(Deadline::Now).unwrap();
    std::thread::spawn(move || drop(driver)).join().unwrap();
    assert!(fd_count() > fds && ring_map_count() > maps, "the ring is still there");
    there.write_all(b"x").unwrap();
}
