//! Lockouts: after how many failures a source is no longer listened to.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A failure budget: after how many failures, within what time, a source is locked out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lockout {
    /// At least one.
    pub failures: u32,
    pub within: Duration,
    pub lasts: Duration,
}

/// The default at a door that opens by codes.
pub(super) const CODE_LOCKOUT: Lockout = Lockout { failures: 5, ..DAEMON_LOCKOUT };
/// The defaults where all doors have one.
pub(super) const DAEMON_LOCKOUT: Lockout = Lockout {
    failures: 10,
    within: Duration::from_secs(10 * 60),
    lasts: Duration::from_secs(60 * 60),
};
