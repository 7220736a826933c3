//! Runtimes: starting workers, running a main fiber, shutting down.
//!
//! `run` in steps:
//! 1. settings are checked and all drivers made, before any thread starts: an error is an error here;
//! 2. workers start; all of them are threads of the runtime, the caller only parks;
//! 3. the main fiber runs `f` and ends;
//! 4. CLOSING: every other fiber is cancelled; what has not started is dropped;
//! 5. the grace passes, or all have ended;
//! 6. ENDED: stubborn fibers are named on stderr and leaked with their workers;
//! 7. `f`'s value is returned, or its panic resumed.

use std::io;
use std::panic::{Location, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fibra_driver::{BackendKind, Choice, Driver};

use crate::config::{Config, IoMode};
use crate::fiber::{self, JoinHandle};
use crate::sched::block::Blocks;
use crate::sched::current;
use crate::sched::home::Home;
use crate::sched::io_thread::IoThread;
use crate::sched::port::{Port, Sleeper};
use crate::sched::shared::{Phase, Shared};
use crate::sched::watchdog::Watchdog;
use crate::sched::worker::Worker;
use crate::stack::{SharedStacks, StackPool, StackSize};

/// Runs `f` as the main fiber of a new runtime, and returns its value when it has ended and what it
/// started has been cancelled and drained.
///
/// The calling thread only waits: every fiber, the main one included, runs on the runtime's own
/// threads. `f` may borrow from the caller.
///
/// ```
/// let words = vec!["one", "driver"];
/// assert_eq!(fibra_runtime::run(|| words.join(" ")), "one driver");
/// ```
///
/// # Panics
/// With `f`'s panic; inside a fiber (use [`scope`](crate::scope)); if the settings or the machine
/// do not allow a runtime, where [`Builder::run`] gives an error.
#[track_caller]
pub fn run<F, T>(f: F) -> T
where
    F: FnOnce() -> T + Send,
    T: Send,
{
    match Builder::new().run(f) {
        Ok(value) => value,
        Err(error) => panic!("fibra: the runtime cannot start: {error}"),
    }
}

/// Settings of a runtime. What is not set comes from the environment, then from the defaults.
///
/// | setting | environment | default |
/// |---|---|---|
/// | [`workers`](Self::workers) | `FIBRA_WORKERS` | one per core the process may use |
/// | [`driver`](Self::driver) | `FIBRA_DRIVER` | the best that runs |
/// | [`io`](Self::io) | `FIBRA_IO` | a driver per worker |
/// | [`stack_size`](Self::stack_size) | `FIBRA_STACK_SIZE` | 256 KiB, in debug builds 1 MiB |
#[derive(Clone, Debug, Default)]
pub struct Builder {
    workers: Option<usize>,
    driver: Option<Choice>,
    io: Option<IoMode>,
    stack_size: Option<usize>,
    main_stack_size: Option<usize>,
    shutdown_grace: Option<Duration>,
    unwind_at_shutdown: bool,
    accept_errors: bool,
    chaos: Option<bool>,
    stall_limit: Option<Duration>,
    fibers_max: Option<usize>,
}

impl Builder {
    /// A builder with nothing set.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many workers.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Which I/O backend.
    pub fn driver(mut self, driver: Choice) -> Self {
        self.driver = Some(driver);
        self
    }

    /// Who drives the I/O.
    pub fn io(mut self, io: IoMode) -> Self {
        self.io = Some(io);
        self
    }

    /// The stack reserved for a fiber, in bytes. Only what is touched is committed.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = Some(bytes);
        self
    }

    /// The stack reserved for the main fiber, in bytes; 8 MiB if not set.
    pub fn main_stack_size(mut self, bytes: usize) -> Self {
        self.main_stack_size = Some(bytes);
        self
    }

    /// How long fibers may take to end after the main fiber has; 5 s if not set.
    pub fn shutdown_grace(mut self, grace: Duration) -> Self {
        self.shutdown_grace = Some(grace);
        self
    }

    /// Whether fibers that have not ended after the grace are unwound where they wait without
    /// lending memory: in `sleep`, `join`, and the like, not in I/O or in a scope. Off if not set:
    /// unwinding runs destructors that may not wait, and poisons std locks.
    pub fn unwind_at_shutdown(mut self, on: bool) -> Self {
        self.unwind_at_shutdown = on;
        self
    }

    /// Whether `accept` reports the errors it otherwise retries (out of descriptors, aborted
    /// connections), as std's does.
    pub fn accept_errors(mut self, on: bool) -> Self {
        self.accept_errors = on;
        self
    }

    /// Wakes parked fibers for no reason, seeded, to find code that takes a resume for an answer.
    /// `FIBRA_CHAOS=1` does the same.
    pub fn chaos(mut self, on: bool) -> Self {
        self.chaos = Some(on);
        self
    }

    /// How long a fiber may hold its worker before the watchdog reports it on stderr; 1 s if not
    /// set, zero for never.
    pub fn stall_limit(mut self, limit: Duration) -> Self {
        self.stall_limit = Some(limit);
        self
    }

    /// How many fibers may wait to be started on one worker; 16 million if not set.
    pub fn fibers_max(mut self, count: usize) -> Self {
        self.fibers_max = Some(count);
        self
    }

    fn config(&self) -> io::Result<Config> {
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
        let mut config = Config::from_env().map_err(invalid)?;
        if self.workers == Some(0) {
            return Err(invalid("a runtime needs at least one worker".into()));
        }
        let stack = |bytes: Option<usize>, or| bytes.map_or(Ok(or), StackSize::with_reserve);
        config.workers = self.workers.unwrap_or(config.workers);
        config.driver = self.driver.unwrap_or(config.driver);
        config.io = self.io.unwrap_or(config.io);
        config.stack_size = stack(self.stack_size, config.stack_size)?;
        config.main_stack_size = stack(self.main_stack_size, config.main_stack_size)?;
        config.shutdown_grace = self.shutdown_grace.unwrap_or(config.shutdown_grace);
        config.unwind_at_shutdown = self.unwind_at_shutdown;
        config.accept_errors = self.accept_errors;
        config.chaos = self.chaos.unwrap_or(config.chaos);
        config.stall_limit = self.stall_limit.unwrap_or(config.stall_limit);
        config.fibers_max = self.fibers_max.unwrap_or(config.fibers_max);
        Ok(config)
    }

    /// Runs `f` as the main fiber of a new runtime; see [`run`].
    ///
    /// # Errors
    /// Bad settings or environment; a named backend that cannot run; no threads, descriptors or
    /// memory for it.
    ///
    /// # Panics
    /// With `f`'s panic; inside a fiber.
    #[track_caller]
    pub fn run<F, T>(self, f: F) -> io::Result<T>
    where
        F: FnOnce() -> T + Send,
        T: Send,
    {
        let site = Location::caller();
        assert!(
            current::worker().is_none(),
            "fibra: `run` inside a fiber: use `fibra::scope` or `fibra::spawn` here"
        );
        let mut runtime = Runtime::start(self.config()?)?;
        let shared = Arc::clone(&runtime.handle.shared);
        // SAFETY: this does not return before the main fiber is done; with `exit` it never does.
        let (main, queued) = unsafe { fiber::main_fiber(&shared, site, f) };
        if let Err(refused) = queued {
            fiber::end_refused(refused)?;
        }
        fiber::wait_done_or(main.header(), || shared.exit_code().is_some());
        runtime.shut_down();
        if let Some(code) = shared.exit_code() {
            std::process::exit(code);
        }
        // SAFETY: done, and this is the only handle.
        match unsafe { main.take() } {
            Some(Ok(value)) => Ok(value),
            Some(Err(payload)) => resume_unwind(payload),
            None => unreachable!("the main fiber left its result"),
        }
    }
}

