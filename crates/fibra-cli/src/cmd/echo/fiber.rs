//! A fiber for every connection, on the backend that was asked for.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use fibra::net::{TcpListener, TcpStream};

use super::cannot_listen;
use super::server::{Model, Server};
use crate::args::{Echo, Io};
use crate::failure::Failure;
use crate::out;

/// Fibers of the runtime.
struct Fibers;

impl Model for Fibers {
    type Stream = TcpStream;
    type Handle = fibra::JoinHandle<()>;

    fn spawn(body: impl FnOnce() + Send + 'static) -> io::Result<fibra::JoinHandle<()>> {
        fibra::fiber::Builder::new().spawn(body)
    }

    fn join(handle: fibra::JoinHandle<()>) {
        // A panic has been reported where it happened.
        let _ = handle.join();
    }

    fn sleep(delay: Duration) {
        fibra::sleep(delay);
    }

    fn shutdown(stream: &TcpStream, how: Shutdown) -> io::Result<()> {
        stream.shutdown(how)
    }

    fn duplex(stream: &TcpStream) -> impl Read + Write + '_ {
        stream
    }

    fn say(text: &str) -> Result<(), Failure> {
        // Whoever reads our output may be slow; a worker serves others meanwhile.
        fibra::blocking(|| out::line(text))
    }
}

/// Serves until a signal ends it.
pub fn run(args: &Echo) -> Result<(), Failure> {
    let mut builder = fibra::Builder::new();
    if let Some(driver) = args.driver {
        builder = builder.driver(driver);
    }
    if let Some(workers) = args.workers {
        builder = builder.workers(workers);
    }
    if let Some(io) = args.io {
        builder = builder.io(match io {
            Io::PerWorker => fibra::IoMode::PerWorker,
            Io::Dedicated => fibra::IoMode::Dedicated,
        });
    }
    match builder.run(|| serve(args)) {
        Ok(result) => result,
        Err(error) => Err(Failure::Run(format!("cannot start: {error}"))),
    }
}

/// The main fiber: a signal cancels it, which ends its wait for connections and nothing else.
fn serve(args: &Echo) -> Result<(), Failure> {
    fibra::signal::shutdown()
        .map_err(|error| Failure::Run(format!("cannot watch for signals: {error}")))?;
    let failed = |error: io::Error| cannot_listen(&args.listen, &error);
    let listener = TcpListener::bind(args.listen.as_str()).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    out::line(&format!("listening on {address}"))?;

    let server = Server::<Fibers>::new(args.verbose);
    let ended = accept(listener, &server);
    server.drain();
    out::line(&server.summary())?;
    ended.map_err(|error| Failure::Run(format!("cannot accept any more: {error}")))
}

/// Accepts until cancelled; the listener is closed when this returns.
fn accept(listener: TcpListener, server: &Arc<Server<Fibers>>) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((stream, peer)) => server.serve(stream, peer),
            Err(error) if fibra::is_cancelled(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
