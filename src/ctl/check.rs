//! `knockctl check`: what is wrong with a configuration, and what it amounts to.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::config::diagnostic::{Diagnostic, Problems};
use crate::config::lint::{Odds, lint, scan_odds};
use crate::config::load::{Loaded, Options, load};
use crate::config::watch::watch_sets;
use crate::config::{Command, Door, Family, Pair};
use crate::proto::duration;
use crate::proto::knock::{Knock, Protocol};
use crate::proto::ports::PortSet;

/// Prints errors and warnings on standard error and each door on standard output.
///
/// Fails if there are errors. Someone who stops reading early is no error.
#[must_use]
pub fn run(path: &Path, insecure_permissions: bool) -> ExitCode {
    match load(path, &Options { insecure_permissions }) {
        Err(report) => {
            let _ = writeln!(io::stderr(), "{report}");
            ExitCode::FAILURE
        }
        Ok(loaded) => {
            let mut warnings = Problems::default();
            warnings.extend(loaded.warnings.iter().cloned());
            warnings.extend(lint(&loaded, &listening_ports()));
            // Whoever stops reading has read enough.
            let _ = print(path, &loaded, &warnings.into_sorted());
            ExitCode::SUCCESS
        }
    }
}

fn print(path: &Path, loaded: &Loaded, warnings: &[Diagnostic]) -> io::Result<()> {
    let mut errors = io::stderr().lock();
    for warning in warnings {
        writeln!(errors, "{warning}")?;
    }
    let mut output = io::stdout().lock();
    let doors = &loaded.config.doors;
    let watched = watch_sets(doors.iter().map(|door| &door.recognition));
    for (door, watched) in doors.iter().zip(&watched) {
        describe(&mut output, door, scan_odds(&door.recognition, watched))?;
    }
    let count = |number: usize, of: &str| match number {
        0 => format!("no {of}s"),
        1 => format!("1 {of}"),
        _ => format!("{number} {of}s"),
    };
    let (doors, warnings) = (count(doors.len(), "door"), count(warnings.len(), "warning"));
    writeln!(output, "{}: {doors}, no errors, {warnings}", path.display())?;
    output.flush()
}

fn describe(output: &mut impl Write, door: &Door, odds: Odds) -> io::Result<()> {
    let (recognition, opening) = (&door.recognition, &door.opening);
    let sequence: Vec<_> = recognition.sequence.iter().map(ToString::to_string).collect();
    let stages =
        if sequence.len() == 1 { "1 stage" } else { &format!("{} stages", sequence.len()) };
    let within = duration::format(recognition.seq_timeout);
    writeln!(
        output,
        "{}: {}; {stages} within {within}; a scan in random order opens it {odds}",
        door.name(),
        sequence.join(" ")
    )?;
    if !opening.ports.is_empty() {
        let ports: Vec<_> = opening.ports.iter().map(ToString::to_string).collect();
        writeln!(output, "    for each of {}:", ports.join(" "))?;
    }
    let after = duration::format(opening.open_for);
    let (v4, v6) = (opening.commands.of(Family::V4), opening.commands.of(Family::V6));
    if v4 == v6 {
        return describe_pair(output, "", v4, &after);
    }
    describe_pair(output, "IPv4 ", v4, &after)?;
    describe_pair(output, "IPv6 ", v6, &after)
}

fn describe_pair(
    output: &mut impl Write,
    family: &str,
    pair: &Pair,
    after: &str,
) -> io::Result<()> {
    match &pair.open {
        Some(open) => writeln!(output, "    {family}runs {}", one_line(open))?,
        None => writeln!(output, "    {family}cannot be opened")?,
    }
    match &pair.close {
        Some(close) => writeln!(output, "    {family}after {after} runs {}", one_line(close)),
        None => Ok(()),
    }
}

fn one_line(command: &Command) -> String {
    command.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The ports on which something on this host listens for others; none where that can't be known.
fn listening_ports() -> PortSet {
    let tables = [
        ("/proc/net/tcp", Protocol::Tcp),
        ("/proc/net/tcp6", Protocol::Tcp),
        ("/proc/net/udp", Protocol::Udp),
        ("/proc/net/udp6", Protocol::Udp),
    ];
    let mut ports = PortSet::new();
    for (path, protocol) in tables {
        if let Ok(table) = fs::read_to_string(path) {
            ports.extend(table.lines().skip(1).filter_map(|line| listener(line, protocol)));
        }
    }
    ports
}

/// The port of a line of such a table, if it is of a socket that takes packets from anyone, and
/// not only from this host (proc_pid_net(5)).
fn listener(line: &str, protocol: Protocol) -> Option<Knock> {
    let mut fields = line.split_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    let (_, remote_port) = fields.next()?.split_once(':')?;
    let state = fields.next()?;
    let listens = match protocol {
        Protocol::Tcp => state == "0A",
        Protocol::Udp => remote_port == "0000",
    };
    // Words of an address are in the byte order of the host.
    let loopback = match address.len() {
        8 => address.ends_with("7F"),
        _ => {
            address == "00000000000000000000000001000000"
                || address.starts_with("0000000000000000FFFF0000") && address.ends_with("7F")
        }
    };
    let port = u16::from_str_radix(port, 16).ok()?.try_into().ok()?;
    (listens && !loopback).then_some(Knock::new(protocol, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listens(line: &str, protocol: Protocol) -> Option<String> {
        listener(line, protocol).map(|knock| knock.to_string())
    }

    #[test]
    fn a_socket_that_takes_connections_listens() {
        let line =
            "   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1";
        assert_eq!(listens(line, Protocol::Tcp).as_deref(), Some("22/tcp"));
        let line =
            "   1: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A";
        assert_eq!(listens(line, Protocol::Tcp).as_deref(), Some("8080/tcp"));
        let line = "  12: 0202000A:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000";
        assert_eq!(listens(line, Protocol::Udp).as_deref(), Some("68/udp"));
    }

    #[test]
    fn a_connection_does_not_listen() {
        let line =
            "   0: 0202000A:0016 010200C0:D431 01 00000000:00000000 00:00000000 00000000 0 0 1";
        assert_eq!(listens(line, Protocol::Tcp), None);
        assert_eq!(listens(line, Protocol::Udp), None);
    }

    #[test]
    fn what_only_this_host_reaches_does_not_count() {
        for line in [
            "   0: 3500007F:0035 00000000:0000 0A",
            "   0: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 0A",
            "   0: 0000000000000000FFFF00000100007F:0035 00000000000000000000000000000000:0000 0A",
        ] {
            assert_eq!(listens(line, Protocol::Tcp), None, "{line}");
        }
    }

    #[test]
    fn a_line_that_is_not_understood_is_passed_over() {
        for line in ["", "0:", "0: x y z", "0: 00000000:ZZZZ 00000000:0000 0A", "0: 0:0000 0:0 0A"]
        {
            assert_eq!(listens(line, Protocol::Tcp), None, "{line}");
        }
    }
}