/// A running runtime: its threads, until they are shut down.
struct Runtime {
    handle: Handle,
    io: Option<Arc<IoThread>>,
    threads: Vec<std::thread::JoinHandle<()>>,
    watchdog: Option<Watchdog>,
}

/// What one worker needs to start.
struct Seat {
    home: Arc<Home>,
    port: Port,
}

impl Runtime {
    fn start(config: Config) -> io::Result<Self> {
        let blocks = Arc::new(Blocks::new());
        let homes: Vec<Arc<Home>> = (0..config.workers)
            .map(|index| Arc::new(Home::new(index, config.fibers_max, Arc::clone(&blocks))))
            .collect();
        let (seats, io_driver, backend) = make_seats(&config, &homes)?;
        let stacks = SharedStacks::new(config.guards);
        let shared = Arc::new(Shared::new(config, homes.into(), blocks, backend));
        let mut runtime = Self {
            handle: Handle { shared: Arc::clone(&shared) },
            io: None,
            threads: Vec::with_capacity(seats.len() + 1),
            watchdog: None,
        };
        match runtime.start_threads(seats, io_driver, &stacks) {
            Ok(()) => {
                shared.list();
                Ok(runtime)
            }
            Err(error) => {
                // Ends those that were made.
                shared.advance(Phase::Ended);
                if let Some(io) = &runtime.io {
                    io.stop();
                }
                Err(error)
            }
        }
    }

