//! Transactions over several files: all of them change, or none.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use zeroize::Zeroizing;

use crate::sys::files;

/// The reason why a file could not be changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("cannot {doing} {path}: {source}")]
    Failed { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{0} is being changed by another knockctl\n    try again when that has ended")]
    Busy(PathBuf),
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError::Failed { doing, path: path.to_owned(), source }
}

/// Sees to it that nobody else enrols or revokes in this directory as long as the lock lives.
///
/// # Errors
/// [`FileError::Busy`] when somebody else is at it.
pub(super) fn lock(directory: &Path) -> Result<Flock<File>, FileError> {
    let opened = File::open(directory).map_err(failed("open", directory))?;
    Flock::lock(opened, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => FileError::Busy(directory.to_owned()),
        errno => failed("lock", directory)(errno.into()),
    })
}

/// Changes that belong together, in their order: the new text of each file, or its end.
#[derive(Debug, Default)]
#[must_use]
pub(super) struct Edit(VecDeque<(PathBuf, Option<Zeroizing<String>>)>);

impl Edit {
    /// Writes the whole file, mode 0600. Whoever reads it meanwhile reads all of the old one or all
    /// of the new one, also after a power cut.
    pub(super) fn write(&mut self, path: PathBuf, text: Zeroizing<String>) {
        self.0.push_back((path, Some(text)));
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&mut self, path: PathBuf) {
        self.0.push_back((path, None));
    }

    /// Makes all changes, or none; gives those that put everything back as it was.
    ///
    /// # Errors
    /// The first that could not be made; those before it are undone.
    pub(super) fn make(self) -> Result<Self, FileError> {
        let mut undo = Self::default();
        for (path, text) in self.0 {
            match read(&path).and_then(|before| change(&path, text.as_ref()).map(|()| before)) {
                Ok(before) => undo.0.push_front((path, before)),
                Err(error) => {
                    // What went wrong first says more than what follows from it.
                    let _ = undo.make_each();
                    return Err(error);
                }
            }
        }
        Ok(undo)
    }

    /// Makes each change that can be made.
    ///
    /// # Errors
    /// The first that could not be made; the others are.
    pub(super) fn make_each(self) -> Result<(), FileError> {
        let made = self.0.iter().map(|(path, text)| change(path, text.as_ref()));
        made.fold(Ok(()), Result::and)
    }
}

fn change(path: &Path, text: Option<&Zeroizing<String>>) -> Result<(), FileError> {
    match text {
        Some(text) => files::replace(path, text.as_bytes()).map_err(failed("write", path)),
        None => files::remove(path).map_err(failed("remove", path)),
    }
}

/// The text of a file; `None`: it is not there.
///
/// # Errors
/// When it cannot be read.
pub(super) fn read(path: &Path) -> Result<Option<Zeroizing<String>>, FileError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(Zeroizing::new(text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Makes a file that was not there, mode 0600.
///
/// # Errors
/// Also when there is one already. Half a file is never left.
pub(super) fn write_new(path: &Path, text: &str) -> Result<(), FileError> {
    let mut file = files::create(path).map_err(failed("make", path))?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(failed("write", path)).inspect_err(|_| drop(fs::remove_file(path)))
}

/// Writes a whole file with this mode; one that is there is replaced.
///
/// # Errors
/// Also when there is something else, a link or a device.
pub(super) fn replace(path: &Path, text: &str, mode: u32) -> Result<(), FileError> {
    let written = match fs::symlink_metadata(path) {
        Ok(there) if !there.is_file() => Err(io::Error::other("it is no plain file")),
        _ => files::replace_with_mode(path, text.as_bytes(), mode),
    };
    written.map_err(failed("write", path))
}

/// Makes a directory for secrets, mode 0700, unless it is there.
///
/// # Errors
/// When it can't be made.
pub(super) fn make_directory(path: &Path) -> Result<(), FileError> {
    files::make_directory(path, 0o700).map_err(failed("make the directory", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn text(text: &str) -> Zeroizing<String> {
        Zeroizing::new(text.to_owned())
    }

    /// What a directory holds, hidden files too.
    fn listed(directory: &Path) -> Vec<(String, String)> {
        let entry = |entry: io::Result<fs::DirEntry>| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        };
        let mut listed: Vec<_> = fs::read_dir(directory).unwrap().map(entry).collect();
        listed.sort();
        listed
    }

    fn pair(name: &str, text: &str) -> (String, String) {
        (name.to_owned(), text.to_owned())
    }

    #[test]
    fn what_is_written_is_for_its_owner_only_and_leaves_nothing_else_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let mut edit = Edit::default();
        edit.write(path.clone(), text("one"));
        let _ = edit.make().unwrap();
        assert_eq!(listed(directory.path()), [pair("a", "one")]);
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_is_undone_was_never_there() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for (name, text) in [("changed", "before"), ("removed", "stays")] {
            fs::write(at(name), text).unwrap();
        }
        let before = listed(directory.path());
        let mut edit = Edit::default();
        edit.write(at("new"), text("x"));
        edit.write(at("changed"), text("after"));
        edit.write(at("changed"), text("once more"));
        edit.remove(at("removed"));
        edit.remove(at("never there"));
        let made = edit.make().unwrap();
        assert_eq!(listed(directory.path()), [pair("changed", "once more"), pair("new", "x")]);
        made.make_each().unwrap();
        assert_eq!(listed(directory.path()), before);
    }

    #[test]
    fn a_change_that_fails_takes_back_those_before_it() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a"), "before").unwrap();
        let mut edit = Edit::default();
        edit.write(directory.path().join("a"), text("after"));
        edit.write(directory.path().join("nowhere/b"), text("x"));
        let error = edit.make().unwrap_err().to_string();
        assert!(error.starts_with("cannot write ") && error.contains("nowhere/b"), "{error}");
        assert_eq!(listed(directory.path()), [pair("a", "before")]);
    }

    #[test]
    fn what_a_killed_program_has_left_is_in_nobodys_way() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(".a.new"), "half").unwrap();
        let mut edit = Edit::default();
        edit.write(directory.path().join("a"), text("whole"));
        let _ = edit.make().unwrap();
        assert_eq!(listed(directory.path()), [pair("a", "whole")]);
    }

    #[test]
    fn a_new_file_never_replaces_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        write_new(&path, "one").unwrap();
        assert!(write_new(&path, "two").is_err());
        assert_eq!(listed(directory.path()), [pair("a", "one")]);
    }

    #[test]
    fn two_never_change_a_directory_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let held = lock(directory.path()).unwrap();
        assert!(matches!(lock(directory.path()), Err(FileError::Busy(_))));
        drop(held);
        lock(directory.path()).unwrap();
    }

    #[test]
    fn a_directory_of_secrets_is_for_its_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        make_directory(&path).unwrap();
        make_directory(&path).unwrap();
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
