//! Warnings about guarded ports on the host that they are on: pure.

use std::collections::HashMap;
use std::net::IpAddr;

use super::ruleset::HostRuleset;
use crate::config::{Diagnostic, Door, Family, Loaded, Mechanism, Place};
use crate::proto::{Knock, OpenPorts, PortSet, Protocol};

/// Facts about the host, beyond its interfaces.
#[derive(Clone, Debug, Default)]
pub(super) struct HostContext {
    /// The SSH connection by which somebody is here.
    pub ssh: Option<SshConnection>,
    pub ruleset: Option<HostRuleset>,
    /// Whether the guard locks the port of that connection already.
    pub is_locked: bool,
    /// The ports on which something listens for others.
    pub listening: PortSet,
    /// The addresses of this host.
    pub addresses: Vec<IpAddr>,
    /// The families for which it is a router.
    pub forwards: Vec<Family>,
    /// The hosts that doors lead to, and no route does.
    pub unreachable: Vec<IpAddr>,
}

/// An SSH connection to this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ctl) struct SshConnection {
    pub client: IpAddr,
    pub server: IpAddr,
    pub port: Knock,
}

impl SshConnection {
    /// Reads what sshd puts into `SSH_CONNECTION`: `192.0.2.2 50123 192.0.2.1 22`.
    pub(in crate::ctl) fn parse(text: &str) -> Option<Self> {
        let address = |word: &str| {
            // The interface of a link-local address.
            let word = word.split_once('%').map_or(word, |(address, _)| address);
            word.parse().ok().map(|address: IpAddr| address.to_canonical())
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        let [client, _, server, port] = words.as_slice() else { return None };
        Some(Self {
            client: address(client)?,
            server: address(server)?,
            port: Knock::new(Protocol::Tcp, port.parse().ok()?),
        })
    }
}

/// A port of a door that the guard locks, and where it is written.
#[derive(Clone, Copy)]
struct Guarded<'a> {
    door: &'a Door,
    port: OpenPorts,
    at: &'a Place,
}

impl Guarded<'_> {
    fn concerns(&self, address: IpAddr) -> bool {
        self.door.recognition.target.is_none_or(|target| target.to_canonical() == address)
    }
}

/// Warnings about the ports of doors, those that are guarded each once.
pub(super) fn doubts(loaded: &Loaded, around: &HostContext) -> Vec<Diagnostic> {
    let mut warnings: Vec<_> = ports(loaded).filter_map(|one| untracked(one, around)).collect();
    let mut guarded: HashMap<OpenPorts, Guarded<'_>> = HashMap::new();
    for one in ports(loaded).filter(|one| one.door.opening.mechanism == Mechanism::Guard) {
        // Several doors may open one port.
        if guarded.contains_key(&one.port) {
            continue;
        }
        guarded.insert(one.port, one);
        warnings.extend(locks_out(one, loaded, around));
        if one.door.recognition.target.is_none_or(|target| around.addresses.contains(&target)) {
            warnings.extend(dropped_anyway(one, around));
            warnings.extend(unused(one, around));
        }
    }
    for other in ports(loaded).filter(|other| other.door.opening.mechanism != Mechanism::Guard) {
        let locked = guarded.get(&other.port).filter(|one| one.door.opening.is_locked());
        warnings.extend(locked.map(|one| locked_anyway(other, *one)));
    }
    warnings
}

fn ports(loaded: &Loaded) -> impl Iterator<Item = Guarded<'_>> {
    loaded.config.doors.iter().zip(&loaded.places.doors).flat_map(|(door, places)| {
        let ports = door.opening.ports.iter().zip(&places.opens);
        ports.map(move |(&port, at)| Guarded { door, port, at })
    })
}

fn locks_out(one: Guarded<'_>, loaded: &Loaded, around: &HostContext) -> Option<Diagnostic> {
    let SshConnection { client, server, port } = around.ssh?;
    let trusted = loaded.config.settings.trusted.iter().any(|network| network.contains(client));
    // Whoever is here although it is locked knows how to get in.
    let is_elsewhere = !one.port.contains(port) || !one.concerns(server);
    let is_open = one.door.opening.is_observed();
    if is_open || is_elsewhere || trusted || client.is_loopback() || around.is_locked {
        return None;
    }
    let message = format!(
        "YOU MAY LOCK YOURSELF OUT: {port} is the port of the SSH connection that you are using, and {client} will have to knock for the next one"
    );
    Some(one.at.warning(message).help(format!(
        "keep this connection open; start with 'knockd --try 2m', or try the change with 'knockctl try': either takes it back by itself unless you confirm; or add {client} to 'trusted' below 'knockd:'"
    )))
}

fn dropped_anyway(one: Guarded<'_>, around: &HostContext) -> Option<Diagnostic> {
    let port = one.port.first();
    // What is published passes by the rules for the host itself.
    let chains = around.ruleset.as_ref().filter(|rules| !rules.publishes(port))?.dropping(port);
    if chains.is_empty() {
        return None;
    }
    let (port, chains) = (one.port, chains.join(" and by "));
    let message = format!("{port} may stay closed when this door is open: dropped by {chains}");
    Some(one.at.warning(message).help(format!(
        "let {port} through in that firewall, for everybody: the guard comes before it, and locks the port"
    )))
}

