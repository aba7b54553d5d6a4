//! `knock --fwknop` against Debian's fwknopd, between network namespaces.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use libknock::proto::fwknop::{CipherMode, FwknopDatagram, FwknopKey, FwknopKeys, Hash, HmacKey};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::fwknop_nat::{INNER, greets, leads_to, who_is_at};
use crate::guard_fixture::beyond;
use crate::support::{Net, PATIENCE, SERVER, eventually, needs};

/// A running fwknopd in UDP mode; ended when it goes out of scope.
struct Fwknopd {
    child: Child,
    directory: tempfile::TempDir,
}

impl Fwknopd {
    fn start(net: &Net, access: &str, arguments: &[&str]) -> Self {
        Self::start_with(net, "", access, arguments)
    }

    /// With more settings of the daemon's.
    fn start_with(net: &Net, settings: &str, access: &str, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let run = path("run").display().to_string();
        fs::create_dir(&run).unwrap();
        let settings = format!("ENABLE_UDP_SERVER Y;\nFWKNOP_RUN_DIR {run};\n{settings}");
        private(&path("fwknopd.conf"), &settings);
        private(&path("access.conf"), access);
        let output = File::create(path("output")).unwrap();
        let child = net
            .server
            .command("/usr/sbin/fwknopd")
            .args(["-f", "-r", &run, "-d", &format!("{run}/digests")])
            .arg("-c")
            .arg(path("fwknopd.conf"))
            .arg("-a")
            .arg(path("access.conf"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let fwknopd = Self { child, directory };
        fwknopd.wait_for("Kicking off UDP server", 1);
        fwknopd
    }

    fn output(&self) -> String {
        fs::read_to_string(self.directory.path().join("output")).unwrap()
    }

    fn count(&self, text: &str) -> usize {
        self.output().lines().filter(|line| line.contains(text)).count()
    }

    fn wait_for(&self, text: &str, count: usize) {
        let found = eventually(PATIENCE, || self.count(text) >= count);
        assert!(found, "not {count} times {text:?} in:\n{}", self.output());
    }
}

impl Drop for Fwknopd {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// A stanza of fwknopd's, and a client of it.
struct Pair {
    hmac: Option<Hash>,
    mode: CipherMode,
}

impl Pair {
    /// All that fwknopd takes.
    fn all() -> Vec<Self> {
        let hmac = || [None].into_iter().chain(Hash::ALL.map(Some));
        CipherMode::ALL
            .into_iter()
            .flat_map(|mode| hmac().map(move |hmac| Self { hmac, mode }))
            .collect()
    }

    fn name(&self) -> String {
        format!("{}-{}", self.mode, self.hmac.map_or("none", Hash::as_str))
    }

    fn stanza(&self) -> String {
        let name = self.name();
        let mut stanza =
            format!("SOURCE ANY\nKEY key {name}\nENCRYPTION_MODE {}\n", spelt(self.mode));
        if let Some(hash) = self.hmac {
            let hash = hash.as_str().to_uppercase();
            let _ = writeln!(stanza, "HMAC_KEY hmac {name}\nHMAC_DIGEST_TYPE {hash}");
        }
        stanza
    }

    fn keys(&self, directory: &Path) -> (PathBuf, Option<PathBuf>) {
        let name = self.name();
        let key = directory.join(format!("{name}.key"));
        private(&key, &format!("key {name}\n"));
        let hmac = self.hmac.map(|_| {
            let file = directory.join(format!("{name}.hmac"));
            private(&file, &format!("hmac {name}\n"));
            file
        });
        (key, hmac)
    }
}

const FORWARDING: &str = "ENABLE_IPT_FORWARDING Y;\nENABLE_IPT_LOCAL_NAT Y;\n";

fn spelt(mode: CipherMode) -> String {
    if mode == CipherMode::Legacy { mode.to_string() } else { mode.as_str().to_uppercase() }
}

#[test]
fn fwknopd_takes_every_request_that_knock_makes() {
    needs!("fwknopd_takes_every_request_that_knock_makes", "fwknopd");
    let net = Net::new();
    let access: String = Pair::all().iter().map(Pair::stanza).collect();
    // It decodes and checks, and leaves the firewall alone.
    let fwknopd = Fwknopd::start_with(&net, FORWARDING, &access, &["--test"]);
    let directory = tempfile::tempdir().unwrap();
    let knock = env!("CARGO_BIN_EXE_knock");
    let mut sent = 0;
    for (number, pair) in (1..).zip(Pair::all()) {
        let (key, hmac) = pair.keys(directory.path());
        let mut script = String::new();
        for digest in Hash::ALL {
            let nats = ["", "--nat-access 198.51.100.7:22", "--nat-local"];
            let timed = |nat| ["", "--open-for 5m"].map(|open_for| format!("{nat} {open_for}"));
            for options in nats.into_iter().flat_map(timed) {
                let _ = write!(
                    script,
                    "{knock} --fwknop --key {} --encryption-mode {} --digest-type {digest} {options}",
                    key.display(),
                    pair.mode
                );
                if let (Some(hash), Some(file)) = (pair.hmac, &hmac) {
                    let file = file.display();
                    let _ = write!(script, " --hmac-key {file} --hmac-digest-type {hash}");
                }
                let _ = writeln!(
                    script,
                    " --user knock --address 203.0.113.9 {SERVER} 22 53/udp || exit 1"
                );
                sent += 1;
            }
        }
        net.client.must("sh", &["-c", &script]);
        // It keeps only so many in its socket.
        let taken = format!("(stanza #{number}) --test mode enabled");
        fwknopd.wait_for(&taken, 6 * Hash::ALL.len());
        assert_eq!(fwknopd.count("--test mode enabled, skipping"), sent, "{}", pair.name());
    }
    assert_eq!(sent, 8 * 6 * 7 * 6);
}

const ACCESS: &str = "SOURCE ANY\nKEY_BASE64 dGVzdGtleQ==\nHMAC_KEY_BASE64 aG1hY2tleQ==\n\
                      REQUIRE_USERNAME alice\nFW_ACCESS_TIMEOUT 60\n";

#[test]
fn fwknopd_opens_for_knock_as_it_is_asked_to() {
    needs!("fwknopd_opens_for_knock_as_it_is_asked_to", "fwknopd", "iptables");
    let net = Net::new();
    let fwknopd = Fwknopd::start(&net, ACCESS, &[]);
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    private(&at("keys"), "KEY_BASE64: dGVzdGtleQ==\nHMAC_KEY_BASE64: aG1hY2tleQ==\n");
    private(
        &at(".fwknoprc"),
        &format!(
            "[default]\nKEY_BASE64 dGVzdGtleQ==\nHMAC_KEY_BASE64 aG1hY2tleQ==\n\
             [lab]\nSPA_SERVER {SERVER}\nACCESS tcp/222\nALLOW_IP 203.0.113.2\nSPOOF_USER alice\n"
        ),
    );
    private(
        &at("hosts.yaml"),
        &format!(
            "hosts:\n  lab: {{fwknoprc: lab, address: 203.0.113.3}}\n  \
             gw: {{host: {SERVER}, mode: fwknop, ports: [443], key_file: keys, user: alice, \
             open_for: 4m, address: 203.0.113.4}}\n"
        ),
    );
    let home = home.path().display();
    let knock = env!("CARGO_BIN_EXE_knock");
    let hosts = format!("--hosts {home}/hosts.yaml");
    let given = format!("--fwknop --key {home}/keys --user alice --address 203.0.113.1");
    let script = format!(
        "export HOME={home}; set -e\n\
         {knock} {given} {SERVER} 22\n\
         {knock} --fwknoprc lab\n\
         {knock} {hosts} lab\n\
         {knock} {hosts} gw\n"
    );
    net.client.must("sh", &["-c", &script]);
    fwknopd.wait_for("Added access rule", 4);
    let output = fwknopd.output();
    let added = |line: &str| {
        let (_, rest) = line.split_once("Added access rule to FWKNOP_INPUT for ")?;
        let (address, rest) = rest.split_once(" -> ")?;
        let port = rest.split_once(' ')?.1.split_once(',')?.0;
        let (_, expires) = rest.rsplit_once(' ')?;
        Some((address.to_owned(), (port.to_owned(), expires.parse::<u64>().ok()?)))
    };
    let rules: BTreeMap<String, (String, u64)> = output.lines().filter_map(added).collect();
    let ports: Vec<_> = rules.iter().map(|(address, (port, _))| (&**address, &**port)).collect();
    assert_eq!(
        ports,
        [
            ("203.0.113.1", "tcp/22"),
            ("203.0.113.2", "tcp/222"),
            ("203.0.113.3", "tcp/222"),
            ("203.0.113.4", "tcp/443"),
        ]
    );
    // Four minutes instead of one.
    assert!(rules["203.0.113.4"].1 > rules["203.0.113.1"].1 + 120, "{rules:?}");
}

#[test]
fn fwknopd_leads_to_where_knock_asks_it_to() {
    needs!("fwknopd_leads_to_where_knock_asks_it_to", "fwknopd", "iptables");
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    private(&at("keys"), "KEY_BASE64: dGVzdGtleQ==\nHMAC_KEY_BASE64: aG1hY2tleQ==\n");
    private(
        &at(".fwknoprc"),
        &format!(
            "[lab]\nSPA_SERVER {SERVER}\nACCESS tcp/2200\nALLOW_IP source\nSPOOF_USER alice\n\
             KEY_BASE64 dGVzdGtleQ==\nHMAC_KEY_BASE64 aG1hY2tleQ==\n\
             NAT_ACCESS {INNER}:2200\nNAT_PORT 2222\n"
        ),
    );
    private(
        &at("hosts.yaml"),
        &format!(
            "hosts: {{gw: {{host: {SERVER}, mode: fwknop, ports: [2200], key_file: keys, \
             user: alice, address: observed, nat_local: true, nat_port: 2222}}}}\n"
        ),
    );
    let (home, knock) = (home.path().display(), env!("CARGO_BIN_EXE_knock"));
    let given = format!("--fwknop --key {home}/keys --user alice --address observed {SERVER}");
    for (arguments, who) in [
        (format!("--nat-access {INNER}:2200 {given} 2222"), "inner"),
        (format!("--nat-access {INNER} --nat-port 2222 --open-for 25s {given} 2200"), "inner"),
        ("--fwknoprc lab".to_owned(), "inner"),
        (format!("--nat-local --nat-port 2222 --open-for 25s {given} 2200"), "gateway"),
        (format!("--hosts {home}/hosts.yaml gw"), "gateway"),
    ] {
        let net = Net::new();
        let inner = beyond(&net);
        greets(&inner, 2200, "inner");
        greets(&net.server, 2200, "gateway");
        let fwknopd = Fwknopd::start_with(&net, FORWARDING, ACCESS, &[]);
        assert_eq!(who_is_at(&net.client, 2222), "");
        net.client.must("sh", &["-c", &format!("HOME={home} {knock} {arguments}")]);
        fwknopd.wait_for("DNAT", 1);
        leads_to(&net.client, 2222, who);
    }
}

/// Stanzas that the stock client takes, each with options for it and for `knock`.
const STANZAS: &[(&str, &[&str], &[&str])] = &[
    ("", &[], &[]),
    ("FW_TIMEOUT 60\nTIME_OFFSET 1H\n", &[], &[]),
    ("TIME_OFFSET -2Min\nSPOOF_USER alice\n", &[], &[]),
    ("SPOOF_USER a-name-of-more-than-twenty-nine-letters\n", &[], &[]),
    ("SPOOF_USER alice\n", &["-U", "bob"], &["--user", "bob"]),
    ("ACCESS tcp/22,udp/53\nALLOW_IP 192.0.2.9\n", &[], &[]),
    ("ACCESS nonsense\n", &["-A", "tcp/80"], &["127.0.0.1", "80"]),
    ("ALLOW_IP resolve\n", &["-a", "192.0.2.8"], &["--address", "192.0.2.8"]),
    ("FW_TIMEOUT 60\n", &["-f", "30"], &["--open-for", "30s"]),
    ("KEY_BASE64 b3RoZXI=\nUSE_HMAC Y\n", &[], &[]),
    ("[default]\nALLOW_IP resolve\nFW_TIMEOUT 5\n", &[], &[]),
    ("NAT_ACCESS 192.168.1.10:2222\n", &[], &[]),
    ("NAT_ACCESS 192.168.1.10,2222\nFW_TIMEOUT 60\n", &[], &[]),
    ("NAT_ACCESS inner.example.com\nNAT_PORT 4000\n", &[], &[]),
    ("ACCESS udp/22\nNAT_ACCESS 192.168.1.10\nNAT_PORT 4000\n", &[], &[]),
    ("ACCESS tcp/22,udp/53\nNAT_ACCESS 192.168.1.10\n", &[], &[]),
    ("NAT_LOCAL Y\n", &[], &[]),
    ("NAT_LOCAL y\nNAT_PORT 4000\nFW_TIMEOUT 60\n", &[], &[]),
    ("NAT_LOCAL Y\nNAT_ACCESS 192.168.1.10:80\n", &[], &[]),
    ("NAT_LOCAL N\nNAT_RAND_PORT N\n", &[], &[]),
    ("", &["-N", "192.168.1.10:80"], &["--nat-access", "192.168.1.10:80"]),
    (
        "NAT_ACCESS 192.168.1.10:22\n",
        &["-N", "192.168.1.11:80"],
        &["--nat-access", "192.168.1.11:80"],
    ),
    (
        "NAT_PORT 4000\n",
        &["--nat-local", "--nat-port", "55000"],
        &["--nat-local", "--nat-port", "55000"],
    ),
    ("[default]\nRESOLVE_IP_HTTPS Y\nSPOOF_USER default\n", &[], &[]),
];

#[test]
fn a_stanza_asks_for_the_same_as_with_the_stock_client() {
    needs!("stanzas", "fwknop");
    let home = tempfile::tempdir().unwrap();
    let saved = home.path().join("saved");
    let environments: [&[(&str, &str)]; 3] =
        [&[], &[("USER", "u")], &[("LOGNAME", "l"), ("USER", "u")]];
    for (number, (lines, stock, own)) in STANZAS.iter().enumerate() {
        let plain = "SPA_SERVER 127.0.0.1\nALLOW_IP 192.0.2.7\nKEY testkey\nHMAC_KEY hmackey\n";
        let has_access = lines.lines().any(|line| line.starts_with("ACCESS"));
        let access = if has_access { "" } else { "ACCESS tcp/22\n" };
        private(&home.path().join(".fwknoprc"), &format!("[a]\n{plain}{access}{lines}"));
        let environment = environments[number % environments.len()];
        let run = |program: &str, arguments: &[&str]| {
            let mut command = crate::support::command(program);
            command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", home.path());
            command.envs(environment.iter().copied()).args(arguments).stdin(Stdio::null());
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{program} {arguments:?}, {lines}: {said}");
        };
        let _ = fs::remove_file(&saved);
        let file = saved.to_str().unwrap();
        run("fwknop", &[&["-n", "a", "-T", "-B", file, "--no-save-args"], *stock].concat());
        let theirs = fs::read_to_string(&saved).unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let port = socket.local_addr().unwrap().port().to_string();
        run(
            env!("CARGO_BIN_EXE_knock"),
            &[&["--fwknoprc", "a", "--spa-port", &port], *own].concat(),
        );
        let mut datagram = [0; 1500];
        let length = socket.recv(&mut datagram).unwrap();
        let read = |datagram: &[u8]| {
            let key = FwknopKey::new(b"testkey".to_vec()).unwrap();
            let hmac = HmacKey::new(b"hmackey".to_vec()).unwrap();
            let hmac = Some((&hmac, Hash::Sha256));
            let keys = FwknopKeys { key: &key, mode: CipherMode::Cbc, hmac };
            let request =
                FwknopDatagram::new(datagram).unwrap().open(&keys.into()).unwrap().request;
            (request.user.as_str().to_owned(), request.access, request.timestamp)
        };
        let (user, access, time) = read(theirs.trim_end().as_bytes());
        let (own_user, own_access, own_time) = read(&datagram[..length]);
        assert_eq!((own_user, own_access), (user, access), "{lines}");
        // The two do not start in the same second.
        assert!(own_time.abs_diff(time) < 30, "{lines}: {own_time}, not {time}");
    }
}
