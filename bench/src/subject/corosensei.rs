//! corosensei raw: what a switch costs without a scheduler. The floor, not a peer.

use std::hint::black_box;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult};

use super::{STACK_LEN, Subject};
use crate::meter::laps::Turns;
use crate::meter::{Parking, SPAWNS, Spawns, work};

pub fn subject() -> Subject {
    Subject {
        switch: Some(switch),
        spawn: Some(spawn),
        park: Some(park),
        park_max: usize::MAX,
        ..Subject::named("corosensei")
    }
}

/// One suspend and one resume: what a yield costs others, less everything else.
fn switch(unit_count: usize) {
    let unit = |_| {
        Coroutine::new(|yielder, ()| {
            loop {
                yielder.suspend(());
            }
        })
    };
    let mut units: Vec<_> = (0..unit_count).map(unit).collect();
    let mut turns = Turns::alone(unit_count);
    while turns.next() {
        for unit in &mut units {
            let _: CoroutineResult<(), ()> = unit.resume(());
        }
    }
    // A suspended coroutine would be unwound when dropped; the process ends anyway.
    std::mem::forget(units);
}

/// On one stack used again and again: there is nobody to run the unit later.
fn spawn(mut meter: Spawns) -> Spawns {
    let Ok(mut stack) = DefaultStack::new(STACK_LEN) else { return meter };
    while meter.begin() {
        for i in 0..SPAWNS {
            let mut unit: Coroutine<(), (), usize, DefaultStack> =
                Coroutine::with_stack(stack, move |_, ()| work(i));
            black_box(unit.resume(()).as_return());
            stack = unit.into_stack();
        }
        meter.end();
    }
    meter
}

fn park(parking: Parking) {
    parking.report("reached", 0);
    let mut units = Vec::new();
    for spawned in 1..=parking.units {
        let Ok(stack) = DefaultStack::new(STACK_LEN) else { break };
        let mut unit: Coroutine<(), (), (), _> =
            Coroutine::with_stack(stack, move |yielder, ()| {
                parking.settle();
                yielder.suspend(());
            });
        unit.resume(());
        units.push(unit);
        if parking.is_step(spawned) {
            parking.report("reached", spawned);
        }
    }
    parking.end()
}
