//! `knockctl check`: what is wrong with a configuration, and what it amounts to.

mod forward;
pub(super) mod guard;
mod methods;
mod ruleset;
mod start;

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use guard::{HostContext, SshConnection, doubts};
use methods::methods;
use ruleset::HostRuleset;
use serde::Serialize;
use start::obstacles;

use super::args::JsonArgs;
use super::fleet::namesake;
use super::output::object;
use super::wording::count;
use super::{Error, Target, host};
use crate::client::complain;
use crate::config::lint::{HostFacts, lint, some_of};
use crate::config::load::{Report, load};
use crate::config::{
    Command, Commands, Config, Diagnostic, Door, Family, Forward, Loaded, Mechanism, Name, NftSet,
    Options, Pair, Problems, Settings,
};
use crate::firewall;
use crate::keeper::rights;
use crate::proto::duration;
use crate::sys::privileges;

/// Prints errors and warnings on standard error and each door on standard output.
pub(super) fn run(target: &Target, args: &JsonArgs) -> Result<(), Error> {
    let mut found = examine(&target.config, target.options(), |_| ());
    if let Ok((loaded, warnings)) = &mut found {
        warnings.extend(namesake(target, loaded));
    }
    if args.json { print_json(&target.config, found) } else { print(&target.config, found) }
}

/// The same for `knockd --check`; `apply` puts what a command line says above what the file does.
pub fn of_knockd(path: &Path, options: Options, apply: impl FnOnce(&mut Settings)) -> ExitCode {
    super::ended(print(path, examine(path, options, apply)))
}

/// A configuration without errors, and the warnings.
pub(super) type Checked = Result<(Loaded, Vec<Diagnostic>), Report>;

pub(super) fn examine(path: &Path, options: Options, apply: impl FnOnce(&mut Settings)) -> Checked {
    let mut loaded = load(path, &options)?;
    let written = loaded.config.settings.clone();
    apply(&mut loaded.config.settings);
    if loaded.config.settings != written {
        // What is wrong may not stand in the file.
        loaded.places.settings.clear();
        loaded.places.interfaces.clear();
    }
    let mut warnings = Problems::default();
    warnings.extend(loaded.warnings.iter().cloned());
    let host = host::look(&loaded.config.settings.interfaces);
    if privileges::is_root() {
        warnings.extend(obstacles(path, &loaded, options));
    } else {
        let left_out = "not looked at without root: the firewall, and the daemon's files";
        let _ = writeln!(io::stderr(), "{}: {left_out}", path.display());
    }
    warnings.extend(lint(&loaded, &host));
    if loaded.config.doors.iter().any(asks_the_firewall) {
        let around = around(host, &loaded);
        warnings.extend(doubts(&loaded, &around));
        warnings.extend(forward::doubts(&loaded, &around));
    }
    let is_refused = warnings.has_errors();
    let found = warnings.into_sorted();
    if is_refused { Err(Report(found)) } else { Ok((loaded, found)) }
}

/// Whether what else the firewall does may matter to a door.
fn asks_the_firewall(Door { opening, .. }: &Door) -> bool {
    opening.mechanism == Mechanism::Guard || opening.hold.is_some() || opening.cuts
}

fn around(host: HostFacts, loaded: &Loaded) -> HostContext {
    let doors = loaded.config.doors.iter();
    let led_to = doors.flat_map(|door| &door.opening.forwards).map(|forward| forward.to);
    let network = host.network.unwrap_or_default();
    let ssh = host::ssh_connection().and_then(|text| SshConnection::parse(&text));
    HostContext {
        ssh,
        is_locked: ssh.is_some_and(|ssh| firewall::guard::guards(ssh.port)),
        ruleset: host::ruleset().and_then(|json| HostRuleset::parse(&json)),
        listening: host.listening,
        addresses: network.addresses,
        forwards: network.forwards,
        unreachable: led_to.filter(|to| !host::has_route(*to)).collect(),
    }
}

/// An object that `check --json` prints, one a line.
#[derive(Debug, Serialize)]
#[serde(tag = "about", rename_all = "snake_case")]
pub enum CheckLine<'a> {
    Diagnostic(&'a Diagnostic),
    Door {
        door: &'a Name,
        /// What opens it, one way each.
        opened_by: Vec<String>,
        /// What opening it does.
        effects: Vec<String>,
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        forwards: &'a [Forward],
    },
    /// The last one of a configuration without errors.
    Summary {
        configuration: &'a Path,
        doors: usize,
        clients: usize,
        warnings: usize,
        /// What runs commands, for which knockd keeps all its privileges.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        commands: Vec<String>,
    },
}

