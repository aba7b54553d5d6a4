//! `knockctl import`: configurations as they are found in the world, and what becomes of them.
//!
//! Beside each file in `tests/data/import` stand the YAML and the notes that are to come out.
//! `SNAPSHOTS=overwrite cargo test --test cli import::` writes those anew.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libknock::config::load::{Loaded, Options, load};
use libknock::config::{Opening, Settings};
use snapbox::{Data, assert_data_eq};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/import")
}

struct Said {
    status: Option<i32>,
    yaml: String,
    notes: String,
}

/// Runs `knockctl import` in a directory, so that the notes name short paths.
#[expect(clippy::disallowed_methods, reason = "tests start programs")]
fn import(directory: &Path, arguments: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_knockctl"))
        .current_dir(directory)
        .env("TZ", "Europe/Berlin")
        .args(["-c", "/nonexistent", "import"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Said {
        status: output.status.code(),
        yaml: String::from_utf8(output.stdout).unwrap(),
        notes: String::from_utf8(output.stderr).unwrap(),
    }
}

fn loaded(yaml: &str) -> Loaded {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("doors.yaml");
    fs::write(&file, yaml).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    load(&file, &Options::default()).unwrap_or_else(|report| panic!("{report}\nin\n{yaml}"))
}

fn compare(said: &Said, expected: &Path) {
    let path = |ending| expected.with_extension(ending);
    assert_data_eq!(said.yaml.as_str(), Data::read_from(&path("yaml"), None).raw());
    assert_data_eq!(said.notes.as_str(), Data::read_from(&path("notes"), None).raw());
}

/// What is to become of a `knockd.conf`, and whether that is all of it.
fn knockd(name: &str, status: i32) {
    let said = import(&data().join("knockd"), &[&format!("{name}.conf")]);
    compare(&said, &data().join("knockd").join(name));
    assert_eq!(said.status, Some(status));
    // A file of one-time sequences is not there.
    if !said.yaml.contains("one_time_sequences") {
        loaded(&said.yaml);
    }
}

/// The same of an `access.conf`, which has a directory of its own.
fn fwknop(name: &str, status: i32) {
    fwknop_with(name, name, &[], status);
}

fn fwknop_with(name: &str, expected: &str, options: &[&str], status: i32) {
    let directory = data().join("fwknop").join(name);
    let arguments: Vec<&str> = options.iter().copied().chain(["access.conf"]).collect();
    let said = import(&directory, &arguments);
    compare(&said, &directory.join(expected));
    assert_eq!(said.status, Some(status));
    loaded(&said.yaml);
}

macro_rules! cases {
    ($($function:ident { $($test:ident: $name:literal => $status:literal;)* })*) => {
        $($(#[test] fn $test() { $function($name, $status); })*)*
    };
}

cases! {
    knockd {
        a_door_that_opens_and_closes_and_one_time_sequences: "open-and-close" => 0;
        commands_of_both_families: "both-families" => 0;
        a_command_for_ipv6_alone: "only-ipv6" => 0;
        a_door_without_tcpflags_takes_any_packet: "any-packet" => 0;
        a_target: "target" => 1;
        what_classic_knockd_misreads_is_told_and_read_alike: "misread" => 1;
        names_that_cannot_stay_and_names_given_twice: "names" => 0;
        line_ends_and_bytes_of_another_system: "windows" => 1;
        the_cooldown_of_a_fork: "cooldown" => 0;
        doors_that_could_not_work_are_commented_out: "broken" => 1;
        a_command_that_sleeps_for_longer_than_commands_may: "sleep" => 0;
        a_file_without_a_door: "empty" => 1;
    }
    fwknop {
        keys_that_fwknopd_made: "generated-keys" => 0;
        a_stanza_that_opens_any_port_is_commented_out: "any-port" => 1;
        people_who_share_doors: "several-people" => 0;
        files_that_are_included: "includes" => 1;
        a_client_of_old_without_hmac: "legacy" => 0;
        commands_that_open_and_close: "commands" => 1;
        gnupg_is_named: "gnupg" => 1;
        a_host_that_connections_are_led_to_is_forwarded_to: "nat" => 1;
        translation_that_fwknopd_conf_does_not_allow_is_told: "nat-unsaid" => 1;
        what_openwrt_makes_of_its_own_file: "openwrt" => 0;
        dates_of_expiry: "expiry" => 1;
        networks_with_prefix_and_mask: "networks" => 1;
        hashes_and_modes: "modes" => 1;
        what_matters_of_fwknopd_conf: "daemon" => 1;
        what_of_fwknopd_conf_cannot_be: "daemon-filter" => 1;
        requests_to_a_range_of_ports: "daemon-range" => 0;
        mistakes_are_named_with_their_line: "mistakes" => 1;
        keys_of_any_bytes: "odd-keys" => 1;
    }
}

#[test]
fn a_stanza_that_opens_any_port_opens_those_that_are_named() {
    fwknop_with("any-port", "opened", &["--open", "tcp/22,25/tcp,1194/udp"], 0);
}

/// What stands beside each other with `--explain`. Notes and status are those of the import.
fn explained(directory: &Path, file: &str, expected: &Path) {
    let said = import(directory, &["--explain", file]);
    let plain = import(directory, &[file]);
    assert_eq!((said.status, said.notes), (plain.status, plain.notes));
    let expected = Data::read_from(&expected.with_extension("explained"), None).raw();
    assert_data_eq!(said.yaml.as_str(), expected);
}

#[test]
fn what_a_stanza_allowed_stands_beside_what_it_allows_now() {
    for name in ["nat", "any-port", "commands", "several-people", "gnupg"] {
        let directory = data().join("fwknop").join(name);
        explained(&directory, "access.conf", &directory.join(name));
    }
}

#[test]
fn what_a_section_did_stands_beside_what_its_door_does() {
    for name in ["misread", "both-families", "broken"] {
        let directory = data().join("knockd");
        explained(&directory, &format!("{name}.conf"), &directory.join(name));
    }
}

#[test]
fn a_terminal_obeys_nothing_that_stands_in_an_explained_file() {
    let directory = tempfile::tempdir().unwrap();
    let text = "SOURCE ANY\nKEY a\nHMAC_KEY b\nOPEN_PORTS tcp/22, \x1b[2Jtcp/23\n";
    fs::write(directory.path().join("access.conf"), text).unwrap();
    let said = import(directory.path(), &["--explain", "access.conf"]).yaml;
    assert!(said.contains("\\u{1b}[2Jtcp/23") && !said.contains('\x1b'), "{said}");
}

#[test]
fn no_key_is_in_the_notes_nor_explained() {
    for directory in fs::read_dir(data().join("fwknop")).unwrap() {
        let notes = directory.unwrap().path();
        let name = notes.file_name().unwrap().to_owned();
        let explained = import(&notes, &["--explain", "access.conf"]).yaml;
        let notes = fs::read_to_string(notes.join(name).with_extension("notes")).unwrap();
        let notes = notes + &explained;
        for key in
            ["another # pass", "alice's", "extra extra", "YWJj", "secret", "0123456789", "nord"]
        {
            assert!(!notes.contains(key), "{notes}");
        }
    }
}

#[test]
fn what_comes_out_of_a_classic_configuration_is_the_same_configuration() {
    for name in ["both-families", "only-ipv6", "any-packet"] {
        same(&data().join("knockd").join(name).with_extension("conf"));
    }
}

/// Holds what comes out of a `knockd.conf` against the file as it is read itself.
fn same(path: &Path) {
    let name = path.display();
    let insecure = Options { insecure_permissions: true };
    let classic = load(path, &insecure).unwrap_or_else(|report| panic!("{report}")).config;
    let said = import(&data(), &[path.to_str().unwrap()]);
    assert_eq!((said.status, said.notes.as_str()), (Some(0), ""), "{name}");
    let imported = loaded(&said.yaml).config;
    // A classic file is kept apart by its name; YAML says where it is kept.
    let Settings { state_dir, run_dir, pid_file, .. } = imported.settings.clone();
    let settings = classic.settings;
    let settings = Settings { classic_file: None, state_dir, run_dir, pid_file, ..settings };
    assert_eq!(settings, imported.settings, "{name}");
    assert_eq!(classic.doors.len(), imported.doors.len(), "{name}");
    for (classic, imported) in classic.doors.iter().zip(&imported.doors) {
        assert_eq!(classic.recognition, imported.recognition, "{name}");
        // How long commands may run is only written where it may matter.
        let opening = Opening { command_limit: None, ..imported.opening.clone() };
        assert_eq!(classic.opening, opening, "{name}");
    }
}

/// The configuration file of a Debian package, if it can be read and nobody has changed it; says
/// loudly why not.
fn shipped(test: &str, package: &str, path: &'static str) -> Option<&'static Path> {
    let printed = |program: &str, arguments: &[&str]| {
        // Other systems have no dpkg.
        let output = crate::support::command(program).args(arguments).output();
        output.map_or_else(|_| String::new(), |it| String::from_utf8_lossy(&it.stdout).into_owned())
    };
    let sum = printed("md5sum", &[path]);
    let conffiles = printed("dpkg-query", &["-W", "-f=${Conffiles}", package]);
    let found = sum
        .split_whitespace()
        .next()
        .is_some_and(|sum| conffiles.lines().any(|line| line.split_whitespace().eq([path, sum])));
    if !found {
        crate::support::skipped(test, &format!("{path} is not as the package {package} ships it"));
    }
    found.then_some(Path::new(path))
}

#[test]
fn the_configuration_that_debian_ships_for_knockd_is_carried_over_whole() {
    let name = "the_configuration_that_debian_ships_for_knockd_is_carried_over_whole";
    let Some(path) = shipped(name, "knockd", "/etc/knockd.conf") else { return };
    same(path);
}

#[test]
fn keys_that_were_never_changed_are_refused() {
    let name = "keys_that_were_never_changed_are_refused";
    let all = ["/etc/fwknop/fwknopd.conf", "/etc/fwknop/access.conf"];
    let [Some(_), Some(path)] = all.map(|path| shipped(name, "fwknop-server", path)) else {
        return;
    };
    let said = import(&data(), &[path.to_str().unwrap()]);
    assert_eq!(said.status, Some(1));
    assert!(said.notes.contains("the key still is the placeholder __CHANGEME__"), "{}", said.notes);
    assert!(!said.notes.contains("there is none"), "{}", said.notes);
    let config = loaded(&said.yaml).config;
    assert_eq!((config.clients.len(), config.doors.len()), (0, 0));
}

#[test]
fn one_time_sequences_go_on_where_classic_knockd_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let sequences = directory.path().join("sequences");
    fs::write(&sequences, "#1,2,3\n7113,25992,9871\n2001,4004,3003\n").unwrap();
    let text = format!("[ssh]\nOne_Time_Sequences = {}\nCommand = true\n", sequences.display());
    fs::write(directory.path().join("knockd.conf"), text).unwrap();
    let said = import(directory.path(), &["knockd.conf"]);
    assert_eq!((said.status, said.notes.as_str()), (Some(0), ""));
    let config = loaded(&said.yaml).config;
    let knocks: Vec<_> =
        config.doors[0].recognition.sequence.iter().map(ToString::to_string).collect();
    assert_eq!(knocks, ["7113/tcp", "25992/tcp", "9871/tcp"]);
    let one_time = config.doors[0].one_time.as_ref().unwrap();
    assert_eq!((&one_time.file, one_time.line, one_time.left), (&sequences, Some(2), 2));
}

#[test]
fn what_is_neither_is_refused_and_told_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    for (text, help) in [
        ("[default]\nSPA_SERVER 192.0.2.1\nUSE_HMAC Y\n", "knock --fwknoprc NAME"),
        ("PCAP_INTF eth0;\n", "name the access.conf"),
        ("doors:\n  ssh: {sequence: [1]}\n", "put it into /etc/knock.d"),
        ("config global\n\toption uci_enabled '1'\n\nconfig access\n", "/var/etc/access.conf"),
        ("", "begins with a [section]"),
    ] {
        fs::write(directory.path().join("file"), text).unwrap();
        let said = import(directory.path(), &["file"]);
        assert_eq!((said.status, said.yaml.as_str()), (Some(1), ""), "{text}");
        let wanted = "file: error: this is neither a knockd.conf nor an access.conf of fwknop\n";
        assert!(said.notes.starts_with(wanted), "{}", said.notes);
        assert!(said.notes.contains(help), "{}", said.notes);
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let said = import(&data(), &["nowhere.conf"]);
    assert_eq!((said.status, said.yaml.as_str()), (Some(1), ""));
    assert_eq!(
        said.notes,
        "nowhere.conf: error: cannot be read: No such file or directory (os error 2)\n"
    );
    assert!(import(&data(), &["knockd"]).notes.ends_with("\n    name the file in it\n"));
    let said = import(&data(), &["/dev/zero"]);
    assert_eq!(said.notes, "/dev/zero: error: cannot be read: too large for a configuration\n");
}

#[test]
fn without_a_file_the_command_line_is_wrong() {
    assert_eq!(import(&data(), &[]).status, Some(2));
    assert_eq!(import(&data(), &["--open", "tcp/70000", "x"]).status, Some(2));
}

#[test]
fn the_pages_about_moving_have_good_links_and_configurations() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for page in ["docs/moving-from-knockd.md", "docs/moving-from-fwknop.md"] {
        let text = fs::read_to_string(root.join(page)).unwrap();
        for link in text.split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap();
            assert!(root.join("docs").join(target).exists(), "{page} links to {target}");
        }
        for block in text.split("```yaml\n").skip(1) {
            loaded(block.split("```").next().unwrap());
        }
    }
}
