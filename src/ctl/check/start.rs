//! Obstacles that would keep knockd from starting on this host. Nothing is made or changed.

use std::fmt::Display;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::UnixAddr;
use nix::unistd::{AccessFlags, access};

use crate::config::trusted_path::check_paths;
use crate::config::{Diagnostic, Loaded, Mechanism, MetricsSocket, Options};
use crate::control;
use crate::firewall::guard;
use crate::firewall::nft_set::OwnSets;
use crate::keeper::{kernel_sets, server_key};
use crate::ledger::Ledger;
use crate::log::check_owner;
use crate::sys::privileges::Identity;
use crate::sys::{clock, process};

/// Errors of a configuration that is read from `path`, each as knockd would put it. It takes root
/// to look.
pub(super) fn obstacles(path: &Path, loaded: &Loaded, options: Options) -> Vec<Diagnostic> {
    let Loaded { config, places, .. } = loaded;
    let settings = &config.settings;
    let error = |key: &str, message: String| match places.settings.get(key) {
        Some(place) => place.error(message),
        None => Diagnostic::file(path, message),
    };
    let mut found: Vec<Diagnostic> = check_paths(settings, options).err().into_iter().collect();
    let mut finds = |key, why: Option<String>| found.extend(why.map(|why| error(key, why)));
    let written = |path: &Path, result: nix::Result<()>| {
        result.err().map(|why: Errno| format!("cannot write {}: {}", path.display(), why.desc()))
    };
    finds("state_dir", written(&settings.state_dir, directory(&settings.state_dir)));
    let socket = control::socket(&settings.run_dir);
    let listens = UnixAddr::new(&socket).map(drop);
    finds("run_dir", written(&socket, directory(&settings.run_dir).and(listens)));
    if settings.pid_file.parent() != Some(&settings.run_dir) {
        finds("pid_file", written(&settings.pid_file, file(&settings.pid_file, directory)));
    }
    if let Some(log) = &settings.log.file {
        finds("log", written(log, file(log, entry)));
        let cannot = |why| format!("cannot open the log file {}: {why}", log.display());
        finds("log", said(check_owner(log)).map(cannot));
    }
    let metrics = settings.metrics.as_ref().and_then(|MetricsSocket { path, .. }| {
        let is_other = fs::symlink_metadata(path).is_ok_and(|it| !it.file_type().is_socket());
        let above = path.parent().unwrap_or(path);
        let there = if above == settings.run_dir { directory(above) } else { entry(above) };
        let why = match there.and(UnixAddr::new(path).map(drop)) {
            _ if *path == socket => "knockctl's is there: name another file",
            _ if is_other => "it is there, and no socket",
            result => result.err()?.desc(),
        };
        Some(format!("no metrics can be read at {}: {why}", path.display()))
    });
    // It starts all the same.
    let metrics = metrics.map(|why| error("metrics", why).into_warning());
    let fleet = settings.fleet.as_ref().and_then(|_| process::missing_courier());
    let courier = fleet.map(|why| error("fleet", why).into_warning());
    let key_file = &settings.spa.key_file;
    if config.doors.iter().any(|door| door.recognition.spa) && !key_file.exists() {
        finds("spa", written(key_file, file(key_file, directory)));
    } else {
        finds("spa", said(server_key::server(clock::now(), config, options)));
    }
    finds("state_dir", said(Ledger::check(&settings.state_dir)));
    finds("user", said(Identity::resolve(settings.user.as_deref())));
    for (door, places) in config.doors.iter().zip(&loaded.places.doors) {
        if let Mechanism::Set(set) = &door.opening.mechanism {
            let why = said(OwnSets::check([set]));
            let place = places.of("via");
            let in_a_line = |why: String| why.replace(":\n  ", ": ").replace("\n  ", "; ");
            found.extend(why.map(|why| place.error(in_a_line(why))));
        }
    }
    let why = kernel_sets::ruleset(config, None).and_then(|ruleset| said(guard::check(&ruleset)));
    found.extend(why.map(|why| Diagnostic::file(path, format!("cannot set up the guard: {why}"))));
    found.extend(metrics.into_iter().chain(courier));
    found
}

/// The error, in words.
fn said<T, E: Display>(result: Result<T, E>) -> Option<String> {
    result.err().map(|why| why.to_string())
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
