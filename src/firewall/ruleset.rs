//! What the guard's table is made of: its sets, its chains and their rules: pure.
//!
//! The rules are the same for one door and for ten thousand: doors and grants are elements. What
//! may hold thousands of elements is a hash set, since a concatenation with intervals costs a
//! packet the more the more it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use super::connections::Connection;
use super::netlink::{Change, Comment, Entry, Hook, Key, Load, Rule, SetRef};
use crate::config::{Family, Name, NftFamily, NftName};
use crate::proto::knock::{Knock, Protocol};
use crate::proto::network::Network;

/// The name of the table, in the family `inet`.
pub const TABLE: &str = "knockd";
/// The table's comment, which tells this form from others.
pub(super) const VERSION: &str = "knockd guard 2";

/// What the guard locks, and for whom it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    pub doors: Vec<GuardedDoor>,
    /// Always let through.
    pub trusted: Vec<Network>,
    /// The kernel itself unlocks all ports after this time; `None`: never.
    pub locked_for: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardedDoor {
    pub name: Name,
    pub ports: Vec<Knock>,
    /// Whose ports they are; `None`: every address of this host.
    pub target: Option<IpAddr>,
}

/// A grant as the guard keeps it: an element for each port of its door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    pub door: Name,
    pub address: IpAddr,
    /// The only source port that it lets in; `None`: all.
    pub source_port: Option<NonZeroU16>,
    pub left: Duration,
    pub comment: Comment,
}

/// The place of an element: whether something is there is what the rules ask for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Slot {
    pub(super) set: Set,
    pub(super) key: Key,
}

impl GuardedDoor {
    /// What lets an address in; none where the target has no address of that family.
    pub(super) fn slots(
        &self,
        address: IpAddr,
        source_port: Option<NonZeroU16>,
    ) -> impl Iterator<Item = Slot> {
        let address = address.to_canonical();
        let (family, target) = (Family::of(address), self.target.map(|it| it.to_canonical()));
        let meets = target.is_none_or(|target| Family::of(target) == family);
        let set = match (source_port, target) {
            (None, None) => Set::Open(family),
            (None, Some(_)) => Set::OpenTo(family),
            (Some(_), None) => Set::Bound(family),
            (Some(_), Some(_)) => Set::BoundTo(family),
        };
        let mut from = Key::from(address);
        if let Some(port) = source_port {
            from = from.port(port.get());
        }
        if let Some(target) = target {
            from = from.address(target);
        }
        let ports = self.ports.iter().filter(move |_| meets);
        ports.map(move |&port| Slot { set, key: to_port(from.clone(), port) })
    }
}

/// Where a port is guarded: that of the host, or that of an address.
pub(super) fn guarded(target: Option<IpAddr>, port: Knock) -> Slot {
    match target.map(|target| target.to_canonical()) {
        None => Slot { set: Set::Guarded, key: to_port(Key::default(), port) },
        Some(target) => {
            let set = Set::GuardedTo(Family::of(target));
            Slot { set, key: to_port(target.into(), port) }
        }
    }
}

fn to_port(key: Key, port: Knock) -> Key {
    key.protocol(port.protocol.number()).port(port.port.get())
}

impl Connection {
    /// Where the ports that it is to would be guarded.
    pub(super) fn guarded(&self) -> [Slot; 2] {
        [guarded(None, self.port), guarded(Some(self.address), self.port)]
    }

    pub(super) fn older(&self) -> Slot {
        let peer = Key::from(self.peer.ip()).port(self.peer.port());
        let set = Set::Older(Family::of(self.peer.ip().to_canonical()));
        Slot { set, key: to_port(peer, self.port) }
    }
}

impl Ruleset {
    /// All guarded ports.
    pub(super) fn guarded(&self) -> BTreeSet<Slot> {
        let of = |door: &GuardedDoor, port: &Knock| guarded(door.target, *port);
        self.doors
            .iter()
            .flat_map(|door| door.ports.iter().map(move |port| of(door, port)))
            .collect()
    }

