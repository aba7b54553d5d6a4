//! What is remembered of a grant, so that whoever comes after a crash can end it.

use std::net::IpAddr;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use super::{GrantId, Manner, Step};
use crate::config::{Family, Name, NftSet};
use crate::proto::words::words;
use crate::time::{BootId, Monotonic, Wall};

/// All that has to be known of a grant to extend it, show it and end it.
///
/// A grant that has closed has no record: it is in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub id: GrantId,
    pub place: Place,
    /// Who opened it, or extended it last.
    pub opener: Opener,
    pub state: GrantState,
    /// The boot in which `deadline` means something.
    pub boot: BootId,
    pub deadline: Monotonic,
    /// When it was asked for, for people.
    pub since: Wall,
    /// When it ends, for people.
    pub until: Wall,
    pub means: Means,
}

/// What there can be one grant for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub door: Name,
    pub address: IpAddr,
    /// Only connections from this port pass.
    pub source_port: Option<NonZeroU16>,
}

impl Place {
    /// A door, for all connections from an address.
    pub const fn new(door: Name, address: IpAddr) -> Self {
        Self { door, address, source_port: None }
    }
}

/// Who opens a door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opener {
    pub by: By,
    /// Where that is known.
    pub client: Option<Name>,
}

impl From<By> for Opener {
    fn from(by: By) -> Self {
        Self { by, client: None }
    }
}

words! {
FromStr:
/// How far a grant has come. Each state is recorded before what it names begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GrantState {
    /// Nothing has been done for it yet.
    Recorded = "recorded",
    /// Its open commands may have run.
    Starting = "starting",
    Open = "open",
    /// Its open commands failed, and may have opened it.
    OpenedWithErrors = "opened with errors",
    /// Its close commands may have run.
    Closing = "closing",
}
}

words! {
FromStr:
/// How a grant came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    Sequence = "sequence",
    Totp = "totp",
    OneTimeSequence = "one_time_sequence",
    Spa = "spa",
    Fwknop = "fwknop",
    /// The administrator, by hand.
    Knockctl = "knockctl",
}
}

/// What opens a door, and what ends that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Means {
    /// Commands open it, commands close it.
    Commands(Vec<Step>),
    /// It is an element of a set, and the kernel ends it.
    Kernel(Element),
}

impl Means {
    /// Takes over from `newer` what opens for another time, if it is to be open for `longer`; how
    /// the door is to be opened then, or looked at.
    pub(super) fn renew(&mut self, newer: &Self, longer: bool) -> Option<Manner> {
        let (Self::Commands(steps), Self::Commands(newer)) = (self, newer) else { return None };
        let mut manner = None;
        for (step, newer) in steps.iter_mut().zip(newer) {
            if step.is_timed && longer {
                step.open = newer.open.clone();
                manner = manner.max(Some(Manner::Anew));
            } else if step.verify.is_some() {
                manner = manner.max(Some(Manner::IfGone));
            }
        }
        manner
    }

    /// The commands, if any.
    pub const fn steps(&self) -> &[Step] {
        match self {
            Self::Commands(steps) => steps.as_slice(),
            Self::Kernel(_) => &[],
        }
    }

    /// The element that the kernel deletes at the deadline.
    pub const fn element(&self) -> Option<&Element> {
        match self {
            Self::Commands(_) => None,
            Self::Kernel(element) => Some(element),
        }
    }
}

/// A place in a set of nftables; with the grant's address it is an element.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Element {
    /// Family and name: `inet knockd`.
    pub table: String,
    pub set: String,
    /// Only connections from this port pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<NonZeroU16>,
}

impl Element {
    /// The place of a door in knockd's own table.
    pub fn of_guard(door: &Name, address: IpAddr, source_port: Option<NonZeroU16>) -> Self {
        let family = if address.to_canonical().is_ipv4() { 4 } else { 6 };
        let kind = if source_port.is_some() { 'p' } else { 'g' };
        let set = format!("{kind}_{door}_{family}");
        Self { table: GUARD.to_owned(), set, source_port }
    }

    /// The place in a table of the administrator's; `None` where there is no set for the family.
    pub fn of_set(set: &NftSet, address: IpAddr) -> Option<Self> {
        let name = set.of(Family::of(address.to_canonical()))?;
        let table = format!("{} {}", set.family.as_str(), set.table);
        Some(Self { table, set: name.to_string(), source_port: None })
    }

    /// Whether it is in knockd's own table.
    pub fn is_guards(&self) -> bool {
        self.table == GUARD
    }
}

/// knockd's own table, with its family.
const GUARD: &str = "inet knockd";
