//! `knockctl lock` and `confirm`: a door that only observes is locked, on trial first; its file says
//! so once that is confirmed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, chown};

use nix::fcntl::Flock;

use super::{Error, Target, Timeout, edit, status};
use crate::config::{Config, Loaded, Name};
use crate::control::Request;
use crate::log::escape;
use crate::sys::files;

/// Keeps what is on trial. The file of a door that it locks is changed before, so that it stays so.
pub(super) fn confirm(target: &Target) -> Result<(), Error> {
    let on_trial = || -> Result<_, Error> {
        Ok(status::ask(target)?.doors.into_iter().find(|it| it.locked_on_trial))
    };
    // Of two at once, the one that comes too late would take back what the other has written.
    let alone = on_trial()?.map(|_| lock_files(target)).transpose()?;
    let locked = if alone.is_some() { on_trial()? } else { None };
    let undo = locked.map(|it| write_lock(target, &it.door)).transpose()?;
    let said = target.text(&Request::Confirm, Timeout::Watcher);
    if let (Err(_), Some(undo)) = (&said, undo) {
        undo()?;
    }
    Ok(writeln!(io::stdout(), "{}", escape(&said?))?)
}

/// Sees to it that no other knockctl changes these files meanwhile.
fn lock_files(target: &Target) -> Result<Flock<File>, Error> {
    let path = fs::canonicalize(&target.config).map_err(Error::unfit)?;
    let directory = path.parent().filter(|_| !path.is_dir()).unwrap_or(&path);
    Ok(edit::lock(directory)?)
}

/// Writes into the file of a door that the guard locks it; what takes that back.
///
/// # Errors
/// Also where nothing that is written would lock this door and no other; the file is as it was
/// before.
fn write_lock(
    target: &Target,
    name: &Name,
) -> Result<impl FnOnce() -> Result<(), Error> + use<>, Error> {
    let Loaded { config, places, .. } = target.load()?;
    let place = config.place_of(name).ok_or_else(|| Error::no_door(&config, name))?;
    let places = &places.doors[place];
    let at = places.of("guard");
    let by_hand = || {
        Error::unfit(format!("{at}: write 'guard: lock' for door '{name}' by hand, then confirm"))
    };
    let (head, rest) = at.split().ok_or_else(by_hand)?;
    let changed = if places.keys.contains_key("guard") { changed(rest) } else { inserted(rest) };
    let after = head.to_owned() + &changed.ok_or_else(by_hand)?;
    let (before, shown) = (head.to_owned() + rest, at.path().display().to_string());
    let failed = move |why| Error::unfit(format!("cannot change {shown}: {why}"));
    // A link stays one, and who may read it may.
    let file = fs::canonicalize(at.path()).and_then(|path| Ok((fs::metadata(&path)?, path)));
    let (metadata, path) = file.map_err(&failed)?;
    let write = move |text: &str| {
        files::replace_with_mode(&path, text.as_bytes(), metadata.mode())
            .and_then(|()| chown(&path, Some(metadata.uid()), Some(metadata.gid())))
            .map_err(&failed)
    };
    write(&after)?;
    // By an alias of YAML a word of one door is that of another, which nobody has tried.
    let locks = |config: &Config| -> Vec<(Name, bool)> {
        config.doors.iter().map(|door| (door.name().clone(), door.opening.is_locked())).collect()
    };
    let mut wanted = locks(&config);
    wanted[place].1 = true;
    if !target.load().is_ok_and(|loaded| locks(&loaded.config) == wanted) {
        write(&before)?;
        return Err(by_hand());
    }
    Ok(move || write(&before))
}

/// The text of a file from the word `observe` on, with `lock` in its place.
fn changed(rest: &str) -> Option<String> {
    let (quote, word) = rest.split_at(rest.find(|c| !['"', '\''].contains(&c))?);
    Some(format!("{quote}lock{}", word.strip_prefix("observe")?))
}

/// The text of a file from the name of a door on, with a first key that locks it.
fn inserted(rest: &str) -> Option<String> {
    let (name, body) = rest.split_once(':')?;
    let mut keys = body.trim_start();
    while keys.starts_with('#') {
        keys = keys.split_once('\n')?.1.trim_start();
    }
    let before = body.strip_suffix(keys)?;
    Some(match (keys.strip_prefix('{'), before.rsplit_once('\n')) {
        (Some(keys), _) => format!("{name}:{before}{{guard: lock, {keys}"),
        (None, Some((_, indent))) => format!("{name}:{before}guard: lock\n{indent}{keys}"),
        (None, None) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_alone_is_changed() {
        assert_eq!(changed("observe  # so\nx: observe").unwrap(), "lock  # so\nx: observe");
        assert_eq!(changed("\"observe\"}").unwrap(), "\"lock\"}");
        assert_eq!(changed("*mode"), None);
        assert_eq!(changed(""), None);
    }

    #[test]
    fn a_key_is_inserted_as_its_neighbours_are_written() {
        for (text, expected) in [
            ("ssh: {open: [22]}\n", "ssh: {guard: lock, open: [22]}\n"),
            ("ssh:\n    open: [22]\n", "ssh:\n    guard: lock\n    open: [22]\n"),
            ("ssh: # a: {b}\n  # c\n  open: x", "ssh: # a: {b}\n  # c\n  guard: lock\n  open: x"),
            ("'ssh':\n  {open: [22]}", "'ssh':\n  {guard: lock, open: [22]}"),
        ] {
            assert_eq!(inserted(text).unwrap(), expected);
        }
        for text in ["ssh: &door\n  open: [22]", "ssh", "ssh: # so"] {
            assert_eq!(inserted(text), None, "{text}");
        }
    }
}
