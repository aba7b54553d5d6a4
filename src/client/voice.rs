//! What is said beside the errors.

use std::fmt::Display;
use std::io::{self, Write};

use crate::config::diagnostic::Diagnostic;

/// Whom to tell what is done, if anyone. Nothing that only accompanies the knocking keeps it from
/// happening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voice {
    /// Where `-v` speaks; `None`: nowhere.
    pub aloud: Option<Stream>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Output,
    /// Where standard output is somebody's connection.
    Error,
}

impl Voice {
    #[cfg(test)]
    pub const SILENT: Self = Self { aloud: None };

    /// Says a line with `-v`.
    pub fn say<T: Display>(self, line: impl FnOnce() -> T) {
        let _ = match self.aloud {
            Some(Stream::Output) => writeln!(io::stdout(), "{}", line()),
            Some(Stream::Error) => writeln!(io::stderr(), "knock: {}", line()),
            None => Ok(()),
        };
    }

    /// Says what begins with a place, as editors want it.
    pub fn warn_of_file(self, doubt: &Diagnostic) {
        let _ = writeln!(io::stderr(), "{doubt}");
    }

    /// Says what the user should know in any case.
    pub fn warn(self, doubt: &dyn Display) {
        let _ = writeln!(io::stderr(), "knock: warning: {doubt}");
    }
}
