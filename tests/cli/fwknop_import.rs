//! `knockctl import` and Debian's fwknopd, put to the same files: what fwknopd prints that it has
//! read is what is imported.
//!
//! Where the two differ on purpose, `docs/moving-from-fwknop.md` says so, and [`ON_PURPOSE`] has
//! the words of the note. `make long` puts many more files to both.

mod cases;
mod meaning;
mod packets;

use std::fmt::Write;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cases::{
    Case, daemons, every_pair, every_place, every_value, every_value_in_every_place, includes,
    neighbours,
};
use jiff::tz::TimeZone;
use libknock::config::diagnostic::SourceText;
use libknock::config::{Config, load};
use libknock::ctl::import::{Files, Imported, import};
use meaning::{Meaning, dumped, meanings};

use crate::support::has_programs;

/// What fwknopd takes and is left out here, by the words of the note that says so.
const ON_PURPOSE: &[&str] = &[
    "it opens no port",
    "invalid key length",
    "it has no KEY",
    "is GnuPG",
    "it has the same KEY",
    "it has the same HMAC_KEY",
    "no request can hold this REQUIRE_USERNAME",
    "is not an IPv4 address or network",
    "is not a day on which it could expire",
    "its CMD_CYCLE_OPEN is not a command",
    "its command does not name a program",
    "in a command",
    "GPG_DECRYPT_PW is not carried over",
    "is not the address and the port of a host",
    "with FORWARD_ALL it leads to no port of one host",
    "with DISABLE_DNAT it leads to no port of one host",
    "is of no use without FORCE_NAT",
];

/// What the one and the other make of the same files.
struct Both {
    /// `None`: it does not start.
    fwknopd: Option<Vec<Meaning>>,
    imported: Vec<Meaning>,
    /// Whether everything is said to be carried over.
    complete: bool,
    said: Vec<String>,
    yaml: String,
    config: Option<Config>,
}

struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(directory)?;
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    }
}

impl Case {
    fn put_to_both(&self, directory: &Path) -> Both {
        let _ = fs::remove_dir_all(directory);
        fs::create_dir(directory).unwrap();
        for (name, text) in &self.files {
            let path = directory.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text.replace('@', directory.to_str().unwrap())).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        }
        let access = directory.join("access.conf");
        let open = ["22/tcp".parse().unwrap()];
        let mut both = Both {
            fwknopd: dumped(directory),
            imported: Vec::new(),
            complete: false,
            said: Vec::new(),
            yaml: String::new(),
            config: None,
        };
        match import(&access, &Disk, &TimeZone::UTC, &open) {
            Ok(Imported { yaml, notes, complete, .. }) => {
                let source = SourceText::new("imported.yaml", yaml.as_str());
                let loaded = load::parse(&source)
                    .unwrap_or_else(|report| panic!("{}\n{report}\n{yaml}", self.name));
                both.imported = meanings(&loaded.config);
                both.complete = complete;
                both.said = notes.iter().map(ToString::to_string).collect();
                (both.yaml, both.config) = (yaml, Some(loaded.config));
            }
            Err(error) => both.said.push(error.to_string()),
        }
        both
    }
}

/// How the two differ, if they do.
fn difference(both: &Both) -> Option<String> {
    let Both { fwknopd, imported, complete, said, .. } = both;
    let Some(fwknopd) = fwknopd else {
        // Of what is given twice only the last is looked at.
        let is_given_twice = said.iter().any(|note| note.contains("was given before"));
        let is_wrong = *complete && !is_given_twice;
        return is_wrong.then(|| "fwknopd does not start, and no error says so".to_owned());
    };
    // Folders are read in whatever order the disk has them.
    let (mut theirs, mut ours) = (fwknopd.clone(), imported.clone());
    theirs.sort();
    ours.sort();
    if theirs == ours {
        return None;
    }
    let mut invented = ours.iter().filter(|stanza| !theirs.contains(stanza)).peekable();
    let on_purpose = |note: &String| ON_PURPOSE.iter().any(|words| note.contains(words));
    if invented.peek().is_none() && !complete && said.iter().any(on_purpose) {
        return None;
    }
    let mut text = String::new();
    for stanza in theirs.iter().filter(|stanza| !ours.contains(stanza)) {
        let _ = writeln!(text, "  fwknopd:  {stanza:?}");
    }
    for stanza in invented {
        let _ = writeln!(text, "  imported: {stanza:?}");
    }
    for note in said {
        let _ = writeln!(text, "  {}", note.lines().next().unwrap_or_default());
    }
    Some(text)
}

