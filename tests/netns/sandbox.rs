//! The watcher in its sandbox: it does all that is its work, and nothing else can be done in there.
//!
//! Needs root; says loudly what it skips where it cannot run.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use libknock::proto::fwknop::{FwknopKey, HmacKey};
use libknock::sys::fault::WATCHER;
use nix::sys::signal::Signal;

use crate::support::{
    CLIENT, Host, Knockd, Net, PATIENCE, SERVER, eventually, needs, requests, tagged_syn,
};

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
        fs::write(&file, batch).unwrap();
        net.server.must("ip", &["-batch", file.to_str().unwrap()]);
    };
    change("add", "addr add 192.0.2.9/24 dev eth0\n");
    assert!(eventually(PATIENCE, || is_heard(&net, &knockd, late)), "it has come");
    change("del", "addr del 192.0.2.9/24 dev eth0\n");
    assert!(eventually(PATIENCE, || !is_heard(&net, &knockd, late)), "it has gone");
}

/// A daemon with a door of each kind, of which everything is logged.
fn with_all_kinds(interfaces: &str) -> String {
    format!(
        "knockd: {{interfaces: [{interfaces}], run_dir: DIR/run, state_dir: DIR/state, user: nobody,\n\
         \x20 log: {{level: debug}}, spa: {{key_file: DIR/keys/server.key}},\n\
         \x20 lockout: {{failures: 2, within: 10m, for: 1h}}}}\n\
         clients:\n\
         \x20 phone: {{doors: [rotating], totp: {{secret: {SECRET}}}}}\n\
         \x20 laptop: {{doors: [native], spa: {{public_key: {}}}}}\n\
         \x20 old: {{doors: [fwknop], fwknop: {{key: testkey, hmac_key: hmackey}}}}\n\
         doors:\n\
         \x20 plain: {{sequence: [7000, 8000, 9000], start_command: 'true'}}\n\
         \x20 rotating: {{totp: {{ports: 20000-29999, step: 10s}}, start_command: 'true'}}\n\
         \x20 native: {{spa: true, start_command: 'true'}}\n\
         \x20 fwknop: {{fwknop: true, open: [22]}}\n",
        requests::client_key().public()
    )
}

const SECRET: &str = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP";

fn datagram(host: &Host, bytes: Vec<u8>) {
    let to: SocketAddr = format!("{SERVER}:62201").parse().unwrap();
    host.enter(move || {
        UdpSocket::bind((CLIENT, 0)).unwrap().send_to(&bytes, to).unwrap();
    });
}

/// Knocks at each door, from a source each.
fn knock_everywhere(net: &Net, knockd: &Knockd, round: usize) {
    let knock = |from: &str, ports: &[&str]| {
        let from: IpAddr = from.parse().unwrap();
        net.client.knock_from(from, SERVER, ports, Duration::from_millis(10));
    };
    knock(CLIENT, &SEQUENCE);
    knockd.wait_for_count("192.0.2.2: plain: OPEN SESAME", round);
    // Another step each time, and the door's sequence of it.
    let secret = knockd.directory.path().join("secret");
    fs::write(&secret, SECRET).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let secret = secret.display().to_string();
    let arguments = "--totp --door rotating --ports 20000-29999 --step 10s -d 10 --secret-file";
    let arguments: Vec<&str> = arguments.split(' ').chain([&*secret, SERVER]).collect();
    let heard = eventually(PATIENCE, || {
        net.client.must(env!("CARGO_BIN_EXE_knock"), &arguments);
        let opened = || knockd.count("192.0.2.2: rotating: OPEN SESAME") >= round;
        eventually(Duration::from_secs(1), opened)
    });
    assert!(heard, "{}", knockd.log().join("\n"));
    datagram(&net.client, requests::native(&knockd.server_key()));
    knockd.wait_for_count("192.0.2.2: native: OPEN SESAME", round);
    let key = FwknopKey::new("testkey".into()).unwrap();
    let hmac = HmacKey::new("hmackey".into()).unwrap();
    datagram(&net.client, requests::of_fwknop(&key, &hmac, None));
    knockd.wait_for_count("192.0.2.2: fwknop: OPEN SESAME", round);
}

