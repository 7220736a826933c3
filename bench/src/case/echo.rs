//! `echo`: what a request costs a server. Server CPU for each request first; throughput and
//! latency are bounded by the load's core as much as by the server's.
//!
//! A sample is a fresh server process on one core under a fresh load process on the other. The
//! rule for throwing a sample away was fixed before the first run: others used more than 6 % of
//! the machine while it was taken (busy or stolen time that was neither the server's nor the
//! load's). Such a sample is taken again, up to twice, then left out of its round.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::{Item, Plan, Sampled, error_notes, interleave, of, values, values_again};
use crate::check;
use crate::child::{self, Figures, RunningServer};
use crate::goal::{self, Goal};
use crate::json::Json;
use crate::proc::Machine;
use crate::stats::{Ratio, median, min};
use crate::subject::{self, C_EPOLL, C_URING, How, Server};
use crate::table::{self, Table};

/// Those sampled twice: their ratio to themselves is the noise of the run.
const YARDSTICKS: [&str; 2] = [C_URING, C_EPOLL];
const WARM_UP_MS: u64 = 100;
/// Samples taken again for one used.
const RETRIES: usize = 2;
/// How long the case waits, all in all, for the machine to be quiet. After that every sample is
/// taken at once and only once, and the rule decides what is used.
const QUIET_WAITS_MAX: u32 = 1200;
const QUIET_WAIT: Duration = Duration::from_millis(100);
/// Waits before one sample.
const QUIET_WAITS: u32 = 20;

/// Serves until killed; the hidden subcommand.
pub fn serve(name: &str) -> Result<(), String> {
    let subject = subject::find(name).ok_or("no such subject")?;
    match subject.server.map(|server| server.how) {
        Some(How::Inside(serve)) => serve().map_err(|e| e.to_string()),
        _ => Err("it has no server in this program".to_string()),
    }
}

/// The servers that stood the check, and how each is started.
struct Servers {
    ready: BTreeMap<&'static str, (Server, Option<PathBuf>)>,
    /// Why others are missing.
    skipped: Vec<String>,
    /// Where servers are built; removed at the end.
    folder: PathBuf,
}

