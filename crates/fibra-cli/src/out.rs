//! Standard output, line by line, each of them flushed: a script that waits for a line gets it.

use std::io::{self, Write};

use crate::failure::Failure;

/// Prints a line and flushes it.
pub fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(format!("{text}\n").as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::Unheard),
        Err(error) => Err(Failure::Run(format!("cannot write to standard output: {error}"))),
    }
}
