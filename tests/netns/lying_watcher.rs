//! A watcher that somebody has taken over, and what the keeper makes of what it does.
//!
//! Needs root; says loudly what it skips where it cannot run. This program plays the watcher
//! itself: knockd starts it in place of its own.

mod floods;
mod hand_over;
mod stand_in;
mod used_up;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use libknock::engine::DoorId;
use libknock::proto::spa::PrivateKey;
use libknock::sys::clock;
use libknock::sys::fault::WATCHER;

use self::stand_in::lies;
use crate::support::{Host, Knockd, PATIENCE, eventually, needs};

// In the order of their names.
const CODE: DoorId = DoorId(0);
const FWKNOP: DoorId = DoorId(1);
const GUARDED: DoorId = DoorId(2);
const ONCE: DoorId = DoorId(3);
const PLAIN: DoorId = DoorId(4);
const SPA: DoorId = DoorId(5);

const DOORS: &str = "doors:
  code: {totp: {mode: code, base: 7100, step: 2s}, seq_timeout: 1s, start_command: echo code %IP% >> DIR/acts}
  fwknop: {fwknop: true, seq_timeout: 1s, open: [24], open_for: 1s}
  guarded: {sequence: [7300, 8300, 9300], seq_timeout: 1s, open: [22], open_for: 1s}
  once: {one_time_sequences: DIR/once, seq_timeout: 1s, start_command: echo once %IP% >> DIR/acts}
  plain: {sequence: [7000, 8000, 9000], seq_timeout: 1s, start_command: echo plain %IP% >> DIR/acts}
  spa: {spa: true, seq_timeout: 1s, start_command: echo spa %IP% >> DIR/acts}
";
const SECRET: &str = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP";

/// Clients: one that holds everything, one whose key has expired, one that may open another door.
fn clients() -> String {
    let [laptop, old, other] = [1, 2, 3].map(|number| PrivateKey::from([number; 32]).public());
    format!(
        "clients:\n\
         \x20 laptop: {{doors: [code, fwknop, spa], totp: {{secret: {SECRET}}}, spa: {{public_key: {laptop}}},\n\
         \x20   fwknop: {{key: abcdefgh, hmac_key: ijklmnop}}}}\n\
         \x20 old: {{doors: [spa], expires: 2020-01-01, spa: {{public_key: {old}}}}}\n\
         \x20 other: {{doors: [fwknop], spa: {{public_key: {other}}}}}\n"
    )
}

fn settings(interface: &str) -> String {
    format!(
        "knockd: {{interfaces: [{interface}], run_dir: DIR/run, state_dir: DIR/state, user: nobody,\n\
         \x20 log: {{level: debug}}, spa: {{key_file: DIR/server.key, max_ahead: 2s}}}}\n"
    )
}

fn configuration(interface: &str) -> String {
    [settings(interface), clients(), DOORS.to_owned()].concat()
}

/// A knockd whose watchers do what a scene says.
struct Scene {
    directory: tempfile::TempDir,
    script: std::path::PathBuf,
}

