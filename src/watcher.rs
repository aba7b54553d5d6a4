//! The unprivileged process: packets in, events out.

mod report;
mod run;

pub use run::run;
