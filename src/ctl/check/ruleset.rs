//! An estimate of what the nftables of a host do with a new packet to one of its ports, or with one
//! that is led on to another host: pure.
//!
//! An estimate, as far as `nft -j list ruleset` goes: whence it comes, interfaces and the contents
//! of named sets are not known.

use std::net::IpAddr;

use derive_more::Display;
use serde::Deserialize;
use serde_json::Value;

use crate::firewall::ruleset;
use crate::proto::{Knock, Network, Protocol};

/// All chains of a host and their rules.
#[derive(Clone, Debug, Default)]
pub(super) struct HostRuleset {
    chains: Vec<Chain>,
}

#[derive(Clone, Debug, Deserialize, Display)]
#[display("chain '{name}' of the table '{family} {table}'")]
struct Chain {
    family: String,
    table: String,
    name: String,
    hook: Option<String>,
    policy: Option<String>,
    /// The expressions of each rule, which are listed apart.
    #[serde(skip)]
    rules: Vec<Vec<Value>>,
}

/// A new packet from elsewhere.
#[derive(Clone, Copy, Debug)]
struct NewPacket {
    port: Knock,
    /// The host that it is led on to; `None`: it is for this one.
    to: Option<IpAddr>,
}

impl Chain {
    fn is(&self, family: &str, table: &str, name: &str) -> bool {
        (self.family == family && self.table == table) && self.name == name
    }
}

impl HostRuleset {
    /// Reads what `nft -j list ruleset` prints; `None` where it is something else.
    pub(super) fn parse(json: &[u8]) -> Option<Self> {
        let mut listing: Value = serde_json::from_slice(json).ok()?;
        let objects = listing.get_mut("nftables")?.as_array_mut()?;
        let chains = objects.iter().filter_map(|it| Chain::deserialize(it.get("chain")?).ok());
        let mut chains: Vec<Chain> = chains.collect();
        for rule in objects.iter_mut().filter_map(|it| it.get_mut("rule")) {
            let Some(Value::Array(expr)) = rule.get_mut("expr").map(Value::take) else { continue };
            let of = ["family", "table", "chain"].map(|key| rule[key].as_str());
            if let [Some(family), Some(table), Some(chain)] = of
                && let Some(chain) = chains.iter_mut().find(|it| it.is(family, table, chain))
            {
                chain.rules.push(expr);
            }
        }
        Some(Self { chains })
    }

    /// Whether packets to a port of this host are passed on to another host, a container, or
    /// another port.
    pub(super) fn publishes(&self, port: Knock) -> bool {
        self.meets(port, &|verdict, path| matches!(verdict, RuleVerdict::Translate) && path.named)
    }

    /// Whether the kernel is told not to track connections to a port of this host.
    pub(super) fn untracks(&self, port: Knock) -> bool {
        self.meets(port, &|verdict, path| {
            matches!(verdict, RuleVerdict::Untrack) && (path.named || path.certain)
        })
    }

