//! Models of parking, together with the queues: a lost wake shows as a deadlock.

use std::ptr::NonNull;

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::super::inbox::{Inbox, Link, Node, Push};
use super::super::incoming::Incoming;
use super::super::loom::check;
use super::Parker;

/// Stands for the driver: a wait that sleeps until it is notified. A lost wake is a deadlock,
/// which the checker reports.
struct FakeDriver {
    notified: Mutex<bool>,
    changed: Condvar,
}

impl FakeDriver {
    fn new() -> Self {
        Self { notified: Mutex::new(false), changed: Condvar::new() }
    }

    fn wait(&self) {
        let mut notified = self.notified.lock().expect("no panic under the lock");
        while !*notified {
            notified = self.changed.wait(notified).expect("no panic under the lock");
        }
        *notified = false;
    }

    fn notify(&self) {
        *self.notified.lock().expect("no panic under the lock") = true;
        self.changed.notify_one();
    }
}

struct Unit {
    link: Link<Self>,
    /// Relaxed on purpose: the inbox must make it visible.
    wakes: AtomicUsize,
}

// SAFETY: the link is a field; a unit is atomics only.
unsafe impl Node for Unit {
    fn link(&self) -> &Link<Self> {
        &self.link
    }
}

struct Worker {
    parker: Parker,
    driver: FakeDriver,
    inbox: Inbox<Unit>,
    incoming: Incoming<usize>,
    units: [Unit; 2],
    notifications: AtomicUsize,
    parks: AtomicUsize,
}

impl Worker {
    fn new() -> Arc<Self> {
        let unit = || Unit { link: Link::new(), wakes: AtomicUsize::new(0) };
        Arc::new(Self {
            parker: Parker::new(),
            driver: FakeDriver::new(),
            inbox: Inbox::new(),
            incoming: Incoming::new(9),
            units: [unit(), unit()],
            notifications: AtomicUsize::new(0),
            parks: AtomicUsize::new(0),
        })
    }

    fn unpark(&self) {
        if self.parker.unpark() {
            self.notifications.fetch_add(1, Ordering::Relaxed);
            self.driver.notify();
        }
    }

    /// What a waker does.
    fn wake(&self, index: usize) {
        self.units[index].wakes.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the units live as long as the inbox.
        if unsafe { self.inbox.push(NonNull::from(&self.units[index])) } == Push::First {
            self.unpark();
        }
    }

    /// What a spawner does.
    fn place(&self, unit: usize) {
        self.incoming.push(unit).expect("there is room");
        self.unpark();
    }

    /// What the worker's loop does, until it has seen `wakes` of the units and `placed`.
    fn work(&self, wakes: usize, placed: usize) {
        let mut seen = [0; 2];
        let mut taken = 0;
        loop {
            // SAFETY: the worker is the reader.
            let mut batch = unsafe { self.inbox.take_all() };
            while let Some(node) = batch.pop() {
                let index = usize::from(node != NonNull::from(&self.units[0]));
                // SAFETY: the units live as long as the inbox.
                seen[index] = unsafe { node.as_ref() }.wakes.load(Ordering::Relaxed);
            }
            while self.incoming.pop().is_some() {
                taken += 1;
            }
            if seen.iter().sum::<usize>() == wakes && taken == placed {
                return;
            }
            self.parks.fetch_add(1, Ordering::Relaxed);
            self.parker.begin_park();
            if self.inbox.is_empty() && self.incoming.len() == 0 {
                self.driver.wait();
            }
            self.parker.end_park();
        }
    }

    fn check_notifications(&self) {
        let notifications = self.notifications.load(Ordering::Relaxed);
        assert!(notifications <= self.parks.load(Ordering::Relaxed), "at most one per park");
    }
}

/// One waker, one unit, one sleep: the smallest model of a lost wake.
#[test]
fn a_wake_is_never_lost() {
    check(3, || {
        let worker = Worker::new();
        let waker = {
            let worker = worker.clone();
            thread::spawn(move || worker.wake(0))
        };
        worker.work(1, 0);
        waker.join().expect("the waker does not panic");
        worker.check_notifications();
    });
}

/// The same for the locked queue, whose length is stored with Relaxed.
#[test]
fn a_placement_is_never_lost() {
    check(3, || {
        let worker = Worker::new();
        let spawner = {
            let worker = worker.clone();
            thread::spawn(move || worker.place(7))
        };
        worker.work(0, 1);
        spawner.join().expect("the spawner does not panic");
        worker.check_notifications();
    });
}

/// Two wakers of one unit: only who found the inbox empty unparks, and that is enough.
#[test]
fn two_wakers_of_one_unit_are_both_seen() {
    check_two(3, |worker| {
        let other = worker.clone();
        let wakers = [thread::spawn(move || worker.wake(0)), thread::spawn(move || other.wake(0))];
        (wakers, 2, 0)
    });
}

/// Two wakers of two units.
#[test]
fn two_wakers_of_two_units_are_both_seen() {
    check_two(3, |worker| {
        let other = worker.clone();
        let wakers = [thread::spawn(move || worker.wake(0)), thread::spawn(move || other.wake(1))];
        (wakers, 2, 0)
    });
}

/// A waker and a spawner, who know nothing of each other.
#[test]
fn a_wake_and_a_placement_are_both_seen() {
    check_two(3, |worker| {
        let other = worker.clone();
        let wakers = [thread::spawn(move || worker.wake(0)), thread::spawn(move || other.place(7))];
        (wakers, 1, 1)
    });
}

/// Of two who unpark one sleep, exactly one is told to notify.
#[test]
fn exactly_one_of_two_wakers_notifies_a_sleep() {
    check(3, || {
        let parker = Arc::new(Parker::new());
        parker.begin_park();
        let other = {
            let parker = parker.clone();
            thread::spawn(move || parker.unpark())
        };
        let first = parker.unpark();
        let second = other.join().expect("the waker does not panic");
        assert!(first != second);
        assert!(parker.end_park());
    });
}

/// Runs a worker against two wakers, with at most `preemption_max` switches.
fn check_two<F>(preemption_max: usize, start: F)
where
    F: Fn(Arc<Worker>) -> ([thread::JoinHandle<()>; 2], usize, usize) + Sync + Send + 'static,
{
    check(preemption_max, move || {
        let worker = Worker::new();
        let (wakers, wakes, placed) = start(worker.clone());
        worker.work(wakes, placed);
        for waker in wakers {
            waker.join().expect("a waker does not panic");
        }
        worker.check_notifications();
    });
}
