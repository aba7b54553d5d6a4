//! A hundred thousand packets a second of strangers, and everybody who may come in meanwhile.
//!
//! In each flood those who may knock in every way that there is, twenty times: with a sequence, one
//! that rotates, a line that opens once, with `knock`'s request and that of fwknop's own client.
//! That is what a build for release takes, which `make floods` names; one for tests gets a fifth.
//!
//! Needs root; says loudly what it skips where it cannot run.

use std::env;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use data_encoding::BASE32_NOPAD;
use libknock::proto::fwknop::{
    Access, CipherMode, FwknopKey, FwknopKeys, FwknopRequest, Hash, HmacKey, Random, seal,
};
use libknock::proto::spa::PrivateKey;

use crate::support::flood::{Flood, FloodKind, FloodRate};
use crate::support::usage::{processes, resident};
use crate::support::{
    CLIENT, CLIENT_6, Knockd, Net, PATIENCE, SERVER, SERVER_6, eventually, needs,
};

const KNOCK: &str = env!("CARGO_BIN_EXE_knock");
/// The variable that names a `knockd` that was built for release.
const RELEASED: &str = "RELEASED_KNOCKD";
const TIMES: usize = 20;
/// How long somebody waits before it is said that the door did not open.
const LATEST: Duration = Duration::from_secs(3);
/// In KiB, of each process: what 65,536 sources, a thousand clients and a ring for what comes fast
/// take up, and as much again for a build for tests.
const MOST_RESIDENT: u64 = 48 << 10;

/// One flood at a time: they are to fight knockd, not each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The ways to come in, each with a door of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Sequence,
    Sequence6,
    Totp,
    Line,
    Native,
    Fwknop,
}

impl Way {
    const ALL: [Self; 6] =
        [Self::Sequence, Self::Sequence6, Self::Totp, Self::Native, Self::Fwknop, Self::Line];

    /// Whom and which door the log names when it opens.
    const fn door(self) -> &'static str {
        match self {
            Self::Sequence => "192.0.2.2: plain",
            Self::Sequence6 => "2001:db8::2: plain",
            Self::Totp => "192.0.2.2: rotating",
            // Of two doors: each takes ten lines at once.
            Self::Line => "192.0.2.2: once",
            Self::Native => "192.0.2.2: native",
            Self::Fwknop => "192.0.2.2: theirs",
        }
    }
}

/// A server with a door for each way.
struct Site {
    net: Net,
    knockd: Knockd,
    server_key: String,
}

impl Site {
    /// With so many clients that use fwknop.
    fn new(fwknop_clients: usize) -> Self {
        let net = Net::new();
        // A firewall before everything that the kernel would have to do about each packet.
        let rules = "table inet quiet { chain quiet { \
                     type filter hook prerouting priority -500; \
                     tcp dport 7000-29999 drop; udp dport 62201 drop; \
                     ip frag-off & 0x3fff != 0 drop; ip6 nexthdr 60 drop; }; }";
        net.server.must("nft", &[rules]);
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut clients = String::new();
        for number in 0..TIMES {
            private(&path(&format!("totp{number}")), &secret(number));
            let file = path(&format!("totp{number}"));
            let _ = writeln!(
                clients,
                "  totp{number}: {{doors: [rotating], totp: {{secret_file: {}}}}}",
                file.display()
            );
        }
        for number in 1..fwknop_clients {
            let _ = writeln!(
                clients,
                "  other{number}: {{doors: [theirs], fwknop: {{key: key{number}, hmac_key: \
                 hmac{number}}}}}"
            );
        }
        for (name, numbers) in [("lines0", 0..TIMES / 2), ("lines1", TIMES / 2..TIMES)] {
            let lines = numbers.map(|n| format!("{},{},{}\n", 7101 + n, 8101 + n, 9101 + n));
            private(&path(name), &lines.collect::<String>());
        }
        private(&path("laptop.key"), &PrivateKey::from([7; 32]).encode());
        let text = format!(
            "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody,\n\
             \x20 spa: {{key_file: DIR/keys/server.key}}}}\n\
             clients:\n{clients}\
             \x20 laptop: {{doors: [native], spa: {{public_key: {}}}}}\n\
             \x20 owner: {{doors: [theirs], fwknop: {{key: testkey, hmac_key: hmackey}}}}\n\
             doors:\n\
             \x20 plain: {{sequence: [7000, 8000, 9000], start_command: ['true']}}\n\
             \x20 rotating: {{totp: {{ports: 20000-29999, step: 1h}}, start_command: ['true']}}\n\
             \x20 once0: {{one_time_sequences: DIR/lines0, start_command: ['true']}}\n\
             \x20 once1: {{one_time_sequences: DIR/lines1, start_command: ['true']}}\n\
             \x20 native: {{spa: true, start_command: ['true']}}\n\
             \x20 theirs: {{fwknop: true, start_command: ['true']}}\n",
            PrivateKey::from([7; 32]).public(),
        );
        let config = path("knock.conf");
        private(&config, &text.replace("DIR", directory.path().to_str().unwrap()));
        let program = released().unwrap_or_else(|| env!("CARGO_BIN_EXE_knockd").to_owned());
        let mut command = net.server.command(&program);
        command.arg("-c").arg(&config);
        let knockd = Knockd::from_command(command, directory, config);
        knockd.wait_for("starting up, listening on");
        let key = fs::read_to_string(knockd.directory.path().join("keys/server.key")).unwrap();
        let server_key = key.parse::<PrivateKey>().unwrap().public().to_string();
        Self { net, knockd, server_key }
    }

