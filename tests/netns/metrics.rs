//! Figures for monitoring, by `knockctl metrics` and over a socket. Needs root for its namespaces.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use libknock::proto::spa::PORT;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{
    CLIENT, Knockd, Net, PATIENCE, SERVER, command, eventually, must, needs, requests, run,
};

/// Doors that the kernel opens: the keeper has given up what it does not need for them.
fn configuration(metrics: &str) -> String {
    format!(
        "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody{metrics},\n\
         \x20 spa: {{key_file: DIR/keys/server.key}}}}\n\
         clients:\n\
         \x20 phone: {{doors: [code], totp: {{secret: JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP}}}}\n\
         \x20 laptop: {{doors: [native], spa: {{public_key: {}}}}}\n\
         doors:\n\
         \x20 plain: {{sequence: [7000, 8000, 9000], open: [22], open_for: 1h}}\n\
         \x20 native: {{spa: true, open: [23], open_for: 1h}}\n\
         \x20 code: {{totp: {{mode: code, base: 17000}}, open: [24],\n\
         \x20   lockout: {{failures: 2, within: 10m, for: 1h}}}}\n",
        requests::client_key().public()
    )
}

const SOCKET: &str = ", metrics: {socket: DIR/run/metrics.sock}";

struct Site {
    net: Net,
    knockd: Knockd,
}

impl Site {
    fn with(metrics: &str) -> Self {
        let net = Net::new();
        let knockd = Knockd::start(&net.server, &configuration(metrics));
        Self { net, knockd }
    }

    fn knock(&self, ports: &[&str]) {
        self.net.client.knock_from(
            CLIENT.parse().unwrap(),
            SERVER,
            ports,
            Duration::from_millis(5),
        );
    }

    /// The laptop's datagram, twice.
    fn ask_twice(&self) {
        let datagram = requests::native(&self.knockd.server_key());
        for _ in 0..2 {
            let datagram = datagram.clone();
            self.net.client.enter(move || {
                let to: SocketAddr = (SERVER.parse::<std::net::IpAddr>().unwrap(), PORT).into();
                UdpSocket::bind((CLIENT, 0)).unwrap().send_to(&datagram, to).unwrap();
            });
        }
    }

