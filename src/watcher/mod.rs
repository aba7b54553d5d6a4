//! The unprivileged process: packets in, events out.
#![forbid(unsafe_code)]

mod report;
mod run;

pub use run::run;
