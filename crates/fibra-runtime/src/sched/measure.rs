//! What the queues cost, in nanoseconds. Prints, asserts nothing; run by hand:
//!
//! ```text
//! cargo test --release -p fibra-runtime --lib measure -- --ignored --nocapture --test-threads 1
//! ```

use std::hint::black_box;
use std::ptr::NonNull;
use std::time::Instant;

use super::done::Oneshot;
use super::inbox::{Inbox, Link, Node};
use super::incoming::Incoming;
use super::park::Parker;
use super::run_queue::FreshQueue;
use super::wheel::Wheel;

const ROUNDS: usize = 21;

/// Keeps the optimiser from leaving out what made `value`.
fn take<T>(value: T) {
    black_box(value);
}

/// Prints the least and the median time of one of the `count` steps that `round` makes.
fn report(what: &str, count: usize, mut round: impl FnMut()) {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            round();
            start.elapsed().as_nanos() as f64 / count as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{what:<48} min {:7.1}  median {:7.1}", times[0], times[ROUNDS / 2]);
}

#[test]
#[ignore = "measures, asserts nothing"]
fn measure_queues() {
    const COUNT: usize = 1_000_000;
    let fresh = FreshQueue::<usize>::new();
    report("fresh queue: push + pop, owner", COUNT, || {
        for word in 0..COUNT {
            // SAFETY: only this thread pushes.
            let _ = unsafe { fresh.push(black_box(word)) };
            black_box(fresh.pop());
        }
    });
    report("fresh queue: push, 128 at a time stolen", COUNT, || {
        for word in 0..COUNT {
            // SAFETY: only this thread pushes.
            if unsafe { fresh.push(black_box(word)) }.is_err() {
                fresh.steal_half(usize::MAX, take);
            }
        }
    });
    let incoming = Incoming::new(1_000);
    report("incoming: push + pop", COUNT, || {
        for word in 0..COUNT {
            let _ = incoming.push(black_box(word));
            black_box(incoming.pop());
        }
    });
    report("incoming: pop of an empty one", COUNT, || {
        for _ in 0..COUNT {
            black_box(incoming.pop());
        }
    });
    let parker = Parker::new();
    report("parker: unpark of a running worker", COUNT, || {
        for _ in 0..COUNT {
            black_box(parker.unpark());
        }
    });
    report("parker: begin_park + end_park", COUNT, || {
        for _ in 0..COUNT {
            parker.begin_park();
            black_box(parker.end_park());
        }
    });
    report("oneshot: new + complete + is_done", COUNT, || {
        for _ in 0..COUNT {
            let done = black_box(Oneshot::<usize>::new());
            black_box(done.complete());
            black_box(done.is_done());
        }
    });
    report("oneshot: new + register + complete", COUNT, || {
        for word in 0..COUNT {
            let done = black_box(Oneshot::<usize>::new());
            black_box(done.register(word)).expect("not done");
            black_box(done.complete());
        }
    });
}

struct Unit(Link<Self>);

// SAFETY: the link is the unit.
unsafe impl Node for Unit {
    fn link(&self) -> &Link<Self> {
        &self.0
    }
}

#[test]
#[ignore = "measures, asserts nothing"]
fn measure_inbox() {
    const BATCHES: usize = 10_000;
    let inbox = Inbox::new();
    for len in [1, 64] {
        let units: Vec<_> = (0..len).map(|_| Unit(Link::new())).collect();
        report(&format!("inbox: push + take, {len} at a time"), BATCHES * len, || {
            for _ in 0..BATCHES {
                for unit in &units {
                    // SAFETY: the units outlive the batches.
                    let _ = unsafe { inbox.push(NonNull::from(unit)) };
                }
                // SAFETY: only this thread reads.
                let mut batch = unsafe { inbox.take_all() };
                while let Some(node) = batch.pop() {
                    black_box(node);
                }
            }
        });
    }
}

#[test]
#[ignore = "measures, asserts nothing"]
fn measure_wheel() {
    for (what, count) in [("1 thousand", 1_000_u64), ("1 million", 1_000_000)] {
        let steps = count as usize;
        let mut wheel = Wheel::new(0);
        let mut random = 1_u64;
        // Deadlines within ten seconds, as timeouts are.
        let mut deadlines = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % 10_000_000_000
        };
        let mut ids = Vec::with_capacity(steps);
        report(&format!("wheel, {what}: insert + cancel, all live"), steps, || {
            ids.clear();
            ids.extend((0..count).map(|token| wheel.insert(deadlines(), token)));
            ids.iter().for_each(|id| take(wheel.cancel(*id)));
        });
        for token in 0..count {
            wheel.insert(1_000_000_000 + deadlines(), token);
        }
        report(&format!("wheel, {what} live: insert + cancel of one"), 100_000, || {
            for token in 0..100_000 {
                let id = wheel.insert(black_box(5_000_000_000), token);
                black_box(wheel.cancel(id));
            }
        });
        report(&format!("wheel, {what} live: expire, none due"), 100_000, || {
            for now in 0..100_000 {
                wheel.expire(black_box(now), take);
            }
        });
        report(&format!("wheel, {what} live: next_deadline"), 100_000, || {
            for _ in 0..100_000 {
                black_box(wheel.next_deadline());
            }
        });
        let mut now = 20_000_000_000;
        wheel.expire(now, take);
        report(&format!("wheel, {what}: insert + fire, 1 ms steps"), steps, || {
            for token in 0..count {
                wheel.insert(now + deadlines(), token);
            }
            while wheel.len() > 0 {
                now += 1_000_000;
                wheel.expire(now, take);
            }
        });
    }
}
