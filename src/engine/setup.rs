//! The parts that an engine is built from: doors, clients, keys and limits.

use std::num::NonZeroU16;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::spa::SpaServer;
use super::{LockedSource, UncleanStart};
use crate::config::{Client, Config, FwknopSettings, Lockout, Recognition};

/// The parts that an engine is built from. The keeper hands them to a watcher as they are.
///
/// The place of a door among the doors is its [`DoorId`](super::DoorId), that of a client its
/// [`ClientId`](super::ClientId).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Setup {
    pub doors: Vec<Recognition>,
    pub clients: Vec<Client>,
    /// `None`: native SPA datagrams are not looked at.
    pub spa: Option<SpaServer>,
    /// Where native datagrams are sent to; those of fwknop's may go there too.
    pub spa_ports: Option<RangeInclusive<NonZeroU16>>,
    pub fwknop: FwknopSettings,
    /// Whether uses of before the start of the machine may be missing from the ledger.
    pub unclean_start: UncleanStart,
    pub only_ipv4: bool,
    /// How many sources are followed at once; 32 are at the least.
    pub sources: usize,
    /// The rule by which a source is locked out of all doors.
    pub lockout: Option<Lockout>,
    /// Sources that an earlier engine has locked out.
    pub locks: Vec<LockedSource>,
}

impl Setup {
    /// As a configuration says, with the keys that go with it and a ledger that misses nothing.
    pub fn new(config: &Config, spa: Option<SpaServer>) -> Self {
        let settings = &config.settings;
        let doors: Vec<_> = config.doors.iter().map(|door| door.recognition.clone()).collect();
        let takes_spa = doors.iter().any(|door| door.spa);
        Self {
            doors,
            clients: config.clients.clone(),
            spa,
            spa_ports: takes_spa.then(|| settings.spa.ports.clone()),
            fwknop: settings.fwknop.clone(),
            only_ipv4: settings.only_ipv4,
            sources: settings.track_sources,
            lockout: settings.lockout,
            ..Self::default()
        }
    }
}
