//! Verbose output, warnings, and errors on the terminal.

use std::env;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Says errors and warnings on standard error, in colours where a terminal shows them and neither
/// `NO_COLOR` nor `TERM` forbids it.
pub fn complain(text: &str) {
    takes_time(None);
    let mut stderr = io::stderr().lock();
    let is_plain = !stderr.is_terminal()
        || env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || is_dumb();
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

/// Whether the terminal can do nothing but write one line after the other.
fn is_dumb() -> bool {
    env::var_os("TERM").is_none_or(|kind| kind == "dumb")
}

/// The time that a person at a terminal looks at nothing.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// Says on a terminal what takes longer than a second, as long as it does. What took time before
/// does so no more; `None`: nothing does.
pub(super) fn takes_time(line: Option<String>) {
    static SHOWN: Mutex<Option<(Sender<()>, JoinHandle<()>)>> = Mutex::new(None);
    let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((ends, progress)) = shown.take() {
        drop(ends);
        let _ = progress.join();
    }
    *shown = line.filter(|_| io::stderr().is_terminal() && !is_dumb()).map(|line| {
        let (ends, lasts) = mpsc::channel();
        (ends, thread::spawn(move || show(&line, &lasts)))
    });
}

/// Shows a line with the seconds that it lasts, until there is nobody who could end it; then the
/// line is erased.
fn show(line: &str, lasts: &Receiver<()>) {
    let seconds =
        (1u32..).take_while(|_| lasts.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout));
    let shown = seconds.map(|seconds| {
        // Without a wrap: a second line would not be erased.
        write!(io::stderr(), "\r\x1b[K\x1b[?7lknock: {line} ({seconds} s)\x1b[?7h")
    });
    if shown.count() > 0 {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
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
