//! `switch`: units that yield to each other through their scheduler, ns for each switch.

use super::{FIBRA, Item, Plan, Sampled, error_notes, interleave, values, values_again};
use crate::child::{self, Figures};
use crate::goal::Goal;
use crate::json::Json;
use crate::meter::laps;
use crate::stats::{Ratio, median, min};
use crate::subject;
use crate::table::{self, Table};

/// How many units, and how many ns Fibra may take with them, where that was fixed.
const SIZES: [(usize, f64); 3] = [(2, 10.0), (64, f64::NAN), (1000, 14.0)];
/// Those the others are compared with. They and Fibra are sampled twice.
const BASES: [&str; 2] = ["corosensei", "tokio"];

/// Takes one sample; the hidden subcommand.
pub fn sample(name: &str, units: usize) -> Result<(), String> {
    let subject = subject::find(name).ok_or("no such subject")?;
    let switch = subject.switch.ok_or("it does not switch")?;
    switch(units);
    let (ns, fairness) = laps::ns_and_fairness().ok_or("nothing was timed")?;
    println!("ns {ns}\nfairness {fairness}");
    Ok(())
}

/// Runs the case and prints its tables.
pub fn run(plan: &Plan) -> Json {
    let mut items = Vec::new();
    for (size, _) in SIZES {
        for subject in plan.subjects(|s| s.switch.is_some()) {
            items.push(Item { subject: subject.name, size, again: false });
            if BASES.contains(&subject.name) || subject.name == FIBRA {
                items.push(Item { subject: subject.name, size, again: true });
            }
        }
    }
    let sampled = interleave("switch", plan.rounds, items, |item| take(plan, item).map(Some));
    for (size, goal) in SIZES {
        let mut table = Table::new(
            format!("switch, {size} units, one core: ns for each yield"),
            &["subject", "median", "min", "/ corosensei", "/ tokio", "n"],
        );
        for s in sampled.iter().filter(|s| s.item.size == size) {
            let ns = s.values("ns");
            let against = |base| table::ratio(Ratio::of(&ns, &values(&sampled, base, size, "ns")));
            table.row(vec![
                s.item.label(),
                table::figure(median(&ns)),
                table::figure(min(&ns)),
                against(BASES[0]),
                against(BASES[1]),
                ns.len().to_string(),
            ]);
        }
        table.note("corosensei: resume and suspend without a scheduler, the floor.");
        table.note("std-thread: a token handed around a ring, as sched_yield promises no switch.");
        table.note("'again' is the same subject a second time: its ratio is the noise.");
        let once = values(&sampled, FIBRA, size, "ns");
        let goal = Goal {
            what: format!("fibra, {size} units, ns"),
            reached: median(&once),
            goal,
            noise: Goal::noise(&once, &values_again(&sampled, FIBRA, size, "ns")),
            decides: plan.decides(),
        };
        goal.line().filter(|_| !goal.goal.is_nan()).into_iter().for_each(|l| table.note(l));
        error_notes(&sampled).into_iter().for_each(|note| table.note(note));
        table.print();
    }
    Json::List(sampled.iter().map(Sampled::to_json).collect())
}

fn take(plan: &Plan, item: &Item) -> Result<Figures, String> {
    let size = item.size.to_string();
    let mut command =
        child::this_program(["sample-switch", item.subject, &size]).map_err(|e| e.to_string())?;
    let text = child::output(&mut command, Some(plan.cores.subject), 60)?;
    Ok(child::figures(&text))
}