#[test]
fn a_watcher_does_all_of_its_work_under_the_filter() {
    needs!("work under the filter", "nft");
    for interfaces in ["eth0, lo, eth0.5, tun7, br7", "any"] {
        let net = Net::new();
        net.server.must("ip", &["link", "add", "br7", "type", "bridge"]);
        // Not every kernel has these: what is missing is waited for.
        for of in ["tuntap add dev tun7 mode tun", "link add link eth0 name eth0.5 type vlan id 5"]
        {
            let _ = net.server.run("ip", &of.split(' ').collect::<Vec<_>>());
        }
        for name in ["eth0.5", "tun7", "br7"] {
            let _ = net.server.run("ip", &["link", "set", name, "up"]);
        }
        let knockd = Knockd::start(&net.server, &with_all_kinds(interfaces));
        // An older kernel knows less of Landlock.
        knockd.wait_for("system calls enforced; Landlock: all");
        knock_everywhere(&net, &knockd, 1);
        // Loopback, and a frame with a tag.
        let here: IpAddr = "127.0.0.1".parse().unwrap();
        net.server.knock_from(here, "127.0.0.1", &SEQUENCE, Duration::from_millis(10));
        // A flood, which is counted, and what the kernel has dropped of it.
        net.client.enter(|| {
            let mut cable = pcap::Capture::from_device("eth0").unwrap().open().unwrap();
            for number in 0..20_000_u32 {
                let [.., high, low] = number.to_be_bytes();
                let frame = tagged_syn((number % 2) as usize, [198, 18, high, low], 7000, number);
                cable.sendpacket(frame).unwrap();
            }
        });
        // Somebody who asks, and who is locked out and let in again.
        let said = knockd.says_while(&["explain", "--live"], || {
            for port in ["7000", "8001", "7000", "8001", "7000", "8001"] {
                net.client.knock_from(CLIENT.parse().unwrap(), SERVER, &[port], Duration::ZERO);
            }
        });
        assert!(said.contains("plain"), "{said}");
        let unlock = || knockd.ask(r#"{"do":"unlock","address":"192.0.2.2"}"#);
        let is_let_in = eventually(PATIENCE, || unlock()[0]["reply"] == "done");
        assert!(is_let_in, "{}", knockd.log().join("\n"));
        // A reload, an address that comes, an interface that goes and comes back.
        knockd.signal(Signal::SIGHUP);
        knockd.wait_for("re-reading config file");
        assert!(eventually(PATIENCE, || knockd.watchers().len() >= 2));
        net.server.must("ip", &["addr", "add", "198.51.100.1/24", "dev", "lo"]);
        net.server.must("ip", &["link", "del", "br7"]);
        net.server.must("ip", &["link", "set", "eth0", "down"]);
        net.server.must("ip", &["link", "set", "eth0", "up"]);
        net.server.must("ip", &["link", "del", "eth0"]);
        net.plug();
        if interfaces != "any" {
            knockd.wait_for("br7 has gone");
            knockd.wait_for("eth0 is back");
        }
        // By then the step has turned, and each has asked what the kernel dropped.
        std::thread::sleep(Duration::from_secs(11));
        knock_everywhere(&net, &knockd, 2);
        let status = knockd.ask(r#"{"do":"status"}"#).remove(0);
        assert_eq!(status["sandbox"]["watcher"]["seccomp"], "enforced");
        assert_eq!(knockd.count("watcher ended"), 0, "{}", knockd.log().join("\n"));
        let (status, log) = knockd.stop();
        assert!(status.success());
        assert!(!log.iter().any(|line| line.contains("system call that")), "{}", log.join("\n"));
    }
}

#[test]
fn a_watcher_that_its_sandbox_has_ended_is_told_of_as_that() {
    needs!("a breach");
    let host = Host::new("server");
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("watcher");
    fs::write(&script, "#!/bin/sh\nkill -SYS $$\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let environment = [(WATCHER, script.to_str().unwrap())];
    let mut knockd = Knockd::spawn_in(&host, &configuration("lo"), &[], &environment);
    assert!(!knockd.ended().success());
    assert!(knockd.count("(signal: 31 (SIGSYS)") > 0, "{}", knockd.log().join("\n"));
    assert!(knockd.count("'knockd: {sandbox: log}' has it logged instead") > 0);
}

#[test]
fn a_configuration_may_have_the_filter_log_only_or_be_off_and_check_warns() {
    needs!("sandbox modes");
    let net = Net::new();
    for (mode, said) in [
        ("log", "the watcher's sandbox holds in part: system calls logging only; Landlock: all"),
        ("off", "the watcher's sandbox holds in part: system calls off; Landlock: off; memory"),
    ] {
        let text = configuration("eth0")
            .replace("user: nobody", &format!("user: nobody, sandbox: {mode}"));
        let knockd = Knockd::start(&net.server, &text);
        knockd.wait_for(said);
        assert!(is_heard(&net, &knockd, SERVER));
        let config = knockd.config.display().to_string();
        let checked = net.server.run(env!("CARGO_BIN_EXE_knockctl"), &["-c", &config, "check"]);
        let warned = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(warned.contains("warning: whoever takes the watcher over is not held"), "{warned}");
        let shown = net.server.must(env!("CARGO_BIN_EXE_knockctl"), &["-c", &config, "status"]);
        assert!(
            shown.contains("watcher        its sandbox holds in part: system calls "),
            "{shown}"
        );
    }
}
