//! Doors that open to one datagram: real packets, a real kernel, and whoever listens on the way.
//!
//! Needs root; says loudly what it skips where it cannot run.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::{NonZeroU16, NonZeroU32};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use libknock::proto::network::Widths;
use libknock::proto::spa::{
    self, Addresses, LEN, NamedAddresses, PORT, PrivateKey, PublicKey, SpaRequest, Stamp,
};
use libknock::sys::clock;
use nix::sys::signal::Signal;

use crate::support::{
    CLIENT, CLIENT_6, Host, Knockd, Net, PATIENCE, SERVER, SERVER_6, command, eventually, needs,
    skipped,
};

/// Another address of the client's network.
pub(crate) const ELSEWHERE: &str = "192.0.2.3";

pub(crate) const LAPTOP: u8 = 1;
pub(crate) const PHONE: u8 = 2;
const STRANGER: u8 = 99;

pub(crate) fn key(number: u8) -> PrivateKey {
    PrivateKey::from([number; 32])
}

/// `ssh` is guarded and opens to the laptop, `both` to laptop and phone; `acts` runs commands.
pub(crate) fn configuration(settings: &str, laptop: &str) -> String {
    format!(
        "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody,\n\
         \x20 spa: {{key_file: DIR/keys/server.key{settings}}}}}\n\
         clients:\n\
         \x20 laptop: {{doors: [ssh, both, acts], spa: {{public_key: {}{laptop}}}}}\n\
         \x20 phone: {{doors: [both], spa: {{public_key: {}}}}}\n\
         doors:\n\
         \x20 ssh: {{spa: true, open: [22], open_for: 1h, open_for_max: 2h}}\n\
         \x20 both: {{spa: true, open: [23], open_for: 1h}}\n\
         \x20 acts: {{spa: true, open_for: 1h, start_command: echo open %IP% %CLIENT% >> DIR/acts,\n\
         \x20   stop_command: echo close %IP% >> DIR/acts}}\n",
        key(LAPTOP).public(),
        key(PHONE).public(),
    )
}

/// A server that listens on 22 and 23, with both locked, and a client.
pub(crate) struct Scene {
    pub(crate) net: Net,
    knockd: Option<Knockd>,
}

impl Scene {
    fn new() -> Self {
        Self::with(&configuration("", ""))
    }

    pub(crate) fn with(configuration: &str) -> Self {
        let net = Net::new();
        net.client.must("ip", &["addr", "add", &format!("{ELSEWHERE}/24"), "dev", "eth0"]);
        net.server.listen(22);
        net.server.listen(23);
        let knockd = Some(Knockd::start(&net.server, configuration));
        Self { net, knockd }
    }

    pub(crate) fn knockd(&self) -> &Knockd {
        self.knockd.as_ref().unwrap()
    }

    pub(crate) fn restart(&mut self, signal: Signal) {
        let mut knockd = self.knockd.take().unwrap();
        knockd.signal(signal);
        knockd.ended();
        self.knockd = Some(knockd.start_again(&self.net.server));
        self.knockd().wait_for("starting up");
    }

    pub(crate) fn server_key(&self) -> PublicKey {
        self.knockd().server_key()
    }

    pub(crate) fn seal(&self, request: &SpaRequest, by: u8) -> [u8; LEN] {
        spa::seal(request, &key(by), &self.server_key(), random())
    }

    pub(crate) fn send(&self, datagram: [u8; LEN], from: &str, to: &str) {
        send(&self.net.client, &datagram, from, to, PORT);
    }

    /// The laptop asks, from its address.
    pub(crate) fn ask(&self, request: &SpaRequest) {
        self.send(self.seal(request, LAPTOP), CLIENT, SERVER);
    }

    pub(crate) fn opens(&self, to: &str, port: u16) -> bool {
        eventually(PATIENCE, || self.net.client.can_connect(to, port))
    }

    pub(crate) fn refused(&self, reason: &str, count: usize) {
        self.knockd().wait_for_count(reason, count);
        assert_eq!(self.knockd().grants(), Vec::<serde_json::Value>::new());
    }

    pub(crate) fn grants(&self, count: usize) -> Vec<serde_json::Value> {
        let open = || self.knockd().grants();
        assert!(eventually(PATIENCE, || open().len() == count), "not {count}: {:?}", open());
        open()
    }
}

