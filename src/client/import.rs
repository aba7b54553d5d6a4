//! `knock import`: takes up the link that `knockctl enroll` has printed.

use std::fs;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::cli::ImportArgs;
use super::error::ClientError;
use super::hosts::{self, Edited, HostProfile};
use super::messages::{complain, warn};
use super::{platform, print};
use crate::config::yaml_writer::YamlWriter;
use crate::proto::link::{Link, LinkEntry, LinkError};
use crate::proto::totp::{TotpMode, encode_secret};
use crate::proto::{duration, port_range};
use crate::sys::files;

/// The reason why a link is not taken up.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImportError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("no link can be read: {0}")]
    Input(#[source] io::Error),
    #[error("no home is known: name the hosts file with --hosts")]
    NoHome,
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("nothing has been changed: --force overwrites, and --name takes another name")]
    Kept,
    #[error("{} takes no more lines: add this below 'hosts:' yourself\n{entries}", path.display())]
    ByHand { path: PathBuf, entries: String },
}

/// Takes up a link: key files first, then the entries of the hosts file that name them.
///
/// # Errors
/// Nothing has been changed then, but where something could not be written.
pub(super) fn import(args: &ImportArgs) -> Result<(), ClientError> {
    let mut link = read(&args.link.concat())?;
    if let Some(name) = &args.name {
        link.label = name.clone();
    }
    let path = args.hosts.clone().or_else(hosts::default_path).ok_or(ImportError::NoHome)?;
    let directory = path.parent().unwrap_or(&path);
    files::make_directory(directory, 0o700)
        .map_err(|source| ImportError::File { path: directory.to_owned(), source })?;
    // Of two imports at once none undoes what the other does.
    let _locked = fs::File::open(directory).ok().filter(|directory| directory.lock().is_ok());
    let beside = |ending| path.with_file_name(format!("{}.{ending}", link.label));
    let (secret_file, key_file) = (beside("totp"), beside("key"));
    let secret = link.secret.as_ref().map(|secret| (&secret_file, encode_secret(secret)));
    let key = link.key.as_ref().map(|key| (&key_file, key.encode()));
    let (mut changes, mut doubts) = (Vec::new(), Vec::new());
    for (file, mut text) in secret.into_iter().chain(key) {
        match text_of(file)? {
            Some(there) if there.trim() == *text => continue,
            Some(_) => doubts.push(format!("{} holds another secret", file.display())),
            None => {}
        }
        text.push('\n');
        changes.push((file.clone(), text));
    }
    let before = text_of(&path)?.unwrap_or_default();
    // Whose file it is counts, too.
    let there = if path.exists() { hosts::read(&path)?.0.entries } else { Vec::new() };
    let mut names = link.names();
    for (name, LinkEntry { door, .. }) in names.iter_mut().zip(&link.entries) {
        let is_other = |it: &HostProfile| it.settings.door.as_ref() != Some(door);
        if there.iter().any(|it| it.name == *name && it.host() == link.host && is_other(it)) {
            *name = format!("{name}-{door}");
        }
    }
    for it in there.iter().filter(|it| it.host() != link.host) {
        let shared = it.settings.rotation.secret_file.as_ref().filter(|_| link.secret.is_none());
        if shared == Some(&secret_file) || names.iter().any(|name| name == it.host()) {
            let (at, host) = (&it.at, it.host());
            doubts.push(format!("{at}: knocks that are for {host} would go to {}", link.host));
        }
    }
    let (mut after, mut by_hand) = (before.to_string(), String::new());
    for (name, entry) in names.iter().zip(&link.entries) {
        let entry = lines(&link, entry, name);
        match hosts::put(&path, &after, &entry)? {
            Edited::Same => {}
            Edited::Added(text) => after = text,
            Edited::Replaced { text, at } => {
                doubts.push(format!("{at}: '{name}' says something else than\n{entry}"));
                after = text;
            }
            Edited::ByHand => by_hand.push_str(&entry),
        }
    }
    if !doubts.is_empty() && !args.force {
        complain(&doubts.join("\n"));
        confirmed("Overwrite?").then_some(()).ok_or(ImportError::Kept)?;
    }
    if after != *before {
        changes.push((path.clone(), Zeroizing::new(after)));
    }
    if changes.is_empty() && by_hand.is_empty() {
        print("all of this is there already")?;
    }
    for (file, text) in changes {
        let who = fs::metadata(&file).ok().filter(|_| file == path).map(|it| it.permissions());
        write(&file, &text, who).map_err(|source| ImportError::File { path: file, source })?;
    }
    if !by_hand.is_empty() {
        return Err(ImportError::ByHand { path, entries: by_hand }.into());
    }
    let key = link.server.is_some().then_some(key_file);
    let rotates = link.entries.iter().any(|entry| entry.scheme.is_some());
    for (what, file) in [("private key", key), ("TOTP secret", rotates.then_some(secret_file))] {
        if let Some(file) = file.filter(|file| !file.exists()) {
            warn(&format!("the link has no {what}: yours belongs in {}", file.display()));
        }
    }
    names.iter().try_for_each(|name| print(&format!("now it is: knock {name}")))
}

