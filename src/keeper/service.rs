//! The surroundings of the keeper: its configuration, its log, and the service manager, where there
//! is one.

use sd_notify::NotifyState;
use tracing::warn;

use super::cli::KnockdCli;
use super::state::Keeper;
use crate::config::Loaded;
use crate::config::load::{self, Report};
use crate::time::Monotonic;

/// Tells the service manager.
pub(super) fn tell_systemd(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!("cannot tell the service manager: {error}");
    }
}

/// That a reload begins, in the service manager's words.
pub(super) fn reloading() -> Vec<NotifyState<'static>> {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now().ok());
    states
}

/// What one line of a status has room for.
pub(super) fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Loads the configuration; what is given on the command line wins.
///
/// # Errors
/// What is wrong with it.
pub(super) fn load_configuration(cli: &KnockdCli) -> Result<Loaded, Report> {
    let mut loaded = load::load(&cli.config, &cli.options())?;
    cli.apply(&mut loaded.config.settings);
    Ok(loaded)
}

/// Line by line: a log line is one line, and a warning shows the place that it speaks of.
pub(super) fn log_warnings(loaded: &Loaded) {
    for warning in &loaded.warnings {
        for line in warning.to_string().lines() {
            warn!("{line}");
        }
    }
}

impl Keeper {
    /// Tells the service manager that the loop turns, where it is time to. Whether it was.
    pub(super) fn ping_watchdog(&mut self, now: Monotonic) -> bool {
        let due = self.watchdog.as_mut().filter(|(_, next)| *next <= now);
        let told = due.map(|(every, next)| *next = now + *every).is_some();
        if told {
            tell_systemd(&[NotifyState::Watchdog]);
        }
        told
    }

    /// Tells the service manager that a start or a reload has ended, and how.
    pub(super) fn is_ready(&self) {
        tell_systemd(&[NotifyState::Ready, NotifyState::Status(&self.status_line())]);
    }

    /// What is listened on, in words.
    pub(super) fn listening(&self) -> String {
        let (interfaces, _) = self.watchers.listening();
        let interfaces = interfaces.join(", ");
        format!("listening on {}", if interfaces.is_empty() { "nothing yet" } else { &interfaces })
    }

    /// How knockd is, for `systemctl status`.
    pub(super) fn status_line(&self) -> String {
        let doors = self.watchers.config.doors.len();
        let line = format!("{}; doors: {doors}", self.listening());
        match &self.not_taken_up {
            Some(why) => format!("{line}; the configuration before stays: {why}"),
            None if self.trials.is_on() => format!("{line}; on trial"),
            None => line,
        }
    }
}
