//! Doors compiled into a per-port index: which tracks a packet concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use smallvec::SmallVec;

use super::sequence::CompiledSequence;
use super::totp::{DoorRotation, SecretHolder};
use super::{ClientId, DoorId, Reason};
use crate::config::watch::watch_sets;
use crate::config::{Client, Lockout, Recognition};
use crate::proto::network::{is_a_hosts, may_ask_for};
use crate::proto::totp::TotpKey;
use crate::proto::{FlagTest, Knock, Network, PortSet, Protocol, TcpFlags};
use crate::time::Wall;
use crate::wire::{Packet, Transport};

/// The addresses of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Local {
    /// All of them: what a capture from another machine needs.
    #[default]
    Any,
    Addresses(BTreeSet<IpAddr>),
}

impl Local {
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Addresses(addresses) => addresses.contains(&address),
        }
    }

    /// Whether an address is known to be of this host, or of loopback.
    fn is_own(&self, address: IpAddr) -> bool {
        address.is_loopback() || matches!(self, Self::Addresses(all) if all.contains(&address))
    }

    /// Whether a packet can come from an address; `looped`: a loopback interface may carry it.
    pub fn can_send(&self, source: IpAddr, looped: bool) -> bool {
        is_a_hosts(source) && (looped || !self.is_own(source))
    }

    /// Whether whoever sends from `source` may ask for a network: for an address of this host's,
    /// only itself. A network in which this host is too is that of others.
    pub fn may_ask_for(&self, source: IpAddr, network: Network) -> bool {
        let is_own = network.single().is_some_and(|address| self.is_own(address));
        may_ask_for(source, network) && (self.is_own(source) || !is_own)
    }
}

/// The flags and the destination that a packet to one of a track's ports needs to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Matcher {
    flags: FlagTest,
    target: Option<IpAddr>,
}

/// A packet to a watched port, as far as doors look at it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) knock: Knock,
    flags: Option<TcpFlags>,
    destination: IpAddr,
    /// The destination is an address of this host.
    local: bool,
    slot: PortSlot,
    bloom: PortBloom,
}

impl Matcher {
    fn passes_flags(&self, candidate: &Candidate) -> bool {
        candidate.flags.is_none_or(|flags| self.flags.passes(flags))
    }

    fn passes_destination(&self, candidate: &Candidate) -> bool {
        self.target.map_or(candidate.local, |target| target == candidate.destination)
    }
}

/// The place of a track among all tracks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TrackId(pub(super) u32);

/// One way to knock at a door: a door with a sequence of its own and with rotating ones has two.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) door: DoorId,
    pub(super) lockout: Option<Lockout>,
    pub(super) kind: TrackKind,
    matcher: Matcher,
    watched: PortSet,
    pub(super) bloom: PortBloom,
}

/// The sequence of a track: always the same, or rotating with time.
#[derive(Debug)]
pub(super) enum TrackKind {
    Fixed(CompiledSequence),
    Rotating(DoorRotation),
}

/// A Bloom filter in one word, over stretches of 1024 ports: most knocks that a track does not
/// watch can be passed over at a glance.
#[derive(Clone, Copy, Debug)]
pub(super) struct PortBloom(u32);

impl PortBloom {
    const fn of(knock: Knock) -> Self {
        let stretch = (knock.port.get() >> 10) as u32;
        Self(1 << ((stretch + 17 * knock.protocol as u32) % u32::BITS))
    }

    fn of_all(set: &PortSet) -> Self {
        Self(set.knocks().fold(0, |bloom, knock| bloom | Self::of(knock).0))
    }

    pub(super) const fn includes(self, candidate: &Candidate) -> bool {
        self.0 & candidate.bloom.0 != 0
    }
}

/// A watched port: who looks at it, and which sequences begin with it.
#[derive(Clone, Copy, Debug)]
struct PortSlot {
    /// Which of [`DoorIndex::matchers`] look at it.
    matchers: u32,
    /// Which of [`DoorIndex::starts`] may begin with it.
    starts: (u32, u32),
    /// Whether it is one of a rotating sequence.
    rotates: bool,
}

/// All tracks of all doors, in the order of the doors, and by port.
///
/// The cost of looking a packet up does not depend on how many doors there are, only on how many
/// share its port as their first knock, or watch it with different flags or targets.
#[derive(Debug, Default)]
pub(super) struct DoorIndex {
    tracks: Vec<Track>,
    /// From the first knock to the last. Close together, since a packet may ask for many.
    timeouts: Vec<Duration>,
    /// For each protocol and port one more than its place in `slots`, or 0: nobody watches it.
    ports: [Box<[u32]>; 2],
    slots: Vec<PortSlot>,
    matchers: Vec<Box<[Matcher]>>,
    starts: Vec<TrackId>,
}

