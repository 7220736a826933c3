//! What can go wrong, as the user sees it: one line on stderr and an exit code.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

/// Why the command ended without having done its work.
#[derive(Debug)]
pub enum Failure {
    /// The command line cannot be understood.
    Usage(String),
    /// It was understood and cannot be done here and now.
    Run(String),
    /// Who read our output has gone; there is nobody to tell.
    Unheard,
}

impl Failure {
    /// Prints the one line and gives the exit code of the process.
    pub fn report(self) -> ExitCode {
        let (message, code) = match self {
            Self::Usage(message) => (message, 2),
            Self::Run(message) => (message, 1),
            Self::Unheard => return ExitCode::SUCCESS,
        };
        let line = format!("fibra: {}\n", single(&message));
        // Nothing is left to try if stderr is closed.
        let _ = io::stderr().write_all(line.as_bytes());
        ExitCode::from(code)
    }
}

/// The message on one line, whatever a file name or a foreign error has put into it.
fn single(message: &str) -> String {
    let mut line = String::with_capacity(message.len());
    for character in message.trim().chars() {
        match character {
            '\n' => line.push_str("; "),
            other if other.is_control() => {
                // Writing to a `String` cannot fail.
                let _ = write!(line, "{}", other.escape_default());
            }
            other => line.push(other),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_several_lines_becomes_one() {
        assert_eq!(single("one\ntwo\u{1b}[0m\n"), "one; two\\u{1b}[0m");
    }
}
