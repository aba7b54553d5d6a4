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

use ::syslog::Facility;
use jiff::Zoned;
use jiff::tz::TimeZone;
use nix::unistd::geteuid;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::config::{Log, LogFormat, LogLevel};
use crate::control::EventLine;
use crate::sys::clock;
use record::Facts;
pub(crate) use record::local;

pub(crate) use crate::proto::escape::escape;
use sink::{Sink, StandardError, is_journal, stderr_level};
use syslog::Syslog;

/// A log file that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the log file {path}: {source}", path = path.display())]
pub(crate) struct LogError {
    path: PathBuf,
    source: io::Error,
}

/// Where the journal's sockets are.
const JOURNAL: &str = "/run/systemd/journal";

/// The places where log lines go, and which lines and how.
struct LogOutput {
    level: LogLevel,
    format: LogFormat,
    /// Each with how many lines it has not taken since the last that it took.
    sinks: Vec<(Box<dyn Sink + Send>, u64)>,
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
        sinks.push(Box::new(StandardError::new(io::stderr())));
    }
    if let Some(path) = &log.file {
        let failed = |source| LogError { path: path.clone(), source };
        check_owner(path).map_err(failed)?;
        let file = OpenOptions::new().create(true).append(true).mode(0o640).open(path);
        sinks.push(Box::new(file.map_err(failed)?));
    }
    if let Some(facility) = &log.syslog {
        // A configuration has no other than those that syslog has.
        let facility = facility.parse().unwrap_or(Facility::LOG_DAEMON);
        sinks.push(Box::new(Syslog::new(facility)));
    }
    let sinks = sinks.into_iter().map(|sink| (sink, 0)).collect();
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
    output.write(level, facts(), &local(clock::now().wall, &TimeZone::system()));
}

impl LogOutput {
    fn write(&mut self, level: LogLevel, facts: Facts, time: &Zoned) {
        let line = |facts: Facts, level| match self.format {
            LogFormat::Text => facts.text(),
            LogFormat::Json => facts.json(time, level),
        };
        let text = line(facts, level);
        for (sink, lost) in &mut self.sinks {
            if *lost > 0 {
                let missing = format!("{lost} log lines could not be written here");
                let missing = line(Facts::saying(&missing), LogLevel::Warning);
                *lost *= u64::from(sink.put(LogLevel::Warning, time, &missing).is_err());
            }
            if *lost > 0 || sink.put(level, time, &text).is_err() {
                *lost += 1;
            }
        }
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
        write(record::level(*event.metadata().level()), || Facts::of(event));
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

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::sys::descriptors;

    /// An output whose only sink takes no line, then all.
    fn of_full_disk(format: LogFormat) -> (LogOutput, tempfile::NamedTempFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut output =
            LogOutput { level: LogLevel::Info, format, sinks: vec![(Box::new(full), 0)] };
        for _ in 0..3 {
            output.write(LogLevel::Info, Facts::saying("lost"), &Zoned::default());
        }
        assert_eq!(output.sinks[0].1, 3);
        output.sinks[0].0 = Box::new(file.reopen().unwrap());
        (output, file)
    }

    #[test]
    fn that_lines_are_missing_is_said_in_the_form_of_those_that_are_there() {
        for (format, begins) in [(LogFormat::Text, "[1970-"), (LogFormat::Json, "{\"level\"")] {
            let (mut output, file) = of_full_disk(format);
            for _ in 0..2 {
                output.write(LogLevel::Info, Facts::saying("Stage 1"), &Zoned::default());
            }
            let text = fs::read_to_string(file.path()).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            assert!(lines.iter().all(|line| line.starts_with(begins)), "{text}");
            assert!(lines[0].contains("3 log lines could not be written here"), "{text}");
            assert!(lines[1].contains("Stage 1") && lines[2].contains("Stage 1"), "{text}");
            assert_eq!(lines.len(), 3);
        }
    }

    #[test]
    fn standard_error_that_nobody_reads_is_not_waited_for_and_is_told_what_it_lacks() {
        let (read, write) = descriptors::output_pipe().unwrap();
        let sinks: Vec<(Box<dyn Sink + Send>, u64)> =
            vec![(Box::new(StandardError::new(fs::File::from(write))), 0)];
        let mut output = LogOutput { level: LogLevel::Info, format: LogFormat::Text, sinks };
        for _ in 0..100 {
            output.write(LogLevel::Info, Facts::saying(&"x".repeat(10_000)), &Zoned::default());
        }
        let lost = output.sinks[0].1;
        assert!(lost > 50, "{lost}");
        let (mut read, mut buffer) = (fs::File::from(read), vec![0; 1 << 20]);
        while read.read(&mut buffer).is_ok() {}
        output.write(LogLevel::Info, Facts::saying("Stage 1"), &Zoned::default());
        let count = read.read(&mut buffer).unwrap();
        let said = format!("{lost} log lines could not be written here\nStage 1\n");
        assert_eq!(String::from_utf8_lossy(&buffer[..count]), said);
    }
}