fn run(name: &str, cases: &[Case]) {
    if !has_programs(name, &["fwknopd"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut text = String::new();
    let mut count = 0;
    for case in cases {
        let both = case.put_to_both(&directory.path().join("fwknop"));
        if let Some(difference) = difference(&both) {
            count += 1;
            let _ = writeln!(text, "{:?}\n{difference}", case.name);
        }
    }
    assert!(text.is_empty(), "{count} of {} differ:\n{text}", cases.len());
}

/// What opens to the same requests, for those that the commands of a stanza do not decide.
fn send_to_both(name: &str, cases: &[Case]) {
    if !has_programs(name, &["fwknopd", "timeout"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().join("fwknop");
    let mut text = String::new();
    for case in cases {
        let both = case.put_to_both(&directory);
        let (Some(_), Some(config)) = (&both.fwknopd, &both.config) else { continue };
        let Some([theirs, ours]) = packets::opened(&directory, &both.yaml, config) else {
            continue;
        };
        if theirs != ours {
            let _ = writeln!(text, "{:?}\n  fwknopd: {theirs:?}\n  knockd:  {ours:?}", case.name);
        }
    }
    assert!(text.is_empty(), "they differ:\n{text}");
}

#[test]
fn every_value_of_every_variable_is_read_alike() {
    run("every_value_of_every_variable_is_read_alike", &every_value());
}

#[test]
fn a_variable_is_read_alike_wherever_it_stands_and_however_it_is_written() {
    run("a_variable_is_read_alike_wherever_it_stands_and_however_it_is_written", &every_place());
}

#[test]
fn files_that_name_other_files_are_read_alike() {
    run("files_that_name_other_files_are_read_alike", &[includes(), daemons()].concat());
}

#[test]
fn stanzas_beside_each_other_are_read_alike() {
    run("stanzas_beside_each_other_are_read_alike", &neighbours());
}

#[test]
fn the_same_requests_open_the_same_ports() {
    let decides = |case: &Case| {
        let names = [
            "SOURCE",
            "DESTINATION",
            "OPEN_",
            "RESTRICT_",
            "ENCRYPTION_",
            "KEY",
            "REQUIRE_",
            "FORCE_NAT",
        ];
        names.iter().any(|name| case.name.starts_with(name)) && !case.name.contains("CMD_CYCLE")
    };
    let cases: Vec<Case> = every_value().into_iter().filter(decides).collect();
    send_to_both("the_same_requests_open_the_same_ports", &cases);
}

#[test]
#[ignore = "takes minutes: make long"]
fn every_value_is_read_alike_wherever_it_stands() {
    run("every_value_is_read_alike_wherever_it_stands", &every_value_in_every_place());
}

#[test]
#[ignore = "takes minutes: make long"]
fn any_two_variables_are_read_alike_beside_each_other() {
    run("any_two_variables_are_read_alike_beside_each_other", &every_pair());
}

/// A variable that fwknopd itself says that it does not know is told as such, and no other.
#[test]
fn the_variables_that_fwknopd_knows_are_known() {
    if !has_programs("the_variables_that_fwknopd_knows_are_known", &["fwknopd", "strings"]) {
        return;
    }
    let binary = crate::support::must("strings", &["/usr/sbin/fwknopd"]);
    let is_name = |text: &&str| {
        // One of them names another file.
        *text != "OVERRIDE_CONFIG"
            && text.len() > 3
            && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
    };
    let names: Vec<&str> = binary.lines().filter(is_name).collect();
    assert!(names.contains(&"HMAC_DIGEST_TYPE") && names.contains(&"CMD_EXEC_TIMEOUT"));
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().join("fwknop");
    let path = |name: &str| directory.join(name).display().to_string();
    let [daemon, access] = [path("fwknopd.conf"), path("access.conf")];
    let run = ["-f", "-D", "-c", &daemon, "-a", &access, "-r", directory.to_str().unwrap()];
    for name in names {
        let [in_access, in_daemon] = cases::naming(name);
        for (case, file) in [(in_access, "access"), (in_daemon, "configuration")] {
            let both = case.put_to_both(&directory);
            let said =
                String::from_utf8_lossy(&crate::support::run("fwknopd", &run).stderr).into_owned();
            let is_ignored = said.contains(&format!("Ignoring unknown {file} parameter: '{name}'"));
            let is_told =
                both.said.iter().any(|note| note.contains("is not a variable of fwknopd's"));
            assert_eq!(is_told, is_ignored, "{name} among {file} parameters: {said}");
        }
    }
}

/// The variables that a text of fwknopd's begins a line with, commented out or not.
fn variables(text: &str) -> Vec<&str> {
    let begins = text
        .lines()
        .filter_map(|line| line.trim_start_matches(['#', ' ']).split([' ', '\t', '\\']).next());
    let is_name = |word: &&str| {
        word.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
            && (word.contains('_')
                || ["SOURCE", "DESTINATION", "KEY", "VERBOSE", "LOCALE"].contains(word))
    };
    begins.filter(is_name).collect()
}

#[test]
fn the_variables_that_fwknop_installs_are_known() {
    let name = "the_variables_that_fwknop_installs_are_known";
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let [access, daemon] = ["access", "fwknopd"].map(|it| read(&format!("/etc/fwknop/{it}.conf")));
    let manual = "/usr/share/man/man8/fwknopd.8.gz";
    if access.is_empty() || daemon.is_empty() || !Path::new(manual).exists() {
        return crate::support::skipped(name, "fwknop's files and its manual are not to be read");
    }
    if !has_programs(name, &["fwknopd", "zcat"]) {
        return;
    }
    let manual = crate::support::must("zcat", &[manual]);
    // Each is followed by what it takes.
    let heads = manual.lines().filter(|line| line.contains("\\fR \\fI<"));
    let manual = heads.collect::<Vec<_>>().join("\n").replace("\\fB", "");
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().join("fwknop");
    let is_known = |case: &Case| {
        let said = case.put_to_both(&directory).said;
        !said.iter().any(|note| note.contains("is not a variable of fwknopd's"))
    };
    let counts = [(&access, [true, false]), (&daemon, [false, true]), (&manual, [true, true])].map(
        |(text, files)| {
            let names = variables(text);
            for name in &names {
                let cases = cases::naming(name);
                let known = cases.iter().zip(files).any(|(case, may)| may && is_known(case));
                assert!(known, "{name}");
            }
            names.len()
        },
    );
    assert!(counts.iter().all(|count| *count > 15), "{counts:?}");
}
