//! Knocking with the first line of a list that is left, which is struck out as the server does it.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::keys::{self, KeyFileError};
use super::platform;
use super::schedule::Schedule;
use crate::config::one_time::{self, OneTimeLine, STRUCK};
use crate::sys::files;

/// A list of sequences that open once, and the line of it that is knocked.
#[derive(Clone, Debug)]
pub(super) struct OneTimeKnocker {
    pub file: PathBuf,
    pub line: OneTimeLine,
    /// Between two knocks.
    pub delay: Duration,
}

impl OneTimeKnocker {
    /// Strikes out the line that is first by now, and knocks that one from here on. Of several
    /// programs that do so at once, each has a line of its own.
    ///
    /// # Errors
    /// [`KeyFileError`] if it cannot be written, or as [`first`].
    pub(super) fn strike_out(&mut self) -> Result<(), KeyFileError> {
        let failed = |source: io::Error| KeyFileError::Content {
            path: self.file.clone(),
            why: format!("no line can be struck out, so none is knocked: {source}"),
        };
        let file = OpenOptions::new().write(true).open(&self.file).map_err(failed)?;
        platform::lock(&file).map_err(failed)?;
        self.line = first(&self.file)?;
        files::overwrite(&file, self.line.offset, STRUCK).map_err(failed)
    }

    pub(super) fn schedule(&self) -> Schedule {
        Schedule::new(&self.line.knocks, self.delay)
    }

    /// Advice for where nothing opened.
    pub(super) fn advice(&self) -> String {
        let (line, file) = (self.line.number, self.file.display());
        format!("if the server's list still has line {line}, write it in {file} as it was")
    }
}

const NONE_LEFT: &str =
    "no line is left: make a new list with 'knockctl one-time', for the server too";

/// The first line of a list that is left.
///
/// # Errors
/// [`KeyFileError`] if others can read it, or if there is none.
pub(super) fn first(file: &Path) -> Result<OneTimeLine, KeyFileError> {
    keys::parsed(file, |text| {
        let lines = one_time::parse(text).map_err(|errors| {
            let wrong = errors.iter().map(|wrong| format!("line {}: {wrong}", wrong.line));
            wrong.collect::<Vec<_>>().join("; ")
        })?;
        lines.into_iter().next().ok_or_else(|| NONE_LEFT.to_owned())
    })
}
