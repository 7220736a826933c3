//! `fibra doctor`: what fibra would do on this machine, and why.
//!
//! Promise: what is missing or broken is part of the report, never a reason to fail. What a runtime
//! would do is not computed again here: one is started and asked.

mod backends;
mod cgroup;
mod limits;
mod page;
mod stacks;
mod system;
mod workers;

use fibra::driver::BackendKind;

use self::page::Page;
use crate::failure::Failure;
use crate::{log, out};

/// The variables that mean something, and what.
const VARIABLES: [&str; 8] = [
    "FIBRA_DRIVER",
    "FIBRA_WORKERS",
    "FIBRA_IO",
    "FIBRA_STACK_SIZE",
    "FIBRA_GUARDS",
    "FIBRA_BLOCKING_MAX",
    "FIBRA_CHAOS",
    "FIBRA_LOG",
];

/// A runtime with the settings of this environment: what it runs on, or why it does not start.
type Trial = Result<Started, String>;

/// What a runtime says about itself.
struct Started {
    backend: BackendKind,
    workers: usize,
}

/// Prints the report.
pub fn run() -> Result<(), Failure> {
    let mut page = Page::new();
    // The report says what the log would.
    if let Err(Failure::Run(why)) = log::start("error") {
        page.advise(why);
    }
    system::describe(&mut page);
    environment(&mut page);
    let trial = start();
    backends::describe(&mut page, &trial);
    workers::describe(&mut page, &trial);
    stacks::describe(&mut page);
    limits::describe(&mut page);
    if let Err(error) = &trial {
        page.advise(format!("no runtime can start: {error}"));
    }
    out::line(&page.finish())
}

fn start() -> Trial {
    fibra::Builder::new()
        .run(|| {
            let handle = fibra::Handle::current();
            Started { backend: handle.backend(), workers: handle.metrics().fiber_counts.len() }
        })
        .map_err(|error| error.to_string())
}

fn environment(page: &mut Page) {
    page.section("environment");
    let mut found = false;
    for (name, value) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if !name.starts_with("FIBRA_") {
            continue;
        }
        found = true;
        page.row(&name, value.to_string_lossy());
        if !VARIABLES.contains(&&*name) {
            page.advise(format!(
                "{name} means nothing to fibra; it knows {}",
                VARIABLES.join(", ")
            ));
        }
    }
    if !found {
        page.row("FIBRA_*", "none is set: the defaults hold");
    }
}

/// The value of a variable, for "because it says so"; empty counts as not set.
fn variable(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?.to_string_lossy().into_owned();
    (!value.is_empty()).then_some(value)
}
