//! Capabilities of this process (capabilities(7)): what it holds, and giving up the rest for good.

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};

/// What this process may use, and what it may hand on to programs that it starts.
///
/// # Errors
/// Where the kernel does not tell.
pub(crate) fn held() -> Result<CapsHashSet, CapsError> {
    caps::read(None, CapSet::Permitted)
}

/// Gives up all but these: neither this process nor a program that it starts gets them back, or
/// other privileges. Which of these it does not hold it does not get either.
///
/// # Errors
/// What the kernel refuses.
pub(crate) fn keep_only(wanted: &CapsHashSet) -> Result<(), CapsError> {
    let refused = |errno| format!("cannot set no-new-privileges: {errno}");
    nix::sys::prctl::set_no_new_privs().map_err(refused)?;
    // Without this one, what programs of root's may gain stays; no-new-privileges keeps them from it.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for unwanted in caps::runtime::thread_all_supported().difference(wanted) {
            caps::drop(None, CapSet::Bounding, *unwanted)?;
        }
    }
    // Nothing is effective that is not permitted, so that goes first.
    for set in [CapSet::Effective, CapSet::Inheritable, CapSet::Permitted] {
        caps::set(None, set, &caps::read(None, set)?.intersection(wanted).copied().collect())?;
    }
    Ok(())
}
