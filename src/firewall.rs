//! What opens and closes: the guard's table, sets of nftables, and commands, which run as jobs.

pub mod command;
mod connections;
pub mod guard;
pub mod netlink;
pub mod nft_set;
pub mod ruleset;
mod task;

use std::time::Duration;

pub use self::task::{Outcome, Task};
use crate::config::Name;

/// Names one job; given back with its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// Tasks to do one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub id: JobId,
    /// Whose commands they are: jobs of one door start in the order in which they came, those that
    /// close before all others.
    pub door: Name,
    pub kind: JobKind,
    /// How long each command may run before it is killed; `None`: without end.
    pub limit: Option<Duration>,
    pub tasks: Vec<Task>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// Stops at the first failure: a door that opened by half is not an open door.
    Open,
    /// Goes on after a failure: whatever can be closed is.
    Close,
    /// Only looks what is there.
    Look,
}

/// What came of a job.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    pub id: JobId,
    /// Of each task in turn; those after one at which the job stopped have none.
    pub outcomes: Vec<Outcome>,
}

impl Finished {
    /// The first failure.
    pub fn failure(&self) -> Option<&Failure> {
        self.outcomes.iter().find_map(|outcome| match outcome {
            Outcome::Failed(why) => Some(why),
            Outcome::Done | Outcome::Untouched => None,
        })
    }
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
    #[error("what it opens is not there after its open command")]
    NotThere,
}
