//! What is remembered of a grant, so that whoever comes after a crash can end it.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{GrantId, Manner, Step};
use crate::config::{Family, Name, NftSet};
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
    #[must_use]
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

/// How far a grant has come. Each state is recorded before what it names begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GrantState {
    /// Nothing has been done for it yet.
    Recorded,
    /// Its open commands may have run.
    Starting,
    Open,
    /// Its open commands failed, and may have opened it.
    OpenedWithErrors,
    /// Its close commands may have run.
    Closing,
}

/// How a grant came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    Sequence,
    Totp,
    OneTimeSequence,
    Spa,
    Fwknop,
    /// The administrator, by hand.
    Knockctl,
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
    #[must_use]
    pub const fn steps(&self) -> &[Step] {
        match self {
            Self::Commands(steps) => steps.as_slice(),
            Self::Kernel(_) => &[],
        }
    }

    /// The element that the kernel deletes at the deadline.
    #[must_use]
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
    #[must_use]
    pub fn of_guard(door: &Name, address: IpAddr, source_port: Option<NonZeroU16>) -> Self {
        let family = if address.to_canonical().is_ipv4() { 4 } else { 6 };
        let kind = if source_port.is_some() { 'p' } else { 'g' };
        let set = format!("{kind}_{door}_{family}");
        Self { table: GUARD.to_owned(), set, source_port }
    }

    /// The place in a table of the administrator's; `None` where there is no set for the family.
    #[must_use]
    pub fn of_set(set: &NftSet, address: IpAddr) -> Option<Self> {
        let name = set.of(Family::of(address.to_canonical()))?;
        let table = format!("{} {}", set.family.as_str(), set.table);
        Some(Self { table, set: name.to_string(), source_port: None })
    }

    /// Whether it is in knockd's own table.
    #[must_use]
    pub fn is_guards(&self) -> bool {
        self.table == GUARD
    }
}

/// knockd's own table, with its family.
const GUARD: &str = "inet knockd";

/// The text is none of the words that it could be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not known")]
pub struct UnknownWord(pub String);

macro_rules! words {
    ($name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                match text { $($word => Ok(Self::$variant),)+ _ => Err(UnknownWord(text.to_owned())) }
            }
        }
    };
}
words!(GrantState {
    Recorded = "recorded",
    Starting = "starting",
    Open = "open",
    OpenedWithErrors = "opened with errors",
    Closing = "closing",
});

words!(By {
    Sequence = "sequence",
    Totp = "totp",
    OneTimeSequence = "one_time_sequence",
    Spa = "spa",
    Fwknop = "fwknop",
    Knockctl = "knockctl",
});
