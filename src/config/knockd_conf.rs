//! The classic `knockd.conf`, read as it is.
//!
//! What classic knockd silently takes for something else is an error here, or a warning.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use super::commands::{PairNames, Said, missing_program, pairs};
use super::diagnostic::{Diagnostic, Place, Problems, Source, meant};
use super::door::{
    CMD_TIMEOUT, Door, DoorPlaces, Opening, Recognition, SEQ_TIMEOUT, TRIP_WIRES, check_length,
    parse_target,
};
use super::raw::given_twice;
use super::settings::Settings;
use super::{Command, CommandText, Commands, Name};
use crate::proto::flags::FlagTest;
use crate::proto::knock::{Knock, KnockError};

const OPTIONS: [&str; 4] = ["UseSyslog", "LogFile", "PidFile", "Interface"];
const DIRECTIVES: [&str; 13] = [
    "Sequence",
    "One_Time_Sequences",
    "Seq_Timeout",
    "Timeout",
    "TCPFlags",
    "Target",
    "Start_Command",
    "Command",
    "Start_Command_6",
    "Command_6",
    "Cmd_Timeout",
    "Stop_Command",
    "Stop_Command_6",
];
const COMMANDS: PairNames = PairNames {
    open: "Start_Command",
    close: "Stop_Command",
    open_6: "Start_Command_6",
    close_6: "Stop_Command_6",
};

/// The directive that a word names, in any case; of one that has two names the first.
fn canonical(word: &str, known: &[&'static str]) -> Option<&'static str> {
    let found = known.iter().copied().find(|known| known.eq_ignore_ascii_case(word))?;
    Some(match found {
        "Timeout" => "Seq_Timeout",
        "Command" => "Start_Command",
        "Command_6" => "Start_Command_6",
        other => other,
    })
}

/// Whether a text is a `knockd.conf`: its first significant line is a `[section]`, or a directive
/// that stands before every section, which is then said to be wrong.
#[must_use]
pub fn is_classic(text: &str) -> bool {
    significant_lines(text).next().is_some_and(|(_, line)| {
        let word = line.split('=').next().unwrap_or_default().trim();
        line.starts_with('[')
            || canonical(word, &OPTIONS).or_else(|| canonical(word, &DIRECTIVES)).is_some()
    })
}

/// Lines that are neither empty nor comments, with their numbers from 1.
fn significant_lines(text: &str) -> impl Iterator<Item = (u32, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    (1..).zip(text.lines()).filter(|(_, line)| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#')
    })
}

/// A part of a line, without the blanks around it.
#[derive(Clone, Copy)]
struct Part<'a> {
    source: &'a Source,
    number: u32,
    line: &'a str,
    /// Where it begins in the line, in bytes.
    start: usize,
    text: &'a str,
}

impl<'a> Part<'a> {
    fn new(source: &'a Source, number: u32, line: &'a str) -> Self {
        Self { source, number, line, start: 0, text: line }.trimmed()
    }

    fn trimmed(self) -> Self {
        let start = self.start + (self.text.len() - self.text.trim_start().len());
        Self { start, text: self.text.trim(), ..self }
    }

    /// What stands before and after the first `separator`.
    fn split(self, separator: char) -> Option<(Self, Self)> {
        let (before, after) = self.text.split_once(separator)?;
        let start = self.start + before.len() + separator.len_utf8();
        let before = Self { text: before, ..self };
        Some((before.trimmed(), Self { text: after, start, ..self }.trimmed()))
    }

    fn items(self) -> Vec<Self> {
        let mut items = Vec::new();
        let mut rest = self;
        while let Some((item, after)) = rest.split(',') {
            items.push(item);
            rest = after;
        }
        items.push(rest);
        items
    }

    fn place(self) -> Place {
        let before = self.line.get(..self.start).unwrap_or_default().chars().count();
        let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        self.source.place(
            self.number,
            narrow(before).saturating_add(1),
            narrow(self.text.chars().count()),
        )
    }

    fn error(self, message: impl Into<String>) -> Diagnostic {
        self.place().error(message)
    }
}

struct Section<'a> {
    name: Part<'a>,
    directives: HashMap<&'static str, Directive<'a>>,
}

#[derive(Clone, Copy)]
struct Directive<'a> {
    name: Part<'a>,
    value: Option<Part<'a>>,
}

impl<'a> Section<'a> {
    fn is_options(&self) -> bool {
        self.name.text.eq_ignore_ascii_case("options")
    }

