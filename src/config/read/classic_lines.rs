//! The lines of a classic `knockd.conf`: sections and their directives.

use std::collections::HashMap;

use crate::config::diagnostic::{closest_match, narrow};
use crate::config::tree::given_twice;
use crate::config::{Diagnosed, Diagnostic, Place, Problems, SourceText};
use crate::proto::{FlagTest, InterfaceName};

/// The directives of the section `[options]`.
pub(crate) const OPTIONS: &str = "UseSyslog LogFile PidFile Interface";
/// The directives of a door's section. `Seq_Cooldown` is a fork's.
pub(crate) const DIRECTIVES: &str = "\
    Sequence One_Time_Sequences Seq_Timeout Timeout Seq_Cooldown TCPFlags Target Start_Command \
    Command Start_Command_6 Command_6 Cmd_Timeout Stop_Command Stop_Command_6";

/// The directive that a word names, in any case; of one that has two names the first.
pub(crate) fn canonical(word: &str, known: &'static str) -> Option<&'static str> {
    let found = known.split(' ').find(|known| known.eq_ignore_ascii_case(word))?;
    Some(match found {
        "Timeout" => "Seq_Timeout",
        "Command" => "Start_Command",
        "Command_6" => "Start_Command_6",
        other => other,
    })
}

/// Lines that are neither empty nor comments, with their numbers from 1.
pub(crate) fn significant_lines(text: &str) -> impl Iterator<Item = (u32, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    (1..).zip(text.lines()).filter(|(_, line)| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#')
    })
}

/// A part of a line, without the blanks around it.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    source: &'a SourceText,
    number: u32,
    line: &'a str,
    /// Where it begins in the line, in bytes.
    start: usize,
    pub(crate) text: &'a str,
}

impl<'a> Part<'a> {
    fn new(source: &'a SourceText, number: u32, line: &'a str) -> Self {
        Self { source, number, line, start: 0, text: line }.trimmed()
    }

    fn trimmed(self) -> Self {
        let start = self.start + (self.text.len() - self.text.trim_start().len());
        Self { start, text: self.text.trim(), ..self }
    }

    /// Its first word, for messages: in a file of another kind a secret may stand behind it.
    fn word(self) -> Self {
        Self { text: self.text.split([':', ' ', '\t']).next().unwrap_or_default(), ..self }
    }

    /// What stands before and after the first `separator`.
    pub(crate) fn split(self, separator: char) -> Option<(Self, Self)> {
        let (before, after) = self.text.split_once(separator)?;
        let start = self.start + before.len() + separator.len_utf8();
        let before = Self { text: before, ..self };
        Some((before.trimmed(), Self { text: after, start, ..self }.trimmed()))
    }

    /// What stands before a comment and within quotes, which are told of.
    fn plain(mut self, told: &str, problems: &mut Problems) -> Self {
        // In a path it begins after a blank.
        let is_path = self.text.starts_with('/');
        let begins = |&at: &usize| !is_path || self.text[..at].ends_with(char::is_whitespace);
        if let Some(at) = self.text.match_indices('#').map(|(at, _)| at).find(begins) {
            let comment = Self { start: self.start + at + 1, text: &self.text[at + 1..], ..self };
            let message = format!("a comment after a value: {told}");
            problems.push(comment.trimmed().place().warning(message));
            self.text = self.text[..at].trim_end();
        }
        let text = self.text.trim_matches(['"', '\'']);
        if text.len() < self.text.len() {
            let message = "quotes around a value: classic knockd takes them for a part of it";
            problems.push(self.error(message).help("write it without quotes"));
            self.start += self.text.find(text).unwrap_or_default();
        }
        Self { text, ..self }
    }

    /// Its parts between commas.
    pub(crate) fn items(self) -> Vec<Self> {
        let mut start = self.start;
        let item = |text: &'a str| {
            let item = Self { text, start, ..self }.trimmed();
            start += text.len() + 1;
            item
        };
        self.text.split(',').map(item).collect()
    }

    pub(crate) fn place(self) -> Place {
        let before = self.line.get(..self.start).unwrap_or_default().chars().count();
        let width = narrow(self.text.chars().count());
        self.source.place(self.number, narrow(before).saturating_add(1), width)
    }

    pub(crate) fn error(self, message: impl Into<String>) -> Diagnostic {
        self.place().error(message)
    }
}

/// A section with its directives, each once.
pub(crate) struct Section<'a> {
    pub(crate) name: Part<'a>,
    pub(crate) directives: HashMap<&'static str, Directive<'a>>,
}

/// A directive as it is written; a flag has no value.
#[derive(Clone, Copy)]
pub(crate) struct Directive<'a> {
    pub(crate) name: Part<'a>,
    pub(crate) value: Option<Part<'a>>,
}

impl<'a> Section<'a> {
    pub(crate) fn is_options(&self) -> bool {
        self.name.text.eq_ignore_ascii_case("options")
    }

