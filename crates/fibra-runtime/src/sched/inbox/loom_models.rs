//! Models of the inbox: no lost wake, no node twice, nothing touched after it was taken.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use super::super::loom::check;
use super::*;

struct Unit {
    link: Link<Self>,
    /// Wakes so far. Relaxed on purpose: `queued` alone must make it visible.
    wakes: AtomicUsize,
}

// SAFETY: the link is a field; a unit is atomics only.
unsafe impl Node for Unit {
    fn link(&self) -> &Link<Self> {
        &self.link
    }
}

struct World {
    inbox: Inbox<Unit>,
    units: [Unit; 2],
}

fn world() -> Arc<World> {
    let unit = || Unit { link: Link::new(), wakes: AtomicUsize::new(0) };
    Arc::new(World { inbox: Inbox::new(), units: [unit(), unit()] })
}

impl World {
    fn wake(&self, index: usize) -> Push {
        self.units[index].wakes.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the units live as long as the inbox; the model reads all before the end.
        unsafe { self.inbox.push(NonNull::from(&self.units[index])) }
    }

    /// Takes all, and notes for each unit how many wakes it shows when it is taken. Answers
    /// the indices in order.
    fn read(&self, seen: &mut [usize; 2]) -> Vec<usize> {
        let mut order = Vec::new();
        // SAFETY: each model reads from one thread at a time.
        let mut batch = unsafe { self.inbox.take_all() };
        while let Some(node) = batch.pop() {
            let index = usize::from(node != NonNull::from(&self.units[0]));
            // SAFETY: the units live as long as the inbox.
            seen[index] = unsafe { node.as_ref() }.wakes.load(Ordering::Relaxed);
            order.push(index);
        }
        order
    }
}

/// Two writers wake one unit while it is read: the last wake is seen, whoever pushed it.
#[test]
fn the_last_wake_of_a_unit_is_never_lost() {
    check(5, || {
        let world = world();
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let world = world.clone();
                thread::spawn(move || world.wake(0) != Push::Already)
            })
            .collect();
        let mut seen = [0; 2];
        let mut taken = world.read(&mut seen).len();
        let mut pushed = 0;
        for writer in writers {
            pushed += usize::from(writer.join().expect("a writer does not panic"));
        }
        taken += world.read(&mut seen).len();
        assert_eq!(seen[0], 2, "the reader saw both wakes");
        assert_eq!(taken, pushed, "taken as often as pushed");
    });
}

/// Two writers push different units, one of them twice, while they are read.
#[test]
fn units_pushed_together_all_come_out_and_one_writers_in_order() {
    check(5, || {
        let world = world();
        let writer = {
            let world = world.clone();
            thread::spawn(move || {
                let _ = world.wake(0);
                let _ = world.wake(1);
            })
        };
        let other = {
            let world = world.clone();
            thread::spawn(move || {
                let _ = world.wake(1);
            })
        };
        let mut seen = [0; 2];
        let mut order = world.read(&mut seen);
        writer.join().expect("the writer does not panic");
        other.join().expect("the other does not panic");
        order.extend(world.read(&mut seen));
        assert_eq!(seen, [1, 2]);
        assert!(order.iter().filter(|index| **index == 0).count() == 1);
        assert!(world.inbox.is_empty());
    });
}

/// The reader takes a node, frees it in its own way, and nobody touches it any more.
#[test]
fn a_node_is_the_readers_alone_once_it_is_taken() {
    struct Message {
        link: Link<Self>,
        /// Written before the push; taken apart by the reader.
        text: loom::cell::UnsafeCell<u8>,
    }
    // SAFETY: the link is a field.
    unsafe impl Node for Message {
        fn link(&self) -> &Link<Self> {
            &self.link
        }
    }
    check(5, || {
        let inbox = Arc::new(Inbox::<Message>::new());
        let writers: Vec<_> = (1..=2)
            .map(|text| {
                let inbox = inbox.clone();
                thread::spawn(move || {
                    let text = loom::cell::UnsafeCell::new(text);
                    let message = Box::new(Message { link: Link::new(), text });
                    // SAFETY: leaked here, freed by the reader after `pop`.
                    unsafe { inbox.push(NonNull::from(Box::leak(message))) }
                })
            })
            .collect();
        let mut sum = 0;
        let mut read = || {
            // SAFETY: only this thread reads.
            let mut batch = unsafe { inbox.take_all() };
            while let Some(node) = batch.pop() {
                // SAFETY: leaked by the writer; taken, so it is ours.
                let mut message = unsafe { Box::from_raw(node.as_ptr()) };
                // Exclusive access: the model checks that the writer's is over.
                message.link.next.with_mut(|_| ());
                // SAFETY: as above.
                sum += message.text.with_mut(|text| unsafe { *text });
            }
        };
        read();
        for writer in writers {
            let push = writer.join().expect("a writer does not panic");
            assert_ne!(push, Push::Already);
        }
        read();
        assert_eq!(sum, 3);
    });
}