fn key_in(directory: &Path, file: &str) -> PrivateKey {
    fs::read_to_string(directory.join(file)).unwrap().parse().unwrap()
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

fn send(host: &Host, datagram: &[u8], from: &str, to: &str, port: u16) {
    let from: IpAddr = from.parse().unwrap();
    let to = SocketAddr::new(to.parse().unwrap(), port);
    let datagram = datagram.to_vec();
    host.enter(move || {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.send_to(&datagram, to).unwrap();
    });
}

/// Now, or a little later: each is later than the one before.
fn now() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = clock::now().wall.as_nanos() / 1000;
    LAST.fetch_max(now, Ordering::Relaxed);
    LAST.fetch_add(1, Ordering::Relaxed)
}

/// For the door `ssh` and the observed address.
pub(crate) fn request() -> SpaRequest {
    SpaRequest {
        widths: Widths::SINGLE,
        open: Addresses::Observed,
        close: false,
        source_port: None,
        open_for: None,
        stamp: Stamp::from_micros(now()),
        door: Some("ssh".parse().unwrap()),
    }
}

fn given(v4: &str, v6: &str) -> Addresses {
    Addresses::Named(NamedAddresses::new(v4.parse().ok(), v6.parse().ok()).unwrap())
}

#[test]
fn whoever_asks_for_another_address_is_told_of_as_it_happens_and_afterwards() {
    needs!("spa-explain", "nft");
    let scene = Scene::new();
    let for_another = || {
        let named = NamedAddresses::new(ELSEWHERE.parse().ok(), None).unwrap();
        scene.ask(&SpaRequest { open: Addresses::Named(named), ..request() });
        scene.grants(1);
    };
    let about = ["explain", "--live", "--ip", CLIENT];
    let opens = "ssh   open by spa of laptop, asked for by 192.0.2.2\n";
    let said = scene.knockd().says_while(&about, for_another);
    assert!(said.contains(opens), "{said}");
    let said = scene.knockd().says_while(&about, || ());
    assert!(said.contains(opens), "{said}");
}

#[test]
fn a_request_opens_for_the_address_that_it_comes_from() {
    needs!("spa opens", "nft");
    let scene = Scene::new();
    for (from, to) in [(CLIENT, SERVER), (CLIENT_6, SERVER_6)] {
        assert!(!scene.net.client.can_connect(to, 22), "{to} is not locked");
        scene.send(scene.seal(&request(), LAPTOP), from, to);
        assert!(scene.opens(to, 22), "{to} did not open");
        scene.knockd().wait_for(&format!("{from}: ssh: OPEN SESAME"));
    }
    let grants = scene.grants(2);
    assert!(grants.iter().all(|grant| grant["client"] == "laptop" && grant["by"] == "spa"));
    assert!(!scene.net.client.can_connect(SERVER, 23));
}

#[test]
fn the_server_makes_its_key_once_and_says_what_clients_need() {
    needs!("spa key", "nft");
    let mut scene = Scene::new();
    let public = scene.server_key();
    let directory = scene.knockd().directory.path().join("keys");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&directory), mode(&directory.join("server.key"))), (0o700, 0o600));
    assert_eq!(scene.knockd().count(&format!("clients need, is {public}")), 1);
    scene.restart(Signal::SIGTERM);
    assert_eq!(scene.server_key(), public);
    assert_eq!(scene.knockd().count("clients need, is"), 0);
}

#[test]
fn a_server_key_that_others_can_read_is_refused() {
    needs!("spa key mode", "nft");
    let mut scene = Scene::new();
    let path = scene.knockd().directory.path().join("keys/server.key");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let mut knockd = scene.knockd.take().unwrap();
    knockd.signal(Signal::SIGTERM);
    knockd.ended();
    let mut again = knockd.start_again(&scene.net.server);
    assert_eq!(again.ended().code(), Some(1));
    assert_eq!(again.count("chmod go-rwx"), 1, "{:?}", again.log());
}

#[test]
fn a_request_over_one_family_opens_for_the_other() {
    needs!("spa other family", "nft");
    let scene = Scene::new();
    scene.ask(&SpaRequest { open: given("", CLIENT_6), ..request() });
    assert!(scene.opens(SERVER_6, 22));
    assert!(!scene.net.client.can_connect(SERVER, 22));
}

