//! The guard's table, as text for `nft -f`: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use super::connections::Older;
use super::netlink::{Comment, Entry, Key};
use crate::config::Name;
use crate::proto::knock::{Knock, Protocol};
use crate::proto::network::Network;

/// The name of the table, in the family `inet`.
pub const TABLE: &str = "knockd";

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

/// A grant as the guard's table holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    pub door: Name,
    pub address: IpAddr,
    /// The only source port that it lets in; `None`: all.
    pub source_port: Option<NonZeroU16>,
    pub left: Duration,
    pub comment: Comment,
}

impl Element {
    pub(super) fn key(&self) -> Key {
        Key { address: self.address.to_canonical(), port: self.source_port }
    }
}

/// One of the four sets of a door: `g_DOOR_4`, `g_DOOR_6`, `p_DOOR_4` or `p_DOOR_6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DoorSet<'a> {
    pub(super) door: &'a str,
    /// Whether its keys have a source port.
    pub(super) bound: bool,
    pub(super) v4: bool,
}

impl<'a> DoorSet<'a> {
    pub(super) fn of(door: &'a Name, key: Key) -> Self {
        let v4 = key.address.to_canonical().is_ipv4();
        Self { door: door.as_str(), bound: key.port.is_some(), v4 }
    }

    pub(super) fn all_of(door: &'a Name) -> [Self; 4] {
        let set = |bound, v4| Self { door: door.as_str(), bound, v4 };
        [set(false, true), set(false, false), set(true, true), set(true, false)]
    }

    /// Reads the name of a set of some guard's table, perhaps an older one.
    pub(super) fn read(set: &'a str) -> Option<Self> {
        let (rest, v4) = match set.strip_suffix("_4") {
            Some(rest) => (rest, true),
            None => (set.strip_suffix("_6")?, false),
        };
        let (door, bound) = match rest.strip_prefix("g_") {
            Some(door) => (door, false),
            None => (rest.strip_prefix("p_")?, true),
        };
        Some(Self { door, bound, v4 })
    }

    pub(super) fn element(&self, entry: Entry) -> Option<Element> {
        Some(Element {
            door: self.door.parse().ok()?,
            address: entry.key.address,
            source_port: entry.key.port,
            left: entry.left?,
            comment: entry.comment,
        })
    }
}

impl fmt::Display for DoorSet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.bound { 'p' } else { 'g' };
        let family = if self.v4 { 4 } else { 6 };
        write!(f, "{kind}_{}_{family}", self.door)
    }
}

/// A guarded port, of one address or of the host.
type Guarded = (Option<IpAddr>, Knock);

impl Ruleset {
    /// The sets of connections that are older than the table, where there are any.
    pub(super) const OLDER: [&str; 2] = ["older_4", "older_6"];

    /// The names of the sets of guarded ports that [`render`](Self::render) makes.
    pub(super) const GUARDED: [&str; 3] = ["guarded", "guarded_4", "guarded_6"];

    /// A transaction that puts the table in the place of one that may be there, holding these
    /// grants and letting these connections go on. Grants of doors that are no more are left out.
    #[must_use]
    pub fn render(&self, keep: &[Element], older: &[Older]) -> String {
        let mut text = Text::default();
        // To add a table that is there already is no error; to delete one that is not would be.
        text.line(0, &format!("table inet {TABLE}"));
        text.line(0, &format!("delete table inet {TABLE}"));
        text.line(0, &format!("table inet {TABLE} {{"));
        self.render_sets(&mut text, keep);
        render_older(&mut text, older);
        let guarded = self.guarded();
        self.render_doors(&mut text, &guarded);
        render_chains(&mut text, &guarded, !older.is_empty());
        text.line(0, "}");
        text.0
    }

    /// Whether TCP connections to a port need a grant, to some address at least.
    pub(super) fn guards_tcp(&self, port: u16) -> bool {
        let mut ports = self.doors.iter().flat_map(|door| &door.ports);
        ports.any(|knock| knock.protocol == Protocol::Tcp && knock.port.get() == port)
    }

    /// Each guarded port, and the doors that open it.
    fn guarded(&self) -> BTreeMap<Guarded, BTreeSet<&Name>> {
        let mut guarded: BTreeMap<Guarded, BTreeSet<&Name>> = BTreeMap::new();
        for door in &self.doors {
            for &port in &door.ports {
                let target = door.target.map(|target| target.to_canonical());
                guarded.entry((target, port)).or_default().insert(&door.name);
            }
        }
        guarded
    }

