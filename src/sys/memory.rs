//! Memory that the allocator keeps although it is no longer in use, and memory that nobody may see.

use std::fs;

use nix::libc;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

/// Gives memory back to the kernel: what was freed, and the code that the start has run. Takes
/// milliseconds, so it belongs behind work that is done seldom.
///
/// glibc's allocator returns only what lies at the end of its heap: a configuration that was read
/// and dropped would stay there for good. Other allocators return it by themselves, or never.
pub(crate) fn give_back() {
    give_back_code();
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and leaves alone what is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets go of the code of the program and its libraries. What runs again comes back from the cache of
/// the files, a few pages at a time.
fn give_back_code() {
    for line in fs::read_to_string("/proc/self/maps").unwrap_or_default().lines() {
        let mut fields = line.split(' ');
        let (Some(range), Some("r-xp")) = (fields.next(), fields.next()) else { continue };
        let address = |text| usize::from_str_radix(text, 16).ok();
        if let Some((start, end)) = range.split_once('-')
            && let (Some(start), Some(end)) = (address(start), address(end))
            && line.contains('/')
        {
            let start = std::ptr::with_exposed_provenance_mut(start);
            // SAFETY: nothing is written to code, so that the file has all that is let go. Where it
            // was mapped a moment ago it still is: no library is unloaded.
            unsafe { libc::madvise(start, end.saturating_sub(start.addr()), libc::MADV_DONTNEED) };
        }
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
