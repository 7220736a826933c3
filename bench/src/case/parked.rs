//! `parked`: what a unit costs that waits: VmRSS plus VmPTE, fresh and after it used its stack.

use std::process::Command;

use super::{Item, Plan, Sampled, error_notes, interleave, values};
use crate::child::{self, Figures};
use crate::goal::Goal;
use crate::json::Json;
use crate::meter::Parking;
use crate::stats::median;
use crate::subject;
use crate::table::{self, Table};

/// How many units, and at most how many samples: memory hardly varies, more would only confirm it.
const SIZES: [(usize, usize); 2] = [(10_000, 5), (100_000, 3)];
const MILLION: usize = 1_000_000;
/// Those that are asked for a million, and that have a name for it.
const MILLIONAIRES: [&str; 2] = ["fibra", "tokio"];

/// Takes one sample; the hidden subcommand. Does not return: the process ends as it is.
pub fn sample(name: &str, units: usize, deep: bool) -> Result<(), String> {
    let subject = subject::find(name).ok_or("no such subject")?;
    let park = subject.park.ok_or("it does not park")?;
    let units = units.min(subject.park_max);
    // Out of mappings, may panics in a coroutine and its scheduler goes on for ever without it.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        // SAFETY: `_exit` takes no memory and does not return.
        unsafe { libc::_exit(1) }
    }));
    park(Parking { units, deep, later: deep });
    Ok(())
}

/// Runs the case and prints its tables.
pub fn run(plan: &Plan) -> Json {
    let sizes: &[(usize, usize)] = if plan.quick { &SIZES[..1] } else { &SIZES };
    let mut all = Vec::new();
    for &(size, samples_max) in sizes {
        let subjects = plan.subjects(|s| s.park.is_some());
        let subjects = subjects.iter().filter(|s| size == SIZES[0].0 || s.park_max >= size);
        let items = subjects.map(|s| Item { subject: s.name, size, again: false }).collect();
        all.extend(measure(plan, plan.rounds.min(samples_max), items));
    }
    if !plan.quick {
        let subjects = plan.subjects(|s| MILLIONAIRES.contains(&s.name));
        let item = |s: &subject::Subject| Item { subject: s.name, size: MILLION, again: false };
        all.extend(measure(plan, 1, subjects.iter().map(item).collect()));
    }
    Json::List(all)
}

fn measure(plan: &Plan, rounds: usize, items: Vec<Item>) -> Vec<Json> {
    let Some(size) = items.first().map(|item| item.size) else { return Vec::new() };
    // A million units that each used 32 KiB are 40 GB: only the fresh ones are taken there.
    let with_deep = size < MILLION;
    let sampled = interleave(&format!("parked, {size}"), rounds, items, |item| {
        let mut figures = take(plan, item, false, "")?;
        if with_deep {
            figures.extend(take(plan, item, true, "deep_")?);
        }
        Ok(Some(figures))
    });
    let mut table = Table::new(
        format!("parked, {size} units: bytes each, VmRSS + VmPTE"),
        &["subject", "reached", "fresh", "of it page tables", "used 32 KiB", "2 s later", "n"],
    );
    for s in &sampled {
        let of = |name: &str| table::figure(median(&s.values(name)));
        table.row(vec![
            s.item.label(),
            format!("{:.0}", median(&s.values("reached"))),
            of("bytes"),
            of("page_table_bytes"),
            of("deep_bytes"),
            of("deep_later_bytes"),
            s.samples.len().to_string(),
        ]);
    }
    table.note("each sleeps for an hour; corosensei, may and std-thread are parked for good.");
    table.note("stacks: 256 KiB where the subject takes a size; std-thread: std's default.");
    let goal = Goal {
        what: format!("fibra, {size} fresh, bytes each"),
        reached: median(&values(&sampled, "fibra", size, "bytes")),
        goal: 4900.0,
        noise: 0.0,
        // Memory hardly varies.
        decides: true,
    };
    goal.line().into_iter().for_each(|line| table.note(line));
    error_notes(&sampled).into_iter().for_each(|note| table.note(note));
    table.print();
    sampled.iter().map(Sampled::to_json).collect()
}

/// One report of a sample process.
#[derive(Clone, Copy)]
struct Report {
    units: f64,
    rss: f64,
    page_tables: f64,
}

fn report(line: &str, label: &str) -> Option<Report> {
    let mut words = line.strip_prefix(label)?.split_whitespace().map(str::parse::<f64>);
    let mut next = || words.next()?.ok();
    Some(Report { units: next()?, rss: next()? * 1024.0, page_tables: next()? * 1024.0 })
}

fn take(plan: &Plan, item: &Item, deep: bool, prefix: &str) -> Result<Figures, String> {
    let size = item.size.to_string();
    let mut command =
        child::this_program(["sample-parked", item.subject, &size]).map_err(|e| e.to_string())?;
    if deep {
        command.arg("--deep");
    }
    // One that cannot reach the number ends badly, but has said how far it came.
    let text = output_so_far(&mut command, plan.cores.subject)?;
    let reached: Vec<Report> = text.lines().filter_map(|l| report(l, "reached ")).collect();
    let (Some(before), Some(after)) = (reached.first(), reached.last()) else {
        return Err("no report".to_string());
    };
    if after.units == 0.0 {
        return Err("not one parked".to_string());
    }
    let each = |report: &Report| {
        (report.rss + report.page_tables - before.rss - before.page_tables) / report.units
    };
    let mut figures = Figures::new();
    figures.insert(format!("{prefix}reached"), after.units);
    figures.insert(format!("{prefix}bytes"), each(after));
    let page_tables = (after.page_tables - before.page_tables) / after.units;
    figures.insert(format!("{prefix}page_table_bytes"), page_tables);
    if let Some(later) = text.lines().find_map(|l| report(l, "later ")) {
        figures.insert(format!("{prefix}later_bytes"), each(&later));
    }
    Ok(figures)
}

fn output_so_far(command: &mut Command, core: usize) -> Result<String, String> {
    let command = child::confine(command, Some(core), 120);
    let output = command.output().map_err(|e| e.to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_by_its_label_only() {
        let read = report("reached 1000 2048 16", "reached ").expect("a report");
        assert_eq!((read.units, read.rss, read.page_tables), (1000.0, 2097152.0, 16384.0));
        assert!(report("later 1000 2048 16", "reached ").is_none());
        assert!(report("reached 1000", "reached ").is_none());
    }
}
