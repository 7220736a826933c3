//! What the attributes expand to, and what only crates of this workspace may use.
//!
//! No promise: everything here may change in any release.

use std::io::{self, Write};
use std::process::{ExitCode, Termination};

use fibra_driver::Choice;
use fibra_runtime::{Builder, IoMode};

pub use fibra_runtime::stack::{StackSize, probe_guards};

/// What stands in the parentheses of an attribute.
#[derive(Debug, Default)]
pub struct Options {
    /// `workers = 2`
    pub workers: Option<usize>,
    /// `driver = "epoll"`
    pub driver: Option<Choice>,
    /// `io = "dedicated"`
    pub io: Option<IoMode>,
    /// `stack_size = 64 * 1024`
    pub stack_size: Option<usize>,
}

impl Options {
    fn builder(self) -> Builder {
        let mut builder = Builder::new();
        if let Some(workers) = self.workers {
            builder = builder.workers(workers);
        }
        if let Some(driver) = self.driver {
            builder = builder.driver(driver);
        }
        if let Some(io) = self.io {
            builder = builder.io(io);
        }
        if let Some(bytes) = self.stack_size {
            builder = builder.stack_size(bytes);
        }
        builder
    }
}

/// Runs the body of a `#[fibra::main]`.
pub fn main<T: Termination>(options: Options, body: fn() -> T) -> ExitCode {
    report(options, body).unwrap_or_else(|error| {
        // Nothing is left to try if stderr is closed.
        let _ = io::stderr().write_all(format!("error: {error}\n").as_bytes());
        ExitCode::FAILURE
    })
}

/// Runs the body of a `#[fibra::test]` that returns nothing.
///
/// # Panics
/// With the body's panic; if the runtime cannot start.
pub fn test(options: Options, body: fn()) {
    if let Err(error) = options.builder().run(body) {
        cannot_start(&error);
    }
}

/// Runs the body of a `#[fibra::test]` that returns something.
///
/// # Panics
/// As [`test`].
pub fn test_result<T: Termination>(options: Options, body: fn() -> T) -> ExitCode {
    report(options, body).unwrap_or_else(|error| cannot_start(&error))
}

/// The value is reported inside the fiber: it need not be `Send`.
fn report<T: Termination>(options: Options, body: fn() -> T) -> io::Result<ExitCode> {
    options.builder().run(move || body().report())
}

fn cannot_start(error: &io::Error) -> ! {
    panic!("fibra: the runtime of this test cannot start: {error}")
}