    fn render_sets(&self, text: &mut Text, keep: &[Element]) {
        for (v4, family) in [(true, '4'), (false, '6')] {
            let trusted = self.trusted.iter().filter(|network| network.address().is_ipv4() == v4);
            let elements = trusted.map(ToString::to_string).collect();
            let kind = format!("ipv{family}_addr");
            text.set(&format!("trusted_{family}"), &kind, "interval; auto-merge", elements);
        }
        for door in &self.doors {
            for set in DoorSet::all_of(&door.name) {
                let kind = if set.v4 { "ipv4_addr" } else { "ipv6_addr" };
                let kind = if set.bound { format!("{kind} . inet_service") } else { kind.into() };
                let mut kept: BTreeMap<Key, &Element> = BTreeMap::new();
                for element in keep.iter().filter(|element| {
                    element.door == door.name && DoorSet::of(&door.name, element.key()) == set
                }) {
                    let known = kept.entry(element.key()).or_insert(element);
                    if known.left < element.left {
                        *known = element;
                    }
                }
                let elements = kept.into_values().map(render_element).collect();
                text.set(&set.to_string(), &kind, "timeout", elements);
            }
        }
        let timeout = self.locked_for.map(render_timeout).unwrap_or_default();
        for (name, kind, wanted) in [
            ("guarded", "", None),
            ("guarded_4", "ipv4_addr . ", Some(true)),
            ("guarded_6", "ipv6_addr . ", Some(false)),
        ] {
            let guarded = self.guarded();
            let of_set =
                guarded.keys().filter(|(target, _)| target.map(|at| at.is_ipv4()) == wanted);
            let elements = of_set.map(|guarded| format!("{}{timeout}", render_key(guarded)));
            let kind = format!("{kind}inet_proto . inet_service");
            text.set(name, &kind, "timeout", elements.collect());
        }
    }

    fn render_doors(&self, text: &mut Text, guarded: &BTreeMap<Guarded, BTreeSet<&Name>>) {
        for door in &self.doors {
            let [g4, g6, p4, p6] = DoorSet::all_of(&door.name);
            text.chain(
                &format!("door_{}", door.name),
                &[
                    format!("ip saddr @{g4} accept"),
                    format!("ip6 saddr @{g6} accept"),
                    format!("ip saddr . th sport @{p4} accept"),
                    format!("ip6 saddr . th sport @{p6} accept"),
                ],
            );
        }
        for (guarded, doors) in guarded {
            let jumps: Vec<String> = doors.iter().map(|door| format!("jump door_{door}")).collect();
            text.chain(&port_chain(guarded), &jumps);
        }
    }
}

fn render_older(text: &mut Text, older: &[Older]) {
    if older.is_empty() {
        return;
    }
    for (name, family) in Ruleset::OLDER.into_iter().zip(['4', '6']) {
        let of_set =
            older.iter().filter(|older| older.connection.peer.is_ipv4() == (family == '4'));
        let elements = of_set.map(|older| {
            let (peer, port) = (older.connection.peer, older.connection.port);
            let timeout = render_timeout(older.left);
            format!("{} . {} . {port}{timeout}", peer.ip(), peer.port())
        });
        let kind = format!("ipv{family}_addr . inet_service . inet_service");
        text.set(name, &kind, "timeout", elements.collect());
    }
}

/// A port that is both an address's and the host's opens for the grants of either.
fn render_chains(text: &mut Text, guarded: &BTreeMap<Guarded, BTreeSet<&Name>>, has_older: bool) {
    let dispatch = |wanted: Option<bool>, key: &str| {
        let of_set = guarded.keys().filter(|(at, _)| at.map(|at| at.is_ipv4()) == wanted);
        let jumps: Vec<String> = of_set
            .map(|guarded| format!("{} : jump {}", render_key(guarded), port_chain(guarded)))
            .collect();
        (!jumps.is_empty()).then(|| format!("{key} vmap {{ {} }}", jumps.join(", ")))
    };
    let port = "meta l4proto . th dport";
    let (port_4, port_6) = (format!("ip daddr . {port}"), format!("ip6 daddr . {port}"));
    let trusted =
        || ["ip saddr @trusted_4 accept".to_owned(), "ip6 saddr @trusted_6 accept".to_owned()];

    let mut local: Vec<String> = trusted().into();
    local.extend(dispatch(None, port));
    local.push("drop".to_owned());
    text.chain("host", &local);
    let mut target: Vec<String> = trusted().into();
    target.extend(dispatch(Some(true), &port_4));
    target.extend(dispatch(Some(false), &port_6));
    text.chain("target", &target);
    let mut prerouting = vec![
        "type filter hook prerouting priority -150; policy accept;".to_owned(),
        "iifname \"lo\" accept".to_owned(),
        "ct state established,related accept".to_owned(),
    ];
    if has_older {
        prerouting.push("ip saddr . tcp sport . tcp dport @older_4 accept".to_owned());
        prerouting.push("ip6 saddr . tcp sport . tcp dport @older_6 accept".to_owned());
    }
    prerouting.extend([
        format!("{port_4} @guarded_4 jump target"),
        format!("{port_6} @guarded_6 jump target"),
        format!("fib daddr type local {port} @guarded goto host"),
        format!("{port_4} @guarded_4 drop"),
        format!("{port_6} @guarded_6 drop"),
    ]);
    text.chain("prerouting", &prerouting);
}

