//! Reader of the classic `knockd.conf`, as it is.
//!
//! What classic knockd silently takes for something else is an error here, or a warning.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use super::classic_lines::{
    DIRECTIVES, OPTIONS, Part, Section, canonical, read_sections, significant_lines,
};
use super::commands::{PairNames, lacks_program, pairs};
use super::door::parse_target;
use super::sequence::{Sequence, check_length, read_one_time};
use crate::config::diagnostic::Parsed;
use crate::config::door::{SEQ_TIMEOUT, TRIP_WIRES};
use crate::config::names::TakenNames;
use crate::config::opening::{CMD_TIMEOUT, default_max_grants};
use crate::config::tree::{absolute_path, given_twice};
use crate::config::{
    Command, CommandText, Commands, Diagnostic, Door, DoorPlaces, Loaded, Mechanism, Name, Opening,
    Options, Place, Places, Problems, Recognition, Settings, SourceText,
};
use crate::proto::{Knock, KnockError};

const COMMANDS: PairNames = [
    "Start_Command",
    "Stop_Command",
    "Start_Command_6",
    "Stop_Command_6",
    // Not directives that a file may have.
    "Verify_Command",
    "Verify_Command_6",
];

/// Whether a text is a `knockd.conf`: its first significant line is a `[section]`, or a directive
/// that stands before every section, which is then said to be wrong.
pub fn is_classic(text: &str) -> bool {
    significant_lines(text).next().is_some_and(|(_, line)| {
        let line = line.trim();
        let word = line.split('=').next().unwrap_or_default().trim();
        line.starts_with('[')
            || canonical(word, OPTIONS).or_else(|| canonical(word, DIRECTIVES)).is_some()
    })
}

/// Reads a `knockd.conf`; doors are in the order of the file.
pub(super) fn read(source: &SourceText, options: Options, problems: &mut Problems) -> Loaded {
    let mut settings = Settings::default();
    let mut interfaces = Vec::new();
    let mut doors: Vec<(Door, DoorPlaces)> = Vec::new();
    let mut places: HashMap<&str, Place> = HashMap::new();
    let comment = "taken for a comment, but it belongs on a line alone";
    let sections = read_sections(source, comment, problems);
    let mut names = TakenNames::among(sections.iter().map(|section| section.name.text));
    for section in sections {
        if section.is_options() {
            read_options(&section, &mut settings, problems);
            interfaces.extend(section.value("Interface").map(Part::place));
            continue;
        }
        let (text, place) = (section.name.text, section.name.place());
        if let Some(first) = places.get(text) {
            problems.push(given_twice(&place, &format!("door '{text}'"), first));
            continue;
        }
        places.insert(text, place);
        let name = read_name(section.name, &mut names, problems);
        doors.extend(read_door(name, &section, options, problems).ok());
    }
    settings.classic_file = Some(source.path().to_owned());
    settings.set_apart();
    if doors.is_empty() && !problems.has_errors() {
        let warning = Diagnostic::file(source.path(), "no door is configured").into_warning();
        problems.push(warning.help("write a section [NAME] with a Sequence and a Start_Command"));
    }
    Loaded::new(settings, Places { interfaces, ..Places::default() }, doors, Vec::new())
}

fn read_options(section: &Section<'_>, settings: &mut Settings, problems: &mut Problems) {
    let path = |directive| section.value(directive).map(|value| PathBuf::from(value.text));
    if section.directives.contains_key("UseSyslog") {
        settings.log.syslog = Some("daemon".to_owned());
    }
    settings.log.file = path("LogFile");
    if let Some(path) = path("PidFile") {
        settings.pid_file = path;
    }
    if let Some(name) = section.interface(problems) {
        settings.interfaces = vec![name];
    }
}

/// The classic takes any text for a name; what a name here cannot hold becomes `_`, and what is
/// then another door's name gets a number.
fn read_name(name: Part<'_>, names: &mut TakenNames, problems: &mut Problems) -> Name {
    let taken = names.take(name.text);
    if taken.as_str() != name.text {
        let why = match name.text.parse::<Name>() {
            Err(error) => error.to_string(),
            Ok(_) => "another door is called that already".to_owned(),
        };
        problems.push(name.place().warning(format!("this door is called '{taken}' here: {why}")));
    }
    taken
}

