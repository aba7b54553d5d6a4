//! The stanzas of an `access.conf` and of the files that it includes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::super::side_by_side::Saying;
use super::super::{Files, unreadable};
use super::cycle::read_cycle;
use super::keys::{is_key, read_keys};
use super::lines::read_lines;
use super::variables::{Switch, VariableFate, find, variables};
use crate::config::diagnostic::closest_match;
use crate::config::{Diagnosed, Diagnostic, Place, Problems, SourceText};

/// How many files may include one another, the first one counted.
const MAX_DEPTH: usize = 3;
/// How many files are read in all.
const MAX_FILES: usize = 1000;

/// The variables that `%include_keys` may set.
const KEYS: [&str; 4] = ["KEY", "KEY_BASE64", "HMAC_KEY", "HMAC_KEY_BASE64"];

/// A variable and its value, which may be a key: it has no `Debug`.
#[derive(Clone)]
pub(super) struct StanzaVariable {
    pub(super) at: Place,
    pub(super) name: &'static str,
    pub(super) value: Vec<u8>,
}

impl StanzaVariable {
    /// The value as text; a character that is no UTF-8 is replaced.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.value).into_owned()
    }

    /// The error that because of this value the stanza is left out.
    pub(super) fn left_out(&self, why: impl Display) -> Diagnostic {
        self.at.error(format!("the stanza is left out: {why}"))
    }

    /// A boolean as fwknopd reads it.
    pub(super) fn is_yes(&self) -> bool {
        Switch::read(&self.value) == Switch::On
    }
}

/// The variables that follow a SOURCE, up to the next one in the same file.
pub(super) struct AccessStanza {
    pub(super) at: Place,
    /// Its file and line, for people.
    pub(super) origin: String,
    /// The name of the file that it is in, without its ending, where that is not the main one.
    pub(super) file: Option<String>,
    /// Under one name what two of them may say.
    variables: BTreeMap<&'static str, StanzaVariable>,
}

impl AccessStanza {
    pub(super) fn get(&self, name: &str) -> Option<&StanzaVariable> {
        self.variables.get(name)
    }

    /// The value of a variable that is a word of fwknop's.
    pub(super) fn word<T: FromStr<Err: Display>>(&self, name: &str) -> Diagnosed<Option<T>> {
        let Some(given) = self.get(name) else { return Ok(None) };
        given.text().parse().map(Some).map_err(|error| given.left_out(error))
    }

    /// What it says, and what goes without saying; `asked`: where it may be asked to be led to.
    pub(super) fn says(&self, asked: Option<&Place>) -> Vec<Saying> {
        let text = |it: &StanzaVariable| {
            let is_secret = it.name.contains("KEY") || it.name == "GPG_DECRYPT_PW";
            let text = if is_secret { "a key".to_owned() } else { it.text() };
            (it.name, text, Some(it.at.clone()))
        };
        let mut says: Vec<Saying> = self.variables.values().map(text).collect();
        if self.get("CMD_CYCLE_OPEN").is_none() {
            let at = Some(self.at.clone());
            let asked = asked.map(|at| ("FORCE_NAT", "wherever a request says", Some(at.clone())));
            let silent = [
                ("OPEN_PORTS", "any port", None),
                ("FW_ACCESS_TIMEOUT", "30", at.clone()),
                ("MAX_FW_TIMEOUT", "300", at),
            ];
            let silent = silent.into_iter().chain(asked);
            let silent = silent.filter(|(name, ..)| self.get(name).is_none());
            says.extend(silent.map(|(name, text, at)| (name, text.to_owned(), at)));
        }
        says.sort_by_key(|(name, ..)| variables("access").position(|(known, _)| known == *name));
        says
    }
}

/// Reads all stanzas, in the order in which fwknopd tries them: those of a file, or of a folder
/// that it reads instead.
pub(super) fn read(
    path: &Path,
    folder: Option<&(Place, PathBuf)>,
    files: &dyn Files,
    notes: &mut Problems,
) -> Vec<AccessStanza> {
    let (stanzas, left, helped) = (Vec::new(), MAX_FILES, BTreeSet::new());
    let mut reader = StanzaReader { files, notes, stanzas, left, helped };
    match folder {
        Some((at, folder)) => reader.folder(folder, at, 0),
        None => reader.file(path, None, 0),
    }
    reader.stanzas
}

/// The stanza that the lines of a file go to.
#[derive(Clone, Copy)]
enum Current {
    /// There was no SOURCE yet.
    None,
    Stanza(usize),
    /// To nothing, up to the next SOURCE.
    Dropped,
}

struct StanzaReader<'a> {
    files: &'a dyn Files,
    notes: &'a mut Problems,
    stanzas: Vec<AccessStanza>,
    left: usize,
    helped: BTreeSet<&'static str>,
}

