//! After how many failures a source is no longer listened to, as a configuration writes it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// After how many failures a source is no longer listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lockout {
    /// At least one.
    pub failures: u32,
    pub within: Duration,
    pub lasts: Duration,
}

/// At a door that opens by codes, unless it says otherwise.
pub(super) const CODE_LOCKOUT: Lockout = Lockout { failures: 5, ..DAEMON_LOCKOUT };
/// What is left out where all doors have one.
pub(super) const DAEMON_LOCKOUT: Lockout = Lockout {
    failures: 10,
    within: Duration::from_secs(10 * 60),
    lasts: Duration::from_secs(60 * 60),
};
