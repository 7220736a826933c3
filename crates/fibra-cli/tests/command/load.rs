//! Clients: hundreds of connections at once, driven by one thread with `poll(2)`.
//!
//! ```text
//!   every connection:  connect .. first byte there and back .. | all the rest, half-close, read
//!                      <------ all connections do this ------> | to the end, each byte compared
//! ```
//! No connection goes on before every one has been served its first byte: that many are open at
//! once. Those that vanish are reset right after, while the others are in the middle.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Once, OnceLock};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::SockRef;

/// Bytes that all connections send parts of.
const BLOCK_LEN: usize = 4 << 20;
/// How much one call moves at most.
const CHUNK_LEN: usize = 128 * 1024;
/// How long nothing at all may happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub connections: usize,
    /// Of all connections together, at least.
    pub bytes: usize,
    /// Connections beside those that are reset in the middle.
    pub vanishing: usize,
}

/// One connection, and how far it is.
struct Client {
    stream: TcpStream,
    bytes: &'static [u8],
    sent: usize,
    received: usize,
    /// How much may be sent by now.
    allowed: usize,
    ended: bool,
}

impl Load {
    /// Does it. Panics if a byte is wrong, missing or too many. The number of bytes echoed.
    pub fn run(self, address: SocketAddr) -> usize {
        raise_descriptor_limit();
        let mut buffer = vec![0; CHUNK_LEN];
        let mut clients: Vec<Client> =
            (0..self.connections).map(|index| Client::connect(address, self.part(index))).collect();
        let vanishing: Vec<TcpStream> = (0..self.vanishing).map(|_| served(address)).collect();
        drive(&mut clients, &mut buffer, |client| client.received == 1);
        for client in &mut clients {
            client.allowed = client.bytes.len();
        }
        // In the middle: the others are half way when these go.
        let half = |client: &Client| client.received >= client.bytes.len() / 2;
        drive(&mut clients, &mut buffer, half);
        for stream in vanishing {
            vanish(stream);
        }
        drive(&mut clients, &mut buffer, |client| client.ended);
        clients.iter().map(|client| client.received).sum()
    }

    /// The bytes of one connection: of different lengths, from different places.
    fn part(self, index: usize) -> &'static [u8] {
        let mean = self.bytes.div_ceil(self.connections);
        // From 75 % to 125 % of the mean, which they have.
        let len = mean * 3 / 4 + mean * index / (2 * self.connections.max(2) - 2) + 1;
        let start = index * 7919 % (BLOCK_LEN - len);
        &block()[start..start + len]
    }
}

impl Client {
    fn connect(address: SocketAddr, bytes: &'static [u8]) -> Self {
        let stream = TcpStream::connect(address).expect("the server accepts");
        stream.set_nonblocking(true).expect("a socket");
        Self { stream, bytes, sent: 0, received: 0, allowed: 1, ended: false }
    }

    fn interest(&self) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, !self.ended);
        flags.set(PollFlags::OUT, self.sent < self.allowed);
        flags
    }

    fn send(&mut self) {
        let upto = self.allowed.min(self.sent + CHUNK_LEN);
        match self.stream.write(&self.bytes[self.sent..upto]) {
            Ok(count) => self.sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("after {} bytes sent: {error}", self.sent),
        }
        if self.sent == self.bytes.len() {
            self.stream.shutdown(Shutdown::Write).expect("the connection is open");
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) {
        let count = match self.stream.read(buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("after {} bytes received: {error}", self.received),
        };
        let (from, upto) = (self.received, self.received + count);
        assert!(upto <= self.sent, "{upto} bytes came back of {} sent", self.sent);
        assert!(buffer[..count] == self.bytes[from..upto], "bytes {from} to {upto} are others");
        self.received = upto;
        if count == 0 {
            assert_eq!(self.received, self.bytes.len(), "the server ended the connection early");
            self.ended = true;
        }
    }
}

/// Moves bytes until all clients have got there.
fn drive(clients: &mut [Client], buffer: &mut [u8], there: impl Fn(&Client) -> bool) {
    let mut last_move = Instant::now();
    while !clients.iter().all(&there) {
        let mut active: Vec<&mut Client> =
            clients.iter_mut().filter(|client| !client.interest().is_empty()).collect();
        let ready: Vec<PollFlags> = {
            let mut set: Vec<PollFd<'_>> = active
                .iter()
                .map(|client| PollFd::new(&client.stream, client.interest()))
                .collect();
            let wait = Timespec { tv_sec: 1, tv_nsec: 0 };
            if poll(&mut set, Some(&wait)).expect("poll works") > 0 {
                last_move = Instant::now();
            }
            set.iter().map(PollFd::revents).collect()
        };
        assert!(last_move.elapsed() < PATIENCE, "nothing moves: {}", state(clients));
        for (client, ready) in active.iter_mut().zip(ready) {
            if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                client.receive(buffer);
            }
            if ready.contains(PollFlags::OUT) {
                client.send();
            }
        }
    }
}

fn state(clients: &[Client]) -> String {
    let ended = clients.iter().filter(|client| client.ended).count();
    let sent: usize = clients.iter().map(|client| client.sent).sum();
    let received: usize = clients.iter().map(|client| client.received).sum();
    format!("{ended} of {} ended, {sent} bytes sent, {received} back", clients.len())
}

/// A connection that the server has taken up: its first byte is back.
pub fn served(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the server accepts");
    stream.write_all(&[0]).expect("the connection is open");
    stream.read_exact(&mut [0]).expect("the connection is open");
    stream
}

/// Sends what fits, reads nothing of it, and resets the connection.
pub fn vanish(mut stream: TcpStream) {
    stream.set_nonblocking(true).expect("a socket");
    while stream.write(&block()[..CHUNK_LEN]).is_ok() {}
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket");
}

/// Bytes without a pattern: the same ones every time, so that a failure can be had again.
pub fn block() -> &'static [u8] {
    static BLOCK: OnceLock<Vec<u8>> = OnceLock::new();
    BLOCK.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes = Vec::with_capacity(BLOCK_LEN);
        while bytes.len() < BLOCK_LEN {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        bytes
    })
}

/// Several tests with hundreds of connections each run in this process.
fn raise_descriptor_limit() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let limit = getrlimit(Resource::Nofile);
        // Refused or not: a test that runs out says so.
        let _ =
            setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    });
}
