//! Reloads: another configuration, at SIGHUP for good, with `knockctl try` on trial.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use tracing::{error, info, warn};

use super::control::ConnectionId;
use super::rights::FilesInUse;
use super::server_key;
use super::service::{first_line, load_configuration, log_warnings, reloading, tell_systemd};
use super::state::Keeper;
use super::trials::{ONCE_MORE, Trial};
use crate::config::{Config, Name};
use crate::control::{Reply, command};
use crate::log;
use crate::proto::duration;
use crate::sys::memory;
use crate::time::{Monotonic, Now};

const NO_WATCHER: &str =
    "no watcher could start; the old configuration stays, and knockd's log says why";

impl Keeper {
    /// SIGHUP, or `knockctl` has changed the configuration and waits: takes it up as it is now, or
    /// says why not and goes on as before.
    pub(super) fn reload(&mut self, now: Now, asked_by: Option<ConnectionId>) {
        self.trials.waiting.extend(asked_by);
        if self.trials.is_going_back() || (!self.trials.is_on() && !self.watchers.may_change()) {
            self.trials.reload_again = true;
            self.reopen_log();
            return self.watchers.hurry(now.monotonic);
        }
        let asked_by = std::mem::take(&mut self.trials.waiting);
        if self.trials.is_on() {
            tell_systemd(&reloading());
            self.reopen_log();
            warn!("not reloading: a configuration is on trial; confirm it first, or wait");
            self.is_ready();
            let why = "a configuration is on trial: confirm it first, or wait until it has gone";
            return self.answer_all(asked_by, &Err(why.to_owned()));
        }
        match self.take_up(now, None) {
            Ok(config) => self.trials.reloading = Some((config, asked_by)),
            Err(why) => self.answer_all(asked_by, &Err(why)),
        }
    }

    fn answer_all(&mut self, asked_by: Vec<ConnectionId>, outcome: &Result<String, String>) {
        asked_by.into_iter().for_each(|id| self.done(id, outcome.clone()));
    }

    /// A log file that has been rotated away is opened anew in any case.
    fn reopen_log(&self) {
        self.log_as(&self.watchers.config);
    }

    fn log_as(&self, config: &Config) {
        if let Err(error) = log::set_up(&config.settings.log, self.foreground) {
            error!("{error}");
        }
    }

    /// Takes up the configuration as it is now; on trial, with its ports locked until then, also of
    /// the door that the trial locks.
    ///
    /// # Errors
    /// Why not, in words; everything then goes on as before.
    fn take_up(
        &mut self,
        now: Now,
        locked_until: Option<Monotonic>,
    ) -> Result<Arc<Config>, String> {
        info!("re-reading config file: {}", self.cli.config.display());
        tell_systemd(&reloading());
        let taken_up = self.try_to_take_up(now, locked_until);
        self.not_taken_up = taken_up.as_ref().err().map(|why| first_line(why).to_owned());
        if let Err(why) = &taken_up {
            for line in why.lines() {
                error!("{line}");
            }
            error!("the old configuration stays");
            self.is_ready();
            memory::give_back();
        }
        taken_up
    }

    fn try_to_take_up(
        &mut self,
        now: Now,
        locked_until: Option<Monotonic>,
    ) -> Result<Arc<Config>, String> {
        let mut loaded = load_configuration(&self.cli).map_err(|report| {
            self.reopen_log();
            self.rights.explain(report.to_string())
        })?;
        let lock = locked_until.and(self.trials.lock.as_ref());
        lock.map_or(Ok(()), |door| loaded.config.lock(door))?;
        let files = FilesInUse::of(&self.cli.config, &loaded);
        self.rights.suffice(&loaded.config, &files).inspect_err(|_| self.reopen_log())?;
        self.log_as(&loaded.config);
        log_warnings(&loaded);
        let config = Arc::new(loaded.config);
        self.put_in_place(now, &config, locked_until).inspect_err(|_| {
            self.firewall_of(now, &Arc::clone(&self.watchers.config));
        })?;
        Ok(config)
    }

    /// The firewall first, so that nothing stands open that the new watcher could not open again.
    ///
    /// # Errors
    /// Why not, in words; the firewall may have changed already.
    fn put_in_place(
        &mut self,
        now: Now,
        config: &Arc<Config>,
        locked_until: Option<Monotonic>,
    ) -> Result<(), String> {
        let server = server_key::server(now, config, self.cli.options())
            .map_err(|why| self.rights.explain(why.to_string()))?;
        self.doors.reconfigure(now, config, locked_until).map_err(|why| why.to_string())?;
        self.watchers
            .start(now.monotonic, Arc::clone(config), server)
            .map_err(|why| format!("cannot start a watcher: {why}"))
    }

