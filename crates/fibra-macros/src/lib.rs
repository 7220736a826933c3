//! The attributes of fibra: `#[fibra::main]` and `#[fibra::test]`.
//!
//! Use them through the `fibra` crate; what they write calls `::fibra::__private`.
//!
//! Promise: nothing is decided here. An attribute checks that the function has a shape that can
//! work, turns its arguments into options, and hands both over; starting, running and reporting
//! are ordinary code in `fibra`.
//!
//! ```text
//!   #[fibra::main(workers = 2)]            fn main() -> ExitCode {
//!   fn main() -> io::Result<()> {    =>        fn main() -> io::Result<()> { body }
//!       body                                   __private::main(Options { workers: 2 }, main)
//!   }                                      }
//! ```
#![forbid(unsafe_code)]

mod attribute;
mod expand;
mod options;

use proc_macro::TokenStream;

use crate::attribute::Attribute;

/// Runs `fn main` as the main fiber of a runtime.
///
/// The function may return whatever a `main` may return (anything that is
/// [`Termination`](std::process::Termination)); it is reported inside the fiber, so
/// `Result<(), Box<dyn Error>>` works though it is not `Send`. If the runtime cannot start (a bad
/// environment variable, a named backend that cannot run here), one line on stderr says why and
/// the exit code is 1.
///
/// # Options
///
/// - `workers = 2`: how many worker threads; any expression of type `usize`.
/// - `driver = "epoll"`: which backend; `auto`, `uring`, `epoll`, `poll` or `select`.
/// - `io = "dedicated"`: who owns the driver; `per-worker` or `dedicated`.
/// - `stack_size = 64 * 1024`: bytes of stack for spawned fibers; any expression of type `usize`.
///
/// What is not given here comes from the environment (`FIBRA_WORKERS`, `FIBRA_DRIVER`, `FIBRA_IO`,
/// `FIBRA_STACK_SIZE`), then from the defaults.
#[proc_macro_attribute]
pub fn main(options: TokenStream, item: TokenStream) -> TokenStream {
    expand::expand(Attribute::Main, options.into(), item.into()).into()
}

/// Makes a function a test that runs on a runtime of its own, on the real driver.
///
/// Takes the options of [`macro@main`] and goes with `#[should_panic]`, `#[ignore]` and functions
/// that return a `Result`.
#[proc_macro_attribute]
pub fn test(options: TokenStream, item: TokenStream) -> TokenStream {
    expand::expand(Attribute::Test, options.into(), item.into()).into()
}
