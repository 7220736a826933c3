//! The log on stderr: what the runtime has to say, down to a level.

use std::env::{self, VarError};
use std::io::{self, IsTerminal};

use tracing_subscriber::filter::LevelFilter;

use crate::failure::Failure;

const VARIABLE: &str = "FIBRA_LOG";

/// Starts the log at the level of `FIBRA_LOG`, else at `default`.
pub fn start(default: &str) -> Result<(), Failure> {
    let level = match env::var(VARIABLE) {
        Ok(level) => level,
        Err(VarError::NotPresent) => default.to_owned(),
        Err(VarError::NotUnicode(level)) => level.to_string_lossy().into_owned(),
    };
    let level = parse(&level).ok_or_else(|| {
        Failure::Run(format!(
            "{VARIABLE} is '{level}': expected off, error, warn, info, debug or trace"
        ))
    })?;
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    Ok(())
}

fn parse(level: &str) -> Option<LevelFilter> {
    Some(match level {
        "off" => LevelFilter::OFF,
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => return None,
    })
}
