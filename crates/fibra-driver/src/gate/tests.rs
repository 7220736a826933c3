//! Gates on one thread, on several, and (under `--cfg loom`) in every order there is.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(not(loom))]
mod plain {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Barrier, Mutex};
    use std::task::{Poll, Wake, Waker};
    use std::thread;
    use std::time::Duration;

    use crate::clock::{Deadline, Instant};
    use crate::gate::{Gate, Ticket};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn counting() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count::default());
        (count.clone(), Waker::from(count))
    }

    #[test]
    fn one_enters_and_the_others_take_turns_in_order() {
        let gate = Gate::default();
        assert!(gate.try_enter());
        assert!(!gate.try_enter());
        let mut tickets: Vec<_> = (0..5).map(|_| (Ticket::default(), counting())).collect();
        for (ticket, (_, waker)) in &mut tickets {
            assert!(gate.poll_enter(ticket, waker).is_pending());
        }
        assert_eq!(gate.waiter_count(), 5);
        for turn in 0..5 {
            gate.leave();
            assert!(!gate.try_enter(), "the baton was passed, nobody barges in");
            for (index, (ticket, (count, waker))) in tickets.iter_mut().enumerate().skip(turn) {
                let mine = index == turn;
                assert_eq!(count.0.load(Ordering::SeqCst), usize::from(mine));
                assert_eq!(gate.poll_enter(ticket, waker).is_ready(), mine);
            }
        }
        gate.leave();
        assert!(!gate.is_held());
    }

    #[test]
    fn the_waker_of_the_last_poll_is_woken() {
        let gate = Gate::default();
        assert!(gate.try_enter());
        let mut ticket = Ticket::default();
        let (old, old_waker) = counting();
        let (new, new_waker) = counting();
        assert!(gate.poll_enter(&mut ticket, &old_waker).is_pending());
        drop(old_waker);
        assert!(gate.poll_enter(&mut ticket, &new_waker).is_pending());
        assert_eq!(Arc::strong_count(&old), 1, "the replaced waker was dropped");
        gate.leave();
        assert_eq!(old.0.load(Ordering::SeqCst), 0);
        assert_eq!(new.0.load(Ordering::SeqCst), 1);
        assert!(gate.poll_enter(&mut ticket, &new_waker).is_ready());
    }

    #[test]
    fn a_withdrawn_ticket_holds_nobody_up() {
        let gate = Gate::default();
        assert!(gate.try_enter());
        let (_, waker) = counting();
        let (last, last_waker) = counting();
        let (mut first, mut middle, mut end) = Default::default();
        for ticket in [&mut first, &mut middle] {
            assert!(gate.poll_enter(ticket, &waker).is_pending());
        }
        assert!(gate.poll_enter(&mut end, &last_waker).is_pending());
        gate.withdraw(&mut middle);
        gate.leave();
        // The turn of `first` has come, and it gives it up without having looked.
        gate.withdraw(&mut first);
        assert_eq!(last.0.load(Ordering::SeqCst), 1);
        assert!(gate.poll_enter(&mut end, &last_waker).is_ready());
        assert_eq!(gate.waiter_count(), 0);
        gate.leave();
        assert!(gate.try_enter());
    }

    #[test]
    fn the_last_withdrawal_lets_the_gate_become_free() {
        let gate = Gate::default();
        assert!(gate.try_enter());
        let (_, waker) = counting();
        let mut ticket = Ticket::default();
        assert!(gate.poll_enter(&mut ticket, &waker).is_pending());
        gate.withdraw(&mut ticket);
        gate.withdraw(&mut ticket);
        gate.leave();
        assert_eq!(gate.poll_enter(&mut ticket, &waker), Poll::Ready(()));
    }

    /// A waker that goes back into the gate: it deadlocks if the lock is still held.
    struct Reenter(Arc<Gate>, Mutex<Ticket>);

    impl Wake for Reenter {
        fn wake(self: Arc<Self>) {
            let mut ticket = self.1.lock().unwrap();
            assert!(self.0.poll_enter(&mut ticket, Waker::noop()).is_ready());
            drop(ticket);
            self.0.leave();
        }
    }

    #[test]
    fn foreign_code_runs_outside_the_lock() {
        let gate = Arc::new(Gate::default());
        assert!(gate.try_enter());
        for _ in 0..3 {
            let waiter = Arc::new(Reenter(gate.clone(), Mutex::default()));
            let waker = Waker::from(waiter.clone());
            let mut ticket = waiter.1.lock().unwrap();
            assert!(gate.poll_enter(&mut ticket, &waker).is_pending());
        }
        gate.leave();
        assert!(!gate.is_held(), "each waker entered, left and woke the next");
    }

    #[test]
    fn threads_exclude_each_other() {
        const THREADS: usize = 4;
        const TURNS: usize = 2_000;
        let gate = Gate::default();
        let (inside, total) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let start = Barrier::new(THREADS);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    start.wait();
                    for _ in 0..TURNS {
                        assert!(gate.enter_blocking(Deadline::Never));
                        assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0);
                        total.fetch_add(1, Ordering::Relaxed);
                        inside.fetch_sub(1, Ordering::Relaxed);
                        gate.leave();
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), THREADS * TURNS);
        assert!(!gate.is_held());
    }

    #[test]
    fn a_thread_waits_no_longer_than_its_deadline_and_never_less() {
        let gate = Gate::default();
        assert!(gate.try_enter());
        assert!(!gate.enter_blocking(Deadline::Now));
        let then = Instant::now() + Duration::from_millis(5);
        assert!(!gate.enter_blocking(Deadline::At(then)));
        assert!(Instant::now() >= then, "not early");
        gate.leave();
        assert!(gate.enter_blocking(Deadline::Now), "the place was given up");
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "must be withdrawn")]
    fn a_dropped_ticket_is_a_bug() {
        let gate = Gate::default();
        assert!(gate.try_enter());
        let mut ticket = Ticket::default();
        assert!(gate.poll_enter(&mut ticket, Waker::noop()).is_pending());
    }
}

