//! Reader of what a door says of its opening: ports, mechanism, times and hooks.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use super::commands::{
    AvailableHoles, PORT_HOLES, PairNames, Templates, check_holes, no_client, read_field,
    read_pairs,
};
use super::forward::read_forwards;
use super::hold::{read_hold, unknown_sessions};
use super::sequence::read_ports;
use super::via::read_via;
use crate::config::diagnostic::Parsed;
use crate::config::opening::{CMD_TIMEOUT, MAX_GRANTS, OPEN_FOR, default_max_grants};
use crate::config::sleeps::run_time;
use crate::config::tree::{Mapping, MappingEntry, Node, Reader, Scalar, Value, given_twice};
use crate::config::{
    Command, Commands, Diagnosed, Diagnostic, Forward, GuardMode, Hole, Mechanism, NewPrivileges,
    Opening, Place, Settings,
};
use crate::proto::{OpenPorts, duration};

const DOOR_COMMANDS: PairNames = [
    "start_command",
    "stop_command",
    "start_command_6",
    "stop_command_6",
    "verify_command",
    "verify_command_6",
];

/// The most addresses that a client can be given.
const MOST: NonZeroUsize = NonZeroUsize::new(MAX_GRANTS).unwrap();

/// Reads what a door opens and how, and where its ports and its forwards are written.
pub(super) fn read_opening(
    reader: &mut Reader<'_>,
    entry: &MappingEntry,
    templates: &Templates,
    settings: &Settings,
) -> Parsed<(Opening, [Vec<Place>; 2])> {
    let ports = read_opens(reader);
    let forwards = read_forwards(reader);
    let mechanism = read_mechanism(reader, entry, templates);
    let open_for = read_open_for(reader, mechanism.as_ref().ok());
    let open_for_max = read_open_for_max(reader, open_for);
    let max_grants = reader.read("max_grants", |node| node.integer(1, MAX_GRANTS));
    let hold = read_hold(reader, open_for);
    let cuts = reader.read("on_expiry", |node| node.one_of(&[("keep", false), ("cut", true)]));
    let fleet = reader.read("fleet", Node::boolean);
    let addresses = reader.read("addresses", |node| node.integer(NonZeroUsize::MIN, MOST));
    let cooldown = reader.duration("cooldown", Duration::from_millis(1));
    let count = ports.as_ref().map_or(1, Vec::len);
    let on_open = read_hook(reader, "on_open", count);
    let on_close = read_hook(reader, "on_close", count);
    let command_limit = reader.read("command_limit", read_command_limit);
    let new_privileges = reader.read("no_new_privs", read_new_privileges);
    let guard = reader.read("guard", read_guard_mode);
    let (ports, places) = ports?.into_iter().unzip();
    let (forwards, forwards_places): (Vec<Forward>, _) = forwards?.into_iter().unzip();
    let mechanism = mechanism?;
    let opening = Opening {
        max_grants: max_grants?.unwrap_or(default_max_grants(&mechanism)),
        mechanism,
        guard: guard?.unwrap_or(settings.guard),
        ports,
        forwards,
        open_for: open_for?,
        open_for_max: open_for_max?,
        hold: hold?,
        cuts: cuts?.unwrap_or_default(),
        addresses: addresses?,
        fleet: fleet?.unwrap_or_default(),
        cooldown: cooldown?.unwrap_or_default(),
        on_open: on_open?,
        on_close: on_close?,
        command_limit: command_limit?.unwrap_or(settings.command_limit),
        new_privileges: new_privileges?.unwrap_or(settings.new_privileges),
    };
    reader.problems.extend(unknown_sessions(reader, &opening));
    reader.problems.extend(about_guard_mode(reader.get("guard"), entry, &opening));
    if opening.runs_commands() {
        reader.problems.extend(killed_early(reader.mapping, &opening));
    } else {
        let needless = ["command_limit", "no_new_privs"].map(|key| reader.get(key)).into_iter();
        let why = "this door runs no command";
        let needless = needless.flatten().map(|given| given.without_effect(why, "remove it"));
        reader.problems.extend(needless);
    }
    Ok((opening, [places, forwards_places]))
}

/// How long a command may run; `none`: without end.
pub(super) fn read_command_limit(node: &Node) -> Diagnosed<Option<Duration>> {
    match &node.value {
        Value::Scalar(Scalar { text, .. }) if text == "none" => Ok(None),
        _ => node.duration("command_limit", Duration::from_secs(1)).map(Some),
    }
}

