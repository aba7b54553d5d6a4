//! `knock` where it chooses its way: both families, an address, an interface, connections.
//!
//! Needs root; says loudly what it skips where it cannot run.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Output;
use std::thread;
use std::time::Duration;

use crate::support::{
    CLIENT, CLIENT_6, Host, Knockd, Net, PATIENCE, SERVER, SERVER_6, eventually, mounts, must,
    needs,
};

const DOOR: &str = "knockd: {interfaces: [any], run_dir: DIR/run, state_dir: DIR/state, user: nobody}\n\
     doors:\n  ssh: {sequence: [7000, 8000/udp, 9000], open: [22], open_for: 2s}\n";
const KNOCKS: [&str; 3] = ["7000", "8000/udp", "9000"];

/// Knocks in the client's namespace at a host, with these options before it.
fn knock(client: &Host, options: &[&str], host: &str) -> Output {
    let arguments = [&["-d", "15"], options, &[host], &KNOCKS[..]].concat();
    client.command(env!("CARGO_BIN_EXE_knock")).args(arguments).output().unwrap()
}

/// That it went well; what was said.
fn done(output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap() + &said
}

/// The server has the name `gw.test`, with an address of each family.
fn name_the_server(directory: &Path) {
    let hosts = directory.join("hosts");
    fs::write(&hosts, format!("{SERVER} gw.test\n{SERVER_6} gw.test\n")).unwrap();
    must("mount", &["--bind", hosts.to_str().unwrap(), "/etc/hosts"]);
}

fn in_two_families(test: &'static str, function: impl FnOnce(&Net, &Path) + Send + 'static) {
    mounts::in_own_mounts(test, move || {
        let directory = tempfile::tempdir().unwrap();
        name_the_server(directory.path());
        let net = Net::new();
        net.server.listen(22);
        function(&net, directory.path());
    });
}

#[test]
fn both_families_are_opened_by_a_sequence_each() {
    needs!("knock --both", "nft");
    in_two_families("knock --both", |net, _| {
        let knockd = Knockd::start(&net.server, DOOR);
        done(knock(&net.client, &["--both", "--wait", "22"], "gw.test"));
        for client in [CLIENT, CLIENT_6] {
            knockd.wait_for(&format!("{client}: ssh: OPEN SESAME"));
        }
        assert!(net.client.can_connect(SERVER, 22) && net.client.can_connect(SERVER_6, 22));
    });
}

#[test]
fn both_families_are_opened_by_a_request_each() {
    needs!("knock --both --spa", "nft");
    in_two_families("knock --both --spa", |net, directory| {
        let knock = env!("CARGO_BIN_EXE_knock");
        let key = directory.join("laptop.key").display().to_string();
        let public = must(knock, &["--keygen", &key]);
        let knockd = Knockd::start(
            &net.server,
            &format!(
                "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody,\n\
                 \x20 spa: {{key_file: DIR/keys/server.key}}}}\n\
                 clients:\n  laptop: {{doors: [ssh], spa: {{public_key: {}}}}}\n\
                 doors:\n  ssh: {{spa: true, open: [22], open_for: 2s}}\n",
                public.trim()
            ),
        );
        let server_key = knockd.server_key().to_string();
        let asked = ["--spa", "--both", "--key", &key, "--server-key", &server_key, "gw.test"];
        for address in ["auto", "observed"] {
            net.client.must(knock, &[&asked[..], &["--address", address]].concat());
        }
        for client in [CLIENT, CLIENT_6] {
            knockd.wait_for_count(&format!("{client}: ssh: OPEN SESAME"), 2);
        }
        assert!(net.client.can_connect(SERVER, 22) && net.client.can_connect(SERVER_6, 22));
    });
}

#[test]
fn a_machine_of_one_family_knocks_at_a_host_of_both_over_that_one() {
    needs!("knock --both, one family", "nft");
    in_two_families("knock --both, one family", |net, _| {
        let knockd = Knockd::start(&net.server, DOOR);
        let without_6 = ["-qw", "net.ipv6.conf.all.disable_ipv6=1"];
        net.client.must("sysctl", &without_6);
        let said = done(knock(&net.client, &["--both", "-v", "--wait", "22"], "gw.test"));
        assert!(said.contains("was not sent: tcp [2001:db8::1]:7000: "), "{said}");
        knockd.wait_for(&format!("{CLIENT}: ssh: OPEN SESAME"));
        net.client.must("ip", &["addr", "flush", "dev", "eth0"]);
        let output = knock(&net.client, &["--both"], "gw.test");
        assert_eq!(output.status.code(), Some(1), "neither can be sent");
    });
}

