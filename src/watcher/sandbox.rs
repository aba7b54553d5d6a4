//! What a watcher takes from itself before it looks at the first packet.

use crate::config::SandboxMode;
use crate::sys::landlock::{self, LandlockRules};
use crate::sys::memory;
use crate::sys::privileges::{Identity, PrivilegeError};
use crate::sys::sandbox::{MemoryState, SandboxReport, SeccompState};
use crate::sys::seccomp::{self, Phase};

/// Gives up what no opening of a capture takes.
pub(super) fn begin(mode: SandboxMode) {
    // Where that is not allowed, the rest is not either, and is told then.
    let _ = seccomp::restrict(Phase::Opening, mode);
}

/// Gives up root, then all but the watcher's work. Where the kernel or a container allows only a part
/// of that, it goes on with that part, and says why on standard error.
///
/// # Errors
/// When root cannot be given up.
pub(super) fn enter(
    identity: &Identity,
    mode: SandboxMode,
) -> Result<SandboxReport, PrivilegeError> {
    // While that is allowed.
    let memory = if memory::lock() { MemoryState::Locked } else { MemoryState::Swappable };
    identity.assume()?;
    let nothing = LandlockRules { no_network: true, scoped: true, ..LandlockRules::default() };
    let landlock = (mode != SandboxMode::Off).then(|| landlock::restrict(&nothing));
    let landlock = landlock.and_then(|report| report.map_err(say).ok());
    let seccomp = seccomp::restrict(Phase::Working, mode).unwrap_or_else(|error| {
        say(error);
        SeccompState::Refused
    });
    Ok(SandboxReport { landlock, seccomp, memory })
}

fn say(why: impl std::error::Error) {
    eprintln!("{why}");
}

#[cfg(test)]
mod tests;