    /// What the sets hold without any grant: of the standing table, the networks that somebody
    /// else has added.
    pub(super) fn contents(
        &self,
        guarded: &BTreeSet<Slot>,
        locked_for: Option<Duration>,
        there: &BTreeMap<Family, Vec<Entry>>,
    ) -> BTreeMap<Set, Vec<Entry>> {
        let trusted = FAMILIES.map(|family| {
            let there = there.get(&family).map_or(&[][..], Vec::as_slice);
            (Set::Trusted(family), trusted(family, &self.trusted, there))
        });
        let mut contents = BTreeMap::from(trusted);
        let (is_end, left, comment) = (false, locked_for, Comment::default());
        for Slot { set, key } in guarded.iter().filter(|_| left != Some(Duration::ZERO)) {
            let entry = Entry { key: key.clone(), is_end, left, comment: comment.clone() };
            contents.entry(*set).or_default().push(entry);
        }
        contents
    }
}

/// The sets of the table, of which most are two: one for each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Set {
    /// Guarded ports of the host.
    Guarded,
    /// Guarded ports of other addresses, or of one of the host's.
    GuardedTo(Family),
    /// Who may reach a port of the host.
    Open(Family),
    OpenTo(Family),
    /// The same, from one source port only.
    Bound(Family),
    BoundTo(Family),
    /// Connections that are older than the lock of their port.
    Older(Family),
    Trusted(Family),
}

/// A part of a set's key.
#[derive(Clone, Copy)]
enum Part {
    Source,
    SourcePort,
    Destination,
    Protocol,
    Port,
}

impl Set {
    pub(super) fn all() -> impl Iterator<Item = Self> {
        use Set::{Bound, BoundTo, GuardedTo, Older, Open, OpenTo, Trusted};
        let of_family = |family| {
            [GuardedTo, Open, OpenTo, Bound, BoundTo, Older, Trusted].map(|set| set(family))
        };
        [Self::Guarded].into_iter().chain(FAMILIES.into_iter().flat_map(of_family))
    }

    const fn facts(self) -> (&'static str, Option<Family>, &'static [Part]) {
        use Part::{Destination, Port, Protocol, Source, SourcePort};
        match self {
            Self::Guarded => ("guarded", None, &[Protocol, Port]),
            Self::GuardedTo(family) => ("guarded_to", Some(family), &[Destination, Protocol, Port]),
            Self::Open(family) => ("open", Some(family), &[Source, Protocol, Port]),
            Self::OpenTo(family) => {
                ("open_to", Some(family), &[Source, Destination, Protocol, Port])
            }
            Self::Bound(family) => ("bound", Some(family), &[Source, SourcePort, Protocol, Port]),
            Self::BoundTo(family) => {
                ("bound_to", Some(family), &[Source, SourcePort, Destination, Protocol, Port])
            }
            Self::Older(family) => ("older", Some(family), &[Source, SourcePort, Protocol, Port]),
            Self::Trusted(family) => ("trusted", Some(family), &[Source]),
        }
    }

