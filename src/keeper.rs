//! The keeper, the privileged process: configuration, grants, commands, and supervision of
//! watchers.
//!
//! It never sees a packet.

mod alerts;
mod child;
mod claim;
pub mod cli;
mod control;
mod credible;
mod daemon;
mod doors;
mod fleet;
#[cfg(fuzzing)]
#[path = "../fuzz/src/keeper.rs"]
pub mod fuzzing;
mod guard_copy;
mod home;
mod intake;
mod interfaces;
mod journal;
pub(crate) mod kernel_sets;
mod lock_only;
mod lockouts;
mod metrics;
mod one_time;
mod one_time_files;
mod output_lines;
mod recent_events;
mod reload;
mod requests;
mod reset;
mod reverse_dns;
pub(crate) mod rights;
mod run;
pub(crate) mod server_key;
mod service;
mod start;
mod state;
pub(crate) mod trial_file;
mod trials;
mod watcher;
mod watchers;

pub use lock_only::lock_only;
pub use reverse_dns::look_up_names;
pub use run::run;