    /// The value of a directive, where it is not empty.
    pub(crate) fn value(&self, directive: &str) -> Option<Part<'a>> {
        self.directives.get(directive)?.value.filter(|value| !value.text.is_empty())
    }

    /// The interface that it names, where it is one.
    pub(crate) fn interface(&self, problems: &mut Problems) -> Option<InterfaceName> {
        let value = self.value("Interface")?;
        problems.ok_or_report(value.text.parse().map_err(|error| value.error(format!("{error}"))))
    }

    /// The test of flags that it asks for.
    pub(crate) fn flags(&self, problems: &mut Problems) -> Diagnosed<FlagTest> {
        let Some(value) = self.value("TCPFlags") else { return Ok(FlagTest::ANY) };
        if value.text.contains(char::is_whitespace) {
            let message = "classic knockd takes no blanks between flags; here they are passed over";
            problems.push(value.place().warning(message));
        }
        value.text.parse().map_err(|error| value.error(format!("{error}")))
    }

    fn add(&mut self, mut directive: Directive<'a>, told: &str, problems: &mut Problems) {
        let written = directive.name.text;
        let known = if self.is_options() { OPTIONS } else { DIRECTIVES };
        let Some(name) = canonical(written, known) else {
            problems.push(unknown(directive.name, known));
            return;
        };
        let (is_flag, is_command) = (name == "UseSyslog", name.contains("_Command"));
        directive.value = directive.value.map(|value| match name {
            // What reads it says what is wrong with it.
            "Interface" => value,
            // A comment is one to the shell as well.
            _ if is_command => {
                problems.extend(program_in_quotes(value));
                value
            }
            _ => value.plain(told, problems),
        });
        // Only commands may be empty: then nothing runs.
        let lacks_value = directive.value.is_none_or(|it| it.text.is_empty() && !is_command);
        let first = self.directives.get(name);
        if let Some(first) = first.filter(|_| !is_flag || directive.value.is_some()) {
            let place = directive.name.place();
            problems.push(given_twice(&place, written, &first.name.place()));
            // Classic knockd goes by the last one.
            self.directives.insert(name, directive);
        } else if is_flag && directive.value.is_some() {
            let error = directive.name.error("UseSyslog takes no value");
            let help = "write UseSyslog alone, or remove the line where syslog is not wanted";
            problems.push(error.help(help));
        } else if lacks_value && !is_flag {
            let message = format!("{written} has no value");
            problems.push(directive.name.error(message).help(format!("write {written} = ...")));
        } else {
            self.directives.insert(name, directive);
        }
    }
}

fn program_in_quotes(command: Part<'_>) -> Option<Diagnostic> {
    let quote = command.text.chars().next().filter(|first| "\"'".contains(*first))?;
    let inner = command.text.get(1..)?.strip_suffix(quote)?;
    let message = "the shell takes what is in these quotes for the name of one program";
    let warning = command.place().warning(message).help("write the command without them");
    (!inner.contains(quote) && inner.contains(char::is_whitespace)).then_some(warning)
}

fn unknown(name: Part<'_>, known: &'static str) -> Diagnostic {
    let word = name.word();
    let message = format!("unknown directive '{}'", word.text);
    let homes = [(OPTIONS, "the section [options]"), (DIRECTIVES, "the section of a door")];
    if let Some((_, home)) = homes.iter().find(|(own, _)| canonical(name.text, own).is_some()) {
        return word.error(message).help(format!("it belongs in {home}"));
    }
    let meant = closest_match(name.text, known.split(' '));
    let help = format!("the directives here are: {}", known.replace(' ', ", "));
    word.place().misspelt(&message, meant.and_then(|found| canonical(found, known)), &help)
}

/// Reads all sections; what is wrong with their lines goes to `problems`. `told` is what becomes of
/// a comment after a value.
pub(crate) fn read_sections<'a>(
    source: &'a SourceText,
    told: &str,
    problems: &mut Problems,
) -> Vec<Section<'a>> {
    let mut sections: Vec<Section<'a>> = Vec::new();
    // Of directives without a section only the first is worth a word.
    let mut homeless = false;
    for (number, line) in significant_lines(source.text()) {
        let part = Part::new(source, number, line);
        if let Some(name) = part.text.strip_prefix('[') {
            let Some(name) = name.strip_suffix(']').filter(|name| !name.trim().is_empty()) else {
                let error =
                    part.error("this is not a section: a section is [NAME] on a line alone");
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
            Some((name, value)) if !name.text.contains('#') => {
                Directive { name, value: Some(value) }
            }
            _ => Directive { name: part.plain(told, problems), value: None },
        };
        match sections.last_mut() {
            Some(section) => section.add(directive, told, problems),
            None if homeless => {}
            None => {
                homeless = true;
                let word = directive.name.word();
                let message = format!("'{}' stands before the first section", word.text);
                problems.push(word.error(message).help("write [NAME] above it"));
            }
        }
    }
    sections
}
