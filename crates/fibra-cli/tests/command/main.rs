//! The `fibra` command as processes of its own, with real clients.
//!
//! One program for all of it, so that it is linked once.

mod bad_input;
mod doctor;
mod echo;
mod load;
mod sandbox;
mod server;
mod signals;
mod trace;