/// Run with `RUSTFLAGS="--cfg loom" cargo test -p fibra-driver --release --lib loom`.
#[cfg(loom)]
mod loom_model {
    use std::future::poll_fn;
    use std::task::Waker;

    use loom::cell::UnsafeCell;
    use loom::future::block_on;
    use loom::sync::Arc;
    use loom::thread;

    use crate::gate::{Gate, Ticket};

    /// A gate with something that only who is inside may touch; loom reports any overlap.
    #[derive(Default)]
    struct Guarded {
        gate: Gate,
        cell: UnsafeCell<u32>,
    }

    impl Guarded {
        fn enter(&self) {
            let mut ticket = Ticket::default();
            block_on(poll_fn(|context| self.gate.poll_enter(&mut ticket, context.waker())));
        }

        fn turn(&self) {
            self.touch();
            self.gate.leave();
        }

        fn touch(&self) {
            // SAFETY: the gate lets one in at a time; loom checks exactly that.
            self.cell.with_mut(|cell| unsafe { *cell += 1 });
        }
    }

    fn count(guarded: &Guarded) -> u32 {
        assert!(!guarded.gate.is_held());
        // SAFETY: every other thread was joined.
        guarded.cell.with(|cell| unsafe { *cell })
    }

    fn model(test: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(test);
    }

    #[test]
    fn loom_two_enter_and_leave() {
        model(|| {
            let guarded = Arc::new(Guarded::default());
            let other = {
                let guarded = guarded.clone();
                thread::spawn(move || {
                    guarded.enter();
                    guarded.turn();
                })
            };
            guarded.enter();
            guarded.turn();
            other.join().unwrap();
            assert_eq!(count(&guarded), 2);
        });
    }

    #[test]
    fn loom_three_enter_and_leave() {
        model(|| {
            let guarded = Arc::new(Guarded::default());
            let others = [0, 1].map(|_| {
                let guarded = guarded.clone();
                thread::spawn(move || {
                    guarded.enter();
                    guarded.turn();
                })
            });
            guarded.enter();
            guarded.turn();
            others.into_iter().for_each(|other| other.join().unwrap());
            assert_eq!(count(&guarded), 3);
        });
    }

    #[test]
    fn loom_a_withdrawal_races_with_the_baton() {
        model(|| {
            let guarded = Arc::new(Guarded::default());
            assert!(guarded.gate.try_enter());
            let leaver = {
                let guarded = guarded.clone();
                thread::spawn(move || guarded.turn())
            };
            let waiter = {
                let guarded = guarded.clone();
                thread::spawn(move || {
                    guarded.enter();
                    guarded.turn();
                })
            };
            let mut ticket = Ticket::default();
            if guarded.gate.poll_enter(&mut ticket, Waker::noop()).is_ready() {
                guarded.turn();
            } else {
                guarded.gate.withdraw(&mut ticket);
            }
            leaver.join().unwrap();
            waiter.join().unwrap();
            assert!(count(&guarded) >= 2);
        });
    }

    #[test]
    fn loom_a_try_races_with_a_queue_and_a_leave() {
        model(|| {
            let guarded = Arc::new(Guarded::default());
            assert!(guarded.gate.try_enter());
            let waiter = {
                let guarded = guarded.clone();
                thread::spawn(move || {
                    guarded.enter();
                    guarded.turn();
                })
            };
            let barger = {
                let guarded = guarded.clone();
                thread::spawn(move || {
                    if guarded.gate.try_enter() {
                        guarded.turn();
                    }
                })
            };
            guarded.turn();
            waiter.join().unwrap();
            barger.join().unwrap();
            assert!(count(&guarded) >= 2);
        });
    }
}