    /// Its name, but for the family.
    pub(super) const fn base(self) -> &'static str {
        self.facts().0
    }

    /// Whether its elements are grants.
    pub(super) const fn has_grants(self) -> bool {
        matches!(self, Self::Open(_) | Self::OpenTo(_) | Self::Bound(_) | Self::BoundTo(_))
    }

    pub(super) fn reference(self) -> SetRef {
        let name = match self.facts() {
            (name, None, _) => name.to_owned(),
            (name, Some(Family::V4), _) => format!("{name}_4"),
            (name, Some(Family::V6), _) => format!("{name}_6"),
        };
        let (family, table) = (NftFamily::Inet, NftName::own(TABLE.to_owned()));
        SetRef { family, table, set: NftName::own(name) }
    }

    const fn is_v4(self) -> bool {
        matches!(self.facts().1, Some(Family::V4))
    }

    /// nft's number for a part's type, and the bytes that it fills.
    const fn size(self, part: Part) -> (u32, u32) {
        match part {
            Part::Source | Part::Destination if self.is_v4() => (7, 4),
            Part::Source | Part::Destination => (8, 16),
            Part::Protocol => (12, 4),
            Part::SourcePort | Part::Port => (13, 4),
        }
    }

    fn declaration(self, id: u32) -> Change {
        // `NFT_SET_INTERVAL` and `NFT_SET_TIMEOUT`.
        let (interval, timeout) = (0x4, 0x10);
        let flags = match self {
            Self::Trusted(_) => interval,
            Self::Older(_) => 0,
            _ => timeout,
        };
        let sizes = self.facts().2.iter().map(|&part| self.size(part));
        let key = sizes.fold((0, 0), |(kind, length), size| (kind << 6 | size.0, length + size.1));
        Change::set(&self.reference(), id, flags, key)
    }

    /// Goes on where a packet is in the set, with its destination port or with another value.
    fn holds(self, rule: Rule, port: Load) -> Rule {
        let (_, family, parts) = self.facts();
        let load = |part| match part {
            Part::Source if self.is_v4() => Load::Network(12, 4),
            Part::Source => Load::Network(8, 16),
            Part::Destination if self.is_v4() => Load::Network(16, 4),
            Part::Destination => Load::Network(24, 16),
            Part::SourcePort => Load::Transport(0, 2),
            Part::Protocol => Load::PROTOCOL,
            Part::Port => port,
        };
        let rule = match family {
            None => rule,
            Some(Family::V4) => rule.is(Load::NETWORK_PROTOCOL, &[2]),
            Some(Family::V6) => rule.is(Load::NETWORK_PROTOCOL, &[10]),
        };
        let parts = parts.iter().map(|&part| (load(part), self.size(part).1));
        rule.in_set(&self.reference(), parts)
    }
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// The bit of a connection's label that says: the guard has let it in, or this host has begun it.
/// Bit 91 on machines that are little-endian.
const LABEL: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0];
/// Destination ports: of the packet, and of the connection's first packet before translation.
const PORT: Load = Load::Transport(2, 2);
const ORIGINAL_PORT: Load = Load::Original(12);
/// Where others change packets (`mangle`): after connection tracking, before translation.
const PRIORITY: i32 = -150;

const CHAINS: [(&str, Option<Hook>); 10] = [
    ("let_in", None),
    ("older", None),
    ("others", None),
    ("host", None),
    ("translated", None),
    ("target", None),
    ("prerouting", Some(Hook::Prerouting)),
    ("input", Some(Hook::Input)),
    ("forward", Some(Hook::Forward)),
    ("postrouting", Some(Hook::Postrouting)),
];

/// What makes the table, empty, in the place of one that may be there.
pub(super) fn table() -> Vec<Change> {
    let new = || Change::table(TABLE, VERSION);
    // To add a table that is there already is no error; to delete one that is not would be.
    let mut changes = vec![new(), Change::delete_table(TABLE), new()];
    changes.extend((1..).zip(Set::all()).map(|(id, set)| set.declaration(id)));
    let at = |hook: Option<Hook>| hook.map(|hook| (hook, PRIORITY));
    changes.extend(CHAINS.map(|(name, hook)| Change::chain(TABLE, name, at(hook))));
    changes.extend(rules().iter().map(|(chain, rule)| Change::rule(TABLE, chain, rule)));
    changes
}

