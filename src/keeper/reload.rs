//! Another configuration: at SIGHUP for good, with `knockctl try` on trial.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::{error, info, warn};

use super::run::{Keeper, load_configuration, log_warnings, tell_systemd};
use crate::config::Config;
use crate::log;
use crate::proto::duration;
use crate::time::{Monotonic, Now};

/// A configuration that goes again unless it is confirmed.
pub(super) struct Trial {
    until: Monotonic,
    /// What was in force before; `None`: nothing was, and knockd ends with the trial.
    previous: Option<Arc<Config>>,
}

impl Trial {
    pub(super) const fn of_start(until: Monotonic) -> Self {
        Self { until, previous: None }
    }
}

impl Keeper {
    /// SIGHUP: takes up the configuration as it is now, or says why not and goes on as before.
    pub(super) fn reload(&mut self, now: Now) {
        if self.trial.is_some() {
            warn!("not reloading: a configuration is on trial; confirm it first, or wait");
            return;
        }
        if self.watchers.is_changing() {
            self.reload_again = true;
            return;
        }
        // Why not has been logged.
        let _ = self.take_up(now, None);
    }

    /// Takes up the configuration as it is now. `locked_for`: on trial, for so long.
    ///
    /// # Errors
    /// Why not, in words; everything then goes on as before.
    fn take_up(&mut self, now: Now, locked_for: Option<Duration>) -> Result<(), String> {
        info!("re-reading config file: {}", self.cli.config.display());
        tell_systemd(&super::run::reloading());
        let taken_up = self.try_to_take_up(now, locked_for);
        if let Err(why) = &taken_up {
            for line in why.lines() {
                error!("{line}");
            }
            error!("the old configuration stays");
            tell_systemd(&[NotifyState::Ready]);
        }
        taken_up
    }

    fn try_to_take_up(&mut self, now: Now, locked_for: Option<Duration>) -> Result<(), String> {
        let loaded = load_configuration(&self.cli).map_err(|report| {
            // A log file that has been rotated away is opened anew in any case.
            if let Err(error) = log::set_up(&self.watchers.config().settings.log, self.foreground) {
                error!("{error}");
            }
            report.to_string()
        })?;
        if let Err(error) = log::set_up(&loaded.config.settings.log, self.foreground) {
            error!("{error}");
        }
        log_warnings(&loaded);
        let config = Arc::new(loaded.config);
        self.put_in_place(now, config, locked_for)
    }

    /// The firewall first, so that nothing stands open that the new watcher could not open again.
    fn put_in_place(
        &mut self,
        now: Now,
        config: Arc<Config>,
        locked_for: Option<Duration>,
    ) -> Result<(), String> {
        self.doors.reconfigure(now, &config, locked_for).map_err(|why| why.to_string())?;
        self.watchers.start(now.monotonic, config).map_err(|why| {
            self.stay(now);
            format!("cannot start a watcher: {why}")
        })
    }

    /// The new configuration could not take effect: the firewall goes back to the old one.
    pub(super) fn stay(&mut self, now: Now) {
        self.trial = None;
        let config = Arc::clone(self.watchers.config());
        if let Err(why) = self.doors.reconfigure(now, &config, None) {
            error!("{why}");
        }
    }

    /// `knockctl try`.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) fn try_out(&mut self, now: Now, time: Duration) -> Result<(), String> {
        if self.trial.is_some() || self.watchers.is_changing() {
            return Err("a configuration is on trial or being taken up already".to_owned());
        }
        let previous = Some(Arc::clone(self.watchers.config()));
        self.take_up(now, Some(time))?;
        self.trial = Some(Trial { until: now.monotonic + time, previous });
        warn!(
            "this configuration is on trial: it goes in {} unless it is confirmed",
            duration::format(time)
        );
        Ok(())
    }

    /// `knockctl confirm`.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) fn confirm(&mut self, now: Now) -> Result<(), String> {
        if self.trial.is_none() {
            return Err("nothing is on trial".to_owned());
        }
        if self.watchers.is_changing() {
            return Err("the new configuration is not in force yet: try again".to_owned());
        }
        let config = Arc::clone(self.watchers.config());
        self.doors.reconfigure(now, &config, None).map_err(|why| why.to_string())?;
        self.trial = None;
        info!("the configuration on trial is confirmed");
        Ok(())
    }

    /// Ends a trial that nobody has confirmed. True: there is nothing to go back to, so knockd
    /// ends.
    pub(super) fn end_trial(&mut self, now: Now) -> bool {
        let Some(Trial { previous, .. }) = self.trial.take_if(|trial| trial.until <= now.monotonic)
        else {
            return false;
        };
        let Some(previous) = previous else {
            warn!(
                "nobody has confirmed the configuration on trial: the guard goes, and knockd too"
            );
            return true;
        };
        warn!("nobody has confirmed the configuration on trial: going back to the one before");
        if let Err(why) = self.put_in_place(now, previous, None) {
            error!("{why}");
        }
        false
    }

    pub(super) fn trial_ends(&self) -> Option<Monotonic> {
        self.trial.as_ref().map(|trial| trial.until)
    }
}
