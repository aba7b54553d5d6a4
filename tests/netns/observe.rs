//! Doors that only observe: nobody is kept out, and who came is told apart.
//!
//! Needs root and nft; says loudly what it skips where it cannot run.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::guard_fixture::echo_tcp;
use crate::support::flood::{Flood, FloodKind, FloodRate};
use crate::support::{CLIENT, Knockd, Net, PATIENCE, SERVER, SERVER_6, eventually, needs};

const SETTINGS: &str =
    "knockd: {interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody";
const SSH: &str = "  ssh: {sequence: [7000, 8000, 9000], open: [22], guard: observe}\n";
const WEB: &str = "  web: {sequence: [7100, 8100, 9100], open: [80]}\n";

fn configuration(settings: &str, doors: &str) -> String {
    format!("{SETTINGS}{settings}}}\ndoors:\n{doors}")
}

struct Site {
    net: Net,
    knockd: Knockd,
}

impl Site {
    /// Something answers on port 22 and listens on port 80.
    fn new(configuration: &str) -> Self {
        let net = Net::new();
        net.server.enter(|| echo_tcp(22));
        net.server.listen(80);
        let knockd = Knockd::start(&net.server, configuration);
        Self { net, knockd }
    }

    fn knockctl(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = self.net.server.command(env!("CARGO_BIN_EXE_knockctl"));
        command.arg("-c").arg(&self.knockd.config).args(arguments).output().unwrap()
    }

