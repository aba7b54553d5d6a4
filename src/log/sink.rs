//! Standard error and files, which take log lines.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;

use jiff::Zoned;

use super::record::Facts;
use crate::config::LogLevel;

/// A place for log lines. It takes one at a time and never fails: there is nobody left to tell.
pub(super) trait Sink {
    fn write(&mut self, level: LogLevel, time: &Zoned, line: &str);
}

/// Standard error.
pub(super) struct StandardError;

impl Sink for StandardError {
    fn write(&mut self, level: LogLevel, _: &Zoned, line: &str) {
        let level = stderr_level(level);
        // One write a line, so that lines of several processes do not mix.
        let _ = io::stderr().write_all(format!("{level}{line}\n").as_bytes());
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

/// A log file. Text lines begin with the local time in brackets, as classic knockd's do.
pub(super) struct File {
    file: fs::File,
    lost: u64,
}

impl File {
    pub(super) const fn new(file: fs::File) -> Self {
        Self { file, lost: 0 }
    }
}

impl Sink for File {
    fn write(&mut self, _: LogLevel, time: &Zoned, line: &str) {
        // A JSON line carries its time inside.
        let is_json = line.starts_with('{');
        let stamp = time.strftime("%Y-%m-%d %H:%M:%S");
        let stamped = |line: &str| format!("[{stamp}] {line}\n");
        let mut text = String::new();
        if self.lost > 0 {
            let lost = format!("{} log lines could not be written here", self.lost);
            text += &if is_json {
                Facts::saying(&lost).json(time, LogLevel::Warning) + "\n"
            } else {
                stamped(&lost)
            };
        }
        text += &if is_json { format!("{line}\n") } else { stamped(line) };
        match self.file.write(text.as_bytes()) {
            Ok(count) if count == text.len() => self.lost = 0,
            written => {
                self.lost += 1;
                // The beginning of a line would run into the next one.
                if let (Ok(count), Ok(it)) = (written, self.file.metadata()) {
                    let _ = self.file.set_len(it.len().saturating_sub(count as u64));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_line_in_a_file_begins_with_the_local_time() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let mut sink = File::new(path.reopen().unwrap());
        let time = jiff::Timestamp::from_second(1_700_000_000).unwrap();
        sink.write(LogLevel::Info, &time.to_zoned(jiff::tz::TimeZone::UTC), "ssh: Stage 1");
        let mut text = String::new();
        path.reopen().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "[2023-11-14 22:13:20] ssh: Stage 1\n");
    }

    #[test]
    fn that_lines_are_missing_is_said_in_the_form_of_those_that_are_there() {
        for (line, before) in
            [("ssh: Stage 1", "[1970-"), ("{\"message\":\"Stage 1\"}", "{\"level\"")]
        {
            let path = tempfile::NamedTempFile::new().unwrap();
            let mut sink = File { file: path.reopen().unwrap(), lost: 3 };
            let time = jiff::Timestamp::from_second(1_000_000).unwrap();
            sink.write(LogLevel::Info, &time.to_zoned(jiff::tz::TimeZone::UTC), line);
            let text = fs::read_to_string(path.path()).unwrap();
            let (said, rest) = text.split_once('\n').unwrap();
            assert!(said.starts_with(before), "{said}");
            assert!(said.contains("3 log lines could not be written here"), "{said}");
            assert!(rest.ends_with(&format!("{line}\n")), "{rest}");
        }
    }

    #[test]
    fn lines_that_a_full_disk_swallowed_are_counted() {
        let mut sink = File::new(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
        sink.write(LogLevel::Info, &Zoned::default(), "lost");
        assert_eq!(sink.lost, 1);
    }
}
