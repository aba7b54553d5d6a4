//! The server's private key: read only where nobody else could have read or written it.

use std::fs;
use std::io;
use std::path::Path;

use super::files::{one_line, read_secret};
use crate::config::trusted_path::{Leaf, check_path};
use crate::config::{Diagnosed, Diagnostic, Options};
use crate::proto::spa::PrivateKey;

/// The key in a file; `None`: there is no such file.
///
/// # Errors
/// Says why it cannot be read, who else could have, or why it is not a key. It never quotes what
/// was read.
pub fn read_server_key(path: &Path, options: Options) -> Diagnosed<Option<PrivateKey>> {
    check_path(path, Leaf::Opened, options)?;
    if fs::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    let text = read_secret(path, options)?;
    let line = one_line(&text).map_err(|why| Diagnostic::file(path, why))?;
    let key = line.parse().map_err(|error| format!("is not a key: {error}"));
    key.map(Some).map_err(|why| Diagnostic::file(path, why))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const KEY: &str = "uYMqxqI17aCacPp6idHMh0dtJZZSZ9PlaFvOcmwg7C4=";

    fn read(text: &str, mode: u32) -> Result<Option<PrivateKey>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("server.key");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        read_server_key(&path, Options::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_file_holds_one_line() {
        assert_eq!(read(&format!("{KEY}\n"), 0o600), Ok(Some(KEY.parse().unwrap())));
        assert_eq!(read(KEY, 0o400), Ok(Some(KEY.parse().unwrap())));
    }

    #[test]
    fn a_file_that_is_not_there_is_no_error() {
        let directory = tempfile::tempdir().unwrap();
        let read = read_server_key(&directory.path().join("none"), Options::default());
        assert!(matches!(read, Ok(None)));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        for mode in [0o640, 0o604, 0o620] {
            let error = read(KEY, mode).unwrap_err();
            assert!(error.contains("chmod"), "{error}");
        }
    }

    #[test]
    fn what_is_no_key_is_an_error_that_does_not_quote_it() {
        for text in ["", "hunter2", &KEY[1..], &format!("{KEY}\n{KEY}\n"), "\u{e9}"] {
            let error = read(text, 0o600).unwrap_err();
            assert!(error.contains("server.key") && !error.contains("unter2"), "{error}");
        }
    }
}
