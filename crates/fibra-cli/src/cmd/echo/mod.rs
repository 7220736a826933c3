//! `fibra echo`: a TCP server that sends back what it gets.

mod fiber;
mod server;
mod thread;

use std::io;

use crate::args::{Echo, Model};
use crate::failure::Failure;

/// Serves until a signal ends it.
pub fn run(args: &Echo) -> Result<(), Failure> {
    match args.model {
        Model::Fiber => fiber::run(args),
        Model::Thread => thread::run(args),
    }
}

/// Why listening failed and what to do about it.
fn cannot_listen(address: &str, error: &io::Error) -> Failure {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; stop the program that listens there, or choose another port with --listen"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need a privilege: choose a higher one with --listen"
        }
        io::ErrorKind::AddrNotAvailable => {
            "; this machine has no such address: choose another with --listen"
        }
        _ => "",
    };
    Failure::Run(format!("cannot listen on {address}: {error}{advice}"))
}
