//! Reader of what lets a grant follow who it is for: `hold` and `width`.

use std::time::Duration;

use super::tree::{KnownKeys, Node, Reader};
use crate::config::Hold;
use crate::config::diagnostic::{Diagnostic, Parsed};
use crate::proto::duration;
use crate::proto::network::Widths;

pub(super) const HOLD: KnownKeys = KnownKeys { of: "hold", known: &["idle", "grace", "at_most"] };
pub(super) const WIDTH: KnownKeys = KnownKeys { of: "width", known: &["ipv4", "ipv6"] };

/// Reads the times of grants that follow their sessions; what is left out has its default.
pub(super) fn read_hold(
    reader: &mut Reader<'_>,
    open_for: Parsed<Duration>,
) -> Parsed<Option<Hold>> {
    let Some(given) = reader.value("hold") else { return Ok(None) };
    let wanted = "a mapping such as {idle: 60s, grace: 30s, at_most: 12h},";
    let mut hold = Reader::new(given, wanted, &HOLD, reader.problems)?;
    let least = Duration::from_secs(1);
    let idle = hold.duration("idle", least);
    let grace = hold.duration("grace", least);
    let at_most = hold.duration("at_most", least);
    let at_most = at_most?.unwrap_or(Hold::DEFAULT.at_most);
    let (idle, grace) =
        (idle?.unwrap_or(Hold::DEFAULT.idle), grace?.unwrap_or(Hold::DEFAULT.grace));
    let (longest, what) =
        [(idle, "idle"), (open_for?, "open_for")].into_iter().max().unwrap_or_default();
    if at_most < longest {
        let at = &hold.value("at_most").unwrap_or(given).at;
        let error =
            at.error(format!("at_most is shorter than {what}: {}", duration::format(longest)));
        return hold
            .fail(error.help("nothing is open for longer than at_most: write at least as much"));
    }
    Ok(Some(Hold { idle, grace, at_most }))
}

/// Reads the widest networks that may be asked for; of a family that is left out, single addresses.
pub(super) fn read_width(reader: &mut Reader<'_>) -> Parsed<Option<Widths>> {
    let Some(given) = reader.value("width") else { return Ok(None) };
    let wanted = "a mapping such as {ipv4: 24, ipv6: 64},";
    let mut width = Reader::new(given, wanted, &WIDTH, reader.problems)?;
    let ipv4 = width.read("ipv4", |node| read_prefix(node, 32));
    let ipv6 = width.read("ipv6", |node| read_prefix(node, 128));
    let Widths { ipv4: single, ipv6: single_6 } = Widths::SINGLE;
    Ok(Some(Widths { ipv4: ipv4?.unwrap_or(single), ipv6: ipv6?.unwrap_or(single_6) }))
}

fn read_prefix(node: &Node, most: u8) -> Result<u8, Diagnostic> {
    let help =
        |error: Diagnostic| error.help("how many bits of an address count: 24 is as 192.0.2.0/24");
    node.integer(1, most).map_err(help)
}