/// Whether commands may gain privileges.
pub(super) fn read_new_privileges(node: &Node) -> Diagnosed<NewPrivileges> {
    Ok(if node.boolean()? { NewPrivileges::Denied } else { NewPrivileges::Granted })
}

/// What the guard does.
pub(super) fn read_guard_mode(node: &Node) -> Diagnosed<GuardMode> {
    node.one_of(&GuardMode::ALL.map(|mode| (mode.as_str(), mode)))
}

/// The warning of a door that the guard keeps nobody out of, or does not open at all.
fn about_guard_mode(
    given: Option<&MappingEntry>,
    door: &MappingEntry,
    opening: &Opening,
) -> Option<Diagnostic> {
    if opening.mechanism != Mechanism::Guard {
        let why = "the guard does not open this door";
        return given.map(|given| given.without_effect(why, "remove it, or write via: guard"));
    }
    if !opening.is_guarded() {
        let why = "this door only forwards: it has no port to lock";
        return given.map(|given| given.without_effect(why, "remove it"));
    }
    let (at, name) = (given.map_or(&door.at, |given| &given.node.at), &door.key);
    let warning = at.warning(format!("door '{name}' only observes: it keeps nobody out"));
    let help = format!("'knockctl observe' says who comes, 'knockctl lock {name}' locks it");
    opening.is_observed().then(|| warning.help(help))
}

/// Warnings of commands that sleep for longer than they may run.
fn killed_early(mapping: &Mapping, opening: &Opening) -> Vec<Diagnostic> {
    let Commands { v4, v6 } = opening.commands().cloned().unwrap_or_default();
    let all = DOOR_COMMANDS.into_iter().zip([&v4.open, &v4.close, &v6.open, &v6.close]);
    let hooks = [("on_open", &opening.on_open), ("on_close", &opening.on_close)];
    let warn = |(key, command): (&str, &Option<Command>)| {
        let of_template = || mapping.value("via").filter(|_| !key.ends_with("_6"));
        let at = &mapping.value(key).or_else(of_template)?.at;
        let (command, limit) = (command.as_ref()?, opening.command_limit?);
        let message =
            format!("what runs here sleeps, and is killed after {}", duration::format(limit));
        let help = "write what comes after the sleep as what closes the door, and its time as \
                    open_for; or a longer command_limit, or command_limit: none";
        let exceeds = run_time(command, opening.open_for).exceeds(limit);
        exceeds.then(|| at.warning(message).help(help))
    };
    all.chain(hooks).filter_map(warn).collect()
}

fn read_opens(reader: &mut Reader<'_>) -> Parsed<Vec<(OpenPorts, Place)>> {
    let Some(given) = reader.get("open") else { return Ok(Vec::new()) };
    let items = given.node.items();
    if items.is_empty() {
        return reader
            .fail(given.node.at.error("'open' names no port: write for example [22/tcp]"));
    }
    let ports = read_ports::<OpenPorts>(items, reader.problems)?;
    let mut seen: HashMap<OpenPorts, &Place> = HashMap::new();
    for (port, at) in &ports {
        if let Some(first) = seen.insert(*port, at) {
            reader.problems.push(given_twice(at, &port.to_string(), first));
        }
    }
    Ok(ports)
}

/// The door's own commands, or what its `via` says; the guard where it says nothing.
fn read_mechanism(
    reader: &mut Reader<'_>,
    entry: &MappingEntry,
    templates: &Templates,
) -> Parsed<Mechanism> {
    let own = DOOR_COMMANDS.into_iter().find_map(|key| reader.get(key));
    let (open, via) = (reader.get("open"), reader.get("via"));
    let forward = reader.get("forward");
    let client = has_clients(reader.mapping);
    match (own, open.or(forward).or(via)) {
        (Some(own), Some(open)) => {
            let message = format!("'{}' and '{}' exclude each other", own.key, open.key);
            let help = format!("write '{}', or commands of the door's own, not both", open.key);
            reader.fail(own.at.error(message).help(help))
        }
        (Some(_), None) => {
            let commands = read_pairs(reader, &DOOR_COMMANDS, &entry.at)?;
            let at = reader.value(DOOR_COMMANDS[0]).map_or(&entry.at, |node| &node.at);
            check_holes(&commands, AvailableHoles { port: false, client }, at, reader.problems);
            Ok(Mechanism::Commands { template: None, commands })
        }
        (None, _) => match (reader.value("via"), forward) {
            (Some(via), Some(forward)) if via.text("").map_or(true, |via| via != "guard") => {
                let error = forward.at.error("only the guard forwards");
                reader.fail(error.help("write via: guard, or make this a door of its own"))
            }
            (Some(_), Some(_)) => Ok(Mechanism::Guard),
            (Some(via), None) => read_via(
                via,
                AvailableHoles { port: open.is_some(), client },
                templates,
                reader.problems,
            ),
            (None, forward) if open.or(forward).is_some() && !reader.misspelt.contains(&"via") => {
                Ok(Mechanism::Guard)
            }
            (None, _) => {
                let message = format!("door '{}' does nothing when it opens", entry.key);
                let help = "write the ports to open, open: [22/tcp], or a 'start_command'";
                let keys = [["open", "forward", "via"].as_slice(), &DOOR_COMMANDS].concat();
                reader.missing(&keys, entry.at.error(message).help(help))
            }
        },
    }
}

