//! Verbose output, warnings, and errors on the terminal.

use std::env;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Mutex, OnceLock, PoisonError};
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

/// The stream of the messages of `-v`; not set: they are not wanted.
static VERBOSE: OnceLock<Stream> = OnceLock::new();

/// A standard stream that messages go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Output,
    /// Where standard output is somebody's connection.
    Error,
}

/// Has the messages of `-v` said on a stream from now on.
pub(super) fn be_verbose(stream: Stream) {
    let _ = VERBOSE.set(stream);
}

/// Says a line with `-v`. What took time before it does so no more. Nothing of it keeps the
/// knocking from happening.
pub(super) fn say<T: Display>(line: impl FnOnce() -> T) {
    let _ = match VERBOSE.get() {
        Some(Stream::Output) => writeln!(io::stdout(), "{}", line()),
        Some(Stream::Error) => writeln!(io::stderr(), "knock: {}", line()),
        None => return takes_time(None),
    };
}

/// Says with `-v` what may take time from now on; in any case on a terminal, where it does.
pub(super) fn say_what_lasts<T: Display>(line: impl FnOnce() -> T) {
    if VERBOSE.get().is_some() { say(line) } else { say_if_it_lasts(line) }
}

/// Says only on a terminal, and without `-v`, what takes time from now on.
pub(super) fn say_if_it_lasts<T: Display>(line: impl FnOnce() -> T) {
    if VERBOSE.get().is_none() {
        takes_time(Some(line().to_string()));
    }
}

/// Says what the user should know in any case.
pub(super) fn warn(doubt: &dyn Display) {
    complain(&format!("knock: warning: {doubt}"));
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
