//! Loading: from a path to a configuration, or to everything that is wrong with it.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

pub use crate::config::loaded::{Loaded, Places};
pub use crate::config::permissions::Options;

use super::classic;
use super::clients::read_client;
use super::commands::read_templates;
use super::credentials::Secrets;
use super::door::read_door;
use super::files::{read_directory, read_file, unreadable};
use super::settings::read_settings;
use crate::config::lint::access;
use crate::config::tree::{KnownKeys, MappingEntry, Value, refuse_repetitions};
use crate::config::yaml;
use crate::config::{Diagnostic, Door, DoorPlaces, Mechanism, Problems, Settings, SourceText};

/// Everything that is wrong with a configuration: the errors, at least one, then the warnings.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Report(pub(crate) Vec<Diagnostic>);

const TOP: KnownKeys =
    KnownKeys { of: "a configuration", known: &["knockd", "templates", "clients", "doors"] };

/// What each of the top keys holds, and what to write where it is not a mapping.
const OF_TOP: [(&str, &str); 4] = [
    ("setting", "write for example knockd: {interfaces: [eth0]}"),
    ("template", "write templates: {NAME: {open: COMMAND, close: COMMAND}}"),
    ("client", "write clients: {NAME: {doors: [...], ...}}; knock.d(5) has examples"),
    ("door", "write doors: {NAME: {sequence: [...], ...}}, on one line or on several"),
];

/// Loads a directory, of which every `*.yaml` is read in byte order of its name, one YAML file, or
/// a classic `knockd.conf`, told by its first significant line.
///
/// # Errors
/// [`Report`] names everything that is wrong in all of the files.
pub fn load(path: &Path, options: &Options) -> Result<Loaded, Report> {
    let mut problems = Problems::default();
    finish(read(path, *options, &mut problems), problems)
}

/// The settings as far as they can be told, the defaults for the rest, and what is wrong with the
/// configuration where it is not valid.
///
/// For whoever looks for a running daemon: it may have started with a configuration that was
/// valid, or that only it may read.
pub fn settings(path: &Path, options: &Options) -> (Settings, Option<Report>) {
    let mut problems = Problems::default();
    let read = read(path, *options, &mut problems);
    let report = problems.has_errors().then(|| Report(problems.into_sorted()));
    (read.map(|loaded| loaded.config.settings).unwrap_or_default(), report)
}

/// Reads the text of one file, YAML or classic.
///
/// # Errors
/// [`Report`] names everything that is wrong in it.
pub fn parse(source: &SourceText) -> Result<Loaded, Report> {
    let mut problems = Problems::default();
    finish(Some(build_one(source, Options::default(), &mut problems)), problems)
}

fn finish(read: Option<Loaded>, problems: Problems) -> Result<Loaded, Report> {
    match read {
        Some(loaded) if !problems.has_errors() => {
            Ok(Loaded { warnings: problems.into_sorted(), ..loaded })
        }
        _ => Err(Report(problems.into_sorted())),
    }
}

fn read(path: &Path, options: Options, problems: &mut Problems) -> Option<Loaded> {
    let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error));
    if problems.ok_or_report(metadata)?.is_dir() {
        let sources = read_directory(path, options, problems)?;
        return Some(build(path, &sources, options, problems));
    }
    Some(build_one(&problems.ok_or_report(read_file(path, options))?, options, problems))
}

fn build_one(source: &SourceText, options: Options, problems: &mut Problems) -> Loaded {
    if classic::is_classic(source.text()) {
        classic::read(source, options, problems)
    } else {
        build(source.path(), std::slice::from_ref(source), options, problems)
    }
}

fn build(path: &Path, sources: &[SourceText], options: Options, problems: &mut Problems) -> Loaded {
    let ([settings, templates, clients, doors], unparsed) = gather(sources, problems);
    let mut secrets = Secrets::new(options);
    let (mut read, interfaces) = read_settings(&settings, &mut secrets, options, problems);
    // What knockd has left there, or who listens there, has to be found all the same.
    for (key, path) in [("state_dir", &mut read.state_dir), ("run_dir", &mut read.run_dir)] {
        if !settings.iter().any(|entry| entry.key == key)
            && let Some(found) = unparsed.iter().find_map(|text| path_in(text, key))
        {
            *path = found;
        }
    }
    let templates = read_templates(&templates, problems);
    let names: HashSet<&str> = doors.iter().map(|entry| entry.key.as_str()).collect();
    let written = clients.len();
    let clients: Vec<_> = clients
        .iter()
        .flat_map(|entry| read_client(entry, &names, &mut secrets, problems))
        .collect();
    let doors: Vec<_> = doors
        .iter()
        .flat_map(|entry| read_door(entry, &templates, &read, options, problems))
        .collect();
    if doors.is_empty() && !problems.has_errors() {
        problems.push(
            Diagnostic::file(path, "no door is configured: nothing can be opened")
                .help("write one under 'doors:'; knock.d(5) has examples")
                .into_warning(),
        );
    }
    problems.extend(access::check(&clients, &doors));
    // Whoever is not here may be one with mistakes.
    if clients.len() == written {
        problems.extend(access::unopened(&clients, &doors));
    }
    problems.extend(without_effect(&settings, &doors));
    let at = |entry: &MappingEntry| (entry.key.clone(), entry.node.at.clone());
    let settings = settings.iter().map(at).collect();
    let places = Places { interfaces, settings, ..Places::default() };
    Loaded { secret_files: secrets.files, ..Loaded::new(read, places, doors, clients) }
}

