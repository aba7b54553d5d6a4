//! `knockctl check`: what is wrong with a configuration, and what it amounts to.

mod guard;
mod methods;
mod ruleset;
mod start;

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use guard::{HostContext, SshConnection, doubts};
use methods::methods;
use ruleset::HostRuleset;
use start::obstacles;

use super::host;
use crate::client::complain;
use crate::config::diagnostic::{Diagnostic, Problems};
use crate::config::lint::{HostFacts, lint};
use crate::config::load::{Loaded, Options, load};
use crate::config::{Command, Commands, Door, Family, Mechanism, NftSet, Pair, Settings};
use crate::firewall;
use crate::proto::duration;
use crate::sys::{clock, privileges};

/// Prints errors and warnings on standard error and each door on standard output; `apply` puts
/// what a command line says above what the file does.
///
/// Fails if there are errors. Someone who stops reading early is no error.
pub fn run(path: &Path, options: Options, apply: impl FnOnce(&mut Settings)) -> ExitCode {
    let mut loaded = match load(path, &options) {
        Ok(loaded) => loaded,
        Err(report) => {
            complain(&report.to_string());
            return ExitCode::FAILURE;
        }
    };
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
        warnings.extend(obstacles(path, &loaded, options, clock::now()));
    } else {
        let left_out = "not looked at without root: the firewall, and the daemon's files";
        let _ = writeln!(io::stderr(), "{}: {left_out}", path.display());
    }
    warnings.extend(lint(&loaded, &host));
    if loaded.config.doors.iter().any(|door| door.opening.mechanism == Mechanism::Guard) {
        warnings.extend(doubts(&loaded, &around(host)));
    }
    let refused = warnings.has_errors();
    // Whoever stops reading has read enough.
    let _ = print(path, &loaded, &warnings.into_sorted(), refused);
    ExitCode::from(u8::from(refused))
}

fn around(host: HostFacts) -> HostContext {
    let ssh: Option<SshConnection> = host::ssh_connection().and_then(|text| text.parse().ok());
    HostContext {
        ssh,
        is_locked: ssh.is_some_and(|ssh| firewall::guard::guards(ssh.port)),
        ruleset: host::ruleset().and_then(|json| HostRuleset::parse(&json)),
        listening: host.listening,
        addresses: host.network.map(|network| network.addresses).unwrap_or_default(),
    }
}

fn print(path: &Path, loaded: &Loaded, warnings: &[Diagnostic], refused: bool) -> io::Result<()> {
    warnings.iter().for_each(|warning| complain(&warning.to_string()));
    if refused {
        return Ok(());
    }
    let mut output = BufWriter::new(io::stdout().lock());
    let doors = &loaded.config.doors;
    let methods = methods(&loaded.config);
    for (door, methods) in doors.iter().zip(&methods) {
        writeln!(output, "{}: {}", door.name(), methods.join("\n    or "))?;
        describe(&mut output, door)?;
    }
    let clients = match loaded.config.clients.len() {
        0 => String::new(),
        number => format!(", {}", count(number, "client")),
    };
    let (doors, warnings) = (count(doors.len(), "door"), count(warnings.len(), "warning"));
    writeln!(output, "{}: {doors}{clients}, no errors, {warnings}", path.display())?;
    output.flush()
}

fn count(number: usize, of: &str) -> String {
    match number {
        0 => format!("no {of}s"),
        1 => format!("1 {of}"),
        _ => format!("{number} {of}s"),
    }
}

fn describe(output: &mut impl Write, door: &Door) -> io::Result<()> {
    let opening = &door.opening;
    let ports: Vec<_> = opening.ports.iter().map(ToString::to_string).collect();
    let (ports, after) = (ports.join(" "), duration::format(opening.open_for));
    match &opening.mechanism {
        Mechanism::Commands { commands, .. } => {
            if !ports.is_empty() {
                writeln!(output, "    for each of {ports}:")?;
            }
            describe_commands(output, commands, &after)?;
        }
        Mechanism::Guard => {
            writeln!(output, "    the guard locks {ports}, and lets in for {after} who knocks")?;
        }
        Mechanism::Set(set) => describe_set(output, set, &ports, &after)?,
    }
    for (when, command) in [("opened", &opening.on_open), ("closed", &opening.on_close)] {
        if let Some(command) = command {
            writeln!(output, "    when it has been {when} runs {}", one_line(command))?;
        }
    }
    Ok(())
}

fn describe_commands(output: &mut impl Write, commands: &Commands, after: &str) -> io::Result<()> {
    let (v4, v6) = (commands.of(Family::V4), commands.of(Family::V6));
    let both = [("IPv4 ", v4), ("IPv6 ", v6)];
    let same = (&v4.open, &v4.close) == (&v6.open, &v6.close);
    let told = if same { vec![("", v4)] } else { both.to_vec() };
    for (family, Pair { open, close, .. }) in told {
        match open {
            Some(open) => writeln!(output, "    {family}runs {}", one_line(open))?,
            None => writeln!(output, "    {family}cannot be opened")?,
        }
        if let Some(close) = close {
            writeln!(output, "    {family}after {after} runs {}", one_line(close))?;
        }
    }
    Ok(())
}

fn describe_set(output: &mut impl Write, set: &NftSet, ports: &str, after: &str) -> io::Result<()> {
    let opens = if ports.is_empty() { String::new() } else { format!(", which opens {ports}") };
    for (name, family) in [("IPv4", Family::V4), ("IPv6", Family::V6)] {
        match set.of(family) {
            Some(set_name) => writeln!(
                output,
                "    {name} is in the set {set_name} of the table {} {} for {after}{opens}",
                set.family.as_str(),
                set.table
            )?,
            None => writeln!(output, "    {name} cannot be opened")?,
        }
    }
    Ok(())
}

fn one_line(command: &Command) -> String {
    command.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
