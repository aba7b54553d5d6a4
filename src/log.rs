//! The daemon's log: on standard error, in a file, in syslog.
//!
//! A line about a source at a door is `SOURCE: DOOR: what happened`, as in classic knockd. Code
//! logs with `tracing`'s macros, and what happens at doors with [`event`]; the fields `source` and
//! `door`, each given with `%`, come first in a text line, the message last, and every other field
//! appears in JSON only.

pub(crate) mod limit;
mod record;
mod sink;
mod syslog;

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::tz::TimeZone;
use nix::unistd::geteuid;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::config::{Log, LogFormat, LogLevel};
use crate::control::EventLine;
use crate::sys::clock;
use record::Facts;
pub(crate) use record::{escape, local};
use sink::{File, Sink, StandardError, is_journal, stderr_level};
use syslog::Syslog;

/// The reason why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error("cannot open the log file {path}: {source}", path = path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(
        "'{0}' is not a syslog facility: write daemon, auth, authpriv, user, local0 ... local7"
    )]
    Facility(String),
}

/// Where the journal's sockets are.
const JOURNAL: &str = "/run/systemd/journal";

/// The places where log lines go, and which lines and how.
struct LogOutput {
    level: LogLevel,
    format: LogFormat,
    sinks: Vec<Box<dyn Sink + Send>>,
}

static OUTPUT: Mutex<Option<LogOutput>> = Mutex::new(None);

/// Sends log lines where the configuration says, and to standard error too if `foreground`, unless
/// the journal would have each line twice.
///
/// May be called again: with another configuration, or to open the file anew after it has been
/// rotated away.
///
/// # Errors
/// A file that cannot be written, an unknown facility; what was set before then holds on.
pub(crate) fn set_up(log: &Log, foreground: bool) -> Result<(), LogError> {
    let mut sinks: Vec<Box<dyn Sink + Send>> = Vec::new();
    let is_journals = || fs::canonicalize("/dev/log").is_ok_and(|it| it.starts_with(JOURNAL));
    if foreground && !(log.syslog.is_some() && is_journal() && is_journals()) {
        sinks.push(Box::new(StandardError));
    }
    if let Some(path) = &log.file {
        let failed = |source| LogError::File { path: path.clone(), source };
        check_owner(path).map_err(failed)?;
        let file = OpenOptions::new().create(true).append(true).mode(0o640).open(path);
        sinks.push(Box::new(File::new(file.map_err(failed)?)));
    }
    if let Some(facility) = &log.syslog {
        let facility = facility.parse().map_err(|()| LogError::Facility(facility.clone()))?;
        sinks.push(Box::new(Syslog::new(facility)));
    }
    let output = LogOutput { level: log.level, format: log.format, sinks };
    if output_now().replace(output).is_none() {
        // Fails only where a test has set another one, which then gets the lines.
        let _ = tracing::subscriber::set_global_default(ToOutput);
    }
    Ok(())
}

/// Checks who owns a log file, or a link in its place: they choose what is written to. One that is
/// not there is in order.
///
/// # Errors
/// Says whose it is, and what to do.
pub(crate) fn check_owner(path: &Path) -> io::Result<()> {
    let owner = fs::symlink_metadata(path).map_or(0, |metadata| metadata.uid());
    if [0, geteuid().as_raw()].contains(&owner) {
        return Ok(());
    }
    let path = path.display();
    Err(io::Error::other(format!("it belongs to user {owner}: run: chown -h root {path}")))
}

/// Errors for standard error, each line with its level where that goes to the journal.
pub(crate) fn errors(text: &str) -> String {
    let level = stderr_level(LogLevel::Error);
    text.lines().map(|line| format!("{level}{line}\n")).collect()
}

/// Logs something that happened; its facts, too, where lines are objects.
pub(crate) fn event(line: &EventLine) {
    write(line.level(), || Facts::of_line(line));
}

fn write(level: LogLevel, facts: impl FnOnce() -> Facts) {
    let mut output = output_now();
    let Some(output) = output.as_mut().filter(|output| level <= output.level) else { return };
    let time = local(clock::now().wall, &TimeZone::system());
    let line = match output.format {
        LogFormat::Text => facts().text(),
        LogFormat::Json => facts().json(&time, level),
    };
    for sink in &mut output.sinks {
        sink.write(level, &time, &line);
    }
}

fn output_now() -> MutexGuard<'static, Option<LogOutput>> {
    OUTPUT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The subscriber of `tracing` that writes what code logs to the output of the moment. Nothing here
/// opens spans.
struct ToOutput;

impl Subscriber for ToOutput {
    fn event(&self, event: &Event<'_>) {
        let level = record::level(*event.metadata().level());
        write(level, || Facts::of(event));
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
