//! The commands, one module each.

pub mod doctor;
pub mod echo;
