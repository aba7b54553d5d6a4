//! What opens and closes: today commands, run for a grant.
#![forbid(unsafe_code)]

pub mod command;
mod connections;
pub mod guard;
pub mod netlink;
pub mod nft_set;
pub mod ruleset;

use std::time::Duration;

use crate::config::{Name, Rendered};

/// Names one job; given back with its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// Commands to run one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub id: JobId,
    /// Whose commands they are: jobs of one door start in the order in which they came.
    pub door: Name,
    pub commands: Vec<Rendered>,
    /// How long each may run before it is killed; `None`: without end.
    pub limit: Option<Duration>,
    pub on_failure: OnFailure,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// What opens: a door that opened by half is no open door.
    Stop,
    /// What closes: whatever can be closed is.
    GoOn,
}

/// What came of a job.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    pub id: JobId,
    /// How many commands succeeded before the first that did not.
    pub done: usize,
    pub failure: Option<Failure>,
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("command returned non-zero status code ({0})")]
    Status(i32),
    #[error("command was killed by signal {0}")]
    Signal(i32),
    /// With the limit that was in force.
    #[error("command did not end within {} s and was killed", .0.as_secs())]
    TimedOut(Duration),
    #[error("cannot run {program}: {reason}")]
    NotStarted { program: String, reason: String },
}

impl Failure {
    /// Whether the command may have done its work all the same.
    #[must_use]
    pub const fn is_doubtful(&self) -> bool {
        matches!(self, Self::Signal(_) | Self::TimedOut(_))
    }
}
