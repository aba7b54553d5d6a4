//! The watcher in its sandbox: it does all that is its work, and nothing else can be done in there.
//!
//! Needs root; says loudly what it skips where it cannot run.

use std::fmt::Write as _;
use std::time::Duration;

use crate::support::{CLIENT, Knockd, Net, PATIENCE, eventually, needs};

const SEQUENCE: [&str; 3] = ["7000", "8000", "9000"];

fn configuration(interfaces: &str) -> String {
    format!(
        "knockd: {{interfaces: [{interfaces}], run_dir: DIR/run, state_dir: DIR/state, user: nobody}}\n\
         doors: {{ssh: {{sequence: [7000, 8000, 9000], start_command: 'true'}}}}\n"
    )
}

/// Whether a knock at an address is looked at.
fn is_heard(net: &Net, knockd: &Knockd, address: &str) -> bool {
    let before = knockd.count("OPEN SESAME");
    net.client.knock_from(CLIENT.parse().unwrap(), address, &SEQUENCE, Duration::from_millis(10));
    eventually(Duration::from_millis(300), || knockd.count("OPEN SESAME") > before)
}

#[test]
fn a_watcher_learns_of_addresses_that_come_and_go_however_many_at_once() {
    needs!("addresses that change");
    let net = Net::new();
    let late = "192.0.2.9";
    let mac = net.server.must("cat", &["/sys/class/net/eth0/address"]);
    net.client.must("ip", &["neigh", "replace", late, "lladdr", mac.trim(), "dev", "eth0"]);
    let knockd = Knockd::start(&net.server, &configuration("eth0"));
    assert!(!is_heard(&net, &knockd, late), "it is not this host's");
    let change = |verb: &str, first: &str| {
        let mut batch = String::from(first);
        for number in 0..2000 {
            let (high, low) = (number / 250, number % 250);
            writeln!(batch, "addr {verb} 10.{high}.{low}.1/32 dev lo").unwrap();
        }
        let file = knockd.directory.path().join("batch");
        std::fs::write(&file, batch).unwrap();
        net.server.must("ip", &["-batch", file.to_str().unwrap()]);
    };
    change("add", "addr add 192.0.2.9/24 dev eth0\n");
    assert!(eventually(PATIENCE, || is_heard(&net, &knockd, late)), "it has come");
    change("del", "addr del 192.0.2.9/24 dev eth0\n");
    assert!(eventually(PATIENCE, || !is_heard(&net, &knockd, late)), "it has gone");
}
