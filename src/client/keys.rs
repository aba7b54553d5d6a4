//! Key files: reading those that only their owner can read, and making new ones.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::platform;
use crate::proto::Secret;
use crate::proto::spa::{PrivateKey, PublicKey};
use crate::proto::totp::parse_secret;
use crate::sys::files;

/// Longer than any secret with its blanks, and than a list that somebody carries along.
const MAX_SIZE: usize = 1 << 16;

/// The reason why a file gives no secret. What it holds is never shown.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyFileError {
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error(
        "a file belongs here, and this is the secret itself: write it to a file of mode 0600, \
         or make a new one, where somebody may have seen this"
    )]
    NotAFile,
    #[error("{} can be read by others: {remedy}", path.display())]
    Readable { path: PathBuf, remedy: String },
    #[error("{}: {why}", path.display())]
    Content { path: PathBuf, why: String },
}

/// The reason why there is no new key.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeygenError {
    #[error("{} exists already, and no key is ever overwritten{}", path.display(), its(public.as_ref()))]
    Exists { path: PathBuf, public: Option<PublicKey> },
    #[error("{}: cannot be written: {source}", path.display())]
    Unwritable { path: PathBuf, source: io::Error },
    #[error("this machine gives no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

fn its(public: Option<&PublicKey>) -> String {
    public.map(|key| format!(": its public key is {key}")).unwrap_or_default()
}

/// The private key in a file that only its owner can read.
///
/// # Errors
/// [`KeyFileError`] if others can read it, or if it holds no key.
pub(super) fn private_key(path: &Path) -> Result<PrivateKey, KeyFileError> {
    parsed(path, str::parse)
}

/// The TOTP secret in a file that only its owner can read.
///
/// # Errors
/// [`KeyFileError`] if others can read it, or if it holds no secret.
pub(super) fn totp_secret(path: &Path) -> Result<Secret, KeyFileError> {
    parsed(path, |text| parse_secret(text.trim()))
}

/// The key, or the secret, that `parse` finds in a file that only its owner can read.
///
/// # Errors
/// [`KeyFileError`] if others can read it, or if `parse` says so.
pub(super) fn parsed<T, E: Display>(
    path: &Path,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, KeyFileError> {
    parse(&read(path)?)
        .map_err(|why| KeyFileError::Content { path: path.to_owned(), why: why.to_string() })
}

fn read(path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound if is_secret(path) => KeyFileError::NotAFile,
        _ => KeyFileError::Unreadable { path: path.to_owned(), source },
    };
    let file = File::open(path).map_err(unreadable)?;
    if let Some(remedy) = platform::others_read(path, &file).map_err(unreadable)? {
        return Err(KeyFileError::Readable { path: path.to_owned(), remedy });
    }
    // All of the room is overwritten in the end: no more than is needed. A pipe has no length.
    let length = usize::try_from(file.metadata().map_err(unreadable)?.len()).unwrap_or(0);
    let room = 1 + if (1..MAX_SIZE).contains(&length) { length } else { MAX_SIZE };
    // Never grown: no copy of it stays behind.
    let mut text = Zeroizing::new(String::with_capacity(room));
    file.take(room as u64).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() > MAX_SIZE {
        let why = "this is not a file with a key: it is too long".to_owned();
        return Err(KeyFileError::Content { path: path.to_owned(), why });
    }
    Ok(text)
}

/// Whether what was given as the path of a file ends in a secret, which no error may show.
fn is_secret(path: &Path) -> bool {
    /// The length of a key in base64, which may have slashes in it.
    const KEY: usize = 44;
    let text = path.to_str().unwrap_or_default();
    let end = text.len().checked_sub(KEY).and_then(|start| text.get(start..));
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    end.is_some_and(|key| key.parse::<PrivateKey>().is_ok()) || parse_secret(name).is_ok()
}

