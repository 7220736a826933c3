//! Fibra and its peers side by side in one run.
//!
//! Every ratio printed comes from samples of the same run, interleaved and shuffled, with the
//! interval a bootstrap gives it and with a subject measured against itself as the noise. A sample
//! is a process of its own: this program again, with a hidden subcommand.

mod allocations;
mod case;
mod check;
mod child;
mod goal;
mod json;
mod load;
mod machine;
mod meter;
mod proc;
mod stats;
mod subject;
mod table;
mod tracepoint;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use case::Plan;
use child::Cores;
use json::Json;

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

/// Measure Fibra and its peers side by side.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    /// What to measure.
    #[arg(required = true, value_name = "CASE")]
    cases: Vec<Case>,
    /// Write every sample to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Samples of each subject; fewer than 30 decide nothing.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Three short rounds: shows that it runs, decides nothing.
    #[arg(long)]
    quick: bool,
    /// Only subjects with one of these in their name.
    #[arg(long, value_delimiter = ',', value_name = "SUBJECT")]
    only: Vec<String>,
    /// Connections of `echo`.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 1000])]
    connections: Vec<usize>,
    /// How long a sample of `echo` lasts, after its warm-up.
    #[arg(long, default_value_t = 300, value_name = "MS")]
    measure_ms: u64,
    /// Do not use samples of `echo` during which others used more of the machine.
    #[arg(long, default_value_t = 6.0, value_name = "PERCENT")]
    foreign_max: f64,
    #[command(subcommand)]
    hidden: Option<Hidden>,
}

/// Something to measure.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Case {
    /// Yield to another unit through the scheduler: 2, 64 and 1,000 units.
    Switch,
    /// Spawn, run and join.
    Spawn,
    /// Memory of a parked unit.
    Parked,
    /// TCP echo: server CPU per request.
    Echo,
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Case::Switch => "switch",
            Case::Spawn => "spawn",
            Case::Parked => "parked",
            Case::Echo => "echo",
        }
    }
}

/// The processes a run consists of.
#[derive(Subcommand)]
enum Hidden {
    #[command(hide = true)]
    SampleSwitch { subject: String, units: usize },
    #[command(hide = true)]
    SampleSpawn {
        subject: String,
        #[arg(long)]
        count_syscalls: bool,
    },
    #[command(hide = true)]
    SampleParked {
        subject: String,
        units: usize,
        #[arg(long)]
        deep: bool,
    },
    #[command(hide = true)]
    Serve { subject: String },
    #[command(hide = true)]
    Load(load::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.hidden {
        Some(Hidden::SampleSwitch { subject, units }) => case::switch::sample(subject, *units),
        Some(Hidden::SampleSpawn { subject, count_syscalls }) => {
            case::spawn::sample(subject, *count_syscalls)
        }
        Some(Hidden::SampleParked { subject, units, deep }) => {
            case::parked::sample(subject, *units, *deep)
        }
        Some(Hidden::Serve { subject }) => case::echo::serve(subject),
        Some(Hidden::Load(options)) => load::run(options).map_err(|e| e.to_string()),
        None => run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let cores = Cores::choose().map_err(|e| format!("cannot read the affinity: {e}"))?;
    let plan = Plan {
        rounds: if arguments.quick { 3 } else { usize::from(arguments.rounds) },
        cores,
        only: arguments.only.clone(),
        connections: arguments.connections.clone(),
        measure_ms: if arguments.quick { 100 } else { arguments.measure_ms },
        foreign_max: arguments.foreign_max / 100.0,
        quick: arguments.quick,
    };
    let facts = machine::facts();
    for (name, value) in &facts {
        println!("{name}: {value}");
    }
    if plan.rounds < case::DECIDING_ROUNDS {
        println!("{} rounds: a smoke test, its ratios decide nothing", plan.rounds);
    }
    if !cfg!(feature = "fibra-subject") {
        println!("without Fibra: this was built without the feature fibra-subject");
    }
    if !cfg!(feature = "peers") {
        println!("without most peers: this was built without the feature peers");
    }
    if cores.subject == cores.load {
        println!("one core only: server and load share it, echo means little");
    }
    let mut results = vec![("machine".to_string(), machine::to_json(&facts))];
    for &case in &arguments.cases {
        let result = match case {
            Case::Switch => case::switch::run(&plan),
            Case::Spawn => case::spawn::run(&plan),
            Case::Parked => case::parked::run(&plan),
            Case::Echo => case::echo::run(&plan)?,
        };
        results.push((case.name().to_string(), result));
    }
    if let Some(path) = &arguments.json {
        std::fs::write(path, format!("{}\n", Json::Object(results)))
            .map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    }
    Ok(())
}
