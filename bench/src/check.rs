//! Is it an echo server at all? Asked once of each, before it is timed.

use std::io::{Error, Read, Result, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use crate::stats::Random;

/// Around the servers' buffer length, and far above it.
const SIZES: [usize; 7] = [1, 63, 64, 2047, 2048, 2049, 400_000];
/// More than the sockets' buffers in both directions: the server's sends fall short.
const FLOOD: usize = 16_000_000;
const TRICKLE: usize = 6_000_000;
/// How long a late reader waits.
const LATE: Duration = Duration::from_millis(100);

/// Echoes byte for byte in many sizes, also to a reader that is late, answers a half-close with the rest and the end, serves many
/// at once, and outlives a client that sends, never reads and resets.
pub fn echoes(port: u16) -> Result<()> {
    for size in SIZES {
        echo_to_the_end(port, size)?;
    }
    echo(connect(port)?, FLOOD, FLOOD, LATE)?;
    trickle(port)?;
    vanish(port)?;
    let clients: Vec<_> =
        (0..50).map(|i| thread::spawn(move || echo_to_the_end(port, 1000 + i))).collect();
    for client in clients {
        client.join().map_err(|_| Error::other("a client panicked"))??;
    }
    Ok(())
}

fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

fn random_bytes(len: usize) -> Vec<u8> {
    let mut random = Random::new(len as u64);
    (0..len).map(|_| random.next() as u8).collect()
}

fn echo_to_the_end(port: u16, len: usize) -> Result<()> {
    echo(connect(port)?, len, len, Duration::ZERO)
}

/// Many small messages to a reader that is late and has little room: the server's sends fall short
/// one at a time, and not only as the rest of a large one.
fn trickle(port: u16) -> Result<()> {
    let stream = connect(port)?;
    stream.set_nodelay(true)?;
    let room: i32 = 128 * 1024;
    // SAFETY: `room` is readable and as long as we say.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUF,
            (&raw const room).cast(),
            size_of_val(&room) as u32,
        )
    };
    if result < 0 {
        return Err(Error::last_os_error());
    }
    echo(stream, TRICKLE, 1000, 8 * LATE)
}

/// Sends so many bytes in pieces, and compares them with what comes back.
fn echo(mut stream: TcpStream, len: usize, piece_len: usize, late: Duration) -> Result<()> {
    let sent = random_bytes(len);
    let writer = {
        let (mut stream, sent) = (stream.try_clone()?, sent.clone());
        thread::spawn(move || {
            for piece in sent.chunks(piece_len) {
                stream.write_all(piece)?;
                if piece_len < len {
                    // Time enough for the server to take each piece alone.
                    thread::sleep(Duration::from_micros(20));
                }
            }
            stream.shutdown(Shutdown::Write)
        })
    };
    thread::sleep(late);
    let mut received = Vec::with_capacity(len);
    stream.read_to_end(&mut received)?;
    writer.join().map_err(|_| Error::other("the writer panicked"))??;
    if received != sent {
        let same = received.iter().zip(&sent).take_while(|(a, b)| a == b).count();
        let got = received.len();
        return Err(Error::other(format!("of {len} bytes {got} came back, {same} of them right")));
    }
    Ok(())
}

/// Unread answers make the close a reset.
fn vanish(port: u16) -> Result<()> {
    let mut stream = connect(port)?;
    stream.write_all(&random_bytes(100_000))?;
    thread::sleep(Duration::from_millis(20));
    Ok(())
}
