//! The wheel against a model that cannot be wrong: a sorted map from deadline and insertion number.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// One step of a random history. Spans are drawn by magnitude, so that nanoseconds, ticks, slots of
/// every level and years are equally likely.
#[derive(Clone, Debug)]
enum Step {
    Insert {
        after: u64,
    },
    InsertPast {
        before: u64,
    },
    /// The same deadline as an earlier timer's, if that is still to come.
    InsertLike {
        which: usize,
    },
    Cancel {
        which: usize,
    },
    Advance {
        by: u64,
    },
    /// To the nearest deadline, less or plus one nanosecond or exactly.
    AdvanceToNext {
        offset: i8,
    },
}

fn span() -> impl Strategy<Value = u64> {
    (0u32..64, any::<u64>()).prop_map(|(bits, value)| value >> (63 - bits.min(62)) >> 1)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => span().prop_map(|after| Step::Insert { after }),
        1 => span().prop_map(|before| Step::InsertPast { before }),
        2 => any::<usize>().prop_map(|which| Step::InsertLike { which }),
        3 => any::<usize>().prop_map(|which| Step::Cancel { which }),
        2 => span().prop_map(|by| Step::Advance { by: by >> 8 }),
        3 => (-1i8..=1).prop_map(|offset| Step::AdvanceToNext { offset }),
    ]
}

/// A wheel and its model, run side by side.
struct Pair {
    wheel: Wheel<u64>,
    model: BTreeMap<(u64, u64), TimerId>,
    /// Every timer there ever was: its place in the model and its id.
    all: Vec<((u64, u64), TimerId)>,
    now: u64,
}

impl Pair {
    fn new(now: u64) -> Self {
        Self { wheel: Wheel::new(now), model: BTreeMap::new(), all: Vec::new(), now }
    }

    fn insert(&mut self, deadline: u64) {
        let number = self.all.len() as u64;
        let id = self.wheel.insert(deadline, number);
        self.model.insert((deadline, number), id);
        self.all.push(((deadline, number), id));
    }

    fn cancel(&mut self, which: usize) {
        let Some((key, id)) = self.all.get(which % self.all.len().max(1)).copied() else { return };
        let expected = self.model.remove(&key).map(|_| key.1);
        assert_eq!(self.wheel.cancel(id), expected, "cancel of {key:?}");
        assert_eq!(self.wheel.cancel(id), None, "a second cancel");
    }

