//! What the keeper, its commands and its helpers may do, and what they have given up.
//!
//! Needs root; says loudly what it skips where it cannot run.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use crate::support::{CLIENT, Knockd, Net, PATIENCE, SERVER, eventually, needs};

const SEQUENCE: [&str; 3] = ["7000", "8000", "9000"];

fn knock(net: &Net) {
    let from: IpAddr = CLIENT.parse().unwrap();
    net.client.knock_from(from, SERVER, &SEQUENCE, Duration::from_millis(10));
}

/// What the kernel tells of a process under a key of its status.
fn told(status: &str, key: &str) -> String {
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"));
    value.unwrap_or_else(|| panic!("{key}: {status}")).to_owned()
}

#[test]
fn a_command_gets_a_session_of_its_own_and_nothing_else() {
    needs!("commands", "nft");
    let net = Net::new();
    let report = |to: &str| {
        format!(
            "(ls -l /proc/$$/fd > DIR/{to}.fds); cat /proc/$$/stat > DIR/{to}.stat; \
             cat /proc/$$/limits > DIR/{to}.limits; cat /proc/$$/status > DIR/{to}.status; \
             env > DIR/{to}.env; : > DIR/{to}"
        )
    };
    let knockd = Knockd::start(
        &net.server,
        &format!(
            "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody, \
             no_new_privs: true}}\n\
             doors:\n  denied: {{sequence: [7000, 8000, 9000], start_command: '{}'}}\n\
             \x20 granted: {{sequence: [7000, 8000, 9000], start_command: '{}', no_new_privs: false}}\n",
            report("denied"),
            report("granted")
        ),
    );
    knock(&net);
    let directory = knockd.directory.path();
    let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
    for (door, no_new_privs) in [("denied", "1"), ("granted", "0")] {
        assert!(eventually(PATIENCE, || directory.join(door).exists()), "{:?}", knockd.log());
        let fds = read(&format!("{door}.fds"));
        let open: Vec<&str> = fds.lines().filter(|line| line.contains(" -> ")).collect();
        assert_eq!(open.len(), 3, "{fds}");
        assert!(open[0].ends_with(" 0 -> /dev/null"), "{fds}");
        assert!(open[1..].iter().all(|line| line.contains("pipe:")), "{fds}");
        let stat = read(&format!("{door}.stat"));
        let fields: Vec<&str> = stat.split(' ').collect();
        let (pid, group, session, terminal) = (fields[0], fields[4], fields[5], fields[6]);
        assert_eq!((pid, pid, "0"), (group, session, terminal), "{stat}");
        let limits = read(&format!("{door}.limits"));
        let limit = |name: &str| limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        assert!(limit("Max core file size").trim_start().starts_with("0 "), "{limits}");
        assert!(limit("Max open files").trim_start().starts_with("1024 "), "{limits}");
        assert_eq!(told(&read(&format!("{door}.status")), "NoNewPrivs"), no_new_privs);
        let environment = read(&format!("{door}.env"));
        let known = ["PATH=", "PWD=", "_=", "SHLVL=", "OLDPWD=", "KNOCK_"];
        let is_known = |line: &str| known.iter().any(|known| line.starts_with(known));
        assert!(environment.lines().all(is_known), "{environment}");
    }
    assert!(Path::new(directory).join("state/commands").exists());
}
