//! The files that a configuration consists of: read only where nobody else could have written
//! them, and secrets only where nobody else can read them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc::O_NONBLOCK;
use zeroize::Zeroizing;

use crate::config::permissions::{OTHERS_READ, OTHERS_WRITE, unsafe_to_use};
use crate::config::trusted_path::{Leaf, check_path};
use crate::config::{Diagnosed, Diagnostic, Options, Place, Problems, SourceText};

/// A file larger than this is none that a person wrote.
const MAX_SIZE: u64 = 64 << 20;

/// The error that a file cannot be read: why, and what helps.
pub fn cannot_be_read(path: &Path, error: &io::Error) -> Diagnostic {
    let diagnostic = Diagnostic::file(path, format!("cannot be read: {error}"));
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            diagnostic.help("run this as root, or with -c and a file that this user may read")
        }
        _ => diagnostic,
    }
}

/// The error that the configuration itself cannot be read, which `-c` names.
pub(super) fn unreadable(path: &Path, error: &io::Error) -> Diagnostic {
    let diagnostic = cannot_be_read(path, error);
    match error.kind() {
        io::ErrorKind::NotFound => diagnostic.help("name another path with -c"),
        _ => diagnostic,
    }
}

/// The files of a directory; `None` if there is none to read.
pub(super) fn read_directory(
    directory: &Path,
    options: Options,
    problems: &mut Problems,
) -> Option<Vec<SourceText>> {
    let listed = File::open(directory)
        .and_then(|opened| opened.metadata())
        .and_then(|metadata| Ok((metadata, list_directory(directory)?)));
    let (metadata, paths) =
        problems.ok_or_report(listed.map_err(|error| unreadable(directory, &error)))?;
    problems.ok_or_report(check_permissions(directory, &metadata, OTHERS_WRITE, options))?;
    let shown = paths.into_iter().filter(|path| !is_hidden(path));
    let (yaml, others): (Vec<_>, Vec<_>) = shown.partition(|path| has_ending(path, &["yaml"]));
    for path in others.iter().filter(|path| has_ending(path, &["yml", "conf"])) {
        let warning = Diagnostic::file(path, "not read: only names that end in .yaml are");
        problems.push(warning.into_warning());
    }
    if yaml.is_empty() {
        let message = "there is no configuration here: no file ends in .yaml";
        let help = "put doors into a file doors.yaml in it, or name another path with -c";
        problems.push(Diagnostic::file(directory, message).help(help));
        return None;
    }
    Some(yaml.iter().filter_map(|path| problems.ok_or_report(read_file(path, options))).collect())
}

/// What a directory holds, in byte order.
///
/// # Errors
/// Those of reading it.
pub fn list_directory(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)?.map(|entry| Ok(entry?.path()));
    let mut paths = entries.collect::<io::Result<Vec<_>>>()?;
    paths.sort_by(|one, other| one.as_os_str().cmp(other.as_os_str()));
    Ok(paths)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    path.extension().is_some_and(|ending| endings.iter().any(|known| ending == *known))
}

/// The text of one file of the configuration, with its mode.
pub(super) fn read_file(path: &Path, options: Options) -> Diagnosed<SourceText> {
    let fail = |error: io::Error| unreadable(path, &error);
    let file = File::open(path).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    check_permissions(path, &metadata, OTHERS_WRITE, options)?;
    let text = read_text(path, file, MAX_SIZE, "too large for a configuration")?;
    let mode = if options.insecure_permissions { 0o600 } else { metadata.mode() };
    Ok(SourceText::of_mode(path.to_owned(), text.to_string(), Some(mode)))
}

