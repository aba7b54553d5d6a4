//! What knockd does while nobody knocks: nothing. Needs root for its namespaces.

use std::thread;
use std::time::Duration;

use libknock::proto::spa::PrivateKey;

use crate::support::{Knockd, Net, needs};

/// Longer than a step of a rotating sequence.
const SPAN: Duration = Duration::from_secs(31);
/// How often the watcher asks the kernel in that time what it has dropped, at most.
const LOOKS: u64 = 4;

/// How often a process has gone to sleep, and so been woken, so far.
fn naps(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let naps = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    naps.unwrap().trim().parse().unwrap()
}

#[test]
fn nothing_wakes_the_keeper_and_only_the_count_of_dropped_packets_the_watcher() {
    needs!("idle", "nft");
    let net = Net::new();
    let configuration = format!(
        "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody,\n\
         \x20 metrics: {{socket: DIR/run/metrics.sock}}, spa: {{key_file: DIR/keys/server.key}}}}\n\
         clients:\n\
         \x20 phone: {{doors: [code, ports], totp: {{secret: JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP}}}}\n\
         \x20 laptop: {{doors: [native], spa: {{public_key: {}}}}}\n\
         \x20 old: {{doors: [fwknop], fwknop: {{key: testkey, hmac_key: hmackey}}}}\n\
         doors:\n\
         \x20 plain: {{sequence: [7000, 8000, 9000], open: [22]}}\n\
         \x20 native: {{spa: true, open: [23]}}\n\
         \x20 fwknop: {{fwknop: true, open: [24]}}\n\
         \x20 code: {{totp: {{mode: code, base: 17000}}, open: [25]}}\n\
         \x20 ports: {{totp: {{ports: 20000-29999}}, open: [26]}}\n",
        PrivateKey::from([1; 32]).public()
    );
    let knockd = Knockd::start(&net.server, &configuration);
    let [watcher] = knockd.watchers()[..] else { panic!("one watcher") };
    // What comes after a start, such as addresses that are found to be nobody else's, takes a while.
    let mut spans = Vec::new();
    let is_idle = (0..4).any(|_| {
        let pids = [knockd.pid(), watcher];
        let before = pids.map(naps);
        thread::sleep(SPAN);
        let [keeper, watcher] = pids.map(naps);
        spans.push([keeper - before[0], watcher - before[1]]);
        keeper == before[0] && watcher <= before[1] + LOOKS
    });
    assert!(is_idle, "woken so often, keeper and watcher, in each span: {spans:?}");
}
