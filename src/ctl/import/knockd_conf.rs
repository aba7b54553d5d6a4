//! A classic `knockd.conf` as YAML: what classic knockd makes of it, and what it misreads.

use std::num::NonZeroU16;
use std::path::Path;
use std::time::Duration;

use super::atoi;
use super::side_by_side::ImportedPart;
use crate::config::classic_lines::{DIRECTIVES, Section, read_sections};
use crate::config::names::TakenNames;
use crate::config::sleeps::run_time;
use crate::config::tree::absolute_path;
use crate::config::yaml_writer::YamlWriter;
use crate::config::{
    COMMAND_LIMIT, Command, CommandText, Diagnostic, Problems, SourceText, parse_target,
};
use crate::proto::knock::MAX_KNOCKS;
use crate::proto::{FlagTest, Knock, Protocol, duration};

/// Writes what the file says. Errors in `notes` are about what is not carried over as it stands.
pub(super) fn import(source: &SourceText, notes: &mut Problems) -> (YamlWriter, Vec<ImportedPart>) {
    let mut page = YamlWriter::default();
    let mut doors = YamlWriter::default();
    let sections = read_sections(source, "left out; it belongs on a line alone", notes);
    let mut parts = Vec::new();
    let mut names = TakenNames::among(sections.iter().map(|section| section.name.text));
    for section in &sections {
        if section.is_options() {
            options(section, &mut page, notes);
            continue;
        }
        let name = names.take(section.name.text);
        if name.as_str() != section.name.text {
            let message = format!("this door is called '{name}' here, and in the log");
            notes.push(section.name.place().warning(message));
        }
        let mut page = YamlWriter::default();
        page.open(1, name.as_str());
        let mut door = DoorWriter { section, notes, page, whole: true, unlimited: false };
        door.read();
        let DoorWriter { page: read, whole, .. } = door;
        let says = DIRECTIVES.split(' ').filter_map(|name| {
            let value = section.directives.get(name)?.value?;
            Some((name, value.text.to_owned(), Some(value.place())))
        });
        parts.push(ImportedPart {
            origin: section.name.place().to_string(),
            name: whole.then_some(name),
            says: says.collect(),
        });
        if whole {
            doors.append(&read);
        } else {
            doors.comment(1, "Not carried over: what is wrong with it stands in the notes.");
            doors.commented(1, &read);
        }
    }
    if parts.is_empty() {
        notes.push(Diagnostic::file(source.path(), "there is no door in it"));
    } else {
        page.blank();
        page.section(0, "doors", &doors);
    }
    (page, parts)
}

fn options(section: &Section<'_>, page: &mut YamlWriter, notes: &mut Problems) {
    let mut path = |directive: &str| {
        let value = section.value(directive)?;
        if Path::new(value.text).is_absolute() {
            return Some(value.text);
        }
        let message = format!("'{}' depends on where knockd is started: left out", value.text);
        notes.push(value.error(message).help("write the whole path, from / on"));
        None
    };
    let (file, pid) = (path("LogFile"), path("PidFile"));
    let [mut knockd, mut log] = [YamlWriter::default(), YamlWriter::default()];
    if let Some(interface) = section.interface(notes) {
        knockd.list(1, "interfaces", &[interface]);
    }
    log.optional(2, "syslog", section.directives.get("UseSyslog").map(|_| "daemon"));
    log.optional(2, "file", file);
    knockd.section(1, "log", &log);
    knockd.optional(1, "pid_file", pid);
    page.section(0, "knockd", &knockd);
}

struct DoorWriter<'a> {
    section: &'a Section<'a>,
    notes: &'a mut Problems,
    page: YamlWriter,
    /// Whether what is written so far can be loaded.
    whole: bool,
    /// Whether a command may take longer than commands may where nothing is said.
    unlimited: bool,
}

impl<'a> DoorWriter<'a> {
    fn read(&mut self) {
        self.opened_by();
        self.timeout("Seq_Timeout", "seq_timeout");
        if self.section.value("Seq_Cooldown").is_some_and(|value| value.text != "0") {
            self.timeout("Seq_Cooldown", "cooldown");
        }
        self.flags();
        self.target();
        self.commands();
    }

