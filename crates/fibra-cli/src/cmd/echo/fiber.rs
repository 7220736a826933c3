//! A fiber for every connection. (Waits for the runtime.)

use crate::args::Echo;
use crate::failure::Failure;

/// Serves until a signal ends it.
pub fn run(_args: &Echo) -> Result<(), Failure> {
    Err(Failure::Run("fibers are not there yet; use --model thread".to_owned()))
}
