//! Reloads and trials of a configuration, as a value: who waits for what, and until when.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use super::control::ConnectionId;
use super::trial_file::TrialFile;
use crate::config::{Config, Name};
use crate::time::Monotonic;

/// How soon the configuration before a trial is taken up once more, where that has failed. Longer
/// than a watcher may take to start.
pub(super) const ONCE_MORE: Duration = Duration::from_secs(15);

/// A configuration that goes again unless it is confirmed.
pub(super) enum Trial {
    Running {
        until: Monotonic,
        /// What was in force before; `None`: nothing was, and knockd ends with the trial.
        previous: Option<Arc<Config>>,
        /// Who has asked, until the configuration is in force.
        asked_by: Option<ConnectionId>,
    },
    /// Nobody has confirmed it: what was in force before is being taken up.
    GoingBack { to: Arc<Config>, once_more: Monotonic },
}

/// The trial, if there is one, and who waits for a configuration to be in force.
pub(super) struct Trials {
    pub(super) trial: Option<Trial>,
    file: TrialFile,
    /// The door that the trial locks, though the files do not, while one is on. Set before it
    /// begins.
    pub(super) lock: Option<Name>,
    /// A reload has been asked for while there was no room for one.
    pub(super) reload_again: bool,
    /// Those who have asked for it.
    pub(super) waiting: Vec<ConnectionId>,
    /// What is being taken up, and those who have asked for that.
    pub(super) reloading: Option<(Arc<Config>, Vec<ConnectionId>)>,
}

impl Trials {
    /// `until`: a trial begins with knockd itself.
    pub(super) fn new(file: TrialFile, until: Option<Monotonic>) -> Self {
        let trial = until.map(|until| {
            file.set(until);
            Trial::Running { until, previous: None, asked_by: None }
        });
        Self { trial, file, lock: None, reload_again: false, waiting: Vec::new(), reloading: None }
    }

    /// Whether a configuration is on trial, or goes again.
    pub(super) const fn is_on(&self) -> bool {
        self.trial.is_some()
    }

    /// When the configuration goes that is on trial, if one is.
    pub(super) const fn until(&self) -> Option<Monotonic> {
        if let Some(Trial::Running { until, .. }) = self.trial { Some(until) } else { None }
    }

    /// When [`end`](Self::end) has to be called next.
    pub(super) const fn next_deadline(&self) -> Option<Monotonic> {
        match self.trial {
            Some(Trial::Running { until: at, .. } | Trial::GoingBack { once_more: at, .. }) => {
                Some(at)
            }
            None => None,
        }
    }

    /// Whether a reload that had to wait is due; from here on none is.
    pub(super) fn is_reload_due(&mut self, has_room: bool) -> bool {
        has_room && mem::take(&mut self.reload_again)
    }

    /// Who has asked for a reload with this configuration, which has come to its end, well or not.
    pub(super) fn reloaded(&mut self, config: &Arc<Config>) -> Vec<ConnectionId> {
        let is_it = |reloading: &mut (Arc<Config>, _)| Arc::ptr_eq(&reloading.0, config);
        self.reloading.take_if(is_it).map(|(_, asked_by)| asked_by).unwrap_or_default()
    }

    /// A trial begins, instead of the `previous` configuration: from here on also a knockd that is
    /// started anew knows of it, but for one that locks a door, which it would not do.
    pub(super) fn begin(&mut self, until: Monotonic, previous: Arc<Config>, id: ConnectionId) {
        if self.lock.is_none() {
            self.file.set(until);
        }
        let (previous, asked_by) = (Some(previous), Some(id));
        self.trial = Some(Trial::Running { until, previous, asked_by });
    }

    /// A configuration is in force. Who has asked for its trial, if somebody waits to be told.
    pub(super) fn in_force(&mut self) -> Option<ConnectionId> {
        match &mut self.trial {
            Some(Trial::Running { asked_by, .. }) => asked_by.take(),
            _ => None,
        }
    }

    /// Whether this configuration, which is in force, is the one from before the trial: that is
    /// over then.
    pub(super) fn is_back(&mut self, config: &Arc<Config>) -> bool {
        let is_back =
            matches!(&self.trial, Some(Trial::GoingBack { to, .. }) if Arc::ptr_eq(to, config));
        if is_back {
            self.clear();
        }
        is_back
    }

    /// Whether the configuration before a trial is being taken up.
    pub(super) const fn is_going_back(&self) -> bool {
        matches!(self.trial, Some(Trial::GoingBack { .. }))
    }

    /// The trial is over, or does not begin. Who waits to be told, if somebody does.
    pub(super) fn clear(&mut self) -> Option<ConnectionId> {
        self.file.clear();
        if let Some(Trial::Running { asked_by, .. }) = self.trial.take() { asked_by } else { None }
    }

    /// Whether the configuration on trial may be confirmed.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) fn may_confirm(&self, now: Monotonic) -> Result<(), String> {
        match self.trial {
            Some(Trial::Running { until, .. }) if now < until => Ok(()),
            Some(_) => Err("too late: the configuration before is being taken up".to_owned()),
            None => Err("nothing is on trial".to_owned()),
        }
    }

    /// The trial that ends now and that nobody has confirmed: then [`go_back`](Self::go_back).
    pub(super) fn end(&mut self, now: Monotonic) -> Option<Trial> {
        self.next_deadline().filter(|at| *at <= now)?;
        self.trial.take()
    }

    /// What was in force before a trial is taken up from here on.
    pub(super) fn go_back(&mut self, to: &Arc<Config>, now: Monotonic) {
        self.trial = Some(Trial::GoingBack { to: Arc::clone(to), once_more: now + ONCE_MORE });
    }
}
