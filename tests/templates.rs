//! The built-in templates, run against the real firewalls.

mod support;

use std::fs;

use libknock::config::load::{Options, load};
use libknock::config::{Family, Holes, Name};
use support::{can_make_namespaces, has_programs, must};

/// The open and the close command of a built-in template for 22/tcp and a source.
fn commands(template: &str, source: &str) -> (String, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("doors.yaml");
    let door = "{sequence: [7000, 9000, 8000], open: [22/tcp], via:";
    fs::write(&path, format!("doors: {{ssh: {door} {template}}}}}\n")).unwrap();
    let config = load(&path, &Options::default()).unwrap().config;
    let opening = &config.doors[0].opening;
    let name: Name = "ssh".parse().unwrap();
    let address = source.parse().unwrap();
    let holes =
        Holes { address, door: &name, client: None, port: Some(opening.ports[0]), seconds: 30 };
    let pair = opening.commands().unwrap().of(Family::of(address));
    let rendered = |command: &libknock::config::Command| command.render(&holes).to_string();
    (rendered(pair.open.as_ref().unwrap()), rendered(pair.close.as_ref().unwrap()))
}

/// Opens and closes in a network namespace that was prepared for it. What `list` prints has to
/// name the source while the door is open, and to be the same before and after.
fn opens_and_closes(template: &str, source: &str, prepare: &str, list: &str) {
    let (open, close) = commands(template, source);
    let script = format!(
        "{prepare}\nbefore=$({list})\n{open}\nopened=$({list})\n{close}\nafter=$({list})\n\
         case $opened in *{source}*) ;; *) echo \"not open: $opened\" >&2; exit 1 ;; esac\n\
         [ \"$before\" = \"$after\" ] || {{ echo \"not closed: $after\" >&2; exit 1; }}\n"
    );
    must("unshare", &["--net", "sh", "-e", "-c", &script]);
}

#[test]
fn iptables_opens_and_closes() {
    const TEST: &str = "iptables_opens_and_closes";
    if can_make_namespaces(TEST) && has_programs(TEST, &["unshare", "iptables", "ip6tables"]) {
        opens_and_closes("iptables", "192.0.2.2", "iptables -P INPUT DROP", "iptables -S");
        opens_and_closes("iptables", "2001:db8::2", "ip6tables -P INPUT DROP", "ip6tables -S");
    }
}

#[test]
fn ipset_opens_and_closes() {
    const TEST: &str = "ipset_opens_and_closes";
    const PREPARE: &str = "ipset create knockd4 hash:ip,port
        ipset create knockd6 hash:ip,port family inet6
        iptables  -I INPUT -m set --match-set knockd4 src,dst -j ACCEPT
        ip6tables -I INPUT -m set --match-set knockd6 src,dst -j ACCEPT";
    if can_make_namespaces(TEST) && has_programs(TEST, &["unshare", "ipset", "iptables"]) {
        for source in ["192.0.2.2", "2001:db8::2"] {
            opens_and_closes(
                "ipset",
                source,
                PREPARE,
                "ipset -output plain list | grep tcp:22 || true",
            );
        }
    }
}

#[test]
fn nft_opens_and_closes() {
    const TEST: &str = "nft_opens_and_closes";
    const PREPARE: &str = "nft add table inet filter
        nft add chain inet filter input '{ type filter hook input priority 0; policy drop; }'
        nft add set inet filter knockd4 '{ type ipv4_addr . inet_proto . inet_service; }'
        nft add set inet filter knockd6 '{ type ipv6_addr . inet_proto . inet_service; }'
        nft insert rule inet filter input ip  saddr . meta l4proto . th dport @knockd4 accept
        nft insert rule inet filter input ip6 saddr . meta l4proto . th dport @knockd6 accept";
    if can_make_namespaces(TEST) && has_programs(TEST, &["unshare", "nft"]) {
        for source in ["192.0.2.2", "2001:db8::2"] {
            opens_and_closes("nft", source, PREPARE, "nft list ruleset");
        }
    }
}