fn print_json(path: &Path, found: Checked) -> Result<(), Error> {
    let mut out = BufWriter::new(io::stdout().lock());
    let (Ok((_, diagnostics)) | Err(Report(diagnostics))) = &found;
    for diagnostic in diagnostics {
        object(&mut out, &CheckLine::Diagnostic(diagnostic))?;
    }
    if let Ok((Loaded { config, .. }, warnings)) = &found {
        for (door, opened_by) in config.doors.iter().zip(methods(config)) {
            let (door, effects, forwards) =
                (door.name(), effects(config, door), &door.opening.forwards);
            object(&mut out, &CheckLine::Door { door, opened_by, effects, forwards })?;
        }
        let (doors, clients) = (config.doors.len(), config.clients.len());
        let (configuration, warnings) = (path, warnings.len());
        let commands = rights::commands(config).collect();
        let summary = CheckLine::Summary { configuration, doors, clients, warnings, commands };
        object(&mut out, &summary)?;
    }
    out.flush()?;
    found.map(drop).map_err(|_| Error::Said)
}

fn print(path: &Path, found: Checked) -> Result<(), Error> {
    let (Loaded { config, .. }, warnings) = found?;
    warnings.iter().for_each(|warning| complain(&warning.to_string()));
    let mut out = BufWriter::new(io::stdout().lock());
    for (door, methods) in config.doors.iter().zip(methods(&config)) {
        writeln!(out, "{}: {}", door.name(), methods.join("\n    or "))?;
        effects(&config, door).iter().try_for_each(|effect| writeln!(out, "    {effect}"))?;
    }
    if let Some(commands) = some_of(rights::commands(&config)) {
        writeln!(out, "knockd keeps all its privileges, which a command may need: {commands}")?;
    }
    let clients = match config.clients.len() {
        0 => String::new(),
        number => format!(", {}", count(number, "client")),
    };
    let (doors, warnings) = (count(config.doors.len(), "door"), count(warnings.len(), "warning"));
    writeln!(out, "{}: {doors}{clients}, no errors, {warnings}", path.display())?;
    Ok(out.flush()?)
}

/// What opening a door does, a line each.
fn effects(config: &Config, door: &Door) -> Vec<String> {
    let opening = &door.opening;
    let ports: Vec<_> = opening.ports.iter().map(ToString::to_string).collect();
    let (ports, after) = (ports.join(" "), duration::format(opening.open_for));
    let mut effects = match &opening.mechanism {
        Mechanism::Commands { commands, .. } => {
            let each = (!ports.is_empty()).then(|| format!("for each of {ports}:"));
            each.into_iter().chain(effects_of_commands(commands, &after)).collect()
        }
        Mechanism::Guard if ports.is_empty() => Vec::new(),
        Mechanism::Guard if opening.is_observed() => {
            vec![format!("the guard only observes {ports}: everybody gets in, who knocks or not")]
        }
        Mechanism::Guard => {
            vec![format!("the guard locks {ports}, and lets in for {after} who knocks")]
        }
        Mechanism::Set(set) => effects_of_set(set, &ports, &after).into(),
    };
    effects.extend(opening.forwards.iter().map(|forward| {
        let Forward { on, to, masquerade, .. } = forward;
        let (port, seen) = (forward.inner(), if *masquerade { ", as if from here," } else { "" });
        format!("connections to {on} go to {to} {port}{seen} for {after} for who knocks")
    }));
    effects.extend(opening.hold.map(|hold| {
        let [idle, grace, most] = [hold.idle, hold.grace, hold.at_most].map(duration::format);
        format!(
            "connections hold it: {idle} after a packet, {grace} after their end, {most} at most"
        )
    }));
    if opening.fleet && config.settings.fleet.is_some() && opening.mechanism.closes() {
        effects.push("every gateway of the fleet that has this door opens it too".to_owned());
    }
    for (when, command) in [("opened", &opening.on_open), ("closed", &opening.on_close)] {
        let runs = |command| format!("when it has been {when} runs {}", one_line(command));
        effects.extend(command.as_ref().map(runs));
    }
    effects
}

fn effects_of_commands(commands: &Commands, after: &str) -> Vec<String> {
    let (v4, v6) = (commands.of(Family::V4), commands.of(Family::V6));
    let both = [("IPv4 ", v4), ("IPv6 ", v6)];
    let same = (&v4.open, &v4.close) == (&v6.open, &v6.close);
    let told = if same { vec![("", v4)] } else { both.to_vec() };
    let mut effects = Vec::new();
    for (family, Pair { open, close, .. }) in told {
        effects.push(match open {
            Some(open) => format!("{family}runs {}", one_line(open)),
            None => format!("{family}cannot be opened"),
        });
        let closes = |close| format!("{family}after {after} runs {}", one_line(close));
        effects.extend(close.as_ref().map(closes));
    }
    effects
}

fn effects_of_set(set: &NftSet, ports: &str, after: &str) -> [String; 2] {
    let opens = if ports.is_empty() { String::new() } else { format!(", which opens {ports}") };
    let (family, table) = (set.family.as_str(), &set.table);
    [("IPv4", Family::V4), ("IPv6", Family::V6)].map(|(name, of)| match set.of(of) {
        Some(set) => {
            format!("{name} is in the set {set} of the table {family} {table} for {after}{opens}")
        }
        None => format!("{name} cannot be opened"),
    })
}

fn one_line(command: &Command) -> String {
    command.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