    /// The value of a directive, where it is not empty.
    fn value(&self, directive: &str) -> Option<Part<'a>> {
        self.directives.get(directive)?.value.filter(|value| !value.text.is_empty())
    }

    fn add(&mut self, directive: Directive<'a>, problems: &mut Problems) {
        let written = directive.name.text;
        let known = if self.is_options() { OPTIONS.as_slice() } else { &DIRECTIVES };
        let Some(name) = canonical(written, known) else {
            problems.push(unknown(directive.name, known));
            return;
        };
        if let Some(first) = self.directives.get(name) {
            let place = directive.name.place();
            problems.push(given_twice(&place, written, &first.name.place()));
        } else if name == "UseSyslog" && directive.value.is_some() {
            problems.push(
                directive
                    .name
                    .error("UseSyslog takes no value")
                    .help("write UseSyslog alone, or remove the line where syslog is not wanted"),
            );
        } else if name != "UseSyslog" && directive.value.is_none() {
            let message = format!("{written} has no value");
            problems.push(directive.name.error(message).help(format!("write {written} = ...")));
        } else {
            self.directives.insert(name, directive);
        }
    }
}

fn unknown(name: Part<'_>, known: &[&'static str]) -> Diagnostic {
    let message = format!("unknown directive '{}'", name.text);
    if canonical(name.text, &OPTIONS).is_some() {
        return name.error(message).help("it belongs in the section [options]");
    }
    if canonical(name.text, &DIRECTIVES).is_some() {
        return name.error(message).help("it belongs in the section of a door");
    }
    let lower: Vec<_> = known.iter().map(|known| known.to_ascii_lowercase()).collect();
    match meant(name.text, lower.iter().map(String::as_str))
        .and_then(|found| canonical(found, known))
    {
        Some(meant) => name.error(format!("{message}: did you mean '{meant}'?")),
        None => name.error(message).help(format!("the directives here are: {}", known.join(", "))),
    }
}

/// Reads a `knockd.conf`; doors are in the order of the file.
#[must_use]
pub fn read(source: &Source, problems: &mut Problems) -> (Settings, Vec<(Door, DoorPlaces)>) {
    let mut settings = Settings::default();
    let mut doors: Vec<(Door, DoorPlaces)> = Vec::new();
    let mut places: HashMap<Name, Place> = HashMap::new();
    for section in read_sections(source, problems) {
        if section.is_options() {
            read_options(&section, &mut settings);
            continue;
        }
        let name = read_name(section.name, problems);
        let place = section.name.place();
        if let Some(first) = places.get(&name) {
            problems.push(given_twice(&place, &format!("door '{name}'"), first));
        }
        places.entry(name.clone()).or_insert(place);
        doors.extend(read_door(name, &section, problems));
    }
    if doors.is_empty() && !problems.has_errors() {
        let warning = Diagnostic::file(source.path(), "no door is configured").into_warning();
        problems.push(warning.help("write a section [NAME] with a Sequence and a Start_Command"));
    }
    (settings, doors)
}

fn read_sections<'a>(source: &'a Source, problems: &mut Problems) -> Vec<Section<'a>> {
    let mut sections: Vec<Section<'a>> = Vec::new();
    // Of directives without a section only the first is worth a word.
    let mut homeless = false;
    for (number, line) in significant_lines(source.text()) {
        let part = Part::new(source, number, line);
        if let Some(name) = part.text.strip_prefix('[') {
            let Some(name) = name.strip_suffix(']').filter(|name| !name.trim().is_empty()) else {
                let error = part.error("this is no section: a section is [NAME] on a line alone");
                problems.push(error);
                continue;
            };
            let name = Part { start: part.start + 1, text: name, ..part }.trimmed();
            let options = sections.iter().position(Section::is_options);
            match options.filter(|_| name.text.eq_ignore_ascii_case("options")) {
                // A second [options] goes on with the first.
                Some(place) => sections[place..].rotate_left(1),
                None => sections.push(Section { name, directives: HashMap::new() }),
            }
            continue;
        }
        let directive = match part.split('=') {
            Some((name, value)) => Directive { name, value: Some(value) },
            None => Directive { name: part, value: None },
        };
        match sections.last_mut() {
            Some(section) => section.add(directive, problems),
            None if homeless => {}
            None => {
                homeless = true;
                let message = format!("'{}' stands before the first section", directive.name.text);
                problems.push(directive.name.error(message).help("write [NAME] above it"));
            }
        }
    }
    sections
}

fn read_options(section: &Section<'_>, settings: &mut Settings) {
    let path = |directive| section.value(directive).map(|value| PathBuf::from(value.text));
    if section.directives.contains_key("UseSyslog") {
        settings.log.syslog = Some("daemon".to_owned());
    }
    settings.log.file = path("LogFile");
    if let Some(path) = path("PidFile") {
        settings.pid_file = path;
    }
    if let Some(interface) = section.value("Interface") {
        settings.interfaces = vec![interface.text.to_owned()];
    }
}

/// The classic takes any text for a name; what a name here cannot hold becomes `_`.
fn read_name(name: Part<'_>, problems: &mut Problems) -> Name {
    name.text.parse().unwrap_or_else(|error| {
        let replaced = Name::closest(name.text);
        let message = format!("this door is called '{replaced}' here: {error}");
        problems.push(name.place().warning(message));
        replaced
    })
}

