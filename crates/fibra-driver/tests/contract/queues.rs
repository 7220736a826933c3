//! Queues: full ones, overflowing ones, and answers that belong to nobody.

use std::io::Write;

use fibra_driver::BackendKind;

use crate::support::{Rig, config, pair};

pub fn a_full_submission_queue_takes_a_thousand_ops(backend: BackendKind) {
    let mut config = config(backend);
    config.entries = 8;
    let mut rig = Rig::with(&config);
    let mut pairs: Vec<_> = (0..10).map(|_| pair()).collect();
    for word in 0..1_000 {
        rig.recv(&pairs[word as usize % 10].0, 1, word);
    }
    assert_eq!(rig.driver.metrics().in_flight_count, 1_000);
    for (_, there) in &mut pairs {
        there.write_all(&[7; 100]).unwrap();
    }
    let results = rig.ended(1_000);
    assert_eq!(results.len(), 1_000);
    assert!(results.values().all(|result| *result == 1));
}

pub fn an_overflowing_completion_queue_loses_nothing(backend: BackendKind) {
    const OPS: u64 = 10_000;
    let mut config = config(backend);
    (config.entries, config.completion_entries) = (64, Some(64));
    let mut rig = Rig::with(&config);
    for word in 0..OPS {
        assert!(rig.nop(word).is_some(), "a nop ends at the next wait");
    }
    assert_eq!(rig.driver.metrics().in_flight_count, OPS as usize);
    assert_eq!(rig.ended(OPS as usize).len(), OPS as usize);
    rig.look();
    let metrics = rig.driver.metrics();
    assert_eq!((metrics.in_flight_count, metrics.unknown_completion_count), (0, 0));
    if backend == BackendKind::Uring {
        assert!(metrics.overflow_count > 0, "the queue never overflowed");
    }
}

pub fn ten_thousand_receives_end_once_each(backend: BackendKind) {
    const OPS: u64 = 10_000;
    let mut config = config(backend);
    (config.entries, config.completion_entries) = (64, Some(64));
    let mut rig = Rig::with(&config);
    let mut pairs: Vec<_> = (0..20).map(|_| pair()).collect();
    for word in 0..OPS {
        rig.recv(&pairs[word as usize % 20].0, 4, word);
    }
    rig.look();
    assert_eq!(rig.driver.metrics().in_flight_count, OPS as usize);
    // One gets the bytes, all others the end.
    for (_, mut there) in pairs.drain(..) {
        there.write_all(b"abcd").unwrap();
    }
    let results = rig.ended(OPS as usize);
    assert_eq!(results.values().map(|result| i64::from(*result)).sum::<i64>(), 20 * 4);
    assert!(results.values().all(|result| *result >= 0));
    rig.look();
    assert_eq!(rig.driver.metrics().in_flight_count, 0);
}

pub fn beyond_the_limit_ops_are_refused(backend: BackendKind) {
    let mut config = config(backend);
    config.in_flight_max = 4;
    let mut rig = Rig::with(&config);
    let (here, mut there) = pair();
    for word in 0..4 {
        assert!(rig.recv(&here, 1, word).is_some());
    }
    assert!(rig.recv(&here, 1, 4).is_none());
    assert_eq!(rig.result(4), -libc::ENOBUFS);
    there.write_all(b"x").unwrap();
    rig.until("one of four", |rig| (0..4).any(|word| rig.has_ended(word)));
    assert!(rig.recv(&here, 1, 5).is_some(), "there is room again");
}

pub fn late_doubled_zero_and_unknown_answers_are_counted_and_dropped(backend: BackendKind) {
    let mut rig = Rig::new(backend);
    let (here, mut there) = pair();
    let ended = rig.recv(&here, 8, 0).unwrap();
    rig.look();
    there.write_all(b"abc").unwrap();
    assert_eq!(rig.bytes(0), b"abc");
    let waiting = rig.recv(&here, 8, 1).unwrap();
    rig.look();
    let unused_slot = 0x5_0000_7fff;
    let other_generation = waiting.as_u64() + (1 << 32);
    let rubbish = [0, 1, ended.as_u64(), ended.as_u64(), unused_slot, other_generation];
    for user_data in rubbish {
        rig.driver.inject_completion(user_data, 5);
    }
    rig.look();
    assert!(!rig.has_ended(1), "an answer that is not its own has ended an op");
    assert_eq!(rig.driver.metrics().unknown_completion_count, rubbish.len() as u64);
    assert_eq!(rig.driver.metrics().in_flight_count, 1);
    there.write_all(b"def").unwrap();
    assert_eq!(rig.bytes(1), b"def");
}
