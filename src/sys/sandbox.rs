//! How much of the watcher's sandbox holds.

use serde::{Deserialize, Serialize};

use super::landlock::LandlockReport;
use crate::proto::words::words;

/// The parts of the watcher's sandbox besides its identity, and how much of each holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxReport {
    /// `None`: it was not asked for, or refused.
    pub landlock: Option<LandlockReport>,
    pub seccomp: SeccompState,
    pub memory: MemoryState,
}

words! {
Display:
/// The state of the filter of system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompState {
    Enforced = "enforced",
    /// A breach is logged, and nothing else.
    Logging = "logging only",
    /// There is no list for this processor.
    NoList = "none: no list for this processor",
    /// The kernel, or whoever runs this container, allows none.
    Refused = "none: not allowed here",
    Off = "off",
}
}

words! {
Display:
/// The state of the watcher's memory, which holds secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemoryState {
    /// It is never swapped out.
    Locked = "locked",
    Swappable = "may be swapped out",
}
}

impl SandboxReport {
    /// Whether all of it holds.
    pub(crate) fn is_whole(&self) -> bool {
        self.landlock.is_some_and(|landlock| landlock.missing().is_empty())
            && self.seccomp == SeccompState::Enforced
            && self.memory == MemoryState::Locked
    }
}