fn rules() -> Vec<(&'static str, Rule)> {
    let any = Rule::default;
    let state = |bit: u32| any().has(Load::STATE, &bit.to_ne_bytes());
    let (new, established) = (|| state(8), || state(2));
    let translated = || any().has(Load::STATUS, &32_u32.to_ne_bytes());
    let tcp = |rule: Rule, is_syn| {
        let rule = rule.is(Load::PROTOCOL, &[Protocol::Tcp.number()]);
        // FIN, SYN, RST and ACK: only SYN.
        rule.masked(Load::Transport(13, 1), &[0x17], is_syn, &[0x02])
    };
    let udp = |rule: Rule| rule.is(Load::PROTOCOL, &[Protocol::Udp.number()]);
    let local = |rule: Rule| rule.is(Load::DestinationType, &2_u32.to_ne_bytes());
    let loopback = || any().is(Load::INTERFACE, &1_u32.to_ne_bytes()).accept();
    let let_in_before = || established().has(Load::LABEL, &LABEL).accept();
    let guarded = |rule| Set::Guarded.holds(rule, PORT);

    let mut rules = vec![
        ("let_in", any().label(&LABEL).accept()),
        ("prerouting", loopback()),
        ("prerouting", let_in_before()),
        ("input", loopback()),
        ("input", let_in_before()),
        ("forward", let_in_before()),
        ("postrouting", tcp(new(), true).label(&LABEL)),
        ("postrouting", udp(new()).label(&LABEL)),
    ];
    for family in FAMILIES {
        let to = Set::GuardedTo(family);
        let lets_in = |chain, set: Set, port| (chain, set.holds(any(), port).goto("let_in"));
        rules.extend([
            lets_in("older", Set::Older(family), PORT),
            lets_in("others", Set::Trusted(family), PORT),
            lets_in("host", Set::Open(family), PORT),
            lets_in("host", Set::Bound(family), PORT),
            lets_in("translated", Set::Open(family), ORIGINAL_PORT),
            lets_in("translated", Set::Bound(family), ORIGINAL_PORT),
            lets_in("target", Set::OpenTo(family), PORT),
            lets_in("target", Set::BoundTo(family), PORT),
            ("prerouting", to.holds(any(), PORT).goto("target")),
            ("input", to.holds(any(), PORT).goto("target")),
            ("forward", to.holds(translated(), PORT).goto("target")),
        ]);
    }
    rules.extend([
        ("prerouting", local(guarded(any())).goto("host")),
        ("input", guarded(any()).goto("host")),
        ("input", Set::Guarded.holds(translated(), ORIGINAL_PORT).goto("translated")),
        // A port that is both an address's and the host's opens for the grants of either.
        ("target", local(guarded(any())).goto("host")),
        ("target", any().goto("others")),
        ("host", any().goto("others")),
        ("translated", any().goto("others")),
        // A connection that is older begins no more.
        ("others", tcp(any(), false).goto("older")),
        ("others", udp(established()).goto("older")),
        ("others", any().drop()),
        ("older", any().drop()),
    ]);
    rules
}