impl DoorIndex {
    pub(super) fn new(recognitions: &[Recognition], clients: &[Client]) -> Self {
        let mut tracks = Vec::new();
        let mut timeouts = Vec::new();
        for ((id, door), watched) in
            (0..).map(DoorId).zip(recognitions).zip(watch_sets(recognitions))
        {
            let fixed = (!door.sequence.is_empty())
                .then(|| (TrackKind::Fixed(CompiledSequence::new(&door.sequence)), watched));
            let rotating = door.totp.map(|scheme| {
                let holders = holders(door, clients);
                let rotation =
                    DoorRotation::new(scheme, door.name.as_str(), door.seq_timeout, holders);
                (TrackKind::Rotating(rotation), scheme.watched())
            });
            for (kind, watched) in fixed.into_iter().chain(rotating) {
                timeouts.push(door.seq_timeout);
                let matcher = Matcher { flags: door.flags, target: door.target };
                let (lockout, bloom) = (door.lockout, PortBloom::of_all(&watched));
                tracks.push(Track { door: id, lockout, kind, matcher, bloom, watched });
            }
        }
        let ports = Protocol::ALL.map(|_| vec![0; PORTS].into());
        let mut new = Self { ports, timeouts, tracks, ..Self::default() };
        new.index();
        new
    }

    fn index(&mut self) {
        let mut starts: BTreeMap<Knock, Vec<TrackId>> = BTreeMap::new();
        let mut rotating = PortSet::default();
        let mut by_matcher: BTreeMap<Matcher, PortSet> = BTreeMap::new();
        for (id, track) in (0..).map(TrackId).zip(&self.tracks) {
            match &track.kind {
                TrackKind::Fixed(sequence) => {
                    if let Some(&first) = sequence.knocks.first() {
                        starts.entry(first).or_default().push(id);
                    }
                }
                TrackKind::Rotating(_) => {
                    rotating.extend_from(&track.watched);
                    for knock in track.watched.knocks() {
                        starts.entry(knock).or_default().push(id);
                    }
                }
            }
            by_matcher.entry(track.matcher).or_default().extend_from(&track.watched);
        }
        // Which matchers look at each watched port. Matcher by matcher, so each list is in order.
        let mut looking: Vec<(Knock, MatcherList)> = Vec::new();
        for (matcher, ports) in (0..).zip(by_matcher.values()) {
            for knock in ports.knocks() {
                let place = &mut self.ports[knock.protocol as usize][usize::from(knock.port.get())];
                if *place == 0 {
                    looking.push((knock, MatcherList::new()));
                    *place = looking.len() as u32;
                }
                looking[*place as usize - 1].1.push(matcher);
            }
        }
        let all_matchers: Vec<Matcher> = by_matcher.into_keys().collect();
        let mut known: BTreeMap<MatcherList, u32> = BTreeMap::new();
        for (knock, list) in looking {
            let matchers = *known.entry(list).or_insert_with_key(|list| {
                self.matchers
                    .push(list.iter().map(|&matcher| all_matchers[matcher as usize]).collect());
                self.matchers.len() as u32 - 1
            });
            let starting = starts.remove(&knock).unwrap_or_default();
            // Neighbours in a range mostly have the same.
            if !self.starts.ends_with(&starting) {
                self.starts.extend_from_slice(&starting);
            }
            let to = self.starts.len() as u32;
            let starts = (to - starting.len() as u32, to);
            self.slots.push(PortSlot { matchers, starts, rotates: rotating.contains(knock) });
        }
    }

    /// The packet as doors see it.
    ///
    /// # Errors
    /// The reason why no door sees it.
    pub(super) fn classify(&self, packet: &Packet, local: &Local) -> Result<Candidate, Reason> {
        let knock = packet.knock();
        let slot = self.slot(knock).ok_or(Reason::NotWatched)?;
        let candidate = Candidate {
            knock,
            flags: match packet.transport {
                Transport::Tcp { flags, .. } => Some(flags),
                Transport::Udp { .. } => None,
            },
            destination: packet.destination,
            local: local.contains(packet.destination),
            slot,
            bloom: PortBloom::of(knock),
        };
        let mut reason = Reason::NotWatched;
        for matcher in self.matchers.get(slot.matchers as usize).into_iter().flatten() {
            if matcher.passes_flags(&candidate) {
                if matcher.passes_destination(&candidate) {
                    return Ok(candidate);
                }
                reason = Reason::NotForUs;
            }
        }
        Err(reason)
    }

