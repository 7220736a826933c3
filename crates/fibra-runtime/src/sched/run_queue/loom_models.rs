//! Models of the run queue: every word taken once, and complete.

use loom::sync::Arc;
use loom::thread;

use super::super::loom::check;
use super::*;

/// The owner pushes more words than fit and pops when it is full; a thief pops, then steals.
#[test]
fn owner_and_thief_take_every_word_once_around_the_ring() {
    check(3, || {
        let queue = Arc::new(FreshQueue::<usize>::new());
        let thief = {
            let queue = queue.clone();
            thread::spawn(move || {
                let mut stolen = Vec::from_iter(queue.pop());
                queue.steal_half(FRESH_LEN_MAX, |word| stolen.push(word));
                stolen
            })
        };
        let mut taken = Vec::new();
        for word in 1..=FRESH_LEN_MAX + 2 {
            // SAFETY: only this thread pushes.
            while unsafe { queue.push(word) }.is_err() {
                taken.extend(queue.pop());
            }
        }
        let stolen = thief.join().expect("the thief does not panic");
        while let Some(word) = queue.pop() {
            taken.push(word);
        }
        assert!(stolen.is_sorted() && taken.is_sorted(), "first in, first out");
        taken.extend(stolen);
        taken.sort_unstable();
        assert!(taken.into_iter().eq(1..=FRESH_LEN_MAX + 2));
    });
}

/// What a unit was given before it was pushed is there for a thief.
#[test]
fn a_thief_sees_what_was_written_before_the_push() {
    check(3, || {
        let unit = Arc::new(loom::cell::UnsafeCell::new(0));
        let queue = Arc::new(FreshQueue::<usize>::new());
        let thief = {
            let (unit, queue) = (unit.clone(), queue.clone());
            thread::spawn(move || {
                if queue.pop() == Some(7) {
                    // SAFETY: the word was taken, so the owner is done with the unit.
                    unit.with(|unit| assert_eq!(unsafe { *unit }, 42));
                }
            })
        };
        // SAFETY: not pushed yet: nobody else knows the unit.
        unit.with_mut(|unit| unsafe { *unit = 42 });
        // SAFETY: only this thread pushes.
        unsafe { queue.push(7) }.expect("there is room");
        thief.join().expect("the thief does not panic");
    });
}

/// Two thieves and the owner meet on one word.
#[test]
fn one_word_goes_to_one_of_three_takers() {
    check(3, || {
        let queue = Arc::new(FreshQueue::<usize>::new());
        // SAFETY: only this thread pushes.
        unsafe { queue.push(1) }.expect("there is room");
        let thieves: Vec<_> = (0..2)
            .map(|_| {
                let queue = queue.clone();
                thread::spawn(move || queue.steal_half(FRESH_LEN_MAX, |_| ()))
            })
            .collect();
        let mut count = usize::from(queue.pop().is_some());
        for thief in thieves {
            count += thief.join().expect("the thief does not panic");
        }
        assert_eq!(count, 1);
    });
}
