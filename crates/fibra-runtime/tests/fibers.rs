//! Fibers: spawning, joining, sleeping, yielding.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
use std::time::{Duration, Instant};

#[test]
fn run_returns_what_the_main_fiber_returned() {
    assert_eq!(fibra_runtime::run(|| 6 * 7), 42);
}

#[test]
fn a_child_is_joined() {
    let sum: u64 = fibra_runtime::run(|| {
        let handles: Vec<_> = (0..1000_u64).map(|i| fibra_runtime::spawn(move || i)).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).sum()
    });
    assert_eq!(sum, 499_500);
}

#[test]
fn a_sleep_lasts_at_least_as_long_as_asked() {
    fibra_runtime::run(|| {
        let start = Instant::now();
        fibra_runtime::sleep(Duration::from_millis(5));
        assert!(start.elapsed() >= Duration::from_millis(5));
    });
}