/// Writes a new private key into a new file that only its owner can read, and returns the public
/// one.
///
/// # Errors
/// [`KeygenError`] if there is such a file already, or it cannot be written.
pub(super) fn keygen(path: &Path) -> Result<PublicKey, KeygenError> {
    let mut random = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *random)?;
    let key = PrivateKey::from(*random);
    let unwritable = |source| KeygenError::Unwritable { path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        files::make_directory(directory, 0o700).map_err(unwritable)?;
    }
    let mut file = files::create(path).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => {
            let public = private_key(path).ok().map(|key| key.public());
            KeygenError::Exists { path: path.to_owned(), public }
        }
        _ => unwritable(source),
    })?;
    let mut line = key.encode();
    line.push('\n');
    file.write_all(line.as_bytes()).and_then(|()| file.sync_all()).map_err(|source| {
        // Half a key is worse than none.
        let _ = fs::remove_file(path);
        unwritable(source)
    })?;
    Ok(key.public())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("work.key");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        (directory, path)
    }

    const PRIVATE: &str = "tgPY74An3thtrObu/mblPRwjkjver9khsuXqhRzzmKY=\n";
    const PUBLIC: &str = "ngoLprV+qNBob6m9GZw5OwFUkkMyE9L1O1BKH/3WJCU=";
    const SECRET: &str = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP";

    #[test]
    fn a_key_file_is_one_line() {
        let (_directory, path) = file(PRIVATE);
        assert_eq!(private_key(&path).unwrap().public().to_string(), PUBLIC);
    }

    #[test]
    fn a_secret_may_be_written_as_people_pass_it_on() {
        let (_directory, path) = file("jbsw y3dp ehpk 3pxp jbsw y3dp ehpk 3pxp\n");
        assert_eq!(totp_secret(&path).unwrap(), parse_secret(SECRET).unwrap());
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let (_directory, path) = file(PRIVATE);
        for (mode, private) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(private_key(&path).is_ok(), private, "{mode:o}");
        }
        assert_eq!(
            private_key(&path).unwrap_err().to_string(),
            format!("{0} can be read by others: chmod 600 {0}", path.display())
        );
    }

    #[test]
    fn what_is_wrong_with_a_file_never_shows_what_it_holds() {
        let long = "JBSWY3DP".repeat(MAX_SIZE / 8 + 1);
        for text in ["", "JBSWY3DP", "JBSWY3D!JBSWY3DPJBSWY3DPJBSWY3DP", long.as_str()] {
            let (_directory, path) = file(text);
            let errors = [private_key(&path).unwrap_err(), totp_secret(&path).unwrap_err()];
            for error in errors.map(|error| error.to_string()) {
                assert!(error.starts_with(&path.display().to_string()), "{error}");
                assert!(!error.contains("JBSWY3D"), "{error}");
            }
        }
    }

    #[test]
    fn a_secret_in_the_place_of_a_file_is_not_repeated() {
        for secret in [PRIVATE.trim(), "4BbmHjtWeVM7bEaAdK2cj0F9oCf/oNUue5BUuSUn6kA=", SECRET] {
            for path in [PathBuf::from(secret), Path::new("/nonexistent").join(secret)] {
                assert!(matches!(private_key(&path), Err(KeyFileError::NotAFile)), "{secret}");
                assert!(matches!(totp_secret(&path), Err(KeyFileError::NotAFile)), "{secret}");
            }
        }
        let missing = private_key(Path::new("/nonexistent/work.key"));
        assert!(matches!(missing, Err(KeyFileError::Unreadable { .. })));
    }

    #[test]
    fn a_new_key_can_be_read_by_nobody_else_and_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new.key");
        let public = keygen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(private_key(&path).unwrap().public(), public);
        let again = keygen(&path).unwrap_err().to_string();
        assert!(again.ends_with(&format!("ever overwritten: its public key is {public}")));
        assert_eq!(private_key(&path).unwrap().public(), public);
    }

    #[test]
    fn a_link_to_nowhere_is_not_followed_by_a_new_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new.key");
        std::os::unix::fs::symlink(directory.path().join("elsewhere"), &path).unwrap();
        assert!(matches!(keygen(&path), Err(KeygenError::Exists { public: None, .. })));
    }
}
