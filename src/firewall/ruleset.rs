//! The guard's table: its sets, its chains and their rules, and what the sets hold: pure.
//!
//! The rules are the same for one door and for ten thousand: doors and grants are elements. What
//! may hold thousands of elements is a hash set, since a concatenation with intervals costs a
//! packet the more the more it holds.

mod forward;
pub mod observe;
mod sets;
mod trusted;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::sets::SetKind;
pub(super) use self::sets::{GuardSet, Lifetime};
use self::trusted::trusted;
use super::connections::InboundConnection;
use super::netlink::{
    ChainHook, ChainKind, Comment, ElementKey, ElementRef, Hook, Load, NftChange, NftRule, Noting,
    SetElement,
};
use crate::config::{Family, Forward, GuardMode, Name};
use crate::grants::GrantKey;
use crate::proto::{Knock, Network, OpenPorts, Protocol};
use crate::time::Monotonic;

/// The name of the table, in the family `inet`.
pub const TABLE: &str = "knockd";
/// How the table's comment begins, which tells this form from others. The boot comes after it.
pub(super) const VERSION: &str = "knockd guard 2";

/// The doors that the guard locks or observes, and the networks for which it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ruleset {
    pub doors: BTreeMap<Name, GuardedDoor>,
    /// Always let through.
    pub trusted: Vec<Network>,
    /// The kernel itself unlocks all ports then; `None`: never.
    #[serde(skip)]
    pub locked_until: Option<Monotonic>,
}

/// A door that the guard locks, or observes: its ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardedDoor {
    pub ports: Vec<OpenPorts>,
    /// Where it leads whoever it lets in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<Forward>,
    /// Whose ports they are; `None`: every address of this host.
    pub target: Option<IpAddr>,
    #[serde(skip)]
    pub mode: GuardMode,
    /// How long a packet that comes through a grant renews it, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,
}

impl GuardedDoor {
    /// Whether it is to an address of its own, and how long packets renew its grants, if they do.
    fn idle(&self) -> Option<(bool, Duration)> {
        Some(self.target.is_some()).zip(self.idle)
    }
}

/// A grant as the guard keeps it: an element for each entry of its door, and two for each forward
/// and for each single port at which packets renew it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardGrant {
    pub key: GrantKey,
    pub left: Duration,
    /// What is left until it ends whatever comes, where packets renew it.
    pub ceiling: Option<Duration>,
    pub comment: Comment,
}

/// A key in one of the guard's sets: whether it is there is what the rules ask for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct GuardElement {
    pub(super) set: GuardSet,
    pub(super) key: ElementKey,
}

impl Ruleset {
    /// The elements that such a grant is, each with what it leads to if it is one of a map; none
    /// where there is no such door, or its target has no address of that family. `is_held`: where
    /// the door says so, packets renew them.
    pub(super) fn elements(
        &self,
        key: &GrantKey,
        is_held: bool,
    ) -> Vec<(GuardElement, Option<ElementKey>)> {
        let GrantKey { door, network, source_port } = key;
        let address = network.address();
        let family = Family::of(address);
        let meets = |target: IpAddr| Family::of(target.to_canonical()) == family;
        let door = self.doors.get(door).filter(|door| door.target.is_none_or(meets));
        let Some(door) = door else { return Vec::new() };
        let GuardedDoor { ports, target, .. } = door;
        let set = match (source_port, target) {
            (None, None) => SetKind::Open,
            (None, Some(_)) => SetKind::OpenTo,
            (Some(_), None) => SetKind::Bound,
            (Some(_), Some(_)) => SetKind::BoundTo,
        };
        let from = ElementKey::from(address);
        let from = source_port.iter().fold(from, |key, port| key.port(port.get()));
        let from = target.iter().fold(from, |key, target| key.address(*target));
        let ports = ports.iter().flat_map(|ports| self.parts(*ports));
        let open = ports.flat_map(|ports| {
            let idle = door.idle.filter(|_| is_held && ports.single().is_some());
            let renewed = idle.map(|idle| vec![Lifetime::Renewed(idle), Lifetime::Ceiling(idle)]);
            let lifetimes = renewed.unwrap_or_else(|| vec![Lifetime::Given]).into_iter();
            let set = set.of(family).around(*network);
            let at = |it| (set.lasting(it).at_ports(from.clone(), ports), None);
            lifetimes.map(at).collect::<Vec<_>>()
        });
        open.chain(door.forwarding(*network)).collect()
    }