    fn knock(&self, way: Way, number: usize) {
        let path = |name: &str| self.knockd.directory.path().join(name).display().to_string();
        let sequence = |from: &str, to: &str, first: usize| {
            let ports = [first, first + 1000, first + 2000].map(|port| port.to_string());
            let from: IpAddr = from.parse().unwrap();
            let ports = ports.each_ref().map(String::as_str);
            self.net.client.knock_from(from, to, &ports, Duration::from_millis(15));
        };
        let knock = |arguments: &str| {
            self.net.client.must(KNOCK, &arguments.split(' ').collect::<Vec<_>>());
        };
        match way {
            Way::Sequence => sequence(CLIENT, SERVER, 7000),
            Way::Sequence6 => sequence(CLIENT_6, SERVER_6, 7000),
            Way::Totp => knock(&format!(
                "--totp --door rotating --ports 20000-29999 --step 1h -d 15 --secret-file {} \
                 {SERVER}",
                path(&format!("totp{number}"))
            )),
            // The next one that has not opened yet, as soon as it counts.
            Way::Line => {
                let opened = self.opened(Way::Line);
                let left = || {
                    let doors = self.knockd.ask(r#"{"do":"status"}"#).remove(0)["doors"].take();
                    let left = |door: &serde_json::Value| door["sequences_left"].as_u64();
                    doors.as_array().unwrap().iter().filter_map(left).sum::<u64>()
                };
                assert!(eventually(PATIENCE, || left() == (TIMES - opened) as u64));
                sequence(CLIENT, SERVER, 7101 + opened);
            }
            Way::Native => knock(&format!(
                "--spa --door native --server-key {} --key {} {SERVER}",
                self.server_key,
                path("laptop.key")
            )),
            Way::Fwknop => {
                let line = format!(
                    "--no-home-dir --no-rc-file -E /dev/null -D {SERVER} -A tcp/22 -a {CLIENT} \
                     --key-rijndael testkey --key-hmac hmackey"
                );
                self.net.client.must("fwknop", &line.split(' ').collect::<Vec<_>>());
            }
        }
    }

    fn opened(&self, way: Way) -> usize {
        let is_so = |line: &&String| line.contains(way.door()) && line.ends_with(": OPEN SESAME");
        self.knockd.log().iter().filter(is_so).count()
    }

    /// Under so many packets a second everybody comes in, with this many tries each. A build for
    /// tests beside other tests loses packets: there it may take two more.
    fn everybody_comes_in(&self, kind: FloodKind, rate: u64, tries: impl Fn(Way) -> usize) {
        let unseen = lost_by_the_machine();
        let flood = Flood::start(&self.net, kind, FloodRate::PerSecond(rate));
        thread::sleep(Duration::from_secs(1));
        let mut missed = Vec::new();
        let more = if released().is_some() { 0 } else { 2 };
        for way in Way::ALL.into_iter().filter(|way| tries(*way) > 0) {
            // Each line that opens brings a watcher; in a flood those before it stay for a while.
            let times = if way == Way::Line && released().is_none() { 2 } else { TIMES };
            for number in 0..times {
                let so_far = self.opened(way);
                // After a line the next one counts when a watcher that knows it has taken over.
                let more = more + usize::from(way == Way::Line);
                let came_in = (0..tries(way) + more).any(|_| {
                    self.knock(way, number);
                    eventually(LATEST, || self.opened(way) > so_far)
                });
                if !came_in {
                    missed.push((way, number));
                }
            }
        }
        let taken = processes(&self.knockd).into_iter().map(resident).max().unwrap();
        let status = self.knockd.ask(r#"{"do":"status"}"#).remove(0);
        let sent = flood.sent();
        let unseen = lost_by_the_machine() - unseen;
        let dropped = &status["dropped"];
        let about = format!(
            "{sent} packets, {unseen} lost before any capture, {dropped} before knockd, {taken} KiB"
        );
        println!("{about}");
        drop(flood);
        assert_eq!(missed, [], "{about}, {}", status["counters"]);
        assert!(taken < MOST_RESIDENT, "{taken} KiB");
        // Neither do strangers fill the log.
        let lines = self.knockd.log().len();
        assert!(lines < 1000 + usize::try_from(sent).unwrap() / 100, "{lines} lines");
    }
}

fn private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// The secret of a client.
fn secret(number: usize) -> String {
    BASE32_NOPAD.encode(&[u8::try_from(number).unwrap() + 1; 20])
}

/// How many packets all interfaces of the machine have lost for want of processor time.
fn lost_by_the_machine() -> u64 {
    let text = fs::read_to_string("/proc/net/softnet_stat").unwrap();
    let lost = |line: &str| u64::from_str_radix(line.split(' ').nth(1).unwrap(), 16).unwrap();
    text.lines().map(lost).sum()
}

/// A `knockd` that was built for release, if one is named.
fn released() -> Option<String> {
    env::var(RELEASED).ok()
}

/// A rate, or how many clients there are: as much as a build for tests can do with.
fn scaled(number: usize) -> usize {
    if released().is_some() { number } else { number / 5 }
}

fn flooded(kind: FloodKind) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    Site::new(1).everybody_comes_in(kind, scaled(100_000) as u64, |_| 1);
}

#[test]
fn first_knocks_keep_nobody_out() {
    needs!("first knocks", "nft", "fwknop");
    flooded(FloodKind::Knocks(7000..=7000));
}

#[test]
fn random_knocks_in_the_range_of_a_rotating_sequence_keep_nobody_out() {
    needs!("random knocks", "nft", "fwknop");
    flooded(FloodKind::Knocks(20_000..=29_999));
}

#[test]
fn junk_that_is_as_long_as_a_native_request_keeps_nobody_out() {
    needs!("native junk", "nft", "fwknop");
    flooded(FloodKind::Native);
}

#[test]
fn fragments_keep_nobody_out() {
    needs!("fragments", "nft", "fwknop");
    flooded(FloodKind::Fragments(62_201));
}

#[test]
fn chains_of_extension_headers_keep_nobody_out() {
    needs!("extension headers", "nft", "fwknop");
    flooded(FloodKind::ExtensionHeaders(7000, 8));
}

#[test]
fn all_the_sources_of_one_network_keep_nobody_out_elsewhere() {
    needs!("one network", "nft", "fwknop");
    flooded(FloodKind::KnocksOfOneNetwork(7000..=7000));
}

/// As long as a datagram of fwknop's client.
fn like_fwknops() -> FloodKind {
    let key = FwknopKey::new(b"testkey".to_vec()).unwrap();
    let hmac = HmacKey::new(b"hmackey".to_vec()).unwrap();
    let request = FwknopRequest {
        random: Random::new([1; 16]),
        user: "root".parse().unwrap(),
        timestamp: 1_700_000_000,
        access: Access {
            address: None,
            ports: vec!["22".parse().unwrap()],
            nat: None,
            timeout: None,
        },
    };
    let hmac = Some((&hmac, Hash::Sha256));
    let keys = FwknopKeys { key: &key, mode: CipherMode::Cbc, hmac };
    FloodKind::Fwknop(seal(&request, Hash::Sha256, keys, [0; 8]).unwrap().len())
}

#[test]
fn junk_like_fwknops_keeps_out_nobody_who_does_not_use_fwknop_however_many_clients_do() {
    needs!("fwknop junk", "nft", "fwknop");
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // To tell each from a request takes longer than it takes to send it.
    let tries = |way| usize::from(way != Way::Fwknop);
    Site::new(scaled(1000)).everybody_comes_in(like_fwknops(), scaled(100_000) as u64, tries);
}

#[test]
fn as_much_junk_like_fwknops_as_a_line_of_33_mbit_brings_costs_fwknops_client_three_tries_at_most()
{
    needs!("some fwknop junk", "nft", "fwknop");
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let rate = if released().is_some() { 3000 } else { 60 };
    let tries = |way| if way == Way::Fwknop { 3 } else { 1 };
    Site::new(scaled(1000)).everybody_comes_in(like_fwknops(), rate, tries);
}