/// What the set of trusted networks holds: those of the configuration, and those that somebody
/// else has added to the set as it is there. What meets becomes one.
pub(super) fn trusted(family: Family, networks: &[Network], there: &[Entry]) -> Vec<Entry> {
    let most = if family == Family::V4 { u128::from(u32::MAX) } else { u128::MAX };
    // Where ranges begin, and, if they do, where they end: the first address beyond.
    let mut ranges: Vec<(u128, Option<u128>, bool)> = Vec::new();
    for network in networks.iter().filter(|it| Family::of(it.address()) == family) {
        let first = number(network.address());
        let last = first | most.checked_shr(network.prefix().into()).unwrap_or(0);
        ranges.push((first, (last < most).then(|| last + 1), true));
    }
    let address = |entry: &Entry| entry.key.as_address().map(number);
    let mut there: Vec<_> = there.iter().map(|entry| (address(entry), entry)).collect();
    there.sort_by_key(|(at, entry)| (*at, !entry.is_end));
    for (at, (first, entry)) in there.iter().enumerate() {
        if let Some(first) = first.filter(|_| !entry.is_end && !entry.comment.is_ours()) {
            ranges.push((first, there.get(at + 1).and_then(|(next, _)| *next), false));
        }
    }
    ranges.sort_unstable();
    let mut merged: Vec<(u128, Option<u128>, bool)> = Vec::new();
    for (first, end, is_ours) in ranges {
        match merged.last_mut().filter(|(_, end, _)| end.is_none_or(|end| first <= end)) {
            Some(known) => {
                let longer = known.1.zip(end).map(|(one, other)| one.max(other));
                *known = (known.0, longer, known.2 && is_ours);
            }
            None => merged.push((first, end, is_ours)),
        }
    }
    let entry = |at, is_end, says| {
        let (key, comment) = (numbered(family, at).into(), Comment::new(says));
        Entry { key, is_end, left: None, comment }
    };
    let ends = merged.into_iter().flat_map(|(first, end, is_ours)| {
        let says = if is_ours { Comment::OURS } else { "" };
        [Some(entry(first, false, says)), end.map(|end| entry(end, true, ""))]
    });
    ends.flatten().collect()
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn numbered(family: Family, number: u128) -> IpAddr {
    match family {
        // No range of IPv4 has a number that is longer.
        Family::V4 => std::net::Ipv4Addr::from_bits(number as u32).into(),
        Family::V6 => std::net::Ipv6Addr::from_bits(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn door(target: Option<&str>) -> GuardedDoor {
        let (name, ports) = ("ssh".parse().unwrap(), vec!["22".parse().unwrap()]);
        GuardedDoor { name, ports, target: target.map(|it| it.parse().unwrap()) }
    }

    fn slot(target: Option<&str>, address: &str, source_port: u16) -> Option<(String, Vec<u8>)> {
        let (address, port) = (address.parse().unwrap(), NonZeroU16::new(source_port));
        let slot = door(target).slots(address, port).next()?;
        Some((slot.set.reference().set.to_string(), slot.key.as_bytes().to_vec()))
    }

    #[test]
    fn each_part_of_a_key_fills_whole_registers_and_the_set_fits() {
        let key = |set: &str, bytes: &[u8]| Some((set.to_owned(), bytes.to_vec()));
        let (source, port) = ([192, 0, 2, 2], [6, 0, 0, 0, 0, 22, 0, 0]);
        let [to, from] = [[192, 0, 2, 9], [15, 160, 0, 0]];
        assert_eq!(slot(None, "192.0.2.2", 0), key("open_4", &[&source[..], &port].concat()));
        let bound = [&source[..], &from, &port].concat();
        assert_eq!(slot(None, "::ffff:192.0.2.2", 4000), key("bound_4", &bound));
        let target = Some("192.0.2.9");
        assert_eq!(
            slot(target, "192.0.2.2", 0),
            key("open_to_4", &[&source[..], &to, &port].concat())
        );
        let bound = [&source[..], &from, &to, &port].concat();
        assert_eq!(slot(target, "192.0.2.2", 4000), key("bound_to_4", &bound));
        assert_eq!(slot(target, "2001:db8::2", 0), None, "the target has no such address");
        assert_eq!(slot(None, "2001:db8::2", 0).unwrap().1.len(), 24);
    }

    /// Networks around 192.0.2.0, and ranges that somebody else has added, which do not meet.
    fn networks() -> impl Strategy<Value = (Vec<Network>, Vec<Entry>)> {
        let network = (any::<u8>(), 24u8..=32).prop_map(|(last, prefix)| {
            Network::around(Ipv4Addr::new(192, 0, 2, last).into(), prefix)
        });
        let ends = proptest::collection::btree_set(any::<u8>(), 0..6).prop_map(|ends| {
            let entry = |(at, last): (usize, u8)| Entry {
                key: IpAddr::from([192, 0, 2, last]).into(),
                is_end: at % 2 == 1,
                left: None,
                comment: Comment::default(),
            };
            ends.into_iter().enumerate().map(entry).collect()
        });
        (proptest::collection::vec(network, 0..5), ends)
    }

    /// Whether the kernel finds an address in a set of intervals.
    fn holds(entries: &[Entry], address: &Key) -> bool {
        let below = entries.iter().filter(|entry| entry.key <= *address);
        below.max_by_key(|entry| (&entry.key, !entry.is_end)).is_some_and(|entry| !entry.is_end)
    }

    proptest! {
        #[test]
        fn trusted_is_what_either_says_and_intervals_never_meet((networks, there) in networks()) {
            let trusted = trusted(Family::V4, &networks, &there);
            prop_assert!(trusted.windows(2).all(|two| two[0].key < two[1].key));
            prop_assert!(trusted.windows(2).all(|two| two[0].is_end != two[1].is_end));
            for last in 0..=255 {
                let address = IpAddr::from([192, 0, 2, last]);
                let either = networks.iter().any(|network| network.contains(address))
                    || holds(&there, &address.into());
                prop_assert_eq!(holds(&trusted, &address.into()), either, "{}", address);
            }
        }
    }
}
