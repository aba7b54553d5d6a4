//! The engine's decisions, and the reasons for them.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};
use serde_with::DeserializeFromStr;

use crate::proto::fwknop::FwknopError;
use crate::proto::words::UnknownWord;
use crate::proto::{Knock, Method, Network};
use crate::time::{Monotonic, Wall};
use crate::wire::{Ignored, Packet};

/// The place of a door in its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DoorId(pub u32);

/// A source that is locked out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedSource {
    /// At which door; `None`: at any.
    pub door: Option<DoorId>,
    pub source: IpAddr,
    pub until: Monotonic,
}

/// The place of a client in its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClientId(pub u32);

/// The engine's decision on one packet.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It is nobody's knock.
    Ignored(Reason),
    /// It is a knock; what changed. First what had run out of time before it, then what the knock
    /// did, each in the order of the doors. Empty where it is a trip-wire that had nothing to
    /// break.
    Knock(&'a [Event]),
    /// It is a datagram that asks for this, and may.
    Requests(&'a [DatagramRequest]),
    /// It is a datagram that asks for what it may not, or at the wrong time.
    Refused(Refusal),
    /// It is a datagram outside the [`ReportWindow`](super::ReportWindow): another watcher's.
    NotOurs,
    /// It may be a request of fwknop's, and waits:
    /// [`Engine::try_waiting`](super::Engine::try_waiting) says what it comes to.
    Waits,
}

/// A datagram that has waited, and what it comes to.
#[derive(Debug)]
pub struct TriedDatagram<'a> {
    /// When it came.
    pub at: Monotonic,
    pub packet: Packet,
    pub verdict: Verdict<'a>,
}

/// The decision on one datagram: requests for at least one door, all for the same networks, or why
/// it gets nothing.
pub type Judgement = Result<Vec<DatagramRequest>, Denial>;

/// The reason why a datagram gets nothing.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// Anybody can make such, or it is a copy: counted, and no more.
    Ignored(Reason),
    /// Somebody made it who holds a client's keys, or knows the server's.
    Refused(Refusal),
}

/// The request of an authenticated datagram to one door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatagramRequest {
    pub door: DoorId,
    pub client: ClientId,
    pub credential: Credential,
    /// Where the datagram came from.
    pub source: IpAddr,
    /// The networks to open for, of which there is at least one, each of its family.
    pub v4: Option<Network>,
    pub v6: Option<Network>,
    /// For how many seconds; `None`: as the door says.
    pub open_for: Option<u32>,
    /// The grant is for connections from this port only.
    pub source_port: Option<NonZeroU16>,
    /// Close instead of open.
    pub close: bool,
}

impl DatagramRequest {
    /// The networks to open for.
    pub fn networks(&self) -> impl Iterator<Item = Network> {
        self.v4.into_iter().chain(self.v6)
    }

    /// Its refusal.
    pub(super) const fn refused(&self, reason: Reason) -> Refusal {
        let Self { source, client, door, .. } = *self;
        let is_native = matches!(self.credential, Credential::Spa { .. });
        let by = if is_native { Method::Spa } else { Method::Fwknop };
        Refusal { client: Some(client), door: Some(door), ..Refusal::new(by, source, reason) }
    }
}

/// The proof in a datagram: what authenticates it, and what makes it good for one time only.
/// Shown as what it is, not what it holds.
#[derive(Clone, Copy, derive_more::Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Credential {
    /// The client's public key with this number. A later stamp than the last is good.
    #[debug("Spa({key})")]
    Spa { key: u16, stamp: Wall },
    /// fwknop's keys. `digest` is of what they authenticate; it was made at `stamp`.
    #[debug("Fwknop")]
    Fwknop { digest: [u8; 32], stamp: Wall },
}

/// An authenticated datagram that opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub by: Method,
    pub source: IpAddr,
    /// As far as they are known.
    pub client: Option<ClientId>,
    pub door: Option<DoorId>,
    pub reason: Reason,
    /// When the request was made, where that is why.
    pub stamp: Option<Wall>,
    /// The name of the door that there is not, with zeros behind it.
    pub asked_for: Option<[u8; NAME_LEN]>,
}

/// The length of the longest name, in bytes.
pub const NAME_LEN: usize = 32;

impl Refusal {
    /// One of which nothing else is known.
    pub const fn new(by: Method, source: IpAddr, reason: Reason) -> Self {
        Self { by, source, client: None, door: None, reason, stamp: None, asked_for: None }
    }
}

/// Something that happened to one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// At which door; `None`: at all of them, and it is a lockout.
    pub door: Option<DoorId>,
    pub source: IpAddr,
    pub kind: EventKind,
    /// When the first knock of the sequence in question was seen.
    pub began: Monotonic,
}

/// The kind of an event: what happened to a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// The latest knocks form this long a prefix of the sequence; this was the last of them, unless
    /// it is what time has left.
    Stage { stage: u8, knock: Option<Knock> },
    /// The sequence is complete.
    Open(CompletedBy),
    /// A sequence that had come to `stage` is broken; by this knock, unless its time was over.
    Reset { stage: u8, reason: Reason, knock: Option<Knock> },
    /// The sequence would have been right for this client so many steps from now: its clock or ours
    /// is off.
    Missed { client: ClientId, steps: i32 },
    /// A whole sequence that is no client's, at any time around now that was looked at.
    Unmatched,
    /// The source has failed too often.
    LockedOut { until: Monotonic },
}

