//! Faults for tests, which cannot cause them from outside: dying at a named step, a calendar that
//! is set, a watcher that lies. A release build has none of them.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

/// The variable that names the step.
const DIE_AT: &str = "KNOCKD_DIE_AT";

/// The variable that names a file with the seconds by which the calendar seems to be set.
const CALENDAR: &str = "KNOCKD_CALENDAR";

/// The variable that names what the kernel is to lack.
const LACKS: &str = "KNOCKD_LACKS";

/// The variable that names a program which runs as the watcher.
pub const WATCHER: &str = "KNOCKD_WATCHER";

/// The variable that names a program which runs as the courier.
pub const COURIER: &str = "KNOCKD_COURIER";

/// Kills this process if a test asks for it at this step.
#[cfg(feature = "daemon")]
pub fn point(step: &str) {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::getpid;

    if wanted(DIE_AT).is_some_and(|wanted| wanted == step) {
        // SIGKILL to oneself does not return.
        let _ = kill(getpid(), Signal::SIGKILL);
    }
}

/// By how many seconds a test has set the calendar of this process, forwards or back.
pub fn calendar_set_by() -> i64 {
    let seconds = wanted(CALENDAR).and_then(|path| fs::read_to_string(path).ok());
    seconds.and_then(|seconds| seconds.trim().parse().ok()).unwrap_or(0)
}

/// The program that runs as the watcher: this program itself, also after its file has been
/// replaced, unless a test names another.
pub fn watcher() -> OsString {
    wanted(WATCHER).unwrap_or_else(|| "/proc/self/exe".into())
}

/// The program that a test names to run as the courier.
pub fn courier() -> Option<PathBuf> {
    wanted(COURIER).map(PathBuf::from)
}

/// Whether a test asks for any fault: it has files of its own then.
pub fn is_on() -> bool {
    [DIE_AT, CALENDAR, WATCHER].iter().any(|variable| wanted(variable).is_some())
}

/// Whether a test asks for a kernel that lacks this.
pub fn lacks(what: &str) -> bool {
    wanted(LACKS).is_some_and(|lacking| lacking == what)
}

/// What a test asks for by a variable; `None` in a release build.
fn wanted(variable: &str) -> Option<OsString> {
    if cfg!(debug_assertions) { env::var_os(variable) } else { None }
}
