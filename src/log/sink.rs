//! Standard error and files, which take log lines.

use std::env;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use jiff::Zoned;
use nix::poll::{PollFd, PollFlags};

use crate::config::LogLevel;
use crate::sys::descriptors;

/// A place for log lines. It takes one at a time, and nobody waits for it.
pub(super) trait Sink {
    /// Takes a line.
    ///
    /// # Errors
    /// Why it does not.
    fn put(&mut self, level: LogLevel, time: &Zoned, line: &str) -> io::Result<()>;
}

/// How long a line may wait for whoever reads standard error.
const PATIENCE: Duration = Duration::from_millis(20);
/// How much a pipe takes at once that takes anything (pipe(7), `PIPE_BUF`).
const AT_ONCE: usize = 4096;

/// Standard error, or what takes its place in a test.
pub(super) struct StandardError<W> {
    to: W,
    /// What has not been read lately is not waited for.
    patience: Duration,
}

impl<W> StandardError<W> {
    pub(super) const fn new(to: W) -> Self {
        Self { to, patience: PATIENCE }
    }
}

impl<W: Write + AsFd> Sink for StandardError<W> {
    fn put(&mut self, level: LogLevel, _: &Zoned, line: &str) -> io::Result<()> {
        let text = format!("{}{line}\n", stderr_level(level));
        let patience = std::mem::take(&mut self.patience);
        // One write a line, so that lines of several processes do not mix.
        for part in text.as_bytes().chunks(AT_ONCE) {
            let mut fds = [PollFd::new(self.to.as_fd(), PollFlags::POLLOUT)];
            descriptors::poll(&mut fds, Some(patience))?;
            if fds[0].any() != Some(true) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.to.write_all(part)?;
        }
        self.patience = PATIENCE;
        Ok(())
    }
}

/// The prefix of a line on standard error: for the journal, how grave it is (sd-daemon(3)).
pub(super) fn stderr_level(level: LogLevel) -> String {
    if is_journal() { format!("<{}>", severity(level)) } else { String::new() }
}

/// How grave a line is, in the numbers of syslog(3).
pub(super) const fn severity(level: LogLevel) -> u8 {
    match level {
        LogLevel::Error => 3,
        LogLevel::Warning => 4,
        LogLevel::Info => 6,
        LogLevel::Debug => 7,
    }
}

/// Whether standard error goes to the journal (systemd.exec(5), `JOURNAL_STREAM`).
pub(super) fn is_journal() -> bool {
    let name = |it: fs::Metadata| format!("{}:{}", it.dev(), it.ino());
    let here = fs::metadata("/proc/self/fd/2").map(name);
    env::var("JOURNAL_STREAM").ok().is_some_and(|stream| here.is_ok_and(|here| here == stream))
}

/// A log file. Text lines begin with the local time in brackets, as classic knockd's do; a JSON line
/// carries its time inside.
impl Sink for File {
    fn put(&mut self, _: LogLevel, time: &Zoned, line: &str) -> io::Result<()> {
        let text = match line.starts_with('{') {
            true => format!("{line}\n"),
            false => format!("[{}] {line}\n", time.strftime("%Y-%m-%d %H:%M:%S")),
        };
        let count = self.write(text.as_bytes())?;
        if count == text.len() {
            return Ok(());
        }
        // The beginning of a line would run into the next one.
        self.set_len(self.metadata()?.len().saturating_sub(count as u64))?;
        Err(io::ErrorKind::WriteZero.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_in_a_file_begins_with_the_local_time() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let time = jiff::Timestamp::from_second(1_700_000_000).unwrap();
        let time = time.to_zoned(jiff::tz::TimeZone::UTC);
        path.reopen().unwrap().put(LogLevel::Info, &time, "ssh: Stage 1").unwrap();
        let text = fs::read_to_string(path.path()).unwrap();
        assert_eq!(text, "[2023-11-14 22:13:20] ssh: Stage 1\n");
    }
}
