//! Reader of commands and templates.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use crate::config::diagnostic::Parsed;
use crate::config::tree::{KnownKeys, MappingEntry, Node, Reader, Value};
use crate::config::yaml;
use crate::config::{
    Command, CommandText, Commands, Diagnosed, Diagnostic, Hole, Name, Pair, Place, Problems,
    SourceText,
};

const TEMPLATE: KnownKeys = KnownKeys { of: "a template", known: &TEMPLATE_NAMES };

/// The directories in which commands are looked for: the `PATH` that they run with.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The names of the commands of a door or a template: what opens and what closes, the same for
/// IPv6, and what verifies either.
pub(super) type PairNames = [&'static str; 6];

const TEMPLATE_NAMES: PairNames = ["open", "close", "open_6", "close_6", "verify", "verify_6"];

/// Templates by their names.
pub(super) type Templates = BTreeMap<Name, Template>;

/// A pair of firewall commands for any door.
#[derive(Clone)]
pub(super) struct Template {
    pub commands: Commands,
    pub built_in: bool,
}

/// The administrator's templates, and those of the built-in ones that they do not replace.
pub(super) fn read_templates(entries: &[MappingEntry], problems: &mut Problems) -> Templates {
    static BUILT_IN: LazyLock<Templates> = LazyLock::new(built_in);
    let mut templates = BUILT_IN.clone();
    let own = entries.iter().flat_map(|entry| read_template(entry, problems));
    templates.extend(own.map(|(name, commands)| (name, Template { commands, built_in: false })));
    templates
}

/// Programs that are missing are no matter here: most machines have one firewall.
fn built_in() -> Templates {
    let source = SourceText::new("built-in templates", include_str!("builtin.yaml"));
    let mut problems = Problems::default();
    let root = yaml::parse(&source, &mut problems);
    let Some(Value::Mapping(mapping)) = root.map(|root| root.value) else {
        return Templates::new();
    };
    let templates = mapping.entries.iter().flat_map(|entry| read_template(entry, &mut problems));
    templates.map(|(name, commands)| (name, Template { commands, built_in: true })).collect()
}

fn read_template(entry: &MappingEntry, problems: &mut Problems) -> Parsed<(Name, Commands)> {
    let name = problems.report(entry.name());
    if entry.key == "guard" {
        problems.push(entry.at.error("'guard' is not free as the name of a template"));
    }
    let wanted = "a template, with open and close,";
    let mut reader = Reader::new(&entry.node, wanted, &TEMPLATE, problems)?;
    let commands = read_pairs(&mut reader, &TEMPLATE_NAMES, &entry.at)?;
    Ok((name?, commands))
}

/// The commands of both families. IPv6 has the IPv4 command where it has none of its own, and
/// nothing where its own is empty. Says so where nothing would ever run.
pub(super) fn read_pairs(
    reader: &mut Reader<'_>,
    names: &PairNames,
    at: &Place,
) -> Parsed<Commands> {
    let entry = |key: &str| reader.mapping.get(key);
    let place = |key: &str| entry(key).map(|entry| entry.at.clone());
    let command = |key: &str, other, problems: &mut Problems| match entry(key) {
        Some(entry) => read_field(entry, problems),
        None => Ok(other),
    };
    pairs(*names, command, place, at, reader.problems)
}

/// The commands of both families: of each key the `command`, which is another where it is absent.
///
/// # Errors
/// Says that a family closes what it never opens, looks for what nothing closes, or that nothing
/// would ever run.
pub(super) fn pairs(
    [open, close, open_6, close_6, verify, verify_6]: PairNames,
    command: impl Fn(&str, Option<Command>, &mut Problems) -> Parsed<Option<Command>>,
    place: impl Fn(&str) -> Option<Place>,
    at: &Place,
    problems: &mut Problems,
) -> Parsed<Commands> {
    let mut command = |key, other: Option<&Command>| command(key, other.cloned(), problems);
    let mut v4 = Pair { open: command(open, None)?, close: command(close, None)?, verify: None };
    let mut v6 = Pair {
        open: command(open_6, v4.open.as_ref())?,
        close: command(close_6, v4.close.as_ref())?,
        verify: None,
    };
    v4.verify = command(verify, None)?;
    v6.verify = command(verify_6, v4.verify.as_ref())?;
    let has_own = |key, command: &Option<Command>| command.is_some() && place(key).is_some();
    let undo = "there would be nothing to undo";
    let look_for = "nothing stays open, so there is nothing to look for";
    let checks = [
        (v4.close.is_some() && v4.open.is_none(), close, open, undo),
        (has_own(close_6, &v6.close) && v6.open.is_none(), close_6, open_6, undo),
        (v4.verify.is_some() && v4.close.is_none(), verify, close, look_for),
        (has_own(verify_6, &v6.verify) && v6.close.is_none(), verify_6, close_6, look_for),
    ];
    if let Some((_, key, other, why)) = checks.into_iter().find(|(is_alone, ..)| *is_alone) {
        let at = place(key).unwrap_or_else(|| at.clone());
        let help = format!("write {other} too, or remove {key}");
        return problems.report(Err(at.error(format!("{key} without {other}: {why}")).help(help)));
    }
    if v6.close.is_none() {
        v6.verify = None;
    }
    if v4.open.is_none() && v6.open.is_none() {
        return problems.report(Err(at.error(format!("nothing would run: {open} is missing"))));
    }
    // Where nothing opens there is nothing to close.
    let v6 = if v6.open.is_none() { Pair::default() } else { v6 };
    Ok(Commands { v4, v6 })
}

/// Reads one field, where empty means that nothing runs; a program that is not there is a warning.
pub(super) fn read_field(entry: &MappingEntry, problems: &mut Problems) -> Parsed<Option<Command>> {
    match &entry.node.value {
        Value::Null => Ok(None),
        Value::Scalar(scalar) if scalar.text.trim().is_empty() => Ok(None),
        _ => {
            let command = problems.report(read_command(&entry.node))?;
            let program = entry.node.items().first().unwrap_or(&entry.node);
            problems.extend(lacks_program(&command, &program.at));
            Ok(Some(command))
        }
    }
}

const A_COMMAND: &str = "a command (text for the shell, or a list of words)";

fn read_command(node: &Node) -> Diagnosed<Command> {
    let Value::List(items) = &node.value else {
        return Ok(Command::Shell(node.read(A_COMMAND, CommandText::parse)?));
    };
    let words = items.iter().map(read_word).collect::<Result<Vec<_>, _>>()?;
    match words.first().map(CommandText::literal).as_ref().map(Option::as_deref) {
        Some(Some("")) | None => Err(node.at.error("the list names no program")),
        Some(None) => Err(node.at.error("the program itself cannot be a hole")),
        Some(Some(_)) => Ok(Command::Exec(words.into())),
    }
}

fn read_word(node: &Node) -> Diagnosed<CommandText> {
    match &node.value {
        Value::Scalar(scalar) => {
            CommandText::parse(&scalar.text).map_err(|error| node.at.error(error.to_string()))
        }
        _ => Err(node.unwanted("a word (in quotes if it is empty)")),
    }
}

/// A warning if the program that a command names is not there.
pub(super) fn lacks_program(command: &Command, at: &Place) -> Option<Diagnostic> {
    let program = match command {
        Command::Exec(words) => words.first()?.literal()?,
        // Only what the shell would surely take for a path is looked at.
        Command::Shell(text) => {
            let text = text.to_string();
            let word = text.split_whitespace().next()?;
            let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
            (word.starts_with('/') && word.chars().all(plain)).then(|| word.to_owned())?
        }
    };
    missing_program(&program, at)
}

/// A warning if a program is not there.
pub(super) fn missing_program(program: &str, at: &Place) -> Option<Diagnostic> {
    let (found, help) = if program.contains('/') {
        (Path::new(program).exists(), "install it, or correct the path".to_owned())
    } else {
        let found = PATH.split(':').any(|directory| Path::new(directory).join(program).exists());
        (found, format!("install it, or write its whole path; it was looked for in {PATH}"))
    };
    let warning = at.warning(format!("there is no program '{program}' on this machine"));
    (!found).then(|| warning.help(help))
}

/// The holes that there is something to fill with in a door's commands.
#[derive(Clone, Copy)]
pub(super) struct AvailableHoles {
    /// Whether the door opens a port.
    pub port: bool,
    /// Whether something that opens it says who knocks.
    pub client: bool,
}

/// Holes that nothing will fill.
pub(super) fn check_holes(
    commands: &Commands,
    available: AvailableHoles,
    at: &Place,
    problems: &mut Problems,
) {
    let has = |hole: Hole| commands.all().any(|command| command.has(hole));
    if !available.port
        && let Some(hole) = PORT_HOLES.into_iter().find(|hole| has(*hole))
    {
        let message = format!("nothing fills %{}%: the door has no 'open'", hole.as_str());
        let help = "write 'open: [22/tcp]' with 'via: TEMPLATE', or put the port into the command";
        problems.push(at.error(message).help(help));
    }
    if has(Hole::Client) && !available.client {
        problems.push(no_client(at));
    }
}

/// The holes that a port fills.
pub(super) const PORT_HOLES: [Hole; 5] =
    [Hole::Port, Hole::PortLow, Hole::PortHigh, Hole::PortRange, Hole::Proto];

pub(super) fn no_client(at: &Place) -> Diagnostic {
    at.warning("%CLIENT% is empty: a sequence does not say who knocks")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_template_is_whole() {
        let templates = built_in();
        let names: Vec<_> = templates.keys().map(Name::as_str).collect();
        assert_eq!(names, ["firewalld", "ipset", "iptables", "nft", "ufw"]);
        for (name, template) in templates {
            let Commands { v4, v6 } = template.commands;
            for command in [v4.open, v4.close, v4.verify, v6.open, v6.close, v6.verify] {
                assert!(command.is_some(), "{name}");
            }
        }
    }
}
