//! The unprivileged process: packets in, events out.

mod report;
mod run;
mod sandbox;

pub use run::run;
