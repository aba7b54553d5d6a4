//! `knock import`: takes up the link that `knockctl enroll` has printed.

use std::fs;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::cli::ImportArgs;
use super::error::ClientError;
use super::hosts::{self, Edited, HostProfile};
use super::messages::{complain, warn};
use super::settings::Mode;
use super::{platform, print};
use crate::config::yaml_writer::YamlWriter;
use crate::proto::link::{FwknopWay, Link, LinkEntry, LinkError, Way};
use crate::proto::spa::PrivateKey;
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
    #[error("{} has changed meanwhile, and nothing has been written: run it again", .0.display())]
    Changed(PathBuf),
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
    let mut changes = Changes::default();
    let lacking = changes.add_secrets(&link, &path)?;
    // Whose file it is counts, too.
    let there = if path.exists() { hosts::read(&path)?.0.entries } else { Vec::new() };
    let names = changes.name(&link, &lacking, &there);
    changes.add_entries(&link, &names, &path)?;
    if !changes.doubts.is_empty() && !args.force {
        complain(&changes.doubts.join("\n"));
        confirmed("Overwrite?").then_some(()).ok_or(ImportError::Kept)?;
    }
    if changes.files.is_empty() && changes.by_hand.is_empty() {
        print("all of this is there already")?;
    }
    changes.write(path)?;
    for (what, file) in lacking.iter().filter(|(_, file)| !file.exists()) {
        warn(&format!("the link has no {what}: yours belongs in {}", file.display()));
    }
    names.iter().try_for_each(|name| print(&format!("now it is: knock {name} (at {})", link.host)))
}

/// What there is to change, and what speaks against it.
#[derive(Default)]
struct Changes {
    /// What each file holds now, and what then; the hosts file is the last.
    files: Vec<(PathBuf, Option<Zeroizing<String>>, Zeroizing<String>)>,
    doubts: Vec<String>,
    /// Entries that only a person can add.
    by_hand: String,
}

/// Secrets that entries name and the link has not, with their files.
type Lacking = Vec<(&'static str, PathBuf)>;

impl Changes {
    /// Adds the files of the secrets, which are beside the hosts file.
    fn add_secrets(&mut self, link: &Link, path: &Path) -> Result<Lacking, ImportError> {
        let mut lacking = Vec::new();
        for (what, mode, ending, text) in [
            ("TOTP secret", "totp", "totp", link.secret.as_ref().map(encode_secret)),
            ("private key", "spa", "key", link.key.as_ref().map(PrivateKey::encode)),
            ("fwknop key", "fwknop", "fwknop", link.fwknop_keys().map(as_generated)),
        ] {
            let file = path.with_file_name(format!("{}.{ending}", link.label));
            let Some(text) = text else {
                let is_named = link.entries.iter().any(|entry| entry.mode() == mode);
                lacking.extend(is_named.then_some((what, file)));
                continue;
            };
            let before = text_of(&file)?;
            match &before {
                Some(there) if there.trim() != *text => {
                    self.doubts.push(format!("{} holds another secret", file.display()));
                }
                Some(_) if is_private(&file) => continue,
                _ => {}
            }
            self.files.push((file, before, Zeroizing::new(format!("{}\n", *text))));
        }
        Ok(lacking)
    }

    /// Names the entries, as those that they take the place of, or with door or mode where another has
    /// the name; and doubts what would go to the link's host instead of another, by a name or with a
    /// secret that is `lent`.
    fn name(&mut self, link: &Link, lent: &Lacking, there: &[HostProfile]) -> Vec<String> {
        let (mut names, label) = (link.names(), format!("{}-", link.label));
        for (name, entry) in names.iter_mut().zip(&link.entries) {
            let mode = entry.mode().parse().ok();
            let known = there.iter().filter(|it| it.host() == link.host);
            let is_there = |it: &&HostProfile| it.settings.door.as_ref() == Some(&entry.door);
            let is_ours = |it: &&HostProfile| format!("{}-", it.name).starts_with(&label);
            let is_it = |it: &&HostProfile| is_there(it) && is_ours(it) && it.settings.mode == mode;
            if let Some(it) = known.clone().find(is_it) {
                name.clone_from(&it.name);
            } else if let Some(it) = known.clone().find(|it| it.name == *name) {
                let more = if is_there(&it) { entry.mode() } else { entry.door.as_str() };
                *name = format!("{name}-{more}");
            }
        }
        for it in there.iter().filter(|it| it.host() != link.host) {
            let own = [&it.settings.rotation.secret_file, &it.settings.request.key_file];
            // What a private key makes is for one server.
            let is_lent = it.settings.mode != Some(Mode::Spa)
                && lent.iter().any(|(_, file)| own.contains(&&Some(file.clone())));
            if is_lent || names.iter().any(|name| name == it.host()) {
                let (at, host, to) = (&it.at, it.host(), &link.host);
                self.doubts.push(format!("{at}: knocks that are for {host} would go to {to}"));
            }
        }
        names
    }

    fn add_entries(&mut self, link: &Link, names: &[String], to: &Path) -> Result<(), ClientError> {
        let before = text_of(to)?;
        let mut after = before.clone().unwrap_or_default();
        for (name, entry) in names.iter().zip(&link.entries) {
            let entry = lines(link, entry, name);
            match hosts::put(to, &after, &entry)? {
                Edited::Same => {}
                Edited::Added(text) => after = text.into(),
                Edited::Replaced { text, at } => {
                    let goes = text.matches(" #").count() < after.matches(" #").count();
                    let more = if goes { " (its comments would go too)" } else { "" };
                    self.doubts
                        .push(format!("{at}: '{name}'{more} says something else than\n{entry}"));
                    after = text.into();
                }
                Edited::ByHand => self.by_hand.push_str(&entry),
            }
        }
        if after != before.clone().unwrap_or_default() {
            self.files.push((to.to_owned(), before, after));
        }
        Ok(())
    }

    /// Makes them, or none where a file has changed since it was read.
    fn write(self, path: PathBuf) -> Result<(), ImportError> {
        for (file, before, _) in &self.files {
            let is_same = text_of(file)? == *before;
            is_same.then_some(()).ok_or_else(|| ImportError::Changed(file.clone()))?;
        }
        for (file, _, text) in self.files {
            let who = fs::metadata(&file).ok().filter(|_| file == path).map(|it| it.permissions());
            write(&file, &text, who).map_err(|source| ImportError::File { path: file, source })?;
        }
        let entries = self.by_hand;
        if entries.is_empty() { Ok(()) } else { Err(ImportError::ByHand { path, entries }) }
    }
}

fn is_private(path: &Path) -> bool {
    let others = fs::File::open(path).and_then(|file| platform::others_read(path, &file));
    others.is_ok_and(|remedy| remedy.is_none())
}

/// Both keys as `fwknop --key-gen` writes them.
fn as_generated([key, hmac_key]: [Zeroizing<String>; 2]) -> Zeroizing<String> {
    Zeroizing::new(format!("KEY_BASE64: {}\nHMAC_KEY_BASE64: {}", *key, *hmac_key))
}

/// The link that was given, or that comes on standard input with whatever is around it.
fn read(given: &str) -> Result<Link, ImportError> {
    if given != "-" {
        warn(&"others may see the link in ps, and the shell keeps it: use 'knock import -'");
        return Ok(Link::decode(given)?);
    }
    if io::stdin().is_terminal() {
        let mut text = Zeroizing::new(String::with_capacity(1 << 16));
        let mut link = Err(LinkError::CutOff(0));
        // It may be pasted in several lines, among others.
        while matches!(link, Err(LinkError::CutOff(_) | LinkError::Foreign)) {
            text.push_str(&platform::prompt_hidden("Link: ").map_err(ImportError::Input)?);
            link = Link::decode(from_start(&text));
        }
        // It would be the shell's, which shows and keeps it.
        platform::drop_typed();
        return Ok(link?);
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(1 << 16));
    io::stdin().take(1 << 16).read_to_end(&mut bytes).map_err(ImportError::Input)?;
    let text = Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned());
    let lines = from_start(&text).lines().take_while(|line| !line.trim().is_empty());
    Ok(Link::decode(&Zeroizing::new(lines.collect::<String>()))?)
}