fn render_key((target, port): &Guarded) -> String {
    let address = target.map(|target| format!("{target} . ")).unwrap_or_default();
    format!("{address}{} . {}", port.protocol, port.port)
}

/// The chain that the table has for a guarded port of the host.
#[must_use]
pub fn host_chain(port: Knock) -> String {
    port_chain(&(None, port))
}

fn port_chain((target, port): &Guarded) -> String {
    // An nft name has no colons.
    let at = target.map(|target| format!("_at_{target}").replace(':', "-")).unwrap_or_default();
    format!("port_{}_{}{at}", port.protocol, port.port)
}

fn render_element(element: &Element) -> String {
    let Key { address, port } = element.key();
    let port = port.map(|port| format!(" . {port}")).unwrap_or_default();
    let comment = match element.comment.as_str() {
        "" => String::new(),
        text => format!(" comment \"{text}\""),
    };
    format!("{address}{port}{}{comment}", render_timeout(element.left))
}

/// Never zero, which would mean for ever.
fn render_timeout(timeout: Duration) -> String {
    format!(" timeout {}ms", timeout.as_nanos().div_ceil(1_000_000).clamp(1, 1 << 43))
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, depth: usize, line: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{}{line}", "\t".repeat(depth));
    }

    fn set(&mut self, name: &str, kind: &str, flags: &str, elements: Vec<String>) {
        self.line(1, &format!("set {name} {{"));
        self.line(2, &format!("type {kind}; flags {flags};"));
        if !elements.is_empty() {
            self.line(2, &format!("elements = {{ {} }}", elements.join(", ")));
        }
        self.line(1, "}");
    }

    fn chain(&mut self, name: &str, rules: &[String]) {
        self.line(1, &format!("chain {name} {{"));
        for rule in rules {
            self.line(2, rule);
        }
        self.line(1, "}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::connections::Connection;
    use super::*;

    fn door(name: &str, ports: &[&str], target: Option<&str>) -> GuardedDoor {
        GuardedDoor {
            name: name.parse().unwrap(),
            ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
            target: target.map(|target| target.parse().unwrap()),
        }
    }

    fn element(door: &str, address: &str, port: u16, millis: u64, comment: &str) -> Element {
        Element {
            door: door.parse().unwrap(),
            address: address.parse().unwrap(),
            source_port: NonZeroU16::new(port),
            left: Duration::from_millis(millis),
            comment: Comment::new(comment),
        }
    }

    #[test]
    fn the_whole_table() {
        let ruleset = Ruleset {
            doors: vec![door("ssh", &["22"], None)],
            trusted: vec!["198.51.100.7/24".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            locked_for: None,
        };
        let keep = [
            element("ssh", "192.0.2.2", 0, 1500, "by sequence"),
            element("ssh", "2001:db8::2", 4000, 20, ""),
            element("gone", "192.0.2.3", 0, 1000, ""),
        ];
        let expected = "\
table inet knockd
delete table inet knockd
table inet knockd {
	set trusted_4 {
		type ipv4_addr; flags interval; auto-merge;
		elements = { 198.51.100.0/24 }
	}
	set trusted_6 {
		type ipv6_addr; flags interval; auto-merge;
		elements = { 2001:db8::1/128 }
	}
	set g_ssh_4 {
		type ipv4_addr; flags timeout;
		elements = { 192.0.2.2 timeout 1500ms comment \"by sequence\" }
	}
	set g_ssh_6 {
		type ipv6_addr; flags timeout;
	}
	set p_ssh_4 {
		type ipv4_addr . inet_service; flags timeout;
	}
	set p_ssh_6 {
		type ipv6_addr . inet_service; flags timeout;
		elements = { 2001:db8::2 . 4000 timeout 20ms }
	}
	set guarded {
		type inet_proto . inet_service; flags timeout;
		elements = { tcp . 22 }
	}
	set guarded_4 {
		type ipv4_addr . inet_proto . inet_service; flags timeout;
	}
	set guarded_6 {
		type ipv6_addr . inet_proto . inet_service; flags timeout;
	}
	chain door_ssh {
		ip saddr @g_ssh_4 accept
		ip6 saddr @g_ssh_6 accept
		ip saddr . th sport @p_ssh_4 accept
		ip6 saddr . th sport @p_ssh_6 accept
	}
	chain port_tcp_22 {
		jump door_ssh
	}
	chain host {
		ip saddr @trusted_4 accept
		ip6 saddr @trusted_6 accept
		meta l4proto . th dport vmap { tcp . 22 : jump port_tcp_22 }
		drop
	}
	chain target {
		ip saddr @trusted_4 accept
		ip6 saddr @trusted_6 accept
	}
	chain prerouting {
		type filter hook prerouting priority -150; policy accept;
		iifname \"lo\" accept
		ct state established,related accept
		ip daddr . meta l4proto . th dport @guarded_4 jump target
		ip6 daddr . meta l4proto . th dport @guarded_6 jump target
		fib daddr type local meta l4proto . th dport @guarded goto host
		ip daddr . meta l4proto . th dport @guarded_4 drop
		ip6 daddr . meta l4proto . th dport @guarded_6 drop
	}
}
";
        assert_eq!(ruleset.render(&keep, &[]), expected);
    }

    #[test]
    fn a_port_that_several_doors_open_lets_the_grants_of_each_through() {
        let doors = vec![door("a", &["22", "53/udp"], None), door("b", &["22"], None)];
        let text = Ruleset { doors, ..Ruleset::default() }.render(&[], &[]);
        assert!(text.contains("chain port_tcp_22 {\n\t\tjump door_a\n\t\tjump door_b\n"));
        assert!(text.contains("chain port_udp_53 {\n\t\tjump door_a\n\t}"));
        assert!(text.contains("elements = { tcp . 22, udp . 53 }"));
    }

    #[test]
    fn the_port_of_a_target_is_guarded_at_that_address_only() {
        let doors =
            vec![door("a", &["22"], Some("192.0.2.10")), door("b", &["22"], Some("2001:db8::10"))];
        let text = Ruleset { doors, ..Ruleset::default() }.render(&[], &[]);
        assert!(text.contains("elements = { 192.0.2.10 . tcp . 22 }"));
        assert!(text.contains("vmap { 192.0.2.10 . tcp . 22 : jump port_tcp_22_at_192.0.2.10 }"));
        assert!(
            text.contains("vmap { 2001:db8::10 . tcp . 22 : jump port_tcp_22_at_2001-db8--10 }")
        );
        assert!(!text.contains("elements = { tcp . 22"));
    }

    #[test]
    fn a_lock_on_trial_ends_by_the_kernels_clock() {
        let doors = vec![door("a", &["22"], None), door("b", &["23"], Some("192.0.2.10"))];
        let locked_for = Some(Duration::from_secs(120));
        let text = Ruleset { doors, locked_for, ..Ruleset::default() }.render(&[], &[]);
        assert!(text.contains("{ tcp . 22 timeout 120000ms }"));
        assert!(text.contains("{ 192.0.2.10 . tcp . 23 timeout 120000ms }"));
    }

    #[test]
    fn connections_older_than_the_table_go_on() {
        let older = ["192.0.2.2:4000", "[2001:db8::2]:4001"].map(|peer| Older {
            connection: Connection { peer: peer.parse().unwrap(), port: 22 },
            left: Duration::from_secs(1),
        });
        let text = Ruleset::default().render(&[], &older);
        assert!(text.contains("elements = { 192.0.2.2 . 4000 . 22 timeout 1000ms }"));
        assert!(text.contains("elements = { 2001:db8::2 . 4001 . 22 timeout 1000ms }"));
        assert!(text.contains("ip saddr . tcp sport . tcp dport @older_4 accept"));
    }

    #[test]
    fn of_two_grants_for_one_address_the_longer_is_kept() {
        let doors = vec![door("a", &["22"], None)];
        let keep = [
            element("a", "192.0.2.2", 0, 5, ""),
            element("a", "::ffff:192.0.2.2", 0, 9, ""),
            element("a", "192.0.2.2", 0, 7, ""),
        ];
        let text = Ruleset { doors, ..Ruleset::default() }.render(&keep, &[]);
        assert!(text.contains("elements = { 192.0.2.2 timeout 9ms }"));
    }

    proptest! {
        #[test]
        fn the_name_of_a_set_says_whose_it_is(
            name in "[A-Za-z0-9_.-]{1,32}", bound: bool, v4: bool,
        ) {
            let set = DoorSet { door: &name, bound, v4 };
            let shown = set.to_string();
            prop_assert_eq!(DoorSet::read(&shown), Some(set));
        }

        #[test]
        fn reading_any_name_is_no_panic(text in ".{0,40}") {
            let _ = DoorSet::read(&text);
        }
    }
}
