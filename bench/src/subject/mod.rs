//! What is measured: each subject says which cases it can take part in, and how.
//!
//! A subject's code is what its user would write, at its best; nothing here is shared between them
//! but the meters, the buffer length and TCP_NODELAY.

#[cfg(feature = "peers")]
mod corosensei;
mod external;
#[cfg(feature = "fibra-subject")]
mod fibra;
#[cfg(feature = "peers")]
mod may;
#[cfg(feature = "peers")]
mod monoio;
mod thread;
#[cfg(feature = "peers")]
mod tokio;

use std::io;
use std::path::{Path, PathBuf};

use crate::meter::{Parking, Spawns};

/// Receive buffer of every echo server.
const BUF_LEN: usize = 2048;
/// Backlog of every listener whose library lets us choose.
#[cfg(feature = "peers")]
const BACKLOG: u32 = 4096;
/// Stack of a parked fiber or coroutine, for those that take a size.
#[cfg(feature = "peers")]
const STACK_LEN: usize = 256 * 1024;

/// Something to measure.
pub struct Subject {
    pub name: &'static str,
    /// Has so many units yield through its scheduler, each for its [`Turns`](crate::meter::laps).
    pub switch: Option<fn(usize)>,
    /// Spawns, runs and joins in batches on its worker.
    pub spawn: Option<fn(Spawns) -> Spawns>,
    /// Has a worker for each core, so it is not confined to one.
    pub has_two_workers: bool,
    /// Parks units, and ends the process.
    pub park: Option<fn(Parking)>,
    /// How many units it is asked to park at most.
    pub park_max: usize,
    pub server: Option<Server>,
}

/// An echo server.
#[derive(Clone, Copy)]
pub struct Server {
    /// Which C server it is compared with.
    pub yardstick: &'static str,
    pub how: How,
}

/// Where the code of a server is.
#[derive(Clone, Copy)]
pub enum How {
    /// In this binary; serves until killed, after [`announce`].
    Inside(fn() -> io::Result<()>),
    /// Compiled into the folder when needed; an error is the word with which it is skipped.
    Built(fn(&Path) -> Result<PathBuf, String>),
}

pub const C_URING: &str = "c-uring";
pub const C_EPOLL: &str = "c-epoll";

impl Subject {
    const fn named(name: &'static str) -> Subject {
        Subject {
            name,
            switch: None,
            spawn: None,
            has_two_workers: false,
            park: None,
            park_max: 0,
            server: None,
        }
    }

    #[cfg(feature = "fibra-subject")]
    const fn served(
        name: &'static str,
        yardstick: &'static str,
        serve: fn() -> io::Result<()>,
    ) -> Subject {
        let server = Some(Server { yardstick, how: How::Inside(serve) });
        Subject { server, ..Subject::named(name) }
    }
}

/// All subjects of this build, Fibra first.
pub fn all() -> Vec<Subject> {
    let mut subjects = Vec::new();
    #[cfg(feature = "fibra-subject")]
    subjects.extend(fibra::subjects());
    subjects.extend(external::subjects());
    #[cfg(feature = "peers")]
    {
        subjects.push(corosensei::subject());
        subjects.extend(tokio::subjects());
        subjects.push(monoio::subject());
        subjects.push(may::subject());
    }
    subjects.push(thread::subject());
    subjects
}

pub fn find(name: &str) -> Option<Subject> {
    all().into_iter().find(|subject| subject.name == name)
}

/// Tells the harness where the server listens.
fn announce(port: u16) {
    use std::io::Write;
    println!("port {port}");
    let _ = io::stdout().flush();
}

/// A listener of std, for the libraries that take one, with a full backlog.
#[cfg(feature = "peers")]
fn std_listener() -> io::Result<std::net::TcpListener> {
    use std::os::fd::AsRawFd;
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    // SAFETY: `listen` again on a socket that listens only changes its backlog.
    if unsafe { libc::listen(listener.as_raw_fd(), BACKLOG as i32) } < 0 {
        return Err(io::Error::last_os_error());
    }
    announce(listener.local_addr()?.port());
    Ok(listener)
}
