//! From a path to a configuration, or to everything that is wrong with it.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::commands::read_templates;
use super::diagnostic::{Diagnostic, Place, Problems, Source};
use super::door::{DoorPlaces, read_door};
use super::raw::{self, Entry, Keys, Value, given_twice};
use super::settings::{Settings, read_settings};
use super::{Config, Door, knockd_conf};

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Takes files that others could have written.
    pub insecure_permissions: bool,
}

/// A configuration that can be used, and what is doubtful about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<Diagnostic>,
    /// One for each of the configuration's doors, in the same order.
    pub places: Vec<DoorPlaces>,
}

/// Everything that is wrong with a configuration: the errors, at least one, then the warnings.
#[derive(Clone, Debug)]
pub struct Report(Vec<Diagnostic>);

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(place, diagnostic)| {
            write!(f, "{}{diagnostic}", if place > 0 { "\n" } else { "" })
        })
    }
}

impl std::error::Error for Report {}

pub(super) const TOP: Keys = Keys {
    of: "a configuration",
    known: &["knockd", "templates", "doors"],
    later: &[("clients", "remove it: clients have credentials, and doors here open by a sequence")],
};

/// A file larger than this is none that a person wrote.
const MAX_SIZE: u64 = 64 << 20;

/// Loads a directory, of which every `*.yaml` is read in byte order of its name, one YAML file, or
/// a classic `knockd.conf`, told by its first significant line.
///
/// # Errors
/// [`Report`] names everything that is wrong in all of the files.
pub fn load(path: &Path, options: &Options) -> Result<Loaded, Report> {
    let mut problems = Problems::default();
    let loaded = read(path, *options, &mut problems);
    match loaded {
        Some((config, places)) if !problems.has_errors() => {
            Ok(Loaded { config, places, warnings: problems.into_sorted() })
        }
        _ => Err(Report(problems.into_sorted())),
    }
}

type Built = (Config, Vec<DoorPlaces>);

fn read(path: &Path, options: Options, problems: &mut Problems) -> Option<Built> {
    let is_directory = match fs::metadata(path) {
        Ok(metadata) => metadata.is_dir(),
        Err(error) => {
            problems.push(unreadable(path, &error));
            return None;
        }
    };
    if is_directory {
        let sources = read_directory(path, options, problems)?;
        return Some(build(path, &sources, problems));
    }
    let source = problems.keep(read_file(path, options))?;
    if knockd_conf::is_classic(source.text()) {
        return Some(sorted(knockd_conf::read(&source, problems)));
    }
    Some(build(path, &[source], problems))
}

fn sorted((settings, mut doors): (Settings, Vec<(Door, DoorPlaces)>)) -> Built {
    doors.sort_by(|(one, _), (other, _)| one.name().cmp(other.name()));
    let (doors, places) = doors.into_iter().unzip();
    (Config { settings, doors }, places)
}

fn unreadable(path: &Path, error: &io::Error) -> Diagnostic {
    let diagnostic = Diagnostic::file(path, format!("cannot be read: {error}"));
    match error.kind() {
        io::ErrorKind::PermissionDenied => diagnostic.help("run this as root"),
        io::ErrorKind::NotFound => diagnostic.help("name another path with -c"),
        _ => diagnostic,
    }
}

/// The files of a directory; `None` if there is none to read.
fn read_directory(
    directory: &Path,
    options: Options,
    problems: &mut Problems,
) -> Option<Vec<Source>> {
    let listed = File::open(directory)
        .and_then(|opened| opened.metadata())
        .and_then(|metadata| Ok((metadata, list(directory)?)));
    let (metadata, paths) = problems.keep(listed.map_err(|error| unreadable(directory, &error)))?;
    problems.keep(check_permissions(directory, &metadata, options))?;
    let (yaml, others): (Vec<_>, Vec<_>) =
        paths.into_iter().partition(|path| has_ending(path, &["yaml"]));
    for path in others.iter().filter(|path| has_ending(path, &["yml", "conf"])) {
        let warning = Diagnostic::file(path, "not read: only names that end in .yaml are");
        problems.push(warning.into_warning());
    }
    if yaml.is_empty() {
        problems.push(
            Diagnostic::file(directory, "there is no configuration here: no file ends in .yaml")
                .help("put doors into a file doors.yaml in it, or name another path with -c"),
        );
        return None;
    }
    Some(yaml.iter().filter_map(|path| problems.keep(read_file(path, options))).collect())
}

