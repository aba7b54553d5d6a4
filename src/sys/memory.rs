//! Memory that the allocator keeps although it is no longer in use, and memory that nobody may see.

use nix::libc;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

/// Gives freed memory back to the kernel. glibc's allocator returns only what lies at the end of
/// its heap: a configuration that was read and dropped would stay there for good. Takes
/// milliseconds, so it belongs behind work that is done seldom.
///
/// Other allocators return it by themselves, or never.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and leaves alone what is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Keeps all memory of this process, also what it will yet have, from being swapped out: secrets are
/// in it. What is not used takes no room. False: that is not allowed.
///
/// [`give_back`] has no effect from then on.
pub(crate) fn lock() -> bool {
    let unlimited = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_ok();
    // Under a limit an allocation to come could fail.
    let future = if unlimited { libc::MCL_FUTURE } else { 0 };
    // SAFETY: flags alone; no memory changes.
    unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_ONFAULT | future) == 0 }
}
