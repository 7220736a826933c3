//! Models of completion: a waiter is woken, told or given back, and the node may go.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use super::super::loom::check;
use super::*;

/// A completion with its result beside it. The waiter is a number; `woken` are those whom the
/// completer woke.
struct Join {
    done: Oneshot<usize>,
    result: UnsafeCell<u8>,
    woken: [AtomicUsize; 3],
}

// SAFETY: the result is written before `complete` and read after `is_done`; the model checks.
unsafe impl Sync for Join {}
// SAFETY: as above.
unsafe impl Send for Join {}

impl Join {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            done: Oneshot::new(),
            result: UnsafeCell::new(0),
            woken: Default::default(),
        })
    }

    fn complete(&self) {
        // SAFETY: nobody reads it before `is_done`.
        self.result.with_mut(|result| unsafe { *result = 42 });
        if let Some(waiter) = self.done.complete() {
            self.woken[waiter].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn check_result(&self) {
        // First: whatever told the caller that it is done must make the result visible.
        // SAFETY: it is done, so the completer does not write it any more.
        self.result.with(|result| assert_eq!(unsafe { *result }, 42));
        assert!(self.done.is_done());
    }

    fn woken(&self, waiter: usize) -> usize {
        self.woken[waiter].load(Ordering::Relaxed)
    }
}

fn spawn_completer(join: &Arc<Join>) -> thread::JoinHandle<()> {
    let join = join.clone();
    thread::spawn(move || join.complete())
}

/// Either the waiter is told "done" at once, or it is woken: exactly one of both.
#[test]
fn a_waiter_is_woken_or_told() {
    loom::model(|| {
        let join = Join::new();
        let completer = spawn_completer(&join);
        let told = join.done.register(0).is_err();
        if told {
            join.check_result();
        }
        completer.join().expect("the completer does not panic");
        assert_eq!(join.woken(0), usize::from(!told));
        join.check_result();
    });
}

/// A future polled again with another waker: the last one in is woken, the others come back.
#[test]
fn a_replaced_waiter_comes_back_or_is_woken() {
    loom::model(|| {
        let join = Join::new();
        let completer = spawn_completer(&join);
        let first = join.done.register(0);
        let second = join.done.register(1);
        completer.join().expect("the completer does not panic");
        let woken = (join.woken(0), join.woken(1));
        match (first, second) {
            (Err(0), Err(1)) => assert_eq!(woken, (0, 0)),
            // Completed between the two, or during the second.
            (Ok(None), Err(1)) => assert!(woken == (1, 0) || woken == (0, 0)),
            (Ok(None), Ok(Some(0))) => assert_eq!(woken, (0, 1)),
            other => panic!("cannot be: {other:?}"),
        }
        join.check_result();
    });
}

/// A deadline passes while it completes: the waiter comes back, or it is done and was woken.
#[test]
fn a_waiter_taken_back_is_ours_or_it_is_done() {
    loom::model(|| {
        let join = Join::new();
        assert_eq!(join.done.register(0), Ok(None));
        let completer = spawn_completer(&join);
        let back = join.done.deregister();
        if back.is_none() {
            join.check_result();
        }
        completer.join().expect("the completer does not panic");
        assert_eq!(join.woken(0), usize::from(back.is_none()));
    });
}

/// Registered, taken back and registered again, as a `select` does.
#[test]
fn registering_again_after_taking_back_loses_no_wake() {
    loom::model(|| {
        let join = Join::new();
        let completer = spawn_completer(&join);
        let mut told = join.done.register(0).is_err();
        if !told && join.done.deregister().is_some() {
            told = join.done.register(1).is_err();
            completer.join().expect("the completer does not panic");
            assert_eq!((join.woken(0), join.woken(1)), (0, usize::from(!told)));
        } else {
            join.check_result();
            completer.join().expect("the completer does not panic");
            assert_eq!(join.woken(0), usize::from(!told));
        }
    });
}

/// Two handles of one completion race to register: one replaces the other, none is lost.
#[test]
fn of_two_waiters_each_is_woken_told_or_replaced() {
    check(3, || {
        let join = Join::new();
        let completer = spawn_completer(&join);
        let other = {
            let join = join.clone();
            thread::spawn(move || join.done.register(1))
        };
        let outcomes = [join.done.register(0), other.join().expect("no panic")];
        completer.join().expect("the completer does not panic");
        let mut fates = [join.woken(0), join.woken(1)];
        for outcome in outcomes {
            match outcome {
                Ok(Some(replaced)) => fates[replaced] += 1,
                Err(told) => fates[told] += 1,
                Ok(None) => {}
            }
        }
        // One that was replaced by a waiter that was told was dropped by `register`.
        assert!(fates.iter().all(|fate| *fate <= 1), "{fates:?}");
        assert!(fates.iter().sum::<usize>() >= 1);
    });
}

/// Who sees DONE frees the node at once; the completer must not touch it any more. Freeing is
/// an exclusive access to the cell and the word, which the model checks against all others.
#[test]
fn the_node_may_go_as_soon_as_it_is_done() {
    loom::model(|| {
        let done = Box::into_raw(Box::new(Oneshot::<usize>::new()));
        // SAFETY: allocated above.
        let shared = unsafe { &*done };
        assert_eq!(shared.register(0), Ok(None));
        let completer = thread::spawn(move || shared.complete());
        // A spurious resume: look, and sleep again.
        while !shared.is_done() {
            thread::yield_now();
        }
        // SAFETY: it is done.
        let mut owned = unsafe { Box::from_raw(done) };
        owned.state.with_mut(|state| assert_eq!(*state, DONE));
        // SAFETY: it is done: nobody else reaches the cell.
        assert_eq!(unsafe { owned.waiter.with_mut(|cell| *cell) }, None);
        drop(owned);
        assert_eq!(completer.join().expect("the completer does not panic"), Some(0));
    });
}