impl Scene {
    fn new(scene: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("watcher");
        let program = std::env::current_exe().unwrap();
        // The honest one takes over once a file says so.
        let text = format!(
            "#!/bin/bash\ncd {directory}\n[ -e honest ] && exec -a 'knockd: watcher' {knockd}\n\
             echo >> starts\n\
             SCENE='{scene}' exec {program} --exact --ignored --nocapture \
             lying_watcher::plays_the_watcher\n",
            directory = directory.path().display(),
            knockd = env!("CARGO_BIN_EXE_knockd"),
            program = program.display(),
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
        let list: String =
            (1..=30).map(|n| format!("{},{},{}\n", 7400 + n, 8400 + n, 9400 + n)).collect();
        write_private(&directory.path().join("once"), &list);
        Self { directory, script }
    }

    fn run(self, host: &Host) -> Knockd {
        self.run_by(host.command(env!("CARGO_BIN_EXE_knockd")), &configuration("lo"))
    }

    /// By a command that names the program.
    fn run_by(self, mut command: Command, configuration: &str) -> Knockd {
        let config = self.directory.path().join("knock.conf");
        let directory = self.directory.path().to_str().unwrap();
        write_private(&config, &configuration.replace("DIR", directory));
        command.arg("-c").arg(&config).env(WATCHER, &self.script);
        Knockd::from_command(command, self.directory, config)
    }
}

fn run(host: &Host, scene: &str) -> Knockd {
    Scene::new(scene).run(host)
}

fn write_private(path: &std::path::Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

fn exists(knockd: &Knockd, file: &str) -> bool {
    knockd.directory.path().join(file).exists()
}

fn make(knockd: &Knockd, file: &str) {
    fs::write(knockd.directory.path().join(file), "").unwrap();
}

/// What the doors did, sorted: their commands run at the same time.
fn acts(knockd: &Knockd) -> String {
    let acts = fs::read_to_string(knockd.directory.path().join("acts")).unwrap_or_default();
    let mut acts: Vec<&str> = acts.split_inclusive('\n').collect();
    acts.sort_unstable();
    acts.concat()
}

/// The doors open to the true words with which most scenes end, and did nothing else.
fn opens_to_the_truth(knockd: &Knockd) {
    let done = eventually(PATIENCE, || acts(knockd) == "plain 192.0.2.7\nspa 192.0.2.7\n");
    assert!(done, "{}\n{}", acts(knockd), knockd.log().join("\n"));
}

#[test]
fn what_is_true_opens() {
    needs!("true words");
    let host = Host::new("server");
    let knockd = run(&host, "nothing");
    opens_to_the_truth(&knockd);
    assert_eq!(knockd.count("is ended"), 0);
}

#[test]
fn each_lie_ends_a_watcher_with_one_line_and_what_stands_behind_it_is_not_acted_on() {
    needs!("lies");
    // So many in a row, each by a watcher of its own: the next ones start later and later.
    const IN_A_ROW: usize = 4;
    let host = Host::new("server");
    let lies = lies(clock::now().monotonic);
    let groups: Vec<_> = (0..lies.len()).step_by(IN_A_ROW).collect();
    for some in groups.chunks(4) {
        let knockds = some.iter().map(|first| (*first, run(&host, &format!("lie {first}"))));
        for (first, knockd) in knockds.collect::<Vec<_>>() {
            let told: Vec<_> = lies.iter().skip(first).take(IN_A_ROW).collect();
            let pauses =
                [100, 200, 400, 800].map(|millis| format!("; another starts in {millis} ms"));
            for pause in pauses.iter().take(told.len()) {
                knockd.wait_for(pause);
            }
            let log = knockd.log();
            let lines: Vec<&String> = log.iter().filter(|line| line.contains("watcher")).collect();
            let expected: Vec<String> = told
                .iter()
                .zip(&pauses)
                .map(|((lie, _), pause)| {
                    format!(
                        "the watcher is ended: it sent {lie}, which no watcher of ours does{pause}"
                    )
                })
                .collect();
            assert_eq!(lines.len(), expected.len(), "{first}: {lines:#?}");
            for (line, expected) in lines.iter().zip(&expected) {
                assert!(line.ends_with(expected.as_str()), "{line}, not {expected}");
            }
            assert_eq!(acts(&knockd), "", "{first}");
            assert_eq!(knockd.ask(r#"{"do":"history"}"#).len(), 1, "{first}");
            let (status, _) = knockd.stop();
            assert_eq!(status.code(), Some(0), "{first}");
        }
    }
}

#[test]
fn what_the_clock_the_addresses_and_the_configuration_decide_is_refused_and_ends_nobody() {
    needs!("refused");
    let host = Host::new("server");
    host.must("ip", &["addr", "add", "192.0.2.1/24", "dev", "lo"]);
    let command = host.command(env!("CARGO_BIN_EXE_knockd"));
    let knockd = Scene::new("refused").run_by(command, &configuration("eth0"));
    opens_to_the_truth(&knockd);
    assert_eq!(knockd.count("is ended"), 0);
    let counters = &knockd.ask(r#"{"do":"status"}"#)[0]["counters"];
    let expected =
        [("impossible-address", 4), ("too-old", 4), ("too-far-ahead", 3), ("expired", 1)];
    for (reason, count) in expected {
        assert_eq!(counters[reason], count, "{reason} in {counters}");
    }
}

#[test]
fn a_forged_stamp_burns_nothing_and_ends_nobody() {
    needs!("forged stamp");
    let host = Host::new("server");
    let knockd = run(&host, "stamp");
    opens_to_the_truth(&knockd);
    assert_eq!(knockd.count("spa: not opened: from the future: is a clock off?"), 1);
    assert_eq!(knockd.count("is ended"), 0);
    let history = knockd.ask(r#"{"do":"history"}"#);
    assert!(history.iter().any(|line| line["message"] == "too-far-ahead"), "{history:?}");
}

/// The watcher: not a test of its own.
#[test]
#[ignore = "knockd starts it"]
fn plays_the_watcher() {
    stand_in::play(&std::env::var("SCENE").unwrap());
}
