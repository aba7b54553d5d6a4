//! fwknop's own client against knockd, between network namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, SystemTime};

use libknock::proto::fwknop::{
    Access, CipherMode, FwknopKey, FwknopKeys, FwknopRequest, Hash, HmacKey, Random, seal,
};
use serde_json::Value;

use crate::support::{CLIENT, Host, Knockd, Net, PATIENCE, SERVER, eventually, needs};

const KEY: &str = "testkey";
const HMAC_KEY: &str = "hmackey";

/// Each hash, and none.
fn hmac_types() -> impl Iterator<Item = Option<Hash>> {
    [None].into_iter().chain(Hash::ALL.map(Some))
}

/// A client of knockd's: fwknop says neither mode nor HMAC type, so each pair has its own.
#[derive(Clone, Copy)]
struct Pair {
    hmac: Option<Hash>,
    mode: CipherMode,
}

impl Pair {
    /// All that fwknop's client makes: it knows no HMAC in legacy mode.
    fn all() -> Vec<Self> {
        hmac_types()
            .flat_map(|hmac| CipherMode::ALL.map(|mode| Self { hmac, mode }))
            .filter(|pair| pair.mode != CipherMode::Legacy || pair.hmac.is_none())
            .collect()
    }

    fn name(self) -> String {
        let hmac = self.hmac.map_or("none", Hash::as_str);
        format!("{}-{hmac}", self.mode)
    }

    fn key(self) -> String {
        format!("key {}", self.name())
    }

    fn client(self) -> String {
        let hmac = self.hmac.map_or("without_hmac: true".to_owned(), |hash| {
            format!("hmac_key: \"hmac {}\", hmac_type: {hash}", self.name())
        });
        format!(
            "  {}: {{doors: [web, inner, local], fwknop: {{key: \"{}\", {hmac}, mode: {}}}}}\n",
            self.name(),
            self.key(),
            self.mode.as_str().to_uppercase().replace("LEGACY", "legacy")
        )
    }

    /// Debian's client, with what makes its request fit this pair.
    fn fwknop(self, digest: Hash, nat: &str, timeout: Option<u32>, address: Ipv4Addr) -> String {
        let mut line = format!(
            "fwknop --no-home-dir --no-rc-file -E /dev/null -D {SERVER} -A tcp/80 {nat} \
             -a {address} -m {digest} -M {} --key-rijndael '{}'",
            self.mode,
            self.key(),
        );
        if let Some(hash) = self.hmac {
            let _ = write!(line, " --key-hmac 'hmac {}' --hmac-digest-type {hash}", self.name());
        }
        if let Some(timeout) = timeout {
            let _ = write!(line, " -f {timeout}");
        }
        line
    }
}

/// Addresses for documentation and for benchmarks, each once.
fn addresses() -> impl Iterator<Item = Ipv4Addr> {
    [[198, 51, 100], [203, 0, 113], [192, 0, 2]]
        .into_iter()
        .chain((0..=255).map(|c| [198, 18, c]))
        .flat_map(|[a, b, c]| (3..255).map(move |d| Ipv4Addr::new(a, b, c, d)))
}

/// What makes a request one for NAT, and the door that does it: with a timeout and without, these
/// are all of fwknop's types but the one for commands.
const NATS: [(&str, &str); 3] = [
    ("", "web"),
    ("-N 198.51.100.7 --nat-port 8080", "inner"),
    ("--nat-local --nat-port 8081", "local"),
];

fn clock() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a test that is a client reads the clock")]
    let now = SystemTime::now();
    now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// Sends from a host, from one port to the server's.
pub(crate) fn send(host: &Host, datagrams: &[Vec<u8>]) {
    let datagrams = datagrams.to_vec();
    host.enter(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for datagram in datagrams {
            let _ = socket.send_to(&datagram, (SERVER, 62201));
        }
    });
}

const SETTINGS: &str =
    "knockd: {interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody}\n";