/// What a directory holds, hidden files excepted, in byte order.
fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| {
        !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
    });
    paths.sort_by(|one, other| one.as_os_str().cmp(other.as_os_str()));
    Ok(paths)
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    path.extension().is_some_and(|ending| endings.iter().any(|known| ending == *known))
}

fn read_file(path: &Path, options: Options) -> Result<Source, Diagnostic> {
    let fail = |error: io::Error| unreadable(path, &error);
    let file = File::open(path).map_err(fail)?;
    check_permissions(path, &file.metadata().map_err(fail)?, options)?;
    let mut bytes = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(fail)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_SIZE) {
        return Err(Diagnostic::file(path, "too large for a configuration"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source::new(path, text)),
        Err(error) => {
            let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count();
            let message = format!("line {} is not UTF-8 text", line + 1);
            Err(Diagnostic::file(path, message))
        }
    }
}

/// Refuses what somebody other than root and the running user could have written.
fn check_permissions(
    path: &Path,
    metadata: &fs::Metadata,
    options: Options,
) -> Result<(), Diagnostic> {
    let own = nix::unistd::geteuid().as_raw();
    let mode = metadata.mode();
    let (message, help) = if ![0, own].contains(&metadata.uid()) {
        let message = format!("belongs to user {}, who could change it", metadata.uid());
        (message, format!("run: chown root {}", path.display()))
    } else if mode & 0o022 != 0 {
        let message = format!("others than its owner can write it (mode {:04o})", mode & 0o7777);
        (message, format!("run: chmod go-w {}", path.display()))
    } else {
        return Ok(());
    };
    if options.insecure_permissions {
        return Ok(());
    }
    Err(Diagnostic::file(path, message)
        .help(format!("{help}; --insecure-permissions reads it as it is")))
}

/// What all files say under one of the top keys.
struct Section {
    of: &'static str,
    entries: Vec<Entry>,
    places: HashMap<String, Place>,
}

impl Section {
    fn new(of: &'static str) -> Self {
        Self { of, entries: Vec::new(), places: HashMap::new() }
    }

    fn add(&mut self, entry: &Entry, problems: &mut Problems) {
        match self.places.get(&entry.key) {
            Some(first) => {
                let what = format!("{} '{}'", self.of, entry.key);
                problems.push(given_twice(&entry.at, &what, first));
            }
            None => {
                self.places.insert(entry.key.clone(), entry.at.clone());
                self.entries.push(entry.clone());
            }
        }
    }
}

fn build(path: &Path, sources: &[Source], problems: &mut Problems) -> Built {
    let mut settings = Section::new("setting");
    let mut templates = Section::new("template");
    let mut doors = Section::new("door");
    for source in sources {
        let Some(root) = raw::parse(source, problems) else { continue };
        if matches!(root.value, Value::Null) {
            continue;
        }
        let wanted = "a mapping with 'knockd', 'templates' or 'doors'";
        let Some(root) = problems.keep(root.mapping(wanted)) else { continue };
        root.check_keys(&TOP, problems);
        for (key, section) in
            [("knockd", &mut settings), ("templates", &mut templates), ("doors", &mut doors)]
        {
            let Some(node) = root.value(key) else { continue };
            if let Some(mapping) = problems.keep(node.mapping(&format!("the mapping '{key}'"))) {
                mapping.entries.iter().for_each(|entry| section.add(entry, problems));
            }
        }
    }
    let settings = read_settings(&settings.entries, problems);
    let templates = read_templates(&templates.entries, problems);
    let doors: Vec<_> =
        doors.entries.iter().filter_map(|entry| read_door(entry, &templates, problems)).collect();
    if doors.is_empty() && !problems.has_errors() {
        problems.push(
            Diagnostic::file(path, "no door is configured: nothing can be opened")
                .help("write one under 'doors:'; knock.d(5) has examples")
                .into_warning(),
        );
    }
    sorted((settings, doors))
}
