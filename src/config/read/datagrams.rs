//! Reader of `knockd.spa` and `knockd.fwknop`.

use std::time::Duration;

use super::date;
use super::tree::{KnownKeys, Node, Reader};
use crate::config::diagnostic::{Parsed, Problems};
use crate::config::{FwknopSettings, SpaSettings};
use crate::proto::knock::parse_port;
use crate::proto::port_range;

pub(super) const SPA: KnownKeys = KnownKeys {
    of: "spa",
    known: &["port", "key_file", "old_key_file", "old_until", "max_age", "max_ahead"],
};
pub(super) const FWKNOP: KnownKeys = KnownKeys { of: "fwknop", known: &["port", "max_age"] };

const A_MAPPING: &str = "a mapping such as {port: 62201}";
const SECOND: Duration = Duration::from_secs(1);

/// Reads `knockd.spa`.
pub(super) fn read_spa(node: &Node, problems: &mut Problems) -> Parsed<SpaSettings> {
    let mut reader = Reader::new(node, A_MAPPING, &SPA, problems)?;
    let default = SpaSettings::default();
    let ports =
        reader.read("port", |node| node.read("a port, or a range of ports,", port_range::parse));
    let key_file = reader.read("key_file", Node::path);
    let old_key_file = reader.read("old_key_file", Node::path);
    let until = reader.read("old_until", |node| node.read("a date", date::parse));
    let max_age = reader.duration("max_age", SECOND);
    let max_ahead = reader.duration("max_ahead", Duration::ZERO);
    let old_key = reader.both(("old_key_file", old_key_file), ("old_until", until));
    Ok(SpaSettings {
        ports: ports?.unwrap_or(default.ports),
        key_file: key_file?.unwrap_or(default.key_file),
        old_key: old_key?,
        max_age: max_age?.unwrap_or(default.max_age),
        max_ahead: max_ahead?.unwrap_or(default.max_ahead),
    })
}

/// Reads `knockd.fwknop`.
pub(super) fn read_fwknop(node: &Node, problems: &mut Problems) -> Parsed<FwknopSettings> {
    let mut reader = Reader::new(node, A_MAPPING, &FWKNOP, problems)?;
    let default = FwknopSettings::default();
    let port = reader.read("port", |node| node.read("a port", parse_port));
    let max_age = reader.duration("max_age", SECOND);
    Ok(FwknopSettings {
        port: port?.unwrap_or(default.port),
        max_age: max_age?.unwrap_or(default.max_age),
    })
}
