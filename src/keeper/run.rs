//! The keeper's loop.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};
use sd_notify::NotifyState;
use tracing::{error, info, warn};

use super::cli::KnockdCli;
use super::control::{Control, Follows};
use super::daemon::{self, DaemonError, PidFile};
use super::doors::Doors;
use super::guard_copy::GuardCopy;
use super::intake::Notice;
use super::journal::Journal;
use super::kernel_sets::KernelSetsError;
use super::one_time_files::OneTimeFiles;
use super::reverse_dns::ReverseDns;
use super::server_key::{self, ServerKeyError};
use super::service::{first_line, load_configuration, log_warnings, tell_systemd};
use super::state::Keeper;
use super::trial_file::TrialFile;
use super::trials::{Trials, Unconfirmed};
use super::watchers::Watchers;
use crate::client::complain;
use crate::config::diagnostic::Diagnostic;
use crate::config::lint::some_of;
use crate::config::load::Report;
use crate::config::trusted_path::check_paths;
use crate::config::{Config, How, OnExit};
use crate::control::{self, Reply};
use crate::grants::OpenedBy;
use crate::ledger::LedgerError;
use crate::log::{self, LogError};
use crate::proto::duration;
use crate::proto::knock::Knock;
use crate::proto::method::Method;
use crate::sys::signals::{Pending, Signals};
use crate::sys::{clock, command_table, files, memory, privileges, process, turns};
use crate::time::{BootId, Monotonic, Now};

/// How long commands may hold up the end of the daemon: systemd kills after 90 s.
const TIME_TO_CLOSE: Duration = Duration::from_secs(85);
/// How long those who want to know of a closed door may hold up the end of the daemon.
const TIME_TO_TELL: Duration = Duration::from_secs(3);

