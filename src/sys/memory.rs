//! Memory that the allocator keeps although it is no longer in use, and memory that nobody may see.

use std::fs;

use nix::libc;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use super::sandbox::MemoryState;

/// `MADV_DONTNEED_LOCKED` of asm-generic/mman-common.h, Linux 5.18 and later: also where memory is
/// kept from being swapped out.
const DONTNEED_LOCKED: libc::c_int = 24;

/// Gives memory back to the kernel: what was freed, and code that has run. Takes milliseconds, so it
/// belongs behind work that is done seldom.
///
/// glibc's allocator returns only what lies at the end of its heap: a configuration that was read
/// and dropped would stay there for good. Other allocators return it by themselves, or never.
pub(crate) fn give_back() {
    Code::of_this_process().give_back();
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and leaves alone what is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The code of the program and its libraries: where it is mapped. Most of it runs once, at the start.
pub(crate) struct Code(Vec<(usize, usize)>);

impl Code {
    /// As it is now. It is to be given back before a library is unloaded.
    pub(crate) fn of_this_process() -> Self {
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let range = |line: &str| {
            // The kernel's own code has no file.
            let (range, _) = line.split_once(" r-xp ").filter(|(_, rest)| rest.contains('/'))?;
            let (start, end) = range.split_once('-')?;
            let address = |text| usize::from_str_radix(text, 16).ok();
            Some((address(start)?, address(end)?.saturating_sub(address(start)?)))
        };
        Self(maps.lines().filter_map(range).collect())
    }

    /// Gives it back. What runs again comes from the cache of its file, a few pages at a time.
    pub(crate) fn give_back(&self) {
        for &(start, length) in &self.0 {
            let start = std::ptr::with_exposed_provenance_mut(start);
            // SAFETY: nothing is written to code, so its file has all that is let go of; and no
            // library is unloaded, so nothing else is mapped there.
            unsafe { libc::madvise(start, length, DONTNEED_LOCKED) };
        }
    }
}

/// Keeps all memory of this process, also what it will yet have, from being swapped out: secrets are
/// in it. What is not used takes no room.
///
/// [`give_back`] has no effect from then on.
pub(crate) fn lock() -> MemoryState {
    let unlimited = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_ok();
    // Under a limit an allocation to come could fail.
    let future = if unlimited { libc::MCL_FUTURE } else { 0 };
    // SAFETY: flags alone; no memory changes.
    let locked = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_ONFAULT | future) } == 0;
    if locked { MemoryState::Locked } else { MemoryState::Swappable }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_was_given_back_runs_again() {
        let code = Code::of_this_process();
        // The program and libc at least; each of whole pages.
        assert!(code.0.len() > 1, "{:?}", code.0);
        assert!(code.0.iter().all(|(start, length)| start % 4096 == 0 && *length >= 4096));
        code.give_back();
        assert_eq!(format!("{:?}", [1, 2]), "[1, 2]");
    }
}
