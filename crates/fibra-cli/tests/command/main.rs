//! The `fibra` command as processes of its own, with real clients.
//!
//! One program for all of it, so that it is linked once. `FIBRA_TEST_FULL=1` echoes 200 MB on every
//! combination of backend, topology and model; without it that is done where it is quick, and the
//! others get 20 MB.

mod bad_input;
mod doctor;
mod echo;
mod load;
mod sandbox;
mod server;
mod signals;
mod trace;
