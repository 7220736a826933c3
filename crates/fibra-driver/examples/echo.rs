//! An echo server on `fibra-driver` alone: one thread, one driver, owned ops, no unsafe code.
//!
//! ```text
//! cargo run --release -p fibra-driver --example echo -- [--driver uring] [ADDRESS]
//! ```
//!
//! Each connection has one op in flight: a receive, then a send of what was received, then a receive
//! into the same buffer, and so on to the end of the stream. Ctrl-C ends the process.

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use fibra_driver::owned::{Finished, Outcome};
use fibra_driver::{Choice, Config, Deadline, Driver, Instant, Socket};

const BUFFER_BYTES: usize = 16 * 1024;
/// How long to wait when no connection can be accepted, for want of descriptors, say.
const PAUSE: Duration = Duration::from_millis(100);

struct Server {
    driver: Driver,
    listener: Socket,
    /// By the key of their ops. 0 is the listener's.
    connections: HashMap<u64, Socket>,
    last_key: u64,
    /// When to accept again after an error.
    accept_at: Deadline,
}

impl Server {
    /// Handles one op that has ended, and starts what follows from it.
    fn handle(&mut self, Finished { key, outcome, .. }: Finished) {
        match (outcome, self.connections.get(&key)) {
            (Outcome::Accepted(Ok(socket)), _) => {
                self.welcome(socket);
                self.driver.accept(&self.listener, 0);
            }
            (Outcome::Accepted(Err(error)), _) => {
                eprintln!("accept: {error}; trying again in {PAUSE:?}");
                self.accept_at = Deadline::At(Instant::now() + PAUSE);
            }
            (Outcome::Received(Ok(count @ 1..), buffer), Some(socket)) => {
                self.driver.send_all(socket, (buffer, 0..count), key);
            }
            (Outcome::Sent(Ok(_), buffer), Some(socket)) => {
                self.driver.recv(socket, buffer, key);
            }
            // The end of the stream, or an error: nobody is left to talk to.
            _ => drop(self.connections.remove(&key)),
        }
    }

    fn welcome(&mut self, socket: Socket) {
        self.last_key += 1;
        self.driver.recv(&socket, vec![0; BUFFER_BYTES], self.last_key);
        self.connections.insert(self.last_key, socket);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut config = Config::default();
    let mut address = "127.0.0.1:8081".to_owned();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--driver" => {
                config.choice =
                    arguments.next().ok_or("--driver needs a name")?.parse::<Choice>()?;
            }
            _ => address = argument,
        }
    }
    let listener = Socket::listen(&address.parse()?, 1024)?;
    let driver = Driver::new(&config)?;
    println!("listening on {}", listener.local_addr()?);

    let (connections, accept_at) = (HashMap::new(), Deadline::Never);
    let mut server = Server { driver, listener, connections, last_key: 0, accept_at };
    server.driver.accept(&server.listener, 0);
    loop {
        while let Some(finished) = server.driver.reap_owned() {
            server.handle(finished);
        }
        server.driver.wait(server.accept_at)?;
        if server.accept_at.remaining() == Some(Duration::ZERO) {
            server.accept_at = Deadline::Never;
            server.driver.accept(&server.listener, 0);
        }
    }
}
