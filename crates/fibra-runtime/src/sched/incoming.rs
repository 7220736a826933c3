//! Units placed on a worker by other threads: a locked queue with a length that costs one load.
//!
//! Promise: `push` gives the unit back at the bound and after `close`; else it is taken once, in
//! order, by the owner or a thief.
//!
//! A lock is enough: a placement across threads costs a hundred times more when the other worker
//! must be woken, and the owner looks at `len` first, so that an idle queue costs it one load.
//! For parking, `len` is stored under the lock before `push` returns: see `park`.

use std::collections::VecDeque;
use std::fmt;
use std::sync::PoisonError;

use super::loom::{AtomicUsize, Mutex, Ordering};

/// A bounded queue that any thread fills and any thread empties.
pub(crate) struct Incoming<T> {
    /// The length of `queue`. Stored under its lock; loaded by anybody.
    len: AtomicUsize,
    queue: Mutex<Queue<T>>,
}

struct Queue<T> {
    units: VecDeque<T>,
    len_max: usize,
}

impl<T> Incoming<T> {
    /// An empty queue that holds at most `len_max` units.
    pub(crate) fn new(len_max: usize) -> Self {
        let queue = Queue { units: VecDeque::new(), len_max };
        Self { len: AtomicUsize::new(0), queue: Mutex::new(queue) }
    }

    /// Appends `unit`, or gives it back if the queue is full or closed.
    pub(crate) fn push(&self, unit: T) -> Result<(), T> {
        self.locked(|queue| {
            if queue.units.len() >= queue.len_max {
                return Err(unit);
            }
            queue.units.push_back(unit);
            Ok(())
        })
    }

    /// Takes the oldest unit.
    #[inline]
    pub(crate) fn pop(&self) -> Option<T> {
        if self.len() == 0 { None } else { self.locked(|queue| queue.units.pop_front()) }
    }

    /// Takes the older half, rounded up but at most `count_max`, and gives each unit to `into`,
    /// oldest first and under the lock. Returns how many.
    pub(crate) fn take_half(&self, count_max: usize, into: impl FnMut(T)) -> usize {
        if self.len() == 0 {
            return 0;
        }
        self.locked(|queue| {
            let count = queue.units.len().div_ceil(2).min(count_max);
            queue.units.drain(..count).for_each(into);
            count
        })
    }

    /// Refuses units from now on and gives out those that are left.
    #[cfg_attr(not(test), allow(dead_code, reason = "part of the modelled protocol"))]
    pub(crate) fn close(&self) -> VecDeque<T> {
        self.locked(|queue| {
            queue.len_max = 0;
            std::mem::take(&mut queue.units)
        })
    }

    /// How many units are in it: exact under the lock, else a moment old. The metric.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        // Relaxed: a hint. Who must not miss a unit (a worker before it sleeps) has a fence.
        self.len.load(Ordering::Relaxed)
    }

    fn locked<R>(&self, change: impl FnOnce(&mut Queue<T>) -> R) -> R {
        // A panic under the lock (only `into` could) leaves whole units: go on.
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = change(&mut queue);
        // Relaxed: see `len`.
        self.len.store(queue.units.len(), Ordering::Relaxed);
        answer
    }
}

impl<T> fmt::Debug for Incoming<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_gives_the_unit_back() {
        let incoming = Incoming::new(2);
        assert_eq!(incoming.push(1), Ok(()));
        assert_eq!(incoming.push(2), Ok(()));
        assert_eq!(incoming.push(3), Err(3));
        assert_eq!((incoming.len(), incoming.pop()), (2, Some(1)));
        assert_eq!(incoming.push(3), Ok(()));
        assert_eq!((incoming.pop(), incoming.pop(), incoming.pop()), (Some(2), Some(3), None));
    }

    #[test]
    fn a_thief_takes_the_older_half_but_not_more_than_it_has_room_for() {
        let incoming = Incoming::new(9);
        (0..9).for_each(|unit| incoming.push(unit).expect("there is room"));
        let mut taken = Vec::new();
        assert_eq!(incoming.take_half(100, |unit| taken.push(unit)), 5);
        assert_eq!(incoming.take_half(1, |unit| taken.push(unit)), 1);
        assert_eq!((taken, incoming.len()), (vec![0, 1, 2, 3, 4, 5], 3));
    }

    #[test]
    fn a_closed_queue_hands_out_its_rest_and_takes_no_more() {
        let incoming = Incoming::new(9);
        incoming.push(1).expect("there is room");
        assert_eq!(incoming.close(), [1]);
        assert_eq!((incoming.push(2), incoming.len(), incoming.pop()), (Err(2), 0, None));
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// A unit is placed, or refused because the worker is gone: never lost in between.
    #[test]
    fn a_unit_pushed_while_the_queue_closes_is_handed_out_or_refused() {
        loom::model(|| {
            let incoming = Arc::new(Incoming::new(9));
            let pusher = {
                let incoming = incoming.clone();
                thread::spawn(move || incoming.push(1).is_err())
            };
            let handed_out = incoming.pop().is_some() || !incoming.close().is_empty();
            let refused = pusher.join().expect("the pusher does not panic");
            assert!(handed_out != refused);
            assert_eq!(incoming.len(), 0);
        });
    }

    /// The owner and a thief empty it together while it is filled.
    #[test]
    fn owner_and_thief_take_every_unit_once() {
        loom::model(|| {
            let incoming = Arc::new(Incoming::new(9));
            let thief = {
                let incoming = incoming.clone();
                thread::spawn(move || incoming.take_half(9, |_| ()))
            };
            incoming.push(1).expect("there is room");
            incoming.push(2).expect("there is room");
            let mut count = usize::from(incoming.pop().is_some());
            count += thief.join().expect("the thief does not panic");
            while incoming.pop().is_some() {
                count += 1;
            }
            assert_eq!((count, incoming.len()), (2, 0));
        });
    }
}