    /// Whether a packet to a port may come to such a verdict before it is known where it goes.
    fn meets(&self, port: Knock, wanted: &impl Fn(&RuleVerdict<'_>, Path) -> bool) -> bool {
        let packet = NewPacket { port, to: None };
        self.hooked("prerouting").any(|chain| self.leads(chain, packet, Path::EVERY, wanted))
    }

    /// The chains, other than the guard's, to which packets come first.
    fn hooked(&self, hook: &str) -> impl Iterator<Item = &Chain> {
        let is_guards = |it: &Chain| it.family == "inet" && it.table == ruleset::TABLE;
        self.chains.iter().filter(move |it| it.hook.as_deref() == Some(hook) && !is_guards(it))
    }

    /// Whether a packet that has come to a chain may come to such a verdict.
    fn leads(
        &self,
        chain: &Chain,
        packet: NewPacket,
        path: Path,
        wanted: &impl Fn(&RuleVerdict<'_>, Path) -> bool,
    ) -> bool {
        chain.rules.iter().any(|rule| {
            let (verdicts, here) = weigh(rule, packet);
            let path = path.and(here);
            let leads = |to: &Chain| self.leads(to, packet, path.through(true), wanted);
            verdicts.iter().any(|(verdict, _)| match verdict {
                verdict if wanted(verdict, path) => true,
                RuleVerdict::Jump(target) | RuleVerdict::Goto(target) => {
                    self.called(chain, target, path).is_some_and(leads)
                }
                _ => false,
            })
        })
    }

    /// The chains, other than the guard's, that seem to drop every new packet to a port of this
    /// host, each as `chain 'input' of the table 'inet filter'`.
    pub(super) fn dropping(&self, port: Knock) -> Vec<String> {
        self.chains_that_drop("input", NewPacket { port, to: None }).map(Chain::to_string).collect()
    }

    /// The same for what is led on to a port of another host: each with the command for a rule
    /// that lets it through.
    pub(super) fn dropping_to(&self, port: Knock, to: IpAddr) -> Vec<(String, String)> {
        let others = if to.is_ipv4() { "ip6" } else { "ip" };
        let packet = NewPacket { port, to: Some(to) };
        let chains = self.chains_that_drop("forward", packet);
        let chains = chains.filter(|chain| chain.family != others);
        chains.map(|chain| (chain.to_string(), self.remedy(chain, port, to))).collect()
    }

    fn chains_that_drop(&self, hook: &str, packet: NewPacket) -> impl Iterator<Item = &Chain> {
        self.hooked(hook).filter(move |chain| match self.fate(chain, packet, Path::EVERY) {
            Fate::Dropped => true,
            Fate::Accepted => false,
            Fate::Undecided => chain.policy.as_deref() == Some("drop"),
        })
    }

    /// What a person types for a rule in a chain, in the words of the firewall that it is of. Where
    /// these can say so, it is for what is led on alone.
    fn remedy(&self, chain: &Chain, Knock { port, protocol }: Knock, to: IpAddr) -> String {
        let Chain { family, table, name, .. } = chain;
        let (six, version) = if to.is_ipv4() { ("", 4) } else { ("6", 6) };
        let is_ufws = |it: &Chain| it.is(family, table, &format!("ufw{six}-before-forward"));
        if table == "firewalld" {
            let policy = "firewall-cmd --permanent --policy=knockd";
            let rule = format!(
                "rule family=ipv{version} destination address={to} port port={port} protocol={protocol} accept"
            );
            format!(
                "firewall-cmd --permanent --new-policy=knockd; {policy} --add-ingress-zone=ANY; {policy} --add-egress-zone=ANY; {policy} --add-rich-rule='{rule}'; firewall-cmd --reload"
            )
        } else if self.chains.iter().any(is_ufws) {
            format!("ufw route allow proto {protocol} to {to} port {port}")
        } else if (family != "inet" && table == "filter") && name == "FORWARD" {
            format!(
                "ip{six}tables -I FORWARD -d {to} -p {protocol} --dport {port} -m conntrack --ctstate DNAT -j ACCEPT"
            )
        } else {
            format!(
                "nft insert rule {family} {table} {name} ct status dnat ip{six} daddr {to} {protocol} dport {port} accept"
            )
        }
    }

    /// The fate of a packet that has come to a chain.
    fn fate(&self, chain: &Chain, packet: NewPacket, path: Path) -> Fate {
        // Some packets may have left the chain already, so nothing further holds for all of them.
        let mut left = false;
        for rule in &chain.rules {
            let (verdicts, here) = weigh(rule, packet);
            let within = path.and(here);
            for (verdict, certain) in verdicts {
                let certain = certain && here.certain;
                let fate = match verdict {
                    RuleVerdict::Accept if certain && path.certain || within.named => {
                        Fate::Accepted
                    }
                    RuleVerdict::Drop => Fate::Dropped,
                    RuleVerdict::Jump(target) | RuleVerdict::Goto(target) => {
                        let within = within.through(certain);
                        let called = self.called(chain, target, within);
                        called.map_or(Fate::Undecided, |it| self.fate(it, packet, within))
                    }
                    _ => Fate::Undecided,
                };
                let leaves = matches!(verdict, RuleVerdict::Return | RuleVerdict::Goto(_));
                match fate {
                    Fate::Accepted => return fate,
                    Fate::Dropped if certain && !left => return fate,
                    Fate::Dropped if certain => return Fate::Undecided,
                    Fate::Undecided if leaves && certain => return fate,
                    // From some addresses or interfaces alone, or not from all.
                    Fate::Dropped | Fate::Undecided => left |= leaves && fate == Fate::Undecided,
                }
            }
        }
        Fate::Undecided
    }

    /// The chain that a rule of another one names, unless it is too deep within others.
    fn called(&self, from: &Chain, target: &str, path: Path) -> Option<&Chain> {
        let mut chains = self.chains.iter().filter(|_| path.depth < MAX_DEPTH);
        chains.find(|chain| chain.is(&from.family, &from.table, target))
    }
}

/// The kernel's own limit of jumps within jumps.
const MAX_DEPTH: u8 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Accepted,
    Dropped,
    Undecided,
}

/// By which rules a packet has come to where it is.
#[derive(Clone, Copy, Debug)]
struct Path {
    /// Whether every packet to the port comes here.
    certain: bool,
    /// Whether a rule has named the port: whoever wrote it has thought of it.
    named: bool,
    depth: u8,
}

impl Path {
    /// Every packet to the port.
    const EVERY: Self = Self { certain: true, named: false, depth: 0 };
    const SOME: Self = Self { certain: false, ..Self::EVERY };
    const NAMED: Self = Self { named: true, ..Self::SOME };

