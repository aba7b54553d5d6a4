//! Start-up of the daemon: files, locks, the ledger, the firewall, and the first watcher.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use caps::errors::CapsError;
use tracing::{info, warn};

use super::cli::KnockdCli;
use super::control::{Control, Language};
use super::daemon::{self, DaemonError, PidFile};
use super::doors::Doors;
use super::guard_copy::GuardCopy;
use super::journal::Journal;
use super::kernel_sets::KernelSetsError;
use super::one_time_files::OneTimeFiles;
use super::recent_events::RecentEvents;
use super::reverse_dns::ReverseDns;
use super::rights::{self, FilesInUse, Rights};
use super::server_key::{self, ServerKeyError};
use super::service::{load_configuration, log_warnings};
use super::state::Keeper;
use super::trial_file::TrialFile;
use super::trials::Trials;
use super::watchers::Watchers;
use crate::config::load::Report;
use crate::config::trusted_path::check_paths;
use crate::config::{Config, Diagnostic, OnExit, SandboxMode};
use crate::control;
use crate::ledger::LedgerError;
use crate::log::{self, LogError};
use crate::proto::duration;
use crate::sys::signals::Signals;
use crate::sys::{
    capabilities, clock, command_table, descriptors, privileges, process, scheduling,
};
use crate::time::{BootId, Monotonic};

/// How long commands may hold up the end of the daemon: systemd kills after 90 s.
pub(super) const TIME_TO_CLOSE: Duration = Duration::from_secs(85);

/// The reason why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("{0}")]
    Configuration(Report),
    #[error("{0}")]
    Path(Diagnostic),
    #[error("knockd: error: not started as root, and without that:\n    {}", .0.join("\n    "))]
    NotRoot(Vec<String>),
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
    #[error("knockd: error: cannot give up capabilities: {0}")]
    Rights(#[from] CapsError),
    #[error("knockd: error: {doing}: {source}")]
    System { doing: &'static str, source: io::Error },
    #[error("knockd: error: not started, since no watcher could start")]
    NoWatcher,
}

/// An error of the system, while this was done.
pub(super) fn system(doing: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::System { doing, source }
}

impl Keeper {
    /// Takes everything up: files, locks, the ledger, the firewall, a watcher.
    ///
    /// # Errors
    /// [`StartError`]; then nothing is left behind that was not there before.
    pub(super) fn start(cli: &KnockdCli) -> Result<Self, StartError> {
        let cli = absolute(cli);
        let loaded = load_configuration(&cli).map_err(StartError::Configuration)?;
        if !privileges::is_root() {
            let lacking = rights::lacking_without_root(&loaded.config, &capabilities::held()?);
            if !lacking.is_empty() {
                return Err(StartError::NotRoot(lacking));
            }
        }
        process::disinherit().map_err(system("cannot look at its own descriptors"))?;
        let settings = &loaded.config.settings;
        // Before any thread or child exists.
        let left = cli.daemon.then(daemon::detach).transpose()?;
        // Where it is refused doors open all the same, only later on a busy machine.
        let _ = scheduling::request_short_slices();
        // Once more when they are there: somebody may have been quicker.
        check_paths(settings, cli.options()).map_err(StartError::Path)?;
        daemon::make_directory(&settings.run_dir, 0o755)?;
        daemon::make_directory(&settings.state_dir, 0o700)?;
        check_paths(settings, cli.options()).map_err(StartError::Path)?;
        let pid_file = PidFile::lock(&settings.pid_file)?;
        let control = Control::listen(Language::Json, &control::socket(&settings.run_dir), None)?;
        // Until start-up has worked, everything is also said where the person looks.
        log::set_up(&settings.log, true)?;
        log_warnings(&loaded);
        if !privileges::is_root() {
            for (door, template) in rights::by_template(&loaded.config) {
                let door = door.name();
                warn!(
                    "door '{door}' opens via {template}, and without root that is likely to fail"
                );
            }
        }
        if let Some(missing) = settings.fleet.as_ref().and_then(|_| process::missing_courier()) {
            warn!("{missing}");
        }
        let files = FilesInUse::of(&cli.config, &loaded);
        let signals = Signals::catch().map_err(system("cannot catch signals"))?;
        let names = cli.lookup.then(ReverseDns::new);
        let config = Arc::new(loaded.config);
        let now = clock::now();
        let boot = clock::boot_id()
            .map_err(system("cannot read the boot id, which takes /proc with its sys"))?;
        let guard_copy = GuardCopy::new(&config.settings.state_dir);
        let trial_file = TrialFile::new(&config.settings.state_dir, boot);
        let asked = cli.try_for.map(|time| now.monotonic + time);
        let locked_until = asked.or_else(|| trial_file.left(now.monotonic));
        if let (None, Some(until)) = (asked, locked_until) {
            warn!(
                "this configuration was on trial before this start: it still is, and goes in {} \
                 unless it is confirmed",
                duration::format_seconds(until.since(now.monotonic))
            );
        }
        let server = server_key::server(now, &config, cli.options())?;
        let doors = start_doors(&config, boot, locked_until)?;
        let trials = Trials::new(trial_file, locked_until);
        let rights = if config.settings.sandbox == SandboxMode::Off || doors.has_commands_to_run() {
            Rights::ALL
        } else {
            Rights::give_up(&config, files, cli.lookup)?
        };
        info!("the keeper keeps {}", rights.status());
        let watchers = Watchers::new(config, server, doors.journal.missing);
        let mut watchers = watchers.map_err(system("cannot follow the addresses of this host"))?;
        watchers.renew(now.monotonic).map_err(system("cannot start the watcher"))?;
        Ok(Self {
            since: now.wall,
            fleet: None,
            couriers_left: Vec::new(),
            control,
            metrics_socket: None,
            explains: false,
            opening: HashMap::new(),
            recalls: Vec::new(),
            memory: RecentEvents::default(),
            asked_status: Vec::new(),
            status_by: None,
            foreground: !cli.daemon,
            cli,
            signals,
            watchers,
            doors,
            names,
            left,
            started: false,
            give_back_at: None,
            trials,
            guard_copy,
            lists: OneTimeFiles::default(),
            watchdog: sd_notify::watchdog_enabled().map(|limit| (limit / 2, now.monotonic)),
            not_taken_up: None,
            rights,
            _pid_file: pid_file,
        })
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
        run_dir: optional(&cli.run_dir),
        state_dir: optional(&cli.state_dir),
        ..cli.clone()
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
        if is_done || now.monotonic >= limit || descriptors::wait(&doors.fds(), timeout).is_err() {
            break;
        }
    }
    // Nothing of the kernel's is held: nothing can go wrong.
    let _ = doors.finish(OnExit::Keep);
}
