//! Reader of how wide the networks are that may be asked for: `width`.

use super::diagnostic::{Diagnosed, Diagnostic, Parsed, Problems};
use super::tree::{KnownKeys, Node, Reader};
use crate::proto::Widths;

pub(super) const WIDTH: KnownKeys = KnownKeys { of: "width", known: &["ipv4", "ipv6"] };

/// Reads the widest networks that may be asked for.
pub(super) fn read_width(reader: &mut Reader<'_>) -> Parsed<Option<Widths>> {
    let Some(given) = reader.value("width") else { return Ok(None) };
    read_widths(given, reader.problems).map(Some)
}

/// Reads how many bits of an address count; of a family that is left out, all.
pub(crate) fn read_widths(given: &Node, problems: &mut Problems) -> Parsed<Widths> {
    let wanted = "a mapping such as {ipv4: 24, ipv6: 64},";
    let mut width = Reader::new(given, wanted, &WIDTH, problems)?;
    let ipv4 = width.read("ipv4", |node| read_prefix(node, 32));
    let ipv6 = width.read("ipv6", |node| read_prefix(node, 128));
    let Widths { ipv4: single, ipv6: single_6 } = Widths::SINGLE;
    Ok(Widths { ipv4: ipv4?.unwrap_or(single), ipv6: ipv6?.unwrap_or(single_6) })
}

fn read_prefix(node: &Node, most: u8) -> Diagnosed<u8> {
    let help =
        |error: Diagnostic| error.help("how many bits of an address count: 24 is as 192.0.2.0/24");
    node.integer(1, most).map_err(help)
}