    fn knockctl(&self, arguments: &[&str]) -> String {
        let mut knockctl = command(env!("CARGO_BIN_EXE_knockctl"));
        let output = knockctl.arg("-c").arg(&self.knockd.config).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn connect(&self, request: &str) -> UnixStream {
        let path = self.knockd.directory.path().join("run/metrics.sock");
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    fn asked(&self, request: &str) -> String {
        let mut answer = String::new();
        self.connect(request).read_to_string(&mut answer).unwrap();
        answer
    }

    fn scraped(&self) -> String {
        let answer = self.asked("GET /metrics HTTP/1.1\r\nHost: knockd\r\n\r\n");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.0 200 OK\r\nContent-Type: application/openmetrics-text;"));
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
        body.to_owned()
    }

    #[track_caller]
    fn waits_for(&self, line: &str) {
        let is_there = || self.scraped().lines().any(|it| it == line);
        assert!(eventually(PATIENCE, is_there), "{line}\n{}", self.scraped());
    }
}

#[test]
fn figures_tell_what_was_opened_refused_locked_out_and_begun_anew_and_both_ways_tell_the_same() {
    needs!("figures", "nft");
    let site = Site::with(SOCKET);
    site.knock(&["7000", "8000", "9000"]);
    site.waits_for(r#"knockd_requests_total{door="plain",method="sequence",outcome="opened"} 1"#);
    site.knock(&["7000", "8000", "9000"]);
    site.waits_for(r#"knockd_requests_total{door="plain",method="sequence",outcome="extended"} 1"#);
    site.waits_for(r#"knockd_grants_open{door="plain"} 1"#);
    site.waits_for(r#"knockd_grants_opened_total{door="plain"} 1"#);
    site.knockctl(&["close", "plain", CLIENT]);
    site.waits_for(r#"knockd_grants_open{door="plain"} 0"#);
    site.waits_for(r#"knockd_grants_closed_total{door="plain"} 1"#);
    site.ask_twice();
    site.waits_for(r#"knockd_requests_total{door="native",method="spa",outcome="opened"} 1"#);
    site.waits_for(r#"knockd_requests_total{door="native",method="spa",outcome="used"} 1"#);
    site.waits_for(r#"knockd_rejected_total{reason="used"} 1"#);
    let is_locked_out = || {
        site.knock(&["17001", "17002", "17003", "17001", "17003", "17002"]);
        site.scraped().contains("knockd_lockouts_total{door=\"code\"} 1\n")
    };
    assert!(eventually(PATIENCE, is_locked_out), "{}", site.scraped());
    site.waits_for("knockd_locked_out 1");
    // The watcher tells of it within ten seconds.
    let seen = |text: &str| {
        let line = text.lines().find_map(|it| it.strip_prefix("knockd_packets_seen_total{"));
        line.and_then(|it| it.strip_prefix("interface=\"eth0\"} ")?.parse::<u64>().ok())
    };
    assert!(eventually(PATIENCE, || seen(&site.scraped()).is_some_and(|seen| seen >= 14)));
    site.waits_for(r#"knockd_packets_dropped_total{interface="eth0"} 0"#);
    kill(Pid::from_raw(site.knockd.watchers()[0]), Signal::SIGKILL).unwrap();
    site.waits_for("knockd_watcher_restarts_total 1");
    site.waits_for(r#"knockd_listening{interface="eth0"} 1"#);

    let (scraped, told) = (site.scraped(), site.knockctl(&["metrics"]));
    assert_eq!(scraped, told);
    assert!(told.ends_with("# EOF\n"), "{told}");
    assert!(told.contains("# TYPE knockd_requests counter\n"), "{told}");
    assert!(told.contains("knockd_ledger_write_seconds_bucket{le=\"+Inf\"}"), "{told}");
    let manual = concat!(env!("CARGO_MANIFEST_DIR"), "/man/knockctl.8");
    let manual = fs::read_to_string(manual).unwrap();
    let explained: Vec<&str> = manual
        .lines()
        .filter_map(|line| line.strip_prefix(".It Cm knockd_"))
        .flat_map(|names| names.split(" , knockd_"))
        .collect();
    for name in told.lines().filter_map(|line| line.strip_prefix("# TYPE knockd_")) {
        let (name, _) = name.split_once(' ').unwrap();
        assert!(explained.contains(&name), "the manual does not explain {name}");
    }
    for secret in [CLIENT, "laptop", "phone"] {
        assert!(!told.contains(secret), "{secret} is in the figures: {told}");
    }
}

#[test]
fn a_gateway_without_its_store_tells_that_and_counts_the_requests_that_it_decides_alone() {
    needs!("figures, fleet", "nft");
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("fleet.key");
    must(env!("CARGO_BIN_EXE_knockctl"), &["fleet-key", key.to_str().unwrap()]);
    let fleet = format!(
        ", fleet: {{name: gw1, store: 'unix:{}/none', key_file: {}}}",
        directory.path().display(),
        key.display()
    );
    let site = Site::with(&format!("{SOCKET}{fleet}"));
    site.waits_for("knockd_fleet_connected 0.0");
    // Itself.
    site.waits_for("knockd_fleet_gateways 1.0");
    site.ask_twice();
    site.waits_for(r#"knockd_requests_total{door="native",method="spa",outcome="opened"} 1"#);
    site.waits_for("knockd_fleet_requests_alone_total 1");
    assert!(site.knockctl(&["status"]).contains("\nfleet          gw1, alone since "));
    let manual = concat!(env!("CARGO_MANIFEST_DIR"), "/man/knockctl.8");
    let manual = fs::read_to_string(manual).unwrap();
    let told = site.scraped();
    let figures: Vec<_> =
        told.lines().filter(|it| it.starts_with("# TYPE knockd_fleet_")).collect();
    assert_eq!(figures.len(), 4, "{told}");
    for line in figures {
        let name = line.split(' ').nth(2).unwrap();
        assert!(manual.contains(&format!("\n.It Cm {name}\n")), "{name}");
    }
}

#[test]
fn a_keeper_that_has_given_up_its_rights_moves_the_socket_at_a_reload() {
    needs!("figures, reload", "nft");
    let site = Site::with("");
    let at = |name: &str| site.knockd.directory.path().join("run").join(name);
    assert_eq!(site.knockd.count("Landlock"), 2, "{:?}", site.knockd.log());
    for (group, mode, name) in [("daemon", 0o660, "one.sock"), ("nogroup", 0o660, "two.sock")] {
        let metrics = format!(", metrics: {{socket: DIR/run/{name}, group: {group}}}");
        site.knockd.configure(&configuration(&metrics));
        site.knockctl(&["reload"]);
        let socket = fs::metadata(at(name)).unwrap();
        assert_eq!(socket.permissions().mode() & 0o777, mode);
        let gid = nix::unistd::Group::from_name(group).unwrap().unwrap().gid;
        assert_eq!(socket.gid(), gid.as_raw());
        let mut stream = UnixStream::connect(at(name)).unwrap();
        stream.write_all(b"GET / HTTP/1.0\n\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("knockd_build_info"), "{answer}");
    }
    assert!(!at("one.sock").exists());
    site.knockd.configure(&configuration(", metrics: {socket: DIR/run/two.sock, group: nosuch}"));
    let reload = || site.knockctl(&["reload"]);
    let said = reload();
    let why = format!(
        "no metrics can be read at {}: there is no group 'nosuch'",
        at("two.sock").display()
    );
    assert_eq!(said.trim(), format!("the configuration is in force, but {why}"));
    site.knockd.wait_for(&why);
    assert!(!at("two.sock").exists());
    fs::write(at("file"), "precious").unwrap();
    site.knockd.configure(&configuration(", metrics: {socket: DIR/run/file}"));
    assert!(reload().contains("cannot listen on"));
    assert_eq!(fs::read_to_string(at("file")).unwrap(), "precious");
    site.knockd.configure(&configuration(""));
    site.knockctl(&["reload"]);
}

#[test]
fn whoever_asks_for_something_else_is_refused_and_who_does_not_ask_to_the_end_is_sent_away() {
    needs!("figures, readers", "nft");
    let site = Site::with(SOCKET);
    let silent: Vec<_> = (0..40).map(|_| site.connect("GET")).collect();
    for other in ["POST / HTTP/1.0\r\n\r\n", "{\"do\":\"close_all\"}\n\n"] {
        let refused = |answer: String| answer.starts_with("HTTP/1.0 405 ");
        assert!(eventually(PATIENCE, || refused(site.asked(other))), "{other}");
    }
    site.knock(&["7000", "8000", "9000"]);
    site.knockd.wait_for("OPEN SESAME");
    for mut stream in silent {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"");
    }
    site.waits_for(r#"knockd_grants_open{door="plain"} 1"#);
}

#[test]
fn prometheus_takes_the_file_for_node_exporter_and_the_rules_which_name_figures_that_there_are() {
    needs!("figures, promtool", "promtool");
    let site = Site::with("");
    let file = site.knockd.directory.path().join("knockd.prom");
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/knockd.rules.yml");
    site.knockctl(&["metrics", "--textfile", file.to_str().unwrap()]);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    let check = format!("promtool check metrics < {}", file.display());
    let checked = run("sh", &["-c", &check]);
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
    let checked = run("promtool", &["check", "rules", rules]);
    assert!(checked.status.success(), "{checked:?}");

    let text = fs::read_to_string(&file).unwrap();
    let rules = fs::read_to_string(rules).unwrap();
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let named: BTreeSet<&str> =
        rules.split(|c| !is_of_name(c)).filter(|word| word.starts_with("knockd_")).collect();
    assert!(named.len() > 5, "{named:?}");
    // Of those of a fleet there are none here.
    for name in named.into_iter().filter(|name| !name.starts_with("knockd_fleet_")) {
        let figure = name.trim_end_matches("_bucket");
        assert!(text.contains(&format!("# TYPE {figure} ")), "{name} is no figure:\n{text}");
    }
}
