//! The configuration as shipped loads, opens nothing as it stands, and its examples are good ones.

use std::fs;
use std::path::{Path, PathBuf};

use libknock::config::Settings;
use libknock::config::lint::{HostFacts, lint};
use libknock::config::load::{Loaded, Options, load};

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("knock.d")
}

/// The checkout may belong to somebody else.
fn load_shipped(path: &Path) -> Loaded {
    load(path, &Options { insecure_permissions: true }).unwrap_or_else(|report| panic!("{report}"))
}

fn yaml_files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|ending| ending == "yaml")).collect();
    assert!(!files.is_empty());
    files
}

/// The lines with what is commented out, as a user would take it in.
fn uncommented(text: &str) -> String {
    let lines = text.lines().map(|line| match line.strip_prefix("  # ") {
        Some(rest) => format!("  {rest}\n"),
        None => format!("{line}\n"),
    });
    lines.collect()
}

#[test]
fn as_shipped_it_loads_and_has_no_door() {
    let loaded = load_shipped(&shipped());
    assert!(loaded.config.doors.is_empty());
    let warnings: Vec<_> = loaded.warnings.iter().map(|warning| &warning.message).collect();
    assert_eq!(warnings, ["no door is configured: nothing can be opened"]);
}

/// The shipped directory without its comment signs.
fn taken_in(change: impl Fn(String) -> String) -> Result<Loaded, String> {
    let directory = tempfile::tempdir().unwrap();
    for file in yaml_files(&shipped()) {
        let text = change(uncommented(&fs::read_to_string(&file).unwrap()));
        fs::write(directory.path().join(file.file_name().unwrap()), text).unwrap();
    }
    load(directory.path(), &Options::default()).map_err(|report| report.to_string())
}

#[test]
fn the_door_that_is_commented_out_is_refused_until_it_has_ports_of_its_own() {
    let error = taken_in(|text| text).unwrap_err();
    for port in ["'A'", "'B'", "'C'", "'D'"] {
        assert!(error.contains(&format!("{port} is not a port")), "{error}");
    }
}

#[test]
fn what_is_commented_out_loads_with_ports_and_shows_the_defaults() {
    let loaded =
        taken_in(|text| text.replace("[A, B, C/udp, D]", "[3051, 9871, 4077/udp, 7113]")).unwrap();
    assert_eq!(loaded.config.doors.len(), 1);
    let mut settings = loaded.config.settings;
    assert_eq!(settings.user.take().as_deref(), Some("knockd"));
    assert_eq!(settings.log.syslog.take().as_deref(), Some("daemon"));
    assert_eq!(settings.log.file.take().as_deref(), Some(Path::new("/var/log/knockd.log")));
    assert_eq!(settings.alert.take().map(|email| email.to_string()).as_deref(), Some("root"));
    assert_eq!(settings, Settings::default());
}

/// An example with what it names: keys in the place of those that are to be filled in, and a list
/// of one-time sequences.
fn load_example(file: &Path) -> Loaded {
    let keys = tempfile::tempdir().unwrap();
    fs::write(keys.path().join("ssh.sequences"), " 9871,40112,5230:udp\n").unwrap();
    let text = fs::read_to_string(file)
        .unwrap()
        .replace("/etc/knock.d/keys", &keys.path().display().to_string())
        .replace("FILL_IN_TOO", "aG1hYyBrZXk=")
        .replace("FILL_IN", "a2V5");
    let copy = keys.path().join("example.yaml");
    fs::write(&copy, text).unwrap();
    load_shipped(&copy)
}

#[test]
fn every_example_is_good_and_raises_no_doubt() {
    for file in yaml_files(&shipped().join("examples")) {
        let loaded = load_example(&file);
        assert!(!loaded.config.doors.is_empty(), "{}", file.display());
        // Whether a firewall is installed here is no matter, and clients are still to be enrolled.
        let expected = ["there is no program", "no client may open"];
        let doubts: Vec<_> = loaded
            .warnings
            .iter()
            .chain(&lint(&loaded, &HostFacts::default()))
            .map(ToString::to_string)
            .filter(|warning| !expected.iter().any(|part| warning.contains(part)))
            .collect();
        assert!(doubts.is_empty(), "{}", doubts.join("\n"));
    }
}

#[test]
fn the_keys_of_an_example_are_refused_until_they_are_filled_in() {
    let options = Options { insecure_permissions: true };
    let error = load(&shipped().join("examples/fwknop.yaml"), &options).unwrap_err().to_string();
    assert!(error.contains("the key is not base64"), "{error}");
}
