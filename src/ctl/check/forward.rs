//! Warnings about what doors forward, on the host that is to be the gateway: pure.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::guard::HostContext;
use crate::config::{Client, Diagnostic, Door, Family, Forward, Loaded, Place};

/// A forward of a door, and where it is written.
#[derive(Clone, Copy)]
struct Forwarding<'a> {
    door: &'a Door,
    forward: Forward,
    at: &'a Place,
}

/// What is to be said of a forward, and what to do.
type Doubt = (String, String);

/// Warnings about all forwards.
pub(super) fn doubts(loaded: &Loaded, around: &HostContext) -> Vec<Diagnostic> {
    let doors = loaded.config.doors.iter().zip(&loaded.places.doors);
    let forwards = doors.flat_map(|(door, places)| {
        let forwards = door.opening.forwards.iter().zip(&places.forwards);
        forwards.map(move |(&forward, at)| Forwarding { door, forward, at })
    });
    let all: Vec<_> = forwards.collect();
    let (mut told, mut warnings) = (HashSet::new(), Vec::new());
    for (index, one) in all.iter().copied().enumerate() {
        let mut doubts = one.on_the_way(around);
        // Of each family once.
        doubts.extend(one.not_a_router(around).filter(|_| told.insert(Family::of(one.forward.to))));
        doubts.extend(one.beside_others(loaded, around));
        let mut earlier = all[..index].iter().rev();
        doubts.extend(earlier.find_map(|other| one.contradiction(*other, loaded)));
        let warn = |(message, help): Doubt| one.at.warning(message).help(help);
        warnings.extend(doubts.into_iter().map(warn));
    }
    warnings
}

