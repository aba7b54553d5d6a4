//! The error of knockctl, and its exit status.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use super::clients::client_file::NotOurs;
use super::edit::FileError;
use crate::capture::CaptureError;
use crate::client::complain;
use crate::config::load::Report;
use crate::config::{Config, Diagnostic, Door, Name};
use crate::log::escape;

/// The reason why a command of knockctl failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{0}")]
    Configuration(#[from] Report),
    /// It stands on standard output already.
    #[error("said")]
    Said,
    #[error("{0}")]
    Import(#[from] Diagnostic),
    #[error(
        "knockctl: error: {0} is not a directory, and a client gets a file of its own\n    \
         name the directory with -c, or write the client into the file by hand: see knock.d(5)"
    )]
    NoDirectory(PathBuf),
    #[error("knockctl: error: {0}")]
    File(#[from] FileError),
    #[error("{0}\n    change it by hand, or give the client another name")]
    NotOurs(#[from] NotOurs),
    #[error(
        "{0}\nknockctl: error: what it had opened is closed, but it can still knock\n    \
         remove it by hand, with every line below its name and its key files; then \
         'systemctl reload knockd'"
    )]
    NotRevoked(NotOurs),
    /// In words: what is wrong, and what to do.
    #[error("knockctl: error: {0}")]
    Unfit(String),
    #[error("knockctl: error: no random numbers can be had: {0}")]
    Random(#[from] getrandom::Error),
    /// Changes that would have made the configuration invalid.
    #[error(
        "{0}\nknockctl: error: with this change knockd could not start, so nothing has been changed"
    )]
    Undone(Report),
    #[error(
        "{report}\nknockctl: error: with this change knockd could not start, and it could not be taken \
         back: {source}"
    )]
    NotUndone { report: Report, source: FileError },
    #[error(
        "{0}\nknockctl: error: the files are changed, but the running knockd goes on as before\n    \
         once that is mended, 'systemctl reload knockd' takes them up, or a restart where one is asked for"
    )]
    NotTakenUp(Box<Error>),
    /// What that means for what `init` was to do.
    #[error("{why}\nknockctl: error: {so}")]
    NotInForce { why: Box<Error>, so: String },
    #[error("knockctl: error: {0}")]
    Capture(#[from] CaptureError),
    #[error(
        "knockctl: error: knockd is not running (nothing listens on {path})\n    \
         start it with 'systemctl start knockd'; why it ended is in 'journalctl -u knockd'; \
         if it runs with another configuration, name that with -c{doubt}",
        doubt = in_doubt(doubt.as_ref())
    )]
    NotRunning { path: PathBuf, doubt: Option<Report> },
    #[error(
        "knockctl: error: knockd is not running (nothing listens on {path}), so there is nothing to try\n    \
         start it on trial with '{}'; systemctl starts it for good",
        escape(.command)
    )]
    NothingRuns { path: PathBuf, command: String },
    #[error(
        "knockctl: error: no permission to ask knockd ({path})\n    \
         be root, or a member of the group knockd"
    )]
    NotAllowed { path: PathBuf },
    #[error("knockctl: error: cannot reach knockd at {path}: {source}")]
    Unreachable { path: PathBuf, source: io::Error },
    #[error(
        "knockctl: error: knockd does not answer ({path})\n    \
         'journalctl -u knockd' may say why; 'systemctl restart knockd' helps if it hangs"
    )]
    Silent { path: PathBuf },
    #[error(
        "knockctl: error: knockd has ended, or has closed the connection\n    'journalctl -u knockd' may say why"
    )]
    Ended,
    #[error(
        "knockctl: error: knockd gives an answer that this knockctl does not understand: {0}\n    \
         'knockd -V' and 'knockctl -V' should say the same; restart knockd after an upgrade"
    )]
    NotUnderstood(serde_json::Error),
    /// In the daemon's words.
    #[error("knockctl: error: {}", lines(.0))]
    Refused(String),
    #[error("knockctl: error: cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

impl Error {
    /// What cannot be done, where the error says it all.
    pub(super) fn unfit(error: impl Display) -> Self {
        Self::Unfit(error.to_string())
    }

    pub(super) fn no_door(config: &Config, door: &Name) -> Self {
        Self::not_among("door", door, config.doors.iter().map(Door::name))
    }

    pub(super) fn no_client(config: &Config, client: &Name) -> Self {
        Self::not_among("client", client, config.clients.iter().map(|client| &client.name))
    }

    /// There is no door, or client, of this name; those that there are.
    pub(super) fn not_among<'a>(
        what: &str,
        name: &Name,
        known: impl Iterator<Item = &'a Name>,
    ) -> Self {
        let known = known.map(Name::as_str).collect::<Vec<_>>().join(", ");
        Self::Unfit(if known.is_empty() {
            format!("there is no {what} '{name}'; there are no {what}s at all")
        } else {
            format!("there is no {what} '{name}'\n    the {what}s are: {known}")
        })
    }

    /// Says what went wrong. Someone who stops reading early is no error.
    pub(super) fn exit(self) -> ExitCode {
        match &self {
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return ExitCode::SUCCESS;
            }
            Self::Said => {}
            _ => complain(&self.to_string()),
        }
        ExitCode::FAILURE
    }
}

/// A report is several lines.
fn lines(text: &str) -> String {
    text.lines().map(escape).collect::<Vec<_>>().join("\n")
}

/// Not everything is known about where the daemon should be.
fn in_doubt(report: Option<&Report>) -> String {
    report.map_or_else(String::new, |report| {
        format!(
            "\nThe configuration could not be read whole, so knockd may be elsewhere:\n{report}"
        )
    })
}

/// Says something for people beside what is printed: nobody pipes it on by mistake.
pub(super) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "knockctl: {text}");
}
