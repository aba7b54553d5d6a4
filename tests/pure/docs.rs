//! What a user reads is held against what the programs are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory;
use libknock::client::hosts;
use libknock::config::diagnostic::SourceText;
use libknock::config::load::{self, load};
use libknock::config::{Forward, Hole, Name};
use libknock::control::{
    ClientStatus, DoorStatus, EventLine, FleetLink, FleetState, FleetStatus, GatewayStatus,
    GrantCondition, GrantStatus, KeeperRights, LockStatus, RefusalFacts, SandboxStatus, Status,
    WatcherSandbox, What,
};
use libknock::ctl::check::CheckLine;
use libknock::ctl::observe::ObservedNetwork;
use libknock::engine::Reason;
use libknock::proto::knock::Knock;
use libknock::proto::method::Method;
use serde_json::Value;

fn forward() -> Forward {
    let text = r#"{"on": "2222/tcp", "to": "192.0.2.9", "port": 22, "masquerade": false}"#;
    serde_json::from_str(text).unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn files_of(directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(directory)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn man_pages() -> Vec<PathBuf> {
    files_of("man")
}

/// README and the pages of docs/.
fn pages() -> Vec<PathBuf> {
    let is_page = |path: &PathBuf| path.extension().is_some_and(|it| it == "md");
    let docs = files_of("docs").into_iter().filter(is_page);
    [root().join("README.md")].into_iter().chain(docs).collect()
}

/// A manual page, line by line.
struct Page {
    name: &'static str,
    lines: Vec<String>,
}

impl Page {
    fn open(name: &'static str) -> Self {
        Self { name, lines: read(&format!("man/{name}")).lines().map(str::to_owned).collect() }
    }

    /// The lines of a section: from its `.Sh` or `.Ss` to the next one that is no deeper.
    fn section(&self, title: &str) -> &[String] {
        let starts = |line: &String, macros: &[&str]| {
            macros.iter().any(|name| line.starts_with(&format!("{name} ")))
        };
        let from = self
            .lines
            .iter()
            .position(|line| *line == format!(".Sh {title}") || *line == format!(".Ss {title}"))
            .unwrap_or_else(|| panic!("{} has no section {title}", self.name));
        let ends: &[&str] =
            if self.lines[from].starts_with(".Sh") { &[".Sh"] } else { &[".Sh", ".Ss"] };
        let rest = &self.lines[from + 1..];
        &rest[..rest.iter().position(|line| starts(line, ends)).unwrap_or(rest.len())]
    }

    /// The first words after a macro: the names that a list explains.
    fn items(lines: &[String], item: &str) -> BTreeSet<String> {
        let heads = lines.iter().filter_map(|line| line.strip_prefix(&format!(".It {item} ")));
        heads.filter_map(|head| head.split(' ').next()).map(str::to_owned).collect()
    }

    /// The options that are explained, as `-c` and `--config`, each with whether it has a value.
    fn options(&self) -> BTreeSet<(String, bool)> {
        let mut options = BTreeSet::new();
        for item in self.lines.iter().filter_map(|line| line.strip_prefix(".It Fl ")) {
            let (flags, value) =
                item.split_once(" Ar ").map_or((item, None), |(a, b)| (a, Some(b)));
            for flag in flags.split(" , ") {
                options.insert((format!("-{}", flag.trim()), value.is_some()));
            }
        }
        options
    }

    /// The options in the synopsis; `.Fl 46uv` names four.
    fn synopsis(&self) -> BTreeSet<String> {
        let mut options = BTreeSet::new();
        for line in self.section("SYNOPSIS") {
            let words: Vec<&str> = line.split(' ').collect();
            for (at, word) in words.iter().enumerate() {
                if *word != "Fl" && *word != ".Fl" {
                    continue;
                }
                for flag in words[at + 1..].iter().take_while(|word| **word != "Ar") {
                    match flag.strip_prefix('-') {
                        Some(long) => {
                            options.insert(format!("--{long}"));
                        }
                        None => options.extend(
                            flag.chars()
                                .filter(char::is_ascii_alphanumeric)
                                .map(|c| format!("-{c}")),
                        ),
                    }
                }
            }
        }
        options
    }
}

/// One option of a program: its spellings, `-c` and `--config`, and whether it has a value.
struct Known {
    names: Vec<String>,
    value: bool,
}

/// The options that a program takes, its subcommands' included.
fn options_of(mut command: clap::Command) -> Vec<Known> {
    command.build();
    let mut options = Vec::new();
    let mut commands = vec![&command];
    while let Some(command) = commands.pop() {
        commands.extend(command.get_subcommands().filter(|sub| sub.get_name() != "help"));
        for argument in command.get_arguments() {
            if argument.is_hide_set() || argument.is_positional() {
                continue;
            }
            let short = argument.get_short().map(|short| format!("-{short}"));
            let long = argument.get_long().map(|long| format!("--{long}"));
            options.push(Known {
                names: short.into_iter().chain(long).collect(),
                value: argument.get_action().takes_values(),
            });
        }
    }
    options
}

fn assert_documented(command: clap::Command, page: &'static str) {
    let page = Page::open(page);
    let real = options_of(command);
    let spelt =
        real.iter().flat_map(|known| known.names.iter().map(|name| (name.clone(), known.value)));
    assert_eq!(page.options(), spelt.collect(), "{}: the options that are explained", page.name);

    let synopsis = page.synopsis();
    for Known { names, .. } in &real {
        assert!(
            names.iter().any(|name| synopsis.contains(name)),
            "{}: the synopsis lacks {names:?}",
            page.name
        );
    }
    for name in &synopsis {
        assert!(
            real.iter().any(|known| known.names.contains(name)),
            "{}: the synopsis has {name}, which does not exist",
            page.name
        );
    }
}

#[test]
fn the_manual_knows_every_option_of_knock() {
    let import = libknock::client::cli::ImportArgs::command();
    assert_documented(libknock::client::cli::KnockArgs::command().subcommand(import), "knock.1");
}

#[test]
fn the_manual_knows_every_option_of_knockd() {
    assert_documented(libknock::keeper::cli::KnockdCli::command(), "knockd.8");
}

#[test]
fn the_manual_knows_every_option_of_knockctl() {
    assert_documented(libknock::ctl::Knockctl::command(), "knockctl.8");
}

#[test]
fn the_manual_knows_every_command_of_knockctl() {
    let page = Page::open("knockctl.8");
    let command = libknock::ctl::Knockctl::command();
    let real: BTreeSet<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    let section = page.section("COMMANDS").iter();
    let explained: BTreeSet<&str> = section
        .filter_map(|line| line.strip_prefix(".Ss "))
        .filter(|title| !["Events", "Reasons"].contains(title))
        .collect();
    assert_eq!(explained, real);
}

#[test]
fn the_manual_knows_every_reason() {
    let page = Page::open("knockctl.8");
    let explained = Page::items(page.section("Reasons"), "Cm");
    let real = Reason::all().map(|reason| reason.as_str().to_owned()).collect();
    assert_eq!(explained, real);
}

/// The names of the members of an object, and of those within it.
fn members(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Object(members) => members.keys().cloned().collect(),
        _ => BTreeSet::new(),
    }
}

/// All that a list of the manual explains: `.It Ic door , address` are two.
fn explained_members(lines: &[String]) -> BTreeSet<String> {
    let heads = lines.iter().filter_map(|line| line.strip_prefix(".It Ic "));
    heads.flat_map(|head| head.split(" , ")).map(str::to_owned).collect()
}

/// Something of a type that is written as this.
fn made_of<T: serde::de::DeserializeOwned>(json: &str) -> T {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

/// Every event, with all that it may have. One that is added has to be added here.
fn events() -> Vec<What> {
    let knock: Knock = "7000".parse().unwrap();
    let (stage, reason) = (1, Reason::Used);
    let all = vec![
        What::Stage { stage, knock: Some(knock) },
        What::Complete,
        What::Open { knock: Some(knock) },
        What::Extend { seconds: Some(1) },
        What::Close,
        What::Act,
        What::Failed,
        What::ClientReset { count: Some(1) },
        What::Reset { stage, reason, knock: Some(knock) },
        What::Refused(RefusalFacts {
            reason: Some(reason),
            stage: Some(stage),
            knock: Some(knock),
            ahead: Some(1),
            asked_for: "ssh".parse().ok(),
        }),
        What::Ignored { knock, reason },
        What::Missed { steps: 1 },
        What::Unmatched,
        What::LockedOut { seconds: 1, everywhere: true },
        What::Unlocked,
    ];
    for what in &all {
        match what {
            What::Stage { .. } | What::Complete | What::Open { .. } | What::Extend { .. } => {}
            What::Close | What::Act | What::Failed | What::ClientReset { .. } => {}
            What::Reset { .. } | What::Refused(_) | What::Ignored { .. } => {}
            What::Missed { .. } | What::LockedOut { .. } | What::Unlocked => {}
            What::Unmatched => {}
            What::Other { .. } => panic!("it is any other"),
        }
    }
    all
}

#[test]
fn the_manual_knows_every_event_and_every_member_of_it() {
    let page = Page::open("knockctl.8");
    let section = page.section("Events");
    let line = |what| EventLine {
        time: 0.0,
        source: "192.0.2.2".parse().ok(),
        asked_by: Some([192, 0, 2, 3].into()),
        door: Some("ssh".to_owned()),
        what,
        by: Some(made_of("\"sequence\"")),
        client: Some("phone".parse().unwrap()),
        message: "words".to_owned(),
    };
    let common = members(&serde_json::to_value(line(What::Unlocked)).unwrap());
    assert_eq!(explained_members(section), common);
    let mut words = BTreeSet::new();
    for what in events() {
        let object = serde_json::to_value(line(what)).unwrap();
        let word = object["event"].as_str().unwrap().to_owned();
        let item = section.iter().position(|line| *line == format!(".It Cm {word}"));
        let item = &section[item.unwrap_or_else(|| panic!("{word}"))..][1..];
        let explained: BTreeSet<String> = item
            .iter()
            .take_while(|line| !line.starts_with(".It") && *line != ".El")
            .filter_map(|line| line.strip_prefix(".Ic ")?.split(' ').next())
            .map(str::to_owned)
            .collect();
        assert_eq!(explained, &members(&object) - &common, "{word}");
        words.insert(word);
    }
    assert_eq!(Page::items(section, "Cm"), words);
}

#[test]
fn the_manual_knows_every_member_of_the_status_and_of_clients() {
    let page = Page::open("knockctl.8");
    let (door, address): (Name, IpAddr) = ("ssh".parse().unwrap(), [192, 0, 2, 2].into());
    let grant = GrantStatus {
        door: door.clone(),
        address: address.into(),
        source_port: "1".parse().ok(),
        client: Some(door.clone()),
        by: made_of("\"sequence\""),
        state: GrantCondition::Gone,
        seconds_left: 0.0,
        held_by: 2,
    };
    let status = Status {
        version: String::new(),
        pid: 1,
        since: 0.0,
        configuration: PathBuf::new(),
        on_trial_until: Some(0.0),
        listening: vec![],
        waiting_for: vec![],
        doors: vec![DoorStatus {
            door: door.clone(),
            opens: vec![],
            forwards: vec![forward()],
            via: String::new(),
            observes: true,
            locked_on_trial: true,
            open: 0,
            sequences_left: Some(0),
        }],
        grants: vec![grant],
        grants_not_shown: 1,
        counters: BTreeMap::new(),
        dropped: 0,
        locked_out: vec![LockStatus { address, door: Some(door.clone()), seconds_left: 0.0 }],
        sandbox: SandboxStatus {
            keeper: Some(KeeperRights { capabilities: vec![], landlock: Some(String::new()) }),
            watcher: Some(WatcherSandbox::default()),
            courier: Some(WatcherSandbox::default()),
        },
        fleet: Some(fleet_link()),
    };
    let status = serde_json::to_value(status).unwrap();
    let within = ["doors", "grants", "locked_out"].map(|list| members(&status[list][0]));
    let sandbox =
        ["keeper", "watcher", "courier"].map(|process| members(&status["sandbox"][process]));
    let objects = ["sandbox", "fleet"].map(|object| members(&status[object]));
    let sandbox = sandbox.into_iter().chain(objects);
    let all: BTreeSet<String> =
        within.into_iter().chain(sandbox).chain([members(&status)]).flatten().collect();
    let section = page.section("status");
    assert_eq!(explained_members(section), all);
    for state in GrantCondition::ALL {
        let text = section.join("\n");
        assert!(text.contains(&format!("Ql {state}")) || text.contains(&format!(", {state}")));
    }
    for state in FleetState::ALL {
        assert!(section.iter().any(|line| line.starts_with(&format!(".Ql {state}"))), "{state}");
    }
    let client = ClientStatus {
        client: door.clone(),
        by: vec![Method::Totp],
        doors: vec![door],
        last_used: Some(0.0),
        expires: Some(0.0),
    };
    let client = serde_json::to_value(client).unwrap();
    assert_eq!(explained_members(page.section("clients")), members(&client));
}

fn fleet_link() -> FleetLink {
    FleetLink {
        name: "gw1".parse().unwrap(),
        store: String::new(),
        state: FleetState::Alone,
        since: 0.0,
        why: Some(String::new()),
    }
}

#[test]
fn the_manual_knows_every_member_of_a_fleet() {
    let gateway = GatewayStatus {
        gateway: "gw1".parse().unwrap(),
        version: String::new(),
        heard_seconds_ago: 0.0,
        lag_seconds: 0.0,
        open: 0,
        is_this: true,
    };
    let fleet = FleetStatus {
        link: fleet_link(),
        when_lost: String::new(),
        wait_seconds: 0.0,
        gateways: vec![gateway],
        doors: vec![],
        kept: Some(0),
        stamps: Some(0),
        lag_seconds: Some(0.0),
        unsent: 0,
        alone: 0,
        namesake: false,
    };
    let fleet = serde_json::to_value(fleet).unwrap();
    let all = &members(&fleet) | &members(&fleet["gateways"][0]);
    assert_eq!(explained_members(Page::open("knockctl.8").section("fleet")), all);
}

#[test]
fn the_manual_knows_every_member_of_what_is_observed() {
    let network = ObservedNetwork {
        network: String::new(),
        addresses: 1,
        port: String::new(),
        came: "tried",
        tries: 0,
        packets: 0,
        bytes: 0,
        last_seen: 0.0,
        proposed: false,
    };
    let network = serde_json::to_value(network).unwrap();
    let page = Page::open("knockctl.8");
    assert_eq!(explained_members(page.section("observe")), members(&network));
}

#[test]
fn the_manual_knows_every_object_of_check_and_every_member_of_it() {
    let page = Page::open("knockctl.8");
    let section = page.section("check");
    let error = SourceText::new("f", "").place(1, 1, 1).error("wrong").help("write it right");
    let lines = [
        CheckLine::Diagnostic(&error),
        CheckLine::Door {
            door: &"ssh".parse().unwrap(),
            opened_by: Vec::new(),
            effects: Vec::new(),
            forwards: &[forward()],
        },
        CheckLine::Summary {
            configuration: Path::new(""),
            doors: 1,
            clients: 0,
            warnings: 0,
            commands: vec![String::new()],
        },
    ];
    let objects = lines.map(|line| serde_json::to_value(line).unwrap());
    let words = objects.iter().map(|object| object["about"].as_str().unwrap().to_owned());
    assert_eq!(Page::items(section, "Cm"), words.collect());
    assert_eq!(explained_members(section), objects.iter().flat_map(members).collect());
}

/// The keys that a mapping takes at this place of a configuration, as the error about one that it
/// does not take names them, and those of the mappings below it: `doors.NAME.sequence`.
fn add_keys(above: &[&str], keys: &mut Vec<String>) {
    let open: String = above.iter().map(|key| format!("{{{key}: ")).collect();
    // Only a door with codes has a lockout of its own.
    let beside = match above {
        ["doors", _, "lockout"] => ", totp: {mode: code, base: 7000}",
        _ => "",
    };
    let close = "}".repeat(above.len());
    let text = format!("{open}{{no_such_key: 1}}{beside}{close}");
    let report = load::parse(&SourceText::new("keys.yaml", text)).unwrap_err().to_string();
    let Some((_, listed)) = report.split_once("its keys are: ") else { return };
    for key in listed.lines().next().unwrap().split(", ") {
        let mut inner = [above, &[key]].concat();
        keys.push(inner.join("."));
        if ["templates", "clients", "doors"].contains(&key) && above.is_empty() {
            inner.push("NAME");
        }
        add_keys(&inner, keys);
    }
}

#[test]
fn the_manual_knows_every_key() {
    let page = Page::open("knock.d.5");
    let mut explained = BTreeSet::new();
    for (section, above) in [
        ("SETTINGS", "knockd."),
        ("TEMPLATES", "templates.NAME."),
        ("CLIENTS", "clients.NAME."),
        ("DOORS", "doors.NAME."),
    ] {
        let items = Page::items(page.section(section), "Ic");
        explained.extend(items.iter().map(|key| format!("{above}{key}")));
    }
    let mut real = Vec::new();
    add_keys(&[], &mut real);
    // A key that only holds others is explained by them.
    let holds_others =
        |key: &String| real.iter().any(|other| other.starts_with(&format!("{key}.")));
    let (tops, inner): (Vec<_>, Vec<_>) = real.iter().partition(|key| !key.contains('.'));
    let inner: BTreeSet<String> = inner
        .into_iter()
        .filter(|key| !holds_others(key) || explained.contains(*key))
        .cloned()
        .collect();
    assert_eq!(explained, inner);

    let description = page.section("DESCRIPTION").join("\n");
    for top in tops {
        assert!(description.contains(&format!(".Ic {top}\n")), "{top}");
    }
}

#[test]
fn the_manual_knows_every_key_of_the_hosts_file() {
    let explained = Page::items(Page::open("knock.1").section("HOSTS FILE"), "Ic");
    let real = hosts::KEYS.known.iter().map(|key| (*key).to_owned()).collect();
    assert_eq!(explained, real);
}

/// The examples of a manual page that are configurations.
fn examples(page: &Page) -> Vec<String> {
    let mut examples = Vec::new();
    let mut lines = page.lines.iter();
    while lines.any(|line| line.starts_with(".Bd -literal")) {
        let example: Vec<&str> =
            lines.by_ref().take_while(|line| *line != ".Ed").map(String::as_str).collect();
        let first = example.iter().find(|line| !line.starts_with('#')).copied();
        if matches!(first, Some("knockd:" | "templates:" | "clients:" | "doors:")) {
            examples.push(example.join("\n").replace("\\e", "\\").replace("\\(dq", "\""));
        }
    }
    examples
}

#[test]
fn every_configuration_in_the_manual_and_the_pages_loads() {
    let mut all = examples(&Page::open("knock.d.5"));
    assert!(all.len() >= 7, "the examples of knock.d(5) were not found");
    for page in pages() {
        let page = fs::read_to_string(page).unwrap();
        let blocks = page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        // Others are for the client, or for Kubernetes.
        let is_others =
            |block: &str| ["hosts:", "apiVersion:"].iter().any(|it| block.starts_with(it));
        let blocks = blocks.filter(|block| !is_others(block));
        all.extend(blocks.map(str::to_owned));
    }
    let keys = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("phone.totp", "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP\n"),
        ("ssh.sequences", " 7113,25992,9871\n"),
        ("fleet.key", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"),
        ("fleet-ca.pem", "-----BEGIN CERTIFICATE-----\n"),
        ("store", "a password\n"),
    ] {
        let path = keys.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    for example in all {
        let example = example.replace("/etc/knock.d/keys", &keys.path().display().to_string());
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(example.as_bytes()).unwrap();
        if let Err(report) = load(file.path(), &load::Options::default()) {
            panic!("{report}\nin\n{example}");
        }
    }
}

#[test]
fn the_manual_knows_every_hole_and_its_variable() {
    let page = Page::open("knock.d.5");
    let holes = Page::items(page.section("Holes"), "Li");
    let mut real: BTreeSet<String> =
        Hole::ALL.iter().map(|hole| format!("%{}%", hole.as_str())).collect();
    real.insert("%%".to_owned());
    assert_eq!(holes, real);

    let environment = page.section("Environment").join("\n");
    for hole in Hole::ALL {
        assert!(environment.contains(&format!(".Ev {}", hole.variable())), "{}", hole.variable());
    }
}

#[test]
fn the_manual_pages_are_clean() {
    #[expect(clippy::disallowed_methods, reason = "mandoc is a program")]
    let mut mandoc = Command::new("mandoc");
    let output = match mandoc.args(["-T", "lint"]).args(man_pages()).output() {
        Ok(output) => {
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
        }
        Err(error) => {
            // Not eprintln!, which the test harness swallows.
            writeln!(
                std::io::stderr(),
                "SKIPPED: the manual pages are not checked: mandoc: {error}"
            )
            .unwrap();
            return;
        }
    };
    // Which other pages are installed says something about the machine, not about the page.
    let complaints: Vec<&str> = output
        .lines()
        .filter(|line| !line.contains("referenced manual not found") && !line.contains("mandoc.db"))
        .collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn every_make_target_that_is_named_exists() {
    let makefile = read("Makefile");
    for path in ["README.md", "CONTRIBUTING.md"] {
        let text = read(path);
        // As a command: at the start of a line or of code, or after sudo and its options.
        let starts = ["`make ", "\nmake ", "sudo make ", "\" make "];
        let named = starts.iter().flat_map(|start| text.split(start).skip(1)).map(|rest| {
            let is_of_name = |it: &char| it.is_ascii_lowercase() || *it == '-';
            rest.chars().take_while(is_of_name).collect::<String>()
        });
        let named = named.filter(|word| !word.is_empty());
        let named: BTreeSet<String> = named.collect();
        assert!(named.contains("test"), "{path} does not say how to test");
        for target in named {
            assert!(
                makefile.lines().any(|line| line.starts_with(&format!("{target}:"))),
                "{path} speaks of make {target}"
            );
        }
    }
}

#[test]
fn the_oldest_rust_is_named_once_and_read_there() {
    let version = env!("CARGO_PKG_RUST_VERSION");
    let readme = format!("Rust {version} or newer ([rustup.rs](https://rustup.rs))");
    assert!(read("README.md").contains(&readme), "README.md does not say: {readme}");
    let read_it = r#"sed -n 's/^rust-version = "\(.*\)"$/\1/p'"#;
    for path in ["tools/need", ".github/workflows/ci.yml"] {
        assert!(read(path).contains(read_it), "{path} has a version of its own");
    }
    let workflow = read(".github/workflows/ci.yml");
    assert!(workflow.contains("--default-toolchain \"$version\""), "{workflow}");
    assert!(workflow.contains("run: .ci/run"), "{workflow}");
}

#[test]
fn the_manual_knows_every_figure_of_the_rules() {
    let manual = read("man/knockctl.8");
    let rules = read("docs/knockd.rules.yml");
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for name in rules.split(|c| !is_of_name(c)).filter(|word| word.starts_with("knockd_")) {
        let figure = name.trim_end_matches("_total").trim_end_matches("_bucket");
        let is_item = |line: &str| line.split([' ', ',']).any(|word| word == figure);
        assert!(manual.lines().any(|it| it.starts_with(".It Cm ") && is_item(it)), "{name}");
    }
}

#[test]
fn every_file_that_is_linked_exists() {
    for path in pages().into_iter().chain([root().join("CONTRIBUTING.md")]) {
        let page = fs::read_to_string(&path).unwrap();
        let links = page.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
        for link in links.filter(|link| !link.starts_with("http")) {
            let (target, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if target.is_empty() { path.clone() } else { path.with_file_name(target) };
            assert!(target.exists(), "{} links to {link}", path.display());
            let has_it = || has_heading(&fs::read_to_string(target).unwrap(), heading);
            assert!(heading.is_empty() || has_it(), "{} links to {link}", path.display());
        }
    }
}

#[test]
fn the_picture_shows_the_demonstration_as_it_is() {
    let picture = read("docs/demo.svg");
    let demo = read("demo/run.sh");
    let steps: Vec<&str> = demo.lines().filter_map(|line| line.strip_prefix("step \"")).collect();
    assert!(steps.len() > 4, "they are not found any more: {steps:?}");
    for step in steps {
        let step = step.trim_end_matches('"');
        assert!(picture.contains(step), "'{step}' is not in docs/demo.svg: make picture");
    }
    assert!(picture.len() <= 40_000 && !picture.contains("<script"));
}

/// Whether a page has a heading that links lead to as this.
fn has_heading(page: &str, link: &str) -> bool {
    page.lines().filter_map(|line| line.strip_prefix('#')).any(|line| {
        let words = line.trim_start_matches(['#', ' ']).to_lowercase().replace(' ', "-");
        words.chars().filter(|c| c.is_alphanumeric() || *c == '-').eq(link.chars())
    })
}

/// The file that a test stands in: `netns spa::a_replay…` in `tests/netns/spa.rs`, and
/// `lib engine::spa::tests::a_replay…` in `src/engine/spa.rs` or `src/engine/spa/tests.rs`.
fn places_of(program: &str, modules: &[&str]) -> Vec<PathBuf> {
    let top = if program == "lib" { "src".to_owned() } else { format!("tests/{program}") };
    let whole = root().join(top).join(modules.join("/"));
    let beside = if modules.last() == Some(&"tests") { whole.parent() } else { None };
    [Some(&*whole), beside].into_iter().flatten().map(|path| path.with_extension("rs")).collect()
}

#[test]
fn every_test_that_the_security_page_names_exists() {
    let page = read("docs/SECURITY.md");
    let spans = page.split("```").step_by(2).flat_map(|text| text.split('`').skip(1).step_by(2));
    let named: Vec<(&str, &str)> = spans
        .filter_map(|span| span.split_once(' '))
        .filter(|(program, path)| {
            ["lib", "netns", "pure", "cli"].contains(program) && path.contains("::")
        })
        .collect();
    assert!(named.len() > 40, "they are not found any more: {named:?}");
    let is_missing = |(program, path): &(&str, &str)| {
        let mut modules: Vec<&str> = path.split("::").collect();
        let name = modules.pop().unwrap();
        !places_of(program, &modules).iter().any(|place| {
            let text = fs::read_to_string(place).unwrap_or_default();
            let heads = text.split("#[test]").skip(1).filter_map(|test| test.split("fn ").nth(1));
            // Those of a macro of ours have a line each.
            let lines = text.split("says! {").skip(1).flat_map(str::lines).map(str::trim_start);
            let is_it = |rest: &str| rest.starts_with(['(', ':']);
            heads.chain(lines).any(|head| head.strip_prefix(name).is_some_and(is_it))
        })
    };
    let missing: Vec<_> = named.into_iter().filter(is_missing).collect();
    assert!(missing.is_empty(), "there are no such tests: {missing:?}");
}

#[test]
fn the_security_page_has_a_line_for_each_fuzz_target() {
    let page = read("docs/SECURITY.md");
    let manifest = read("fuzz/Cargo.toml");
    let targets = manifest.split("[[bin]]\nname = \"").skip(1);
    let targets: Vec<&str> = targets.filter_map(|rest| rest.split('"').next()).collect();
    assert!(targets.contains(&"wire"), "{targets:?}");
    for target in targets {
        assert!(page.contains(&format!("\n| `{target}` | ")), "{target}");
    }
}