impl Forwarding<'_> {
    fn not_a_router(self, around: &HostContext) -> Option<Doubt> {
        let (family, to) = (Family::of(self.forward.to), self.forward.to);
        let (name, key) = match family {
            Family::V4 => ("IPv4", "net.ipv4.ip_forward"),
            Family::V6 => ("IPv6", "net.ipv6.conf.all.forwarding"),
        };
        let message = format!("this host leads no {name} on: {key} is 0");
        let file = "/etc/sysctl.d/50-gateway.conf";
        let help = format!("write '{key} = 1' into {file}, and run 'sysctl -p {file}'");
        let is_ready = around.forwards.contains(&family) || around.addresses.contains(&to);
        (!is_ready).then_some((message, help))
    }

    /// Why nothing may come to the host.
    fn on_the_way(self, around: &HostContext) -> Vec<Doubt> {
        let Forward { on, to, port, .. } = self.forward;
        let (port, address) = (self.forward.inner(), SocketAddr::new(to, port.get()));
        let here = |chain: String| (chain, format!("a rule for {port} there"));
        let dropped: Vec<Doubt> = match &around.ruleset {
            None => Vec::new(),
            Some(rules) if around.addresses.contains(&to) => {
                rules.dropping(port).into_iter().map(here).collect()
            }
            Some(rules) => rules.dropping_to(port, to),
        };
        let dropped = dropped.into_iter().map(|(chain, rule)| {
            let help = format!("let it through, and keep that over a reboot: {rule}");
            (format!("{on} may lead nowhere: {address} is dropped by {chain}"), help)
        });
        let help = "is that its address, and is the interface to it up?";
        let no_way = (format!("this host knows no way to {to}"), help.to_owned());
        let is_lost = around.unreachable.contains(&to);
        is_lost.then_some(no_way).into_iter().chain(dropped).collect()
    }

    /// Where the port leads others.
    fn beside_others(self, loaded: &Loaded, around: &HostContext) -> Option<Doubt> {
        let on = self.forward.on;
        let opens = |door: &Door| door.opening.ports.iter().any(|ports| ports.contains(on));
        let locks = |it: &&Door| it.opening.is_locked() && opens(it) && self.is_beside(it);
        match loaded.config.doors.iter().find(locks).map(Door::name) {
            Some(name) if name == self.door.name() => None,
            Some(name) => Some((
                format!("{on} is opened by door '{name}' too: whoever has only that open meets this host there"),
                "forward another port, unless that is meant".to_owned(),
            )),
            None => around.listening.contains(on).then(|| (
                format!("something listens on {on} here: everybody whom this door does not lead on reaches it"),
                format!("forward another port; or add open: [{on}] to the door, which locks it for them"),
            )),
        }
    }

    fn is_beside(self, door: &Door) -> bool {
        door.recognition.target == self.door.recognition.target
    }

    /// Whether one client may have both open, and is led to different hosts.
    fn contradiction(self, other: Self, loaded: &Loaded) -> Option<Doubt> {
        let [one, two] = [self.forward, other.forward];
        let is_same = one.on == two.on && Family::of(one.to) == Family::of(two.to);
        let differs = (one.to, one.port) != (two.to, two.port);
        let names = [self.door.name(), other.door.name()];
        let has_both = |it: &Client| names.into_iter().all(|name| it.doors.contains(name));
        let is_anybodys = |it: Self| !it.door.recognition.sequence.is_empty();
        let is_of_one = || is_anybodys(self) || is_anybodys(other);
        let is_of_client = || loaded.config.clients.iter().any(has_both);
        let may_be_both = || is_of_one() || is_of_client();
        let is_one = is_same && differs && self.is_beside(other.door) && may_be_both();
        let (on, name, to) = (one.on, other.door.name(), two.to);
        is_one.then(|| (
            format!("{on} is forwarded by door '{name}' too, to {to}: whoever opens both is led by the one opened last"),
            format!("forward another port; the other is at {}", other.at),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::ruleset::HostRuleset;
    use super::*;
    use crate::config::diagnostic::SourceText;
    use crate::config::load::parse;

    const SSH: &str = "doors: {ssh: {sequence: [201, 403, 302], forward: {on: 2222, to: 198.51.100.7, port: 22}}}";

    fn router() -> HostContext {
        HostContext { forwards: vec![Family::V4, Family::V6], ..HostContext::default() }
    }

    fn said(text: &str, around: &HostContext) -> Vec<String> {
        let loaded = parse(&SourceText::new("f.yaml", text)).unwrap();
        doubts(&loaded, around).iter().map(|doubt| doubt.message.clone()).collect()
    }

    #[test]
    fn a_router_that_lets_it_through_is_told_nothing() {
        assert_eq!(said(SSH, &router()), [""; 0]);
    }

    #[test]
    fn a_host_that_is_no_router_is_told_so_once_for_each_family() {
        let none = HostContext::default();
        assert_eq!(said(SSH, &none), ["this host leads no IPv4 on: net.ipv4.ip_forward is 0"]);
        let text = "doors: {a: {sequence: [201, 403, 302], forward: [
            {on: 81, to: '2001:db8:1::7'}, {on: 82, to: 198.51.100.7}, {on: 83, to: 198.51.100.8}]}}";
        assert_eq!(
            said(text, &none),
            [
                "this host leads no IPv6 on: net.ipv6.conf.all.forwarding is 0",
                "this host leads no IPv4 on: net.ipv4.ip_forward is 0"
            ]
        );
        // To one of its own addresses nothing has to be routed.
        let addresses = vec!["198.51.100.7".parse().unwrap()];
        assert_eq!(said(SSH, &HostContext { addresses, ..none }), [""; 0]);
    }

    #[test]
    fn a_host_to_which_no_route_leads_is_named() {
        let unreachable = vec!["198.51.100.7".parse().unwrap()];
        let around = HostContext { unreachable, ..router() };
        assert_eq!(said(SSH, &around), ["this host knows no way to 198.51.100.7"]);
    }

    #[test]
    fn a_firewall_that_drops_on_the_way_is_named_with_what_to_type() {
        let ruleset = HostRuleset::parse(include_bytes!("captured/forward-nft.json"));
        let around = HostContext { ruleset, ..router() };
        let loaded = parse(&SourceText::new("f.yaml", SSH)).unwrap();
        let [doubt] = doubts(&loaded, &around).try_into().unwrap();
        let text = doubt.to_string();
        for part in [
            "2222/tcp may lead nowhere: 198.51.100.7:22 is dropped by chain 'forward' of the table 'inet filter'",
            "nft insert rule inet filter forward ct status dnat ip daddr 198.51.100.7 tcp dport 22 accept",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn what_is_led_to_this_host_itself_comes_to_its_input() {
        let ruleset = HostRuleset::parse(include_bytes!("captured/iptables.json"));
        let addresses = vec!["198.51.100.7".parse().unwrap()];
        let around = HostContext { ruleset, addresses, ..router() };
        let text = SSH.replace("on: 2222", "on: 2222/udp").replace("port: 22}", "port: 9}");
        assert_eq!(
            said(&text, &around),
            [
                "2222/udp may lead nowhere: 198.51.100.7:9 is dropped by chain 'INPUT' of the table 'ip filter'"
            ]
        );
    }

    #[test]
    fn a_service_on_the_port_stays_reachable_for_everybody_else() {
        let listening = ["2222/tcp".parse().unwrap()].into_iter().collect();
        let around = HostContext { listening, ..router() };
        assert_eq!(
            said(SSH, &around),
            [
                "something listens on 2222/tcp here: everybody whom this door does not lead on reaches it"
            ]
        );
        let locked = SSH.replace("forward:", "open: [2222], forward:");
        assert_eq!(said(&locked, &around), [""; 0], "the door itself locks it");
    }

    #[test]
    fn a_port_that_another_door_locks_is_named() {
        let text =
            SSH.replace("ssh:", "here: {sequence: [1201, 1403, 1302], open: [2200-2300]}, ssh:");
        assert_eq!(
            said(&text, &router()),
            [
                "2222/tcp is opened by door 'here' too: whoever has only that open meets this host there"
            ]
        );
        let elsewhere = text.replace("open: [2200-2300]", "open: [2200-2300], target: 192.0.2.9");
        assert_eq!(said(&elsewhere, &router()), [""; 0]);
    }

    #[test]
    fn two_doors_that_lead_one_client_from_a_port_to_different_hosts_are_named() {
        let door = |name: &str, method: &str, to: &str| {
            format!("{name}: {{{method}, forward: {{on: 2222, to: {to}, port: 22}}}}")
        };
        let both = |method: [&str; 2], clients: &str| {
            let one = door("a", method[0], "198.51.100.7");
            let two = door("b", method[1], "198.51.100.8");
            said(&format!("{clients}doors: {{{one}, {two}}}"), &router())
        };
        let named = "2222/tcp is forwarded by door 'a' too, to 198.51.100.7: whoever opens both is led by the one opened last";
        assert_eq!(both(["sequence: [201, 403, 302]", "spa: true"], ""), [named]);
        let client = |name: &str, doors: &str| {
            format!(
                "{name}: {{doors: [{doors}], spa: {{public_key: Xf7dO2vUf2+ijuFdlp1bsOpTd01Ii9r53xxuASSz7yI=}}}}"
            )
        };
        let of_both = format!("clients: {{{}}}\n", client("x", "a, b"));
        assert_eq!(both(["spa: true"; 2], &of_both), [named]);
        let apart = format!("clients: {{{}}}\n", client("x", "a"));
        assert_eq!(both(["spa: true"; 2], &apart), [""; 0], "nobody may open both");
        let same = both(["sequence: [201, 403, 302]"; 2], "");
        assert_eq!(same.len(), 1, "{same:?}");
    }
}
