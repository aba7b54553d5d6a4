//! After how many failures a source is no longer listened to, as a configuration writes it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::diagnostic::{Problems, Reported};
use super::raw::{Keys, Node, Reader, Scalar, Value};

/// After how many failures a source is no longer listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lockout {
    /// At least one.
    pub failures: u32,
    pub within: Duration,
    pub lasts: Duration,
}

pub(super) const LOCKOUT: Keys = Keys { of: "lockout", known: &["failures", "within", "for"] };

/// At a door that opens by codes, unless it says otherwise.
pub(super) const CODE_LOCKOUT: Lockout = Lockout { failures: 5, ..DAEMON_LOCKOUT };
/// What is left out where all doors have one.
pub(super) const DAEMON_LOCKOUT: Lockout = Lockout {
    failures: 10,
    within: Duration::from_secs(10 * 60),
    lasts: Duration::from_secs(60 * 60),
};

const MAX_FAILURES: u32 = 1_000_000;

/// Reads a lockout, of which what is left out is as in `default`; `off` is none.
pub(super) fn read(
    node: &Node,
    default: Lockout,
    problems: &mut Problems,
) -> Result<Option<Lockout>, Reported> {
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
