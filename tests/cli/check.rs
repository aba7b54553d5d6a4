//! `knockctl check` and `knockd -t`, as they are used.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use snapbox::{IntoData, assert_data_eq, str};
use tempfile::TempDir;

use crate::support::{Host, needs};

struct Said {
    status: Option<i32>,
    output: String,
    errors: String,
}

/// Runs a program with `-c` and a file of this text, whose directory is left out of what it says.
fn run(program: &str, arguments: &[&str], text: &str) -> Said {
    let (directory, path) = file(text);
    let output =
        Command::cargo_bin(program).unwrap().arg("-c").arg(path).args(arguments).output().unwrap();
    said(output, directory.path())
}

fn said(output: Output, directory: &Path) -> Said {
    let directory = format!("{}/", directory.display());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&directory, "");
    // Whoever is not root is told so.
    let errors: String = text(output.stderr)
        .split_inclusive('\n')
        .filter(|line| !line.contains(": not looked at without root"))
        .collect();
    Said { status: output.status.code(), output: text(output.stdout), errors }
}

/// Writes a file with sequences, which are not everybody's business.
fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn file(text: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("doors.yaml");
    write(&path, text);
    (directory, path)
}

// Ports on which hardly anything listens while tests run.
const GOOD: &str = "doors:
  ssh:
    sequence: [201, 403, 302/udp]
    start_command: 'echo %IP%'
    stop_command: [echo, 'bye %IP%']
    start_command_6:
    open_for: 1m
  bell:
    sequence: [601, 501, 701]
    start_command: echo ring
    seq_timeout: 5s
";