/// The exit status where the configuration has errors: starting again does not help.
pub(super) const WRONG_CONFIGURATION: u8 = 3;

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("{0}")]
    Configuration(Report),
    #[error("{0}")]
    Path(Diagnostic),
    #[error("knockd: error: must be started as root: it captures packets and changes the firewall")]
    NotRoot,
    #[error("knockd: error: {0}")]
    Log(#[from] LogError),
    #[error("knockd: error: {0}")]
    Daemon(#[from] DaemonError),
    #[error("knockd: error: {0}")]
    Ledger(#[from] LedgerError),
    #[error("knockd: error: {0}")]
    ServerKey(#[from] ServerKeyError),
    #[error("knockd: error: {0}")]
    Firewall(#[from] KernelSetsError),
    #[error("knockd: error: {doing}: {source}")]
    System { doing: &'static str, source: io::Error },
    #[error("knockd: error: not started, since no watcher could start")]
    NoWatcher,
}

fn system(doing: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::System { doing, source }
}

/// Runs the daemon until it is asked to stop.
///
/// Exit status: 0 asked to stop; [`WRONG_CONFIGURATION`]; 1 start-up failed for another reason, said
/// on standard error.
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

/// The command line with paths that hold in every working directory.
fn absolute(cli: &KnockdCli) -> KnockdCli {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let optional = |path: &Option<PathBuf>| path.as_deref().map(absolute);
    KnockdCli {
        config: absolute(&cli.config),
        pidfile: optional(&cli.pidfile),
        logfile: optional(&cli.logfile),
        ..cli.clone()
    }
}

impl Keeper {
    fn start(cli: &KnockdCli) -> Result<Self, StartError> {
        let cli = absolute(cli);
        let loaded = load_configuration(&cli).map_err(StartError::Configuration)?;
        if !privileges::is_root() {
            return Err(StartError::NotRoot);
        }
        process::disinherit().map_err(system("cannot look at its own descriptors"))?;
        let settings = &loaded.config.settings;
        // Before any thread or child exists.
        let left = if cli.daemon { Some(daemon::detach()?) } else { None };
        // Where it is refused doors open all the same, only later on a busy machine.
        let _ = turns::take_short_ones();
        // Once more when they are there: somebody may have been quicker.
        check_paths(settings, cli.options()).map_err(StartError::Path)?;
        daemon::make_directory(&settings.run_dir, 0o755)?;
        daemon::make_directory(&settings.state_dir, 0o700)?;
        check_paths(settings, cli.options()).map_err(StartError::Path)?;
        let pid_file = PidFile::lock(&settings.pid_file)?;
        let control = Control::listen(&control::socket(&settings.run_dir))?;
        // Until start-up has worked, everything is also said where the person looks.
        log::set_up(&settings.log, true)?;
        log_warnings(&loaded);
        let signals = Signals::catch().map_err(system("cannot catch signals"))?;
        let names = if cli.lookup {
            Some(ReverseDns::start().map_err(system("cannot start a thread"))?)
        } else {
            None
        };
        let config = Arc::new(loaded.config);
        let now = clock::now();
        let boot = clock::boot_id().map_err(system("cannot read the boot id"))?;
        let guard_copy = GuardCopy::new(&config.settings.state_dir);
        let trial_file = TrialFile::new(&config.settings.state_dir, boot);
        let asked = cli.try_for.map(|time| now.monotonic + time);
        let locked_until = asked.or_else(|| trial_file.left(now.monotonic));
        if let (None, Some(until)) = (asked, locked_until) {
            warn!(
                "knockd died while this configuration was on trial: it still is, and goes in {} \
                 unless it is confirmed",
                duration::format_seconds(until.since(now.monotonic))
            );
        }
        let server = server_key::server(now, &config, cli.options())?;
        let doors = start_doors(&config, boot, locked_until)?;
        let trials = Trials::new(trial_file, locked_until);
        let missing = doors.journal().missing();
        let mut watchers = Watchers::new(Arc::clone(&config), server.clone(), missing);
        watchers
            .start(now.monotonic, Arc::clone(&config), server)
            .map_err(system("cannot start the watcher"))?;
        Ok(Self {
            since: now.wall,
            control,
            explains: false,
            opening: HashMap::new(),
            past_for: None,
            asked_status: Vec::new(),
            status_by: None,
            foreground: !cli.daemon,
            cli: cli.clone(),
            signals,
            watchers,
            doors,
            names,
            left,
            started: false,
            trials,
            guard_copy,
            lists: OneTimeFiles::default(),
            watchdog: sd_notify::watchdog_enabled().map(|limit| (limit / 2, now.monotonic)),
            not_taken_up: None,
            _pid_file: pid_file,
        })
    }

    fn run(mut self) -> Result<(), StartError> {
        loop {
            let is_signalled = self.wait(None)?;
            let now = clock::now();
            let pending = if is_signalled { self.signals.take() } else { Pending::default() };
            if pending.stop {
                break;
            }
            if pending.reload {
                self.reload(now);
            }
            for notice in self.watchers.poll(now.monotonic) {
                self.act(now, notice)?;
            }
            self.doors.poll(now);
            self.look_after_lists(now);
            self.serve(now);
            if self.ping_watchdog(now.monotonic) {
                tell_systemd(&[NotifyState::Status(&self.status_line())]);
            }
            if self.end_trial(now) {
                return self.stop(OnExit::Remove);
            }
            if self.trials.is_reload_due(self.watchers.may_change()) {
                self.reload(now);
            }
        }
        let config = match self.trials.abandon() {
            None => Arc::clone(self.watchers.config()),
            // Nobody has confirmed that they still get in.
            Some(Unconfirmed::Exit) => return self.stop(OnExit::Remove),
            Some(Unconfirmed::GoBack(before, _)) => {
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
                if claim.origin.by == OpenedBy::Method(Method::OneTimeSequence) {
                    self.use_line(now, &claim);
                } else if let Err(reason) = self.doors.carry_out(now, &claim) {
                    // It has been logged.
                    self.watchers.intake.count(reason, 1);
                }
                if let Some(names) = &self.names {
                    claim.addresses.iter().for_each(|&address| names.look_up(address));
                }
            }
            Notice::StaleClaim(claim, reason) => {
                let _logged = self.doors.refuse_all(now, &claim, reason);
            }
            Notice::Reused { key, reason } => self.doors.note_refused(now, &key, reason),
            Notice::Happened(line) => self.doors.log_event(line),
            Notice::Seen(line) => {
                let source = line.source;
                self.control.publish(&Reply::Event(line), |follows| match follows {
                    Follows::Knocks(wanted) => wanted.is_none() || wanted == source,
                    _ => false,
                });
            }
            Notice::Replayed(line) => {
                if let Some(id) = self.past_for {
                    self.control.reply(id, &Reply::Event(line));
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

    /// A configuration has taken effect: the first, or a new one.
    fn in_force(&mut self, now: Now, config: &Arc<Config>) -> Result<(), StartError> {
        if !self.started {
            self.started = true;
            info!("starting up, {}", self.listening());
            self.say_how_to_confirm(now);
            if let Some(left) = self.left.take() {
                log::set_up(&config.settings.log, self.foreground)?;
                left.started().map_err(system("cannot close standard error"))?;
            }
        }
        self.has_taken_effect(now, config);
        if !self.trials.is_on() {
            self.guard_copy.keep(config);
        }
        memory::give_back();
        self.lists.follow(now.monotonic, config);
        self.is_ready();
        Ok(())
    }

    /// Closes what is open, then ends. That takes as long as it takes, while there is progress.
    fn stop(mut self, on_exit: OnExit) -> Result<(), StartError> {
        info!("shutting down");
        let status = "closing what commands have opened";
        tell_systemd(&[NotifyState::Stopping, NotifyState::Status(status)]);
        self.watchers.stop();
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
                if self.doors.has_told() || now.monotonic >= limit {
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
            self.trials.next_deadline(),
            self.lists.next_deadline(),
            self.status_by,
            self.watchdog.map(|(_, next)| next),
            limit,
        ];
        let timeout = deadlines.into_iter().flatten().min().map(|deadline| deadline.since(now));
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![readable(self.signals.as_fd())];
        fds.extend(self.watchers.fds().into_iter().chain(self.doors.fds()).map(readable));
        fds.extend(self.control.fds());
        files::poll(&mut fds, timeout).map_err(system("cannot wait for events"))?;
        Ok(fds.first().and_then(PollFd::any).unwrap_or(true))
    }
}

/// Whoever stops knockd to get at a port is told that this is not how.
fn log_what_stays(config: &Config) {
    let guarded = config.doors.iter().map(|door| &door.opening).filter(|it| it.how == How::Guard);
    let ports: BTreeSet<&Knock> = guarded.flat_map(|opening| &opening.ports).collect();
    if let Some(ports) = some_of(ports.into_iter()) {
        info!("stays locked: {ports}; 'nft delete table inet knockd' unlocks");
    }
}

/// Ends what an earlier knockd left running, and takes up the grants that it left open.
fn start_doors(
    config: &Config,
    boot: BootId,
    locked_until: Option<Monotonic>,
) -> Result<Doors, StartError> {
    let state_dir = &config.settings.state_dir;
    let (journal, records) = Journal::open(state_dir, boot, clock::now())?;
    // Only after the ledger is ours: until then another knockd's commands are in the tables.
    for table in ["commands", "hooks"] {
        match command_table::end_unfinished(&state_dir.join(table)) {
            Ok(0) => {}
            Ok(count) => warn!("ended {count} processes that an earlier knockd's commands left"),
            Err(why) => warn!("processes that an earlier knockd's commands left: {why}"),
        }
    }
    Doors::start(clock::now(), config, journal, records, locked_until).map_err(|failed| {
        let (why, doors) = *failed;
        close_left(doors);
        why.into()
    })
}

/// Closes what commands of an earlier knockd have opened: there is none now to do it in time.
fn close_left(mut doors: Doors) {
    let limit = clock::now().monotonic + TIME_TO_CLOSE;
    loop {
        let now = clock::now();
        doors.poll(now);
        let is_done = doors.leave(now) == 0 && doors.is_idle();
        let next = doors.next_deadline().map_or(limit, |next| next.min(limit));
        let timeout = Some(next.since(now.monotonic));
        if is_done || now.monotonic >= limit || files::wait(&doors.fds(), timeout).is_err() {
            break;
        }
    }
    // Nothing of the kernel's is held: nothing can go wrong.
    let _ = doors.finish(OnExit::Keep);
}
