//! The `fibra` command: echo servers on every backend, and a doctor.
//!
//! Promise: what is asked for goes to stdout; what went wrong goes to stderr as one line that names
//! the cause and the next step. The exit code says whose turn it is:
//!
//! | code | meaning |
//! |--:|---|
//! | 0 | done; a server that was asked to stop has drained and stopped |
//! | 1 | could not run: the machine or the environment is in the way |
//! | 2 | did not understand: the command line is in the way |
//! | 130, 143 | stopped at once by a second SIGINT or SIGTERM |
#![forbid(unsafe_code)]

mod args;
mod cmd;
mod failure;
mod log;
mod out;

use std::process::ExitCode;

use crate::args::{Args, Command};
use crate::failure::Failure;

fn main() -> ExitCode {
    match args::parse(std::env::args_os()).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(args: Args) -> Result<(), Failure> {
    match args.command {
        Command::Echo(args) => {
            log::start(if args.verbose { "info" } else { "warn" })?;
            cmd::echo::run(&args)
        }
        Command::Doctor => cmd::doctor::run(),
    }
}
