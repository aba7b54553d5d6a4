//! What would keep knockd from starting on this host. Nothing is made or changed.

use std::fs;
use std::io;
use std::os::unix::net::SocketAddr;
use std::path::Path;

use nix::unistd::{AccessFlags, access};

use crate::config::diagnostic::Diagnostic;
use crate::config::load::{Loaded, Options};
use crate::config::{Config, How, read_server_key};
use crate::control;
use crate::firewall::guard;
use crate::firewall::nft_set::{NftSets, OwnSets};
use crate::keeper::sets;
use crate::ledger::Ledger;
use crate::sys::privileges::Identity;
use crate::time::Wall;

/// Errors of a configuration that is read from `path`, each as knockd would put it. It takes root
/// to look.
pub fn obstacles(path: &Path, loaded: &Loaded, options: Options, now: Wall) -> Vec<Diagnostic> {
    let Loaded { config, places, .. } = loaded;
    let settings = &config.settings;
    let error = |key: &str, message: String| match places.settings.get(key) {
        Some(place) => place.error(message),
        None => Diagnostic::file(path, message),
    };
    let mut found = Vec::new();
    let mut writes = |key, path: &Path, result: io::Result<()>| {
        let message = |why: io::Error| format!("cannot write {}: {why}", path.display());
        found.extend(result.err().map(|why| error(key, message(why))));
    };
    writes("state_dir", &settings.state_dir, directory(&settings.state_dir));
    let socket = control::socket(&settings.run_dir);
    let listens = SocketAddr::from_pathname(&socket).map(drop);
    writes("run_dir", &socket, directory(&settings.run_dir).and(listens));
    if settings.pid_file.parent() != Some(&settings.run_dir) {
        writes("pid_file", &settings.pid_file, file(&settings.pid_file, directory));
    }
    if let Some(log) = &settings.log.file {
        writes("log", log, file(log, entry));
    }
    found.extend(server_key(config, options, now));
    if let Err(why) = Ledger::check(&settings.state_dir) {
        found.push(error("state_dir", why.to_string()));
    }
    if let Err(why) = Identity::resolve(settings.user.as_deref()) {
        found.push(error("user", why.to_string()));
    }
    for (door, places) in config.doors.iter().zip(&loaded.places.doors) {
        if let How::Set(set) = &door.opening.how
            && let Err(why) = OwnSets::check([&NftSets::from(set)])
        {
            found.push(places.via.as_ref().unwrap_or(&places.name).error(why.to_string()));
        }
    }
    if let Some(ruleset) = sets::ruleset(config, None)
        && let Err(why) = guard::check(&ruleset)
    {
        found.push(Diagnostic::file(path, why.to_string()));
    }
    found
}

/// Why the server's key cannot be read, or made where there is none.
fn server_key(config: &Config, options: Options, now: Wall) -> Option<Diagnostic> {
    if !config.doors.iter().any(|door| door.recognition.spa) {
        return None;
    }
    let spa = &config.settings.spa;
    let cannot = |path, why| Diagnostic::file(path, format!("cannot be made: {why}"));
    let current = match read_server_key(&spa.key_file, options) {
        Ok(Some(_)) => None,
        Ok(None) => file(&spa.key_file, directory).err().map(|why| cannot(&spa.key_file, why)),
        Err(why) => Some(why),
    };
    let old = spa.old_key.as_ref().filter(|(_, until)| now < *until).and_then(|(path, _)| {
        match read_server_key(path, options) {
            Ok(Some(_)) => None,
            Ok(None) => Some(Diagnostic::file(path, "there is no such key")),
            Err(why) => Some(why),
        }
    });
    current.or(old)
}

/// Whether a directory can be written, or made with those above it.
fn directory(path: &Path) -> io::Result<()> {
    match (fs::metadata(path), path.parent()) {
        (Err(error), Some(above)) if error.kind() == io::ErrorKind::NotFound => directory(above),
        _ => entry(path),
    }
}

/// Whether files can be made in a directory that is there.
fn entry(path: &Path) -> io::Result<()> {
    if !fs::metadata(path)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(access(path, AccessFlags::W_OK | AccessFlags::X_OK)?)
}

/// Whether a file can be written, or made in its directory, by what `made` says of that.
fn file(path: &Path, made: fn(&Path) -> io::Result<()>) -> io::Result<()> {
    match (fs::metadata(path), path.parent()) {
        (Ok(found), _) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        (Err(error), Some(above)) if error.kind() == io::ErrorKind::NotFound => made(above),
        (found, _) => {
            Ok(found.map(drop).and(access(path, AccessFlags::W_OK).map_err(Into::into))?)
        }
    }
}