/// The sequence that was completed: the door's own, or a client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CompletedBy {
    /// The door's own.
    Sequence,
    /// The one of a client in a step of time.
    Totp { client: ClientId, step: u64 },
}

/// Defines the reasons: the word of each, which scripts see in JSON and in counters, and the words
/// for people. What is wrong with a packet, and with a request of fwknop's, has words of its own.
macro_rules! reasons {
    ($($(#[$each:meta])* $reason:ident = $word:literal, $text:literal;)+) => {
        /// The reason why something did not open: one vocabulary for logs, counters, `explain` and
        /// tests.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
        #[derive(DeserializeFromStr)]
        pub enum Reason {
            /// The bytes are no packet that anyone knocks with.
            #[error(transparent)]
            Ignored(#[from] Ignored),
            $($(#[$each])* #[error($text)] $reason,)+
            /// What is wrong with a request of fwknop's alone.
            #[error(transparent)]
            Fwknop(#[from] FwknopError),
        }

        impl Reason {
            /// All reasons. The place of each stands for it between watcher and keeper.
            pub fn all() -> impl Iterator<Item = Self> {
                let of_packets = Ignored::ALL.map(Self::Ignored).into_iter();
                of_packets.chain([$(Self::$reason),+]).chain(FwknopError::ALL.map(Self::Fwknop))
            }

            /// The word that scripts see.
            pub const fn as_str(self) -> &'static str {
                match self {
                    Self::Ignored(ignored) => ignored.as_str(),
                    $(Self::$reason => $word,)+
                    Self::Fwknop(error) => error.as_str(),
                }
            }
        }
    };
}

reasons! {
    /// Not sent to an address of this host, nor to a door's target.
    NotForUs = "not-for-us", "sent to an address that is not this host's, nor a door's target";
    /// No door wants this port, or not with these flags.
    NotWatched = "not-watched", "no door watches this port, or not with these flags";
    /// A retransmission.
    Duplicate = "duplicate", "a duplicate of an earlier knock";
    /// IPv6, where only IPv4 is wanted.
    OnlyIpv4 = "only-ipv4", "IPv6, and only IPv4 is listened for";
    /// A port of the sequence, out of turn.
    WrongKnock = "wrong-knock", "a port of the sequence, out of turn";
    /// A port beside those of the sequence.
    TripWire = "trip-wire", "a trip-wire beside the sequence";
    /// The last knock did not come in time.
    Timeout = "timeout", "the next knock did not come in time";
    /// Others pushed the source out of a full tracker. Counted only, see
    /// [`Engine::crowded`](super::Engine::crowded).
    Crowded = "crowded", "pushed out by others";
    /// The door has neither a command nor a set for this address family.
    NoCommand = "no-command", "nothing opens the door for this address family";
    /// The door, or all doors together, are open for as many as they may be, or as much waits.
    TooMany = "too-many", "open for too many already, or too much is asked for or waits to open";
    /// The door has done something for another knock less than its `cooldown` ago.
    Cooldown = "cooldown", "the door has acted less than its cooldown ago";
    /// The configuration has changed since the sequence began.
    Changed = "changed", "the configuration has changed since the knock began";
    /// What proves it was used before.
    Used = "used", "it has been used before";
    /// What proves it was used at another gateway of the fleet.
    UsedElsewhere = "used-elsewhere", "it has been used at another gateway";
    /// The fleet's store does not answer, and without it nothing opens.
    StoreLost = "store-lost", "the fleet's store does not answer";
    /// The source has failed too often.
    LockedOut = "locked-out", "locked out after too many failures";
    /// The client's credentials have run out.
    Expired = "expired", "the client's credentials have run out";
    /// Its first 16 bytes are not what the server's public key makes them.
    BadTag = "bad-tag", "not meant for this server's key";
    /// It cannot be decrypted.
    Undecryptable = "undecryptable", "cannot be decrypted";
    /// Decrypted, it is no request.
    MalformedRequest = "malformed-request", "no valid request inside";
    /// No client has this public key.
    UnknownClient = "unknown-client", "no client has this public key";
    /// It was stamped too long ago.
    TooOld = "too-old", "too old: is a clock off?";
    /// It was stamped in the future.
    TooFarAhead = "too-far-ahead", "from the future: is a clock off?";
    /// It was stamped before this start of the machine, which was not shut down cleanly.
    BeforeStart = "before-start",
        "from before this machine was started anew, or within ten seconds of it";
    /// There is no door of this name, or none where none is named.
    NoSuchDoor = "no-such-door", "asks for a door that there is not";
    /// The client may not open this door, or not so.
    NotAllowed = "not-allowed", "the client may not open this door so";
    /// The client has to name the address to open for.
    AddressNotNamed = "address-not-named", "the client has to name the address to open for";
    /// Door or client do not allow so wide a network.
    Width = "width", "asks for a wider network than the door and the client allow";
    /// The door cannot be opened for one source port only.
    SourcePort = "source-port", "this door cannot be opened for one source port only";
    /// Too many datagrams that may be fwknop's came at once.
    Untried = "untried", "too many that may be fwknop's at once: not tried with any key";
    /// From an address that no packet from elsewhere comes from, or for one.
    ImpossibleAddress = "impossible-address", "an address that no packet from elsewhere comes from";
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl FromStr for Reason {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        let found = Self::all().find(|reason| reason.as_str() == word);
        found.ok_or_else(|| UnknownWord(word.to_owned(), "is not known"))
    }
}
