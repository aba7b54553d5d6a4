//! The keeper's loop, from the first watcher to the end of the daemon.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};
use sd_notify::NotifyState;
use tracing::{error, info};

use super::claim::Claim;
use super::cli::KnockdCli;
use super::fleet::Fleet;
use super::intake::Notice;
use super::reverse_dns::ReverseDns;
use super::service::{first_line, tell_systemd};
use super::start::{StartError, TIME_TO_CLOSE, system};
use super::state::Keeper;
use super::trials::Trial;
use crate::client::complain;
use crate::config::lint::some_of;
use crate::config::{Config, OnExit};
use crate::engine::Reason;
use crate::fleet::News;
use crate::grants::OpenedBy;
use crate::ipc::{ExplainFilter, ToWatcher};
use crate::ledger::Proof;
use crate::log;
use crate::proto::{Method, Network, OpenPorts};
use crate::sys::signals::Pending;
use crate::sys::{clock, descriptors, memory};
use crate::time::{Monotonic, Now};

/// At the end of the daemon, the longest wait for `on_close` hooks and mail.
const TIME_TO_TELL: Duration = Duration::from_secs(3);

/// How long until another look whether watchers have ended.
const TIME_TO_REAP: Duration = Duration::from_millis(5);

/// How long after a start or a reload nothing more is to be done for it.
const SETTLED: Duration = Duration::from_secs(5);

/// The exit status where the configuration has errors: starting again does not help.
pub(super) const WRONG_CONFIGURATION: u8 = 3;

