//! A door: what it takes to open it, and what opening does.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::diagnostic::Place;
use super::lockout::Lockout;
use super::opening::{Forward, Opening};
use crate::proto::name::Name;
use crate::proto::totp::Scheme;
use crate::proto::{FlagTest, Knock, Method, OpenPorts, Widths};

/// A named thing that can be opened: what it takes to open it, and what opening does.
#[derive(Clone, Debug)]
pub struct Door {
    pub recognition: Recognition,
    pub opening: Opening,
    /// Where its sequence comes from, if each is good for one time only.
    pub one_time: Option<OneTime>,
}

/// A list of sequences of which each opens once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneTime {
    pub file: PathBuf,
    /// The number of the line that counts now, from 1; `None`: all are used up.
    pub line: Option<u32>,
    /// How many sequences are left, the current one among them.
    pub left: usize,
}

impl Door {
    pub const fn name(&self) -> &Name {
        &self.recognition.name
    }

    /// Whether a client's credentials for a method open it.
    pub(crate) const fn takes(&self, method: Method) -> bool {
        match method {
            Method::Sequence | Method::OneTimeSequence => false,
            Method::Totp => self.recognition.totp.is_some(),
            Method::Spa => self.recognition.spa,
            Method::Fwknop => self.recognition.fwknop,
        }
    }
}

/// The recognition of a door, what it takes to open it: the watcher's half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recognition {
    pub name: Name,
    /// Up to 32 knocks; none where no sequence of this kind opens it, or the last one-time sequence
    /// is used up.
    pub sequence: Vec<Knock>,
    /// How the sequences of its clients rotate, where those open it too.
    pub totp: Option<Scheme>,
    /// Whether a native SPA datagram opens it.
    pub spa: bool,
    /// Whether a datagram of fwknop opens it.
    pub fwknop: bool,
    /// Who is no longer listened to at this door.
    pub lockout: Option<Lockout>,
    /// From the first knock to the last.
    pub seq_timeout: Duration,
    pub flags: FlagTest,
    /// The address that has to be knocked at; `None`: any address of this host.
    pub target: Option<IpAddr>,
    /// How many ports on either side of each knock break a sequence.
    pub trip_wires: u16,
    /// The ports that opening opens, where that is known: nobody's trip-wires.
    pub opens: Vec<OpenPorts>,
    /// What opening forwards; the port is nobody's trip-wire either.
    pub forwards: Vec<Forward>,
    /// The widest networks that a request may ask for; `None`: its client's, or single addresses.
    pub width: Option<Widths>,
}

impl Recognition {
    /// A door that nothing opens yet, defaults filled in.
    pub const fn new(name: Name) -> Self {
        Self {
            name,
            sequence: Vec::new(),
            totp: None,
            spa: false,
            fwknop: false,
            lockout: None,
            seq_timeout: SEQ_TIMEOUT,
            flags: FlagTest::SYN,
            target: None,
            trip_wires: TRIP_WIRES,
            opens: Vec::new(),
            forwards: Vec::new(),
            width: None,
        }
    }
}

/// The places where the parts of a door are written.
#[derive(Clone, Debug)]
pub struct DoorPlaces {
    pub name: Place,
    /// One for each knock.
    pub sequence: Vec<Place>,
    /// One for each port that it opens.
    pub opens: Vec<Place>,
    /// One for each forward.
    pub forwards: Vec<Place>,
    /// Where other keys are that a warning may be about, each if it is there.
    pub keys: HashMap<&'static str, Place>,
}

impl DoorPlaces {
    /// Where a key is; the door itself where it says nothing there.
    pub(crate) fn of(&self, key: &str) -> &Place {
        self.keys.get(key).unwrap_or(&self.name)
    }
}

/// The default of `seq_timeout`.
pub(super) const SEQ_TIMEOUT: Duration = Duration::from_secs(25);
/// The default of `trip_wires`: ports on either side of each knock.
pub(super) const TRIP_WIRES: u16 = 16;
