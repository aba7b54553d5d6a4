//! What a test cannot do from outside: dying at a named step, a calendar that is set, a watcher that
//! lies.

/// The variable that names the step.
pub const VARIABLE: &str = "KNOCKD_DIE_AT";

/// Kills this process if a test asks for it at this step. Does nothing in a release build.
pub fn point(step: &str) {
    #[cfg(debug_assertions)]
    if std::env::var(VARIABLE).is_ok_and(|wanted| wanted == step) {
        // SIGKILL to oneself does not return.
        let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
    }
    #[cfg(not(debug_assertions))]
    let _ = step;
}

/// The variable that names a file with the seconds by which the calendar seems to be set.
pub const CALENDAR: &str = "KNOCKD_CALENDAR";

/// By how many seconds a test has set the calendar of this process, forwards or back. Always 0 in
/// a release build.
pub fn calendar_set_by() -> i64 {
    #[cfg(debug_assertions)]
    if let Ok(path) = std::env::var(CALENDAR) {
        let seconds = std::fs::read_to_string(path).ok();
        return seconds.and_then(|seconds| seconds.trim().parse().ok()).unwrap_or(0);
    }
    0
}

/// The variable that names a program which runs as the watcher.
pub const WATCHER: &str = "KNOCKD_WATCHER";

/// What runs as the watcher: this program itself, also after its file has been replaced, unless a
/// test names another. Always itself in a release build.
pub fn watcher() -> std::ffi::OsString {
    #[cfg(debug_assertions)]
    if let Some(program) = std::env::var_os(WATCHER) {
        return program;
    }
    "/proc/self/exe".into()
}
