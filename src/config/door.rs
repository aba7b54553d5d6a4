//! A door: what it takes to open it, and what opening does.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::commands::{PairNames, Templates, missing_program, read_pairs};
use super::diagnostic::{Diagnostic, Place, Problems, meant};
use super::raw::{Entry, Keys, Mapping, Node, Value, given_twice};
use super::{Command, Commands, Hole, Name};
use crate::proto::duration;
use crate::proto::flags::FlagTest;
use crate::proto::knock::Knock;

#[derive(Clone, Debug)]
pub struct Door {
    pub recognition: Recognition,
    pub opening: Opening,
}

impl Door {
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.recognition.name
    }
}

/// What it takes to open a door: the watcher's half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recognition {
    pub name: Name,
    /// 1 to 32 knocks.
    pub sequence: Vec<Knock>,
    /// From the first knock to the last.
    pub seq_timeout: Duration,
    pub flags: FlagTest,
    /// The address that has to be knocked at; `None`: any address of this host.
    pub target: Option<IpAddr>,
    /// How many ports on either side of each knock break a sequence.
    pub trip_wires: u16,
    /// The ports that opening opens, where that is known: nobody's trip-wires.
    pub opens: Vec<Knock>,
}

/// What opening a door does: the keeper's half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    pub commands: Commands,
    /// The commands run once for each of these; once, without `%PORT%`, if there are none.
    pub ports: Vec<Knock>,
    /// At least a second.
    pub open_for: Duration,
}

/// Where the parts of a door are written.
#[derive(Clone, Debug)]
pub struct DoorPlaces {
    pub name: Place,
    /// One for each knock.
    pub sequence: Vec<Place>,
    /// One for each port that it opens.
    pub opens: Vec<Place>,
    /// Where the door itself says something of them.
    pub trip_wires: Option<Place>,
    pub target: Option<Place>,
}

pub(super) const DOOR: Keys = Keys {
    of: "a door",
    known: &[
        "sequence",
        "seq_timeout",
        "tcpflags",
        "target",
        "trip_wires",
        "open",
        "open_for",
        "via",
        "start_command",
        "stop_command",
        "start_command_6",
        "stop_command_6",
        "cmd_timeout",
    ],
    later: &[
        ("one_time_sequences", "give the door a 'sequence'"),
        ("totp", "give the door a 'sequence'"),
        ("spa", "give the door a 'sequence'"),
        ("fwknop", "give the door a 'sequence'"),
        ("open_for_max", "remove it: a sequence cannot ask for another time than 'open_for'"),
    ],
};

const DOOR_COMMANDS: PairNames = PairNames {
    open: "start_command",
    close: "stop_command",
    open_6: "start_command_6",
    close_6: "stop_command_6",
};

pub(super) const SEQ_TIMEOUT: Duration = Duration::from_secs(25);
pub(super) const TRIP_WIRES: u16 = 16;
/// Classic knockd's `Cmd_Timeout`: what a door with commands of its own has.
pub(super) const CMD_TIMEOUT: Duration = Duration::from_secs(10);
const OPEN_FOR: Duration = Duration::from_secs(30);
const MAX_KNOCKS: usize = 32;
const MAX_TRIP_WIRES: u64 = 1000;

/// Reads one entry of `doors:`. `None` after an error.
pub(super) fn read_door(
    entry: &Entry,
    templates: &Templates,
    problems: &mut Problems,
) -> Option<(Door, DoorPlaces)> {
    let name = problems.keep(entry.name());
    let mapping = problems.keep(entry.node.mapping("a door, with its sequence,"))?;
    let meant = mapping.check_keys(&DOOR, problems);
    let sequence = read_sequence(mapping, entry, &meant, problems);
    let seq_timeout = read_time(mapping, "seq_timeout", Duration::from_millis(1), problems);
    let flags = read_flags(mapping, problems);
    let target = read_target(mapping, problems);
    let trip_wires = read_trip_wires(mapping, problems);
    let opens = read_opens(mapping, problems);
    let commands = read_commands(mapping, entry, &meant, templates, problems);
    let open_for = read_open_for(mapping, commands.as_ref(), problems);
    let (sequence, sequence_places) = sequence?.into_iter().unzip();
    let (opens, opens_places): (Vec<_>, _) = opens?.into_iter().unzip();
    let door = Door {
        recognition: Recognition {
            name: name?,
            sequence,
            seq_timeout: seq_timeout?.unwrap_or(SEQ_TIMEOUT),
            flags: flags?,
            target: target?,
            trip_wires: trip_wires?,
            opens: opens.clone(),
        },
        opening: Opening { commands: commands?, ports: opens, open_for: open_for? },
    };
    let at = |key| mapping.value(key).map(|node| node.at.clone());
    let places = DoorPlaces {
        name: entry.at.clone(),
        sequence: sequence_places,
        opens: opens_places,
        trip_wires: at("trip_wires"),
        target: at("target"),
    };
    Some((door, places))
}

const A_PORT: &str = "a port such as 7000 or 8000/udp";