    /// The elements of a grant by their names, each with the time that is left of it.
    pub(super) fn references(&self, grant: &GuardGrant) -> Vec<(ElementRef, Duration)> {
        let found = self.elements_of(grant).into_iter();
        found.map(|(it, value)| (it.reference(value), grant.left_in(it.set))).collect()
    }

    fn elements_of(&self, grant: &GuardGrant) -> Vec<(GuardElement, Option<ElementKey>)> {
        self.elements(&grant.key, grant.ceiling.is_some())
    }

    /// A range, cut where one of another door begins or ends: what two grants of one address hold
    /// is the same or does not meet, as the kernel wants it.
    fn parts(&self, ports: OpenPorts) -> Vec<OpenPorts> {
        if ports.single().is_some() {
            return vec![ports];
        }
        let all = self.doors.values().flat_map(|door| &door.ports);
        let wide = all.filter(|it| it.protocol() == ports.protocol() && it.single().is_none());
        ports.cut_at(wide.map(|it| it.range()))
    }

    /// The elements that lock the guarded ports.
    pub(super) fn guarded(&self) -> BTreeSet<GuardElement> {
        self.ports(GuardMode::Lock)
    }

    /// The elements of the ports of the doors with this mode. No two ranges meet.
    fn ports(&self, mode: GuardMode) -> BTreeSet<GuardElement> {
        let doors = self.doors.values().filter(|door| door.mode == mode);
        doors
            .flat_map(|door| {
                let ports = door.ports.iter().flat_map(|ports| self.parts(*ports));
                ports.map(move |ports| port_element(mode, door.target, ports))
            })
            .collect()
    }

    /// The doors that open or forward a port that another opens or forwards too.
    pub(super) fn shared(&self) -> HashSet<Name> {
        let mut known: HashMap<GuardElement, &Name> = HashMap::new();
        let mut shared = HashSet::new();
        for name in self.doors.keys() {
            let anybody = FAMILIES.map(Family::unspecified).into_iter();
            let keys = anybody.map(|address| GrantKey::new(name.clone(), address));
            for (element, _) in keys.flat_map(|key| self.elements(&key, false)) {
                if let Some(other) = known.insert(element, name) {
                    shared.extend([other, name].map(Name::clone));
                }
            }
        }
        shared
    }

    /// The changes that make the table, with this comment, in the place of one that may be there,
    /// with all that it holds: guarded ports, connections that are `older` than the lock of their
    /// port, what somebody else has `added` to the sets, and grants, the one opened last at the end.
    pub(super) fn changes(
        &self,
        now: Monotonic,
        comment: &str,
        older: &BTreeSet<GuardElement>,
        added: BTreeMap<GuardSet, Vec<SetElement>>,
        grants: &[GuardGrant],
    ) -> Vec<NftChange> {
        let keys = |(&set, elements): (&GuardSet, &Vec<SetElement>)| {
            elements.iter().map(move |element| set.at(element.key.clone())).collect::<Vec<_>>()
        };
        // What has been led on goes on for only as long as there is a chain that translates.
        let forwards =
            self.forwards().next().is_some() || added.keys().any(|set| set.kind.is_forward());
        let mut there: HashSet<GuardElement> = added.iter().flat_map(keys).collect();
        let mut contents = added;
        for family in FAMILIES {
            let networks = contents.entry(SetKind::Trusted.of(family)).or_default();
            *networks = trusted(family, &self.trusted, networks);
        }
        let mut add = |GuardElement { set, key }, value, left, comment| {
            let element = SetElement { value, left, renewed: set.renewed(), comment, ..key.into() };
            contents.entry(set).or_default().push(element);
        };
        let left = self.locked_until.map(|until| until.since(now));
        if left != Some(Duration::ZERO) {
            self.guarded().into_iter().for_each(|port| add(port, None, left, Comment::default()));
        }
        let observed = self.ports(GuardMode::Observe);
        let wide_there = there.iter().filter_map(|it| it.set.family.zip(it.set.prefix));
        let needs = TableNeeds {
            observing: !observed.is_empty() || there.iter().any(|it| it.set.kind.is_note()),
            ranges: self.doors.values().flat_map(|it| &it.ports).any(|it| it.single().is_none())
                || there.iter().any(|it| it.set.is_of_ranges),
            forwards,
            idles: self.doors.values().filter_map(GuardedDoor::idle).collect(),
            wide: grants.iter().filter_map(|it| wide(it.key.network)).chain(wide_there).collect(),
        };
        let lasting: BTreeSet<_> = observed.into_iter().chain(self.masqueraded()).collect();
        let lasting = lasting.into_iter().chain(older.iter().cloned());
        lasting.for_each(|element| add(element, None, None, Comment::default()));
        let grants = grants.iter().rev().filter(|grant| !grant.left.is_zero());
        let mut held: Vec<_> = grants
            .flat_map(|grant| {
                let elements = self.elements_of(grant).into_iter();
                elements.map(move |(element, value)| {
                    (grant.left_in(element.set), grant, element, value)
                })
            })
            .collect();
        // Of several grants that hold one element, the longest; where one leads, the last.
        held.sort_by_key(|(left, _, _, value)| Reverse(value.is_none().then_some(*left)));
        for (left, grant, element, value) in held {
            if there.insert(element.clone()) {
                add(element, value, Some(left), grant.comment.clone());
            }
        }
        let mut changes = empty_table(comment, &needs);
        for (set, elements) in contents {
            changes.extend(NftChange::add_all(&set.reference(), &elements));
        }
        changes
    }
}

