//! Configuration of a runtime: builder over environment over defaults.

use std::time::Duration;

use fibra_driver::Choice;

use crate::stack::{GuardMode, StackSize};

/// Who drives the I/O.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IoMode {
    /// Every worker has a driver of its own.
    #[default]
    PerWorker,
    /// One dedicated thread has all of it; workers post requests to it.
    Dedicated,
}

impl std::str::FromStr for IoMode {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "per-worker" => Ok(Self::PerWorker),
            "dedicated" => Ok(Self::Dedicated),
            other => Err(format!("unknown I/O mode '{other}': expected per-worker or dedicated")),
        }
    }
}

impl std::fmt::Display for IoMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::PerWorker => "per-worker",
            Self::Dedicated => "dedicated",
        })
    }
}

/// The effective settings of one runtime. Every limit is here.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub workers: usize,
    pub driver: Choice,
    pub io: IoMode,
    pub stack_size: StackSize,
    pub main_stack_size: StackSize,
    pub guards: GuardMode,
    /// Fibers that may wait to be started on one worker.
    pub fibers_max: usize,
    /// Threads of the blocking pool.
    pub blocking_max: usize,
    pub shutdown_grace: Duration,
    pub unwind_at_shutdown: bool,
    pub accept_errors: bool,
    /// Wake parked fibers for no reason, to find waits that trust a resume.
    pub chaos: bool,
    /// How long one fiber may hold a worker before the watchdog reports it; zero for never.
    pub stall_limit: Duration,
}

impl Config {
    /// The defaults, with what the environment sets.
    pub fn from_env() -> Result<Self, String> {
        let config = Self {
            workers: workers()?,
            driver: variable("FIBRA_DRIVER")?.unwrap_or_default(),
            io: variable("FIBRA_IO")?.unwrap_or_default(),
            stack_size: match variable("FIBRA_STACK_SIZE")? {
                Some(Bytes(bytes)) => StackSize::with_reserve(bytes)
                    .map_err(|error| format!("FIBRA_STACK_SIZE={bytes}: {error}"))?,
                None => StackSize::SPAWNED,
            },
            main_stack_size: StackSize::MAIN,
            guards: variable("FIBRA_GUARDS")?.unwrap_or_default(),
            fibers_max: 1 << 24,
            blocking_max: variable("FIBRA_BLOCKING_MAX")?.unwrap_or(512),
            shutdown_grace: Duration::from_secs(5),
            unwind_at_shutdown: false,
            accept_errors: false,
            chaos: variable::<u8>("FIBRA_CHAOS")?.unwrap_or(0) != 0,
            stall_limit: Duration::from_secs(1),
        };
        Ok(config)
    }
}

/// How many workers: `FIBRA_WORKERS`, or one per core the process may use.
fn workers() -> Result<usize, String> {
    match variable("FIBRA_WORKERS")? {
        Some(0) => Err("FIBRA_WORKERS is 0: a runtime needs at least one worker".into()),
        Some(workers) => Ok(workers),
        // Looks at the affinity mask and the cgroup quota.
        None => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
    }
}

/// A number of bytes with an optional K or M.
struct Bytes(usize);

impl std::str::FromStr for Bytes {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, unit) = match text.as_bytes().last() {
            Some(b'k' | b'K') => (&text[..text.len() - 1], 1 << 10),
            Some(b'm' | b'M') => (&text[..text.len() - 1], 1 << 20),
            _ => (text, 1),
        };
        let number: usize = digits.parse().map_err(|_| "expected bytes, such as 262144 or 256K")?;
        number.checked_mul(unit).map(Self).ok_or_else(|| "too large".into())
    }
}

fn variable<T: std::str::FromStr>(name: &str) -> Result<Option<T>, String>
where
    T::Err: std::fmt::Display,
{
    match std::env::var(name) {
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(error) => Err(format!("{name}: {error}")),
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => match value.parse() {
            Ok(parsed) => Ok(Some(parsed)),
            Err(error) => Err(format!("{name}={value}: {error}")),
        },
    }
}
