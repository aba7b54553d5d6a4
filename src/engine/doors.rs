//! The doors, compiled, and who of them sees a packet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use smallvec::SmallVec;

use super::sequence::Sequence;
use super::{DoorId, Reason};
use crate::config::Recognition;
use crate::config::watch::watch_sets;
use crate::proto::flags::{FlagTest, TcpFlags};
use crate::proto::knock::{Knock, Protocol};
use crate::proto::ports::PortSet;
use crate::wire::{Packet, Transport};

/// Which destinations are addresses of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Local {
    /// All of them: what a capture from another machine needs.
    #[default]
    Any,
    Addresses(BTreeSet<IpAddr>),
}

impl Local {
    fn contains(&self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Addresses(addresses) => addresses.contains(&address),
        }
    }
}

/// Which packets to its ports a door sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct View {
    flags: FlagTest,
    target: Option<IpAddr>,
}

/// What a door looks at, of one packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight {
    pub(super) knock: Knock,
    flags: Option<TcpFlags>,
    destination: IpAddr,
    /// The destination is an address of this host.
    local: bool,
    slot: Slot,
    reach: Reach,
}

impl View {
    fn passes_flags(&self, sight: &Sight) -> bool {
        sight.flags.is_none_or(|flags| self.flags.passes(flags))
    }

    fn passes_destination(&self, sight: &Sight) -> bool {
        self.target.map_or(sight.local, |target| target == sight.destination)
    }
}

#[derive(Debug)]
struct Door {
    sequence: Sequence,
    view: View,
    watched: PortSet,
    reach: Reach,
}

/// Which stretches of 1024 ports a door watches any of, folded into one word: a knock that is out
/// of reach can be passed over at a glance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach(u32);

impl Reach {
    const fn of(knock: Knock) -> Self {
        let stretch = (knock.port.get() >> 10) as u32;
        Self(1 << ((stretch + 17 * knock.protocol as u32) % u32::BITS))
    }

    fn of_all(set: &PortSet) -> Self {
        Self(knocks_in(set).fold(0, |reach, knock| reach | Self::of(knock).0))
    }

    pub(super) const fn includes(self, sight: &Sight) -> bool {
        self.0 & sight.reach.0 != 0
    }
}

/// What is known of a watched port.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Which of `Doors::views` look at it.
    views: u32,
    /// Which of `Doors::starts` have it as their first knock.
    starts: (u32, u32),
}

/// All doors, by their place in the configuration and by port.
///
/// The cost of looking a packet up does not depend on how many doors there are, only on how many
/// share its port as their first knock, or watch it with different flags or targets.
#[derive(Debug)]
pub(super) struct Doors {
    doors: Vec<Door>,
    /// From the first knock to the last. Close together, since a packet may ask for many.
    timeouts: Vec<Duration>,
    /// For each protocol and port one more than its place in `slots`, or 0: nobody watches it.
    ports: [Box<[u32]>; 2],
    slots: Vec<Slot>,
    views: Vec<Box<[View]>>,
    starts: Vec<DoorId>,
}

