//! The paths that knockd keeps its own files under: used only where nobody else could have put
//! something in their place. What is in the ledger runs as root.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::diagnostic::{Diagnosed, Diagnostic};
use super::permissions::{OTHERS_WRITE, Options, unsafe_to_use};
use super::settings::Settings;

/// The files of knockd in the state directory.
const STATE: [&str; 8] =
    ["ledger.db", "ledger.db-wal", "ledger.db-shm", "lock", "trial", "commands", "hooks", "guard"];

/// As many links as the kernel follows in one path.
const LINKS: usize = 40;

/// The end of a path: what it has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaf {
    /// A directory for files of knockd, in which nobody else may make any.
    Directory,
    /// A file of knockd, itself and not a link to it.
    File,
    /// Whoever opens it looks at it.
    Opened,
}

/// Checks the state and run directories, the pid file, and what is in the state directory.
///
/// What does not exist is in order: who makes it owns it.
///
/// # Errors
/// Names the first that others could have put there or could change.
pub(crate) fn check_paths(settings: &Settings, options: Options) -> Diagnosed<()> {
    let state = &settings.state_dir;
    check_path(state, Leaf::Directory, options)?;
    check_path(&settings.run_dir, Leaf::Directory, options)?;
    check_path(&settings.pid_file, Leaf::File, options)?;
    STATE.iter().try_for_each(|name| check_path(&state.join(name), Leaf::File, options))
}

/// Checks that only root and the running user could have put there what a path leads to, as far as
/// it exists: that all its directories and links are theirs, and that others can write a directory
/// only where its sticky bit keeps them from what is not theirs.
///
/// # Errors
/// Says whose something is, or who else can write it.
pub(crate) fn check_path(path: &Path, leaf: Leaf, options: Options) -> Diagnosed<()> {
    if options.insecure_permissions {
        return Ok(());
    }
    let fail = |path: &Path, error: &io::Error| {
        Diagnostic::file(path, format!("cannot be looked at: {error}"))
    };
    let absolute = std::path::absolute(path).map_err(|error| fail(path, &error))?;
    let mut rest = parts(&absolute);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    loop {
        let metadata = match fs::symlink_metadata(&at) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(fail(&at, &error)),
        };
        let (is_leaf, is_link) = (rest.is_empty(), metadata.is_symlink());
        if is_leaf && !is_link && leaf == Leaf::Opened {
            return Ok(());
        }
        // In a user namespace the directories above belong to somebody who is not in it.
        let also = if is_leaf { None } else { fs::metadata("/").ok().map(|top| top.uid()) };
        let is_sticky = !is_leaf && metadata.mode() & 0o1000 != 0;
        let forbidden = if is_link || is_sticky { 0 } else { OTHERS_WRITE };
        let otherwise = "; --insecure-permissions takes it as it is";
        if let Some(error) = unsafe_to_use(&at, &metadata, also, forbidden, otherwise) {
            return Err(error);
        }
        if is_leaf && leaf == Leaf::File && !is_link && !metadata.is_file() {
            return Err(Diagnostic::file(&at, "is not a file").help("take it away"));
        }
        if is_link {
            links += 1;
            if (is_leaf && leaf == Leaf::File) || links > LINKS {
                let help = "put the file itself there, or take the link away";
                return Err(Diagnostic::file(&at, "is a symbolic link").help(help));
            }
            let target = fs::read_link(&at).map_err(|error| fail(&at, &error))?;
            at.pop();
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            rest.extend(parts(&target));
        }
        match rest.pop() {
            None => return Ok(()),
            Some(name) if name == ".." => drop(at.pop()),
            Some(name) => at.push(name),
        }
    }
}