    fn advance(&mut self, now: u64) {
        self.now = now.max(self.now);
        let later = self.model.split_off(&(self.now.saturating_add(1), 0));
        let due = std::mem::replace(&mut self.model, later);
        let mut expected: Vec<_> = due.into_keys().map(|(_, number)| number).collect();
        if self.now == u64::MAX {
            expected.extend(std::mem::take(&mut self.model).into_keys().map(|(_, number)| number));
        }
        let mut fired = Vec::new();
        self.wheel.expire(self.now, |token| fired.push(token));
        assert_eq!(fired, expected, "at {}", self.now);
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Insert { after } => self.insert(self.now.saturating_add(after)),
            Step::InsertPast { before } => self.insert(self.now.saturating_sub(before)),
            Step::InsertLike { which } => {
                if let Some(((deadline, _), _)) = self.all.get(which % self.all.len().max(1)) {
                    self.insert((*deadline).max(self.now));
                }
            }
            Step::Cancel { which } => self.cancel(which),
            Step::Advance { by } => self.advance(self.now.saturating_add(by)),
            Step::AdvanceToNext { offset } => {
                if let Some(((deadline, _), _)) = self.model.first_key_value() {
                    self.advance(deadline.saturating_add_signed(i64::from(offset)));
                }
            }
        }
        assert_eq!(self.wheel.len(), self.model.len());
        let nearest = self.model.keys().next().map(|(deadline, _)| *deadline);
        let answer = self.wheel.next_deadline();
        if self.model.len() <= LOOK_MAX {
            assert_eq!(answer, nearest, "with few timers the next deadline is exact");
        } else {
            assert!(answer.is_some() && answer <= nearest, "{answer:?} against {nearest:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn fires_what_a_sorted_map_would(
        start in span(),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut pair = Pair::new(start);
        for step in &steps {
            pair.run(step);
        }
        pair.advance(u64::MAX);
        prop_assert_eq!(pair.wheel.len(), 0);
    }

    /// Many timers within a few slots, so that the lists are long and `LOOK_MAX` is passed.
    #[test]
    fn fires_what_a_sorted_map_would_when_slots_are_full(
        spread in 1u64..(1 << 26),
        values in prop::collection::vec(any::<u64>(), 300..600),
        cancels in prop::collection::vec(any::<usize>(), 0..400),
    ) {
        let mut pair = Pair::new(1 << 40);
        for value in values {
            pair.insert(pair.now + value % spread);
        }
        for which in cancels {
            pair.run(&Step::Cancel { which });
        }
        while !pair.model.is_empty() {
            let before = pair.wheel.next_deadline().expect("timers are left");
            pair.run(&Step::Advance { by: spread / 7 + 1 });
            prop_assert!(pair.wheel.next_deadline().is_none_or(|next| next >= before));
        }
    }
}

#[test]
fn a_timer_never_fires_early_not_even_by_a_nanosecond() {
    let mut wheel = Wheel::new(0);
    for deadline in [1, 262_143, 262_144, 262_145, 16_777_216, 1 << 50] {
        wheel.insert(deadline, deadline);
        wheel.expire(deadline - 1, |_| panic!("early"));
        assert_eq!(wheel.next_deadline(), Some(deadline));
        let mut fired = Vec::new();
        wheel.expire(deadline, |token| fired.push(token));
        assert_eq!(fired, [deadline]);
    }
}

#[test]
fn the_end_of_time_is_a_deadline_like_any_other() {
    let mut wheel = Wheel::new(5);
    wheel.insert(u64::MAX, "never");
    assert_eq!(wheel.next_deadline(), Some(u64::MAX));
    wheel.expire(u64::MAX - 1, |_| panic!("early"));
    let mut fired = Vec::new();
    wheel.expire(u64::MAX, |token| fired.push(token));
    assert_eq!(fired, ["never"]);
}

#[test]
fn a_clock_that_steps_back_neither_fires_early_nor_loses_a_timer() {
    let mut wheel = Wheel::new(1 << 40);
    wheel.expire(1 << 41, |_: u8| ());
    wheel.insert(1 << 40, 1);
    wheel.insert((1 << 41) + 5, 2);
    let mut fired = Vec::new();
    wheel.expire(1 << 40, |token| fired.push(token));
    assert_eq!(fired, [1]);
    wheel.expire(0, |_| panic!("early"));
    wheel.expire((1 << 41) + 5, |token| fired.push(token));
    assert_eq!(fired, [1, 2]);
}

#[test]
fn an_id_of_a_fired_timer_does_not_name_the_one_in_its_place() {
    let mut wheel = Wheel::new(0);
    let first = wheel.insert(10, 'a');
    wheel.expire(10, |_| ());
    let second = wheel.insert(20, 'b');
    assert_eq!(wheel.cancel(first), None);
    assert_eq!((wheel.cancel(second), wheel.cancel(second)), (Some('b'), None));
    assert_eq!((wheel.len(), wheel.next_deadline()), (0, None));
}

#[test]
fn waking_at_the_next_deadline_wakes_once_per_timer() {
    let mut wheel = Wheel::new(0);
    let deadlines = [3_u64, 1 << 20, (1 << 20) + 1, 1 << 30, 1 << 40, 1 << 60];
    for deadline in deadlines {
        wheel.insert(deadline, ());
    }
    let mut wake_count = 0;
    while let Some(next) = wheel.next_deadline() {
        let before = wheel.len();
        wheel.expire(next, |()| ());
        assert_eq!(wheel.len(), before - 1);
        wake_count += 1;
    }
    assert_eq!(wake_count, deadlines.len());
}

#[test]
fn after_warming_up_a_wheel_does_not_grow() {
    let mut wheel = Wheel::new(0);
    let mut now = 0;
    let mut round = |wheel: &mut Wheel<u64>| {
        let ids: Vec<_> = (0..1_000).map(|i| wheel.insert(now + i * 300_000, i)).collect();
        for id in ids.iter().step_by(2) {
            assert!(wheel.cancel(*id).is_some());
        }
        now += 1_000 * 300_000;
        wheel.expire(now, |_| ());
    };
    round(&mut wheel);
    let (places, due) = (wheel.entries.capacity(), wheel.due.capacity());
    for _ in 0..50 {
        round(&mut wheel);
    }
    assert_eq!((wheel.entries.capacity(), wheel.due.capacity()), (places, due));
}
