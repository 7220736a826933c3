//! The baseline: a thread of the operating system for every connection, on std alone.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::cannot_listen;
use super::server::{Model, Server};
use crate::args::Echo;
use crate::failure::Failure;
use crate::out;

/// How long to wait when no descriptor or thread is to be had.
const BACK_OFF: Duration = Duration::from_millis(10);

/// Threads of the operating system.
struct Threads;

impl Model for Threads {
    type Stream = TcpStream;
    type Handle = JoinHandle<()>;

    fn spawn(body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().spawn(body)
    }

    fn join(handle: JoinHandle<()>) {
        // A panic has been reported where it happened.
        let _ = handle.join();
    }

    fn sleep(delay: Duration) {
        thread::sleep(delay);
    }

    fn shutdown(stream: &TcpStream, how: Shutdown) -> io::Result<()> {
        stream.shutdown(how)
    }

    fn duplex(stream: &TcpStream) -> impl Read + Write + '_ {
        stream
    }

    fn say(text: &str) -> Result<(), Failure> {
        out::line(text)
    }
}

/// Serves until a signal ends it.
pub fn run(args: &Echo) -> Result<(), Failure> {
    let stop = signals::watch()?;
    let failed = |error: io::Error| cannot_listen(&args.listen, &error);
    let listener = TcpListener::bind(&args.listen).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    out::line(&format!("listening on {address}"))?;

    let server = Server::<Threads>::new(args.verbose);
    let stopping = Arc::new(AtomicBool::new(false));
    let acceptor = {
        let (server, stopping) = (Arc::clone(&server), Arc::clone(&stopping));
        thread::spawn(move || accept(listener, &server, &stopping))
    };
    stop.wait()?;
    stopping.store(true, Ordering::SeqCst);
    while !acceptor.is_finished() {
        // A blocked accept can only be woken by a connection; it looks at `stopping` then.
        let _ = TcpStream::connect(reachable(address));
        thread::sleep(BACK_OFF);
    }
    server.drain();
    out::line(&server.summary())
}

/// Accepts until told to stop; the listener is closed when this returns.
fn accept(listener: TcpListener, server: &Arc<Server<Threads>>, stopping: &AtomicBool) {
    let mut full = false;
    loop {
        let accepted = listener.accept();
        if stopping.load(Ordering::SeqCst) {
            return;
        }
        match accepted {
            Ok((stream, peer)) => {
                full = false;
                server.serve(stream, peer);
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !full {
                    eprintln!("fibra: cannot accept now: {error}; trying again until it works");
                }
                full = true;
                thread::sleep(BACK_OFF);
            }
        }
    }
}

/// Where a listener that listens everywhere can be reached from here.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(at) if at.ip().is_unspecified() => {
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        SocketAddr::V6(at) if at.ip().is_unspecified() => {
            address.set_ip(Ipv6Addr::LOCALHOST.into());
        }
        _ => {}
    }
    address
}

#[cfg(unix)]
mod signals {
    //! SIGINT and SIGTERM: the first is waited for, the second ends the process.

    use std::io::{self, Read};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::{flag, low_level};

    use crate::failure::Failure;

    /// The end of a pipe into which a signal writes.
    pub struct Stop(UnixStream);

    /// Takes over both signals.
    pub fn watch() -> Result<Stop, Failure> {
        let watch = || -> io::Result<Stop> {
            let (reader, writer) = UnixStream::pair()?;
            let asked = Arc::new(AtomicBool::new(false));
            for signal in [SIGINT, SIGTERM] {
                // In this order: the first signal finds the flag down and raises it.
                let code = 128 + signal;
                flag::register_conditional_shutdown(signal, code, Arc::clone(&asked))?;
                flag::register(signal, Arc::clone(&asked))?;
                low_level::pipe::register(signal, writer.try_clone()?)?;
            }
            Ok(Stop(reader))
        };
        watch().map_err(|error| Failure::Run(format!("cannot watch for signals: {error}")))
    }

    impl Stop {
        /// Waits for the first signal.
        pub fn wait(mut self) -> Result<(), Failure> {
            self.0
                .read_exact(&mut [0])
                .map_err(|error| Failure::Run(format!("cannot wait for signals: {error}")))
        }
    }
}

#[cfg(not(unix))]
mod signals {
    //! Elsewhere nothing ends the server but the end of the process.

    use crate::failure::Failure;

    /// Nothing.
    pub struct Stop;

    /// Watches nothing.
    pub fn watch() -> Result<Stop, Failure> {
        Ok(Stop)
    }

    impl Stop {
        /// Never returns.
        pub fn wait(self) -> Result<(), Failure> {
            loop {
                std::thread::park();
            }
        }
    }
}
