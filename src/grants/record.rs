//! The record of a grant, by which a keeper that starts after a crash can end it.

use std::num::NonZeroU16;
use std::str::FromStr;

use derive_more::Display;
use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay};

use super::{CommandPair, GrantId, Manner};
use crate::config::{Name, SetRef};
use crate::proto::words::{UnknownWord, words};
use crate::proto::{Method, Network};
use crate::time::{BootId, Monotonic, Wall};

/// The record of a grant: all that it takes to extend it, show it and end it.
///
/// A grant that has closed has no record: it is in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRecord {
    pub id: GrantId,
    pub key: GrantKey,
    /// Who opened it, or extended it last.
    pub origin: Origin,
    pub state: GrantState,
    /// The boot in which `deadline` means something.
    pub boot: BootId,
    pub deadline: Monotonic,
    /// When it was asked for, for people.
    pub since: Wall,
    /// When it ends, for people.
    pub until: Wall,
    /// When it ends whatever comes, where it follows its session.
    pub ceiling: Option<Monotonic>,
    pub backend: GrantBackend,
}

/// The key of a grant: what there can be one for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GrantKey {
    pub door: Name,
    pub network: Network,
    /// Only connections from this port pass.
    pub source_port: Option<NonZeroU16>,
}

impl GrantKey {
    /// A door, for all connections from an address or a network.
    pub fn new(door: Name, network: impl Into<Network>) -> Self {
        Self { door, network: network.into(), source_port: None }
    }

    /// Whether who asks that this be closed means it: a door, for all whose networks meet this one,
    /// or for one source port of theirs.
    pub fn is_meant_by(&self, asked: &Self) -> bool {
        self.door == asked.door
            && self.network.meets(&asked.network)
            && (asked.source_port.is_none() || self.source_port == asked.source_port)
    }
}

/// The origin of a grant: how and by whom its door was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub by: OpenedBy,
    /// Where that is known.
    pub client: Option<Name>,
}

impl Origin {
    /// The administrator, by hand.
    pub const KNOCKCTL: Self = Self { by: OpenedBy::Knockctl, client: None };
}

impl From<Method> for Origin {
    fn from(method: Method) -> Self {
        Self { by: OpenedBy::Method(method), client: None }
    }
}

words! {
FromStr:
/// The state of a grant. Each is recorded before what it names begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GrantState {
    /// Its open commands may have run.
    Starting = "starting",
    Open = "open",
    /// Its open commands failed, and may have opened it.
    OpenedWithErrors = "opened with errors",
    /// Its close commands may have run.
    Closing = "closing",
}
}

/// The way in which a grant came about: by a method of its door, by the administrator, or at another
/// gateway.
#[derive(
    Clone, Copy, Debug, Display, PartialEq, Eq, Hash, SerializeDisplay, DeserializeFromStr,
)]
#[display("{}", self.as_str())]
pub enum OpenedBy {
    Method(Method),
    Knockctl,
    /// Another gateway has told of it.
    Fleet,
}

impl OpenedBy {
    /// Its word in the ledger and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Method(method) => method.as_str(),
            Self::Knockctl => "knockctl",
            Self::Fleet => "fleet",
        }
    }
}

impl FromStr for OpenedBy {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        let known = [Self::Knockctl, Self::Fleet].into_iter().find(|it| it.as_str() == word);
        known.map_or_else(|| word.parse().map(Self::Method), Ok)
    }
}

/// The backend of a grant: what opens its door, and what ends that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrantBackend {
    /// Commands open it, commands close it.
    Commands(Vec<CommandPair>),
    /// It is an element of a set, and the kernel ends it.
    Kernel(KernelElement),
}

impl GrantBackend {
    /// Takes over from `newer` what opens for another time, if it is to be open for `longer`; how
    /// the door is to be opened then, or looked at.
    pub(super) fn renew(&mut self, newer: &Self, longer: bool) -> Option<Manner> {
        let (Self::Commands(pairs), Self::Commands(newer)) = (self, newer) else { return None };
        let mut manner = None;
        for (pair, newer) in pairs.iter_mut().zip(newer) {
            if pair.is_timed && longer {
                pair.open = newer.open.clone();
                manner = manner.max(Some(Manner::Anew));
            } else if pair.verify.is_some() {
                manner = manner.max(Some(Manner::IfGone));
            }
        }
        manner
    }

    /// The commands, if any.
    pub const fn pairs(&self) -> &[CommandPair] {
        match self {
            Self::Commands(pairs) => pairs.as_slice(),
            Self::Kernel(_) => &[],
        }
    }

    /// The element that the kernel deletes at the deadline.
    pub const fn element(&self) -> Option<&KernelElement> {
        match self {
            Self::Commands(_) => None,
            Self::Kernel(element) => Some(element),
        }
    }
}

/// Where a grant is an element, with its address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KernelElement {
    /// Of knockd's own table.
    Guard,
    /// Of a set in a table of the administrator's.
    Set(SetRef),
}
