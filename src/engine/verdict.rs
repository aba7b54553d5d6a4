//! What the engine decides, and why.

use std::fmt;
use std::net::IpAddr;

use crate::time::Monotonic;
use crate::wire::Ignored;

/// The place of a door in its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DoorId(pub u32);

/// What one packet came to.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It is nobody's knock.
    Ignored(Reason),
    /// It is a knock; what changed. First what had run out of time before it, then what the knock
    /// did, each in the order of the doors. Empty where it is a trip-wire that had nothing to
    /// break.
    Knock(&'a [Event]),
}

/// Something happened to one source at one door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub door: DoorId,
    pub source: IpAddr,
    pub kind: EventKind,
    /// When the first knock of the sequence in question was seen.
    pub began: Monotonic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The latest knocks form this long a prefix of the sequence.
    Stage(u8),
    /// The sequence is complete.
    Open,
    /// A sequence that had come to `stage` is broken.
    Reset { stage: u8, reason: Reason },
}

/// Why something did not open: one vocabulary for logs, counters, `explain` and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The bytes are no packet that anyone knocks with.
    Ignored(Ignored),
    /// Not sent to an address of this host, nor to a door's target.
    NotForUs,
    /// No door wants this port, or not with these flags.
    NotWatched,
    /// A retransmission.
    Duplicate,
    /// IPv6, where only IPv4 is wanted.
    OnlyIpv4,
    /// A port of the sequence, out of turn.
    WrongKnock,
    /// A port beside those of the sequence.
    TripWire,
    /// The last knock did not come in time.
    Timeout,
    /// Others pushed the source out of a full tracker. Counted only, see
    /// [`Engine::crowded`](super::Engine::crowded).
    Crowded,
    /// The door has neither a command nor a set for this address family.
    NoCommand,
    /// The configuration has changed since the sequence began.
    Changed,
}

impl Reason {
    pub const ALL: [Self; 16] = [
        Self::Ignored(Ignored::Truncated),
        Self::Ignored(Ignored::Fragment),
        Self::Ignored(Ignored::Malformed),
        Self::Ignored(Ignored::NotIp),
        Self::Ignored(Ignored::NotTransport),
        Self::Ignored(Ignored::Outgoing),
        Self::NotForUs,
        Self::NotWatched,
        Self::Duplicate,
        Self::OnlyIpv4,
        Self::WrongKnock,
        Self::TripWire,
        Self::Timeout,
        Self::Crowded,
        Self::NoCommand,
        Self::Changed,
    ];

    /// The word that scripts see: in JSON, in counters.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ignored(Ignored::Truncated) => "truncated",
            Self::Ignored(Ignored::Fragment) => "fragment",
            Self::Ignored(Ignored::Malformed) => "malformed",
            Self::Ignored(Ignored::NotIp) => "not-ip",
            Self::Ignored(Ignored::NotTransport) => "not-tcp-or-udp",
            Self::Ignored(Ignored::Outgoing) => "outgoing",
            Self::NotForUs => "not-for-us",
            Self::NotWatched => "not-watched",
            Self::Duplicate => "duplicate",
            Self::OnlyIpv4 => "only-ipv4",
            Self::WrongKnock => "wrong-knock",
            Self::TripWire => "trip-wire",
            Self::Timeout => "timeout",
            Self::Crowded => "crowded",
            Self::NoCommand => "no-command",
            Self::Changed => "changed",
        }
    }
}

/// The reason in words, for people.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ignored(Ignored::Truncated) => "the capture ends before its ports",
            Self::Ignored(Ignored::Fragment) => "a fragment",
            Self::Ignored(Ignored::Malformed) => "its headers contradict each other",
            Self::Ignored(Ignored::NotIp) => "neither IPv4 nor IPv6",
            Self::Ignored(Ignored::NotTransport) => "neither TCP nor UDP",
            Self::Ignored(Ignored::Outgoing) => "sent by this host",
            Self::NotForUs => "sent to an address that is not this host's, nor a door's target",
            Self::NotWatched => "no door watches this port, or not with these flags",
            Self::Duplicate => "a duplicate of an earlier knock",
            Self::OnlyIpv4 => "IPv6, and only IPv4 is listened for",
            Self::WrongKnock => "a port of the sequence, out of turn",
            Self::TripWire => "a trip-wire beside the sequence",
            Self::Timeout => "the next knock did not come in time",
            Self::Crowded => "pushed out by others",
            Self::NoCommand => "nothing opens the door for this address family",
            Self::Changed => "the configuration has changed since the knock began",
        })
    }
}

impl From<Ignored> for Reason {
    fn from(ignored: Ignored) -> Self {
        Self::Ignored(ignored)
    }
}