impl StanzaReader<'_> {
    fn open(&mut self, path: &Path, included: Option<&Place>) -> Option<Vec<u8>> {
        if self.left == 0 {
            self.notes.push(Diagnostic::file(path, "left out: more files than anybody has"));
            return None;
        }
        self.left -= 1;
        let read = self.files.read(path).map_err(|error| match included {
            Some(at) => at.error(format!("{} cannot be read: {error}", path.display())),
            None => unreadable(path, &error),
        });
        self.notes.ok_or_report(read)
    }

    /// Each file has a stanza of its own that its lines go to.
    fn file(&mut self, path: &Path, included: Option<&Place>, depth: usize) {
        let Some(bytes) = self.open(path, included) else { return };
        // No line of it is ever shown: any may hold a key.
        let source = SourceText::new(path, "");
        let mut current = Current::None;
        for line in read_lines(&source, &bytes) {
            let Some((at, line)) = self.notes.ok_or_report(line) else { continue };
            let name = line.name.strip_suffix(':').unwrap_or(line.name);
            // Looked for where this is started, as by fwknopd, unless it begins at the root.
            let named = PathBuf::from(String::from_utf8_lossy(line.value).as_ref());
            match (name, current) {
                ("%include" | "%include_folder", _) if depth + 1 >= MAX_DEPTH => {
                    self.notes.push(at.error("left out: included too deep, or in a circle"));
                }
                ("%include", _) => self.file(&named, Some(&at), depth + 1),
                ("%include_folder", _) => self.folder(&named, &at, depth + 1),
                ("SOURCE", _) => {
                    current = Current::Stanza(self.stanzas.len());
                    let stem = path.file_stem().filter(|_| included.is_some());
                    let file = stem.map(|stem| stem.to_string_lossy().into_owned());
                    let origin = format!("{}:{}", path.display(), line.number);
                    let (variables, place) = (BTreeMap::new(), at.clone());
                    self.stanzas.push(AccessStanza { at: place, origin, file, variables });
                    self.give(self.stanzas.len() - 1, name, line.value, at);
                }
                (_, Current::None) => self.homeless(&at, name),
                (_, Current::Dropped) => {}
                ("%include_keys", Current::Stanza(stanza)) => {
                    self.keys(&named, &at, stanza);
                    if self.drops(stanza) {
                        current = Current::Dropped;
                    }
                }
                (_, Current::Stanza(stanza)) => self.give(stanza, name, line.value, at),
            }
        }
    }

    fn folder(&mut self, directory: &Path, at: &Place, depth: usize) {
        let failed = |error| at.error(format!("{} cannot be read: {error}", directory.display()));
        let listed = self.files.list(directory).map_err(failed);
        let Some(paths) = self.notes.ok_or_report(listed) else { return };
        for path in paths.iter().filter(|path| path.as_os_str().as_bytes().ends_with(b".conf")) {
            self.file(path, Some(at), depth);
        }
    }

    /// Up to the first line that is wrong, as fwknopd.
    fn keys(&mut self, path: &Path, included: &Place, stanza: usize) {
        let Some(bytes) = self.open(path, Some(included)) else { return };
        let source = SourceText::new(path, "");
        for line in read_lines(&source, &bytes) {
            let Some((at, line)) = self.notes.ok_or_report(line) else { return };
            let name = line.name.strip_suffix(':').unwrap_or(line.name);
            if !KEYS.contains(&name) && !name.starts_with("GPG_") {
                self.notes.push(at.warning("left out: only keys are read from a file of keys"));
            } else if KEYS.contains(&name) && !is_key(name, line.value) {
                let message = format!("{name} is not a key: this file is read up to here");
                return self.notes.push(at.error(message));
            } else {
                self.give(stanza, name, line.value, at);
            }
        }
    }

    /// Behind a file of keys fwknopd drops a stanza that is not complete yet; so does this.
    fn drops(&mut self, stanza: usize) -> bool {
        let Some(read) = self.stanzas.get(stanza) else { return false };
        let cycle = || read_cycle(read, &mut Problems::default()).map(drop);
        let Err(problem) = read_keys(read).map(drop).and_then(|()| cycle()) else { return false };
        let help = "fwknopd looks at a stanza when it has read its file of keys, and drops it if it \
                    is not complete by then";
        self.notes.push(problem.help(help));
        self.stanzas.remove(stanza);
        true
    }

    fn homeless(&mut self, at: &Place, name: &str) {
        let message = match find("access", name, b"") {
            Some((name, _)) => format!("{name} stands before the first SOURCE: left out"),
            None => "left out: it stands before the first SOURCE".to_owned(),
        };
        self.notes.push(at.error(message));
    }

    fn give(&mut self, stanza: usize, name: &str, value: &[u8], at: Place) {
        let Some(stanza) = self.stanzas.get_mut(stanza) else { return };
        let Some((name, fate)) = find("access", name, value) else {
            return self.notes.push(unknown(name, &at));
        };
        let given = StanzaVariable { at, name, value: value.to_vec() };
        match fate {
            Some(VariableFate::Carried(_)) => {}
            Some(VariableFate::LeftOut(why)) => {
                return self.notes.push(given.at.warning(format!("{name} {why}: left out")));
            }
            Some(VariableFate::Refused(_, help)) => {
                let error = given.at.error(format!("{name} is not carried over"));
                // Once said is enough.
                let first = self.helped.insert(help);
                self.notes.push(if first { error.help(help) } else { error });
            }
            None => return,
        }
        let place = match name {
            "KEY_BASE64" => "KEY",
            "HMAC_KEY_BASE64" => "HMAC_KEY",
            "ACCESS_EXPIRE_EPOCH" => "ACCESS_EXPIRE",
            "REQUIRE_SOURCE" => "REQUIRE_SOURCE_ADDRESS",
            name => name,
        };
        if let Some(first) = stanza.variables.get(place) {
            let (first, at) = (first.name, &first.at);
            let message = format!("{first} was given before, at {at}: the last one counts");
            self.notes.push(given.at.warning(message));
        }
        stanza.variables.insert(place, given);
    }
}

/// A word is named only where it is surely meant for a variable: it might be part of a key.
fn unknown(word: &str, at: &Place) -> Diagnostic {
    let fits = |byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_');
    let is_variable = word.contains('_') && word.bytes().all(fits);
    let this = if is_variable { format!("'{word}'") } else { "this".to_owned() };
    let message = format!("left out: {this} is not a variable of fwknopd's");
    let error = match closest_match(word, variables("access").map(|(name, _)| name)) {
        Some(meant) => at.error(format!("{message}: did you mean {meant}?")),
        None => at.error(message),
    };
    error.help("fwknopd says that it ignores it, so it had no effect until now")
}