/// Reads `on_open` or `on_close`.
fn read_hook(reader: &mut Reader<'_>, key: &str, ports: usize) -> Parsed<Option<Command>> {
    let Some(entry) = reader.get(key) else { return Ok(None) };
    let Some(command) = read_field(entry, reader.problems)? else { return Ok(None) };
    if ports != 1
        && let Some(hole) = PORT_HOLES.into_iter().find(|hole| command.has(*hole))
    {
        let why = match ports {
            0 => "the door has no 'open'".to_owned(),
            _ => format!("'{key}' runs once, and the door opens {ports} ports"),
        };
        let error = entry.node.at.error(format!("nothing fills %{}%: {why}", hole.as_str()));
        return reader.fail(error.help("leave it out, or write the port into the command"));
    }
    if command.has(Hole::Client) && !has_clients(reader.mapping) {
        reader.problems.push(no_client(&entry.node.at));
    }
    Ok(Some(command))
}

/// Whether anything that opens the door says who knocks.
fn has_clients(mapping: &Mapping) -> bool {
    ["totp", "spa", "fwknop"].iter().any(|key| mapping.value(key).is_some())
}

fn read_open_for(reader: &mut Reader<'_>, mechanism: Option<&Mechanism>) -> Parsed<Duration> {
    let (open_for, cmd_timeout) = (reader.get("open_for"), reader.get("cmd_timeout"));
    if let (Some(first), Some(second)) = (open_for, cmd_timeout) {
        let error = second.at.error("'cmd_timeout' and 'open_for' are two names for one thing");
        reader.problems.push(error.help(format!("remove one; the other is at {}", first.at)));
    }
    if mechanism.is_some_and(|mechanism| !mechanism.closes()) {
        let keys = ["open_for_max", "hold", "on_expiry", "addresses"];
        let times = [open_for.or(cmd_timeout)].into_iter().chain(keys.map(|key| reader.get(key)));
        // An act may say itself when what it does ends.
        let is_timed = mechanism.is_some_and(|mechanism| mechanism.has_hole(Hole::Seconds));
        let times = times.filter(|_| !is_timed);
        let needless = times.chain([reader.get("on_close")]).flatten();
        let help = "write a 'stop_command', or remove it";
        let why = "nothing closes this door";
        reader.problems.extend(needless.map(|given| given.without_effect(why, help)));
    }
    let own = DOOR_COMMANDS.into_iter().any(|key| reader.get(key).is_some());
    let default = if own { CMD_TIMEOUT } else { OPEN_FOR };
    let least = Duration::from_secs(1);
    let open_for = reader.duration("open_for", least)?;
    Ok(open_for.or(reader.duration("cmd_timeout", least)?).unwrap_or(default))
}

/// `open_for` where it is absent.
fn read_open_for_max(reader: &mut Reader<'_>, open_for: Parsed<Duration>) -> Parsed<Duration> {
    let max = reader.duration("open_for_max", Duration::from_secs(1))?;
    let open_for = open_for?;
    match reader.value("open_for_max") {
        Some(node) if max.is_some_and(|max| max < open_for) => {
            let shown = duration::format(open_for);
            let error = node.at.error(format!("shorter than the door stays open anyway: {shown}"));
            reader.fail(error.help("write at least as much as 'open_for', or remove it"))
        }
        _ => Ok(max.unwrap_or(open_for)),
    }
}