    const fn and(self, other: Self) -> Self {
        let (certain, named) = (self.certain && other.certain, self.named || other.named);
        Self { certain, named, depth: self.depth }
    }

    const fn through(self, certain: bool) -> Self {
        Self { certain: self.certain && certain, depth: self.depth + 1, ..self }
    }
}

#[derive(Clone, Copy, Debug)]
enum RuleVerdict<'a> {
    Accept,
    /// It goes to another port or host, and passes no further rule of its kind.
    Translate,
    /// Its connection is not tracked.
    Untrack,
    Drop,
    Return,
    Jump(&'a str),
    Goto(&'a str),
}

/// The verdicts of a rule, each with whether it is certain once the rule is reached, and what the
/// rule asks of a packet. No verdicts where it does not concern the port.
fn weigh(rule: &[Value], packet: NewPacket) -> (Vec<(RuleVerdict<'_>, bool)>, Path) {
    let mut path = Path::EVERY;
    let mut verdicts = Vec::new();
    for (kind, value) in rule.iter().filter_map(|one| one.as_object()?.iter().next()) {
        let passes = match kind.as_str() {
            "match" => test(&value["left"], &value["op"], &value["right"], packet),
            "xt" => match (value["type"].as_str(), value["name"].as_str()) {
                (Some("match"), Some("comment")) => Some(Path::EVERY),
                (Some("match"), Some("multiport" | "tcp" | "udp")) => Some(Path::NAMED),
                (Some("match"), _) | (None, _) => Some(Path::SOME),
                (_, Some(target)) => {
                    verdicts.extend(verdict(target, value).map(|verdict| (verdict, true)));
                    Some(Path::EVERY)
                }
                (_, None) => Some(Path::EVERY),
            },
            "limit" | "quota" => Some(Path::SOME),
            "vmap" => {
                let (found, passes) = look_up(value, packet);
                verdicts.extend(found);
                Some(passes)
            }
            kind => {
                verdicts.extend(verdict(kind, value).map(|verdict| (verdict, true)));
                Some(if kind == "queue" { Path::NAMED } else { Path::EVERY })
            }
        };
        let Some(passes) = passes else { return (Vec::new(), path) };
        path = path.and(passes);
    }
    (verdicts, path)
}

fn verdict<'a>(kind: &str, value: &'a Value) -> Option<RuleVerdict<'a>> {
    let target = || value["target"].as_str();
    match kind {
        // What a program in user space does with a queue is not known.
        "accept" | "queue" => Some(RuleVerdict::Accept),
        "dnat" | "redirect" | "DNAT" | "REDIRECT" => Some(RuleVerdict::Translate),
        // The last is iptables' word for that, and for less.
        "notrack" | "CT" => Some(RuleVerdict::Untrack),
        "drop" | "reject" | "DROP" | "REJECT" => Some(RuleVerdict::Drop),
        "return" => Some(RuleVerdict::Return),
        "jump" => target().map(RuleVerdict::Jump),
        "goto" => target().map(RuleVerdict::Goto),
        _ => None,
    }
}

/// The verdicts of a map that a packet to the port may find.
fn look_up(map: &Value, packet: NewPacket) -> (Vec<(RuleVerdict<'_>, bool)>, Path) {
    let equal = Value::from("==");
    let Some(pairs) = map["data"]["set"].as_array() else {
        // A named map, whose contents are not listed: it may accept, or publish.
        return match test(&map["key"], &equal, &Value::Null, packet) {
            Some(Path { named: true, .. }) => {
                let verdicts = [RuleVerdict::Accept, RuleVerdict::Translate];
                (verdicts.map(|verdict| (verdict, false)).into(), Path::NAMED)
            }
            _ => (Vec::new(), Path::SOME),
        };
    };
    let mut found = Vec::new();
    let mut path = Path::EVERY;
    for pair in pairs {
        let Some(passes) = test(&map["key"], &equal, &pair[0], packet) else { continue };
        let verdicts = pair[1].as_object().into_iter().flatten();
        let verdicts = verdicts.filter_map(|(kind, value)| verdict(kind, value));
        found.extend(verdicts.map(|verdict| (verdict, passes.certain)));
        path.named |= passes.named;
    }
    (found, path)
}

/// Which new packets to a port an expression lets pass; `None`: none.
fn test(left: &Value, op: &Value, right: &Value, packet: NewPacket) -> Option<Path> {
    let differs = op.as_str() == Some("!=");
    if let Some(parts) = left["concat"].as_array() {
        return parts
            .iter()
            .map(|part| test(part, op, &Value::Null, packet))
            .find(|passes| passes.is_none_or(|path| path.named))
            .unwrap_or(Some(Path::SOME));
    }
    let known = |known: Option<bool>| match known.map(|known| known != differs) {
        Some(false) => None,
        Some(true) => Some(Path::EVERY),
        None => Some(Path::SOME),
    };
    let is_its_own = || known(among(right, &|value| is_protocol(value, packet.port.protocol)));
    let left = left.get("&").and_then(|and| and.get(0)).unwrap_or(left);
    if let (Some(protocol), Some(field)) =
        (left["payload"]["protocol"].as_str(), left["payload"]["field"].as_str())
    {
        let own = packet.port.protocol.as_str();
        return match (protocol, field) {
            ("tcp" | "udp" | "th", "dport") if protocol == "th" || protocol == own => {
                let passes = known(among(right, &|value| is_port(value, packet.port)))?;
                Some(Path { named: !differs || !passes.certain, ..passes })
            }
            ("ip", "protocol") | ("ip6", "nexthdr") => is_its_own(),
            ("ip" | "ip6", "daddr") if let Some(to) = packet.to => {
                known(among(right, &|value| is_address(value, to)))
            }
            ("ip" | "ip6" | "th" | "ether" | "vlan", _) => Some(Path::SOME),
            (protocol, _) if protocol == own => Some(Path::SOME),
            // Another protocol, such as icmp.
            _ => None,
        };
    }
    match (left["meta"]["key"].as_str(), left["ct"]["key"].as_str()) {
        (Some("l4proto"), _) => is_its_own(),
        // Who knocks comes from elsewhere.
        (Some("iif" | "iifname"), _) if right.as_str() == Some("lo") => known(Some(false)),
        (_, Some("status")) if packet.to.is_some() && !differs => {
            let is_led_on = among(right, &|value| Some(value.as_str()? == "dnat")) == Some(true);
            // Whoever wrote it has thought of what is led on.
            Some(Path { named: is_led_on, ..known(is_led_on.then_some(true))? })
        }
        (_, Some("state")) => known(among(right, &|value| Some(value.as_str()? == "new"))),
        _ => Some(Path::SOME),
    }
}

/// Whether a value is, or holds, what is looked for; `None` where that is not known.
fn among(value: &Value, is: &impl Fn(&Value) -> Option<bool>) -> Option<bool> {
    let items = value.as_array().or_else(|| value["set"].as_array());
    let Some(items) = items else {
        return is(value.get("elem").and_then(|elem| elem.get("val")).unwrap_or(value));
    };
    let mut sure = true;
    for item in items {
        match among(item, is) {
            Some(true) => return Some(true),
            Some(false) => {}
            None => sure = false,
        }
    }
    sure.then_some(false)
}

fn is_port(value: &Value, port: Knock) -> Option<bool> {
    let port = u64::from(port.port.get());
    if let Some(range) = value["range"].as_array() {
        return Some((range.first()?.as_u64()?..=range.get(1)?.as_u64()?).contains(&port));
    }
    Some(value.as_u64()? == port)
}

fn is_address(value: &Value, address: IpAddr) -> Option<bool> {
    let known = value.get("prefix").map_or(value, |prefix| &prefix["addr"]);
    let length = value["prefix"]["len"].as_u64().unwrap_or(u64::MAX).try_into();
    let (known, length) = (known.as_str()?.parse().ok()?, length.unwrap_or(u8::MAX));
    Some(Network::around(known, length).contains(address))
}

fn is_protocol(value: &Value, protocol: Protocol) -> Option<bool> {
    let number = u64::from(protocol.number());
    match value {
        Value::Number(known) => Some(known.as_u64() == Some(number)),
        Value::String(name) if !name.starts_with('@') => Some(name == protocol.as_str()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of these ports, those that a firewall seems to drop, as nft 1.0.6 lists it.
    fn dropped<'a>(json: &[u8], ports: &[&'a str]) -> Vec<&'a str> {
        let ruleset = HostRuleset::parse(json).unwrap();
        let dropped = |port: &&&str| !ruleset.dropping(port.parse().unwrap()).is_empty();
        ports.iter().filter(dropped).copied().collect()
    }

    #[test]
    fn the_rules_of_nft_that_name_a_port_let_it_through() {
        let json = include_bytes!("captured/nft.json");
        // By number, range, anonymous and named set, concatenation, map, jump and goto.
        let through = [
            "80", "443", "5000", "5010", "6005", "7000", "8000", "8100", "8200", "2222", "8300/udp",
        ];
        assert_eq!(dropped(json, &through), [""; 0]);
    }

    #[test]
    fn what_no_rule_of_nft_names_is_dropped_by_the_policy() {
        let ruleset = HostRuleset::parse(
            br#"{"nftables": [
                {"chain": {"family": "inet", "table": "filter", "name": "input", "type": "filter",
                           "hook": "input", "prio": 0, "policy": "drop"}},
                {"rule": {"family": "inet", "table": "filter", "chain": "input", "expr": [
                    {"match": {"op": "in", "left": {"ct": {"key": "state"}},
                               "right": ["established", "related"]}}, {"accept": null}]}},
                {"rule": {"family": "inet", "table": "filter", "chain": "input", "expr": [
                    {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}},
                               "right": {"range": [80, 90]}}}, {"accept": null}]}}]}"#,
        )
        .unwrap();
        let chain = "chain 'input' of the table 'inet filter'";
        assert_eq!(ruleset.dropping("22/tcp".parse().unwrap()), [chain]);
        assert_eq!(ruleset.dropping("80/udp".parse().unwrap()), [chain]);
        assert_eq!(ruleset.dropping("90/tcp".parse().unwrap()), [""; 0]);
    }

    #[test]
    fn iptables_drops_what_no_rule_names() {
        let json = include_bytes!("captured/iptables.json");
        assert_eq!(dropped(json, &["80", "60500/udp", "22/udp", "80/udp"]), ["22/udp", "80/udp"]);
        // A multiport match, of which nft does not say the ports, may be of any.
        assert_eq!(dropped(json, &["22/tcp", "443/tcp"]), [""; 0]);
    }

    /// Of the ports that the listings of containers know and others, those that are published.
    fn published(json: &[u8]) -> Vec<&'static str> {
        let ruleset = HostRuleset::parse(json).unwrap();
        let published = |port: &&str| ruleset.publishes(port.parse().unwrap());
        let ports = ["8443", "8080", "5353/udp", "443", "80", "53/udp", "8443/udp", "9999"];
        ports.into_iter().filter(published).collect()
    }

    #[test]
    fn the_published_ports_of_containers_are_found_and_no_others() {
        for json in [
            &include_bytes!("captured/docker.json")[..],
            include_bytes!("captured/netavark.json"),
            include_bytes!("captured/netavark-nft.json"),
            include_bytes!("captured/portmap.json"),
            include_bytes!("captured/kube-proxy.json"),
        ] {
            assert_eq!(published(json), ["8443", "8080", "5353/udp"]);
        }
    }

    #[test]
    fn a_map_of_ports_whose_contents_are_not_known_may_publish_all() {
        assert_eq!(published(include_bytes!("captured/kube-proxy-nft.json")).len(), 8);
    }

    #[test]
    fn the_zones_of_firewalld_are_followed() {
        let json = include_bytes!("captured/firewalld.json");
        assert_eq!(dropped(json, &["22", "80", "22/udp"]), ["80", "22/udp"]);
    }

    #[test]
    fn the_chains_of_ufw_are_followed() {
        let json = include_bytes!("captured/ufw.json");
        assert_eq!(dropped(json, &["22", "80", "22/udp"]), ["80", "22/udp"]);
    }

    /// What a firewall seems to drop of what is led on to 22/tcp of a host, and what to type.
    fn remedies(json: &[u8], to: &str) -> Vec<String> {
        let ruleset = HostRuleset::parse(json).unwrap();
        let found = ruleset.dropping_to("22/tcp".parse().unwrap(), to.parse().unwrap());
        found.into_iter().map(|(chain, rule)| format!("{chain}: {rule}")).collect()
    }

    #[test]
    fn a_table_of_nft_drops_what_is_led_on_unless_a_rule_names_the_host() {
        let json = include_bytes!("captured/forward-nft.json");
        let chain = "chain 'forward' of the table 'inet filter'";
        let rule = "nft insert rule inet filter forward ct status dnat";
        assert_eq!(
            remedies(json, "192.168.1.10"),
            [format!("{chain}: {rule} ip daddr 192.168.1.10 tcp dport 22 accept")]
        );
        assert_eq!(
            remedies(json, "2001:db8:1::7"),
            [format!("{chain}: {rule} ip6 daddr 2001:db8:1::7 tcp dport 22 accept")]
        );
        // By its network, which the rule lets through as a whole; only 443/tcp of another.
        assert_eq!(remedies(json, "192.168.3.10"), [""; 0]);
        assert_eq!(remedies(json, "2001:db8:3::7"), [""; 0]);
        assert_eq!(remedies(json, "192.168.2.10").len(), 1);
    }

    #[test]
    fn a_rule_for_all_that_is_translated_lets_it_through() {
        let json = include_str!("captured/forward-nft.json");
        let rule = r#"{"rule": {"family": "inet", "table": "filter", "chain": "forward", "expr": [
            {"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}},
            {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "wan0"}},
            {"accept": null}]}}"#;
        let json = json.replacen("\n]}", &format!(",\n{rule}\n]}}"), 1);
        assert_eq!(remedies(json.as_bytes(), "192.168.1.10"), [""; 0]);
    }

    #[test]
    fn iptables_is_told_what_to_insert_in_either_family() {
        let json = include_bytes!("captured/forward-iptables.json");
        assert_eq!(
            [remedies(json, "192.168.1.10"), remedies(json, "2001:db8:1::7")].concat(),
            [
                "chain 'FORWARD' of the table 'ip filter': iptables -I FORWARD -d 192.168.1.10 -p tcp --dport 22 -m conntrack --ctstate DNAT -j ACCEPT",
                "chain 'FORWARD' of the table 'ip6 filter': ip6tables -I FORWARD -d 2001:db8:1::7 -p tcp --dport 22 -m conntrack --ctstate DNAT -j ACCEPT",
            ]
        );
    }

    #[test]
    fn ufw_is_told_to_allow_the_route() {
        let json = include_bytes!("captured/forward-ufw.json");
        assert_eq!(
            [remedies(json, "192.168.1.10"), remedies(json, "2001:db8:1::7")].concat(),
            [
                "chain 'FORWARD' of the table 'ip filter': ufw route allow proto tcp to 192.168.1.10 port 22",
                "chain 'FORWARD' of the table 'ip6 filter': ufw route allow proto tcp to 2001:db8:1::7 port 22",
            ]
        );
    }

    #[test]
    fn firewalld_lets_through_what_is_translated_but_where_it_is_strict() {
        let json = include_str!("captured/forward-firewalld.json");
        assert_eq!(remedies(json.as_bytes(), "192.168.1.10"), [""; 0]);
        // StrictForwardPorts of firewalld 2.3, which is newer than the program that this is of.
        let strict = json.replace(r#""right": "dnat""#, r#""right": "snat""#);
        let [policy] = remedies(strict.as_bytes(), "192.168.1.10").try_into().unwrap();
        assert!(policy.ends_with(
            "firewall-cmd --permanent --new-policy=knockd; firewall-cmd --permanent --policy=knockd --add-ingress-zone=ANY; firewall-cmd --permanent --policy=knockd --add-egress-zone=ANY; firewall-cmd --permanent --policy=knockd --add-rich-rule='rule family=ipv4 destination address=192.168.1.10 port port=22 protocol=tcp accept'; firewall-cmd --reload"
        ), "{policy}");
    }

    #[test]
    fn a_chain_that_jumps_to_itself_comes_to_an_end() {
        let json = br#"{"nftables": [
            {"chain": {"family": "ip", "table": "t", "name": "c", "hook": "input", "policy": "accept"}},
            {"rule": {"family": "ip", "table": "t", "chain": "c", "expr": [{"jump": {"target": "c"}}]}}]}"#;
        assert_eq!(dropped(json, &["22"]), [""; 0]);
    }

    #[test]
    fn the_guard_is_no_other_firewall() {
        let json = br#"{"nftables": [
            {"chain": {"family": "inet", "table": "knockd", "name": "x", "hook": "input", "policy": "drop"}}]}"#;
        assert_eq!(dropped(json, &["22"]), [""; 0]);
    }

    #[test]
    fn what_is_no_listing_is_refused() {
        for json in ["", "[]", "{}", "5", "nft: permission denied"] {
            assert!(HostRuleset::parse(json.as_bytes()).is_none(), "{json}");
        }
    }

    #[test]
    fn what_a_listing_has_that_is_neither_chain_nor_rule_is_passed_over() {
        for odd in
            ["5", r#"{"chain": 5}"#, r#"{"rule": 5}"#, r#"{"rule": {"expr": [], "family": 5}}"#]
        {
            let json = format!(r#"{{"nftables": [{odd}]}}"#);
            assert!(HostRuleset::parse(json.as_bytes()).is_some(), "{odd}");
        }
    }

    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            (0u32..70_000).prop_map(|number| number.to_string()),
            prop::sample::select(vec![
                "tcp", "dport", "l4proto", "state", "new", "lo", "@set", "==", "!=", "c", "match",
            ])
            .prop_map(|word| format!("{word:?}")),
        ];
        leaf.prop_recursive(5, 60, 4, |inner| {
            let keys = prop::sample::select(vec![
                "match", "left", "right", "op", "payload", "protocol", "field", "meta", "key",
                "ct", "set", "range", "vmap", "data", "accept", "drop", "jump", "goto", "target",
                "xt", "concat", "&", "elem", "val",
            ]);
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4)
                    .prop_map(|items| format!("[{}]", items.join(","))),
                prop::collection::vec((keys, inner), 0..4).prop_map(|pairs| {
                    let pairs: Vec<_> =
                        pairs.iter().map(|(key, value)| format!("{key:?}:{value}")).collect();
                    format!("{{{}}}", pairs.join(","))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_rule_makes_it_panic(expressions in prop::collection::vec(json(), 0..6)) {
            let text = format!(
                r#"{{"nftables": [
                {{"chain": {{"family": "ip", "table": "t", "name": "c", "hook": "input"}}}},
                {{"rule": {{"family": "ip", "table": "t", "chain": "c", "expr": [{}]}}}}]}}"#,
                expressions.join(",")
            );
            if let Some(ruleset) = HostRuleset::parse(text.as_bytes()) {
                let _ = ruleset.dropping("22/tcp".parse().unwrap());
            }
        }
    }
}
