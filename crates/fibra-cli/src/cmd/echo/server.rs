//! The echo server, without a word about what waits: fibers and threads run the same code.
//!
//! ```text
//!   accept --> serve --> [one fiber or thread: read, write, .. until the client has ended]
//!                 \--> table of open connections <--- removes itself when it ends
//!   signal --> accept loop ends, listener closed --> drain --> summary
//! ```
//!
//! Draining, in this order:
//! 1. The listener is closed: who comes now is refused, not kept waiting.
//! 2. The reading half of every open connection is shut down. What the client has sent so far is
//!    still read and sent back; then its read says "end" and the connection ends as always.
//! 3. Who has not ended after [`GRACE`] (a client that sends and never reads, or never stops
//!    sending) is cut, and counted.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::failure::Failure;

/// How long a drain may take before what is left is cut.
pub const GRACE: Duration = Duration::from_secs(5);

/// Bytes read at once; also what a connection needs of its stack.
const BUFFER_LEN: usize = 16 * 1024;

/// What waits for clients.
pub trait Model: 'static {
    /// A connection.
    type Stream: Send + Sync + 'static;
    /// Waits for what was spawned.
    type Handle: Send;

    /// Runs `body` beside the caller.
    fn spawn(body: impl FnOnce() + Send + 'static) -> io::Result<Self::Handle>;
    /// Waits for the end of a body; one that panicked has ended as well.
    fn join(handle: Self::Handle);
    /// Waits for `delay`, or less if the model is told to stop.
    fn sleep(delay: Duration);
    /// Shuts down halves of a connection.
    fn shutdown(stream: &Self::Stream, how: Shutdown) -> io::Result<()>;
    /// The two directions of a connection, for one reader and writer.
    fn duplex(stream: &Self::Stream) -> impl Read + Write + '_;
    /// Prints a line on standard output, however long its reader takes.
    fn say(text: &str) -> Result<(), Failure>;
}

/// What a server knows while it runs.
pub struct Server<M: Model> {
    verbose: bool,
    started: Instant,
    connection_count: AtomicU64,
    byte_count: AtomicU64,
    /// Held for moments only: never while waiting, shutting down or dropping a connection.
    open: Mutex<HashMap<u64, Open<M>>>,
}

struct Open<M: Model> {
    stream: Arc<M::Stream>,
    handle: Option<M::Handle>,
}

impl<M: Model> Server<M> {
    /// A server without connections, whose time starts now.
    pub fn new(verbose: bool) -> Arc<Self> {
        Arc::new(Self {
            verbose,
            started: Instant::now(),
            connection_count: AtomicU64::new(0),
            byte_count: AtomicU64::new(0),
            open: Mutex::new(HashMap::new()),
        })
    }

    /// Takes over an accepted connection.
    pub fn serve(self: &Arc<Self>, stream: M::Stream, peer: SocketAddr) {
        if self.verbose {
            // A reader of our output who has gone does not end the service.
            let _ = M::say(&format!("New: {peer}"));
        }
        let id = self.connection_count.fetch_add(1, Ordering::Relaxed);
        let stream = Arc::new(stream);
        self.table().insert(id, Open { stream: Arc::clone(&stream), handle: None });
        let server = Arc::clone(self);
        let spawned = M::spawn(move || {
            let echoed = echo(&mut M::duplex(&stream));
            drop(stream);
            server.byte_count.fetch_add(echoed, Ordering::Relaxed);
            server.ended(id);
        });
        match spawned {
            Ok(handle) => {
                // It may have ended already; then nobody needs to wait for it.
                if let Some(open) = self.table().get_mut(&id) {
                    open.handle = Some(handle);
                }
            }
            Err(error) => {
                eprintln!("fibra: cannot serve {peer}: {error}; the connection is closed");
                self.ended(id);
            }
        }
    }

    /// Ends every connection as the file's page says. The accept loop must have ended.
    pub fn drain(self: &Arc<Self>) {
        let (streams, handles): (Vec<_>, Vec<_>) = self
            .table()
            .values_mut()
            .map(|open| (Arc::clone(&open.stream), open.handle.take()))
            .unzip();
        for stream in streams {
            // A connection the client has reset cannot be shut down and needs not be.
            let _ = M::shutdown(&stream, Shutdown::Read);
        }
        let server = Arc::clone(self);
        let cutter = M::spawn(move || {
            M::sleep(GRACE);
            server.cut();
        });
        if let Err(error) = cutter {
            eprintln!("fibra: cannot watch the drain: {error}; open connections are cut");
            self.cut();
        }
        handles.into_iter().flatten().for_each(M::join);
    }

    /// What was done, in one line.
    pub fn summary(&self) -> String {
        let connections = self.connection_count.load(Ordering::Relaxed);
        let bytes = self.byte_count.load(Ordering::Relaxed);
        let plural = if connections == 1 { "" } else { "s" };
        let seconds = self.started.elapsed().as_secs_f64();
        format!("served {connections} connection{plural}, {bytes} bytes, in {seconds:.3} seconds")
    }

    fn ended(&self, id: u64) {
        let open = self.table().remove(&id);
        // Outside the lock: it closes the connection.
        drop(open);
    }

    fn cut(&self) {
        let left: Vec<_> = self.table().values().map(|open| Arc::clone(&open.stream)).collect();
        if !left.is_empty() {
            eprintln!("fibra: {} connections did not end within {GRACE:?} and are cut", left.len());
        }
        for stream in left {
            let _ = M::shutdown(&stream, Shutdown::Both);
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<u64, Open<M>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends back what comes until the client ends or vanishes; says how many bytes went back.
fn echo(stream: &mut (impl Read + Write)) -> u64 {
    let mut buffer = [0; BUFFER_LEN];
    let mut echoed = 0;
    loop {
        let count = match stream.read(&mut buffer) {
            Ok(0) => return echoed,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return echoed,
        };
        if stream.write_all(&buffer[..count]).is_err() {
            return echoed;
        }
        echoed += count as u64;
    }
}
