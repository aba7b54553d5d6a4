//! The service manager, where there is one: told how knockd is, and that it lives.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::warn;

use super::run::Keeper;
use crate::time::Monotonic;

/// Tells the service manager.
pub(super) fn tell_systemd(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!("cannot tell the service manager: {error}");
    }
}

pub(super) fn reloading() -> Vec<NotifyState<'static>> {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now().ok());
    states
}

/// What one line of a status has room for.
pub(super) fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Says twice in each interval of the service manager's that the keeper's loop still turns: who
/// does not is killed and started anew.
pub(super) struct Watchdog {
    /// `None`: nobody waits for it.
    every: Option<Duration>,
    next: Monotonic,
}

impl Watchdog {
    pub(super) fn new(now: Monotonic) -> Self {
        Self { every: sd_notify::watchdog_enabled().map(|limit| limit / 2), next: now }
    }

    /// Whether it has to be said now; then the next time is later.
    pub(super) fn is_due(&mut self, now: Monotonic) -> bool {
        let due = self.every.filter(|_| self.next <= now);
        due.inspect(|every| self.next = now + *every).is_some()
    }

    /// When it has to be said next.
    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        self.every.map(|_| self.next)
    }
}

impl Keeper {
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
        let doors = self.watchers.config().doors.len();
        let line = format!("{}; doors: {doors}", self.listening());
        match &self.not_taken_up {
            Some(why) => format!("{line}; the configuration before stays: {why}"),
            None if self.trial.is_some() => format!("{line}; on trial"),
            None => line,
        }
    }
}