pub(crate) fn counter(knockd: &Knockd, reason: &str) -> u64 {
    let status = knockd.ask(r#"{"do":"status"}"#).remove(0);
    status["counters"][reason].as_u64().unwrap_or_default()
}

pub(crate) fn wait_for_counter(knockd: &Knockd, reason: &str, count: u64) {
    let counted = eventually(PATIENCE, || counter(knockd, reason) >= count);
    let status = knockd.ask(r#"{"do":"status"}"#).remove(0);
    assert!(counted, "not {count} times {reason}: {}", status["counters"]);
}

/// Address and client of each grant at a door.
fn grants(knockd: &Knockd, door: &str) -> BTreeSet<(String, String)> {
    let text = |grant: &Value, key: &str| grant[key].as_str().unwrap_or_default().to_owned();
    let at_door = |grant: &Value| text(grant, "door") == door;
    let grants = knockd.grants().into_iter().filter(at_door);
    grants.map(|grant| (text(&grant, "address"), text(&grant, "client"))).collect()
}

#[test]
fn every_request_that_fwknops_client_makes_opens() {
    needs!("every_request_that_fwknops_client_makes_opens", "fwknop", "nft");
    let mut configuration = format!(
        "{SETTINGS}doors:\n  \
         web: {{fwknop: true, open: [80], open_for: 1h, open_for_max: 2h}}\n  \
         inner: {{fwknop: true, forward: [{{on: 8080, to: 198.51.100.7, port: 80}}], \
         open_for: 1h, open_for_max: 2h}}\n  \
         local: {{fwknop: true, forward: [{{on: 8081, to: {SERVER}, port: 80}}], \
         open_for: 1h, open_for_max: 2h}}\nclients:\n"
    );
    Pair::all().iter().for_each(|pair| configuration.push_str(&pair.client()));
    // A daemon takes a thousand requests at once, and then only ten a second.
    for timeout in [None, Some(5_000)] {
        let net = Net::new();
        let knockd = Knockd::start(&net.server, &configuration);
        let mut expected = BTreeMap::new();
        let mut addresses = addresses();
        for pair in Pair::all() {
            let mut script = String::new();
            for digest in Hash::ALL {
                for (nat, door) in NATS {
                    let address = addresses.next().unwrap();
                    let line = pair.fwknop(digest, nat, timeout, address);
                    writeln!(script, "{line} || echo failed: {}", pair.name()).unwrap();
                    expected.insert(address.to_string(), (pair.name(), door));
                }
            }
            let said = net.client.must("sh", &["-c", &script]);
            assert!(!said.contains("failed"), "{said}");
            // Not many of them wait at once.
            eventually(PATIENCE, || knockd.grants().len() >= expected.len());
        }
        assert_eq!(expected.len(), (8 * 5 + 1) * 7 * 3);
        for grant in knockd.grants() {
            let address = grant["address"].as_str().unwrap();
            let (client, door) = expected.remove(address).unwrap_or_else(|| panic!("{grant}"));
            assert_eq!((&grant["client"], &grant["door"]), (&client.into(), &door.into()));
            assert_eq!(grant["by"], "fwknop");
            let left = grant["seconds_left"].as_f64().unwrap();
            assert_eq!(left > 3_600.0, timeout.is_some(), "{grant}");
        }
        assert!(expected.is_empty(), "not opened: {expected:?}");
    }
}

/// Two clients: `phone`, and `old` who uses no HMAC.
const TWO_CLIENTS: &str = "
doors:
  web: {fwknop: true, open: [80], open_for: 1h}
  ssh: {fwknop: true, open: [22], open_for: 1h}
  dns: {fwknop: true, open: [53, 53/udp], open_for: 1h}
clients:
  phone: {doors: [web, ssh], fwknop: {key: testkey, hmac_key: hmackey, from: [192.0.2.0/24]}}
  old: {doors: [dns], fwknop: {key: oldkey, without_hmac: true}}
";

pub(crate) fn two_clients(net: &Net) -> Knockd {
    Knockd::start(&net.server, &format!("{SETTINGS}{TWO_CLIENTS}"))
}

/// Runs Debian's client as `phone`.
fn fwknop(net: &Net, arguments: &str) {
    let line = format!(
        "fwknop --no-home-dir --no-rc-file -E /dev/null -D {SERVER} --key-rijndael {KEY} \
         --key-hmac {HMAC_KEY} {arguments}"
    );
    net.client.must("sh", &["-c", &line]);
}

#[test]
fn a_door_opens_for_whom_the_request_names_and_no_other() {
    needs!("a_door_opens_for_whom_the_request_names_and_no_other", "fwknop", "nft");
    let net = Net::new();
    net.server.listen(22);
    net.server.listen(80);
    let knockd = two_clients(&net);
    assert!(!net.client.can_connect(SERVER, 22));
    fwknop(&net, "-A tcp/22 -s");
    knockd.wait_for("OPEN SESAME");
    assert!(eventually(PATIENCE, || net.client.can_connect(SERVER, 22)));
    assert!(!net.client.can_connect(SERVER, 80));
    fwknop(&net, "-A tcp/22,tcp/80 -a 203.0.113.9");
    assert!(eventually(PATIENCE, || knockd.grants().len() == 3), "{:?}", knockd.grants());
    let of = |address: &str| (address.to_owned(), "phone".to_owned());
    assert_eq!(grants(&knockd, "ssh"), BTreeSet::from([of(CLIENT), of("203.0.113.9")]));
    assert_eq!(grants(&knockd, "web"), BTreeSet::from([of("203.0.113.9")]));
}

#[test]
fn a_request_to_a_port_that_the_client_picks_at_random_opens() {
    needs!("a_request_to_a_port_that_the_client_picks_at_random_opens", "fwknop", "nft");
    let net = Net::new();
    let settings = SETTINGS.replace("{inter", "{fwknop: {port: 10000-65534}, inter");
    let knockd = Knockd::start(&net.server, &format!("{settings}{TWO_CLIENTS}"));
    fwknop(&net, "-A tcp/22 -a 203.0.113.1 -r");
    let knock = env!("CARGO_BIN_EXE_knock");
    let home = tempfile::tempdir().unwrap();
    let stanza = format!(
        "[a]\nSPA_SERVER {SERVER}\nACCESS tcp/22\nALLOW_IP 203.0.113.2\nKEY {KEY}\n\
         HMAC_KEY {HMAC_KEY}\nRAND_PORT Y\n"
    );
    std::fs::write(home.path().join(".fwknoprc"), stanza).unwrap();
    let home = home.path().display();
    let line = format!("export HOME={home}; {knock} --fwknoprc a; {knock} --fwknoprc a -n");
    let said = net.client.must("sh", &["-c", &line]);
    assert!(said.contains("udp ") && !said.contains(":62201 "), "{said}");
    for address in ["203.0.113.1", "203.0.113.2"] {
        knockd.wait_for(&format!("{address}: ssh: OPEN SESAME"));
    }
}

#[test]
fn what_is_not_done_is_named_and_counted_and_opens_nothing() {
    needs!("what_is_not_done_is_named_and_counted_and_opens_nothing", "fwknop", "nft");
    let net = Net::new();
    let knockd = two_clients(&net);
    for (arguments, reason) in [
        ("-A tcp/22 -s -N 192.0.2.9:22", "fwknop-nat"),
        ("-A tcp/22 -s -N 192.0.2.9:22 -f 60", "fwknop-nat"),
        ("-A tcp/22 -s -N inner.example.com:22", "fwknop-nat-name"),
        ("-A tcp/22 -s --nat-local --nat-port 2222", "fwknop-local-nat"),
        ("-A tcp/22 -s --nat-local --nat-port 2222 -f 60", "fwknop-local-nat"),
        ("-C 'touch /tmp/x' -a 192.0.2.2", "fwknop-command"),
        ("-A tcp/22,tcp/443 -s", "fwknop-no-door"),
        ("-A udp/53 -s", "fwknop-no-door"),
        ("-A tcp/22 -a 224.0.0.1", "fwknop-forbidden-address"),
        ("-A tcp/22 -s --time-offset-minus 130sec", "too-old"),
        ("-A tcp/22 -s --time-offset-plus 130sec", "too-far-ahead"),
        ("-A tcp/22 -s -M CTR", "fwknop-undecryptable"),
        ("-A tcp/22 -s --hmac-digest-type sha3_256", "fwknop-bad-hmac"),
        ("-A tcp/22 -s -P http -p 62201", "fwknop-http"),
    ] {
        if reason == "fwknop-http" {
            // That goes over TCP; some send it by UDP.
            send(&net.client, &[format!("GET /{} HTTP/1.0\r\n", "8".repeat(200)).into_bytes()]);
        } else {
            let before = counter(&knockd, reason);
            fwknop(&net, arguments);
            wait_for_counter(&knockd, reason, before + 1);
        }
    }
    let gnupg = "EMA0h1fXzdUjVXAQf".repeat(30).into_bytes();
    send(&net.client, &[gnupg]);
    wait_for_counter(&knockd, "fwknop-gnupg", 1);
    wait_for_counter(&knockd, "fwknop-http", 1);
    assert_eq!(knockd.grants(), [] as [Value; 0]);
}

pub(crate) fn request(ports: &str, address: [u8; 4]) -> FwknopRequest {
    FwknopRequest {
        random: Random::new([1; 16]),
        user: "bob".parse().unwrap(),
        timestamp: clock(),
        access: Access {
            address: Some(address.into()),
            ports: vec![ports.parse().unwrap()],
            nat: None,
            timeout: None,
        },
    }
}

pub(crate) fn sealed_by_phone(request: &FwknopRequest) -> Vec<u8> {
    let (key, hmac) = (FwknopKey::new(KEY.into()).unwrap(), HmacKey::new(HMAC_KEY.into()).unwrap());
    let hmac = Some((&hmac, Hash::Sha256));
    let keys = FwknopKeys { key: &key, mode: CipherMode::Cbc, hmac };
    seal(request, Hash::Sha256, keys, *b"saltsalt").unwrap().into_bytes()
}

fn sealed_by_old(request: &FwknopRequest) -> Vec<u8> {
    let key = FwknopKey::new(b"oldkey".to_vec()).unwrap();
    let keys = FwknopKeys { key: &key, mode: CipherMode::Cbc, hmac: None };
    seal(request, Hash::Sha256, keys, *b"saltsalt").unwrap().into_bytes()
}

#[test]
fn no_copy_of_a_request_opens_again() {
    needs!("no_copy_of_a_request_opens_again", "nft");
    let net = Net::new();
    net.client.must("ip", &["addr", "add", "192.0.2.77/24", "dev", "eth0"]);
    let knockd = two_clients(&net);
    let phones = sealed_by_phone(&request("22", [203, 0, 113, 1]));
    // Its base64 leaves two bits over, which fwknopd does not look at.
    let olds = sealed_by_old(&request("53", [203, 0, 113, 2]));
    assert_ne!((olds.len() + "U2FsdGVkX1".len()) % 4, 0);
    send(&net.client, &[phones.clone(), olds.clone()]);
    knockd.wait_for_count("OPEN SESAME", 2);
    let with = |end: &[u8]| [&olds, end].concat();
    let mut flipped = olds.clone();
    let last = flipped.last_mut().unwrap();
    *last = if *last == b'z' { b'y' } else { *last + 1 };
    let copies = vec![
        phones.clone(),
        olds.clone(),
        with(b"="),
        with(b"=AAAA"),
        with(b"\n"),
        flipped,
        [b"U2FsdGVkX1", &olds[..]].concat(),
    ];
    send(&net.client, &copies);
    for (reason, count) in
        [("used", 2), ("fwknop-not-canonical", 3), ("fwknop-not-base64", 1), ("fwknop-prefixed", 1)]
    {
        wait_for_counter(&knockd, reason, count);
    }
    let (status, _) = {
        let again = knockd;
        again.signal(nix::sys::signal::Signal::SIGKILL);
        std::thread::sleep(Duration::from_millis(300));
        let again = again.start_again(&net.server);
        again.wait_for("starting up, listening on");
        // What opens later shows that the copies before it were seen.
        send(&net.client, &copies);
        send(&net.client, &[sealed_by_phone(&request("80", [203, 0, 113, 3]))]);
        again.wait_for("web: OPEN SESAME");
        assert_eq!(again.count("OPEN SESAME"), 1);
        wait_for_counter(&again, "used", 2);
        again.stop()
    };
    assert!(status.success());
}

#[test]
fn what_may_have_been_lost_in_a_power_cut_is_refused_for_a_moment() {
    needs!("what_may_have_been_lost_in_a_power_cut_is_refused_for_a_moment", "nft");
    let net = Net::new();
    let mut knockd = two_clients(&net);
    knockd.signal(nix::sys::signal::Signal::SIGKILL);
    knockd.ended();
    // As if the machine had started eight seconds ago, and what was used before were not all known.
    knockd.pretend_power_cut(Duration::from_secs(8));
    let knockd = knockd.start_again(&net.server);
    knockd.wait_for("starting up, listening on");
    send(&net.client, &[sealed_by_phone(&request("22", [203, 0, 113, 1]))]);
    knockd.wait_for("from before this machine was started anew");
    // Stamps are whole seconds.
    std::thread::sleep(Duration::from_millis(3500));
    send(&net.client, &[sealed_by_phone(&request("22", [203, 0, 113, 1]))]);
    knockd.wait_for("ssh: OPEN SESAME");
}

#[test]
fn a_client_is_heard_from_its_networks_only() {
    needs!("a_client_is_heard_from_its_networks_only", "nft");
    let net = Net::new();
    net.client.must("ip", &["addr", "add", "198.51.100.7/24", "dev", "eth0"]);
    net.server.must("ip", &["route", "add", "198.51.100.0/24", "via", CLIENT]);
    let phone = TWO_CLIENTS.split_once("  old:").unwrap().0;
    let knockd = Knockd::start(&net.server, &format!("{SETTINGS}{phone}"));
    let datagram = sealed_by_phone(&request("22", [203, 0, 113, 1]));
    let elsewhere = datagram.clone();
    net.client.enter(move || {
        let socket = UdpSocket::bind("198.51.100.7:0").unwrap();
        socket.send_to(&elsewhere, (SERVER, 62201)).unwrap();
    });
    wait_for_counter(&knockd, "fwknop-source", 1);
    assert_eq!(knockd.grants(), [] as [Value; 0]);
    send(&net.client, &[datagram]);
    knockd.wait_for("203.0.113.1: ssh: OPEN SESAME");
}
