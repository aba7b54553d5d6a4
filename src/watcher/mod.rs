//! The unprivileged process: packets in, events out.
#![forbid(unsafe_code)]

mod addresses;
mod report;
mod run;

pub use run::run;