/// What all files say under each of the top keys, each once, and the texts that are not YAML as a
/// whole.
fn gather<'a>(
    sources: &'a [SourceText],
    problems: &mut Problems,
) -> ([Vec<MappingEntry>; 4], Vec<&'a str>) {
    let mut top: [Vec<MappingEntry>; 4] = Default::default();
    let mut unparsed = Vec::new();
    for source in sources {
        let Some(root) = yaml::parse(source, problems) else {
            unparsed.push(source.text());
            continue;
        };
        let wanted = "a mapping with 'knockd', 'templates', 'clients' or 'doors'";
        let root = match root.value {
            Value::Mapping(mapping) => mapping,
            Value::Null => continue,
            _ => {
                problems.push(root.unwanted(wanted));
                continue;
            }
        };
        root.check_keys(&TOP, problems);
        for MappingEntry { key, node, .. } in root.entries {
            let mut known = TOP.names().zip(OF_TOP).zip(&mut top);
            let found = known.find(|((known, _), _)| *known == key);
            let Some(((_, (_, example)), entries)) = found else { continue };
            match node.value {
                Value::Mapping(mapping) => entries.extend(mapping.entries),
                Value::Null => {}
                _ => problems.push(node.unwanted("a mapping").help(example)),
            }
        }
    }
    for (entries, (of, _)) in top.iter_mut().zip(OF_TOP) {
        problems.extend(refuse_repetitions(entries, |key| format!("{of} '{key}'")));
    }
    (top, unparsed)
}

/// The path that a key has in a text that is not YAML as a whole, as far as one can tell.
fn path_in(text: &str, key: &str) -> Option<PathBuf> {
    text.lines().find_map(|line| {
        let (_, value) = line.split('#').next()?.split_once(key)?;
        let value = value.trim_start().strip_prefix(':')?.split([',', '}']).next()?;
        let value = value.trim().trim_matches(['"', '\'']);
        value.starts_with('/').then(|| value.into())
    })
}

