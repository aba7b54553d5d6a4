//! A store that gateways share, and the gateways: each a `knockd` in a namespace of its own.
//!
//! A client reaches all gateways; these reach the store by a network of their own, which can be cut,
//! or by a socket of this machine.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use libknock::proto::fleet::FleetKey;
use libknock::proto::network::Widths;
use libknock::proto::spa::{self, Addresses, LEN, PORT, PrivateKey, SpaRequest, Stamp};
use libknock::sys::clock;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{CLIENT, Host, Knockd, PATIENCE, command, eventually, must, write_configuration};

/// The address of the store.
pub(crate) const STORE: &str = "203.0.113.1";
pub(crate) const NAMES: [&str; 3] = ["gw1", "gw2", "gw3"];
/// The private key of the client `laptop`.
pub(crate) const LAPTOP: u8 = 1;
/// The secret of the client `phone`.
pub(crate) const PHONE: &str = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP";
/// The lines of the door `list`.
pub(crate) const LIST: &str = "7000,8000,9000\n7100,8100,9100\n7200,8200,9200\n";
/// The private key of all gateways: what is asked of one can be asked of another.
const SERVER_KEY: [u8; 32] = [42; 32];
const FLEET_KEY: [u8; 32] = [43; 32];

/// Longer than any answer of the store takes, however busy the machine.
pub(crate) const PATIENT: &str = ", wait: 1s";

/// By a socket of this machine.
pub(crate) const BY_SOCKET: &str = "unix:STORE/redis.sock";
/// By the network that can be cut.
pub(crate) const BY_NETWORK: &str = "redis://203.0.113.1";

/// Of no fleet.
pub(crate) const NO_STORE: &str = "";

pub(crate) fn fleet_key() -> FleetKey {
    FLEET_KEY.into()
}

pub(crate) fn key(number: u8) -> PrivateKey {
    PrivateKey::from([number; 32])
}

/// Clients of each kind. `ssh` is the fleet's, the others are each gateway's own: at them shows what
/// opens by itself.
pub(crate) const DOORS: &str = "\
    \x20 ssh: {spa: true, open: [22], open_for: 1h, open_for_max: 2h, fleet: true}
\x20 local: {spa: true, open: [23], open_for: 1h}
\x20 code: {totp: {ports: 20000-29999, length: 4, step: 1h}, open: [24], open_for: 1h}
\x20 mail: {fwknop: true, open: [25], open_for: 1h}
\x20 list: {one_time_sequences: DIR/list, open: [26], open_for: 1h}
";

pub(crate) fn clients() -> String {
    format!(
        "\x20 laptop: {{doors: [ssh, local], spa: {{public_key: {}}}}}\n\
         \x20 phone: {{doors: [code], totp: {{secret: {PHONE}}}}}\n\
         \x20 owner: {{doors: [mail], fwknop: {{key: testkey, hmac_key: hmackey}}}}\n",
        key(LAPTOP).public()
    )
}

/// The configuration of a gateway, with further settings of its fleet.
pub(crate) fn configuration(
    name: &str,
    store: &str,
    settings: &str,
    clients: &str,
    doors: &str,
) -> String {
    format!("{}clients:\n{clients}doors:\n{doors}", settings_of(name, store, settings))
}

fn settings_of(name: &str, store: &str, settings: &str) -> String {
    let fleet = format!(
        ",\n\x20 fleet: {{name: {name}, store: \"{store}\", key_file: DIR/keys/fleet.key{settings}}}"
    );
    let fleet = if store == NO_STORE { "" } else { &fleet };
    format!(
        "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody,\n\
         \x20 spa: {{key_file: DIR/keys/server.key}}{fleet}}}\n"
    )
}

/// A real store; ended when it goes out of scope.
pub(crate) struct Store {
    child: Child,
    pub directory: tempfile::TempDir,
    arguments: Vec<String>,
    pub host: Arc<Host>,
}

