//! What a watcher takes from itself before it looks at the first packet.

use crate::config::SandboxMode;
use crate::sys::memory;
use crate::sys::privileges::{Identity, PrivilegeError};
use crate::sys::sandbox::{self, SandboxReport};
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
    let memory = memory::lock();
    identity.assume()?;
    Ok(sandbox::close(Phase::Working, mode, memory))
}

#[cfg(test)]
mod tests;