#[test]
fn each_door_is_described_with_its_sequence_and_its_odds() {
    let said = run("knockctl", &["check"], GOOD);
    assert_eq!(said.status, Some(0));
    assert_eq!(said.errors, "");
    assert_data_eq!(
        said.output,
        str![[r#"
bell: 601/tcp 501/tcp 701/tcp; 3 stages within 5s; a scan in random order opens it 1 time in 9,702
    runs echo ring
ssh: 201/tcp 403/tcp 302/udp; 3 stages within 25s; a scan in random order opens it 1 time in 9,702
    IPv4 runs echo %IP%
    IPv4 after 1m runs echo 'bye %IP%'
    IPv6 cannot be opened
knockd keeps all its privileges, which a command may need: bell, ssh
doors.yaml: 2 doors, no errors, no warnings

"#]]
        .raw()
    );
}

#[test]
fn a_door_is_described_with_every_way_to_open_it() {
    let (directory, path) = file(
        "knockd: {spa: {port: 62000-62999}, fwknop: {port: 10000-65535}}
clients:
  phone: {doors: [code, any], totp: {secret: JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP}}
  laptop: {doors: [any], spa: {public_key: ngoLprV+qNBob6m9GZw5OwFUkkMyE9L1O1BKH/3WJCU=}}
  router: {doors: [any], fwknop: {key: a, hmac_key: b}}
doors:
  any: {sequence: [201, 403, 302], totp: {ports: 20000-29999}, spa: true, fwknop: true, start_command: echo}
  code: {totp: {mode: code, base: 7000}, start_command: echo}
  list: {one_time_sequences: DIR/list, start_command: echo}
  none: {one_time_sequences: DIR/none, start_command: echo}
",
    );
    let place = directory.path().display().to_string();
    let text = fs::read_to_string(&path).unwrap().replace("DIR", &place);
    for (name, text) in [
        ("doors.yaml", text.as_str()),
        ("list", "#1,3,2\n 601,803,702\n 5,7,6\n"),
        ("none", "#1,3,2\n"),
    ] {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let output =
        Command::cargo_bin("knockctl").unwrap().arg("-c").arg(path).arg("check").output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap().replace(&place, "DIR");
    assert_data_eq!(output, str![[r#"
any: 201/tcp 403/tcp 302/tcp; 3 stages within 25s; a scan in random order opens it 1 time in 9,702
    or 4 knocks on 20000-29999 tcp, new every 30s, by 1 client; within 25s; a scan in random order opens it 1 time in 333,233,340,000
    or a datagram to 62000-62999/udp, by 1 client
    or a request of fwknop's to 10000-65535/udp, by 1 client
    runs echo
code: a code of 6 digits on 7000-7099 tcp, new every 30s, by 1 client; within 25s; a scan in random order opens it 1 time in 22,222
    runs echo
list: line 2 of DIR/list, 2 sequences left; within 25s; a scan in random order opens it 1 time in 9,702
    runs echo
none: nothing any more: no sequence is left in DIR/none
    runs echo
knockd keeps all its privileges, which a command may need: any, code, list, none
DIR/doors.yaml: 4 doors, 3 clients, no errors, 1 warning

"#]].raw());
}

#[test]
fn ports_of_a_template_are_named() {
    let text = "templates: {t: {open: 'echo %PORT%', close: 'echo %IP%'}}
doors: {ssh: {sequence: [201, 403, 302], open: [22, 80/udp], via: t}}";
    let said = run("knockctl", &["check"], text);
    assert_data_eq!(
        said.output,
        str![[r#"
ssh: 201/tcp 403/tcp 302/tcp; 3 stages within 25s; a scan in random order opens it 1 time in 9,702
    for each of 22/tcp 80/udp:
    runs echo %PORT%
    after 30s runs echo %IP%
knockd keeps all its privileges, which a command may need: ssh
doors.yaml: 1 door, no errors, no warnings

"#]]
        .raw()
    );
}

#[test]
fn doors_of_the_guard_and_of_sets_say_whom_they_let_in_where() {
    needs!("doors_of_the_guard_and_of_sets_say_whom_they_let_in_where", "nft");
    let host = Host::new("check");
    host.must("nft", &["add", "table", "inet", "filter"]);
    host.must("nft", &["add set inet filter b4 { type ipv4_addr; flags timeout; }"]);
    let text = "doors:
  a: {sequence: [201, 403, 302], open: [1022, 1080/udp], on_open: 'echo %IP%'}
  b: {sequence: [601, 803, 702], open: [1023], via: {nft_set: {table: inet filter, set4: b4}}}";
    let (directory, path) = file(text);
    let output = host.run(KNOCKCTL, &["-c", path.to_str().unwrap(), "check"]);
    let said = said(output, directory.path());
    assert_eq!(said.status, Some(0), "{}", said.errors);
    assert_data_eq!(
        said.output,
        str![[r#"
a: 201/tcp 403/tcp 302/tcp; 3 stages within 25s; a scan in random order opens it 1 time in 9,702
    the guard locks 1022/tcp 1080/udp, and lets in for 30s who knocks
    when it has been opened runs echo %IP%
b: 601/tcp 803/tcp 702/tcp; 3 stages within 25s; a scan in random order opens it 1 time in 9,702
    IPv4 is in the set b4 of the table inet filter for 30s, which opens 1023/tcp
    IPv6 cannot be opened
knockd keeps all its privileges, which a command may need: a
doors.yaml: 2 doors, no errors, 2 warnings

"#]]
        .raw()
    );
    // Who hears it is on the host, so it is looked for there.
    for port in ["1022/tcp", "1080/udp"] {
        assert!(said.errors.contains(&format!("nothing listens on {port} now")), "{}", said.errors);
    }
    assert!(!host.must("nft", &["list", "tables"]).contains("knockd"), "it is only a check");
}

/// An empty SQLite database with these numbers in its head.
fn database(application: u32, version: u32) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch(&format!(
        "CREATE TABLE one (two); PRAGMA application_id = {application}; PRAGMA user_version = {version};"
    ))
    .unwrap();
    drop(db);
    fs::read(path).unwrap()
}

const KNOCKCTL: &str = env!("CARGO_BIN_EXE_knockctl");
const KNOCKD: &str = env!("CARGO_BIN_EXE_knockd");

#[test]
fn a_socket_at_which_no_metrics_could_be_read_is_a_warning_since_knockd_starts_all_the_same() {
    needs!("metrics that cannot be read", "nft");
    let host = Host::new("check");
    let long = format!("DIR/{}", "x".repeat(120));
    for (socket, why) in [
        ("DIR/none/metrics.sock", "No such file or directory"),
        ("DIR/doors.yaml", "it is there, and no socket"),
        ("DIR/run", "it is there, and no socket"),
        ("DIR/run/control.sock", "knockctl's is there: name another file"),
        (&long, "File name too long"),
        ("DIR/run/metrics.sock", ""),
    ] {
        let (directory, path) = file("");
        let text = format!(
            "knockd: {{interfaces: [lo], metrics: {{socket: {socket}}}, run_dir: DIR/run, \
             state_dir: DIR/state}}\n{GOOD}"
        );
        write(&path, &text.replace("DIR", &directory.path().display().to_string()));
        fs::create_dir(directory.path().join("run")).unwrap();
        let mut check = host.command(KNOCKCTL);
        let output = check.arg("-c").arg(&path).arg("check").output().unwrap();
        let Said { status, errors, .. } = said(output, directory.path());
        assert_eq!(status, Some(0), "{errors}");
        let found = errors.lines().find(|line| line.contains("no metrics can be read"));
        assert_eq!(found.is_some(), !why.is_empty(), "{errors}");
        if let Some(found) = found {
            assert!(found.starts_with("doors.yaml:1:37: warning: "), "{found}");
            assert!(found.ends_with(&format!(": {why}")), "{found}");
            // But for what is as long as a key.
            assert!(errors.contains("metrics: {socket: ") || socket == long, "{errors}");
        }
    }
}

#[test]
fn what_would_keep_knockd_from_starting_is_an_error_at_its_place() {
    needs!("what_would_keep_knockd_from_starting_is_an_error_at_its_place", "nft");
    let host = Host::new("check");
    host.must("nft", &["add", "table", "inet", "filter"]);
    host.must("nft", &["add set inet filter plain { type ipv4_addr; }"]);
    let long = "x".repeat(120);
    let door = |how: &str| format!("doors: {{a: {{sequence: [201, 403, 302], {how}}}}}");
    let command = door("start_command: 'true'");
    let set = |name: &str| door(&format!("via: {{nft_set: {{table: inet filter, set4: {name}}}}}"));
    let cases = [
        (
            "state_dir: DIR/file",
            command.clone(),
            "1:39: error: cannot write DIR/file: Not a directory",
        ),
        (
            "pid_file: DIR/file/pid",
            command.clone(),
            "1:38: error: cannot write DIR/file/pid: Not a dir",
        ),
        ("pid_file: DIR", command.clone(), "1:38: error: cannot write DIR: Is a directory"),
        (
            "run_dir: DIR/file/x",
            command.clone(),
            "1:37: error: cannot write DIR/file/x/control.sock: Not",
        ),
        (&format!("run_dir: DIR/{long}"), command.clone(), "control.sock: File name too long"),
        (
            "log: {file: DIR/theirs}",
            command.clone(),
            "1:33: error: cannot open the log file DIR/theirs: it b",
        ),
        (
            "log: {file: DIR/none/log}",
            command.clone(),
            "1:33: error: cannot write DIR/none/log: No such",
        ),
        (
            "user: nobody-at-all",
            command,
            "1:34: error: there is no user 'nobody-at-all': create it",
        ),
        (
            "state_dir: DIR/newer",
            door("start_command: echo"),
            "newer/ledger.db was written by another knockd",
        ),
        ("state_dir: DIR/other", door("start_command: echo"), "another program's database"),
        (
            "state_dir: DIR/open",
            door("start_command: echo"),
            "DIR/open: error: others than its owner",
        ),
        (
            "run_dir: DIR/open",
            door("start_command: echo"),
            "DIR/open: error: others than its owner",
        ),
        (
            "on_exit: keep",
            set("none"),
            "2:45: error: there is no set 'inet filter none'; declare it",
        ),
        (
            "on_exit: keep",
            set("plain"),
            "2:45: error: the set 'inet filter plain' lacks 'flags timeout'",
        ),
        (
            "spa: {key_file: DIR/file}",
            door("spa: true, open: 22"),
            "file: error: others than its owner",
        ),
    ];
    for (setting, doors, wanted) in cases {
        let given = |key: &str| setting.starts_with(key);
        let mut settings = vec!["interfaces: [lo]".to_owned(), setting.to_owned()];
        for key in ["state_dir", "run_dir"].iter().filter(|key| !given(key)) {
            settings.push(format!("{key}: DIR/{key}"));
        }
        let (directory, path) = file("");
        let place = directory.path().display().to_string();
        let text = format!("knockd: {{{}}}\n{doors}\n", settings.join(", "));
        write(&path, &text.replace("DIR", &place));
        fs::write(directory.path().join("file"), "").unwrap();
        let theirs = directory.path().join("theirs");
        fs::write(&theirs, "").unwrap();
        chown(&theirs, Some(12345), None).unwrap();
        let open = directory.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(open, fs::Permissions::from_mode(0o777)).unwrap();
        for (name, application, version) in [("newer", 0x6b6e_6f6b, 99), ("other", 7, 0)] {
            fs::create_dir(directory.path().join(name)).unwrap();
            fs::write(
                directory.path().join(name).join("ledger.db"),
                database(application, version),
            )
            .unwrap();
        }
        let mut said = Vec::new();
        for (program, arguments) in [(KNOCKCTL, &["check"][..]), (KNOCKD, &["-t"]), (KNOCKD, &[])] {
            let arguments = [&["-c", path.to_str().unwrap()], arguments].concat();
            let output = host.run(program, &arguments);
            assert!(!output.status.success(), "{setting}: {program} {arguments:?}");
            said.push(String::from_utf8(output.stderr).unwrap().replace(&place, "DIR"));
            if said.len() == 2 {
                let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
                assert_eq!(left.len(), 6, "{setting}: {left:?}");
            }
        }
        assert!(said[0].contains(wanted), "{setting}: {}", said[0]);
        assert_eq!(said[0], said[1], "{setting}");
    }
}

#[test]
fn a_guard_that_cannot_be_set_up_is_an_error() {
    needs!("a_guard_that_cannot_be_set_up_is_an_error", "nft", "setpriv");
    let host = Host::new("check");
    let (_directory, path) = file("doors: {ssh: {sequence: [201, 403, 302], open: [1022]}}");
    let path = path.to_str().unwrap();
    let bare = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"];
    let arguments = [&bare[1..], &[KNOCKCTL, "-c", path, "check"]].concat();
    let output = host.run(bare[0], &arguments);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let wanted = "cannot set up the guard: no permission to change the firewall";
    assert!(errors.contains(wanted), "{errors}");
}

#[test]
fn a_check_disturbs_no_guard_that_is_at_work() {
    needs!("a_check_disturbs_no_guard_that_is_at_work", "nft");
    let host = Host::new("check");
    let text = "knockd: {interfaces: [lo], run_dir: DIR/run, state_dir: DIR/state, user: nobody}\n\
                doors: {ssh: {sequence: [201, 403, 302], open: [1022]}}\n";
    let knockd = crate::support::Knockd::start(&host, text);
    let path = knockd.directory.path().join("knock.conf");
    let ctl = |arguments: &[&str]| {
        host.must(KNOCKCTL, &[&["-c", path.to_str().unwrap()], arguments].concat())
    };
    ctl(&["open", "ssh", "192.0.2.2"]);
    assert!(ctl(&["check"]).contains("no errors"));
    let table = host.must("nft", &["list", "table", "inet", "knockd"]);
    assert!(table.contains("192.0.2.2"), "{table}");
    // Time for it to see what has happened to its table.
    ctl(&["close", "ssh", "192.0.2.2"]);
    assert!(!knockd.log().iter().any(|line| line.contains("somebody")), "{:?}", knockd.log());
}

#[test]
fn whoever_is_not_root_is_told_what_was_not_looked_at() {
    needs!("whoever_is_not_root_is_told_what_was_not_looked_at", "unshare");
    let (_directory, path) = file(
        "knockd: {state_dir: /proc/none}\ndoors: {a: {sequence: [201, 403, 302], start_command: echo}}",
    );
    let path = path.to_str().unwrap();
    let output = crate::support::run("unshare", &["--user", KNOCKCTL, "-c", path, "check"]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{errors}");
    let wanted = "doors.yaml: not looked at without root: the firewall, and the daemon's files\n";
    assert!(errors.ends_with(wanted), "{errors}");
}

#[test]
fn the_command_line_of_knockd_is_checked_too() {
    needs!("the_command_line_of_knockd_is_checked_too");
    let log = ["-t", "-g", "/nonexistent/knockd.log"];
    let said = run("knockd", &log, GOOD);
    assert_eq!(said.status, Some(1));
    assert!(
        said.errors
            .starts_with("doors.yaml: error: cannot write /nonexistent/knockd.log: No such file"),
        "{}",
        said.errors
    );
}

#[test]
fn whoever_would_lock_out_their_own_ssh_connection_is_told() {
    let (_directory, path) = file("doors: {ssh: {sequence: [201, 403, 302], open: [1022]}}");
    let output = Command::cargo_bin("knockctl")
        .unwrap()
        .env("SSH_CONNECTION", "192.0.2.2 50123 192.0.2.1 1022")
        .arg("-c")
        .arg(path)
        .arg("check")
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        errors.contains("warning: YOU MAY LOCK YOURSELF OUT: 1022/tcp is the port"),
        "{errors}"
    );
    assert!(errors.contains("'knockctl try'"), "{errors}");
}

#[test]
fn warnings_are_on_standard_error_and_no_failure() {
    let said =
        run("knockctl", &["check"], "doors: {a: {sequence: [201, 403], start_command: echo}}");
    assert_eq!(said.status, Some(0));
    assert!(said.errors.starts_with("doors.yaml:1:9: warning: fewer than three knocks"));
    assert!(said.output.ends_with("doors.yaml: 1 door, no errors, 1 warning\n"));
}

#[test]
fn errors_fail_and_nothing_else_is_said() {
    let said = run("knockctl", &["check"], "doors: {a: {sequence: [abc]}}");
    assert_eq!(said.status, Some(1));
    assert_eq!(said.output, "");
    assert!(said.errors.contains("doors.yaml:1:24: error: 'abc' is not a port"), "{}", said.errors);
}

#[test]
fn a_door_that_follows_sessions_says_for_how_long() {
    let text = "doors: {ssh: {sequence: [201, 403, 302], open: [22/tcp], hold: {grace: 5s}}}";
    let said = run("knockctl", &["check"], text);
    let line = "    connections hold it: 1m after a packet, 5s after their end, 12h at most\n";
    assert!(said.output.contains(line), "{}{}", said.output, said.errors);
}

#[test]
fn a_door_that_forwards_says_where_each_family_is_led() {
    let text = "doors:
  inner:
    sequence: [201, 403, 302]
    open: [60000-60010/udp]
    forward:
      - {on: 1022, to: 192.0.2.9, port: 22}
      - {on: 1022, to: \"2001:db8:1::9\", masquerade: true}
";
    let said = run("knockctl", &["check"], text);
    for line in [
        "    the guard locks 60000-60010/udp, and lets in for 30s who knocks\n",
        "    connections to 1022/tcp go to 192.0.2.9 22/tcp for 30s for who knocks\n",
        "    connections to 1022/tcp go to 2001:db8:1::9 1022/tcp, as if from here, for 30s for who knocks\n",
    ] {
        assert!(said.output.contains(line), "{}{}", said.output, said.errors);
    }
    let said = run("knockctl", &["check", "--json"], text);
    let objects = said.output.lines().map(|line| serde_json::from_str(line).unwrap());
    let objects: Vec<serde_json::Value> = objects.collect();
    let door = objects.iter().find(|object| object["about"] == "door").unwrap();
    let first = serde_json::json!(
        {"on": "1022/tcp", "to": "192.0.2.9", "port": 22, "masquerade": false}
    );
    assert_eq!(door["forwards"][0], first, "{door}");
}

/// A configuration of a gateway in a fleet, whose courier is that program.
fn of_a_fleet(courier: &str) -> Said {
    let (directory, path) = file("");
    let key = directory.path().join("fleet.key");
    write(&key, "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n");
    let fleet =
        format!("{{name: gw1, store: 'unix:/run/valkey.sock', key_file: {}}}", key.display());
    let doors = "a: {sequence: [201, 403], start_command: 'a', stop_command: 'b', fleet: true}";
    write(&path, &format!("knockd: {{fleet: {fleet}}}\ndoors: {{{doors}}}\n"));
    let mut check = Command::cargo_bin("knockctl").unwrap();
    let output = check.arg("-c").arg(&path).arg("check").env("KNOCKD_COURIER", courier).output();
    said(output.unwrap(), directory.path())
}

#[test]
fn a_door_of_a_fleet_says_that_other_gateways_open_it_too() {
    let said = of_a_fleet("/bin/true");
    assert_eq!(said.status, Some(0), "{}", said.errors);
    assert!(!said.errors.contains("not reached"), "{}", said.errors);
    let line = "\n    every gateway of the fleet that has this door opens it too\n";
    assert!(said.output.contains(line), "{}", said.output);
}

#[test]
fn a_courier_that_is_not_installed_is_a_warning_that_says_what_to_install() {
    needs!("a courier that is not installed");
    let said = of_a_fleet("/no/such/knock-courier");
    assert_eq!(said.status, Some(0), "{}", said.errors);
    let warning = "doors.yaml:1:17: warning: the fleet's store is not reached, since there is no \
                   /no/such/knock-courier: install the package knock-fleet\n";
    assert!(said.errors.contains(warning), "{}", said.errors);
}

#[test]
fn a_script_is_told_the_same_in_objects() {
    let wrong = run("knockctl", &["check", "--json"], "doors: {a: {sequence: [abc], open: 22}}");
    assert_eq!((wrong.status, wrong.errors.as_str()), (Some(1), ""));
    let object = "{\"about\":\"diagnostic\",\"level\":\"error\",\"file\":\"doors.yaml\",\
                  \"line\":1,\"column\":24,\"width\":3,\"message\":\"'abc' is not a port";
    assert!(wrong.output.starts_with(object), "{}", wrong.output);

    let doubtful = "doors: {a: {sequence: [201, 403], start_command: echo}}";
    let doubtful = run("knockctl", &["check", "--json"], doubtful);
    assert_eq!((doubtful.status, doubtful.errors.as_str()), (Some(0), ""));
    let objects: Vec<serde_json::Value> =
        doubtful.output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [.., warning, door, summary] = objects.as_slice() else { panic!("{objects:?}") };
    assert_eq!((&warning["level"], &warning["column"]), (&"warning".into(), &9.into()));
    assert_eq!((&door["door"], &door["effects"][0]), (&"a".into(), &"runs echo".into()));
    assert!(door["opened_by"][0].as_str().unwrap().starts_with("201/tcp 403/tcp; 2 stages"));
    assert_eq!((&summary["doors"], &summary["warnings"]), (&1.into(), &1.into()));
}

#[test]
fn knockd_checks_in_the_same_way() {
    for text in [GOOD, "doors: {a: {sequence: [abc]}}"] {
        let knockctl = run("knockctl", &["check"], text);
        let knockd = run("knockd", &["-t"], text);
        assert_eq!(
            (knockctl.status, knockctl.output, knockctl.errors),
            (knockd.status, knockd.output, knockd.errors)
        );
    }
}

#[test]
fn a_path_that_is_not_there_is_named() {
    let output = Command::cargo_bin("knockctl")
        .unwrap()
        .args(["-c", "/nonexistent/knock.d", "check"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        errors.starts_with("/nonexistent/knock.d: error: cannot be read: No such file"),
        "{errors}"
    );
}

#[test]
fn a_wrong_command_line_is_status_2() {
    for arguments in [&[][..], &["frobnicate"], &["check", "--nonsense"], &["check", "extra"]] {
        let output = Command::cargo_bin("knockctl").unwrap().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    let output = Command::cargo_bin("knockctl").unwrap().arg("-V").output().unwrap();
    let expected = format!("knockctl {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}