    /// The tracks that see a knock as what may be their first, in order.
    pub(super) fn starting(&self, candidate: &Candidate) -> impl Iterator<Item = TrackId> {
        let (from, to) = candidate.slot.starts;
        let starting = self.starts.get(from as usize..to as usize).into_iter().flatten().copied();
        starting.filter(|&id| self.track(id).is_some_and(|track| track.passes(candidate)))
    }

    /// A track, if it sees this packet.
    pub(super) fn matching(&self, id: TrackId, candidate: &Candidate) -> Option<&Track> {
        let track = self.track(id)?;
        (track.watched.contains(candidate.knock) && track.passes(candidate)).then_some(track)
    }

    pub(super) fn track(&self, id: TrackId) -> Option<&Track> {
        self.tracks.get(id.0 as usize)
    }

    pub(super) fn timeout(&self, id: TrackId) -> Duration {
        self.timeouts.get(id.0 as usize).copied().unwrap_or_default()
    }

    /// What each track watches, and with which flags.
    pub(super) fn watched(&self) -> impl Iterator<Item = (&PortSet, FlagTest)> {
        self.tracks.iter().map(|track| (&track.watched, track.matcher.flags))
    }

    pub(super) fn rotation(&mut self, id: TrackId) -> Option<&mut DoorRotation> {
        self.tracks.get_mut(id.0 as usize)?.kind.rotation()
    }

    pub(super) fn rotations(&mut self) -> impl Iterator<Item = &mut DoorRotation> {
        self.tracks.iter_mut().filter_map(|track| track.kind.rotation())
    }

    /// Makes ready whatever rotating sequences a knock may be one of.
    pub(super) fn make_ready(&mut self, candidate: &Candidate, now: Wall) {
        if !candidate.slot.rotates {
            return;
        }
        let (from, to) = candidate.slot.starts;
        for place in from as usize..to as usize {
            if let Some(&id) = self.starts.get(place)
                && let Some(rotation) = self.rotation(id)
            {
                rotation.make_ready(now);
            }
        }
    }

    /// How many doors share one first knock, at most.
    pub(super) fn most_starting(&self) -> usize {
        let counts = self.slots.iter().map(|slot| slot.starts.1 - slot.starts.0);
        counts.max().unwrap_or(0) as usize
    }

    /// How many knocks a sequence can come in, at most.
    pub(super) fn longest_sequence(&self) -> usize {
        let length = |track: &Track| match &track.kind {
            TrackKind::Fixed(sequence) => sequence.knocks.len(),
            TrackKind::Rotating(rotation) => rotation.scheme.length() * CONNECTIONS,
        };
        self.tracks.iter().map(length).max().unwrap_or(0)
    }

    fn slot(&self, knock: Knock) -> Option<PortSlot> {
        let ports = self.ports.get(knock.protocol as usize)?;
        let place = ports.get(usize::from(knock.port.get()))?.checked_sub(1)?;
        self.slots.get(place as usize).copied()
    }
}

/// The clients that can knock the rotating sequences of a door.
fn holders(door: &Recognition, clients: &[Client]) -> Vec<SecretHolder> {
    let mut holders = Vec::new();
    for (id, client) in (0..).map(ClientId).zip(clients) {
        let totp = client.totp.as_ref().filter(|_| client.doors.contains(&door.name));
        let Some(totp) = totp else { continue };
        let holder = |secret, until: Option<Wall>| SecretHolder {
            client: id,
            key: TotpKey::from(secret),
            until: [until, client.expires].into_iter().flatten().min(),
        };
        holders.push(holder(&totp.secret, None));
        holders.extend(totp.old.as_ref().map(|(secret, until)| holder(secret, Some(*until))));
    }
    holders
}

/// How many connections a browser opens to a port that does not answer, with some to spare.
const CONNECTIONS: usize = 8;

/// Ports are indexed as they are, 0 included, which nobody can knock on.
const PORTS: usize = 1 << 16;

/// Places in the list of all matchers.
type MatcherList = SmallVec<[u32; 4]>;

impl TrackKind {
    fn rotation(&mut self) -> Option<&mut DoorRotation> {
        if let Self::Rotating(rotation) = self { Some(rotation) } else { None }
    }
}

impl Track {
    fn passes(&self, candidate: &Candidate) -> bool {
        self.matcher.passes_flags(candidate) && self.matcher.passes_destination(candidate)
    }
}
