//! What would keep knockd from starting on this host. Nothing is made or changed.

use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::UnixAddr;
use nix::unistd::{AccessFlags, access};

use crate::config::How;
use crate::config::diagnostic::Diagnostic;
use crate::config::load::{Loaded, Options};
use crate::config::trusted_path::check_paths;
use crate::control;
use crate::firewall::guard;
use crate::firewall::nft_set::{NftSets, OwnSets};
use crate::keeper::{server_key, sets};
use crate::ledger::Ledger;
use crate::sys::privileges::Identity;
use crate::time::Now;

/// Errors of a configuration that is read from `path`, each as knockd would put it. It takes root
/// to look.
pub fn obstacles(path: &Path, loaded: &Loaded, options: Options, now: Now) -> Vec<Diagnostic> {
    let Loaded { config, places, .. } = loaded;
    let settings = &config.settings;
    let error = |key: &str, message: String| match places.settings.get(key) {
        Some(place) => place.error(message),
        None => Diagnostic::file(path, message),
    };
    let mut found: Vec<Diagnostic> = check_paths(settings, options).err().into_iter().collect();
    let mut writes = |key, path: &Path, result: nix::Result<()>| {
        let message = |why: Errno| format!("cannot write {}: {}", path.display(), why.desc());
        found.extend(result.err().map(|why| error(key, message(why))));
    };
    writes("state_dir", &settings.state_dir, directory(&settings.state_dir));
    let socket = control::socket(&settings.run_dir);
    let listens = UnixAddr::new(&socket).map(drop);
    writes("run_dir", &socket, directory(&settings.run_dir).and(listens));
    if settings.pid_file.parent() != Some(&settings.run_dir) {
        writes("pid_file", &settings.pid_file, file(&settings.pid_file, directory));
    }
    if let Some(log) = &settings.log.file {
        writes("log", log, file(log, entry));
    }
    let key_file = &settings.spa.key_file;
    let is_wanted = config.doors.iter().any(|door| door.recognition.spa);
    if is_wanted && !key_file.exists() {
        writes("spa", key_file, file(key_file, directory));
    } else if let Err(why) = server_key::server(now, config, options) {
        found.push(error("spa", why.to_string()));
    }
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

/// Whether a directory can be written, or made with those above it.
fn directory(path: &Path) -> nix::Result<()> {
    match (entry(path), path.parent()) {
        (Err(Errno::ENOENT), Some(above)) => directory(above),
        (result, _) => result,
    }
}

/// Whether files can be made in a directory that is there.
fn entry(path: &Path) -> nix::Result<()> {
    access(&path.join("."), AccessFlags::W_OK | AccessFlags::X_OK)
}

/// Whether a file can be written, or made in its directory, by what `made` says of that.
fn file(path: &Path, made: fn(&Path) -> nix::Result<()>) -> nix::Result<()> {
    match (access(path, AccessFlags::W_OK), path.parent()) {
        (Ok(()), _) if path.is_dir() => Err(Errno::EISDIR),
        (Err(Errno::ENOENT), Some(above)) => made(above),
        (result, _) => result,
    }
}
