//! What opening a door does.

use std::collections::HashMap;
use std::time::Duration;

use super::commands::{PairNames, Templates, missing_program, read_pairs};
use super::diagnostic::{Diagnostic, Place, Problems, meant};
use super::door::{read_ports, read_time};
use super::raw::{Entry, Mapping, Node, Value, given_twice};
use super::{Command, Commands, Hole, How, Name};
use crate::proto::knock::Knock;

/// What opening a door does: the keeper's half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    pub how: How,
    /// What is opened. Firewall commands run once for each of these; once, without `%PORT%`, if
    /// there are none.
    pub ports: Vec<Knock>,
    /// At least a second.
    pub open_for: Duration,
    /// Runs when the door has been opened for an address; no grant waits for it or fails with it.
    pub on_open: Option<Command>,
    /// Likewise, when it has been closed.
    pub on_close: Option<Command>,
}

impl Opening {
    /// The firewall commands, where it is opened by commands.
    #[must_use]
    pub const fn commands(&self) -> Option<&Commands> {
        match &self.how {
            How::Commands { commands, .. } => Some(commands),
            How::Guard | How::Set(_) => None,
        }
    }

    /// The port that it opens, where it is just one: what fills `%PORT%` and `%PROTO%` in `on_open`
    /// and `on_close`.
    #[must_use]
    pub const fn single_port(&self) -> Option<Knock> {
        match self.ports.as_slice() {
            [port] => Some(*port),
            _ => None,
        }
    }
}

const DOOR_COMMANDS: PairNames = PairNames {
    open: "start_command",
    close: "stop_command",
    open_6: "start_command_6",
    close_6: "stop_command_6",
};

/// Classic knockd's `Cmd_Timeout`: what a door with commands of its own has.
pub(super) const CMD_TIMEOUT: Duration = Duration::from_secs(10);
const OPEN_FOR: Duration = Duration::from_secs(30);

/// Reads what a door opens and how, and where its ports are written; `meant` are the keys that
/// were misspelt. `None` after an error.
pub(super) fn read_opening(
    mapping: &Mapping,
    entry: &Entry,
    meant: &[&str],
    templates: &Templates,
    problems: &mut Problems,
) -> Option<(Opening, Vec<Place>)> {
    let ports = read_opens(mapping, problems);
    let how = read_how(mapping, entry, meant, templates, problems);
    let open_for = read_open_for(mapping, how.as_ref(), problems);
    let (ports, places) = ports?.into_iter().unzip();
    let opening = Opening { how: how?, ports, open_for: open_for?, on_open: None, on_close: None };
    Some((opening, places))
}

fn read_opens(mapping: &Mapping, problems: &mut Problems) -> Option<Vec<(Knock, Place)>> {
    let Some(given) = mapping.get("open") else { return Some(Vec::new()) };
    let items = match &given.node.value {
        Value::List(items) => items.as_slice(),
        Value::Scalar(_) => std::slice::from_ref(&given.node),
        _ => &[],
    };
    if items.is_empty() {
        problems.push(given.node.at.error("'open' names no port: write for example [22/tcp]"));
        return None;
    }
    let ports = read_ports(items, problems)?;
    let mut seen: HashMap<Knock, &Place> = HashMap::new();
    for (port, at) in &ports {
        if let Some(first) = seen.insert(*port, at) {
            problems.push(given_twice(at, &port.to_string(), first));
        }
    }
    Some(ports)
}

/// The door's own commands, or what its `via` says.
fn read_how(
    mapping: &Mapping,
    entry: &Entry,
    meant: &[&str],
    templates: &Templates,
    problems: &mut Problems,
) -> Option<How> {
    let own = DOOR_COMMANDS.all().into_iter().find_map(|key| mapping.get(key));
    let via = mapping.value("via");
    match (own, mapping.get("open").or_else(|| mapping.get("via"))) {
        (Some(own), Some(open)) => {
            let message = format!("'{}' and '{}' exclude each other", own.key, open.key);
            problems.push(
                own.at.error(message).help(
                    "write either commands of the door's own, or 'open' with 'via: TEMPLATE'",
                ),
            );
            None
        }
        (Some(_), None) => {
            let commands = read_pairs(mapping, &DOOR_COMMANDS, &entry.at, problems)?;
            let place = |key| mapping.value(key).map_or(&entry.at, |node| &node.at);
            check_holes(&commands, false, place(DOOR_COMMANDS.open), problems);
            Some(How::Commands { template: None, commands })
        }
        (None, Some(open)) => match via {
            Some(via) => read_via(via, mapping.get("open").is_some(), templates, problems),
            None if meant.contains(&"via") => None,
            None => {
                problems.push(guard_is_later(&open.at, "'open' without 'via'"));
                None
            }
        },
        (None, None) if meant.iter().any(|key| IN_PLACE_OF_COMMAND.contains(key)) => None,
        (None, None) => {
            let message = format!("door '{}' does nothing when it opens", entry.key);
            problems.push(
                entry
                    .at
                    .error(message)
                    .help("write 'open: [22/tcp]' with 'via: iptables', or a 'start_command'"),
            );
            None
        }
    }
}