#[test]
fn the_family_that_opens_first_is_waited_for() {
    needs!("knock --both --wait", "nft");
    in_two_families("knock --both --wait", |net, _| {
        let _knockd = Knockd::start(&net.server, DOOR);
        for (shut, open) in [("ip6", SERVER), ("ip", SERVER_6)] {
            let table = format!(
                "table {shut} t {{ chain c {{ type filter hook prerouting priority -400; \
                 meta l4proto {{ tcp, udp }} drop; }}; }}"
            );
            net.server.must("nft", &[&table]);
            let said = done(knock(&net.client, &["--both", "-v", "--wait", "22"], "gw.test"));
            let opened = SocketAddr::new(open.parse().unwrap(), 22);
            assert!(said.contains(&format!("{opened} is open")), "{said}");
            net.server.must("nft", &["delete", "table", shut, "t"]);
            assert!(eventually(PATIENCE, || !net.client.can_connect(open, 22)));
        }
    });
}

#[test]
fn the_door_opens_for_the_address_that_was_chosen() {
    needs!("knock --source", "nft");
    let net = Net::new();
    net.server.listen(22);
    net.client.must("ip", &["addr", "add", "192.0.2.3/24", "dev", "eth0"]);
    let knockd = Knockd::start(&net.server, DOOR);
    done(knock(&net.client, &["--source", "192.0.2.3", "--wait", "22"], SERVER));
    knockd.wait_for("192.0.2.3: ssh: OPEN SESAME");
    assert!(!net.client.can_connect_from(Some(CLIENT.parse().unwrap()), SERVER, 22));
    assert!(net.client.can_connect_from(Some("192.0.2.3".parse().unwrap()), SERVER, 22));
}

#[test]
fn packets_leave_by_the_interface_that_was_chosen_whatever_the_routes_say() {
    needs!("knock --interface", "nft");
    let net = Net::new();
    net.server.listen(22);
    let (server, client) = (&net.server.name, &net.client.name);
    let cable = ["link", "add", "eth1", "netns", server, "type", "veth", "peer", "name", "eth1"];
    must("ip", &[&cable[..], &["netns", client]].concat());
    for (host, address) in [(&net.server, "198.51.100.1/24"), (&net.client, "198.51.100.2/24")] {
        host.must("ip", &["addr", "add", address, "dev", "eth1"]);
        host.must("ip", &["link", "set", "eth1", "up"]);
    }
    let knockd = Knockd::start(&net.server, DOOR);
    // The client's routes lead to it by eth0.
    let opened = eventually(PATIENCE, || {
        done(knock(&net.client, &["--interface", "eth1"], SERVER));
        knockd.count("198.51.100.2: ssh: OPEN SESAME") > 0
    });
    assert!(opened, "{:?}", knockd.log());
    done(knock(&net.client, &["--interface", "eth1", "--wait", "22"], SERVER));
    assert_eq!(knockd.count(&format!("{CLIENT}: ssh: OPEN SESAME")), 0);
    let output = knock(&net.client, &["--interface", "eth7"], SERVER);
    assert!(String::from_utf8_lossy(&output.stderr).contains("has no such interface"));
}

#[test]
fn knocks_by_connection_open_a_door_with_one_syn_each_whether_they_are_dropped_or_refused() {
    needs!("knock --connect", "nft");
    let net = Net::new();
    net.server.listen(22);
    net.server.listen(9000);
    let knockd = Knockd::start(&net.server, DOOR);
    // One that is filtered, a datagram, one that is accepted.
    net.server.must(
        "nft",
        &["table inet t { chain c { type filter hook input priority 0; tcp dport 7000 drop; }; \
           chain s { type filter hook prerouting priority -400; \
           tcp dport { 7000, 9000 } tcp flags & (syn | ack) == syn counter; }; }"],
    );
    done(knock(&net.client, &["--connect"], SERVER));
    knockd.wait_for(&format!("{CLIENT}: ssh: OPEN SESAME"));
    // A SYN that is sent again comes after a second.
    thread::sleep(Duration::from_millis(1_200));
    let counted = net.server.must("nft", &["list", "chain", "inet", "t", "s"]);
    assert!(counted.contains("counter packets 2 bytes"), "{counted}");
    // Where everything is refused at once, too.
    net.server.must("nft", &["delete", "table", "inet", "t"]);
    done(knock(&net.client, &["--connect", "--wait", "22"], SERVER));
    knockd.wait_for_count(&format!("{CLIENT}: ssh: OPEN SESAME"), 2);
}