    fn start_threads(
        &mut self,
        seats: Vec<Seat>,
        io_driver: Option<(Arc<IoThread>, Driver)>,
        stacks: &Arc<SharedStacks>,
    ) -> io::Result<()> {
        if let Some((io, driver)) = io_driver {
            self.io = Some(Arc::clone(&io));
            let shared = Arc::clone(&self.handle.shared);
            let thread = std::thread::Builder::new().name("fibra-io".into());
            self.threads.push(thread.spawn(move || io.run(driver, &shared))?);
        }
        for seat in seats {
            let (shared, stacks) = (Arc::clone(&self.handle.shared), Arc::clone(stacks));
            let thread =
                std::thread::Builder::new().name(format!("fibra-worker-{}", seat.home.index));
            self.threads.push(thread.spawn(move || work(seat, shared, StackPool::new(stacks)))?);
        }
        self.watchdog = Watchdog::start(&self.handle.shared)?;
        Ok(())
    }

    /// Steps 4 to 6.
    fn shut_down(&mut self) {
        let shared = &self.handle.shared;
        let grace = shared.config.shutdown_grace;
        shared.advance(Phase::Closing);
        let mut all_ended = shared.wait_ended(grace);
        if !all_ended && shared.config.unwind_at_shutdown {
            shared.advance(Phase::Unwinding);
            all_ended = shared.wait_ended(Duration::from_millis(500));
        }
        if !all_ended {
            shared.advance(Phase::Ended);
            // A worker that still runs its loop answers at once; one that does not is stuck.
            all_ended = shared.wait_ended(Duration::from_millis(500));
        }
        let (leaked, lost) = shared.leftovers();
        let stuck_reports = if all_ended { Vec::new() } else { Watchdog::report_stuck(shared) };
        shared.unlist();
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.stop();
        }
        let clean = lost == 0;
        if !leaked.is_empty() || !stuck_reports.is_empty() {
            report_leaks(grace, &leaked, &stuck_reports);
        }
        if let (Some(io), true) = (&self.io, clean) {
            io.stop();
        }
        shared.pool.shutdown();
        for thread in self.threads.drain(..) {
            // A thread that owns started fibers, or serves them, is detached and never joined.
            if clean {
                let _ = thread.join();
            }
        }
    }
}

#[cold]
fn report_leaks(grace: Duration, leaked: &[String], stuck: &[String]) {
    eprintln!("fibra: shutdown: these did not end within {grace:?} and are leaked:");
    for line in leaked.iter().chain(stuck) {
        eprintln!("  {line}");
    }
}

/// Makes every driver before any thread starts (D42).
#[expect(clippy::type_complexity, reason = "three things that belong together for one call")]
fn make_seats(
    config: &Config,
    homes: &[Arc<Home>],
) -> io::Result<(Vec<Seat>, Option<(Arc<IoThread>, Driver)>, BackendKind)> {
    let drivers = if config.io == IoMode::PerWorker { homes.len() } else { 1 };
    let mut drivers = make_drivers(config.driver, drivers)?;
    let backend = drivers[0].kind();
    let mut io = None;
    if config.io == IoMode::Dedicated
        && let Some(driver) = drivers.pop()
    {
        let thread = Arc::new(IoThread::new());
        thread.set_notifier(driver.notifier());
        io = Some((thread, driver));
    }
    let mut drivers = drivers.into_iter();
    let mut seats = Vec::with_capacity(homes.len());
    for home in homes {
        let port = match (&io, drivers.next()) {
            (Some((io, _)), _) => {
                let sleeper = Arc::new(Sleeper::default());
                let kicked = Arc::clone(&sleeper);
                home.set_kick(move || kicked.kick());
                Port::Dedicated { io: Arc::clone(io), sleeper }
            }
            (None, Some(driver)) => {
                let notifier = driver.notifier();
                home.set_kick(move || notifier.notify());
                Port::Own { driver, in_flight: 0 }
            }
            (None, None) => unreachable!("a driver was made for every worker"),
        };
        seats.push(Seat { home: Arc::clone(home), port });
    }
    Ok((seats, io, backend))
}

