//! The daemon's pid file, its directories, and leaving the terminal.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process;

use daemonize::{Daemonize, Outcome, Stdio};
use nix::fcntl::Flock;

use crate::sys::files;
use crate::sys::lock_file::{self, LockFileError};

/// The reason why the process cannot become the daemon.
#[derive(Debug, thiserror::Error)]
pub(super) enum DaemonError {
    #[error("knockd is running already (process {pid}, {path})", path = path.display())]
    Running { pid: String, path: PathBuf },
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "cannot make the directory {path}: {source}; run_dir, state_dir and pid_file name others",
        path = path.display()
    )]
    Directory { path: PathBuf, source: io::Error },
    #[error("there is no group '{0}'")]
    NoGroup(String),
    #[error("cannot detach from the terminal: {0}")]
    Detach(String),
}

/// Makes a directory, and those above it, where it does not exist.
///
/// # Errors
/// [`DaemonError::Directory`].
pub(super) fn make_directory(path: &Path, mode: u32) -> Result<(), DaemonError> {
    let made = files::make_directory(path, mode);
    made.map_err(|source| DaemonError::Directory { path: path.to_owned(), source })
}

/// A pid file that is locked for as long as this lives, and then removed.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    _lock: Flock<File>,
}

impl PidFile {
    /// Locks the file and writes this process's id. A file that nobody has locked is stale.
    ///
    /// # Errors
    /// [`DaemonError::Running`] when another process has locked it.
    pub(super) fn lock(path: &Path) -> Result<Self, DaemonError> {
        let failed = |doing, source| DaemonError::File { doing, path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            make_directory(directory, 0o755)?;
        }
        let (lock, written) = lock_file::lock(path, 0o644).map_err(|error| match error {
            LockFileError::Held { pid } => DaemonError::Running { pid, path: path.to_owned() },
            LockFileError::File { doing, source } => failed(doing, source),
        })?;
        written.map_err(|source| failed("write", source))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // It is stale from here on in any case.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The process that has launched the daemon: it learns whether start-up worked.
#[derive(Debug)]
pub(super) struct Launcher {
    parent: File,
}

/// Leaves the terminal. Standard error stays until [`Launcher::started`], for what goes wrong.
///
/// Returns in the daemon only: the process that was called waits until start-up has worked or
/// failed, and exits with 0 or 1 accordingly.
///
/// # Errors
/// [`DaemonError::Detach`].
pub(super) fn detach() -> Result<Launcher, DaemonError> {
    let detach = |error: &dyn std::fmt::Display| DaemonError::Detach(error.to_string());
    let (read, write) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|error| detach(&error))?;
    let daemon = Daemonize::new().working_directory("/").stderr(Stdio::keep());
    match daemon.execute() {
        Outcome::Parent(Ok(_)) => {
            drop(write);
            let mut answer = [0; 1];
            // Without an answer the daemon has ended, and has said why.
            let started = matches!(File::from(read).read(&mut answer), Ok(1));
            process::exit(i32::from(!started));
        }
        Outcome::Child(Ok(_)) => Ok(Launcher { parent: write.into() }),
        Outcome::Parent(Err(error)) | Outcome::Child(Err(error)) => Err(detach(&error)),
    }
}

impl Launcher {
    /// Lets the process that was left behind exit with 0, and closes standard error.
    ///
    /// # Errors
    /// When there is no `/dev/null`.
    pub(super) fn started(mut self) -> io::Result<()> {
        // Nobody may be waiting any more.
        let _ = self.parent.write_all(&[1]);
        nix::unistd::dup2_stderr(&OpenOptions::new().write(true).open("/dev/null")?)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_pid_file_means_that_knockd_is_running() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/knockd.pid");
        let held = PidFile::lock(&path).unwrap();
        let error = PidFile::lock(&path).unwrap_err();
        assert!(error.to_string().contains(&format!("process {}", process::id())), "{error}");
        drop(held);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_pid_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("knockd.pid");
        std::fs::write(&path, "999999999 and more\n").unwrap();
        let _held = PidFile::lock(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", process::id()));
    }
}