/// The text from where a link begins in it.
fn from_start(text: &str) -> &str {
    let start = text.find("knock://1/").or_else(|| text.find("knock://"));
    start.and_then(|at| text.get(at..)).unwrap_or(text)
}

/// The lines of an entry of the hosts file.
fn lines(link: &Link, entry: &LinkEntry, name: &str) -> String {
    let LinkEntry { door, way, wait } = entry;
    let file = |ending| format!("{}.{ending}", link.label);
    let mut page = YamlWriter::default();
    page.open(0, name);
    page.entry(1, "host", &link.host);
    page.entry(1, "mode", entry.mode());
    page.entry(1, "door", door.as_str());
    match way {
        Way::Totp(scheme) => {
            match scheme.mode() {
                TotpMode::Ports { low, high, length, protocol } => {
                    page.entry(1, "ports", &format!("{low}-{high}"));
                    page.entry(1, "length", &length.to_string());
                    page.entry(1, "protocol", protocol.as_str());
                }
                TotpMode::Code { base, digits } => {
                    page.entry(1, "base", &base.to_string());
                    page.entry(1, "digits", digits.as_str());
                }
            }
            page.entry(1, "step", &duration::format(scheme.step_length()));
            page.entry(1, "secret_file", &file("totp"));
        }
        Way::Spa => {
            let (key, range) = link.server.clone().unzip();
            page.optional(1, "server_key", key);
            page.entry(1, "key_file", &file("key"));
            page.optional(1, "spa_port", range.flatten().map(|it| port_range::show(&it, '-')));
        }
        Way::Fwknop(FwknopWay { hash, port, ports, nat, .. }) => {
            page.list(1, "ports", ports);
            page.optional(1, "nat_access", *nat);
            page.entry(1, "key_file", &file("fwknop"));
            page.entry(1, "hmac_digest_type", hash.as_str());
            page.optional(1, "spa_port", *port);
        }
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
    let mut path = path.to_owned();
    // A symbolic link, as managers of dotfiles make them, stays one, also to what is not there yet.
    while let Ok(to) = fs::read_link(&path) {
        path = path.with_file_name(to);
    }
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