/// What is said of settings that concern no door.
fn without_effect(settings: &[MappingEntry], doors: &[(Door, DoorPlaces)]) -> Vec<Diagnostic> {
    if doors.is_empty() {
        return Vec::new();
    }
    let any = |has: fn(&Door) -> bool| doors.iter().any(|(door, _)| has(door));
    let guarded = any(|door| door.opening.mechanism == Mechanism::Guard);
    let spa = any(|door| door.recognition.spa);
    let fwknop = any(|door| door.recognition.fwknop);
    let runs = any(|door| door.opening.runs_commands());
    let say = |entry: &MappingEntry| {
        let (has_effect, why, help) = match entry.key.as_str() {
            "trusted" | "on_exit" | "guard" => {
                (guarded, "the guard opens no door", "open a door via: guard, or remove it")
            }
            "command_limit" | "no_new_privs" => (runs, "no door runs a command", "remove it"),
            "spa" => (spa, "no door opens by spa", "write spa: true to a door, or remove it"),
            "fwknop" => {
                (fwknop, "no door opens by fwknop", "write fwknop: true to a door, or remove it")
            }
            _ => return None,
        };
        (!has_effect).then(|| entry.without_effect(why, help))
    };
    settings.iter().filter_map(say).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::clients::CLIENT;
    use super::super::door::DOOR;
    use super::*;
    use crate::config::{Config, Family, Opening};

    #[test]
    fn a_path_is_found_in_a_text_that_is_not_yaml_as_a_whole() {
        for text in [
            "doors: [\nknockd:\n  state_dir: /srv/knockd   # elsewhere\n",
            "knockd: {user: nobody, state_dir: '/srv/knockd', trusted: [192.0.2.0/24}\n",
            "knockd: {state_dir: /srv/knockd}}\n",
            "knockd:\n  # state_dir: /var/lib/knockd\n  state_dir : \"/srv/knockd\"\ndoors: {",
        ] {
            assert_eq!(path_in(text, "state_dir"), Some("/srv/knockd".into()), "{text}");
        }
        for text in
            ["", "  # state_dir: /srv\n", "state_dir: srv", "state_dir\n: /srv", "state_dir:"]
        {
            assert_eq!(path_in(text, "state_dir"), None, "{text}");
        }
    }

    #[test]
    fn a_secret_in_what_is_taken_for_a_classic_file_is_not_shown() {
        for text in ["[door]\n  key: SESAME1234==\n", "[door\n  hmac_key SESAME1234\n"] {
            let report = parse(&SourceText::new("doors.yaml", text)).unwrap_err().to_string();
            assert!(report.contains("key'") && !report.contains("SESAME"), "{report}");
        }
    }

    fn said_of_client(lines: &str) -> String {
        let text =
            format!("clients:\n  a:\n    {lines}\ndoors:\n  ssh: {{spa: true, open: [22]}}\n");
        parse(&SourceText::new("doors.yaml", text)).unwrap_err().to_string()
    }

    #[test]
    fn a_value_that_takes_in_a_secret_is_not_quoted() {
        for doors in [
            "[shh, 's\n    fwknop:\n      key_base64: SESAME1234==\n    x']",
            "[shh, s\n    key_base64:SESAME1234==\n    ]",
            "shh\n     hmac_key SESAME1234",
            "\"shh\n    totp: {secret: SESAME1234}\n    x\"",
            "\"shh\\\n    secret: SESAME1234\"",
            ">\n      shh\n      KEY_BASE64: SESAME1234==\n",
            "|\n      key=SESAME1234\n",
            "[shh, 'key: SESAME1234]']",
            "[shh, secret, SESAME1234]",
            "ssh\n    ? 'shh\n      key: SESAME1234'\n    : x",
        ] {
            let said = said_of_client(&format!("doors: {doors}"));
            assert!(!said.contains("SESAME"), "{said}");
        }
    }

    #[test]
    fn of_a_value_that_is_not_quoted_the_place_and_what_is_wrong_are_told() {
        let said = said_of_client("doors: [shh, 's\n    key: SESAME1234']");
        for told in [
            "doors.yaml:3:13: error: there is no door 'shh': did you mean 'ssh'?\n",
            "doors.yaml:3:18: error: there is no door '...'\n",
        ] {
            assert!(said.contains(told), "{said}");
        }
    }

    #[test]
    fn a_secret_without_its_quotes_or_blank_or_indent_is_not_shown() {
        for lines in [
            "fwknop: {key: !SESAME1234}",
            "fwknop:\n      key: !SESAME1234",
            "fwknop:\n      key: @SESAME1234",
            "fwknop: {key:SESAME1234}",
            "fwknop:\n      key:\n      SESAME1234\n",
            "fwknop:\n      key:\n    SESAME1234\n",
            "fwknop:\n      key:\n      - SESAME1234\n",
            "fwknop:\n      key: 'x'SESAME1234'\n",
            "fwknop: {key: x, mode: SESAME1234}",
        ] {
            let said = said_of_client(lines);
            assert!(!said.contains("SESAME"), "{said}");
        }
    }

    /// Something like a configuration, mostly wrong somewhere.
    fn yaml() -> impl Strategy<Value = String> {
        let value = prop_oneof![
            "[0-9]{1,6}(/udp|/tcp|:udp)?",
            Just("[7000, 8000/udp, 9000]".to_owned()),
            Just("[22/tcp]".to_owned()),
            Just("iptables".to_owned()),
            Just("guard".to_owned()),
            "\\{nft_set: \\{table: (inet |ip |ip6 )?[a-z]{0,6}(, set4: [a-z4]{0,4})?(, set6: [a-z6]{0,4})?\\}\\}",
            Just("'echo %IP% %PORT%'".to_owned()),
            Just("[echo, '%IP%']".to_owned()),
            Just("[syn, \"!ack\"]".to_owned()),
            "[0-9]{1,3}(s|m|h)",
            "true|false|off",
            "\\{(mode: ports, )?ports: [0-9]{4}-[0-9]{4,5}(, length: [0-9])?(, step: [0-9]{1,4}s)?\\}",
            "\\{mode: code, base: [0-9]{1,5}(, digits: [5-8])?(, skew: [0-9]{1,2})?\\}",
            "\\{failures: [0-9]{1,2}(, within: [0-9]m)?(, for: [0-9]h)?\\}",
            "[a-z%\\[\\]{}:,'\" ]{0,12}",
        ];
        let key = prop::sample::select(DOOR.names().collect::<Vec<_>>());
        let door = prop::collection::vec((key, value), 0..8);
        let doors = prop::collection::vec(("[a-c]", door), 0..4);
        let client = prop::collection::vec(
            (prop::sample::select(CLIENT.names().collect::<Vec<_>>()), credentials()),
            0..4,
        );
        let clients = prop::collection::vec(("[a-c]", client), 0..3);
        (doors, clients).prop_map(|(doors, clients)| {
            let mut text = String::new();
            for (top, entries) in [("doors", doors), ("clients", clients)] {
                text.push_str(&format!("{top}:\n"));
                for (name, keys) in entries {
                    text.push_str(&format!("  {name}:\n"));
                    for (key, value) in keys {
                        text.push_str(&format!("    {key}: {value}\n"));
                    }
                }
            }
            text
        })
    }

    /// Something like what a client has, often right.
    fn credentials() -> impl Strategy<Value = String> {
        prop_oneof![
            "\\[[a-c](, [a-c])?\\]",
            "2027-0[1-9]-[0-3][0-9]",
            "\\{secret: (JBSWY3DPEHPK3PXP){1,2}(, old_until: 2027-01-01)?\\}",
            "\\{public_key: ngoLprV\\+qNBob6m9GZw5OwFUkkMyE9L1O1BKH/3WJCU=?(, address: (any|explicit))?\\}",
            "\\{(KEY|key|key_base64): [A-Za-z0-9]{0,8}(, hmac_key: [A-Z]{0,3})?(, without_hmac: true)?(, mode: [a-z]{3})?(, from: [1-9]/8)?\\}",
            ".{0,12}",
        ]
    }

    fn check_mechanism(opening: &Opening) -> Result<(), TestCaseError> {
        let mechanism = &opening.mechanism;
        prop_assert!(mechanism.opens(Family::V4) || mechanism.opens(Family::V6));
        match mechanism {
            Mechanism::Commands { commands, .. } => {
                for pair in [&commands.v4, &commands.v6] {
                    prop_assert!(pair.open.is_some() || pair.close.is_none());
                }
            }
            Mechanism::Guard => {
                prop_assert!(!(opening.ports.is_empty() && opening.forwards.is_empty()));
            }
            Mechanism::Set(set) => {
                prop_assert!(set.set4.is_none() || set.family.sees(Family::V4));
                prop_assert!(set.set6.is_none() || set.family.sees(Family::V6));
            }
        }
        Ok(())
    }

    fn check_clients(config: &Config, places: &Places) -> Result<(), TestCaseError> {
        prop_assert_eq!(config.clients.len(), places.clients.len());
        prop_assert!(config.clients.is_sorted_by_key(|client| &client.name));
        for (client, places) in config.clients.iter().zip(&places.clients) {
            prop_assert!(!client.doors.is_empty());
            prop_assert_eq!(client.doors.len(), places.doors.len());
            prop_assert!(client.totp.is_some() || client.spa.is_some() || client.fwknop.is_some());
            for name in &client.doors {
                prop_assert!(config.doors.iter().any(|door| door.name() == name));
            }
        }
        Ok(())
    }

    fn check(text: &str) -> Result<(), TestCaseError> {
        match parse(&SourceText::new("text", text)) {
            Ok(Loaded { config, places, .. }) => {
                prop_assert_eq!(config.doors.len(), places.doors.len());
                prop_assert!(config.doors.is_sorted_by_key(|door| door.name().clone()));
                check_clients(&config, &places)?;
                for (Door { recognition, opening, .. }, places) in
                    config.doors.iter().zip(&places.doors)
                {
                    prop_assert!(recognition.sequence.len() <= 32);
                    prop_assert!(
                        !recognition.sequence.is_empty()
                            || recognition.totp.is_some()
                            || recognition.spa
                            || recognition.fwknop
                    );
                    prop_assert!(opening.open_for <= opening.open_for_max);
                    prop_assert_eq!(recognition.sequence.len(), places.sequence.len());
                    prop_assert!(!recognition.seq_timeout.is_zero());
                    prop_assert!(opening.open_for.as_secs() >= 1);
                    prop_assert_eq!(&recognition.opens, &opening.ports);
                    check_mechanism(opening)?;
                }
            }
            Err(report) => prop_assert!(report.to_string().starts_with("text:")),
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn what_loads_is_valid_and_what_does_not_says_why(text in yaml()) {
            check(&text)?;
        }

        #[test]
        fn no_text_makes_it_panic(text in "(?s).{0,200}") {
            check(&text)?;
            let _ = path_in(&text, ":");
        }

        #[test]
        fn no_classic_text_makes_it_panic(
            lines in prop::collection::vec(
                prop_oneof![
                    Just("[door]".to_owned()),
                    Just("[options]".to_owned()),
                    "(Sequence|TCPFlags|Seq_Timeout|Command|Stop_Command|Cmd_Timeout|Target) ?= ?[a-z0-9,:!%#. ]{0,20}",
                    "(sequence|command|stop_command_6|start_command_6) = [0-9]{1,5}(,[0-9]{1,5}){0,3}",
                    ".{0,30}",
                ],
                0..12,
            ),
        ) {
            check(&format!("[first]\n{}", lines.join("\n")))?;
        }
    }
}