/// The link that was given, or that comes on standard input with whatever is around it.
fn read(given: &str) -> Result<Link, ImportError> {
    if given != "-" {
        warn(&"others may see the link in ps, and the shell keeps it: use 'knock import -'");
        return Ok(Link::decode(given)?);
    }
    let mut text = Zeroizing::new(String::with_capacity(1 << 16));
    if io::stdin().is_terminal() {
        let mut link = Err(LinkError::CutOff(0));
        // It may be pasted in several lines.
        while matches!(link, Err(LinkError::CutOff(_))) {
            text.push_str(&platform::prompt_hidden("Link: ").map_err(ImportError::Input)?);
            link = Link::decode(&text);
        }
        return Ok(link?);
    }
    io::stdin().take(1 << 16).read_to_string(&mut text).map_err(ImportError::Input)?;
    let text = text.find("knock://").and_then(|at| text.get(at..)).unwrap_or(&text);
    let lines = text.lines().take_while(|line| !line.trim().is_empty());
    Ok(Link::decode(&Zeroizing::new(lines.collect::<String>()))?)
}

/// The lines of an entry of the hosts file.
fn lines(link: &Link, entry: &LinkEntry, name: &str) -> String {
    let LinkEntry { door, scheme, wait } = entry;
    let file = |ending| format!("{}.{ending}", link.label);
    let mut page = YamlWriter::default();
    page.open(0, name);
    page.entry(1, "host", &link.host);
    page.entry(1, "mode", entry.mode());
    page.entry(1, "door", door.as_str());
    match scheme.map(|scheme| scheme.mode()) {
        Some(TotpMode::Ports { low, high, length, protocol }) => {
            page.entry(1, "ports", &format!("{low}-{high}"));
            page.entry(1, "length", &length.to_string());
            page.entry(1, "protocol", protocol.as_str());
        }
        Some(TotpMode::Code { base, digits }) => {
            page.entry(1, "base", &base.to_string());
            page.entry(1, "digits", digits.as_str());
        }
        None => {
            let (key, range) = link.server.clone().unzip();
            page.optional(1, "server_key", key);
            page.entry(1, "key_file", &file("key"));
            page.optional(1, "spa_port", range.flatten().map(|it| port_range::show(&it, '-')));
        }
    }
    if let Some(scheme) = scheme {
        page.entry(1, "step", &duration::format(scheme.step_length()));
        page.entry(1, "secret_file", &file("totp"));
    }
    page.optional(1, "wait", *wait);
    page.into_text()
}

/// What is in a file; `None`: there is none.
fn text_of(path: &Path) -> Result<Option<Zeroizing<String>>, ImportError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(Zeroizing::new(text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ImportError::File { path: path.to_owned(), source }),
    }
}

/// Writes the whole of a file that only its owner can read; `who` else may read it where it was there.
fn write(path: &Path, text: &str, who: Option<fs::Permissions>) -> io::Result<()> {
    // A symbolic link, as managers of dotfiles make them, stays one.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    files::replace(&path, text.as_bytes())?;
    who.map_or(Ok(()), |who| fs::set_permissions(&path, who))
}

/// Asks at the terminal, wherever the link comes from; where there is none the answer is no.
fn confirmed(question: &str) -> bool {
    let Ok((input, mut output)) = platform::terminal() else { return false };
    let mut answer = String::new();
    let asked = write!(output, "{question} [y/N] ");
    let answered = asked.and_then(|()| BufReader::new(input).read_line(&mut answer));
    answered.is_ok() && ["y", "yes"].contains(&answer.trim().to_lowercase().as_str())
}