impl Store {
    /// Starts one that keeps nothing over its end, with more lines of configuration, in which `DIR`
    /// stands for its own directory.
    pub(crate) fn start(host: &Arc<Host>, settings: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let path = directory.path().display().to_string();
        let file = directory.path().join("redis.conf");
        let common = "save \"\"\nappendonly no\nprotected-mode no\nbind 0.0.0.0\n\
                      dir DIR\nunixsocket DIR/redis.sock\nunixsocketperm 777\n";
        fs::write(&file, format!("{common}{settings}").replace("DIR", &path)).unwrap();
        let arguments = vec![file.display().to_string()];
        let child = run_server(host, &arguments);
        let store = Self { child, directory, arguments, host: Arc::clone(host) };
        store.wait();
        store
    }

    /// Waits until it answers.
    fn wait(&self) {
        assert!(eventually(PATIENCE, || self.client().get_connection().is_ok()), "no store");
    }

    /// As who may do everything.
    pub(crate) fn client(&self) -> redis::Client {
        redis::Client::open(format!("unix://{}", self.socket().display())).unwrap()
    }

    pub(crate) fn connect(&self) -> redis::Connection {
        self.client().get_connection().unwrap()
    }

    /// Says one command, of words.
    pub(crate) fn say(&self, words: &[&str]) -> redis::Value {
        self.try_say(words).unwrap()
    }

