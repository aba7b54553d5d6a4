//! The server's keys for native SPA: made when a door first asks for them, read before each
//! watcher that needs them.

use std::io;
use std::path::{Path, PathBuf};

use tracing::info;
use zeroize::Zeroizing;

use crate::config::{Config, Diagnostic, Options, read_server_key};
use crate::engine::spa::{ServerKey, SpaServer};
use crate::proto::spa::PrivateKey;
use crate::sys::files;
use crate::time::Now;

/// The reason why there is no key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerKeyError {
    #[error(transparent)]
    Unfit(#[from] Diagnostic),
    #[error("{path}: there is no such key; take old_key_file away, or give the file back", path = .0.display())]
    NoOldKey(PathBuf),
    #[error("cannot make the server's key {path}: {source}", path = .path.display())]
    Make { path: PathBuf, source: io::Error },
}

/// The keys with which a watcher takes native SPA datagrams; `None`: no door takes any.
///
/// # Errors
/// [`ServerKeyError`].
pub(crate) fn server(
    now: Now,
    config: &Config,
    options: Options,
) -> Result<Option<SpaServer>, ServerKeyError> {
    if !config.doors.iter().any(|door| door.recognition.spa) {
        return Ok(None);
    }
    let spa = &config.settings.spa;
    let mut keys = vec![ServerKey { key: obtain(&spa.key_file, options)?, until: None }];
    if let Some((path, until)) = &spa.old_key
        && now.wall < *until
    {
        let key = read_server_key(path, options)?
            .ok_or_else(|| ServerKeyError::NoOldKey(path.clone()))?;
        keys.push(ServerKey { key, until: Some(*until) });
    }
    Ok(Some(SpaServer::new(spa, keys)))
}

/// The key in a file, which is made where there is none.
///
/// # Errors
/// [`ServerKeyError`].
pub(crate) fn obtain(path: &Path, options: Options) -> Result<PrivateKey, ServerKeyError> {
    match read_server_key(path, options)? {
        Some(key) => Ok(key),
        None => make(path).map_err(|source| ServerKeyError::Make { path: path.to_owned(), source }),
    }
}

/// It is whole or not there at all: a half one would be nobody's.
fn make(path: &Path) -> io::Result<PrivateKey> {
    let mut random = Zeroizing::new([0; 32]);
    getrandom::fill(random.as_mut()).map_err(io::Error::other)?;
    let key = PrivateKey::from(*random);
    files::make_directory(path.parent().unwrap_or(Path::new(".")), 0o700)?;
    let text = Zeroizing::new(format!("{}\n", *key.encode()));
    files::replace(path, text.as_bytes())?;
    info!(
        "made the server's key {}; its public key, which clients need, is {}",
        path.display(),
        key.public()
    );
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_where_only_its_owner_can_read_it_and_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys/server.key");
        let made = make(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(read_server_key(&path, Options::default()).unwrap(), Some(made));
        let files = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(files, 1);
    }

    #[test]
    fn no_two_keys_are_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| make(&directory.path().join(name)).unwrap());
        assert_ne!(one, other);
    }
}