impl Doors {
    pub(super) fn new<'a>(recognitions: impl IntoIterator<Item = &'a Recognition>) -> Self {
        let recognitions: Vec<&Recognition> = recognitions.into_iter().collect();
        let doors: Vec<Door> = recognitions
            .iter()
            .zip(watch_sets(recognitions.iter().copied()))
            .map(|(door, watched)| Door {
                sequence: Sequence::new(&door.sequence),
                view: View { flags: door.flags, target: door.target },
                reach: Reach::of_all(&watched),
                watched,
            })
            .collect();
        let mut new = Self {
            ports: Protocol::ALL.map(|_| vec![0; PORTS].into()),
            slots: Vec::new(),
            views: Vec::new(),
            starts: Vec::new(),
            timeouts: recognitions.iter().map(|door| door.seq_timeout).collect(),
            doors,
        };
        new.index();
        new
    }

    fn index(&mut self) {
        let mut starts: BTreeMap<Knock, Vec<DoorId>> = BTreeMap::new();
        let mut by_view: BTreeMap<View, Vec<&PortSet>> = BTreeMap::new();
        for (id, door) in (0..).map(DoorId).zip(&self.doors) {
            if let Some(first) = door.sequence.first() {
                starts.entry(first).or_default().push(id);
            }
            by_view.entry(door.view).or_default().push(&door.watched);
        }
        // Which views look at each watched port. View by view, so each list is in order.
        let mut looking: Vec<(Knock, ViewList)> = Vec::new();
        for (view, sets) in (0..).zip(by_view.values()) {
            for knock in sets.iter().copied().flat_map(knocks_in) {
                let place = &mut self.ports[knock.protocol as usize][usize::from(knock.port.get())];
                if *place == 0 {
                    looking.push((knock, ViewList::new()));
                    *place = looking.len() as u32;
                }
                let list = &mut looking[*place as usize - 1].1;
                if list.last() != Some(&view) {
                    list.push(view);
                }
            }
        }
        let all_views: Vec<View> = by_view.into_keys().collect();
        let mut known: BTreeMap<ViewList, u32> = BTreeMap::new();
        for (knock, list) in looking {
            let views = *known.entry(list).or_insert_with_key(|list| {
                self.views.push(list.iter().map(|&view| all_views[view as usize]).collect());
                self.views.len() as u32 - 1
            });
            let from = self.starts.len() as u32;
            self.starts.extend(starts.remove(&knock).unwrap_or_default());
            self.slots.push(Slot { views, starts: (from, self.starts.len() as u32) });
        }
    }

    /// What there is to see of a packet.
    ///
    /// # Errors
    /// The reason why no door sees it.
    pub(super) fn look(&self, packet: &Packet, local: &Local) -> Result<Sight, Reason> {
        let knock = packet.knock();
        let slot = self.slot(knock).ok_or(Reason::NotWatched)?;
        let sight = Sight {
            knock,
            flags: match packet.transport {
                Transport::Tcp { flags, .. } => Some(flags),
                Transport::Udp { .. } => None,
            },
            destination: packet.destination,
            local: local.contains(packet.destination),
            slot,
            reach: Reach::of(knock),
        };
        let mut reason = Reason::NotWatched;
        for view in self.views.get(slot.views as usize).into_iter().flatten() {
            if view.passes_flags(&sight) {
                if view.passes_destination(&sight) {
                    return Ok(sight);
                }
                reason = Reason::NotForUs;
            }
        }
        Err(reason)
    }

    /// The doors that see a knock as their first, in order.
    pub(super) fn starting(&self, sight: &Sight) -> impl Iterator<Item = DoorId> {
        let (from, to) = sight.slot.starts;
        self.starts
            .get(from as usize..to as usize)
            .into_iter()
            .flatten()
            .copied()
            .filter(|&door| self.get(door).is_some_and(|door| door.passes(sight)))
    }

    /// The sequence of a door that sees this packet; `None`: it does not.
    pub(super) fn seeing(&self, id: DoorId, sight: &Sight) -> Option<&Sequence> {
        let door = self.get(id)?;
        (door.watched.contains(sight.knock) && door.passes(sight)).then_some(&door.sequence)
    }

    pub(super) fn sequence(&self, id: DoorId) -> Option<&Sequence> {
        self.get(id).map(|door| &door.sequence)
    }

    pub(super) fn reach(&self, id: DoorId) -> Reach {
        self.get(id).map_or(Reach(0), |door| door.reach)
    }

    pub(super) fn timeout(&self, id: DoorId) -> Duration {
        self.timeouts.get(id.0 as usize).copied().unwrap_or_default()
    }

    /// What each door watches, and with which flags.
    pub(super) fn watched(&self) -> impl Iterator<Item = (&PortSet, FlagTest)> {
        self.doors.iter().map(|door| (&door.watched, door.view.flags))
    }

    /// How many doors share one first knock, at most.
    pub(super) fn most_starting(&self) -> usize {
        let counts = self.slots.iter().map(|slot| slot.starts.1 - slot.starts.0);
        counts.max().unwrap_or(0) as usize
    }

    pub(super) fn longest_sequence(&self) -> usize {
        self.doors.iter().map(|door| door.sequence.len()).max().unwrap_or(0)
    }

    fn get(&self, id: DoorId) -> Option<&Door> {
        self.doors.get(id.0 as usize)
    }

    fn slot(&self, knock: Knock) -> Option<Slot> {
        let ports = self.ports.get(knock.protocol as usize)?;
        let place = ports.get(usize::from(knock.port.get()))?.checked_sub(1)?;
        self.slots.get(place as usize).copied()
    }
}

/// Ports are indexed as they are, 0 included, which nobody can knock on.
const PORTS: usize = 1 << 16;

/// Places in the list of all views.
type ViewList = SmallVec<[u32; 4]>;

fn knocks_in(set: &PortSet) -> impl Iterator<Item = Knock> {
    Protocol::ALL.into_iter().flat_map(move |protocol| {
        let ports = set.ranges(protocol).flat_map(|(low, high)| low..=high);
        ports.filter_map(NonZeroU16::new).map(move |port| Knock::new(protocol, port))
    })
}

impl Door {
    fn passes(&self, sight: &Sight) -> bool {
        self.view.passes_flags(sight) && self.view.passes_destination(sight)
    }
}
