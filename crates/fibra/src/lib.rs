//! One I/O driver, four ways to wait: a concurrency and I/O runtime.
//!
//! Straight-line code on fibers with std's API, over io_uring where the kernel allows it and an
//! equally tuned epoll path where it does not. An echo server:
//!
//! ```no_run
//! use fibra::net::TcpListener;
//! use std::io::{Read, Write};
//!
//! #[fibra::main]
//! fn main() -> std::io::Result<()> {
//!     let listener = TcpListener::bind("127.0.0.1:8081")?;
//!     for stream in listener.incoming() {
//!         let mut stream = stream?;
//!         fibra::spawn(move || {
//!             let mut buf = [0; 1024];
//!             while let Ok(n @ 1..) = stream.read(&mut buf) {
//!                 if stream.write_all(&buf[..n]).is_err() { break }
//!             }
//!         });
//!     }
//!     Ok(())
//! }
//! ```
//!
//! What safe code may and may not do on fibers is in `docs/soundness.md`.
#![forbid(unsafe_code)]

#[doc(hidden)]
pub mod __private;

pub use fibra_driver as driver;
pub use fibra_macros::{main, test};
pub use fibra_runtime::{
    Builder, Cancelled, Current, Handle, IoMode, JoinHandle, Metrics, Scope, ScopedJoinHandle,
    blocking, current, deadline, exit, fiber, is_cancelled, net, no_suspend, run, scope, shield,
    signal, sleep, spawn, spawn_inherit, time, try_sleep, yield_now,
};

/// What most programs want in scope.
pub mod prelude {
    pub use crate::net::{TcpListener, TcpStream};
    pub use crate::{JoinHandle, scope, sleep, spawn, yield_now};
    pub use std::io::{Read, Write};
}