impl GuardGrant {
    /// The time that is left of its element in such a set.
    fn left_in(&self, set: GuardSet) -> Duration {
        match set.lifetime {
            Lifetime::Ceiling(_) => self.ceiling.unwrap_or(self.left),
            Lifetime::Given | Lifetime::Renewed(_) => self.left,
        }
    }
}

/// How wide a network is, unless it is a single address.
fn wide(network: Network) -> Option<(Family, u8)> {
    let family = Family::of(network.address());
    network.single().is_none().then(|| (family, network.prefix()))
}

/// The element that locks a port: that of the host, or that of an address.
pub(super) fn guarded(target: Option<IpAddr>, port: Knock) -> GuardElement {
    port_element(GuardMode::Lock, target, port.into())
}

fn port_element(mode: GuardMode, target: Option<IpAddr>, ports: OpenPorts) -> GuardElement {
    let (hosts, others) = match mode {
        GuardMode::Lock => (GuardSet::GUARDED, SetKind::GuardedTo),
        GuardMode::Observe => (GuardSet::OBSERVED, SetKind::ObservedTo),
    };
    match target.map(|target| target.to_canonical()) {
        None => hosts.at_ports(ElementKey::default(), ports),
        Some(it) => others.of(Family::of(it)).at_ports(it.into(), ports),
    }
}

impl GuardElement {
    pub(super) fn reference(&self, value: Option<ElementKey>) -> ElementRef {
        let (set, key, renewed) = (self.set.reference(), self.key.clone(), self.set.renewed());
        ElementRef { set, key, value, renewed }
    }

    /// Whether it is a range that has this element of a single port.
    pub(super) fn covers(&self, one: &Self) -> bool {
        let GuardSet { kind, family, .. } = self.set;
        (kind, family) == (one.set.kind, one.set.family) && self.key.covers(&one.key)
    }
}

impl InboundConnection {
    /// The elements that would lock the ports that it is to.
    pub(super) fn guarded(&self) -> [GuardElement; 2] {
        [guarded(None, self.port), guarded(Some(self.address), self.port)]
    }

    /// The element that lets it go on.
    pub(super) fn older(&self) -> GuardElement {
        let peer = self.peer.ip().to_canonical();
        let key = ElementKey::from(peer).port(self.peer.port());
        SetKind::Older.of(Family::of(peer)).at_ports(key, self.port.into())
    }
}

pub(super) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// The bit of a connection's label that says: the guard has let it in, or this host has begun it.
/// Bit 91 on machines that are little-endian.
const LABEL: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0];
/// The bit after it: it is for everybody, and no grant lets it in.
const NOT_LET_IN: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0];
/// Where others change packets (`mangle`): after connection tracking, before translation.
pub(super) const PRIORITY: i32 = -150;

/// The parts of the table that not every configuration needs.
#[derive(Clone, Debug, Default)]
struct TableNeeds {
    /// What notes who comes to observed ports.
    observing: bool,
    ranges: bool,
    forwards: bool,
    /// How long packets renew grants, where they do: to other hosts, and to this one.
    idles: BTreeSet<(bool, Duration)>,
    /// How many bits of an address count, where grants are for networks.
    wide: BTreeSet<(Family, u8)>,
}