/// Runs the daemon until it is asked to stop.
///
/// Exit status: 0 asked to stop; [`WRONG_CONFIGURATION`]; 1 start-up failed for another reason,
/// said on standard error.
pub fn run(cli: &KnockdCli) -> ExitCode {
    match Keeper::start(cli).and_then(Keeper::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&log::errors(&error.to_string()));
            tell_systemd(&[NotifyState::Status(first_line(&error.to_string()))]);
            match error {
                StartError::Configuration(_) => ExitCode::from(WRONG_CONFIGURATION),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

impl Keeper {
    fn run(mut self) -> Result<(), StartError> {
        loop {
            let is_signalled = self.wait(None)?;
            let now = clock::now();
            let pending = if is_signalled { self.signals.take() } else { Pending::default() };
            if pending.stop {
                break;
            }
            if pending.reload {
                self.reload(now, None);
            }
            for notice in self.watchers.poll(now.monotonic) {
                self.act(now, notice)?;
            }
            self.doors.poll(now);
            self.look_after_lists(now);
            self.names.iter_mut().for_each(|names| names.poll(now.monotonic));
            self.serve(now);
            self.serve_metrics(now);
            // Whatever has happened so far is told now.
            self.follow_fleet(now);
            if self.ping_watchdog(now.monotonic) {
                tell_systemd(&[NotifyState::Status(&self.status_line())]);
            }
            if self.end_trial(now) {
                return self.stop(OnExit::Remove);
            }
            if self.give_back_at.take_if(|at| *at <= now.monotonic).is_some() {
                memory::give_back();
            }
            if self.trials.is_reload_due(self.watchers.may_change()) {
                self.reload(now, None);
            }
        }
        let config = match self.trials.trial.take() {
            None => Arc::clone(&self.watchers.config),
            // Nobody has confirmed that they still get in.
            Some(Trial::Running { previous: None, .. }) => return self.stop(OnExit::Remove),
            Some(
                Trial::Running { previous: Some(before), .. } | Trial::GoingBack { to: before, .. },
            ) => {
                self.firewall_of(clock::now(), &before);
                before
            }
        };
        if config.settings.on_exit == OnExit::Keep {
            log_what_stays(&config);
        }
        self.stop(config.settings.on_exit)
    }

    fn act(&mut self, now: Now, notice: Notice) -> Result<(), StartError> {
        match notice {
            Notice::Claim(claim) => {
                let decided = match &mut self.fleet {
                    Some(fleet) => fleet.ask(now, claim),
                    None => Some((claim, Ok(()))),
                };
                if let Some((claim, outcome)) = decided {
                    self.decide(now, &claim, outcome);
                }
            }
            Notice::StaleClaim(claim, reason) => {
                let _logged = self.doors.refuse_all(now, &claim, reason);
            }
            Notice::Reused { key, reason } => self.doors.note_refused(now, &key, reason),
            Notice::Happened(line) => self.doors.log_event(line),
            Notice::Seen(line) => {
                self.control.publish(&line);
                self.memory.keep(line);
            }
            Notice::Replayed(line) => self.memory.keep(line),
            Notice::LockedOut { door, source, until } => {
                let until = now.wall + until.since(now.monotonic);
                if let Some(fleet) = &mut self.fleet {
                    fleet.tell(now, News::LockOut { door, source, until }, false);
                }
            }
            Notice::InForce(config) => self.in_force(now, &config)?,
            Notice::Failed(_) if !self.started => return Err(StartError::NoWatcher),
            Notice::Failed(config) => {
                self.could_not_take_effect(now, &config);
                self.is_ready();
            }
        }
        Ok(())
    }

    /// Opens what is asked for, as far as the ledger has nothing against it, or refuses it.
    pub(super) fn decide(&mut self, now: Now, claim: &Claim, outcome: Result<(), Reason>) {
        let is_line = claim.origin.by == OpenedBy::Method(Method::OneTimeSequence);
        let refused = match outcome {
            // What is refused has been logged.
            Ok(()) if is_line => self.use_line(now, claim),
            Ok(()) => self.doors.carry_out(now, claim).err(),
            Err(reason) => Some(self.doors.refuse_used(now, claim, reason)),
        };
        if let Some(reason) = refused {
            self.watchers.intake.refused(claim, reason);
        }
        if let (Some(Reason::UsedElsewhere), Some(Proof::Once { door, bytes, .. }), true) =
            (refused, &claim.proof, is_line)
        {
            self.strike(now, door, bytes.expose());
        }
        if let Some(names) = &mut self.names
            && let Some(identity) = self.watchers.identity()
        {
            let look_up = |address| names.look_up(now.monotonic, identity, address);
            claim.networks.iter().filter_map(Network::single).for_each(look_up);
        }
    }

    /// A configuration has taken effect: the first, or a new one.
    fn in_force(&mut self, now: Now, config: &Arc<Config>) -> Result<(), StartError> {
        let metrics = self.listen_for_metrics(config);
        if !self.started {
            self.started = true;
            info!("starting up, {}", self.listening());
            self.say_how_to_confirm(now);
            if let Some(left) = self.left.take() {
                log::set_up(&config.settings.log, self.foreground)?;
                left.started().map_err(system("cannot close standard error"))?;
            }
        }
        self.join_fleet(now, config);
        self.has_taken_effect(now, config, metrics);
        if self.explains {
            self.watchers.tell(ToWatcher::Explain { asked: ExplainFilter::All });
        }
        if !self.trials.is_on() {
            self.guard_copy.keep(config);
        }
        self.give_back_at = Some(now.monotonic + SETTLED);
        self.lists.follow(now.monotonic, config);
        self.strike_used(now);
        self.is_ready();
        Ok(())
    }

    /// Closes what is open, then ends. That takes as long as it takes, while there is progress.
    fn stop(mut self, on_exit: OnExit) -> Result<(), StartError> {
        info!("shutting down");
        let status = "closing what commands have opened";
        tell_systemd(&[NotifyState::Stopping, NotifyState::Status(status)]);
        self.watchers.stop();
        (self.names, self.fleet) = (None, None);
        self.trials.clear();
        let mut limit = clock::now().monotonic + TIME_TO_CLOSE;
        let mut tell_by = None;
        let mut left = usize::MAX;
        loop {
            let now = clock::now();
            let _told = self.ping_watchdog(now.monotonic);
            self.doors.poll(now);
            let still_left = self.doors.leave(now);
            let is_less = still_left < std::mem::replace(&mut left, still_left);
            if is_less && limit.since(now.monotonic) + Duration::from_secs(1) < TIME_TO_CLOSE {
                limit = now.monotonic + TIME_TO_CLOSE;
                let more = u32::try_from((TIME_TO_CLOSE * 2).as_micros()).unwrap_or(u32::MAX);
                tell_systemd(&[NotifyState::ExtendTimeoutUsec(more)]);
            }
            if self.doors.is_idle() {
                limit = limit.min(*tell_by.get_or_insert(now.monotonic + TIME_TO_TELL));
                if self.doors.alerts.is_idle() || now.monotonic >= limit {
                    break;
                }
            } else if now.monotonic >= limit {
                error!("not all could be closed in time: {left} left, for the next start to close");
                break;
            }
            let _ = self.wait(Some(limit))?;
            // A second request changes nothing: the doors still have to be closed.
            let _ = self.signals.take();
        }
        // A service manager would find them and have to kill them.
        while !self.watchers.have_ended(clock::now().monotonic) {
            let _ = self.wait(Some(clock::now().monotonic + TIME_TO_REAP))?;
        }
        self.doors.finish(on_exit)?;
        Ok(())
    }

    /// Sleeps until something happens or is due. True: a signal has come.
    fn wait(&self, limit: Option<Monotonic>) -> Result<bool, StartError> {
        let now = clock::now().monotonic;
        let deadlines = [
            self.watchers.next_deadline(),
            self.doors.next_deadline(),
            self.control.next_deadline(),
            self.metrics_socket.as_ref().and_then(|(_, readers)| readers.next_deadline()),
            self.trials.next_deadline(),
            self.lists.next_look,
            self.status_by,
            self.give_back_at,
            self.recalls.iter().map(|recall| recall.by).min(),
            self.watchdog.map(|(_, next)| next),
            self.names.as_ref().and_then(|names| names.answer_by),
            self.fleet.as_ref().and_then(Fleet::next_deadline),
            limit,
        ];
        let timeout = deadlines.into_iter().flatten().min().map(|deadline| deadline.since(now));
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![readable(self.signals.fd())];
        let others = self.names.iter().filter_map(ReverseDns::fd);
        fds.extend(others.chain(self.watchers.fds()).chain(self.doors.fds()).map(readable));
        fds.extend(self.fleet.iter().flat_map(Fleet::fds).map(readable));
        fds.extend(self.control.fds());
        fds.extend(self.metrics_socket.iter().flat_map(|(_, readers)| readers.fds()));
        descriptors::poll(&mut fds, timeout).map_err(system("cannot wait for events"))?;
        Ok(fds.first().and_then(PollFd::any).unwrap_or(true))
    }
}

/// Whoever stops knockd to get at a port is told that this is not how.
fn log_what_stays(config: &Config) {
    let guarded = config.doors.iter().map(|door| &door.opening).filter(|it| it.is_locked());
    let ports: BTreeSet<&OpenPorts> = guarded.flat_map(|opening| &opening.ports).collect();
    if let Some(ports) = some_of(ports.into_iter()) {
        info!("stays locked: {ports}; 'nft delete table inet knockd' unlocks");
    }
}
