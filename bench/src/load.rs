//! The load: a process of its own, one thread, closed loop.
//!
//! Each connection has one 64-byte message under way; its echo is checked and answered with the
//! next. The server's CPU time is read between quiet points, so it is that of a known number of
//! requests, to the last one:
//!
//! ```text
//!   connect | warm up | drain | read usage | measure | drain | read usage | report
//!                              all threads of the server blocked at both readings
//! ```

use std::io::{Error, Result};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::proc::{self, Machine, Usage};
use crate::tracepoint::SyscallCounter;

const MESSAGE_LEN: usize = 64;
/// No answer for so long is a fault of the server.
const STALLED: Duration = Duration::from_secs(5);

/// What to do to whom.
#[derive(clap::Args, Clone)]
pub struct Options {
    #[arg(long)]
    port: u16,
    #[arg(long)]
    pid: u32,
    #[arg(long)]
    connections: usize,
    #[arg(long)]
    warm_up_ms: u64,
    #[arg(long)]
    measure_ms: u64,
    /// Count the server's system calls, which slows them a little.
    #[arg(long)]
    count_syscalls: bool,
}

/// Applies the load and prints what came of it.
pub fn run(options: &Options) -> Result<()> {
    let mut load = Load::connect(options.port, options.connections)?;
    let mut latencies = Histogram::new_with_bounds(1, 60_000_000_000, 3).map_err(Error::other)?;
    load.phase(Duration::from_millis(options.warm_up_ms), &mut latencies)?;
    let warm_up_requests = latencies.len();
    latencies.reset();

    let counter = if options.count_syscalls { SyscallCounter::of(options.pid) } else { None };
    let calls_before = counter.as_ref().map_or(0, SyscallCounter::read);
    let usage_before = Usage::of(options.pid)?;
    let machine_before = Machine::now()?;
    let own_before = proc::own_cpu_ns();
    let begun = Instant::now();
    load.phase(Duration::from_millis(options.measure_ms), &mut latencies)?;
    let seconds = begun.elapsed().as_secs_f64();
    let own = proc::own_cpu_ns() - own_before;
    let machine = Machine::now()?;
    let usage = Usage::of(options.pid)?.since(usage_before);
    let calls = counter.as_ref().map_or(f64::NAN, |c| (c.read() - calls_before) as f64);

    let requests = latencies.len() as f64;
    println!("requests {requests}");
    println!("warm_up_requests {warm_up_requests}");
    println!("per_second {}", requests / seconds);
    println!("cpu_us {}", usage.cpu_ns as f64 / 1e3 / requests);
    println!("switches {}", usage.context_switches as f64 / requests);
    println!("syscalls {}", calls / requests);
    println!("load_cpu_us {}", own as f64 / 1e3 / requests);
    println!("foreign {}", machine.foreign_share(machine_before, usage.cpu_ns + own));
    for (name, share) in [("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)] {
        println!("{name} {}", latencies.value_at_quantile(share) as f64 / 1e3);
    }
    Ok(())
}

struct Connection {
    stream: TcpStream,
    message: [u8; MESSAGE_LEN],
    answer: [u8; MESSAGE_LEN + 1],
    answered: usize,
    sent_at: Instant,
}

struct Load {
    poller: i32,
    connections: Vec<Connection>,
    events: Vec<libc::epoll_event>,
}

fn check(result: i32) -> Result<i32> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

impl Load {
    fn connect(port: u16, count: usize) -> Result<Load> {
        // SAFETY: takes flags only.
        let poller = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        let mut connections = Vec::with_capacity(count);
        for i in 0..count {
            let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            reset_on_close(&stream)?;
            let events = (libc::EPOLLIN | libc::EPOLLET) as u32;
            let mut event = libc::epoll_event { events, u64: i as u64 };
            // SAFETY: `event` is valid for the call, which copies it.
            check(unsafe {
                libc::epoll_ctl(poller, libc::EPOLL_CTL_ADD, stream.as_raw_fd(), &raw mut event)
            })?;
            let mut message = [0; MESSAGE_LEN];
            message[8..16].copy_from_slice(&(i as u64).to_ne_bytes());
            connections.push(Connection {
                stream,
                message,
                answer: [0; MESSAGE_LEN + 1],
                answered: 0,
                sent_at: Instant::now(),
            });
        }
        let events = vec![libc::epoll_event { events: 0, u64: 0 }; 1024];
        Ok(Load { poller, connections, events })
    }

    /// Keeps one request under way on each connection for `duration`, then drains.
    fn phase(&mut self, duration: Duration, latencies: &mut Histogram<u64>) -> Result<()> {
        let until = Instant::now() + duration;
        for connection in &mut self.connections {
            connection.send(Instant::now())?;
        }
        let mut under_way = self.connections.len();
        while under_way > 0 {
            // SAFETY: the events are writable for as many as we say.
            let ready = check(unsafe {
                libc::epoll_wait(
                    self.poller,
                    self.events.as_mut_ptr(),
                    self.events.len() as i32,
                    STALLED.as_millis() as i32,
                )
            })?;
            if ready == 0 {
                return Err(Error::other(format!("the server owes {under_way} answers")));
            }
            for event in &self.events[..ready as usize] {
                let connection = &mut self.connections[event.u64 as usize];
                if !connection.receive()? {
                    continue;
                }
                let now = Instant::now();
                latencies.saturating_record((now - connection.sent_at).as_nanos() as u64);
                if now < until {
                    connection.send(now)?;
                } else {
                    under_way -= 1;
                }
            }
        }
        Ok(())
    }
}

impl Connection {
    fn send(&mut self, now: Instant) -> Result<()> {
        let count = u64::from_ne_bytes(self.message[..8].try_into().unwrap_or_default());
        self.message[..8].copy_from_slice(&(count + 1).to_ne_bytes());
        self.answered = 0;
        self.sent_at = now;
        let fd = self.stream.as_raw_fd();
        // SAFETY: the message is readable for its length.
        let sent = unsafe {
            libc::send(fd, self.message.as_ptr().cast(), MESSAGE_LEN, libc::MSG_NOSIGNAL)
        };
        match sent {
            n if n == MESSAGE_LEN as isize => Ok(()),
            n if n < 0 => Err(Error::last_os_error()),
            // The socket's buffer is empty when we send: it holds more than one message.
            _ => Err(Error::other("a short send")),
        }
    }

    /// Takes what is there. True when the answer is complete, and right.
    fn receive(&mut self) -> Result<bool> {
        let free = &mut self.answer[self.answered..];
        // SAFETY: `free` is writable for its length.
        let received =
            unsafe { libc::recv(self.stream.as_raw_fd(), free.as_mut_ptr().cast(), free.len(), 0) };
        if received < 0 {
            let error = Error::last_os_error();
            let is_empty = error.kind() == std::io::ErrorKind::WouldBlock;
            return if is_empty { Ok(false) } else { Err(error) };
        }
        if received == 0 {
            return Err(Error::other("the server closed a connection"));
        }
        self.answered += received as usize;
        if self.answered < MESSAGE_LEN {
            return Ok(false);
        }
        if self.answered > MESSAGE_LEN || self.answer[..MESSAGE_LEN] != self.message {
            return Err(Error::other("the server answered something else"));
        }
        Ok(true)
    }
}

/// Closes with a reset, which leaves no TIME_WAIT: thousands of connections a minute would use up
/// the ephemeral ports.
fn reset_on_close(stream: &TcpStream) -> Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: `linger` is readable and as long as we say.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of_val(&linger) as u32,
        )
    };
    check(result).map(drop)
}