impl Servers {
    fn prepare(plan: &Plan) -> Result<Servers, String> {
        remove_left_behind();
        let folder = std::env::temp_dir().join(format!("{FOLDER}{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let mut servers = Servers { ready: BTreeMap::new(), skipped: Vec::new(), folder };
        for subject in plan.subjects(|s| s.server.is_some()) {
            let Some(server) = subject.server else { continue };
            let program = match server.how {
                How::Inside(_) => Ok(None),
                How::Built(build) => build(&servers.folder).map(Some),
            };
            let checked = program.and_then(|program| {
                let mut command = command(subject.name, program.as_deref())?;
                check_server(&mut command, plan)?;
                Ok(program)
            });
            match checked {
                Ok(program) => drop(servers.ready.insert(subject.name, (server, program))),
                Err(why) => servers.skipped.push(format!("{} skipped: {why}", subject.name)),
            }
        }
        Ok(servers)
    }

    fn yardstick(&self, name: &str) -> &'static str {
        self.ready.get(name).map_or(C_EPOLL, |(server, _)| server.yardstick)
    }

    fn command(&self, name: &str) -> Result<Command, String> {
        command(name, self.ready.get(name).and_then(|(_, program)| program.as_deref()))
    }
}

/// Name of the folder of a run, less the process id.
const FOLDER: &str = "fibra-bench-";

/// Removes the folders of runs that were interrupted: those whose process is no more.
fn remove_left_behind() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|n| n.strip_prefix(FOLDER)?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn command(name: &str, program: Option<&Path>) -> Result<Command, String> {
    match program {
        Some(program) => Ok(Command::new(program)),
        None => child::this_program(["serve", name]).map_err(|e| e.to_string()),
    }
}

fn check_server(command: &mut Command, plan: &Plan) -> Result<(), String> {
    let server = RunningServer::start(command, plan.cores.subject).map_err(|e| e.to_string())?;
    check::echoes(server.port).map_err(|e| format!("does not echo: {e}"))
}

/// Runs the case and prints its tables.
pub fn run(plan: &Plan) -> Result<Json, String> {
    let servers = Servers::prepare(plan)?;
    let mut items = Vec::new();
    for &size in &plan.connections {
        for &subject in servers.ready.keys() {
            items.push(Item { subject, size, again: false });
            if YARDSTICKS.contains(&subject) {
                items.push(Item { subject, size, again: true });
            }
        }
    }
    // Counted system calls are slower ones, so the counts come from a round of their own.
    let counted =
        interleave("echo, counted", 1, items.clone(), |item| count(plan, &servers, item).map(Some));
    let (mut discarded, mut waited) = (0, 0);
    let sampled = interleave("echo", plan.rounds, items, |item| {
        for retry in 0..=RETRIES {
            if retry > 0 && waited >= QUIET_WAITS_MAX {
                break;
            }
            waited += wait_for_quiet(plan, QUIET_WAITS.min(QUIET_WAITS_MAX - waited));
            let figures = take(plan, &servers, item, false)?;
            if figures.get("foreign").is_some_and(|foreign| *foreign <= plan.foreign_max) {
                return Ok(Some(figures));
            }
            discarded += 1;
        }
        Ok(None)
    });
    for &size in &plan.connections {
        let mut table = tabulate(&servers, size, &sampled, &counted);
        table.note(format!(
            "discarded in the whole case: {discarded} samples with more than {:.0} % foreign CPU",
            plan.foreign_max * 100.0
        ));
        for goal in goals(plan, &sampled, size) {
            goal.line().into_iter().for_each(|line| table.note(line));
        }
        if waited >= QUIET_WAITS_MAX {
            table.note("the machine was not quiet; --foreign-max 100 uses noisy samples too");
        }
        servers.skipped.iter().for_each(|why| table.note(why));
        if counted.iter().any(|c| !c.values("traced").is_empty()) {
            table
                .note("syscalls were counted by strace, for want of the kernel's counter: too low");
        }
        error_notes(&counted).into_iter().for_each(|note| table.note(note));
        error_notes(&sampled).into_iter().for_each(|note| table.note(note));
        table.print();
    }
    Ok(Json::object([
        ("timed", Json::List(sampled.iter().map(Sampled::to_json).collect())),
        ("counted", Json::List(counted.iter().map(Sampled::to_json).collect())),
        ("discarded", Json::Number(f64::from(discarded))),
        ("skipped", Json::List(servers.skipped.iter().map(Json::text).collect())),
    ]))
}

/// Counts the system calls for each request: by the kernel's own counter, else by a tracer.
fn count(plan: &Plan, servers: &Servers, item: &Item) -> Result<Figures, String> {
    let figures = take(plan, servers, item, true)?;
    match figures.get("syscalls") {
        Some(calls) if !calls.is_nan() => Ok(figures),
        _ => count_traced(plan, servers, item),
    }
}

/// Counts under `strace`: the server's whole life, its start and the connections included, over
/// all requests. It is slowed by the tracing, finds more ready at each turn, and so batches better
/// than untraced: its figures are low.
fn count_traced(plan: &Plan, servers: &Servers, item: &Item) -> Result<Figures, String> {
    let counts = servers.folder.join("strace");
    let mut tracer = Command::new("strace");
    tracer.args(["-f", "-c", "-S", "calls", "-U", "calls,name", "-o"]).arg(&counts);
    let server = servers.command(item.subject)?;
    tracer.arg(server.get_program()).args(server.get_args());
    let tracer = RunningServer::start(&mut tracer, plan.cores.subject)
        .map_err(|e| format!("no counter in the kernel, and strace: {e}"))?;
    let server = tracer.pid_of_child().ok_or("strace has no child")?;
    let mut figures = load(plan, item, tracer.port, server, false)?;
    tracer.end_after(server).map_err(|e| e.to_string())?;
    let text = std::fs::read_to_string(&counts).map_err(|e| e.to_string())?;
    let of = |name: &str| figures.get(name).copied().unwrap_or(f64::NAN);
    let requests = of("requests") + of("warm_up_requests");
    let calls = traced_calls(&text).ok_or("strace counted nothing")?;
    figures.insert("syscalls".to_string(), calls / requests);
    figures.insert("traced".to_string(), 1.0);
    Ok(figures)
}

/// The total of a summary of strace.
fn traced_calls(summary: &str) -> Option<f64> {
    let total = summary.lines().rev().find(|line| line.trim_end().ends_with(" total"))?;
    total.split_whitespace().next()?.parse().ok()
}

fn take(plan: &Plan, servers: &Servers, item: &Item, count: bool) -> Result<Figures, String> {
    let server = RunningServer::start(&mut servers.command(item.subject)?, plan.cores.subject)
        .map_err(|e| e.to_string())?;
    load(plan, item, server.port, server.pid(), count)
}

/// Loads a server; what the load saw of it.
fn load(plan: &Plan, item: &Item, port: u16, pid: u32, count: bool) -> Result<Figures, String> {
    let [port, pid, connections, warm_up, measure] =
        [u64::from(port), u64::from(pid), item.size as u64, WARM_UP_MS, plan.measure_ms]
            .map(|number| number.to_string());
    let mut load = child::this_program([
        "load",
        "--port",
        &port,
        "--pid",
        &pid,
        "--connections",
        &connections,
        "--warm-up-ms",
        &warm_up,
        "--measure-ms",
        &measure,
    ])
    .map_err(|e| e.to_string())?;
    if count {
        load.arg("--count-syscalls");
    }
    let text = child::output(&mut load, Some(plan.cores.load), 30)?;
    Ok(child::figures(&text))
}

/// What Fibra's backends may cost at most, in terms of the C server of their kind, by connections.
const GOALS: [(&str, &str, usize, f64); 4] = [
    ("fibra-uring", C_URING, 64, 1.03),
    ("fibra-epoll", C_EPOLL, 64, 1.05),
    ("fibra-uring", C_URING, 1000, 1.06),
    ("fibra-epoll", C_EPOLL, 1000, 1.06),
];

fn goals(plan: &Plan, sampled: &[Sampled], size: usize) -> Vec<Goal> {
    let of = |&(subject, base, at, goal): &(&str, &str, usize, f64)| {
        let theirs = values(sampled, base, size, "cpu_us");
        (at == size).then(|| Goal {
            what: format!("{subject} / {base}, {size} connections"),
            reached: goal::ratio(&values(sampled, subject, size, "cpu_us"), &theirs),
            goal,
            noise: Goal::noise(&theirs, &values_again(sampled, base, size, "cpu_us")),
            decides: plan.decides(),
        })
    };
    GOALS.iter().filter_map(of).collect()
}

/// Waits until others leave the machine alone, at most so often; how often it did.
fn wait_for_quiet(plan: &Plan, waits_max: u32) -> u32 {
    if plan.foreign_max >= 1.0 {
        return 0;
    }
    for waits in 0..waits_max {
        let Ok(before) = Machine::now() else { return waits };
        thread::sleep(QUIET_WAIT);
        let is_quiet = |now: Machine| now.foreign_share(before, 0) <= plan.foreign_max;
        if Machine::now().is_ok_and(is_quiet) {
            return waits + 1;
        }
    }
    waits_max
}

fn tabulate(servers: &Servers, size: usize, sampled: &[Sampled], counted: &[Sampled]) -> Table {
    let mut table = Table::new(
        format!("echo, {size} connections, 64 bytes, server on one core, load on the other"),
        &[
            "server",
            "CPU us/req",
            "min",
            "/ C of its kind",
            "/ tokio",
            "req/s",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "switches",
            "syscalls",
            "load us",
            "n",
        ],
    );
    for s in sampled.iter().filter(|s| s.item.size == size) {
        let cpu = s.values("cpu_us");
        let against = |base| table::ratio(Ratio::of(&cpu, &values(sampled, base, size, "cpu_us")));
        let middle = |name: &str| table::figure(median(&s.values(name)));
        let counts = of(counted, s.item.subject, size, s.item.again);
        table.row(vec![
            s.item.label(),
            table::figure(median(&cpu)),
            table::figure(min(&cpu)),
            against(servers.yardstick(s.item.subject)),
            against("tokio"),
            middle("per_second"),
            middle("p50_us"),
            middle("p99_us"),
            middle("p999_us"),
            middle("switches"),
            table::figure(counts.map_or(f64::NAN, |c| median(&c.values("syscalls")))),
            middle("load_cpu_us"),
            cpu.len().to_string(),
        ]);
    }
    table.note("medians over the rounds; 'again' against its C server is the noise (A/A).");
    table.note("switches (context switches) and syscalls are for each request.");
    table
}

#[cfg(test)]
mod tests {
    use super::traced_calls;

    #[test]
    fn the_total_of_a_summary_is_its_last_line() {
        let summary = "    calls syscall\n--------- ----\n       30 recv\n      12 send\n\
            --------- ----\n       42 total\n";
        assert_eq!(traced_calls(summary), Some(42.0));
        assert_eq!(traced_calls("nothing"), None);
    }
}