impl TableNeeds {
    fn has(&self, set: GuardSet) -> bool {
        if set.is_of_ranges && !self.ranges {
            false
        } else if set.kind.is_forward() {
            self.forwards
        } else {
            self.observing || set.kind < SetKind::Observed
        }
    }

    /// The sets beside each other for ports.
    fn widths(&self) -> impl Iterator<Item = bool> + Clone + use<> {
        [false].into_iter().chain(self.ranges.then_some(true))
    }

    /// The sets beside this one that let in, too, and this one.
    fn letting_in(&self, set: GuardSet) -> impl Iterator<Item = GuardSet> + '_ {
        let sets = self.widths().flat_map(move |width| set.width(width).beside(self));
        sets.filter(|set| !matches!(set.lifetime, Lifetime::Ceiling(_)))
    }
}

/// The chains that the kernel asks; the others are asked by them.
const HOOKS: [(&str, ChainHook); 6] = [
    ("prerouting", (ChainKind::Filter, Hook::Prerouting, PRIORITY)),
    ("input", (ChainKind::Filter, Hook::Input, PRIORITY)),
    ("forward", (ChainKind::Filter, Hook::Forward, PRIORITY)),
    ("output", (ChainKind::Filter, Hook::Output, PRIORITY)),
    // The translation comes before that of others (-100 and 100).
    ("nat_prerouting", (ChainKind::Nat, Hook::Prerouting, -110)),
    ("nat_postrouting", (ChainKind::Nat, Hook::Postrouting, 90)),
];

/// What makes the table, empty and with this comment, in the place of one that may be there.
fn empty_table(comment: &str, needs: &TableNeeds) -> Vec<NftChange> {
    let new = || NftChange::table(TABLE, comment);
    // To add a table that is there already is no error; to delete one that is not would be.
    let mut changes = vec![new(), NftChange::delete_table(TABLE), new()];
    let sets = GuardSet::all().filter(|set| needs.has(*set));
    let sets = sets.flat_map(|set| set.beside(needs));
    changes.extend((1..).zip(sets).map(|(id, set)| set.declaration(id)));
    let rules = rules(needs);
    let chains: BTreeSet<&str> = rules.iter().map(|(chain, _)| *chain).collect();
    changes.extend(chains.into_iter().map(|chain| {
        let hook = HOOKS.into_iter().find(|(name, _)| *name == chain);
        NftChange::chain(TABLE, chain, hook.map(|(_, hook)| hook))
    }));
    changes.extend(rules.iter().map(|(chain, rule)| NftChange::rule(TABLE, chain, rule)));
    changes
}

