//! A door: what it takes to open it, and what opening does.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Commands, Name};
use crate::proto::flags::FlagTest;
use crate::proto::knock::Knock;

#[derive(Clone, Debug)]
pub struct Door {
    pub recognition: Recognition,
    pub opening: Opening,
}

impl Door {
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.recognition.name
    }
}

/// What it takes to open a door: the watcher's half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recognition {
    pub name: Name,
    /// 1 to 32 knocks.
    pub sequence: Vec<Knock>,
    /// From the first knock to the last.
    pub seq_timeout: Duration,
    pub flags: FlagTest,
    /// The address that has to be knocked at; `None`: any address of this host.
    pub target: Option<IpAddr>,
    /// How many ports on either side of each knock break a sequence.
    pub trip_wires: u16,
    /// The ports that opening opens, where that is known: nobody's trip-wires.
    pub opens: Vec<Knock>,
}

/// What opening a door does: the keeper's half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    pub commands: Commands,
    /// The commands run once for each of these; once, without `%PORT%`, if there are none.
    pub ports: Vec<Knock>,
    pub open_for: Duration,
}
