//! `spawn`: a thousand units spawned, run and joined, warm, on one worker; ns for each, and exact
//! numbers of allocations and system calls.

use super::{FIBRA, Item, Plan, Sampled, error_notes, interleave, values, values_again};
use crate::child::{self, Figures};
use crate::goal::Goal;
use crate::json::Json;
use crate::meter::Spawns;
use crate::stats::{Ratio, median, min};
use crate::subject;
use crate::table::{self, Table};

/// Those the others are compared with. They and Fibra are sampled twice.
const BASES: [&str; 1] = ["tokio"];

/// Takes one sample; the hidden subcommand.
pub fn sample(name: &str, count_syscalls: bool) -> Result<(), String> {
    let subject = subject::find(name).ok_or("no such subject")?;
    let spawn = subject.spawn.ok_or("it does not spawn")?;
    let meter = spawn(Spawns::new(count_syscalls));
    println!("ns {}", meter.ns_per_spawn());
    println!("allocations {}", meter.allocations);
    println!("syscalls {}", meter.syscalls);
    Ok(())
}

/// Runs the case and prints its table.
pub fn run(plan: &Plan) -> Json {
    let mut items = Vec::new();
    for subject in plan.subjects(|s| s.spawn.is_some()) {
        items.push(Item { subject: subject.name, size: 0, again: false });
        if BASES.contains(&subject.name) || subject.name == FIBRA {
            items.push(Item { subject: subject.name, size: 0, again: true });
        }
    }
    // A counted system call is a slower one, so the counts come from a round of their own.
    let counted =
        interleave("spawn, counted", 1, items.clone(), |item| take(plan, item, true).map(Some));
    let sampled = interleave("spawn", plan.rounds, items, |item| take(plan, item, false).map(Some));
    let mut table = Table::new(
        "spawn, run and join, batches of 1,000, warm, one worker on one core: ns for each",
        &["subject", "median", "min", "/ tokio", "allocations", "syscalls", "n"],
    );
    for (s, counted) in sampled.iter().zip(&counted) {
        let ns = s.values("ns");
        table.row(vec![
            s.item.label(),
            table::figure(median(&ns)),
            table::figure(min(&ns)),
            table::ratio(Ratio::of(&ns, &values(&sampled, BASES[0], 0, "ns"))),
            table::figure(median(&counted.values("allocations"))),
            table::figure(median(&counted.values("syscalls"))),
            ns.len().to_string(),
        ]);
    }
    table.note("corosensei: new coroutine on the same stack again, no scheduler, no handle.");
    table
        .note("two-workers: spawned and joined by one, both cores; there a wake is a system call.");
    table.note("allocations and syscalls are for each spawn, counted exactly over one warm batch.");
    for goal in goals(plan, &sampled, &counted) {
        goal.line().into_iter().for_each(|line| table.note(line));
    }
    error_notes(&sampled).into_iter().for_each(|note| table.note(note));
    table.print();
    Json::object([
        ("timed", Json::List(sampled.iter().map(Sampled::to_json).collect())),
        ("counted", Json::List(counted.iter().map(Sampled::to_json).collect())),
    ])
}

fn goals(plan: &Plan, sampled: &[Sampled], counted: &[Sampled]) -> [Goal; 2] {
    let once = values(sampled, FIBRA, 0, "ns");
    [
        Goal {
            what: "fibra, ns".to_string(),
            reached: median(&once),
            goal: 60.0,
            noise: Goal::noise(&once, &values_again(sampled, FIBRA, 0, "ns")),
            decides: plan.decides(),
        },
        Goal {
            what: "fibra, system calls for 1,000 spawns".to_string(),
            reached: median(&values(counted, FIBRA, 0, "syscalls")) * 1000.0,
            // Ends of batches may enter the kernel once or twice; a spawn may not.
            goal: 2.0,
            noise: 0.0,
            decides: true,
        },
    ]
}

fn take(plan: &Plan, item: &Item, count_syscalls: bool) -> Result<Figures, String> {
    let mut command =
        child::this_program(["sample-spawn", item.subject]).map_err(|e| e.to_string())?;
    if count_syscalls {
        command.arg("--count-syscalls");
    }
    let is_confined = !subject::find(item.subject).is_some_and(|s| s.has_two_workers);
    let core = is_confined.then_some(plan.cores.subject);
    let text = child::output(&mut command, core, 60)?;
    Ok(child::figures(&text))
}