#[test]
fn one_request_opens_for_both_families_and_another_closes() {
    needs!("spa both families", "nft");
    let scene = Scene::new();
    let both = given(CLIENT, CLIENT_6);
    scene.ask(&SpaRequest { open: both, ..request() });
    assert!(scene.opens(SERVER, 22) && scene.opens(SERVER_6, 22));
    scene.ask(&SpaRequest { open: both, close: true, ..request() });
    scene.grants(0);
    for to in [SERVER, SERVER_6] {
        assert!(!scene.net.client.can_connect(to, 22), "{to} stays open");
    }
    assert_eq!(scene.knockd().count("closed as asked"), 2);
}

#[test]
fn a_grant_for_a_source_port_is_for_that_port_only() {
    needs!("spa source port", "nft");
    let scene = Scene::new();
    scene.ask(&SpaRequest { source_port: NonZeroU16::new(40_000), ..request() });
    scene.grants(1);
    for (port, passes) in [(40_001, false), (40_000, true)] {
        assert_eq!(connects_from(&scene.net.client, port), passes, "from {port}");
    }
    assert!(!scene.net.client.can_connect(SERVER, 22));
    // Another grant, for any port, stands beside it, and ends by itself.
    scene.ask(&request());
    scene.grants(2);
    assert!(scene.net.client.can_connect(SERVER, 22));
    let source_port = NonZeroU16::new(40_000);
    scene.ask(&SpaRequest { source_port, close: true, ..request() });
    scene.grants(1);
    assert!(scene.net.client.can_connect(SERVER, 22));
}

/// Whether the guarded port can be reached from this port of the client.
fn connects_from(client: &Host, port: u16) -> bool {
    client.enter(move || {
        let domain = socket2::Domain::IPV4;
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        let address = |address: &str, port| SocketAddr::new(address.parse().unwrap(), port);
        socket.bind(&address(CLIENT, port).into()).unwrap();
        let limit = Duration::from_millis(500);
        socket.connect_timeout(&address(SERVER, 22).into(), limit).is_ok()
    })
}

#[test]
fn what_cannot_bind_a_source_port_refuses_one() {
    needs!("spa source port commands", "nft");
    let scene = Scene::new();
    let door = Some("acts".parse().unwrap());
    scene.ask(&SpaRequest { source_port: NonZeroU16::new(40_000), door, ..request() });
    scene.refused("this door cannot be opened for one source port only", 1);
}

#[test]
fn a_command_is_told_which_client_asks() {
    needs!("spa command", "nft");
    let scene = Scene::new();
    scene.ask(&SpaRequest { door: Some("acts".parse().unwrap()), ..request() });
    scene.grants(1);
    let acts = scene.knockd().directory.path().join("acts");
    assert!(eventually(PATIENCE, || fs::read_to_string(&acts)
        .is_ok_and(|acts| acts == format!("open {CLIENT} laptop\n"))));
}

#[test]
fn a_request_may_ask_for_less_time_and_for_no_more_than_the_door_allows() {
    needs!("spa open_for", "nft");
    let scene = Scene::new();
    for (seconds, expected) in [(60, 60.0), (100_000, 7200.0), (u32::MAX, 7200.0)] {
        scene.ask(&SpaRequest { open_for: NonZeroU32::new(seconds), ..request() });
        let left = || scene.grants(1)[0]["seconds_left"].as_f64().unwrap();
        let in_time = eventually(PATIENCE, || (expected - 10.0..=expected).contains(&left()));
        assert!(in_time, "{seconds}: {}", left());
    }
}

#[test]
fn a_replay_opens_nothing_from_wherever_and_whenever_it_comes() {
    needs!("spa replay", "nft");
    let mut scene = Scene::new();
    let datagram = scene.seal(&request(), LAPTOP);
    scene.send(datagram, CLIENT, SERVER);
    assert!(scene.opens(SERVER, 22));
    scene.ask(&SpaRequest { close: true, ..request() });
    scene.grants(0);
    let mut refused = 0;
    for (from, to) in [(ELSEWHERE, SERVER), (CLIENT_6, SERVER_6), (CLIENT, SERVER)] {
        scene.send(datagram, from, to);
        refused += 1;
        scene.refused("it has been used before", refused);
    }
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        scene.restart(signal);
        for (count, from) in [(1, ELSEWHERE), (2, CLIENT)] {
            scene.send(datagram, from, SERVER);
            scene.refused("it has been used before", count);
        }
    }
}