fn read_door(
    name: Name,
    section: &Section<'_>,
    options: Options,
    problems: &mut Problems,
) -> Parsed<(Door, DoorPlaces)> {
    let sequence = read_sequence(section, options, problems);
    let seq_timeout = read_seconds(section, "Seq_Timeout", SEQ_TIMEOUT, problems);
    let cooldown = read_seconds(section, "Seq_Cooldown", Duration::ZERO, problems);
    let flags = section.flags(problems);
    let flags = problems.report(flags);
    let target = section.value("Target").map(|value| parse_target(value.text, &value.place()));
    let target = problems.report(target.transpose());
    let mechanism = read_commands(section, problems)
        .map(|commands| Mechanism::Commands { template: None, commands });
    let open_for = read_seconds(section, "Cmd_Timeout", CMD_TIMEOUT, problems);
    if let (Some(timeout), Ok(mechanism)) = (section.value("Cmd_Timeout"), &mechanism)
        && !mechanism.closes()
    {
        problems.push(timeout.place().warning("Cmd_Timeout has no effect without Stop_Command"));
    }
    let Sequence { knocks, places: sequence_places, one_time } = sequence?;
    let mechanism = mechanism?;
    let door = Door {
        recognition: Recognition {
            sequence: knocks,
            seq_timeout: seq_timeout?,
            flags: flags?,
            target: target?,
            ..Recognition::new(name)
        },
        // Its commands have no limit: classic knockd lets them run.
        opening: Opening {
            max_grants: default_max_grants(&mechanism),
            mechanism,
            open_for: open_for?,
            open_for_max: open_for?,
            cooldown: cooldown?,
            ..Opening::default()
        },
        one_time,
    };
    let target = section.value("Target").map(|value| ("target", value.place()));
    let (name, opens, forwards) = (section.name.place(), Vec::new(), Vec::new());
    let (sequence, keys) = (sequence_places, target.into_iter().collect());
    let places = DoorPlaces { name, sequence, opens, forwards, keys };
    Ok((door, places))
}

fn read_sequence(
    section: &Section<'_>,
    options: Options,
    problems: &mut Problems,
) -> Parsed<Sequence> {
    match (section.value("Sequence"), section.value("One_Time_Sequences")) {
        (Some(value), None) => {
            let (knocks, places) = read_fixed(value, problems)?.into_iter().unzip();
            Ok(Sequence { knocks, places, one_time: None })
        }
        (None, Some(path)) => {
            let at = path.place();
            let file = problems.report(absolute_path(path.text, &at))?;
            read_one_time(file, &at, TRIP_WIRES, options, problems)
        }
        (Some(_), Some(one_time)) => {
            let error = one_time.error("One_Time_Sequences and Sequence exclude each other");
            problems.report(Err(error.help("classic knockd passes over the Sequence; remove one")))
        }
        (None, None) => {
            let error = section.name.error(format!("door '{}' has no Sequence", section.name.text));
            problems.report(Err(error.help("write for example: Sequence = 7000,8000:udp,9000")))
        }
    }
}

fn read_fixed(value: Part<'_>, problems: &mut Problems) -> Parsed<Vec<(Knock, Place)>> {
    let items = value.items();
    problems.report(check_length(items.len(), &value.place()))?;
    problems.report_all(items.into_iter().map(|item| {
        let knock = item.text.parse().map_err(|error: KnockError| {
            let error = item.error(error.to_string());
            let blank = item.text.contains(char::is_whitespace);
            if blank { error.help("put a comma between two ports") } else { error }
        });
        Ok((knock?, item.place()))
    }))
}

fn read_seconds(
    section: &Section<'_>,
    directive: &str,
    default: Duration,
    problems: &mut Problems,
) -> Parsed<Duration> {
    let Some(value) = section.value(directive) else { return Ok(default) };
    let digits = value.text.bytes().take_while(u8::is_ascii_digit).count();
    let number = value.text.get(..digits).and_then(|text| text.parse::<u32>().ok());
    problems.report(match number {
        Some(0) if !default.is_zero() => Err(value.error(format!("{directive} cannot be zero"))),
        Some(seconds) if digits == value.text.len() => Ok(Duration::from_secs(seconds.into())),
        _ => {
            let message = format!(
                "'{}' is not a number of seconds: classic knockd takes it for {}",
                value.text,
                number.unwrap_or_default()
            );
            Err(value.error(message).help("write a whole number without a unit"))
        }
    })
}

fn read_commands(section: &Section<'_>, problems: &mut Problems) -> Parsed<Commands> {
    let place = |key: &str| section.directives.get(key).map(|directive| directive.name.place());
    let command = |key: &str, other, problems: &mut Problems| {
        let Some(directive) = section.directives.get(key) else { return Ok(other) };
        let Some(value) = directive.value.filter(|value| !value.text.is_empty()) else {
            return Ok(None);
        };
        let command = Command::Shell(CommandText::classic(value.text));
        problems.extend(lacks_program(&command, &value.place()));
        Ok(Some(command))
    };
    pairs(COMMANDS, command, place, &section.name.place(), problems)
}
