//! Memory that the allocator keeps although it is no longer in use.

/// Gives freed memory back to the kernel. glibc's allocator returns only what lies at the end of
/// its heap: a configuration that was read and dropped would stay there for good. Takes
/// milliseconds, so it belongs behind work that is done seldom.
///
/// Other allocators return it by themselves, or never.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and leaves alone what is in use.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