/// What a path goes on with, the last part first.
fn parts(path: &Path) -> Vec<OsString> {
    let is_part =
        |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
    path.components().filter(is_part).rev().map(|part| part.as_os_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn check(path: &Path, leaf: Leaf) -> Result<(), String> {
        check_path(path, leaf, Options::default()).map_err(|problem| problem.to_string())
    }

    fn make(path: &Path, mode: u32) {
        fs::create_dir(path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_others_can_write_is_refused_wherever_in_the_path_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (above, state) = (dir.path().join("above"), dir.path().join("above/state"));
        make(&above, 0o755);
        make(&state, 0o700);
        for (path, mode) in [(&above, 0o777), (&above, 0o757), (&state, 0o722)] {
            let before = fs::metadata(path).unwrap().permissions();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            let problem = check(&state, Leaf::Directory).unwrap_err();
            let said = format!("{}: error: others than its owner can write it", path.display());
            assert!(problem.starts_with(&said), "{problem}");
            assert!(problem.contains(&format!("chmod go-w {}", path.display())), "{problem}");
            let insecure = Options { insecure_permissions: true };
            assert!(check_path(&state, Leaf::Directory, insecure).is_ok());
            fs::set_permissions(path, before).unwrap();
        }
        assert_eq!(check(&state, Leaf::Directory), Ok(()));
    }

    #[test]
    fn a_file_of_knockds_is_a_file() {
        let dir = tempfile::tempdir().unwrap();
        make(&dir.path().join("lock"), 0o700);
        let problem = check(&dir.path().join("lock"), Leaf::File).unwrap_err();
        assert!(problem.contains("lock: error: is not a file"), "{problem}");
    }

    #[test]
    fn the_sticky_bit_keeps_others_from_what_is_below() {
        let dir = tempfile::tempdir().unwrap();
        let shared = dir.path().join("shared");
        make(&shared, 0o1777);
        make(&shared.join("state"), 0o700);
        assert_eq!(check(&shared.join("state"), Leaf::Directory), Ok(()));
        assert_eq!(check(&shared.join("not/there/yet"), Leaf::Directory), Ok(()));
    }

    #[test]
    fn links_are_followed_but_for_files_of_our_own() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        make(&real, 0o700);
        fs::write(real.join("lock"), "").unwrap();
        symlink("real", dir.path().join("relative")).unwrap();
        symlink(&real, dir.path().join("absolute")).unwrap();
        symlink("../real/../absolute/lock", real.join("link")).unwrap();
        symlink("circle", dir.path().join("circle")).unwrap();
        for path in ["relative", "absolute", "relative/../absolute"] {
            assert_eq!(check(&dir.path().join(path), Leaf::Directory), Ok(()));
            assert_eq!(check(&dir.path().join(path).join("lock"), Leaf::File), Ok(()));
            assert_eq!(check(&dir.path().join(path).join("link"), Leaf::Opened), Ok(()));
            let problem = check(&dir.path().join(path).join("link"), Leaf::File).unwrap_err();
            assert!(problem.contains("link: error: is a symbolic link"), "{problem}");
        }
        assert!(check(&dir.path().join("circle"), Leaf::Directory).is_err());
        fs::set_permissions(&real, fs::Permissions::from_mode(0o772)).unwrap();
        assert!(check(&dir.path().join("relative/lock"), Leaf::File).is_err());
    }

    #[test]
    fn what_belongs_to_somebody_else_is_refused_and_so_is_a_link_of_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let (theirs, link) = (dir.path().join("theirs"), dir.path().join("link"));
        make(&theirs, 0o755);
        symlink("/", &link).unwrap();
        let give = |path: &Path| std::os::unix::fs::lchown(path, Some(12345), None);
        if chown(&theirs, Some(12345), None).and_then(|()| give(&link)).is_err() {
            // Only root can give files away.
            return;
        }
        for path in [theirs.clone(), theirs.join("state"), link.clone(), link.join("tmp")] {
            let problem = check(&path, Leaf::Directory).unwrap_err();
            assert!(problem.contains("belongs to user 12345"), "{problem}");
            assert!(problem.contains("run: chown"), "{problem}");
        }
    }

    #[test]
    fn a_directory_that_is_everybodys_is_not_to_be_closed_to_them() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        let problem = check(directory.path(), Leaf::Directory).unwrap_err();
        assert!(problem.contains("name a directory below it that is knockd's alone"), "{problem}");
        assert!(!problem.contains("chmod"), "{problem}");
    }
}