    /// The door as a whole cannot be carried over.
    fn fail(&mut self, problem: Diagnostic) {
        self.notes.push(problem);
        self.whole = false;
    }

    fn opened_by(&mut self) {
        let sequence = self.section.value("Sequence");
        if let Some(file) = self.section.value("One_Time_Sequences") {
            if let Some(sequence) = sequence {
                let message = "Sequence has no effect beside One_Time_Sequences: left out";
                self.notes.push(sequence.place().warning(message));
            }
            if let Err(problem) = absolute_path(file.text, &file.place()) {
                self.fail(problem);
            }
            self.page.entry(2, "one_time_sequences", file.text);
            return;
        }
        let Some(sequence) = sequence else {
            let message = format!("door '{}' has no Sequence", self.section.name.text);
            return self.fail(self.section.name.error(message));
        };
        let items = sequence.items();
        if items.len() > MAX_KNOCKS {
            self.fail(sequence.error(format!("a sequence has at most {MAX_KNOCKS} knocks")));
        }
        let mut knocks = Vec::new();
        for item in items {
            let text = item.text;
            let Some((knock, odd)) = classic_knock(text) else {
                let message = format!(
                    "'{text}' is not a port: classic knockd takes it for 0, where nobody can knock"
                );
                self.fail(item.error(message).help("write a number from 1 to 65535"));
                knocks.push(text.to_owned());
                continue;
            };
            let written = knock.short('/');
            if let Some(why) = odd {
                let message = format!(
                    "'{text}' {why}: classic knockd takes it for {knock}, or does not start"
                );
                let help =
                    format!("written as {written}; correct it here, and where it is knocked");
                self.notes.push(item.error(message).help(help));
            }
            knocks.push(written);
        }
        self.page.list(2, "sequence", &knocks);
    }

    fn timeout(&mut self, directive: &str, key: &str) {
        let Some(value) = self.section.value(directive) else { return };
        let taken = atoi(value.text);
        let seconds = u64::try_from(taken).ok().filter(|seconds| *seconds > 0);
        // What is written has to be read back.
        let written = seconds
            .map(|seconds| duration::format(Duration::from_secs(seconds)))
            .filter(|text| duration::parse(text).is_ok());
        let text = value.text;
        if !text.bytes().all(|byte| byte.is_ascii_digit()) || written.is_none() {
            let message = if taken == 0 && text.starts_with('0') {
                format!("{directive} cannot be zero")
            } else {
                format!("'{text}' is not a number of seconds: classic knockd takes it for {taken}")
            };
            let help = match &written {
                Some(written) => format!("written as {written}"),
                None => "left out, so that the default holds".to_owned(),
            };
            self.notes.push(value.error(message).help(help));
        }
        self.page.optional(2, key, written);
    }

    fn flags(&mut self) {
        match self.section.flags(self.notes) {
            Ok(test) => {
                let words = test.to_string();
                let words = words.split(',').filter(|_| test != FlagTest::ANY);
                self.page.list(2, "tcpflags", &words.collect::<Vec<_>>());
            }
            Err(problem) => {
                self.fail(problem);
                let given = self.section.value("TCPFlags");
                self.page.optional(2, "tcpflags", given.map(|value| value.text));
            }
        }
    }

    fn target(&mut self) {
        let Some(value) = self.section.value("Target") else { return };
        match parse_target(value.text, &value.place()) {
            Ok(target) => self.page.entry(2, "target", &target.to_string()),
            Err(problem) => {
                self.fail(problem);
                self.page.entry(2, "target", value.text);
            }
        }
    }

