//! The sandbox of watcher and courier, and how much of it holds.

use serde::{Deserialize, Serialize};

use super::landlock::{self, LandlockReport, LandlockRules};
use super::seccomp::{self, Phase};
use crate::config::SandboxMode;
use crate::proto::words::words;

/// The parts of a sandbox besides its identity, and how much of each holds.
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
/// The state of a process's memory, which holds secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemoryState {
    /// It is never swapped out.
    Locked = "locked",
    Swappable = "may be swapped out",
}
}

/// Gives up all files and networks, and all system calls but those of a phase. Where the kernel or a
/// container allows only a part of that, goes on with that part, and says why on standard error.
pub(crate) fn close(phase: Phase, mode: SandboxMode, memory: MemoryState) -> SandboxReport {
    let nothing = LandlockRules { no_network: true, scoped: true, ..LandlockRules::default() };
    let landlock = (mode != SandboxMode::Off).then(|| landlock::restrict(&nothing));
    let landlock = landlock.and_then(|report| report.map_err(say).ok());
    let seccomp = seccomp::restrict(phase, mode).unwrap_or_else(|error| {
        say(error);
        SeccompState::Refused
    });
    SandboxReport { landlock, seccomp, memory }
}

fn say(why: impl std::error::Error) {
    eprintln!("{why}");
}

impl SandboxReport {
    /// Whether all of it holds.
    pub(crate) fn is_whole(&self) -> bool {
        self.landlock.is_some_and(|landlock| landlock.missing().is_empty())
            && self.seccomp == SeccompState::Enforced
            && self.memory == MemoryState::Locked
    }
}
