//! Reader of `knockd.spa` and `knockd.fwknop`.

use std::time::Duration;

use super::date;
use crate::config::tree::{KnownKeys, Node, Reader};
use crate::config::{Diagnosed, FwknopSettings, Problems, SpaSettings};
use crate::proto::{PortRange, port_range};

const SPA: KnownKeys = KnownKeys {
    of: "spa",
    known: &["port", "key_file", "old_key_file", "old_until", "max_age", "max_ahead"],
};
const FWKNOP: KnownKeys = KnownKeys { of: "fwknop", known: &["port", "max_age"] };

const A_MAPPING: &str = "a mapping such as {port: 62201}";
const SECOND: Duration = Duration::from_secs(1);

/// Reads `knockd.spa`; what is wrong stays as it is.
pub(super) fn read_spa(node: &Node, spa: &mut SpaSettings, problems: &mut Problems) {
    let Ok(mut reader) = Reader::new(node, A_MAPPING, &SPA, problems) else { return };
    reader.set("port", &mut spa.ports, read_ports);
    reader.set("key_file", &mut spa.key_file, Node::path);
    reader.set("max_age", &mut spa.max_age, |node| node.duration("max_age", SECOND));
    reader.set("max_ahead", &mut spa.max_ahead, |node| node.duration("max_ahead", Duration::ZERO));
    let old_key_file = reader.read("old_key_file", Node::path);
    let until = reader.read("old_until", |node| node.read("a date", date::parse));
    let old_key = reader.both(("old_key_file", old_key_file), ("old_until", until));
    spa.old_key = old_key.ok().flatten();
}

/// Reads `knockd.fwknop`; what is wrong stays as it is.
pub(super) fn read_fwknop(node: &Node, fwknop: &mut FwknopSettings, problems: &mut Problems) {
    let Ok(mut reader) = Reader::new(node, A_MAPPING, &FWKNOP, problems) else { return };
    reader.set("port", &mut fwknop.ports, read_ports);
    reader.set("max_age", &mut fwknop.max_age, |node| node.duration("max_age", SECOND));
}

fn read_ports(node: &Node) -> Diagnosed<PortRange> {
    node.read("a port, or a range of ports,", port_range::parse)
}
