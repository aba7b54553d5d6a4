//! The directory of a configuration, with the files in it that belong to clients.

use std::fs::{self, File};
use std::iter;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;

use super::client_file::{self, ClientFile, NotOurs};
use crate::config::{Config, Loaded, Name, SourceText, load};
use crate::control::Request;
use crate::ctl::edit::{self, Edit, make_directory};
use crate::ctl::{Error, Target, Timeout, say};
use crate::keeper::server_key::obtain;
use crate::proto::spa::PublicKey;

/// Where the secrets of clients are, in the directory of the configuration.
const KEYS: &str = "keys";

/// A directory whose configuration is valid, and that nobody else changes meanwhile.
pub(super) struct Site<'a> {
    /// Absolute.
    directory: PathBuf,
    target: &'a Target,
    loaded: Loaded,
    _lock: Flock<File>,
}

impl<'a> Site<'a> {
    /// # Errors
    /// When it is no directory, has mistakes, or somebody else is changing it.
    pub(super) fn open(target: &'a Target) -> Result<Self, Error> {
        if target.config.is_file() {
            return Err(Error::NoDirectory(target.config.clone()));
        }
        let loaded = target.load()?;
        let directory = fs::canonicalize(&target.config)?;
        let lock = edit::lock(&directory)?;
        if directory.to_str().is_none() {
            let shown = directory.display();
            return Err(Error::Unfit(format!("the name of {shown} is not UTF-8: rename it")));
        }
        Ok(Self { directory, target, loaded, _lock: lock })
    }

    pub(super) const fn config(&self) -> &Config {
        &self.loaded.config
    }

    /// The server's public key, which is made if there is none yet.
    pub(super) fn server_key(&self) -> Result<PublicKey, Error> {
        let path = &self.config().settings.spa.key_file;
        Ok(obtain(path, self.target.options()).map_err(Error::unfit)?.public())
    }

    /// Where enrolling writes a client.
    pub(super) fn client_file(&self, name: &Name) -> PathBuf {
        self.directory.join(format!("client-{name}.yaml"))
    }

    /// The file of a client; `None`: there is no such client.
    ///
    /// # Errors
    /// [`NotOurs`] when somebody has written it by hand.
    pub(super) fn client(&self, name: &Name) -> Result<Option<ClientFile>, Error> {
        let source = self.source(name)?;
        Ok(source.map(|source| ClientFile::read(&source, name)).transpose()?)
    }

    /// The files that hold the secrets of a client that enrolling has written, whatever has been
    /// added to it since; `None`: there is no such client.
    ///
    /// # Errors
    /// [`NotOurs`] when somebody has written it by hand, or something else into its file.
    pub(super) fn files_of(&self, name: &Name) -> Result<Option<Vec<PathBuf>>, Error> {
        let source = self.source(name)?;
        Ok(source.map(|source| client_file::files_of(&source, name)).transpose()?)
    }

    fn source(&self, name: &Name) -> Result<Option<SourceText>, Error> {
        let path = self.client_file(name);
        if let Some(text) = edit::read(&path)? {
            return Ok(Some(SourceText::new(path, text.as_str())));
        }
        let Loaded { config, places, .. } = &self.loaded;
        let mut clients = config.clients.iter().zip(&places.clients);
        match clients.find(|(client, _)| client.name == *name) {
            Some((client, places)) => {
                let (client, at) = (client.name.clone(), places.name.clone());
                Err(NotOurs::Elsewhere { client, at }.into())
            }
            None => Ok(None),
        }
    }

    /// A file for a new secret of a client; the one in use is never overwritten, since the
    /// configuration changes only when the file that names it does.
    pub(super) fn new_secret_file(&self, name: &Name, end: &str) -> Result<PathBuf, Error> {
        let keys = self.directory.join(KEYS);
        make_directory(&keys)?;
        // No name of another client has this character.
        let others = (2u64..).map(|number| format!("{name}@{number}.{end}"));
        let names = iter::once(format!("{name}.{end}")).chain(others);
        let mut paths = names.map(|name| keys.join(name));
        Ok(paths.find(|path| fs::symlink_metadata(path).is_err()).unwrap_or(keys))
    }

    /// Makes the changes.
    ///
    /// # Errors
    /// Everything is as it was before then: also when the whole configuration would not be valid.
    pub(super) fn commit(&self, edit: Edit) -> Result<(), Error> {
        let undo = edit.make()?;
        let loaded = load::load(&self.target.config, &self.target.options());
        loaded.map(drop).map_err(|report| match undo.make_each() {
            Ok(()) => Error::Undone(report),
            Err(source) => Error::NotUndone { report, source },
        })
    }

    /// Removes files of secrets that hold no longer. Those elsewhere belong to somebody else.
    pub(super) fn forget<'b>(&self, files: impl Iterator<Item = &'b Path>) -> Result<(), Error> {
        let keys = self.directory.join(KEYS);
        let mut edit = Edit::default();
        for path in files {
            if path.parent() == Some(&keys) {
                edit.remove(path.to_owned());
            } else {
                say(&format!("the old secret stays in {}: remove it yourself", path.display()));
            }
        }
        // Nothing follows that could fail.
        let _ = edit.make()?;
        Ok(())
    }

    /// Has a running daemon take up the configuration; says so when none is running.
    ///
    /// # Errors
    /// When it does not, in its words.
    pub(super) fn reload(&self) -> Result<(), Error> {
        match self.target.text(&Request::Reload, Timeout::Watcher) {
            Ok(_) => {
                say("knockd has taken it up");
                Ok(())
            }
            Err(Error::NotRunning { .. }) => {
                say("knockd is not running: this counts from its next start");
                Ok(())
            }
            Err(error) => Err(Error::NotTakenUp(error.into())),
        }
    }
}
