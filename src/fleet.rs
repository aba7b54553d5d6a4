//! A fleet: what its gateways tell each other, and what of that holds here.
//!
//! The store that carries it may lose, delay, repeat and reorder whatever it likes. None of that may
//! open a door: an entry is sealed, its gateway counts, and who closes says how much it had heard.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{Config, Door, Name};
use crate::engine::is_over;
use crate::grants::GrantKey;
use crate::proto::fleet::{FleetKey, ItemId, Run, SealError, Sealer};
use crate::proto::{Widths, push_latest};
use crate::time::Wall;

/// An entry: what one gateway tells the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub gateway: Name,
    /// The seal has it.
    #[serde(skip)]
    pub run: Run,
    /// Each entry of a gateway has a greater one than those before it. The seal has it too.
    #[serde(skip)]
    pub counter: u64,
    /// The latest counter of each gateway that this one had heard, where it closes something.
    pub heard: BTreeMap<Name, u64>,
    /// Whether this gateway waits for the others to say that they have done it.
    pub is_waiting: bool,
    pub news: News,
}

/// The news in an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum News {
    /// A door has opened, or stays open longer.
    Open { key: GrantKey, client: Option<Name>, until: Wall },
    /// A door closes for all whose networks meet this one, or for one source port of theirs.
    Close { key: GrantKey, cut: bool },
    /// All doors of the fleet close.
    CloseAll { cut: bool },
    /// What a client has opened closes.
    Revoke { client: Name, cut: bool },
    /// A source has failed too often, at a door or at all.
    LockOut { door: Option<Name>, source: IpAddr, until: Wall },
    /// A source is listened to again.
    Unlock { source: IpAddr },
    /// A line of a list has been used, by what proves it.
    Struck { door: Name, line: Vec<u8> },
    /// What another gateway's entry asks for is done.
    Done { gateway: Name, counter: u64 },
    /// A gateway is there: what it says of itself.
    Beat(Beat),
}

/// What a gateway says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    pub version: String,
    /// How long after it was told the latest entry took effect there.
    pub lag: Duration,
    /// How many doors of the fleet are open there.
    pub open: u64,
}

/// The reason why bytes are no entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("sealed with the fleet's key, and no entry: are all gateways of one version?")]
    Malformed,
}

impl News {
    /// What an entry takes the place of in the store: that of the same thing. `None`: nothing, it is
    /// told to those who listen and then forgotten.
    pub fn item(&self, key: &FleetKey) -> Option<ItemId> {
        let thing = match self {
            Self::Open { key: GrantKey { door, network, source_port }, .. }
            | Self::Close { key: GrantKey { door, network, source_port }, .. } => {
                format!("grant {door} {network} {source_port:?}")
            }
            Self::CloseAll { .. } => "all".to_owned(),
            Self::Revoke { client, .. } => format!("client {client}"),
            Self::LockOut { door: Some(door), source, .. } => format!("lock {source} {door}"),
            Self::LockOut { source, .. } | Self::Unlock { source } => format!("lock {source}"),
            Self::Struck { door, line } => format!("line {door} {line:?}"),
            Self::Done { .. } | Self::Beat(_) => return None,
        };
        Some(key.id(thing.as_bytes()))
    }

    /// Whether it ends what others may have opened, or locked.
    pub const fn is_closing(&self) -> bool {
        matches!(
            self,
            Self::Close { .. } | Self::CloseAll { .. } | Self::Revoke { .. } | Self::Unlock { .. }
        )
    }

    /// Whether it ends that.
    pub fn ends(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Close { key: asked, .. }, Self::Open { key, .. }) => key.is_meant_by(asked),
            (Self::CloseAll { .. }, Self::Open { .. }) => true,
            (Self::Revoke { client, .. }, Self::Open { client: Some(by), .. }) => by == client,
            (Self::Unlock { source }, Self::LockOut { source: locked, .. }) => locked == source,
            _ => false,
        }
    }
}

impl Entry {
    /// Opens an entry of a gateway of this fleet.
    ///
    /// # Errors
    /// [`EntryError`].
    pub fn open(key: &FleetKey, sealed: &[u8]) -> Result<Self, EntryError> {
        let opened = key.open(sealed)?;
        let entry: Self = postcard::from_bytes(&opened.text).map_err(|_| EntryError::Malformed)?;
        Ok(Self { run: opened.run, counter: opened.counter, ..entry })
    }

    /// Whether the gateway that closes here knew of that entry, which may come later all the same.
    fn knew(&self, other: &Self) -> bool {
        let heard = self.heard.get(&other.gateway).copied().unwrap_or(0);
        other.counter <= if other.gateway == self.gateway { self.counter } else { heard }
    }
}

/// Seals an entry; gives its counter, and the bytes.
pub fn seal(
    sealer: &mut Sealer,
    now: Wall,
    gateway: &Name,
    heard: &BTreeMap<Name, u64>,
    is_waiting: bool,
    news: News,
) -> (u64, Vec<u8>) {
    let heard = if news.is_closing() { heard.clone() } else { BTreeMap::new() };
    let (gateway, run) = (gateway.clone(), sealer.run);
    let entry = Entry { gateway, run, counter: 0, heard, is_waiting, news };
    let text = postcard::to_extend(&entry, Vec::new()).expect("what is told can be written");
    sealer.seal(now, &text)
}

/// How many closings are remembered.
const CLOSINGS: usize = 4096;

/// The closings that have been heard of lately: what they ended does not open once more when an
/// entry of another gateway comes late.
#[derive(Debug, Default)]
pub struct Closings(VecDeque<Entry>);

impl Closings {
    pub fn note(&mut self, entry: &Entry) {
        if entry.news.is_closing() {
            push_latest(&mut self.0, CLOSINGS, entry.clone());
        }
    }

    /// Whether one of them has ended what this entry tells.
    pub fn end(&self, entry: &Entry) -> bool {
        self.0.iter().any(|closing| closing.news.ends(&entry.news) && closing.knew(entry))
    }
}

/// The reason why what opened elsewhere does not open here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotHere {
    #[error("its time is over")]
    Over,
    #[error("there is no such door here that is the fleet's")]
    Door,
    #[error("its client may not open that door here")]
    Client,
    #[error("here nobody may open it for so wide a network")]
    Width,
}

/// Whether what opened at another gateway opens here too, by this gateway's own configuration: the
/// door, and for how long at the most.
///
/// # Errors
/// [`NotHere`].
pub fn may_open<'a>(
    config: &'a Config,
    now: Wall,
    key: &GrantKey,
    client: Option<&Name>,
    until: Wall,
) -> Result<(&'a Door, Duration), NotHere> {
    let door = config.door(&key.door).filter(|door| door.opening.fleet).ok_or(NotHere::Door)?;
    let client = client.map(|name| {
        let known = config.client(name).filter(|client| client.doors.contains(&key.door));
        known.filter(|client| !is_over(client.expires, now)).ok_or(NotHere::Client)
    });
    let width = client.transpose()?.and_then(|client| client.width);
    if !Widths::both(door.recognition.width, width).allows(&key.network) {
        return Err(NotHere::Width);
    }
    let left = until.since(now).min(door.opening.open_for_max);
    if left.is_zero() { Err(NotHere::Over) } else { Ok((door, left)) }
}
