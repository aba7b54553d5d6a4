//! The privileged process: configuration, grants, commands, and the watcher that it supervises.
//!
//! It never sees a packet.
#![forbid(unsafe_code)]

mod answers;
pub mod cli;
mod control;
mod daemon;
mod doors;
mod interfaces;
mod names;
mod run;
mod watcher;
mod watchers;

pub use doors::{Doors, Request};
pub use run::run;