#[test]
fn a_replay_to_another_server_is_none_of_its_business() {
    needs!("spa other server", "nft");
    let (one, other) = (Scene::new(), Scene::new());
    let datagram = one.seal(&request(), LAPTOP);
    other.send(datagram, CLIENT, SERVER);
    assert!(eventually(PATIENCE, || counter(other.knockd(), "bad-tag") == 1));
    assert_eq!(other.knockd().count("refused"), 0);
    other.grants(0);
    one.send(datagram, CLIENT, SERVER);
    one.grants(1);
}

fn counter(knockd: &Knockd, reason: &str) -> u64 {
    let status = knockd.ask(r#"{"do":"status"}"#).remove(0);
    status["counters"][reason].as_u64().unwrap_or(0)
}

#[test]
fn a_server_that_is_killed_between_ledger_and_door_takes_no_replay() {
    needs!("spa crash", "nft");
    for (step, is_used) in [("requested", false), ("recorded", true), ("set", true)] {
        let net = Net::new();
        net.server.listen(22);
        let mut knockd = Knockd::spawn_in(
            &net.server,
            &configuration("", "").replace("1h", "2s"),
            &[],
            &[("KNOCKD_DIE_AT", step)],
        );
        knockd.wait_for("starting up");
        let server = key_in(knockd.directory.path(), "keys/server.key").public();
        let datagram = spa::seal(&request(), &key(LAPTOP), &server, random());
        send(&net.client, &datagram, CLIENT, SERVER, PORT);
        assert_eq!(knockd.ended().code(), None, "it was to die at {step}");
        let knockd = knockd.start_again(&net.server);
        knockd.wait_for("starting up");
        // What it had begun has ended.
        assert!(eventually(PATIENCE, || knockd.grants().is_empty()), "{step}");
        send(&net.client, &datagram, CLIENT, SERVER, PORT);
        if is_used {
            knockd.wait_for("it has been used before");
            assert!(knockd.grants().is_empty(), "{step}");
        } else {
            assert!(eventually(PATIENCE, || knockd.grants().len() == 1), "{step}");
        }
    }
}

#[test]
fn a_client_whose_key_was_burnt_gets_in_again_after_a_reset_and_no_replay_does() {
    needs!("spa reset", "nft");
    let mut scene = Scene::with(&configuration(", max_ahead: 2s", ""));
    let used = scene.seal(&request(), LAPTOP);
    scene.send(used, CLIENT, SERVER);
    scene.grants(1);
    scene.knockd().ask(r#"{"do":"close_all"}"#);
    scene.grants(0);
    let mut knockd = scene.knockd.take().unwrap();
    knockd.signal(Signal::SIGTERM);
    knockd.ended();
    let db = rusqlite::Connection::open(knockd.directory.path().join("state/ledger.db")).unwrap();
    assert_eq!(db.execute("UPDATE marks SET stamp = ?", [i64::MAX]).unwrap(), 1);
    drop(db);
    scene.knockd = Some(knockd.start_again(&scene.net.server));
    scene.knockd().wait_for("starting up");
    scene.ask(&request());
    scene.refused("it has been used before", 1);

    let knockctl = |name: &str| {
        let mut command = command(env!("CARGO_BIN_EXE_knockctl"));
        command.arg("-c").arg(&scene.knockd().config).args(["client", "reset", name]);
        command.output().unwrap()
    };
    let unknown = knockctl("nobody");
    assert!(!unknown.status.success());
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there is no client 'nobody'"));
    let first = scene.knockd().watchers();
    let reset = knockctl("laptop");
    assert!(reset.status.success(), "{reset:?}");
    let said = String::from_utf8_lossy(&reset.stdout).into_owned();
    assert!(said.contains("it gets in again in 2s"), "{said}");
    let history = scene.knockd().ask(r#"{"do":"history"}"#);
    let line = history.iter().find(|line| line["event"] == "client_reset").expect("a line");
    assert_eq!((&line["client"], &line["source"]), (&"laptop".into(), &serde_json::Value::Null));
    scene.knockd().wait_for("what client 'laptop' has used ahead of its time is forgotten: 1");
    assert!(
        eventually(PATIENCE, || scene.knockd().watchers().iter().any(|it| !first.contains(it))),
        "no watcher takes over that remembers nothing"
    );

    thread::sleep(Duration::from_secs(3));
    scene.send(used, CLIENT, SERVER);
    scene.refused("it has been used before", 2);
    scene.ask(&request());
    scene.grants(1);
    let again = knockctl("laptop");
    assert!(String::from_utf8_lossy(&again.stdout).contains("has used nothing ahead of its time"));
}

#[test]
fn what_may_have_been_lost_in_a_power_cut_is_refused_until_it_is_too_old() {
    needs!("spa power cut", "nft");
    let mut scene = Scene::new();
    let mut knockd = scene.knockd.take().unwrap();
    knockd.signal(Signal::SIGKILL);
    knockd.ended();
    // As if the machine had started eight seconds ago: requests may be ten seconds ahead.
    knockd.pretend_power_cut(Duration::from_secs(8));
    scene.knockd = Some(knockd.start_again(&scene.net.server));
    scene.knockd().wait_for("starting up");
    scene.ask(&request());
    scene.refused("from before this machine was started anew", 1);
    thread::sleep(Duration::from_millis(2500));
    scene.ask(&request());
    scene.grants(1);
}

#[test]
fn of_two_requests_out_of_order_the_later_one_counts() {
    needs!("spa order", "nft");
    let scene = Scene::new();
    let (first, second) = (request(), SpaRequest { open: given(ELSEWHERE, ""), ..request() });
    let (first, second) = (scene.seal(&first, LAPTOP), scene.seal(&second, LAPTOP));
    scene.send(second, CLIENT, SERVER);
    let grants = scene.grants(1);
    scene.send(first, CLIENT, SERVER);
    scene.knockd().wait_for("request of laptop refused: it has been used before");
    let after = scene.grants(1);
    assert_eq!(after[0]["address"], grants[0]["address"]);
}

#[test]
fn a_clock_may_be_a_minute_behind_and_ten_seconds_ahead() {
    needs!("spa clocks", "nft");
    let scene = Scene::new();
    let stamped = |seconds: i64| {
        let stamp = Stamp::from_micros(now().saturating_add_signed(seconds * 1_000_000));
        SpaRequest { stamp, ..request() }
    };
    scene.ask(&stamped(-61));
    scene.refused("too old: is a clock off?", 1);
    scene.ask(&stamped(12));
    scene.refused("from the future: is a clock off?", 1);
    scene.ask(&stamped(-58));
    scene.grants(1);
    scene.ask(&SpaRequest { close: true, ..stamped(9) });
    scene.grants(0);
}

#[test]
fn a_datagram_that_is_held_back_is_worth_nothing() {
    needs!("spa held back", "nft");
    let scene = Scene::with(&configuration(", max_age: 2s", ""));
    let datagram = scene.seal(&request(), LAPTOP);
    thread::sleep(Duration::from_millis(2200));
    scene.send(datagram, ELSEWHERE, SERVER);
    scene.refused("too old", 1);
}

#[test]
fn keys_open_the_doors_that_are_their_clients() {
    needs!("spa policy", "nft");
    let scene = Scene::with(&configuration("", ", address: explicit"));
    let door = |name: &str| Some(name.parse().unwrap());
    let phone = |request: &SpaRequest| scene.send(scene.seal(request, PHONE), CLIENT, SERVER);

    phone(&request());
    scene.refused("request of phone refused: the client may not open this door so", 1);
    phone(&SpaRequest { door: door("none"), ..request() });
    scene.refused("request of phone refused: asks for a door that there is not", 1);
    scene.ask(&request());
    scene.refused("request of laptop refused: the client has to name the address to open for", 1);
    scene.ask(&SpaRequest { door: None, open: given(CLIENT, ""), ..request() });
    scene.refused("request of laptop refused: asks for a door that there is not", 1);
    scene.send(scene.seal(&request(), STRANGER), CLIENT, SERVER);
    scene.refused("request refused: no client has this public key", 1);
    scene.ask(&SpaRequest { open: given("127.0.0.1", ""), ..request() });
    scene.refused("an address that no packet from elsewhere comes from", 1);
    // Its only door need not be named.
    phone(&SpaRequest { door: None, ..request() });
    assert_eq!(scene.grants(1)[0]["door"], "both");
    scene.ask(&SpaRequest { open: given(CLIENT, ""), ..request() });
    scene.grants(2);
}

#[test]
fn a_key_that_is_taken_away_opens_nothing_and_its_mark_outlives_that() {
    needs!("spa revoked", "nft");
    let scene = Scene::new();
    let datagram = scene.seal(&request(), LAPTOP);
    scene.send(datagram, CLIENT, SERVER);
    scene.grants(1);
    scene.ask(&SpaRequest { close: true, ..request() });
    scene.grants(0);
    let reload = |configuration: &str| {
        let started = scene.knockd().count("re-reading config file");
        scene.knockd().configure(configuration);
        scene.knockd().signal(Signal::SIGHUP);
        scene.knockd().wait_for_count("re-reading config file", started + 1);
        // Until the new one is at work.
        thread::sleep(Duration::from_millis(500));
    };
    let laptop = key(LAPTOP).public().to_string();
    reload(&configuration("", "").replace(&laptop, &key(STRANGER).public().to_string()));
    scene.ask(&request());
    scene.refused("no client has this public key", 1);
    reload(&configuration("", "").replace("laptop:", "notebook:"));
    scene.send(datagram, ELSEWHERE, SERVER);
    scene.refused("it has been used before", 1);
    scene.ask(&request());
    assert_eq!(scene.grants(1)[0]["client"], "notebook");
}

#[test]
fn an_old_server_key_is_good_until_its_date() {
    needs!("spa rotation", "nft");
    let directory = tempfile::tempdir().unwrap();
    let old = directory.path().join("old.key");
    fs::write(&old, format!("{}\n", key(50).encode().as_str())).unwrap();
    fs::set_permissions(&old, fs::Permissions::from_mode(0o600)).unwrap();
    for (until, is_good) in [("2100-01-01T00:00:00Z", true), ("2020-01-01T00:00:00Z", false)] {
        let settings = format!(", old_key_file: {}, old_until: \"{until}\"", old.display());
        let scene = Scene::with(&configuration(&settings, ""));
        let datagram = spa::seal(&request(), &key(LAPTOP), &key(50).public(), random());
        scene.send(datagram, CLIENT, SERVER);
        if is_good {
            scene.grants(1);
            scene.ask(&SpaRequest { close: true, ..request() });
            scene.grants(0);
        } else {
            assert!(eventually(PATIENCE, || counter(scene.knockd(), "bad-tag") == 1));
            scene.ask(&request());
            scene.grants(1);
        }
    }
}

#[test]
fn any_port_of_the_range_will_do() {
    needs!("spa ports", "nft");
    let scene = Scene::with(&configuration(", port: 62000-62999", ""));
    for (port, count, last) in
        [(62_000, 1, 1), (62_999, 2, 2), (61_999, 2, 3), (63_000, 2, 4), (62_500, 3, 5)]
    {
        let open = given(&format!("198.51.100.{last}"), "");
        let datagram = scene.seal(&SpaRequest { open, ..request() }, LAPTOP);
        send(&scene.net.client, &datagram, CLIENT, SERVER, port);
        scene.grants(count);
    }
}

#[test]
fn junk_is_counted_and_leaves_no_line() {
    needs!("spa junk", "nft");
    let scene = Scene::new();
    let before = scene.knockd().log().len();
    for byte in 0..=255 {
        scene.send([byte; LEN], CLIENT, SERVER);
    }
    // Of another length nothing comes up from the kernel.
    send(&scene.net.client, &[0; LEN + 1], CLIENT, SERVER, PORT);
    assert!(eventually(PATIENCE, || counter(scene.knockd(), "bad-tag") == 256));
    assert_eq!(scene.knockd().log().len(), before, "{:?}", scene.knockd().log());
}

#[test]
fn a_thousand_clients_each_open_their_door() {
    needs!("spa thousand", "nft");
    let client = |number: u16| {
        let mut bytes = [7; 32];
        // Some bits of the first byte do not count.
        bytes[1..3].copy_from_slice(&number.to_be_bytes());
        PrivateKey::from(bytes)
    };
    let mut clients = String::new();
    for number in 0..1000 {
        let public = client(number).public();
        writeln!(clients, "  c{number}: {{doors: [ssh], spa: {{public_key: {public}}}}}").unwrap();
    }
    let scene =
        Scene::with(&configuration("", "").replace("clients:\n", &format!("clients:\n{clients}")));
    for (number, last) in [(0, 1), (1, 2), (499, 3), (998, 4), (999, 5)] {
        let address = format!("198.51.100.{last}");
        let request = SpaRequest { open: given(&address, ""), ..request() };
        let datagram = spa::seal(&request, &client(number), &scene.server_key(), random());
        scene.send(datagram, CLIENT, SERVER);
        scene.knockd().wait_for(&format!("{address}: ssh: OPEN SESAME"));
        let name = format!("c{number}");
        assert!(scene.knockd().grants().iter().any(|grant| grant["client"] == name.as_str()));
    }
}

#[test]
fn no_request_is_lost_or_counted_twice_while_configurations_change() {
    needs!("spa reload", "nft");
    let scene = Scene::new();
    for number in 1..=40 {
        let open = given(&format!("198.51.100.{number}"), "");
        scene.ask(&SpaRequest { open, ..request() });
        if number % 8 == 0 {
            scene.knockd().signal(Signal::SIGHUP);
        }
        thread::sleep(Duration::from_millis(25));
    }
    scene.grants(40);
    assert_eq!(scene.knockd().count("OPEN SESAME"), 40);
    assert_eq!(scene.knockd().count("refused"), 0, "{:?}", scene.knockd().log());
}

/// Whether Python is here with what the reference client needs; says loudly when not.
fn has_python(test: &str) -> bool {
    let imports = ["-c", "import cryptography"];
    let found = command("python3").args(imports).output().is_ok_and(|it| it.status.success());
    if !found {
        skipped(test, "needs python3 and its package cryptography");
    }
    found
}

#[test]
fn the_reference_client_opens_and_closes() {
    needs!("spa python", "nft");
    if !has_python("spa python") {
        return;
    }
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/clients/knock_spa.py");
    let directory = tempfile::tempdir().unwrap();
    let key_file = directory.path().join("python.key").display().to_string();
    let public = crate::support::must("python3", &["-B", program, "--keygen", &key_file]);
    let public = public.trim();
    assert_eq!(key_in(directory.path(), "python.key").public().to_string(), public);
    let laptop = key(LAPTOP).public().to_string();
    let scene = Scene::with(&configuration("", "").replace(&laptop, public));
    let server_key = scene.server_key().to_string();
    let knock = |more: &[&str]| {
        let mut arguments =
            vec!["-B", program, "--key", &key_file, "--server-key", &server_key, "--door", "ssh"];
        arguments.extend(more);
        arguments.push(SERVER);
        scene.net.client.must("python3", &arguments);
    };
    knock(&["--address", CLIENT, "--address", CLIENT_6, "--open-for", "60"]);
    assert!(scene.opens(SERVER, 22) && scene.opens(SERVER_6, 22));
    knock(&["--close"]);
    assert_eq!(scene.grants(1)[0]["address"], CLIENT_6);
    knock(&["--source-port", "40000"]);
    scene.grants(2);
    assert!(connects_from(&scene.net.client, 40_000));
}

#[test]
fn the_manual_has_the_vectors() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/man/knock-spa.7")).unwrap();
    let vectors = include_str!("../../src/proto/spa/vectors.txt");
    let joined: String = page.lines().collect();
    let mut count = 0;
    for line in vectors.lines().filter(|line| !line.starts_with('#')) {
        let [what, why, digits] = line.splitn(3, ": ").collect::<Vec<_>>().try_into().unwrap();
        assert!(page.contains(&format!(".It Sy \"{what}\" : No \"{why}\"")), "{what}: {why}");
        assert!(joined.contains(digits), "{what}: {why}");
        count += 1;
    }
    assert_eq!(count, 10);
}