    fn commands(&mut self) {
        let [open, close, open_6, close_6] =
            ["Start_Command", "Stop_Command", "Start_Command_6", "Stop_Command_6"]
                .map(|directive| self.command(directive));
        let opens = |command: Option<&str>| command.is_some_and(|command| !command.is_empty());
        let opens_6 = opens(open_6.or(open));
        if !opens(open) && !opens_6 {
            let message = format!("door '{}' runs nothing", self.section.name.text);
            self.fail(self.section.name.error(message).help("write a Start_Command"));
        } else if opens(close) && !opens(open) {
            self.undoes_nothing("Stop_Command", "Start_Command");
        } else if opens(close_6) && !opens_6 {
            self.undoes_nothing("Stop_Command_6", "Start_Command_6");
        }
        self.entry("start_command", open);
        self.entry("start_command_6", open_6);
        self.timeout("Cmd_Timeout", "cmd_timeout");
        let idle = self.section.value("Cmd_Timeout").filter(|_| !opens(close) && !opens(close_6));
        let message = "Cmd_Timeout has no effect without Stop_Command";
        self.notes.extend(idle.map(|value| value.place().warning(message)));
        self.entry("stop_command", close);
        self.entry("stop_command_6", close_6);
        self.page.optional(2, "command_limit", self.unlimited.then_some("none"));
    }

    fn undoes_nothing(&mut self, close: &str, open: &str) {
        let section = self.section;
        let place = section.directives.get(close).map_or(section.name, |found| found.name);
        self.fail(place.error(format!("{close} without {open}: there would be nothing to undo")));
    }

    /// The text of a directive; empty where it says that nothing runs.
    fn command(&mut self, directive: &str) -> Option<&'a str> {
        let value = self.section.directives.get(directive)?.value?;
        if value.text.contains('\0') {
            self.fail(value.error("a command cannot hold a NUL character"));
            return None;
        }
        let time = run_time(&Command::Shell(CommandText::classic(value.text)), Duration::ZERO);
        let sleeps = time.exceeds(COMMAND_LIMIT);
        if sleeps {
            let message = "this command sleeps, and would not go on if knockd died meanwhile";
            self.notes.push(value.place().warning(message).help(
                "put what comes after the sleep into stop_command, and its time into cmd_timeout",
            ));
        }
        self.unlimited |= sleeps || !time.is_known;
        Some(value.text)
    }

    fn entry(&mut self, key: &str, command: Option<&str>) {
        self.page.optional(2, key, command.map(CommandText::classic));
    }
}