fn read_sequence(
    mapping: &Mapping,
    entry: &Entry,
    meant: &[&str],
    problems: &mut Problems,
) -> Option<Vec<(Knock, Place)>> {
    let Some(given) = mapping.get("sequence") else {
        if meant.iter().any(|key| IN_PLACE_OF_SEQUENCE.contains(key)) {
            return None;
        }
        problems.push(
            entry
                .at
                .error(format!("door '{}' has no sequence", entry.key))
                .help("write for example: sequence: [7000, 8000/udp, 9000]"),
        );
        return None;
    };
    let items = match &given.node.value {
        Value::List(items) => items,
        Value::Scalar(scalar) => {
            let error = given.node.at.error("a sequence is a list");
            problems.push(error.help(format!("write sequence: [{}]", scalar.text)));
            return None;
        }
        _ => {
            problems.push(given.node.unwanted("a list of ports such as [7000, 8000/udp, 9000]"));
            return None;
        }
    };
    problems.keep(check_length(items.len(), &given.node.at))?;
    read_ports(items, problems)
}

/// # Errors
/// Says that a sequence has no knock, or too many.
pub(super) fn check_length(knocks: usize, at: &Place) -> Result<(), Diagnostic> {
    match knocks {
        0 => Err(at.error("a sequence needs at least one knock: three or more are sensible")),
        1..=MAX_KNOCKS => Ok(()),
        _ => Err(at.error(format!("a sequence has at most {MAX_KNOCKS} knocks, not {knocks}"))),
    }
}

/// The keys of which one says how the door is opened, so that none is missing.
const IN_PLACE_OF_SEQUENCE: [&str; 5] = ["sequence", "one_time_sequences", "totp", "spa", "fwknop"];

fn read_ports(items: &[Node], problems: &mut Problems) -> Option<Vec<(Knock, Place)>> {
    let ports: Vec<_> = items
        .iter()
        .map(|item| problems.keep(read_port(item)).map(|knock| (knock, item.at.clone())))
        .collect();
    ports.into_iter().collect()
}

fn read_port(item: &Node) -> Result<Knock, Diagnostic> {
    item.parsed(A_PORT).map_err(|error| match &item.value {
        Value::Mapping(_) => error.help("write 7000:udp without a blank after the colon"),
        Value::Scalar(scalar) if scalar.text.contains(char::is_whitespace) => {
            error.help("put a comma between two ports")
        }
        _ => error,
    })
}

/// `None` after an error, `Some(None)` where the key is absent.
#[expect(clippy::option_option, reason = "absent and wrong are two things")]
fn read_time(
    mapping: &Mapping,
    key: &str,
    least: Duration,
    problems: &mut Problems,
) -> Option<Option<Duration>> {
    let Some(node) = mapping.value(key) else { return Some(None) };
    let time = problems.keep(node.read("a duration such as 30s or 5m", duration::parse))?;
    if time < least {
        let message = if time.is_zero() {
            format!("{key} cannot be zero")
        } else {
            format!("{key} has to be at least {}", duration::format(least))
        };
        problems.push(node.at.error(message));
        return None;
    }
    Some(Some(time))
}

fn read_flags(mapping: &Mapping, problems: &mut Problems) -> Option<FlagTest> {
    let Some(node) = mapping.value("tcpflags") else { return Some(FlagTest::SYN) };
    let items = match &node.value {
        Value::List(items) => items.as_slice(),
        _ => std::slice::from_ref(node),
    };
    let mut test = Some(FlagTest::ANY);
    for item in items {
        let one = problems.keep(item.parsed::<FlagTest>("a TCP flag such as syn"));
        test = test.zip(one).and_then(|(test, one)| {
            problems.keep(test.and(one).map_err(|error| item.at.error(error.to_string())))
        });
    }
    test
}

#[expect(clippy::option_option, reason = "absent and wrong are two things")]
fn read_target(mapping: &Mapping, problems: &mut Problems) -> Option<Option<IpAddr>> {
    let Some(node) = mapping.value("target") else { return Some(None) };
    let text = problems.keep(node.text("an IP address"))?;
    problems.keep(parse_target(text, &node.at)).map(Some)
}

/// # Errors
/// Says that the text is no address that a packet could be sent to.
pub(super) fn parse_target(text: &str, at: &Place) -> Result<IpAddr, Diagnostic> {
    match text.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() => Err(at
            .error(format!("no packet is sent to {address}"))
            .help("without 'target' a knock at any address of this host counts")),
        Ok(address) => Ok(address),
        Err(_) => Err(at
            .error(format!("'{text}' is not an IP address"))
            .help("write an address such as 192.0.2.10 or 2001:db8::10; names are not looked up")),
    }
}

fn read_trip_wires(mapping: &Mapping, problems: &mut Problems) -> Option<u16> {
    let Some(node) = mapping.value("trip_wires") else { return Some(TRIP_WIRES) };
    let number = problems.keep(node.integer(0, MAX_TRIP_WIRES))?;
    u16::try_from(number).ok()
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

/// The door's own commands, or those of the template that it names.
fn read_commands(
    mapping: &Mapping,
    entry: &Entry,
    meant: &[&str],
    templates: &Templates,
    problems: &mut Problems,
) -> Option<Commands> {
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
            Some(commands)
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
) -> Option<Commands> {
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
    let Some((_, template)) = found else {
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
    Some(template.commands.clone())
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
    commands: Option<&Commands>,
    problems: &mut Problems,
) -> Option<Duration> {
    let (open_for, cmd_timeout) = (mapping.get("open_for"), mapping.get("cmd_timeout"));
    if let (Some(first), Some(second)) = (open_for, cmd_timeout) {
        let message = "'cmd_timeout' and 'open_for' are two names for one thing";
        problems.push(
            second.at.error(message).help(format!("remove one; the other is at {}", first.at)),
        );
    }
    if let (Some(given), Some(commands)) = (open_for.or(cmd_timeout), commands)
        && commands.v4.close.is_none()
        && commands.v6.close.is_none()
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
