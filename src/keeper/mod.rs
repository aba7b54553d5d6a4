//! The privileged process: configuration, grants, commands, and the watcher that it supervises.
//!
//! It never sees a packet.
#![forbid(unsafe_code)]

pub mod cli;
mod daemon;
mod doors;
mod names;
mod run;
mod watcher;
mod watchers;

pub use doors::Doors;
pub use run::run;
