//! Verbose output, warnings, and errors on the terminal.

use std::env;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Says errors and warnings on standard error, in colours where a terminal shows them and neither
/// `NO_COLOR` nor `TERM` forbids it.
pub fn complain(text: &str) {
    let mut stderr = io::stderr().lock();
    let is_plain = !stderr.is_terminal()
        || env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || env::var_os("TERM").is_none_or(|kind| kind == "dumb");
    for line in text.lines() {
        let line = if is_plain { line.to_owned() } else { coloured(line) };
        let _ = writeln!(stderr, "{line}");
    }
}

/// The line with the word in colour that says how grave it is. What is quoted is indented, and
/// stays as it is.
fn coloured(line: &str) -> String {
    match line {
        _ if line.starts_with("    ") => line.to_owned(),
        _ if line.contains("warning: ") => {
            line.replacen("warning: ", "\x1b[1;33mwarning: \x1b[0m", 1)
        }
        _ => line.replacen("error: ", "\x1b[1;31merror: \x1b[0m", 1),
    }
}

/// The time that a person at a terminal looks at nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// Says on a terminal what takes longer than a second, once. What took time before does so no more;
/// `None`: nothing does.
fn takes_time(line: Option<String>) {
    static ENDS: Mutex<Option<Sender<()>>> = Mutex::new(None);
    let ends = line.filter(|_| io::stderr().is_terminal()).map(|line| {
        let (ends, lasts) = mpsc::channel();
        thread::spawn(move || {
            if lasts.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                let _ = writeln!(io::stderr(), "knock: {line}");
            }
        });
        ends
    });
    *ENDS.lock().unwrap_or_else(PoisonError::into_inner) = ends;
}

/// The output that accompanies the knocking: verbose lines, and warnings. Nothing of it keeps the
/// knocking from happening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Messages {
    /// The stream of the messages of `-v`; `None`: they are not wanted.
    pub verbose: Option<Stream>,
}

/// A standard stream that messages go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Output,
    /// Where standard output is somebody's connection.
    Error,
}

impl Messages {
    /// Neither `-v` nor a terminal.
    #[cfg(test)]
    pub(super) const SILENT: Self = Self { verbose: None };

    /// Says a line with `-v`. What took time before it does so no more.
    pub(super) fn say<T: Display>(self, line: impl FnOnce() -> T) {
        let _ = match self.verbose {
            Some(Stream::Output) => writeln!(io::stdout(), "{}", line()),
            Some(Stream::Error) => writeln!(io::stderr(), "knock: {}", line()),
            None => return takes_time(None),
        };
    }

    /// Says with `-v` what may take time from now on; in any case on a terminal, where it does.
    pub(super) fn say_what_lasts<T: Display>(self, line: impl FnOnce() -> T) {
        match self.verbose {
            Some(_) => self.say(line),
            None => takes_time(Some(line().to_string())),
        }
    }

    /// Says what the user should know in any case.
    pub(super) fn warn(self, doubt: &dyn Display) {
        complain(&format!("knock: warning: {doubt}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_that_says_how_grave_it_is_has_a_colour() {
        for (line, shown) in [
            ("f.yaml:1:2: error: odd", "f.yaml:1:2: \x1b[1;31merror: \x1b[0modd"),
            ("knock: warning: error: x", "knock: \x1b[1;33mwarning: \x1b[0merror: x"),
            ("    a: error: quoted", "    a: error: quoted"),
            ("well", "well"),
        ] {
            assert_eq!(coloured(line), shown);
        }
    }
}
