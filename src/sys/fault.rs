//! Dying at a named step, so that tests can see what a crash there leaves behind.

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
