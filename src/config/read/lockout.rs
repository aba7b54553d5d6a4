//! Reader of a `lockout:` mapping.

use std::time::Duration;

use crate::config::diagnostic::Parsed;
use crate::config::tree::{KnownKeys, Node, Reader, Scalar, Value};
use crate::config::{Lockout, Problems};

const LOCKOUT: KnownKeys = KnownKeys { of: "lockout", known: &["failures", "within", "for"] };

const MAX_FAILURES: u32 = 1_000_000;

/// Reads a lockout, of which what is left out is as in `default`; `off` is none.
pub(super) fn read_lockout(
    node: &Node,
    default: Lockout,
    problems: &mut Problems,
) -> Parsed<Option<Lockout>> {
    if let Value::Scalar(Scalar { text, .. }) = &node.value
        && text == "off"
    {
        return Ok(None);
    }
    let wanted = "off, or a mapping such as {failures: 10, within: 10m, for: 1h},";
    let mut reader = Reader::new(node, wanted, &LOCKOUT, problems)?;
    let failures = reader.read("failures", |node| node.integer(1, MAX_FAILURES));
    let least = Duration::from_secs(1);
    let within = reader.duration("within", least);
    let lasts = reader.duration("for", least);
    Ok(Some(Lockout {
        failures: failures?.unwrap_or(default.failures),
        within: within?.unwrap_or(default.within),
        lasts: lasts?.unwrap_or(default.lasts),
    }))
}
