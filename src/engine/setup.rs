//! What an engine is built from.

use std::num::NonZeroU16;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::spa::Server;
use super::{Lock, Missing};
use crate::config::{Client, Config, FwknopSettings, Lockout, Recognition};

/// What an engine is built from. The keeper hands it to a watcher as it is.
///
/// The place of a door among the doors is its [`DoorId`](super::DoorId), that of a client its
/// [`ClientId`](super::ClientId).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    pub doors: Vec<Recognition>,
    pub clients: Vec<Client>,
    /// `None`: native SPA datagrams are not looked at.
    pub spa: Option<Server>,
    /// Where native datagrams are sent to; those of fwknop's may go there too.
    pub spa_ports: Option<RangeInclusive<NonZeroU16>>,
    pub fwknop: FwknopSettings,
    /// What the ledger may not say of the requests that were used.
    pub missing: Missing,
    pub only_ipv4: bool,
    /// How many sources are followed at once.
    pub sources: usize,
    /// Who is no longer listened to at any door.
    pub lockout: Option<Lockout>,
    /// Whom an earlier engine has locked out.
    pub locks: Vec<Lock>,
}

impl Setup {
    /// As a configuration says, with the keys that go with it and a ledger that misses nothing.
    pub fn new(config: &Config, spa: Option<Server>) -> Self {
        let settings = &config.settings;
        let doors: Vec<_> = config.doors.iter().map(|door| door.recognition.clone()).collect();
        let takes_spa = doors.iter().any(|door| door.spa);
        Self {
            doors,
            clients: config.clients.clone(),
            spa,
            spa_ports: takes_spa.then(|| settings.spa.ports.clone()),
            fwknop: settings.fwknop,
            only_ipv4: settings.only_ipv4,
            sources: settings.track_sources,
            lockout: settings.lockout,
            ..Self::default()
        }
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            doors: Vec::new(),
            clients: Vec::new(),
            spa: None,
            spa_ports: None,
            fwknop: FwknopSettings::default(),
            missing: Missing::default(),
            only_ipv4: false,
            sources: 1 << 16,
            lockout: None,
            locks: Vec::new(),
        }
    }
}