    /// Says one command to a store that may end the connection meanwhile.
    pub(crate) fn try_say(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let mut said = redis::cmd(words[0]);
        said.arg(&words[1..]);
        said.query(&mut self.client().get_connection()?)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Kills it at once.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it once more, after it has been killed: it has forgotten everything.
    pub(crate) fn start_again(&mut self) {
        self.child = run_server(&self.host, &self.arguments);
        self.wait();
    }

    /// Cuts the network between it and a gateway, both ways and without a word.
    pub(crate) fn cut_off(&self, gateway: &Gateway) {
        let address = &gateway.behind;
        let table = format!(
            "table ip {0} {{ chain in {{ type filter hook input priority 0; ip saddr {address} drop; }};
             chain out {{ type filter hook output priority 0; ip daddr {address} drop; }}; }}",
            gateway.name
        );
        self.host.must("nft", &[&table]);
    }

    /// Mends that network.
    pub(crate) fn mend(&self, gateway: &Gateway) {
        self.host.must("nft", &["delete", "table", "ip", gateway.name]);
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run_server(host: &Host, arguments: &[String]) -> Child {
    let mut command = host.command("redis-server");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// A gateway of a fleet; its `knockd` is stopped when it goes out of scope.
pub(crate) struct Gateway {
    pub name: &'static str,
    pub address: String,
    /// Its address on the network of the store.
    pub behind: String,
    // Before the namespace that it runs in.
    knockd: Option<Knockd>,
    pub host: Host,
}

impl Gateway {
    pub(crate) fn knockd(&self) -> &Knockd {
        self.knockd.as_ref().unwrap()
    }

    /// Starts its `knockd` with a configuration, in which `DIR` stands for a directory of its own.
    pub(crate) fn start(&mut self, configuration: &str, environment: &[(&str, &str)]) {
        let directory = tempfile::tempdir().unwrap();
        let secrets = [
            ("server.key", PrivateKey::from(SERVER_KEY).encode().to_string()),
            ("fleet.key", fleet_key().encode().to_string()),
        ];
        fs::create_dir(directory.path().join("keys")).unwrap();
        let write = |path: PathBuf, text: &str| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
        };
        for (name, secret) in secrets {
            write(directory.path().join("keys").join(name), &format!("{secret}\n"));
        }
        write(directory.path().join("list"), LIST);
        let config = directory.path().join("knock.d");
        fs::create_dir(&config).unwrap();
        write_configuration(&directory, &config.join("fleet.yaml"), configuration);
        let knockd = Knockd::run(&self.host, directory, config, &[], environment);
        knockd.wait_for("starting up, listening on");
        self.knockd = Some(knockd);
    }

    /// Has its `knockd` take up another configuration.
    pub(crate) fn reload(&self, configuration: &str) {
        let (knockd, file) = (self.knockd(), self.knockd().config.join("fleet.yaml"));
        write_configuration(&knockd.directory, &file, configuration);
        self.says(&["reload"]);
    }

    /// Ends its `knockd` by a signal.
    pub(crate) fn end(&mut self, signal: Signal) {
        let knockd = self.knockd.as_mut().unwrap();
        knockd.signal(signal);
        knockd.ended();
    }

    /// Starts its `knockd` once more in the same directory, after it has ended.
    pub(crate) fn start_again(&mut self) {
        let knockd = self.knockd.take().unwrap().start_again(&self.host);
        knockd.wait_for("starting up, listening on");
        self.knockd = Some(knockd);
    }

    /// What `knockctl fleet` asks for.
    pub(crate) fn fleet(&self) -> Value {
        self.knockd().ask(r#"{"do":"fleet"}"#).remove(0)
    }

    pub(crate) fn state(&self) -> String {
        let status = self.knockd().ask(r#"{"do":"status"}"#).remove(0);
        status["fleet"]["state"].as_str().unwrap_or("none").to_owned()
    }

    #[track_caller]
    pub(crate) fn is_soon(&self, state: &str) {
        let reached = eventually(PATIENCE, || self.state() == state);
        assert!(reached, "{} is not {state}: {}", self.name, self.fleet());
    }

    pub(crate) fn counter(&self, reason: &str) -> u64 {
        let status = self.knockd().ask(r#"{"do":"status"}"#).remove(0);
        status["counters"][reason].as_u64().unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn refuses(&self, reason: &str, count: u64) {
        let refused = eventually(PATIENCE, || self.counter(reason) >= count);
        let log = self.knockd().log().join("\n");
        assert!(refused, "{}: not {count} times {reason}:\n{log}", self.name);
    }

    /// The grant of a door for an address.
    pub(crate) fn grant(&self, door: &str, address: &str) -> Option<Value> {
        let is_it = |grant: &Value| {
            grant["door"] == door && grant["address"] == address && grant["state"] == "open"
        };
        self.knockd().grants().into_iter().find(is_it)
    }

    pub(crate) fn has(&self, door: &str, address: &str) -> bool {
        self.grant(door, address).is_some()
    }

    /// Waits until a door is open for an address.
    #[track_caller]
    pub(crate) fn opens(&self, door: &str, address: &str) -> Value {
        let mut grant = None;
        let opened = eventually(PATIENCE, || {
            grant = self.grant(door, address);
            grant.is_some()
        });
        assert!(opened, "{}: {door} does not open for {address}: {}", self.name, self.fleet());
        grant.unwrap()
    }

    /// Waits until a door is not open for an address.
    #[track_caller]
    pub(crate) fn closes(&self, door: &str, address: &str) {
        let closed = eventually(PATIENCE, || !self.has(door, address));
        assert!(closed, "{}: {door} does not close for {address}: {}", self.name, self.fleet());
    }

    /// For which addresses the kernel lets in whoever connects to a port.
    pub(crate) fn kernel_lets_in(&self, port: u16) -> BTreeSet<String> {
        let listed = self.host.must("nft", &["-j", "list", "set", "inet", "knockd", "open_4"]);
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let sets = listed["nftables"].as_array().unwrap().iter();
        let elements = sets.filter_map(|it| it["set"]["elem"].as_array()).flatten();
        let keys = elements.map(|it| it["elem"]["val"]["concat"].as_array().unwrap());
        let of_port = keys.filter(|key| key.contains(&port.into()));
        of_port.filter_map(|key| key.iter().find_map(address_in)).collect()
    }

    pub(crate) fn knockctl(&self, arguments: &[&str]) -> Output {
        let mut knockctl = command(env!("CARGO_BIN_EXE_knockctl"));
        knockctl.arg("-c").arg(&self.knockd().config).args(arguments).output().unwrap()
    }

    /// What a command of `knockctl` that succeeds says, on both streams.
    #[track_caller]
    pub(crate) fn says(&self, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.knockctl(arguments);
        let said = String::from_utf8([stdout, stderr].concat()).unwrap();
        assert!(status.success(), "{}: {arguments:?}: {said}", self.name);
        said
    }

    /// Opens by hand, without a program of its own.
    pub(crate) fn open_by_hand(&self, door: &str, address: &str) -> Value {
        let request =
            format!(r#"{{"do":"open","door":"{door}","address":"{address}","seconds":null}}"#);
        self.knockd().ask(&request).pop().unwrap()
    }

    /// The process ids of its children by this name.
    pub(crate) fn children(&self, name: &str) -> Vec<i32> {
        let pid = self.knockd().pid();
        let path = format!("/proc/{pid}/task/{pid}/children");
        let is_called = |pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|it| it.contains(name))
        };
        let children = fs::read_to_string(path).unwrap_or_default();
        children.split_whitespace().map(|pid| pid.parse().unwrap()).filter(is_called).collect()
    }

    pub(crate) fn couriers(&self) -> Vec<i32> {
        self.children("knock-courier")
    }
}

fn address_in(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    text.parse::<IpAddr>().ok()?;
    Some(text.to_owned())
}

/// Gateways that share a store, and who asks them.
pub(crate) struct Fleet {
    pub gateways: Vec<Gateway>,
    pub store: Store,
    pub client: Host,
}

impl Fleet {
    /// Three gateways that have joined, by a socket.
    pub(crate) fn new() -> Self {
        Self::with(BY_SOCKET, PATIENT)
    }

    /// The same, by the way that `store` says, with further settings.
    pub(crate) fn with(store: &str, settings: &str) -> Self {
        Self::by("", |name| configuration(name, store, settings, &clients(), DOORS))
    }

    /// Three gateways that have joined, each by a configuration of its own. `STORE` stands for the
    /// directory of the store, `server` for lines of its configuration.
    pub(crate) fn by(server: &str, configuration: impl Fn(&str) -> String) -> Self {
        let mut fleet = Self::without_knockd(server);
        for (gateway, name) in NAMES.iter().enumerate() {
            fleet.start(gateway, &configuration(name));
        }
        fleet.joined();
        fleet
    }

    /// The hosts alone, and the store.
    pub(crate) fn without_knockd(server: &str) -> Self {
        let (client, store) = (Host::new("c"), Host::new("st"));
        for (host, address) in [(&client, CLIENT), (&store, STORE)] {
            host.must("ip", &["link", "add", "br0", "type", "bridge"]);
            host.must("ip", &["addr", "add", &format!("{address}/24"), "dev", "br0"]);
            host.must("ip", &["link", "set", "br0", "up"]);
        }
        let gateways = (11..).zip(NAMES).map(|(number, name)| {
            let gateway = Gateway {
                name,
                address: format!("192.0.2.{number}"),
                behind: format!("203.0.113.{number}"),
                knockd: None,
                host: Host::new(name),
            };
            let cables = [(&client, "eth0", &gateway.address), (&store, "back", &gateway.behind)];
            for (to, name, address) in cables {
                let (port, own, other) = (gateway.name, &gateway.host.name, &to.name);
                must(
                    "ip",
                    &[
                        "link", "add", name, "netns", own, "type", "veth", "peer", "name", port,
                        "netns", other,
                    ],
                );
                to.must("ip", &["link", "set", port, "master", "br0", "up"]);
                let address = format!("{address}/24");
                gateway.host.must("ip", &["addr", "add", &address, "dev", name]);
                gateway.host.must("ip", &["link", "set", name, "up"]);
            }
            gateway.host.listen(22);
            gateway
        });
        let gateways: Vec<Gateway> = gateways.collect();
        for gateway in &gateways {
            let reached = eventually(PATIENCE, || {
                client.reaches(&gateway.address) && store.reaches(&gateway.behind)
            });
            assert!(reached, "no connection to {}", gateway.name);
        }
        Self { gateways, store: Store::start(&Arc::new(store), server), client }
    }

    /// Starts a gateway.
    pub(crate) fn start(&mut self, gateway: usize, configuration: &str) {
        self.start_in(gateway, configuration, &[]);
    }

    pub(crate) fn start_in(
        &mut self,
        gateway: usize,
        configuration: &str,
        environment: &[(&str, &str)],
    ) {
        let configuration = self.at_the_store(configuration);
        self.gateways[gateway].start(&configuration, environment);
    }

    /// A configuration with the directory of the store in it.
    pub(crate) fn at_the_store(&self, configuration: &str) -> String {
        configuration.replace("STORE", self.store.directory.path().to_str().unwrap())
    }

    /// Waits until all have joined, and know of each other.
    #[track_caller]
    pub(crate) fn joined(&self) {
        for gateway in &self.gateways {
            gateway.is_soon("joined");
            let knows = || gateway.fleet()["gateways"].as_array().map_or(0, Vec::len);
            let met = eventually(PATIENCE, || knows() >= self.gateways.len());
            assert!(met, "{} does not know all: {}", gateway.name, gateway.fleet());
        }
    }

    /// Whether each gateway has it so.
    #[track_caller]
    pub(crate) fn all_open(&self, door: &str, address: &str) {
        for gateway in &self.gateways {
            gateway.opens(door, address);
        }
    }

    #[track_caller]
    pub(crate) fn all_close(&self, door: &str, address: &str) {
        for gateway in &self.gateways {
            gateway.closes(door, address);
        }
    }

    /// Sends a datagram from the client to a gateway.
    pub(crate) fn send(&self, gateway: usize, datagram: &[u8]) {
        self.send_all([(gateway, datagram.to_vec())]);
    }

    /// Sends many, some of them at a time.
    pub(crate) fn send_all(&self, datagrams: impl IntoIterator<Item = (usize, Vec<u8>)>) {
        let address = |gateway: usize| -> SocketAddr {
            (self.gateways[gateway].address.parse::<IpAddr>().unwrap(), PORT).into()
        };
        let all = datagrams.into_iter().map(|(gateway, datagram)| (address(gateway), datagram));
        let all: Vec<(SocketAddr, Vec<u8>)> = all.collect();
        self.client.enter(move || {
            let socket = UdpSocket::bind((CLIENT, 0)).unwrap();
            for (number, (to, datagram)) in all.iter().enumerate() {
                // That nothing listens at the port comes back as an error of the next.
                let _ = socket.send_to(datagram, to);
                if number % 50 == 49 {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        });
    }

    /// The laptop asks a gateway for a door.
    pub(crate) fn ask(&self, gateway: usize, door: &str) -> [u8; LEN] {
        let datagram = seal(&request(door), LAPTOP);
        self.send(gateway, &datagram);
        datagram
    }

    pub(crate) fn knock(&self, gateway: usize, ports: &[&str]) {
        let from = CLIENT.parse().unwrap();
        let address = &self.gateways[gateway].address;
        self.client.knock_from(from, address, ports, Duration::from_millis(15));
    }
}

/// For a door and the observed address: each is later than the one before.
pub(crate) fn request(door: &str) -> SpaRequest {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_max(clock::now().wall.as_nanos() / 1000, Ordering::Relaxed);
    SpaRequest {
        widths: Widths::SINGLE,
        open: Addresses::Observed,
        close: false,
        source_port: None,
        open_for: None,
        stamp: Stamp::from_micros(LAST.fetch_add(1, Ordering::Relaxed)),
        door: Some(door.parse().unwrap()),
    }
}

/// Seals a request for the gateways, by the key of this number.
pub(crate) fn seal(request: &SpaRequest, by: u8) -> [u8; LEN] {
    let mut ephemeral = [0; 32];
    getrandom::fill(&mut ephemeral).unwrap();
    spa::seal(request, &key(by), &PrivateKey::from(SERVER_KEY).public(), ephemeral)
}
