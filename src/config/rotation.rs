//! A door's `totp`: how the sequences of its clients rotate.

use std::time::Duration;

use super::diagnostic::{Diagnostic, Problems};
use super::door::read_time;
use super::raw::{Keys, Mapping, Node};
use crate::proto::port_range::{self, PortRange};
use crate::proto::totp::{Digits, LENGTH, LENGTHS, Mode, Protocols, SKEWS, STEP, STEPS, Scheme};

pub(super) const TOTP: Keys = Keys {
    of: "a door's totp",
    known: &["mode", "ports", "length", "protocol", "step", "skew", "base", "digits"],
};

/// A sequence of three out of so many ports is as hard to guess as a code of six digits.
const MIN_PORTS: u16 = 100;
const SKEW: u8 = 1;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ports,
    Code,
}

/// Reads a door's `totp`. `None` after an error.
pub(super) fn read_scheme(node: &Node, problems: &mut Problems) -> Option<Scheme> {
    let example = "a mapping such as {mode: ports, ports: 20000-29999}";
    let mapping = problems.keep(node.mapping(example))?;
    let meant = mapping.check_keys(&TOTP, problems);
    let kind = match mapping.value("mode") {
        Some(node) => problems.keep(node.one_of(&[("ports", Kind::Ports), ("code", Kind::Code)])),
        None => Some(Kind::Ports),
    }?;
    let foreign = match kind {
        Kind::Ports => ["base", "digits"].as_slice(),
        Kind::Code => ["ports", "length", "protocol"].as_slice(),
    };
    problems.extend(foreign.iter().filter_map(|key| of_other_mode(mapping, key, kind)));
    let mode = match kind {
        Kind::Ports => read_ports_mode(mapping, node, &meant, problems),
        Kind::Code => read_code_mode(mapping, node, &meant, problems),
    };
    let step = match read_time(mapping, "step", Duration::from_secs(1), problems) {
        Some(Some(step)) => problems.keep(whole_seconds(step, mapping)),
        Some(None) => Some(STEP.into()),
        None => None,
    };
    let skew = read_number(mapping, "skew", SKEWS.into_inner(), SKEW, problems);
    let (mode, step, skew) = (mode?, u32::try_from(step?).ok()?, u8::try_from(skew?).ok()?);
    problems.keep(Scheme::new(mode, step, skew).map_err(|error| node.at.error(error.to_string())))
}

fn of_other_mode(mapping: &Mapping, key: &str, kind: Kind) -> Option<Diagnostic> {
    let entry = mapping.get(key)?;
    Some(match kind {
        Kind::Ports => entry
            .at
            .error(format!("'{key}' is for mode: code"))
            .help("write mode: code, or remove it"),
        Kind::Code => entry
            .at
            .error(format!("'{key}' is for mode: ports"))
            .help("a code is knocked on the 100 tcp ports from 'base' on; remove it"),
    })
}

fn read_ports_mode(
    mapping: &Mapping,
    at: &Node,
    meant: &[&str],
    problems: &mut Problems,
) -> Option<Mode> {
    let ports = match mapping.value("ports") {
        Some(node) => problems.keep(read_range(node)),
        None => {
            if !meant.contains(&"ports") {
                let error = at.at.error("totp does not say on which ports");
                problems.push(error.help("write for example ports: 20000-29999"));
            }
            None
        }
    };
    let length = read_number(mapping, "length", LENGTHS.into_inner(), LENGTH, problems);
    let protocol = match mapping.value("protocol") {
        Some(node) => problems.keep(node.parsed::<Protocols>("tcp, udp or mixed")),
        None => Some(Protocols::Tcp),
    };
    let (low, high) = ports?.into_inner();
    Some(Mode::Ports { low, high, length: u8::try_from(length?).ok()?, protocol: protocol? })
}

fn read_range(node: &Node) -> Result<PortRange, Diagnostic> {
    let range = node.read("a range of ports such as 20000-29999", port_range::parse)?;
    let ports = range.end().get() - range.start().get();
    if ports < MIN_PORTS - 1 {
        let message = format!("{} ports are too few: anyone could guess", ports + 1);
        return Err(node.at.error(message).help("name at least 100 ports that nothing else uses"));
    }
    Ok(range)
}

fn read_code_mode(
    mapping: &Mapping,
    at: &Node,
    meant: &[&str],
    problems: &mut Problems,
) -> Option<Mode> {
    let base = match mapping.value("base") {
        Some(node) => {
            let base = node.integer(1, u64::from(u16::MAX) - 99);
            problems
                .keep(base.map_err(|error| error.help("the 100 ports from there on are watched")))
        }
        None => {
            if !meant.contains(&"base") {
                let error = at.at.error("totp does not say from which port on a code is knocked");
                problems.push(error.help("write for example base: 7000"));
            }
            None
        }
    };
    let digits = match mapping.value("digits") {
        Some(node) => problems.keep(node.read("6 or 8", |text| match text {
            "6" => Ok(Digits::Six),
            "8" => Ok(Digits::Eight),
            _ => Err(format!("a code has 6 or 8 digits, not '{text}'")),
        })),
        None => Some(Digits::Six),
    };
    Some(Mode::Code { base: u16::try_from(base?).ok()?, digits: digits? })
}

fn read_number<T: Into<u64>>(
    mapping: &Mapping,
    key: &str,
    (low, high): (T, T),
    default: T,
    problems: &mut Problems,
) -> Option<u64> {
    match mapping.value(key) {
        Some(node) => problems.keep(node.integer(low.into(), high.into())),
        None => Some(default.into()),
    }
}

fn whole_seconds(step: Duration, mapping: &Mapping) -> Result<u64, Diagnostic> {
    let seconds = step.as_secs();
    let possible = step.subsec_nanos() == 0 && seconds <= u64::from(*STEPS.end());
    match mapping.value("step") {
        Some(node) if !possible => {
            Err(node.at.error("a step is a whole number of seconds, from 1s to 1h"))
        }
        _ => Ok(seconds),
    }
}