fn rules(needs: &TableNeeds) -> Vec<(&'static str, NftRule)> {
    let any = NftRule::default;
    let state = |bit: u32| any().has(Load::STATE, &bit.to_ne_bytes());
    let (new, established) = (|| state(8), || state(2));
    let translated = |rule: NftRule| rule.has(Load::STATUS, &32_u32.to_ne_bytes());
    let tcp = |rule: NftRule, is_syn| {
        let rule = rule.is(Load::PROTOCOL, &[Protocol::Tcp.number()]);
        // FIN, SYN, RST and ACK: only SYN.
        rule.masked(Load::TCP_FLAGS, &[0x17], is_syn, &[0x02])
    };
    let udp = |rule: NftRule| rule.is(Load::PROTOCOL, &[Protocol::Udp.number()]);
    // `RTN_…` of linux/rtnetlink.h.
    let (local, broadcast, anycast, multicast) = (2_u32, 3_u32, 4_u32, 5_u32);
    let to = |rule: NftRule, kind: u32| rule.is(Load::DESTINATION_TYPE, &kind.to_ne_bytes());
    let loopback = || any().is(Load::INTERFACE, &1_u32.to_ne_bytes()).accept();
    let let_in_before = || established().has(Load::LABEL, &LABEL);
    let guarded = |width| GuardSet::GUARDED.width(width).holds(any());

    let mut rules = vec![
        ("let_in", any().label(&LABEL).accept()),
        ("prerouting", loopback()),
        ("input", loopback()),
        // Not in postrouting: what is forwarded can come from anybody who writes this host's
        // address on it, and would make packets to a guarded port look like answers.
        ("output", tcp(new(), true).label(&LABEL)),
        ("output", udp(new()).label(&LABEL)),
    ];
    if !needs.idles.is_empty() {
        // What is translated has its ports only now.
        rules.push(("prerouting", let_in_before().jump("renewing")));
        for chain in ["input", "forward"] {
            rules.push((chain, translated(let_in_before()).jump("renewing")));
        }
        // Assured: its SYN/ACK has been answered, and not by the RST of whoever has sent no SYN.
        let assured = any().has(Load::STATUS, &4_u32.to_ne_bytes());
        rules.push(("renewing", tcp(assured, false).goto("renewed")));
        rules.push(("renewing", udp(any()).goto("renewed")));
    }
    for chain in ["prerouting", "input", "forward"] {
        rules.push((chain, let_in_before().jump("begun")));
    }
    // The kernel takes a SYN on the entry of a connection that died silently for a part of it.
    rules.push(("begun", tcp(any(), false).accept()));
    rules.push(("begun", udp(any()).accept()));
    if needs.forwards {
        rules.extend(forward::rules(needs));
    }
    let not_let_in = translated(any()).has(Load::LABEL, &NOT_LET_IN);
    rules.push(("input", not_let_in.masked(Load::LABEL, &LABEL, true, &[0; 16]).drop()));
    for family in FAMILIES {
        let ways = [
            ("granted", SetKind::Open),
            ("granted", SetKind::Bound),
            ("target", SetKind::OpenTo),
            ("target", SetKind::BoundTo),
        ];
        for (chain, kind) in ways {
            for set in needs.letting_in(kind.of(family)) {
                rules.push((chain, set.lets_in(any()).goto("let_in")));
                if set.renewed().is_some() {
                    rules.push(("renewed", set.noting(set.lets_in(any()), Noting::RENEW)));
                }
            }
        }
        let older = SetKind::Older.of(family);
        rules.push(("older", older.holds(any()).goto("let_in")));
        for chain in ["granted", "target"] {
            let trusted = SetKind::Trusted.of(family);
            rules.push((chain, trusted.holds(any()).goto("let_in")));
        }
        for width in needs.widths() {
            let target = |rule| SetKind::GuardedTo.of(family).width(width).holds(rule);
            rules.extend([
                ("prerouting", target(any()).goto("target")),
                ("input", target(any()).goto("target")),
                ("forward", target(translated(any())).goto("target")),
            ]);
        }
    }
    for width in needs.widths() {
        rules.extend([
            ("prerouting", guarded(width).goto("untranslated")),
            ("input", guarded(width).goto("host")),
            // A port that is both an address's and the host's opens for the grants of either.
            ("target", to(guarded(width), local).goto("host")),
        ]);
    }
    rules.extend([
        // What is for another host passes, unless it is delivered here after all.
        ("untranslated", to(any(), local).goto("host")),
        ("untranslated", to(any(), anycast).goto("host")),
        ("untranslated", to(any(), broadcast).goto("everybody")),
        ("untranslated", to(any(), multicast).goto("everybody")),
        // A bridge hands it on to others; only if it is delivered here, translated or not, it
        // is dropped.
        ("everybody", any().jump("granted")),
        ("everybody", any().label(&NOT_LET_IN)),
        ("target", any().goto("others")),
        ("host", any().jump("granted")),
        ("host", any().goto("others")),
        // A connection that is older begins no more.
        ("others", tcp(any(), false).goto("older")),
        ("others", udp(established()).goto("older")),
        ("others", any().drop()),
        ("older", any().drop()),
    ]);
    if needs.observing {
        rules.extend(observe::rules(needs));
    }
    rules
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;

    fn door(target: Option<&str>) -> GuardedDoor {
        let ports = vec!["22".parse().unwrap()];
        let target = target.map(|it| it.parse().unwrap());
        GuardedDoor { idle: None, ports, forwards: vec![], target, mode: GuardMode::Lock }
    }

    fn element(target: Option<&str>, address: &str, source_port: u16) -> Option<(String, Vec<u8>)> {
        let address: IpAddr = address.parse().unwrap();
        let name: Name = "ssh".parse().unwrap();
        let source_port = NonZeroU16::new(source_port);
        let key = GrantKey { source_port, ..GrantKey::new(name.clone(), address) };
        let doors = [(name, door(target))].into();
        let ruleset = Ruleset { doors, ..Ruleset::default() };
        let (element, _) = ruleset.elements(&key, false).into_iter().next()?;
        Some((element.set.reference().set.to_string(), element.key.bytes.clone()))
    }

    #[test]
    fn each_part_of_a_key_fills_whole_registers_and_the_set_fits() {
        let key = |set: &str, bytes: &[u8]| Some((set.to_owned(), bytes.to_vec()));
        let (source, port) = ([192, 0, 2, 2], [6, 0, 0, 0, 0, 22, 0, 0]);
        let [to, from] = [[192, 0, 2, 9], [15, 160, 0, 0]];
        assert_eq!(element(None, "192.0.2.2", 0), key("open_4", &[&source[..], &port].concat()));
        let bound = [&source[..], &from, &port].concat();
        assert_eq!(element(None, "::ffff:192.0.2.2", 4000), key("bound_4", &bound));
        let target = Some("192.0.2.9");
        assert_eq!(
            element(target, "192.0.2.2", 0),
            key("open_to_4", &[&source[..], &to, &port].concat())
        );
        let bound = [&source[..], &from, &to, &port].concat();
        assert_eq!(element(target, "192.0.2.2", 4000), key("bound_to_4", &bound));
        assert_eq!(element(target, "2001:db8::2", 0), None, "the target has no such address");
        assert_eq!(element(None, "2001:db8::2", 0).unwrap().1.len(), 24);
    }

    fn ruleset(doors: &[(&str, &[&str], &[Forward])]) -> Ruleset {
        let door = |(name, ports, forwards): &(&str, &[&str], &[Forward])| {
            let ports = ports.iter().map(|ports| ports.parse().unwrap()).collect();
            let (forwards, target, mode) = (forwards.to_vec(), None, GuardMode::Lock);
            (name.parse().unwrap(), GuardedDoor { idle: None, ports, forwards, target, mode })
        };
        Ruleset { doors: doors.iter().map(door).collect(), ..Ruleset::default() }
    }

    fn key(door: &str) -> GrantKey {
        GrantKey::new(door.parse().unwrap(), "192.0.2.2".parse::<Network>().unwrap())
    }

    fn elements_of(ruleset: &Ruleset, door: &str) -> Vec<String> {
        let found = ruleset.elements(&key(door), false).into_iter();
        found.map(|(element, _)| element.set.reference().set.to_string()).collect()
    }

    #[test]
    fn a_range_is_one_element_unless_another_begins_within_it() {
        let alone: &[(&str, &[&str], &[Forward])] = &[("mosh", &["60000-61000/udp", "22"], &[])];
        assert_eq!(elements_of(&ruleset(alone), "mosh"), ["open_ranges_4", "open_4"]);
        assert_eq!(ruleset(alone).guarded().len(), 2);
        let within: (&str, &[&str], &[Forward]) = ("rtp", &["60500-60600/udp"], &[]);
        let both = ruleset(&[alone[0], within]);
        assert_eq!(elements_of(&both, "mosh").len(), 4);
        assert_eq!(elements_of(&both, "rtp"), ["open_ranges_4"]);
        assert_eq!(both.guarded().len(), 4, "none of them meets another");
        assert_eq!(both.shared().len(), 2);
    }

    #[test]
    fn a_forward_locks_nothing_and_a_grant_holds_where_it_leads() {
        let to = |host: &str| Forward {
            on: "2222".parse().unwrap(),
            to: host.parse().unwrap(),
            port: NonZeroU16::new(22).unwrap(),
            masquerade: false,
        };
        let here =
            ruleset(&[("a", &[], &[to("10.0.0.2"), to("2001:db8::2")]), ("b", &["22"], &[])]);
        assert_eq!(here.guarded().len(), 1);
        assert_eq!(elements_of(&here, "a"), ["forwarded_4", "forward_4"]);
        let map = here.elements(&key("a"), false).pop().unwrap();
        assert_eq!(map.1.unwrap().bytes, [10, 0, 0, 2, 0, 22, 0, 0]);
        assert!(here.shared().is_empty());
        let both = ruleset(&[("a", &[], &[to("10.0.0.2")]), ("c", &[], &[to("10.0.0.3")])]);
        assert_eq!(both.shared().len(), 2, "one element can lead to one host only");
    }
}