    fn says(&self, arguments: &[&str]) -> String {
        let output = self.knockctl(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What is observed: network, port, how far they came, whether it is proposed.
    fn observed(&self) -> Vec<[String; 4]> {
        let said = self.says(&["observe", "--json"]);
        let rows =
            said.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let text = |value: &serde_json::Value| value.to_string().trim_matches('"').to_owned();
        rows.map(|row| ["network", "port", "came", "proposed"].map(|key| text(&row[key]))).collect()
    }

    fn sees(&self, row: [&str; 4]) -> bool {
        eventually(PATIENCE, || self.observed().iter().any(|it| *it == row))
    }

    fn is_open(&self, to: &str, port: u16) -> bool {
        self.net.client.can_connect(to, port)
    }

    /// A connection that stands until it is dropped.
    fn login(&self, to: &str) -> TcpStream {
        let to = SocketAddr::new(to.parse().unwrap(), 22);
        let stream = self.net.client.enter(move || TcpStream::connect(to).unwrap());
        assert!(is_alive(&stream));
        stream
    }

    /// The connections that stand have stood for minutes, as far as the kernel can tell.
    fn minutes_pass(&self) {
        for set in ["arrived_4", "arrived_6"] {
            self.net.server.must("nft", &["flush", "set", "inet", "knockd", set]);
        }
    }

    fn size(&self, set: &str) -> usize {
        let said = self.net.server.must("nft", &["-j", "list", "set", "inet", "knockd", set]);
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        let sets = said["nftables"].as_array().unwrap().iter();
        sets.filter_map(|it| it["set"]["elem"].as_array()).map(Vec::len).sum()
    }
}

/// Whether what is said over a connection is answered.
fn is_alive(mut stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    stream.write_all(b"whoami").unwrap();
    stream.read_exact(&mut [0; 6]).is_ok()
}

#[test]
fn a_door_that_observes_keeps_nobody_out_and_others_are_locked_as_before() {
    needs!("observe", "nft");
    let site = Site::new(&configuration("", &format!("{SSH}{WEB}")));
    for to in [SERVER, SERVER_6] {
        assert!(site.is_open(to, 22) && !site.is_open(to, 80), "{to}");
    }
    assert!(site.sees([CLIENT, "22/tcp", "connected", "false"]));
    assert!(site.sees(["2001:db8::/64", "22/tcp", "connected", "false"]));
    assert!(!site.observed().iter().any(|row| row[1] == "80/tcp"), "{:?}", site.observed());
}

#[test]
fn the_whole_guard_observes_but_for_a_door_that_says_otherwise() {
    needs!("observe whole", "nft");
    let doors = SSH.replace("observe", "lock") + WEB;
    let site = Site::new(&configuration(", guard: observe", &doors));
    assert!(!site.is_open(SERVER, 22) && site.is_open(SERVER, 80));
    assert!(site.sees([CLIENT, "80/tcp", "connected", "false"]));
}

#[test]
fn a_login_under_a_scan_stands_out_and_is_proposed_and_goes_on() {
    needs!("observe login", "nft");
    let site = Site::new(&configuration("", SSH));
    let logins = [SERVER, SERVER_6].map(|to| site.login(to));
    // Half-open, from everywhere; and whole, from the same network.
    let scan = Flood::start(&site.net, FloodKind::Knocks(22..=22), FloodRate::PerSecond(500));
    assert!(eventually(PATIENCE, || site.size("tried_4") > 200));
    drop(scan);
    site.net.client.must("ip", &["addr", "add", "192.0.2.77/24", "dev", "eth0"]);
    let scanner: IpAddr = "192.0.2.77".parse().unwrap();
    assert!(site.net.client.can_connect_from(Some(scanner), SERVER, 22));
    assert!(logins.iter().all(is_alive));
    site.minutes_pass();
    assert!(logins.iter().all(is_alive));
    let mut first: Vec<_> = site.observed().into_iter().take(3).collect();
    // Which of the two said more is of no concern.
    first[..2].sort();
    let expected = [
        [CLIENT, "22/tcp", "stayed", "true"],
        ["2001:db8::/64", "22/tcp", "stayed", "true"],
        ["192.0.2.77", "22/tcp", "connected", "false"],
    ];
    assert_eq!(first, expected);
    let said = site.says(&["observe"]);
    assert!(said.contains("trusted: [\"192.0.2.2\", \"2001:db8::/64\"]"), "{said}");
    // They are let in and no longer told of once that is written.
    let trusted = format!(", trusted: [{CLIENT}, \"2001:db8::/64\"]");
    site.knockd.configure(&configuration(&trusted, SSH));
    site.knockd.signal(Signal::SIGHUP);
    site.knockd.wait_for_count("only observes", 2);
    assert_eq!(site.observed()[0], expected[2]);
    assert!(logins.iter().all(is_alive));
}

#[test]
fn a_connection_from_the_port_of_an_earlier_one_is_not_taken_for_that() {
    needs!("observe port", "nft");
    let site = Site::new(&configuration("", SSH));
    let earlier = site.login(SERVER);
    assert!(is_alive(&earlier));
    let from = earlier.local_addr().unwrap();
    // It ends with a reset, so that the port is free.
    let earlier = socket2::Socket::from(earlier);
    earlier.set_linger(Some(Duration::ZERO)).unwrap();
    drop(earlier);
    site.minutes_pass();
    let again = site.net.client.enter(move || {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&from.into()).unwrap();
        socket.connect(&SocketAddr::new(SERVER.parse().unwrap(), 22).into()).unwrap();
        TcpStream::from(socket)
    });
    assert!(is_alive(&again) && is_alive(&again));
    assert_eq!(site.observed(), [[CLIENT, "22/tcp", "connected", "false"]]);
}

#[test]
fn a_flood_of_forged_sources_has_its_bounds_and_hides_no_login() {
    needs!("observe flood", "nft");
    let site = Site::new(&configuration("", SSH));
    let flood = Flood::start(&site.net, FloodKind::Knocks(22..=22), FloodRate::PerSecond(5000));
    assert!(eventually(PATIENCE, || site.size("tried_4") == 4096), "{}", site.size("tried_4"));
    let login = site.login(SERVER);
    site.minutes_pass();
    assert!(is_alive(&login));
    assert!(site.sees([CLIENT, "22/tcp", "stayed", "true"]));
    let said = site.knockctl(&["observe"]);
    assert!(String::from_utf8_lossy(&said.stderr).contains("there may be others"), "{said:?}");
    assert!(flood.sent() > 4096);
    drop(flood);
    assert_eq!([site.size("tried_4"), site.size("connected_4")], [4096, 1]);
    // What has been noted is no burden to a reload.
    site.knockd.signal(Signal::SIGHUP);
    site.knockd.wait_for_count("only observes", 2);
    assert!(site.sees([CLIENT, "22/tcp", "stayed", "true"]));
    assert!(site.size("tried_4") > 4000 && is_alive(&login));
}

#[test]
fn whoever_knocked_or_is_trusted_is_not_noted() {
    needs!("observe granted", "nft");
    let site = Site::new(&configuration(", trusted: [192.0.2.77]", SSH));
    site.net.client.must("ip", &["addr", "add", "192.0.2.77/24", "dev", "eth0"]);
    site.says(&["open", "ssh", CLIENT, "--for", "1h"]);
    for from in [CLIENT, "192.0.2.77"] {
        assert!(site.net.client.can_connect_from(from.parse().ok(), SERVER, 22), "{from}");
    }
    assert_eq!(site.says(&["observe"]), "nobody came who had not knocked\n");
    assert_eq!([site.size("tried_4"), site.size("connected_4")], [0, 0]);
}

#[test]
fn a_door_with_a_target_notes_what_is_for_that_address() {
    needs!("observe target", "nft");
    let target = SSH.replace("guard", "target: 192.0.2.9, guard");
    let site = Site::new(&configuration("", &target));
    site.net.server.must("ip", &["addr", "add", "192.0.2.9/24", "dev", "eth0"]);
    assert!(site.is_open(SERVER, 22));
    assert!(site.observed().is_empty());
    assert!(site.is_open("192.0.2.9", 22));
    assert!(site.sees([CLIENT, "22/tcp", "connected", "false"]));
}

#[test]
fn datagrams_are_noted_too_and_let_in() {
    needs!("observe udp", "nft");
    let site = Site::new(&configuration("", &SSH.replace("[22]", "[53/udp]")));
    let answering = site.net.server.enter(|| UdpSocket::bind((SERVER, 53)).unwrap());
    answering.set_read_timeout(Some(PATIENCE)).unwrap();
    let client = site.net.client.enter(|| UdpSocket::bind((CLIENT, 0)).unwrap());
    client.send_to(b"?", (SERVER, 53)).unwrap();
    assert!(answering.recv_from(&mut [0; 9]).is_ok());
    assert!(site.sees([CLIENT, "53/udp", "tried", "false"]));
}

#[test]
fn check_status_and_log_say_that_a_door_only_observes() {
    needs!("observe said", "nft");
    let site = Site::new(&configuration("", &format!("{SSH}{WEB}")));
    site.knockd.wait_for("door 'ssh' only observes: it keeps nobody out");
    assert_eq!(site.knockd.count("door 'web' only observes"), 0);
    let said = site.says(&["status"]);
    assert!(
        said.contains("22/tcp  guard, only observes") && said.contains("80/tcp  guard "),
        "{said}"
    );
    let check = site.knockctl(&["check"]);
    let (out, err) = (String::from_utf8(check.stdout), String::from_utf8(check.stderr));
    assert!(out.unwrap().contains("the guard only observes 22/tcp"));
    assert!(err.unwrap().contains("door 'ssh' only observes"));
    let (_, log) = site.knockd.stop();
    let stays: Vec<_> = log.iter().filter(|line| line.contains("stays locked: ")).collect();
    assert!(stays.len() == 1 && stays[0].contains("80/tcp") && !stays[0].contains("22/tcp"));
}

#[test]
fn a_reload_locks_and_unlocks_and_what_has_been_noted_stays() {
    needs!("observe reload", "nft");
    let site = Site::new(&configuration("", SSH));
    let login = site.login(SERVER);
    assert!(site.sees([CLIENT, "22/tcp", "connected", "false"]));
    site.knockd.configure(&configuration("", &SSH.replace("observe", "lock")));
    site.knockd.signal(Signal::SIGHUP);
    assert!(eventually(PATIENCE, || !site.is_open(SERVER, 22)), "it is not locked");
    assert!(is_alive(&login), "a connection that was there is cut off");
    assert!(site.sees([CLIENT, "22/tcp", "connected", "false"]));
    site.knockd.configure(&configuration("", SSH));
    site.knockd.signal(Signal::SIGHUP);
    assert!(eventually(PATIENCE, || site.is_open(SERVER, 22)), "it stays locked");
    assert!(is_alive(&login));
    assert!(site.sees([CLIENT, "22/tcp", "connected", "false"]));
}

#[test]
fn a_lock_that_is_confirmed_is_in_the_file_and_outlasts_a_restart() {
    needs!("lock confirmed", "nft");
    let doors = "  # the way in\n  ssh:\n    sequence: [7000, 8000, 9000]\n    open: [22]\n";
    let mut site = Site::new(&configuration(", guard: observe", &format!("{doors}{WEB}")));
    fs::set_permissions(&site.knockd.config, fs::Permissions::from_mode(0o640)).unwrap();
    let before = fs::read_to_string(&site.knockd.config).unwrap();
    let login = site.login(SERVER);
    let said = site.says(&["lock", "ssh", "--for", "1h"]);
    assert!(said.starts_with("door 'ssh' is locked, on trial\n"), "{said}");
    assert!(!site.is_open(SERVER, 22) && site.is_open(SERVER, 80) && is_alive(&login));
    assert_eq!(fs::read_to_string(&site.knockd.config).unwrap(), before, "not confirmed yet");
    assert!(site.says(&["confirm"]).contains("the configuration stays"));
    let expected = before.replace("    sequence", "    guard: lock\n    sequence");
    assert_eq!(fs::read_to_string(&site.knockd.config).unwrap(), expected);
    assert_eq!(fs::metadata(&site.knockd.config).unwrap().mode() & 0o777, 0o640);
    site.says(&["reload"]);
    assert!(!site.is_open(SERVER, 22) && site.is_open(SERVER, 80));
    site.knockd.signal(Signal::SIGTERM);
    site.knockd.ended();
    let again = site.knockd.start_again(&site.net.server);
    again.wait_for("starting up");
    assert!(!site.net.client.can_connect(SERVER, 22) && site.net.client.can_connect(SERVER, 80));
    assert!(is_alive(&login));
}

#[test]
fn a_lock_that_would_take_another_door_with_it_is_not_confirmed() {
    needs!("lock aliased", "nft");
    let doors = format!("{SSH}{WEB}").replace("guard: observe", "guard: &mode observe");
    let site = Site::new(&configuration("", &doors.replace("[80]", "[80], guard: *mode")));
    let before = fs::read_to_string(&site.knockd.config).unwrap();
    site.says(&["lock", "web", "--for", "1h"]);
    assert!(site.is_open(SERVER, 22) && !site.is_open(SERVER, 80));
    let output = site.knockctl(&["confirm"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("write 'guard: lock' for door 'web' by hand"), "{said}");
    assert_eq!(fs::read_to_string(&site.knockd.config).unwrap(), before);
    assert!(site.says(&["status"]).contains("on trial"));
}

#[test]
fn a_lock_that_several_confirm_at_once_is_in_the_file() {
    needs!("lock confirmed at once", "nft");
    let site = Site::new(&configuration("", SSH));
    let before = fs::read_to_string(&site.knockd.config).unwrap();
    for _ in 0..5 {
        site.knockd.configure(&before);
        site.says(&["reload"]);
        site.says(&["lock", "ssh", "--for", "1h"]);
        let confirm = || site.knockctl(&["confirm"]).status.success();
        let confirmed = std::thread::scope(|scope| {
            let all = [(); 4].map(|()| scope.spawn(confirm));
            all.into_iter().filter_map(|it| it.join().ok()).filter(|it| *it).count()
        });
        assert_eq!(confirmed, 1);
        let after = fs::read_to_string(&site.knockd.config).unwrap();
        assert_eq!(after, before.replace("observe", "lock"));
    }
}

#[test]
fn a_lock_that_nobody_confirms_goes_and_the_door_observes_again() {
    needs!("lock unconfirmed", "nft");
    let site = Site::new(&configuration("", SSH));
    assert!(site.is_open(SERVER_6, 22));
    let before = fs::read_to_string(&site.knockd.config).unwrap();
    site.says(&["lock", "ssh", "--for", "10s"]);
    assert!(!site.is_open(SERVER, 22));
    site.knockd.wait_for("the configuration before the trial is in force again");
    assert!(site.is_open(SERVER, 22), "it stays locked");
    assert!(site.sees([CLIENT, "22/tcp", "connected", "false"]));
    assert!(site.sees(["2001:db8::/64", "22/tcp", "connected", "false"]));
    assert_eq!(fs::read_to_string(&site.knockd.config).unwrap(), before);
    assert!(!site.knockctl(&["confirm"]).status.success());
    assert_eq!(fs::read_to_string(&site.knockd.config).unwrap(), before);
}

#[test]
fn a_knockd_that_dies_while_a_lock_is_on_trial_observes_again_when_it_is_started() {
    needs!("lock, killed", "nft");
    let mut site = Site::new(&configuration("", SSH));
    site.says(&["lock", "ssh", "--for", "1h"]);
    assert!(!site.is_open(SERVER, 22));
    site.knockd.signal(Signal::SIGKILL);
    site.knockd.ended();
    let again = site.knockd.start_again(&site.net.server);
    again.wait_for("starting up");
    assert!(site.net.client.can_connect(SERVER, 22), "it stays locked");
    assert_eq!(again.count("on trial"), 0);
}

#[test]
fn what_does_not_observe_is_not_locked_on_trial() {
    needs!("lock refused", "nft");
    let other = "  other: {sequence: [7500, 8500, 9500], start_command: 'true'}\n";
    let site = Site::new(&configuration("", &format!("{SSH}{WEB}{other}")));
    for (door, why) in [
        ("web", "door 'web' is locked already"),
        ("other", "door 'other' is opened via commands, and only the guard locks doors"),
        ("none", "there is no door 'none'"),
    ] {
        let output = site.knockctl(&["lock", door]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(why), "{said}");
    }
    assert!(site.is_open(SERVER, 22) && !site.is_open(SERVER, 80));
    assert!(!site.says(&["status"]).contains("on trial"));
}
