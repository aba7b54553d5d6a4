//! Real packets, real firewalls: `knockd` between network namespaces.
//!
//! Needs root; says loudly what it skips where it cannot run.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{
    CLIENT, CLIENT_6, Knockd, Net, PATIENCE, SERVER, SERVER_6, eventually, needs,
};

/// Every door writes into files of its own directory, so that tests see what ran.
fn settings() -> &'static str {
    "knockd: {interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody}\n"
}

fn recording_door(extra: &str) -> String {
    format!(
        "{}doors:\n  ssh:\n    sequence: [7000, 8000, 9000]\n    start_command: echo %IP% >> DIR/opened\n    \
         stop_command: echo %IP% >> DIR/closed\n    cmd_timeout: 1\n{extra}",
        settings()
    )
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn client() -> IpAddr {
    CLIENT.parse().unwrap()
}

fn client_6() -> IpAddr {
    CLIENT_6.parse().unwrap()
}

const SOON: Duration = Duration::from_millis(10);
const SEQUENCE: [&str; 3] = ["7000", "8000", "9000"];

#[test]
fn a_classic_configuration_and_the_classic_client_open_and_close_a_door() {
    needs!("classic", "iptables", "knock");
    let net = Net::new();
    net.shut(22);
    let knockd = Knockd::spawn(
        &net.server,
        "[options]\n  LogFile = DIR/knockd.log\n  Interface = eth0\n\n\
         [openSSH]\n  sequence = 7000,8000:udp,9000\n  seq_timeout = 5\n  \
         start_command = /usr/sbin/iptables -I INPUT -p tcp --dport 22 -s %IP% -j ACCEPT\n  \
         tcpflags = syn\n  cmd_timeout = 2\n  \
         stop_command = /usr/sbin/iptables -D INPUT -p tcp --dport 22 -s %IP% -j ACCEPT\n",
        &["-p", "/run/knock-test-classic.pid"],
    );
    knockd.wait_for("starting up, listening on eth0");
    assert!(!net.client.can_connect(SERVER, 22), "the port has to be shut first");
    net.client.must("knock", &["-d", "20", SERVER, "7000", "8000:udp", "9000"]);
    knockd.wait_for("192.0.2.2: openSSH: OPEN SESAME");
    let log = knockd.log();
    let of_door = log.iter().filter_map(|line| line.split_once("192.0.2.2: openSSH: "));
    let told: Vec<&str> = of_door.map(|(_, message)| message).collect();
    assert_eq!(told[..4], ["Stage 1", "Stage 2", "Stage 3", "OPEN SESAME"]);
    knockd.wait_for(
        "openSSH: running command: /usr/sbin/iptables -I INPUT -p tcp --dport 22 -s 192.0.2.2 -j ACCEPT",
    );
    assert!(eventually(PATIENCE, || net.client.can_connect(SERVER, 22)), "the port is not open");
    knockd.wait_for("192.0.2.2: openSSH: command timeout");
    assert!(eventually(PATIENCE, || !net.client.can_connect(SERVER, 22)), "the port stays open");
    let log = fs::read_to_string(knockd.directory.path().join("knockd.log")).unwrap();
    assert!(log.contains("] 192.0.2.2: openSSH: OPEN SESAME"), "{log}");
}

#[test]
fn the_iptables_template_opens_both_families() {
    needs!("template", "iptables", "ip6tables");
    let net = Net::new();
    net.shut(22);
    let knockd = Knockd::start(
        &net.server,
        &format!(
            "{}doors:\n  ssh: {{sequence: [7000, 8000/udp, 9000], open: [22/tcp], via: iptables, open_for: 2s}}\n",
            settings()
        ),
    );
    for (from, to) in [(client(), SERVER), (client_6(), SERVER_6)] {
        assert!(!net.client.can_connect(to, 22), "{to} has to be shut first");
        net.client.knock_from(from, to, &["7000", "8000/udp", "9000"], SOON);
        assert!(eventually(PATIENCE, || net.client.can_connect(to, 22)), "{to} is not open");
        knockd.wait_for(&format!("{from}: ssh: command timeout"));
        assert!(eventually(PATIENCE, || !net.client.can_connect(to, 22)), "{to} stays open");
    }
    let rules = net.server.must("iptables", &["-S", "INPUT"]);
    assert!(!rules.contains("-j ACCEPT"), "{rules}");
}

#[test]
fn scans_in_any_order_open_nothing() {
    needs!("scans", "nmap", "hping3");
    let net = Net::new();
    let knockd = Knockd::start(&net.server, &recording_door(""));
    let opened = knockd.directory.path().join("opened");
    let nmap = |order: &[&str]| {
        let common = ["-n", "-Pn", "-sS", "-T5", "--max-retries", "0", "-p", "6900-9100", SERVER];
        net.client.must("nmap", &[order, &common].concat());
    };
    nmap(&["-r"]);
    for _ in 0..3 {
        nmap(&[]);
    }
    // Ascending, a new sequence number for each packet.
    net.client.run(
        "hping3",
        &["-q", "-S", "-p", "++6900", "-s", "40000", "-i", "u300", "-c", "2200", SERVER],
    );
    // The last packets of the scans have been looked at when this knock has been.
    net.client.knock_from(client(), SERVER, &SEQUENCE, SOON);
    knockd.wait_for("OPEN SESAME");
    assert!(eventually(PATIENCE, || !lines(&opened).is_empty()));
    assert_eq!(knockd.count("OPEN SESAME"), 1, "a scan opened the door");
    assert_eq!(lines(&opened), [CLIENT]);
}

#[test]
fn each_knock_may_be_made_again_at_once() {
    needs!("repetitions");
    let net = Net::new();
    let knockd = Knockd::start(&net.server, &recording_door(""));
    let twice = ["7000", "7000", "8000", "8000", "9000", "9000"];
    net.client.knock_from(client(), SERVER, &twice, SOON);
    knockd.wait_for("192.0.2.2: ssh: OPEN SESAME");
    assert_eq!(knockd.count("OPEN SESAME"), 1);
}

#[test]
fn who_gives_all_packets_one_source_port_and_number_opens_each_time() {
    needs!("unnumbered packets", "hping3");
    let net = Net::new();
    let act = "  wake:\n    sequence: [7100, 8100, 7100]\n    start_command: echo >> DIR/woken\n";
    let knockd = Knockd::start(&net.server, &recording_door(act));
    let packet = |port| {
        let fixed = ["-q", "-S", "-k", "-s", "20", "-M", "0", "-c", "1", "-i", "u1000"];
        net.client.run("hping3", &[&fixed[..], &["-p", port, SERVER]].concat());
    };
    for round in 1..=3 {
        ["7100", "8100", "7100"].into_iter().for_each(packet);
        knockd.wait_for_count("192.0.2.2: wake: OPEN SESAME", round);
    }
}

#[test]
fn what_a_tcp_retransmits_is_no_knock() {
    needs!("retransmissions", "iptables");
    let net = Net::new();
    net.server
        .must("iptables", &["-A", "INPUT", "-p", "tcp", "--dport", "7000:9999", "-j", "DROP"]);
    let act = "  wake:\n    sequence: [7100, 8100, 9100]\n    start_command: echo >> DIR/woken\n";
    let knockd = Knockd::start(&net.server, &recording_door(act));
    // All three are sent again after one second and after three, in their order.
    let under_way = net.client.enter(|| {
        let connect = |port| {
            let to = std::net::SocketAddr::new(SERVER.parse().unwrap(), port);
            std::thread::sleep(Duration::from_millis(50));
            std::thread::spawn(move || {
                std::net::TcpStream::connect_timeout(&to, Duration::from_millis(3500)).is_ok()
            })
        };
        [7100, 8100, 9100].map(connect)
    });
    knockd.wait_for("192.0.2.2: wake: OPEN SESAME");
    assert!(under_way.into_iter().all(|connection| !connection.join().unwrap()));
    let counters = &knockd.ask(r#"{"do":"status"}"#)[0]["counters"];
    assert!(counters["duplicate"].as_u64() >= Some(6), "{counters}");
    assert_eq!(knockd.count("OPEN SESAME"), 1);
}

/// A bridge shows each packet twice: at its port, and as its own.
#[test]
fn two_datagrams_of_one_socket_are_two_knocks_and_copies_of_one_are_one() {
    needs!("datagrams of one socket");
    let net = Net::new();
    let ip = |arguments: &str| {
        net.server.must("ip", &arguments.split(' ').collect::<Vec<_>>());
    };
    ip("link add br0 type bridge");
    ip("addr del 192.0.2.1/24 dev eth0");
    ip("addr add 192.0.2.1/24 dev br0");
    ip("link set eth0 master br0");
    ip("link set br0 up");
    let door =
        "doors: {wake: {sequence: [15637/udp, 15637/udp, 15637/udp], start_command: \"true\"}}\n";
    let knockd = Knockd::start(&net.server, &(settings().replace("[eth0]", "[any]") + door));
    net.client.enter(|| {
        let socket = std::net::UdpSocket::bind((client(), 0)).unwrap();
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(100));
            let _ = socket.send_to(&[0], (SERVER, 15637));
        }
    });
    knockd.wait_for_count("192.0.2.2: wake: Stage 2", 2);
    let counters = || knockd.ask(r#"{"do":"status"}"#).remove(0)["counters"].clone();
    let copied = eventually(PATIENCE, || counters()["duplicate"].as_u64() == Some(5));
    assert!(copied, "{}", counters());
    assert_eq!(knockd.count("OPEN SESAME"), 1, "{}", knockd.log().join("\n"));
}

#[test]
fn a_door_does_not_act_again_while_it_cools_down() {
    needs!("cooldown");
    let net = Net::new();
    let yaml = format!(
        "{}doors: {{resume: {{sequence: [8211/udp], cooldown: 1h, start_command: \"echo %IP% >> \
         DIR/resumed\"}}, other: {{sequence: [8212/udp], start_command: \"true\"}}}}\n",
        settings()
    );
    let knockd = Knockd::start(&net.server, &yaml);
    let resumed = knockd.directory.path().join("resumed");
    let play = |times: usize| {
        net.client.knock_from(client(), SERVER, &vec!["8211/udp"; times], SOON);
    };
    let refused = || {
        let status = knockd.ask(r#"{"do":"status"}"#).remove(0);
        status["counters"]["cooldown"].as_u64().unwrap_or_default()
    };
    play(5);
    assert!(eventually(PATIENCE, || refused() == 4), "{} refused", refused());
    // It survives a reload, and other doors have nothing to do with it.
    knockd.signal(Signal::SIGHUP);
    knockd.wait_for("re-reading config file");
    assert!(eventually(PATIENCE, || {
        play(1);
        refused() >= 8
    }));
    net.client.knock_from(client(), SERVER, &["8212/udp"], SOON);
    knockd.wait_for("192.0.2.2: other: OPEN SESAME");
    assert_eq!(lines(&resumed), [CLIENT]);
    let told = knockd.count("resume: not opened: the door has acted less than its cooldown ago");
    assert_eq!(told, 1, "{}", knockd.log().join("\n"));
    // An administrator opens it all the same.
    knockd.ask(r#"{"do":"open","door":"resume","address":"192.0.2.9"}"#);
    assert!(eventually(PATIENCE, || lines(&resumed).len() == 2));
}

#[test]
fn fifty_sources_that_knock_at_once_all_get_in() {
    needs!("fifty sources", "iptables");
    let net = Net::new();
    net.shut(22);
    let sources: Vec<IpAddr> = (0..50).map(|last| IpAddr::from([192, 0, 2, 100 + last])).collect();
    for source in &sources {
        net.client.must("ip", &["addr", "add", &format!("{source}/24"), "dev", "eth0"]);
    }
    let knockd = Knockd::start(
        &net.server,
        &format!(
            "{}doors:\n  ssh: {{sequence: [7000, 8000, 9000], open: [22], via: iptables, open_for: 60s}}\n",
            settings()
        ),
    );
    let senders = sources.clone();
    net.client.enter(move || {
        let server: IpAddr = SERVER.parse().unwrap();
        for port in SEQUENCE {
            for &source in &senders {
                crate::support::knock(source, server, &[port.to_owned()], Duration::ZERO);
            }
        }
    });
    knockd.wait_for_count("OPEN SESAME", 50);
    for source in sources {
        let open = eventually(PATIENCE, || net.client.can_connect_from(Some(source), SERVER, 22));
        assert!(open, "{source} did not get in");
    }
    let (status, log) = knockd.stop();
    assert_eq!(status.code(), Some(0), "{}", log.join("\n"));
    let rules = net.server.must("iptables", &["-S", "INPUT"]);
    assert!(!rules.contains("-j ACCEPT"), "left behind:\n{rules}");
}

#[test]
fn a_reload_in_the_middle_of_a_sequence_loses_nothing_and_counts_nothing_twice() {
    needs!("reload");
    let net = Net::new();
    let act =
        "  wake:\n    sequence: [7100, 8100, 9100]\n    start_command: echo %IP% >> DIR/woken\n";
    let knockd = Knockd::start(&net.server, &recording_door(act));
    let woken = knockd.directory.path().join("woken");
    for round in 1..=5 {
        net.client.knock_from(client(), SERVER, &["7100", "8100"], SOON);
        knockd.wait_for_count("192.0.2.2: wake: Stage 2", round);
        knockd.signal(Signal::SIGHUP);
        knockd.wait_for_count("re-reading config file", round);
        // Before, while and after the watchers change.
        std::thread::sleep(Duration::from_millis(30 * (round as u64 - 1)));
        net.client.knock_from(client(), SERVER, &["9100"], SOON);
        knockd.wait_for_count("192.0.2.2: wake: OPEN SESAME", round);
    }
    // Whole sequences while watchers change, too.
    for round in 6..=15 {
        knockd.signal(Signal::SIGHUP);
        std::thread::sleep(Duration::from_millis(5 * (round as u64 - 6)));
        net.client.knock_from(client(), SERVER, &["7100", "8100", "9100"], SOON);
        knockd.wait_for_count("192.0.2.2: wake: OPEN SESAME", round);
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(knockd.count("OPEN SESAME"), 15, "{}", knockd.log().join("\n"));
    assert!(eventually(PATIENCE, || lines(&woken).len() == 15), "{:?}", lines(&woken));
}

#[test]
fn a_bad_configuration_at_reload_changes_nothing() {
    needs!("bad reload");
    let net = Net::new();
    let knockd = Knockd::start(&net.server, &recording_door(""));
    knockd.configure("doors:\n  ssh:\n    sequence: [7000, abc]\n    start_command: /bin/true\n");
    knockd.signal(Signal::SIGHUP);
    knockd.wait_for("the old configuration stays");
    assert!(knockd.count("'abc' is not a port") > 0);
    net.client.knock_from(client(), SERVER, &SEQUENCE, SOON);
    knockd.wait_for("OPEN SESAME");
}

#[test]
fn a_sequence_that_a_reload_took_away_opens_no_more() {
    needs!("changed sequence");
    let net = Net::new();
    let knockd = Knockd::start(&net.server, &recording_door(""));
    net.client.knock_from(client(), SERVER, &["7000", "8000"], SOON);
    knockd.wait_for("Stage 2");
    knockd.configure(&recording_door("").replace("7000", "7777"));
    knockd.signal(Signal::SIGHUP);
    // The new watcher has taken over when it reports the new first knock. The second before it ends
    // what it has heard before that, and is nothing new to the old one.
    let seen = eventually(PATIENCE, || {
        net.client.knock_from(client(), SERVER, &["8000", "7777"], SOON);
        knockd.count("Stage 1") > 1
    });
    assert!(seen);
    net.client.knock_from(client(), SERVER, &["9000"], SOON);
    knockd.wait_for("the configuration has changed since the knock began");
    assert!(lines(&knockd.directory.path().join("opened")).is_empty());
}

#[test]
fn a_watcher_that_dies_is_replaced_and_grants_live_on() {
    needs!("killed watcher");
    let net = Net::new();
    let knockd =
        Knockd::start(&net.server, &recording_door("").replace("cmd_timeout: 1", "cmd_timeout: 3"));
    let path = |name: &str| knockd.directory.path().join(name);
    net.client.knock_from(client(), SERVER, &SEQUENCE, SOON);
    assert!(eventually(PATIENCE, || lines(&path("opened")).len() == 1));
    let old = knockd.watchers();
    assert_eq!(old.len(), 1);
    kill(Pid::from_raw(old[0]), Signal::SIGKILL).unwrap();
    knockd.wait_for("the watcher ended");
    assert!(eventually(PATIENCE, || knockd.watchers().len() == 1 && knockd.watchers() != old));
    assert!(lines(&path("closed")).is_empty(), "the grant ended with the watcher");
    // Extends the same grant: the open command does not run again.
    let extended = eventually(PATIENCE, || {
        net.client.knock_from(client(), SERVER, &SEQUENCE, SOON);
        knockd.count("OPEN SESAME") >= 2
    });
    assert!(extended, "the new watcher is deaf");
    assert!(eventually(PATIENCE, || lines(&path("closed")).len() == 1));
    assert_eq!(lines(&path("opened")).len(), 1);
}

#[test]
fn a_first_watcher_that_is_killed_is_followed_by_another() {
    needs!("killed first watcher");
    let net = Net::new();
    // It works soon after it has been started, and is then a watcher like any other.
    let in_time = (0..20).any(|_| {
        let knockd = Knockd::spawn(&net.server, &recording_door(""), &[]);
        let mut seen = std::iter::repeat_with(|| knockd.watchers());
        let first = seen.find(|watchers| !watchers.is_empty()).unwrap();
        kill(Pid::from_raw(first[0]), Signal::SIGKILL).unwrap();
        knockd.wait_for("starting up, listening on");
        if knockd.count("the new watcher could not start (signal: 9") == 0 {
            return false;
        }
        net.client.knock_from(client(), SERVER, &SEQUENCE, SOON);
        knockd.wait_for("OPEN SESAME");
        true
    });
    assert!(in_time, "no watcher was killed before it worked");
}

#[test]
fn the_watcher_has_no_privileges_left() {
    needs!("privileges");
    let net = Net::new();
    let knockd = Knockd::start(&net.server, &recording_door(""));
    let status = fs::read_to_string(format!("/proc/{}/status", knockd.watchers()[0])).unwrap();
    let value = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_else(|| panic!("no {key} in {status}"))
            .split_whitespace()
            .collect::<Vec<_>>()
    };
    assert!(value("Uid:").iter().all(|id| *id == "65534"), "{status}");
    assert!(value("Gid:").iter().all(|id| *id == "65534"), "{status}");
    assert!(value("Groups:").iter().all(|id| *id == "65534"), "{status}");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(value(set), ["0000000000000000"], "{status}");
    }
    assert_eq!(value("NoNewPrivs:"), ["1"]);
}

#[test]
fn sigterm_closes_what_is_open_and_exits_with_0() {
    needs!("sigterm");
    let net = Net::new();
    let knockd = Knockd::start(
        &net.server,
        &recording_door("").replace("cmd_timeout: 1", "cmd_timeout: 1h"),
    );
    let directory = knockd.directory.path().to_owned();
    net.client.knock_from(client(), SERVER, &SEQUENCE, SOON);
    assert!(eventually(PATIENCE, || lines(&directory.join("opened")).len() == 1));
    knockd.signal(Signal::SIGTERM);
    knockd.wait_for("shutting down");
    assert!(eventually(PATIENCE, || lines(&directory.join("closed")) == [CLIENT]));
    let (status, log) = stopped(knockd);
    assert_eq!(status, Some(0), "{log}");
}

fn stopped(mut knockd: Knockd) -> (Option<i32>, String) {
    let status = knockd.ended();
    (status.code(), knockd.log().join("\n"))
}

#[test]
fn a_command_that_hangs_fails_or_floods_harms_no_other_door() {
    needs!("bad commands");
    let net = Net::new();
    let others = "  \
  hangs: {sequence: [7100, 8100, 9100], start_command: \"exec sleep 1000\"}
  fails: {sequence: [7200, 8200, 9200], start_command: \"exit 7\", stop_command: \"echo x >> DIR/closed\"}
  floods: {sequence: [7300, 8300, 9300], start_command: \"yes | head -c 1000000\"}
  missing: {sequence: [7400, 8400, 9400], start_command: /no/such/program}
";
    let knockd = Knockd::start(&net.server, &recording_door(others));
    for hundred in ["1", "2", "3", "4", "0"] {
        let ports = [7, 8, 9].map(|thousand| format!("{thousand}{hundred}00"));
        let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
        net.client.knock_from(client(), SERVER, &ports, SOON);
    }
    let opened = knockd.directory.path().join("opened");
    assert!(eventually(PATIENCE, || lines(&opened).len() == 1));
    knockd.wait_for("fails: command returned non-zero status code (7)");
    knockd.wait_for("192.0.2.2: fails: opened with errors");
    knockd.wait_for("floods: command says more, which is not logged");
    knockd.wait_for("missing: command returned non-zero status code (127)");
    knockd.wait_for("hangs: command did not end within 10 s and was killed");
    // It may have opened, so it is closed at its time.
    let closed = knockd.directory.path().join("closed");
    assert!(eventually(PATIENCE, || lines(&closed).len() == 1));
}

#[test]
fn a_command_runs_as_long_as_its_door_allows_and_is_waited_for_at_the_end() {
    needs!("command_limit");
    let net = Net::new();
    let others = "  \
  short: {sequence: [7100, 8100, 9100], start_command: \"exec sleep 1000\", command_limit: 1s}
  long: {sequence: [7200, 8200, 9200], start_command: \"sleep 3; echo x >> DIR/long\", command_limit: none}
";
    let mut knockd = Knockd::start(&net.server, &recording_door(others));
    let directory = knockd.directory.path().to_owned();
    for ports in [["7100", "8100", "9100"], ["7200", "8200", "9200"]] {
        net.client.knock_from(client(), SERVER, &ports, SOON);
    }
    knockd.wait_for("short: command did not end within 1 s and was killed");
    assert!(lines(&directory.join("long")).is_empty());
    knockd.signal(Signal::SIGTERM);
    assert_eq!(knockd.ended().code(), Some(0));
    assert_eq!(lines(&directory.join("long")), ["x"]);
}

#[test]
fn an_interface_that_vanishes_and_comes_back_is_listened_on_again() {
    needs!("interface");
    let net = Net::new();
    let knockd = Knockd::start(&net.server, &recording_door(""));
    net.server.must("ip", &["link", "del", "eth0"]);
    knockd.wait_for("eth0 has gone");
    net.plug();
    knockd.wait_for("eth0 is back");
    net.client.knock_from(client(), SERVER, &SEQUENCE, SOON);
    knockd.wait_for("OPEN SESAME");
    assert_eq!(knockd.count("eth0"), 3, "{}", knockd.log().join("\n"));
}

#[test]
fn an_interface_that_does_not_exist_yet_is_waited_for() {
    needs!("late interface");
    let net = Net::new();
    let config = recording_door("").replace("[eth0]", "[eth0, late7]");
    let knockd = Knockd::start(&net.server, &config);
    knockd.wait_for("late7 cannot be listened on yet");
    net.server.must("ip", &["link", "add", "late7", "type", "veth", "peer", "name", "other7"]);
    net.server.must("ip", &["link", "set", "late7", "up"]);
    knockd.wait_for("late7 is back");
    net.client.knock_from(client(), SERVER, &SEQUENCE, SOON);
    knockd.wait_for("OPEN SESAME");
}

#[test]
fn an_address_that_is_added_later_can_be_knocked_at() {
    needs!("addresses");
    let net = Net::new();
    let knockd = Knockd::start(&net.server, &recording_door(""));
    net.server.must("ip", &["addr", "add", "198.51.100.1/32", "dev", "eth0"]);
    net.client.must("ip", &["route", "add", "198.51.100.1/32", "via", SERVER]);
    net.client.knock_from(client(), "198.51.100.1", &SEQUENCE, SOON);
    knockd.wait_for("OPEN SESAME");
}

#[test]
fn a_router_sees_knocks_at_the_target_behind_it_and_at_nothing_else() {
    needs!("target");
    let net = Net::new();
    net.server.must("sysctl", &["-qw", "net.ipv4.ip_forward=1"]);
    net.server.must("ip", &["link", "add", "inside", "type", "veth", "peer", "name", "beyond"]);
    net.server.must("ip", &["link", "set", "inside", "up"]);
    net.server.must("ip", &["route", "add", "198.51.100.0/24", "dev", "inside"]);
    net.client.must("ip", &["route", "add", "198.51.100.0/24", "via", SERVER]);
    let knockd = Knockd::start(&net.server, &recording_door("    target: 198.51.100.7\n"));
    for elsewhere in [SERVER, "198.51.100.8"] {
        net.client.knock_from(client(), elsewhere, &SEQUENCE, SOON);
    }
    net.client.knock_from(client(), "198.51.100.7", &SEQUENCE, SOON);
    knockd.wait_for("OPEN SESAME");
    assert_eq!(knockd.count("Stage 1"), 1);
}

#[test]
fn listening_on_any_counts_a_packet_once() {
    needs!("any");
    let net = Net::new();
    let knockd = Knockd::start(&net.server, &recording_door("").replace("[eth0]", "[any]"));
    knockd.wait_for("starting up, listening on any");
    net.client.knock_from(client(), SERVER, &["7000", "8000", "9000"], SOON);
    knockd.wait_for("OPEN SESAME");
    net.server.knock_from("127.0.0.1".parse().unwrap(), "127.0.0.1", &SEQUENCE, SOON);
    knockd.wait_for("127.0.0.1: ssh: OPEN SESAME");
    assert_eq!(knockd.count("Stage 1"), 2);
}

#[test]
fn a_daemon_says_by_its_exit_status_whether_it_started() {
    needs!("daemon");
    let net = Net::new();
    let mut parent = Knockd::spawn(&net.server, &recording_door(""), &["-d"]);
    assert_eq!(parent.ended().code(), Some(0), "{}", parent.log().join("\n"));
    let pid_file = parent.directory.path().join("run/knockd.pid");
    let pid: i32 = lines(&pid_file)[0].parse().unwrap();

    let config = parent.config.display().to_string();
    let second = net.server.run(env!("CARGO_BIN_EXE_knockd"), &["-d", "-c", &config]);
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains(&format!("knockd is running already (process {pid}")), "{said}");

    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    assert!(eventually(PATIENCE, || !Path::new(&format!("/proc/{pid}")).exists()));
    assert!(!pid_file.exists());

    fs::write(&parent.config, "doors: {ssh: {sequence: [0]}}\n").unwrap();
    let bad = net.server.run(env!("CARGO_BIN_EXE_knockd"), &["-d", "-c", &config]);
    assert_eq!(bad.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("knock.conf:1:"));
}
