//! Waits: until a deadline and no shorter, or until another thread says so.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use fibra_driver::{BackendKind, Deadline, Driver, Instant};

use crate::support::{LIMIT, Rig, driver, pair, soon};

pub fn a_wait_never_ends_early_for_its_deadline_alone(backend: BackendKind) {
    let mut rig = Rig::new(backend);
    let (here, _there) = pair();
    rig.recv(&here, 1, 0);
    for micros in [0, 1, 50, 300, 999, 1_000, 1_001, 4_700] {
        let then = Instant::now() + Duration::from_micros(micros);
        // A wait may end early for no reason, but then the caller comes back with time to spare;
        // a backend that cuts deadlines short would come back here over and over again.
        let mut calls = 0;
        while Instant::now() < then {
            rig.driver.wait(Deadline::At(then)).unwrap();
            calls += 1;
        }
        assert!(calls <= 3, "{calls} waits for one deadline of {micros} us");
    }
    rig.reap();
    assert!(!rig.has_ended(0));
}

pub fn a_wait_that_only_looks_does_not_sleep(backend: BackendKind) {
    let mut rig = Rig::new(backend);
    let (here, _there) = pair();
    rig.recv(&here, 1, 0);
    // If it slept, it would do so for ever.
    for _ in 0..100 {
        rig.look();
    }
    rig.driver.wait(Deadline::At(Instant::from_nanos(1))).unwrap();
    assert!(!rig.has_ended(0));
}

pub fn a_notification_before_the_wait_ends_it(backend: BackendKind) {
    let mut driver = driver(backend);
    let notifier = driver.notifier();
    for _ in 0..10 {
        notifier.notify();
        notifier.notify();
        wait_for_ever(&mut driver);
        assert!(driver.reap().is_none(), "a notification is no completion");
    }
    // From another thread, which has ended by then.
    thread::spawn(move || notifier.notify()).join().unwrap();
    wait_for_ever(&mut driver);
}

/// Waits as if for ever, and fails if that is so.
fn wait_for_ever(driver: &mut Driver) {
    let limit = Instant::now() + LIMIT;
    driver.wait(Deadline::At(limit)).unwrap();
    assert!(Instant::now() < limit, "the notification was lost");
}

pub fn notifications_during_the_wait_end_it(backend: BackendKind) {
    const ROUNDS: u32 = 500;
    let mut driver = driver(backend);
    let notifier = driver.notifier();
    let (ask, asked) = mpsc::channel::<()>();
    let said = AtomicU32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for () in asked {
                said.fetch_add(1, Ordering::Relaxed);
                notifier.notify();
            }
        });
        // The other thread is asked and answers while we go to sleep: before, during, after.
        for round in 1..=ROUNDS {
            ask.send(()).unwrap();
            let limit = Instant::now() + LIMIT;
            while said.load(Ordering::Relaxed) < round {
                driver.wait(Deadline::At(limit)).unwrap();
                assert!(Instant::now() < limit, "the notification of round {round} was lost");
            }
        }
        drop(ask);
    });
}

pub fn a_notifier_outlives_its_driver(backend: BackendKind) {
    let (notifier, clone) = {
        let driver = driver(backend);
        (driver.notifier(), driver.notifier())
    };
    notifier.notify();
    thread::spawn(move || clone.notify()).join().unwrap();
    // A number of the driver's own may be another's by now.
    let mut other = driver(backend);
    notifier.notify();
    other.wait(Deadline::Now).unwrap();
    assert!(other.reap().is_none());
}

pub fn what_was_written_before_a_notification_is_seen_after_it(backend: BackendKind) {
    let mut driver = driver(backend);
    let notifiers: Vec<_> = (0..4).map(|_| driver.notifier()).collect();
    let written = AtomicU32::new(0);
    thread::scope(|scope| {
        for notifier in &notifiers {
            scope.spawn(|| {
                for _ in 0..250 {
                    written.fetch_add(1, Ordering::Relaxed);
                    notifier.notify();
                }
            });
        }
        // All notifications may be one, but the last of them is not lost.
        while written.load(Ordering::Relaxed) < 1_000 {
            let limit = soon();
            driver.wait(limit).unwrap();
            assert_ne!(limit.remaining(), Some(Duration::ZERO), "the last notification was lost");
        }
    });
}