const IN_PLACE_OF_COMMAND: [&str; 6] =
    ["open", "via", "start_command", "start_command_6", "stop_command", "stop_command_6"];

fn guard_is_later(at: &Place, what: &str) -> Diagnostic {
    at.error(format!("{what} is not supported by this version yet: it has no guard of its own"))
        .help("write 'via: iptables', or another template: ipset, nft, ufw, firewalld, your own")
}

fn read_via(
    via: &Node,
    has_ports: bool,
    templates: &Templates,
    problems: &mut Problems,
) -> Option<How> {
    if let Value::Mapping(_) = &via.value {
        let message = "a set of nftables here is not supported by this version yet";
        problems.push(via.at.error(message).help("write 'via: nft', or a template of your own"));
        return None;
    }
    let name = problems.keep(via.text("the name of a template"))?;
    if name == "guard" {
        problems.push(guard_is_later(&via.at, "'via: guard'"));
        return None;
    }
    let found = templates.iter().find(|(known, _)| known.as_str() == name);
    let Some((name, template)) = found else {
        let known = || templates.keys().map(Name::as_str);
        let message = format!("there is no template '{name}'");
        problems.push(match meant(name, known()) {
            Some(meant) => via.at.error(format!("{message}: did you mean '{meant}'?")),
            None => {
                let known: Vec<_> = known().collect();
                via.at.error(message).help(format!("the templates are: {}", known.join(", ")))
            }
        });
        return None;
    };
    if template.built_in {
        let commands = [&template.commands.v4.open, &template.commands.v6.open];
        let missing = |command: &Command| missing_program(command, &via.at);
        problems.extend(commands.into_iter().flatten().filter_map(missing).take(1));
    }
    check_holes(&template.commands, has_ports, &via.at, problems);
    Some(How::Commands { template: Some(name.clone()), commands: template.commands.clone() })
}

/// Holes that nothing will fill.
fn check_holes(commands: &Commands, has_ports: bool, at: &Place, problems: &mut Problems) {
    let pairs = [&commands.v4, &commands.v6];
    let all = || pairs.into_iter().flat_map(|pair| [&pair.open, &pair.close]).flatten();
    let has = |hole| all().any(|command| command.holes().any(|found| found == hole));
    if let Some(hole) = [Hole::Port, Hole::Proto].into_iter().find(|hole| !has_ports && has(*hole))
    {
        let message = format!("nothing fills %{}%: the door has no 'open'", hole.name());
        problems.push(
            at.error(message).help(
                "write 'open: [22/tcp]' with 'via: TEMPLATE', or put the port into the command",
            ),
        );
    }
    if has(Hole::Client) {
        problems.push(at.warning("%CLIENT% is empty: a sequence does not say who knocks"));
    }
}

fn read_open_for(
    mapping: &Mapping,
    how: Option<&How>,
    problems: &mut Problems,
) -> Option<Duration> {
    let (open_for, cmd_timeout) = (mapping.get("open_for"), mapping.get("cmd_timeout"));
    if let (Some(first), Some(second)) = (open_for, cmd_timeout) {
        let message = "'cmd_timeout' and 'open_for' are two names for one thing";
        problems.push(
            second.at.error(message).help(format!("remove one; the other is at {}", first.at)),
        );
    }
    if let (Some(given), Some(how)) = (open_for.or(cmd_timeout), how)
        && !how.closes()
    {
        let message = format!("'{}' has no effect: nothing closes this door", given.key);
        problems.push(given.at.warning(message).help("write a 'stop_command', or remove it"));
    }
    let default = if mapping.get("via").is_some() { OPEN_FOR } else { CMD_TIMEOUT };
    let least = Duration::from_secs(1);
    let open_for = read_time(mapping, "open_for", least, problems)?;
    let cmd_timeout = read_time(mapping, "cmd_timeout", least, problems)?;
    Some(open_for.or(cmd_timeout).unwrap_or(default))
}