/// What is read is overwritten when it is dropped: it may hold secrets.
fn read_text(path: &Path, file: File, most: u64, too_large: &str) -> Diagnosed<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::new());
    let read = file.take(most + 1).read_to_end(&mut bytes);
    let length = read.map_err(|error| unreadable(path, &error))?;
    if u64::try_from(length).is_ok_and(|length| length > most) {
        return Err(Diagnostic::file(path, too_large));
    }
    let text = std::str::from_utf8(&bytes).map(|text| Zeroizing::new(text.to_owned()));
    text.map_err(|error| {
        let good = bytes.iter().take(error.valid_up_to());
        let line = good.filter(|byte| **byte == b'\n').count() + 1;
        Diagnostic::file(path, format!("line {line} is not UTF-8 text"))
    })
}

/// The text of a file with one line that nobody but its owner may read.
///
/// # Errors
/// As [`read_trusted`].
pub(super) fn read_secret(path: &Path, options: Options) -> Diagnosed<Zeroizing<String>> {
    read_trusted(path, OTHERS_READ | OTHERS_WRITE, MAX_SECRET, options)
}

/// The text of a list, of one-time sequences or of another kind, under the rules that hold where a
/// configuration names it.
///
/// # Errors
/// As [`read_trusted`].
pub fn read_list(path: &Path, options: Options) -> Diagnosed<Zeroizing<String>> {
    read_trusted(path, OTHERS_WRITE, MAX_SIZE, options)
}

/// The text of a file of at most so many bytes, read only where its mode has none of the forbidden
/// bits: nobody else could have written it, or read it.
///
/// # Errors
/// Says that it cannot be read, or who else could have read or written it.
fn read_trusted(
    path: &Path,
    forbidden: u32,
    most: u64,
    options: Options,
) -> Diagnosed<Zeroizing<String>> {
    let fail = |error: io::Error| cannot_be_read(path, &error);
    check_path(path, Leaf::Opened, options)?;
    // A pipe would wait for somebody to write to it.
    let file = File::options().read(true).custom_flags(O_NONBLOCK).open(path).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    if !metadata.is_file() {
        return Err(Diagnostic::file(path, "is not a file"));
    }
    check_permissions(path, &metadata, forbidden, options)?;
    read_text(path, file, most, "is too large for what it should hold")
}

/// More than one line with a key can have.
const MAX_SECRET: u64 = 4096;

/// The one line of a text, without its end.
///
/// # Errors
/// Says how many lines there are instead.
pub(super) fn one_line(text: &str) -> Result<&str, String> {
    let mut lines = text.lines();
    match (lines.next(), lines.next()) {
        (None | Some(""), None) => Err("is empty".to_owned()),
        (Some(line), None) => Ok(line),
        (_, Some(_)) => Err(format!("has {} lines, and one belongs there", text.lines().count())),
    }
}

/// A secret in a file that others can read, as an error of the file.
pub(super) fn exposed(at: &Place) -> Option<Diagnostic> {
    let mode = at.file_mode().filter(|mode| mode & OTHERS_READ != 0)?;
    let shown = at.path().display();
    let message =
        format!("holds a secret, and others than its owner can read it (mode {mode:04o})");
    let help = format!("run: chmod go-rwx {shown}; --insecure-permissions reads it as it is");
    Some(Diagnostic::file(at.path(), message).help(help))
}

/// Refuses what somebody other than root and the running user could have written, or read.
fn check_permissions(
    path: &Path,
    metadata: &fs::Metadata,
    forbidden: u32,
    options: Options,
) -> Diagnosed<()> {
    let otherwise = "; --insecure-permissions reads it as it is";
    let error = unsafe_to_use(path, metadata, None, forbidden, otherwise);
    error.filter(|_| !options.insecure_permissions).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_one_line() {
        for text in ["JBSW", "JBSW\n", "JBSW\r\n"] {
            assert_eq!(one_line(text), Ok("JBSW"));
        }
        for (text, why) in [
            ("", "is empty"),
            ("\n", "is empty"),
            ("a\nb\n", "has 2 lines, and one belongs there"),
            ("\na\n", "has 2 lines, and one belongs there"),
        ] {
            assert_eq!(one_line(text), Err(why.to_owned()), "{text:?}");
        }
    }
}
