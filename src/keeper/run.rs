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

use super::books::Books;
use super::cli::Cli;
use super::control::{ConnectionId, Control, Follows};
use super::daemon::{self, DaemonError, Left, PidFile};
use super::doors::Doors;
use super::guard_copy::GuardCopy;
use super::mark::Mark;
use super::names::Names;
use super::one_time::Lists;
use super::recent_events::RecentEvents;
use super::reload::{Reloads, Trial};
use super::requests::Recall;
use super::server_key::{self, ServerKeyError};
use super::service::{first_line, tell_systemd};
use super::sets::SetsError;
use super::watchers::{Notice, Watchers};
use crate::client::complain;
use crate::config::diagnostic::Diagnostic;
use crate::config::lint::some_of;
use crate::config::load::{self, Loaded, Report};
use crate::config::trusted_path::check_paths;
use crate::config::{Config, How, OnExit};
use crate::control::{self, Reply};
use crate::firewall::JobId;
use crate::grants::{By, Place};
use crate::ipc::ToWatcher;
use crate::ledger::LedgerError;
use crate::log::{self, LogError};
use crate::proto::duration;
use crate::proto::knock::Knock;
use crate::sys::signals::{Pending, Signals};
use crate::sys::{clock, command_table, files, memory, privileges, process, turns};
use crate::time::{BootId, Monotonic, Now, Wall};

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
    Firewall(#[from] SetsError),
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
pub fn run(cli: &Cli) -> ExitCode {
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

pub(super) struct Keeper {
    pub(super) cli: Cli,
    pub(super) since: Wall,
    signals: Signals,
    pub(super) watchers: Watchers,
    pub(super) doors: Doors,
    pub(super) control: Control,
    /// Whether somebody asks what became of knocks, who waits for what happened before, and that.
    pub(super) explains: bool,
    pub(super) recalls: Vec<Recall>,
    pub(super) memory: RecentEvents,
    /// Doors that somebody opens by hand, and who waits to be told what comes of it.
    pub(super) opening: HashMap<JobId, (ConnectionId, Place)>,
    /// Who waits for a status, and until when at most.
    pub(super) asked_status: Vec<ConnectionId>,
    pub(super) status_by: Option<Monotonic>,
    names: Option<Names>,
    /// In the foreground, log lines also go to standard error.
    pub(super) foreground: bool,
    left: Option<Left>,
    started: bool,
    pub(super) reload_again: bool,
    pub(super) reloads: Reloads,
    /// A configuration that has to be confirmed.
    pub(super) trial: Option<Trial>,
    pub(super) mark: Mark,
    pub(super) guard_copy: GuardCopy,
    pub(super) lists: Lists,
    /// How often the service manager wants to be told that the loop turns, and when next.
    pub(super) watchdog: Option<(Duration, Monotonic)>,
    /// Why the configuration as it is now has not been taken up, in one line.
    pub(super) not_taken_up: Option<String>,
    // Removed, and unlocked, when the daemon ends.
    _pid_file: PidFile,
}

/// The command line with paths that hold in every working directory.
fn absolute(cli: &Cli) -> Cli {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let optional = |path: &Option<PathBuf>| path.as_deref().map(absolute);
    Cli {
        config: absolute(&cli.config),
        pidfile: optional(&cli.pidfile),
        logfile: optional(&cli.logfile),
        ..cli.clone()
    }
}

pub(super) fn load_configuration(cli: &Cli) -> Result<Loaded, Report> {
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
    fn start(cli: &Cli) -> Result<Self, StartError> {
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
            Some(Names::start().map_err(system("cannot start a thread"))?)
        } else {
            None
        };
        let config = Arc::new(loaded.config);
        let now = clock::now();
        let boot = clock::boot_id().map_err(system("cannot read the boot id"))?;
        let guard_copy = GuardCopy::new(&config.settings.state_dir);
        let mark = Mark::new(&config.settings.state_dir, boot);
        let asked = cli.try_for.map(|time| now.monotonic + time);
        let locked_until = asked.or_else(|| mark.left(now.monotonic));
        if let (None, Some(until)) = (asked, locked_until) {
            warn!(
                "knockd died while this configuration was on trial: it still is, and goes in {} \
                 unless it is confirmed",
                duration::format_seconds(until.since(now.monotonic))
            );
        }
        let server = server_key::server(now, &config, cli.options())?;
        let doors = start_doors(&config, boot, locked_until)?;
        if let Some(until) = locked_until {
            mark.set(until);
        }
        let missing = doors.books().missing();
        let mut watchers = Watchers::new(Arc::clone(&config), server.clone(), missing);
        watchers
            .start(now.monotonic, Arc::clone(&config), server)
            .map_err(system("cannot start the watcher"))?;
        Ok(Self {
            since: now.wall,
            control,
            explains: false,
            recalls: Vec::new(),
            memory: RecentEvents::default(),
            opening: HashMap::new(),
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
            reload_again: false,
            reloads: Reloads::default(),
            trial: locked_until.map(Trial::of_start),
            mark,
            guard_copy,
            lists: Lists::default(),
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
            if self.reload_again && self.watchers.may_change() {
                self.reload_again = false;
                self.reload(now);
            }
        }
        let config = match self.trial.take() {
            None => Arc::clone(self.watchers.config()),
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
            Notice::Asked(ask) => {
                if ask.opener.by == By::OneTimeSequence {
                    self.use_line(now, &ask);
                } else if let Err(reason) = self.doors.ask(now, &ask) {
                    // It has been logged.
                    self.watchers.count(reason, 1);
                }
                if let Some(names) = &self.names {
                    ask.addresses.iter().for_each(|&address| names.look_up(address));
                }
            }
            Notice::Refused(ask, reason) => {
                let _logged = self.doors.refuse_all(now, &ask, reason);
            }
            Notice::Spent { place, reason } => self.doors.note_refused(now, &place, reason),
            Notice::Happened(line) => self.doors.tell(line),
            Notice::Seen(line) => {
                let source = line.source;
                self.memory.keep(line.clone());
                self.control.publish(&Reply::Event(line), |follows| match follows {
                    Follows::Knocks(wanted) => wanted.is_none() || wanted == source,
                    _ => false,
                });
            }
            Notice::Past(line) => self.memory.keep(line),
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
        if self.explains {
            self.watchers.tell(ToWatcher::ExplainAll);
        }
        if self.trial.is_none() {
            self.guard_copy.keep(config);
        }
        memory::give_back();
        self.follow_lists(now, config);
        self.is_ready();
        Ok(())
    }

    /// Closes what is open, then ends. That takes as long as it takes, while there is progress.
    fn stop(mut self, on_exit: OnExit) -> Result<(), StartError> {
        info!("shutting down");
        let status = "closing what commands have opened";
        tell_systemd(&[NotifyState::Stopping, NotifyState::Status(status)]);
        self.watchers.stop();
        self.mark.clear();
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
            self.trial_ends(),
            self.lists.next_deadline(),
            self.status_by,
            self.recalls.iter().map(|recall| recall.by).min(),
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
    let (books, records) = Books::open(state_dir, boot, clock::now())?;
    // Only after the ledger is ours: until then another knockd's commands are in the tables.
    for table in ["commands", "hooks"] {
        match command_table::end_unfinished(&state_dir.join(table)) {
            Ok(0) => {}
            Ok(count) => warn!("ended {count} processes that an earlier knockd's commands left"),
            Err(why) => warn!("processes that an earlier knockd's commands left: {why}"),
        }
    }
    Doors::start(clock::now(), config, books, records, locked_until).map_err(|failed| {
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