fn untracked(one: Guarded<'_>, around: &HostContext) -> Option<Diagnostic> {
    let follows = one.door.opening.hold.is_some() || one.door.opening.cuts;
    around.ruleset.as_ref().filter(|it| follows && it.untracks(one.port.first()))?;
    let message = format!(
        "a rule seems to say notrack for {}: its connections can neither hold this door nor be cut",
        one.port
    );
    let help = "without connection tracking nobody knows of them: take that rule away";
    Some(one.at.warning(message).help(help))
}

fn unused(one: Guarded<'_>, around: &HostContext) -> Option<Diagnostic> {
    // What has a range takes a port of it when it needs one.
    let port = one.port.single()?;
    let is_published = around.ruleset.as_ref().is_some_and(|rules| rules.publishes(port));
    if is_published || around.listening.contains(port) {
        return None;
    }
    let warning = one.at.warning(format!("nothing listens on {} now", one.port));
    Some(warning.help("is it the right port, the right protocol, and is the service running?"))
}

fn locked_anyway(other: Guarded<'_>, guarded: Guarded<'_>) -> Diagnostic {
    let (port, how) = (other.port, &other.door.opening.mechanism);
    let message = format!(
        "{port} is opened by {how} here, and locked by the guard for door '{}': it stays locked",
        guarded.door.name()
    );
    let help = "open it via: guard here too, or in another way there";
    other.at.warning(message).help(format!("{help}; the other is at {}", guarded.at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::diagnostic::SourceText;
    use crate::config::load::parse;

    const SSH: &str = "doors: {ssh: {sequence: [201, 403, 302], open: [22]}}";

    fn said(text: &str, around: &HostContext) -> Vec<String> {
        let loaded = parse(&SourceText::new("f.yaml", text)).unwrap();
        doubts(&loaded, around).iter().map(|doubt| doubt.message.clone()).collect()
    }

    fn here() -> HostContext {
        HostContext {
            ssh: SshConnection::parse("192.0.2.2 50123 192.0.2.1 22"),
            ruleset: None,
            is_locked: false,
            listening: ["22/tcp", "80/tcp"].into_iter().map(|port| port.parse().unwrap()).collect(),
            addresses: vec!["192.0.2.1".parse().unwrap()],
            ..HostContext::default()
        }
    }

    fn listing(objects: &str) -> Option<HostRuleset> {
        let ruleset = HostRuleset::parse(format!(r#"{{"nftables": [{objects}]}}"#).as_bytes());
        assert!(ruleset.is_some());
        ruleset
    }

    #[test]
    fn a_guarded_port_by_which_one_is_here_locks_one_out() {
        let said = said(SSH, &here());
        assert_eq!(said.len(), 1);
        assert!(said[0].starts_with("YOU MAY LOCK YOURSELF OUT: 22/tcp"), "{said:?}");
        assert!(said[0].contains("192.0.2.2"), "{said:?}");
    }

    #[test]
    fn a_door_that_follows_what_is_not_tracked_is_told_of() {
        let rule = |expr: &str| {
            let chain = r#"{"chain": {"family": "inet", "table": "raw", "name": "pre",
                "hook": "prerouting", "policy": "accept"}}"#;
            let rule = format!(
                r#"{{"rule": {{"family": "inet", "table": "raw", "chain": "pre", "expr": [{expr}]}}}}"#
            );
            HostContext { ruleset: listing(&format!("{chain}, {rule}")), ssh: None, ..here() }
        };
        let port = |port| {
            format!(
                r#"{{"match": {{"op": "==", "left": {{"payload": {{"protocol": "tcp",
                    "field": "dport"}}}}, "right": {port}}}}}, {{"notrack": null}}"#
            )
        };
        let door = |more: &str| SSH.replace("[22]", &format!("[22], {more}"));
        for (more, expr, is_told) in [
            ("hold: {}", port(22), true),
            ("on_expiry: cut", port(22), true),
            ("via: iptables, hold: {}", r#"{"notrack": null}"#.to_owned(), true),
            ("hold: {}", port(80), false),
            ("open_for: 20s", port(22), false),
        ] {
            let said = said(&door(more), &rule(&expr));
            let expected = "a rule seems to say notrack for 22/tcp";
            assert_eq!(said.iter().any(|it| it.starts_with(expected)), is_told, "{more} {said:?}");
        }
    }

    #[test]
    fn whoever_is_trusted_or_here_by_another_way_is_not_locked_out() {
        let trusted = format!("knockd: {{trusted: [192.0.2.0/30]}}\n{SSH}");
        let elsewhere = SSH.replace("open:", "target: 192.0.2.9, open:");
        for text in [&trusted, &elsewhere] {
            assert_eq!(said(text, &here()), [""; 0], "{text}");
        }
        for connection in ["192.0.2.2 50123 192.0.2.1 80", "127.0.0.1 50123 127.0.0.1 22"] {
            let around = HostContext { ssh: SshConnection::parse(connection), ..here() };
            assert_eq!(said(SSH, &around), [""; 0], "{connection}");
        }
    }

    #[test]
    fn whoever_is_here_although_it_is_locked_is_not_warned() {
        assert_eq!(said(SSH, &HostContext { is_locked: true, ..here() }), [""; 0]);
    }

    #[test]
    fn a_port_that_another_firewall_drops_stays_closed() {
        let ruleset = listing(
            r#"{"chain": {"family": "ip", "table": "filter", "name": "INPUT", "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
               {"chain": {"family": "ip6", "table": "filter", "name": "INPUT", "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}}"#,
        );
        let around = HostContext { ssh: None, ruleset, ..here() };
        assert_eq!(
            said(SSH, &around),
            [
                "22/tcp may stay closed when this door is open: dropped by chain 'INPUT' of the table 'ip filter' and by chain 'INPUT' of the table 'ip6 filter'"
            ]
        );
    }

    #[test]
    fn a_port_that_is_published_passes_by_the_rules_for_the_host_itself() {
        let input = r#"{"chain": {"family": "ip", "table": "filter", "name": "INPUT", "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}}"#;
        let published = r#"{"chain": {"family": "ip", "table": "nat", "name": "PREROUTING", "type": "nat", "hook": "prerouting", "prio": -100, "policy": "accept"}},
            {"rule": {"family": "ip", "table": "nat", "chain": "PREROUTING", "handle": 2, "expr": [
                {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 22}},
                {"xt": {"type": "target", "name": "DNAT"}}]}}"#;
        let ruleset = listing(&format!("{input},{published}"));
        assert_eq!(said(SSH, &HostContext { ssh: None, ruleset, ..here() }), [""; 0]);
        let around = HostContext { ssh: None, ruleset: listing(input), ..here() };
        assert_eq!(said(SSH, &around).len(), 1);
    }

    #[test]
    fn a_guarded_port_without_a_service_is_named_once() {
        let text = "doors: {a: {sequence: [1, 3, 2], open: [8443]}, b: {sequence: [4, 6, 5], open: [8443]}}";
        assert_eq!(said(text, &here()), ["nothing listens on 8443/tcp now"]);
    }

    #[test]
    fn a_port_that_is_published_need_not_be_listened_on() {
        let rule = |expr: &str| {
            listing(&format!(
                r#"{{"chain": {{"family": "ip", "table": "nat", "name": "DOCKER", "handle": 1, "hook": "prerouting"}}}},
                   {{"rule": {{"family": "ip", "table": "nat", "chain": "DOCKER", "handle": 2,
                     "expr": [{{"match": {{"op": "!=", "left": {{"meta": {{"key": "iifname"}}}}, "right": "docker0"}}}},
                              {{"match": {{"op": "==", "left": {{"payload": {{"protocol": "tcp", "field": "dport"}}}}, "right": 8443}}}},
                              {{"counter": null}}, {expr}]}}}}"#
            ))
        };
        let text = "doors: {a: {sequence: [1, 3, 2], open: [8443]}}";
        for expr in [
            r#"{"xt": {"type": "target", "name": "DNAT"}}"#,
            r#"{"dnat": {"addr": "172.17.0.2", "port": 443}}"#,
            r#"{"redirect": {"port": 443}}"#,
        ] {
            assert_eq!(
                said(text, &HostContext { ruleset: rule(expr), ..here() }),
                [""; 0],
                "{expr}"
            );
            let other = text.replace("8443", "8444");
            let around = HostContext { ruleset: rule(expr), ..here() };
            assert_eq!(said(&other, &around), ["nothing listens on 8444/tcp now"]);
        }
        let around = HostContext { ruleset: rule(r#"{"accept": null}"#), ..here() };
        assert_eq!(said(text, &around), ["nothing listens on 8443/tcp now"]);
    }

    #[test]
    fn a_port_that_is_opened_twice_stays_locked() {
        let text = "doors: {a: {sequence: [1, 3, 2], open: [80]}, b: {sequence: [4, 6, 5], open: [22, 80], via: nft}}";
        assert_eq!(
            said(text, &here()),
            ["80/tcp is opened by nft here, and locked by the guard for door 'a': it stays locked"]
        );
    }

    #[test]
    fn an_ssh_connection_is_read_as_sshd_writes_it() {
        let read = |text: &str| SshConnection::parse(text);
        let ssh = read("fe80::1%eth0 50123 ::ffff:192.0.2.1 2222").unwrap();
        assert_eq!(ssh.client.to_string(), "fe80::1");
        assert_eq!(ssh.server.to_string(), "192.0.2.1");
        assert_eq!(ssh.port.to_string(), "2222/tcp");
        for text in ["", "192.0.2.2 1 192.0.2.1", "192.0.2.2 1 192.0.2.1 0", "a 1 b 2", "1 2 3 4 5"]
        {
            assert_eq!(read(text), None, "{text:?}");
        }
    }
}
