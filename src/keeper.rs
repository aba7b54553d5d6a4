//! The privileged process: configuration, grants, commands, and the watcher that it supervises.
//!
//! It never sees a packet.

mod alerts;
mod ask;
mod books;
pub mod cli;
mod control;
mod credible;
mod daemon;
mod doors;
mod guard_copy;
mod interfaces;
mod lock_only;
mod locks;
mod mark;
mod names;
mod one_time;
mod recent_events;
mod reload;
mod requests;
mod reset;
mod run;
pub(crate) mod server_key;
mod service;
pub(crate) mod sets;
mod watcher;
mod watchers;

pub use lock_only::lock_only;
pub use run::run;