fn read_door(
    name: Name,
    section: &Section<'_>,
    problems: &mut Problems,
) -> Option<(Door, DoorPlaces)> {
    if let Some(directive) = section.directives.get("One_Time_Sequences") {
        let message = "One_Time_Sequences is not supported by this version yet";
        problems.push(directive.name.error(message).help("give the door a Sequence"));
        return None;
    }
    let sequence = read_sequence(section, problems);
    let seq_timeout = read_seconds(section, "Seq_Timeout", SEQ_TIMEOUT, problems);
    let flags = read_flags(section, problems);
    let target = match section.value("Target") {
        Some(value) => problems.keep(parse_target(value.text, &value.place())).map(Some),
        None => Some(None),
    };
    let commands = read_commands(section, problems);
    let open_for = read_seconds(section, "Cmd_Timeout", CMD_TIMEOUT, problems);
    if let (Some(timeout), Some(commands)) = (section.value("Cmd_Timeout"), &commands)
        && commands.v4.close.is_none()
        && commands.v6.close.is_none()
    {
        let message = "Cmd_Timeout has no effect without Stop_Command";
        problems.push(timeout.place().warning(message));
    }
    let (sequence, sequence_places) = sequence?.into_iter().unzip();
    let door = Door {
        recognition: Recognition {
            name,
            sequence,
            seq_timeout: seq_timeout?,
            flags: flags?,
            target: target?,
            trip_wires: TRIP_WIRES,
            opens: Vec::new(),
        },
        opening: Opening { commands: commands?, ports: Vec::new(), open_for: open_for? },
    };
    let places = DoorPlaces {
        name: section.name.place(),
        sequence: sequence_places,
        opens: Vec::new(),
        trip_wires: None,
        target: section.value("Target").map(Part::place),
    };
    Some((door, places))
}

/// Classic knockd stops reading a number at whatever follows it, so a comment there was harmless.
fn without_comment<'a>(value: Part<'a>, problems: &mut Problems) -> Part<'a> {
    let Some((before, comment)) = value.split('#') else { return value };
    let message = "a comment after a value: taken for a comment, but it belongs on a line alone";
    problems.push(comment.place().warning(message));
    before
}

fn read_sequence(section: &Section<'_>, problems: &mut Problems) -> Option<Vec<(Knock, Place)>> {
    let Some(value) = section.value("Sequence") else {
        let message = format!("door '{}' has no Sequence", section.name.text);
        let error = section.name.error(message);
        problems.push(error.help("write for example: Sequence = 7000,8000:udp,9000"));
        return None;
    };
    let items = without_comment(value, problems).items();
    problems.keep(check_length(items.len(), &value.place()))?;
    let knocks: Vec<_> = items
        .into_iter()
        .map(|item| {
            let knock = item.text.parse().map_err(|error: KnockError| {
                let error = item.error(error.to_string());
                let blank = item.text.contains(char::is_whitespace);
                if blank { error.help("put a comma between two ports") } else { error }
            });
            problems.keep::<Knock>(knock).map(|knock| (knock, item.place()))
        })
        .collect();
    knocks.into_iter().collect()
}

fn read_seconds(
    section: &Section<'_>,
    directive: &str,
    default: Duration,
    problems: &mut Problems,
) -> Option<Duration> {
    let Some(value) = section.value(directive) else { return Some(default) };
    let value = without_comment(value, problems);
    let digits = value.text.bytes().take_while(u8::is_ascii_digit).count();
    let number = value.text.get(..digits).and_then(|text| text.parse::<u32>().ok());
    match number {
        Some(0) => problems.push(value.error(format!("{directive} cannot be zero"))),
        Some(seconds) if digits == value.text.len() => {
            return Some(Duration::from_secs(seconds.into()));
        }
        _ => {
            let message = format!(
                "'{}' is not a number of seconds: classic knockd takes it for {}",
                value.text,
                number.unwrap_or_default()
            );
            problems.push(value.error(message).help("write a whole number without a unit"));
        }
    }
    None
}

fn read_flags(section: &Section<'_>, problems: &mut Problems) -> Option<FlagTest> {
    let Some(directive) = section.directives.get("TCPFlags") else { return Some(FlagTest::ANY) };
    let value = directive.value?;
    if value.text.contains(char::is_whitespace) {
        let message = "classic knockd takes no blanks between flags; here they are passed over";
        problems.push(value.place().warning(message));
    }
    problems.keep(value.text.parse().map_err(|error| value.error(format!("{error}"))))
}

fn read_commands(section: &Section<'_>, problems: &mut Problems) -> Option<Commands> {
    let mut said = |key: &str| {
        let Some(directive) = section.directives.get(key) else { return Said::Absent };
        let Some(value) = directive.value.filter(|value| !value.text.is_empty()) else {
            return Said::Empty;
        };
        let command = Command::Shell(CommandText::classic(value.text));
        problems.extend(missing_program(&command, &value.place()));
        Said::Command(command)
    };
    let said = COMMANDS.all().map(&mut said);
    let place = |key: &str| section.directives.get(key).map(|directive| directive.name.place());
    problems.keep(pairs(said, &COMMANDS, place, &section.name.place()))
}
