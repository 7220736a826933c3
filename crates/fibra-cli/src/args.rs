//! The command line: what may be said, and one line about what may not.

use std::ffi::OsString;

use clap::error::{ContextKind, ErrorKind};
use clap::{Parser, Subcommand, ValueEnum};
use fibra::driver::Choice;

use crate::failure::Failure;
use crate::out;

/// The whole command line.
#[derive(Parser, Debug)]
#[command(
    name = "fibra",
    version,
    about = "Echo servers on every backend of the fibra runtime, and a doctor",
    after_help = ENVIRONMENT,
    disable_help_subcommand = true
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const ENVIRONMENT: &str = "\
Environment (an option on the command line comes first):
  FIBRA_DRIVER      backend: auto, uring, epoll, poll or select
  FIBRA_WORKERS     number of worker threads
  FIBRA_IO          who owns the driver: per-worker or dedicated
  FIBRA_STACK_SIZE  bytes of stack reserved for a fiber
  FIBRA_LOG         log on stderr: off, error, warn, info, debug or trace";

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Serve TCP: send back to every client what it sends
    ///
    /// Prints `listening on ADDR` when it accepts. SIGINT or SIGTERM ends it: it stops listening,
    /// sends back what it has received, and prints one line of summary. A second signal ends it at
    /// once.
    Echo(Echo),
    /// Explain what fibra would do on this machine, and why
    ///
    /// Prints the kernel, which backends can run and why the others cannot, how many workers there
    /// would be and what decides that, how stacks are guarded, and the limits that matter, with
    /// advice.
    Doctor,
}

/// Options of `fibra echo`.
#[derive(clap::Args, Debug)]
pub struct Echo {
    /// Where to listen, as HOST:PORT; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8081", value_parser = address)]
    pub listen: String,

    /// The backend that does the I/O: auto, uring, epoll, poll or select
    ///
    /// `auto` is the best one that runs here. Any other that cannot run here is an error.
    #[arg(long, value_name = "NAME")]
    pub driver: Option<Choice>,

    /// What waits for a client: a fiber, or an operating-system thread to compare with
    #[arg(long, value_enum, value_name = "MODEL", default_value = "fiber")]
    pub model: Model,

    /// Number of worker threads; by default one for each core this process may use
    #[arg(long, value_name = "N", value_parser = workers)]
    pub workers: Option<usize>,

    /// Who owns the driver: every worker its own, or one dedicated I/O thread for all
    #[arg(long, value_enum, value_name = "MODE")]
    pub io: Option<Io>,

    /// Print `New: IP:PORT` for every connection, and log which backend runs and why
    #[arg(short, long)]
    pub verbose: bool,
}

/// What waits for a client.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Model {
    /// A fiber on the runtime
    Fiber,
    /// A thread of the operating system, on std alone
    Thread,
}

/// Who owns the driver.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Io {
    /// Every worker has a driver of its own
    PerWorker,
    /// One thread does the I/O for all workers
    Dedicated,
}

/// Parses the command line. `--help` and `--version` are printed here and end the process.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Args, Failure> {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error)
            if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) =>
        {
            out::line(error.render().to_string().trim_end())?;
            std::process::exit(0);
        }
        Err(error) => return Err(Failure::Usage(one_line(&error))),
    };
    if let Command::Echo(echo) = &args.command {
        check(echo)?;
    }
    Ok(args)
}

/// What clap cannot see: options that mean nothing together.
fn check(echo: &Echo) -> Result<(), Failure> {
    if echo.model == Model::Fiber {
        return Ok(());
    }
    let given = [
        ("--driver", echo.driver.is_some()),
        ("--workers", echo.workers.is_some()),
        ("--io", echo.io.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((option, _)) => Err(Failure::Usage(format!(
            "{option} does not go with '--model thread', which has no driver and no workers: \
             remove one of them"
        ))),
    }
}

/// Only the shape: whether the host exists is found out when it is used.
fn address(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port))
            if !host.is_empty() && !port.starts_with('+') && port.parse::<u16>().is_ok() =>
        {
            Ok(text.to_owned())
        }
        _ => Err("expected HOST:PORT, such as 127.0.0.1:8081 or [::1]:0".to_owned()),
    }
}

fn workers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a number from 1 on".to_owned()),
        Ok(number) => Ok(number),
    }
}

/// One line out of clap's several: the message, what was possible, where to read more.
fn one_line(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "no command given: expected 'echo' or 'doctor'; see 'fibra --help'".to_owned();
    }
    let text = error.render().to_string();
    let first = text.lines().next().unwrap_or_default();
    let mut line = first.strip_prefix("error: ").unwrap_or(first).to_owned();
    let context = |kind| error.get(kind).map(|value| value.to_string());
    if let Some(values) = context(ContextKind::ValidValue)
        && !values.is_empty()
    {
        line.push_str(&format!(": expected one of {values}"));
    } else if let Some(similar) =
        context(ContextKind::SuggestedArg).or_else(|| context(ContextKind::SuggestedSubcommand))
    {
        line.push_str(&format!(": did you mean '{similar}'?"));
    }
    line.push_str("; see 'fibra --help'");
    line
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