    pub(super) fn firewall_of(&mut self, now: Now, config: &Config) {
        if let Err(why) = self.doors.reconfigure(now, config, None) {
            error!("{why}");
        }
    }

    /// A configuration is at work, perhaps but for its metrics: what waited for that is done.
    pub(super) fn has_taken_effect(
        &mut self,
        now: Now,
        config: &Arc<Config>,
        metrics: Result<(), String>,
    ) {
        let asked_by = self.trials.reloaded(config);
        let but = metrics.map_or_else(|why| format!(", but {why}"), |()| String::new());
        self.answer_all(asked_by, &Ok(format!("the configuration is in force{but}")));
        if let Some(id) = self.trials.in_force() {
            self.control.reply(id, &Reply::Status(self.status(now)));
            self.done(id, Ok("on trial".to_owned()));
        } else if self.trials.is_back(config) {
            info!("the configuration before the trial is in force again");
        }
    }

    /// No watcher could start with this configuration.
    pub(super) fn could_not_take_effect(&mut self, now: Now, config: &Arc<Config>) {
        let asked_by = self.trials.reloaded(config);
        self.answer_all(asked_by, &Err(NO_WATCHER.to_owned()));
        let in_force = Arc::clone(&self.watchers.config);
        // Of the one in force another watcher starts; what the firewall does is none of its
        // business. The one before a trial is taken up once more in a moment.
        if Arc::ptr_eq(config, &in_force) || self.trials.is_going_back() {
            return;
        }
        error!("the old configuration stays");
        self.not_taken_up = Some(NO_WATCHER.to_owned());
        self.firewall_of(now, &in_force);
        if let Some(id) = self.trials.clear() {
            self.done(id, Err(NO_WATCHER.to_owned()));
        }
    }

    /// `knockctl try`. Answered when the configuration is in force, or cannot be.
    ///
    /// # Errors
    /// Why not, in words; everything then goes on as before.
    pub(super) fn try_out(
        &mut self,
        now: Now,
        id: ConnectionId,
        time: Duration,
        lock: Option<Name>,
    ) -> Result<(), String> {
        if self.trials.is_on() {
            return Err("a configuration is on trial already".to_owned());
        }
        if self.watchers.is_changing() {
            return Err("a configuration is being taken up just now: try again".to_owned());
        }
        let previous = Arc::clone(&self.watchers.config);
        let until = now.monotonic + time;
        self.trials.lock = lock;
        self.trials.begin(until, previous, id);
        if let Err(why) = self.take_up(now, Some(until)) {
            self.trials.clear();
            return Err(why);
        }
        warn!(
            "this configuration is on trial: it goes in {} unless it is confirmed",
            duration::format(time)
        );
        Ok(())
    }

    /// What somebody who has started knockd on trial has to know.
    pub(super) fn say_how_to_confirm(&self, now: Now) {
        let Some(until) = self.trials.until() else { return };
        let end = log::local(now.wall + until.since(now.monotonic), &TimeZone::system());
        let end = end.strftime("%H:%M:%S");
        let confirm = command("knockctl", &self.cli.config, self.cli.run_dir.as_deref(), "confirm");
        warn!("on trial until {end}: then the guard goes, and knockd ends");
        warn!("check from a NEW connection that you still get in, then type: {confirm}");
    }

    /// `knockctl confirm`.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) fn confirm(&mut self, now: Now) -> Result<(), String> {
        self.trials.may_confirm(now.monotonic)?;
        if self.watchers.is_changing() {
            return Err("a watcher is starting just now: confirm once more".to_owned());
        }
        let config = Arc::clone(&self.watchers.config);
        self.doors.reconfigure(now, &config, None).map_err(|why| why.to_string())?;
        self.trials.clear();
        self.guard_copy.keep(&config);
        info!("the configuration on trial is confirmed");
        Ok(())
    }

    /// Ends a trial that nobody has confirmed. True: there is nothing to go back to, so knockd
    /// ends.
    pub(super) fn end_trial(&mut self, now: Now) -> bool {
        let unconfirmed = "nobody has confirmed the configuration on trial";
        let to = match self.trials.end(now.monotonic) {
            None => return false,
            Some(Trial::Running { previous: None, .. }) => {
                warn!("{unconfirmed}: the guard goes, and knockd too");
                return true;
            }
            Some(Trial::Running { previous: Some(to), asked_by, .. }) => {
                if let Some(id) = asked_by {
                    self.done(id, Err("it did not come into force in time: going back".to_owned()));
                }
                warn!("{unconfirmed}: going back to the one before");
                to
            }
            Some(Trial::GoingBack { to, .. }) => to,
        };
        self.trials.go_back(&to, now.monotonic);
        self.log_as(&to);
        if let Err(why) = self.put_in_place(now, &to, None) {
            error!("{why}; once more in {}", duration::format(ONCE_MORE));
        }
        false
    }
}
