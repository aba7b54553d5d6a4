//! Reader of a door's `totp`: how the sequences of its clients rotate.

use std::time::Duration;

use crate::config::diagnostic::Parsed;
use crate::config::tree::{KnownKeys, Node, Reader};
use crate::config::{Diagnosed, Place, Problems};
use crate::proto::totp::{
    Digits, LENGTH, LENGTHS, Protocols, SKEWS, STEP, STEPS, Scheme, TotpMode,
};
use crate::proto::{PortRange, port_range};

const TOTP: KnownKeys = KnownKeys {
    of: "a door's totp",
    known: &["mode", "ports", "length", "protocol", "step", "skew", "base", "digits"],
};

/// A sequence of three out of so many ports is as hard to guess as a code of six digits.
const MIN_PORTS: u16 = 100;
const SKEW: u8 = 1;

/// Reads a door's `totp`.
pub(super) fn read_scheme(node: &Node, problems: &mut Problems) -> Parsed<Scheme> {
    let example = "a mapping such as {mode: ports, ports: 20000-29999}";
    let mut reader = Reader::new(node, example, &TOTP, problems)?;
    type ReadMode = fn(&mut Reader<'_>, &Place) -> Parsed<TotpMode>;
    let modes: [(&str, ReadMode); 2] = [("ports", read_ports_mode), ("code", read_code_mode)];
    let mode = reader.read("mode", |node| node.one_of(&modes))?;
    let mode = mode.unwrap_or(read_ports_mode)(&mut reader, &node.at);
    let step = reader.read("step", read_step);
    let skew = reader.read("skew", |node| node.integer(*SKEWS.start(), *SKEWS.end()));
    let (mode, step, skew) = (mode?, step?.unwrap_or(STEP), skew?.unwrap_or(SKEW));
    problems.report(Scheme::new(mode, step, skew).map_err(|error| node.at.error(error.to_string())))
}

/// Refuses keys that belong to another mode.
fn refuse_keys(reader: &mut Reader<'_>, keys: &[&str], mode: &str, help: &str) {
    for entry in keys.iter().filter_map(|key| reader.mapping.get(key)) {
        let error = entry.at.error(format!("'{}' is for mode: {mode}", entry.key));
        reader.problems.push(error.help(help));
    }
}

fn read_ports_mode(reader: &mut Reader<'_>, at: &Place) -> Parsed<TotpMode> {
    refuse_keys(reader, &["base", "digits"], "code", "write mode: code, or remove it");
    let error = at.error("totp does not say on which ports");
    let help = "write for example ports: 20000-29999";
    let ports = reader.require("ports", read_range, error.help(help));
    let length = reader.read("length", |node| node.integer(*LENGTHS.start(), *LENGTHS.end()));
    let protocol = reader.read("protocol", |node| node.parsed("tcp, udp or mixed"));
    let (low, high) = ports?.into_inner();
    let (length, protocol) = (length?.unwrap_or(LENGTH), protocol?.unwrap_or(Protocols::Tcp));
    Ok(TotpMode::Ports { low, high, length, protocol })
}

fn read_range(node: &Node) -> Diagnosed<PortRange> {
    let range = node.read("a range of ports such as 20000-29999", port_range::parse)?;
    let ports = range.end().get() - range.start().get();
    if ports < MIN_PORTS - 1 {
        let message = format!("{} ports are too few: anyone could guess", ports + 1);
        return Err(node.at.error(message).help("name at least 100 ports that nothing else uses"));
    }
    Ok(range)
}

fn read_code_mode(reader: &mut Reader<'_>, at: &Place) -> Parsed<TotpMode> {
    let help = "a code is knocked on the 100 tcp ports from 'base' on; remove it";
    refuse_keys(reader, &["ports", "length", "protocol"], "ports", help);
    let error = at.error("totp does not say from which port on a code is knocked");
    let base = reader.require("base", read_base, error.help("write for example base: 7000"));
    let digits = reader.read("digits", |node| node.parsed("6 or 8"));
    Ok(TotpMode::Code { base: base?, digits: digits?.unwrap_or(Digits::Six) })
}

fn read_base(node: &Node) -> Diagnosed<u16> {
    let base = node.integer(1, u16::MAX - 99);
    base.map_err(|error| error.help("the 100 ports from there on are watched"))
}

fn read_step(node: &Node) -> Diagnosed<u32> {
    let step = node.duration("step", Duration::from_secs(1))?;
    let whole = u32::try_from(step.as_secs()).ok().filter(|_| step.subsec_nanos() == 0);
    let error = || node.at.error("a step is a whole number of seconds, from 1s to 1h");
    whole.filter(|seconds| STEPS.contains(seconds)).ok_or_else(error)
}