/// One item of a sequence, as classic knockd reads it, and why it is something else than it looks
/// like, if it is; `None`: port 0.
fn classic_knock(text: &str) -> Option<(Knock, Option<&'static str>)> {
    let (port, protocol) = text.split_once(':').unwrap_or((text, ""));
    let (port, protocol) = (port.trim(), protocol.trim());
    let (protocol, odd) = match protocol.to_ascii_lowercase().as_str() {
        "udp" => (Protocol::Udp, None),
        "" | "tcp" => (Protocol::Tcp, None),
        _ => (Protocol::Tcp, Some("has no protocol that there is")),
    };
    let number = atoi(port);
    let taken = NonZeroU16::new(u16::try_from(number.rem_euclid(65_536)).ok()?)?;
    let knock = Knock::new(protocol, taken);
    let odd = if !(1..=65_535).contains(&number) {
        Some("is out of range")
    } else if port.bytes().all(|byte| byte.is_ascii_digit()) {
        odd
    } else if port.contains('/') {
        Some("has its protocol after a slash")
    } else {
        Some("is more than a port")
    };
    Some((knock, odd))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{Door, Opening, Settings, load};

    fn knock(text: &str) -> Knock {
        text.parse().unwrap()
    }

    #[test]
    fn what_classic_knockd_reads_well_is_read_alike() {
        for (text, expected) in
            [("7000", "7000"), ("7000:udp", "7000/udp"), ("7000 : UDP", "7000/udp"), ("07", "7")]
        {
            assert_eq!(classic_knock(text), Some((knock(expected), None)), "{text}");
        }
    }

    #[test]
    fn what_classic_knockd_misreads_is_told() {
        for (text, expected) in [
            ("70000", "4464"),
            ("-5", "65531"),
            ("7000:upd", "7000"),
            ("7000/udp", "7000"),
            ("8 9", "8"),
            ("4294967297", "1"),
        ] {
            match classic_knock(text) {
                Some((taken, Some(_))) => assert_eq!(taken, knock(expected), "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        for text in ["abc", "", "0", "0x10", "65536"] {
            assert_eq!(classic_knock(text), None, "{text}");
        }
    }

    #[test]
    fn a_command_runs_as_long_as_it_did_where_that_may_be_longer_than_usual() {
        let limit = |command: &str| {
            let source =
                SourceText::new("knockd.conf", format!("[a]\nSequence=1\nCommand={command}"));
            let page = import(&source, &mut Problems::default()).0.into_text();
            load::parse(&SourceText::new("page", page)).unwrap().config.doors[0]
                .opening
                .command_limit
        };
        for command in
            ["iptables -I x; sleep 30s; iptables -D x", "backup.sh", "timeout 20 nc -l 9"]
        {
            assert_eq!(limit(command), None, "{command}");
        }
        for command in ["iptables -I x", "ufw allow; sleep 2", "(sleep 60; iptables -D x) &"] {
            assert_eq!(limit(command), Some(COMMAND_LIMIT), "{command}");
        }
    }

    /// Something like a classic configuration.
    fn conf() -> impl Strategy<Value = String> {
        let line = prop_oneof![
            Just("[options]".to_owned()),
            "\\[[a-z ]{0,4}\\]",
            "(Sequence|One_Time_Sequences|Target) *= *(/x|[0-9a-c:/ -]{0,12}|[0-9]{1,5}(,[0-9]{1,6}(:udp|:tcp)?){0,3})",
            "(Seq_Timeout|Cmd_Timeout|TCPFlags) *= *([0-9a-c#-]{0,6}|syn|!ack,syn)",
            "(Start_|Stop_)?Command(_6)? *= *[ -~]{0,12}",
            "(UseSyslog|LogFile *= */?[a-z:# ]{1,4}|PidFile=/a|Interface = [a-z0-9:]{1,4})",
            "[ -~]{0,12}",
        ];
        prop::collection::vec(line, 0..12).prop_map(|lines| lines.join("\n"))
    }

    fn source(text: &str) -> SourceText {
        SourceText::new("knockd.conf", format!("[a]\nSequence=1\nCommand=x\n{text}"))
    }

    proptest! {
        #[test]
        fn what_comes_out_loads(text in conf()) {
            let page = import(&source(&text), &mut Problems::default()).0.into_text();
            // A file of one-time sequences may not be there.
            if !page.contains("one_time_sequences") {
                let loaded = load::parse(&SourceText::new("page", page.as_str()));
                prop_assert!(loaded.is_ok(), "{}\n{page}", loaded.unwrap_err());
            }
        }

        #[test]
        fn what_is_carried_over_whole_is_the_same_configuration(text in conf()) {
            let mut notes = Problems::default();
            let page = import(&source(&text), &mut notes).0.into_text();
            let (classic, loaded) =
                (load::parse(&source(&text)), load::parse(&SourceText::new("page", page)));
            if let (false, Ok(classic), Ok(loaded)) = (notes.has_errors(), classic, loaded) {
                // A classic file is kept apart by its name; one that is YAML is as it says.
                let Settings { state_dir, run_dir, .. } = loaded.config.settings.clone();
                let settings = classic.config.settings;
                let settings = Settings { classic_file: None, state_dir, run_dir, ..settings };
                prop_assert_eq!(settings, loaded.config.settings);
                // How long commands may run is only written where it may matter.
                let doors = |doors: Vec<Door>| -> Vec<_> {
                    let openings = doors.into_iter().map(|Door { recognition, opening, .. }| {
                        (recognition, Opening { command_limit: None, ..opening })
                    });
                    openings.collect()
                };
                prop_assert_eq!(doors(classic.config.doors), doors(loaded.config.doors));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let source = SourceText::new("knockd.conf", format!("[a]\n{text}"));
            let page = import(&source, &mut Problems::default()).0.into_text();
            prop_assert!(load::parse(&SourceText::new("page", page)).is_ok());
        }
    }
}
