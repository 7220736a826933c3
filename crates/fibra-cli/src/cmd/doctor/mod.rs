//! `fibra doctor`: what fibra would do on this machine, and why.

use crate::failure::Failure;

/// Prints the report.
pub fn run() -> Result<(), Failure> {
    Ok(())
}