/// All of one kind: if one of them fails under `auto`, all become epoll.
fn make_drivers(choice: Choice, count: usize) -> io::Result<Vec<Driver>> {
    let make = |choice: Choice| -> io::Result<Vec<Driver>> {
        let mut config = fibra_driver::Config::default();
        config.choice = choice;
        (0..count).map(|_| Driver::new(&config)).collect()
    };
    match make(choice) {
        Err(error) if choice == Choice::Auto => {
            tracing::warn!("a driver could not be made ({error}); using epoll for all workers");
            make(Choice::Named(BackendKind::Epoll))
        }
        other => other,
    }
}

/// The body of a worker thread.
fn work(seat: Seat, shared: Arc<Shared>, stacks: StackPool) {
    let guard = crate::stack::install().and_then(|()| crate::stack::install_for_thread());
    if let Err(error) = &guard {
        tracing::warn!("no alternate signal stack: a stack overflow will not be named ({error})");
    }
    Watchdog::register_thread(&seat.home);
    let worker = Worker::new(seat.home, Arc::clone(&shared), seat.port, stacks);
    worker.run();
    worker.home.thread_id.store(0, Ordering::Release);
    drop(worker);
    shared.worker_ended();
}

thread_local! {
    static ENTERED: std::cell::RefCell<Vec<Handle>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// A way to reach a runtime from outside its fibers.
///
/// The runtime of a call is: that of the worker it runs on; else one entered with
/// [`enter`](Self::enter); else the oldest that is running in this process.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Handle {
    /// The runtime of this call, if there is one.
    pub fn find() -> Option<Self> {
        if let Some(worker) = current::worker() {
            return Some(Self { shared: Arc::clone(&worker.shared) });
        }
        let entered = ENTERED.try_with(|entered| entered.borrow().last().cloned()).ok().flatten();
        entered.or_else(|| Shared::oldest().map(|shared| Self { shared }))
    }

    /// The runtime of this call.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn current() -> Self {
        Self::expect("Handle::current")
    }

    #[track_caller]
    pub(crate) fn expect(what: &str) -> Self {
        match Self::find() {
            Some(handle) => handle,
            None => panic!(
                "fibra: `{what}` without a runtime: call it inside `fibra::run`, or enter a Handle"
            ),
        }
    }

    /// Makes a fiber of this runtime, from anywhere; see [`spawn`](crate::spawn).
    #[track_caller]
    pub fn spawn<F, T>(&self, f: F) -> JoinHandle<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let plan = fiber::Plan::new(Location::caller());
        fiber::spawn_on(&self.shared, plan, f).unwrap_or_else(|error| panic!("fibra: {error}"))
    }

    /// Makes this the runtime of calls on this thread while `f` runs.
    pub fn enter<T>(&self, f: impl FnOnce() -> T) -> T {
        struct Leave;
        impl Drop for Leave {
            fn drop(&mut self) {
                ENTERED.with(|entered| entered.borrow_mut().pop());
            }
        }
        ENTERED.with(|entered| entered.borrow_mut().push(self.clone()));
        let _leave = Leave;
        f()
    }

    /// Counters and sizes of the runtime.
    pub fn metrics(&self) -> crate::Metrics {
        crate::Metrics::of(&self.shared)
    }

    /// Which backend its drivers run on.
    pub fn backend(&self) -> BackendKind {
        self.shared.backend
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle")
            .field("workers", &self.shared.homes.len())
            .field("backend", &self.shared.backend)
            .finish_non_exhaustive()
    }
}

/// Ends the process with `code` after the runtime has shut down: fibers are cancelled and drained,
/// within the grace. `std::process::exit` from a fiber would run destructors of thread-locals under
/// suspended frames.
///
/// # Panics
/// Outside a runtime.
pub fn exit(code: i32) -> ! {
    let handle = Handle::expect("exit");
    handle.shared.exit(code);
    if let Some((worker, block)) = current::fiber() {
        worker.give_up(block);
    }
    // Outside fibers: the caller of `run` ends the process.
    loop {
        std::thread::park();
    }
}
