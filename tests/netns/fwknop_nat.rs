//! Requests of fwknop's for NAT, through packets: a gateway, an inner host and a client, by fwknop's
//! own client and by `knock`.
//!
//! Needs root, fwknop and nft; says loudly what it skips where it cannot run.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::guard_fixture::beyond;
use crate::support::{
    CLIENT, Host, Knockd, Net, PATIENCE, SERVER, eventually, must, needs, requests,
};

pub(crate) const INNER: &str = "198.51.100.7";
/// The client's, and nobody has opened for it.
const ANOTHER: &str = "192.0.2.77";

/// Says who it is to whoever connects to a port.
pub(crate) fn greets(host: &Host, port: u16, text: &'static str) {
    let listener =
        host.enter(move || TcpListener::bind(SocketAddr::from(([0u16; 8], port))).unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(text.as_bytes());
        }
    });
}

/// Who says so at a port of the gateway; empty: nobody.
pub(crate) fn who_is_at(host: &Host, port: u16) -> String {
    let to = SocketAddr::new(SERVER.parse().unwrap(), port);
    let mut said = String::new();
    host.enter(move || {
        let limit = Duration::from_millis(500);
        if let Ok(mut stream) = TcpStream::connect_timeout(&to, limit) {
            stream.set_read_timeout(Some(limit)).unwrap();
            let _ = stream.read_to_string(&mut said);
        }
        said
    })
}

pub(crate) fn leads_to(host: &Host, port: u16, who: &str) {
    let leads = eventually(PATIENCE, || who_is_at(host, port) == who);
    assert!(leads, "{port} leads to '{}'", who_is_at(host, port));
}

/// Three hosts, of which the gateway has two doors: 2222 leads to port 2200 of the inner host, and
/// 55000 to the gateway's own.
struct Gateway {
    net: Net,
    _inner: Host,
    knockd: Knockd,
}

impl Gateway {
    fn new(opened_by: &str, clients: &str) -> Self {
        let net = Net::new();
        net.client.must("ip", &["addr", "add", &format!("{ANOTHER}/24"), "dev", "eth0"]);
        let inner = beyond(&net);
        greets(&inner, 2200, "inner");
        greets(&net.server, 2200, "gateway");
        let knockd = Knockd::start(
            &net.server,
            &format!(
                "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody, \
                 spa: {{key_file: DIR/keys/server.key}}}}\n\
                 doors:\n  \
                 inner: {{{opened_by}, forward: [{{on: 2222, to: {INNER}, port: 2200}}], open_for: 1h}}\n  \
                 local: {{fwknop: true, forward: [{{on: 55000, to: {SERVER}, port: 2200}}], open_for: 1h}}\n\
                 clients:\n  \
                 phone: {{doors: [inner, local], fwknop: {{key: testkey, hmac_key: hmackey}}{clients}}}\n"
            ),
        );
        let gateway = Self { net, _inner: inner, knockd };
        gateway.leads_nowhere(2222);
        gateway.leads_nowhere(55000);
        gateway
    }

    fn leads_nowhere(&self, port: u16) {
        assert_eq!(who_is_at(&self.net.client, port), "", "{port}");
    }

    fn run(&self, line: &str) -> String {
        self.net.client.must("sh", &["-c", line])
    }
}

/// The port that a request makes lead somewhere, the other one, and to whom.
const BY_TYPE: [(&str, u16, u16, &str); 4] = [
    ("-N 198.51.100.7:2200 --nat-port 2222", 2222, 55000, "inner"),
    ("-N 198.51.100.7:2200 --nat-port 2222 -f 25", 2222, 55000, "inner"),
    ("--nat-local --nat-port 55000", 55000, 2222, "gateway"),
    ("--nat-local --nat-port 55000 -f 25", 55000, 2222, "gateway"),
];

#[test]
fn the_stock_client_gets_to_the_host_that_it_names() {
    needs!("the_stock_client_gets_to_the_host_that_it_names", "fwknop", "nft");
    for (options, port, other, who) in BY_TYPE {
        let gateway = Gateway::new("fwknop: true", "");
        gateway.run(&format!(
            "fwknop --no-home-dir --no-rc-file -E /dev/null -D {SERVER} -A tcp/2200 -s {options} \
             --key-rijndael testkey --key-hmac hmackey"
        ));
        leads_to(&gateway.net.client, port, who);
        gateway.leads_nowhere(other);
        let another = ANOTHER.parse().ok();
        assert!(!gateway.net.client.can_connect_from(another, SERVER, port), "{options}");
    }
}

#[test]
fn knock_gets_to_the_host_that_it_names() {
    needs!("knock_gets_to_the_host_that_it_names", "nft");
    let knock = env!("CARGO_BIN_EXE_knock");
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("k");
    std::fs::write(&key, "KEY: testkey\nHMAC_KEY: hmackey\n").unwrap();
    must("chmod", &["600", key.to_str().unwrap()]);
    let asking = format!("{knock} --fwknop --key {}", key.display());
    for (options, port, other, who) in BY_TYPE {
        let options = options.replace("-N", "--nat-access").replace("-f 25", "--open-for 25s");
        let gateway = Gateway::new("fwknop: true", "");
        gateway.run(&format!("{asking} {options} {SERVER} 2200"));
        leads_to(&gateway.net.client, port, who);
        gateway.leads_nowhere(other);
    }
    let gateway = Gateway::new("fwknop: true", "");
    let proxied = format!("{asking} --nat-access {INNER}:2200 --proxy {SERVER} 2222 </dev/null");
    assert_eq!(gateway.run(&proxied), "inner");
}

#[test]
fn what_no_door_forwards_is_refused_and_leads_nowhere() {
    needs!("what_no_door_forwards_is_refused_and_leads_nowhere", "fwknop", "nft");
    let gateway = Gateway::new("fwknop: true", "");
    let asking = format!(
        "fwknop --no-home-dir --no-rc-file -E /dev/null -D {SERVER} -s --key-rijndael testkey \
         --key-hmac hmackey"
    );
    for (options, reason) in [
        ("-A tcp/2200 -N 198.51.100.8:2200 --nat-port 2222", "fwknop-nat"),
        ("-A tcp/22 -N 198.51.100.7 --nat-port 2222", "fwknop-nat"),
        ("-A tcp/2200 -N 198.51.100.7", "fwknop-nat"),
        ("-A tcp/2200 -N inner.example.com --nat-port 2222", "fwknop-nat-name"),
        ("-A tcp/2200 --nat-local --nat-port 2222", "fwknop-local-nat"),
        ("-A tcp/2200 --nat-local", "fwknop-local-nat"),
        ("-A tcp/2222", "fwknop-no-door"),
        ("-A tcp/2222 -f 60", "fwknop-no-door"),
    ] {
        let before = crate::fwknop::counter(&gateway.knockd, reason);
        gateway.run(&format!("{asking} {options}"));
        crate::fwknop::wait_for_counter(&gateway.knockd, reason, before + 1);
    }
    // It is logged, and explained, in the same words.
    let why = "asks for NAT to a host and port that none of the client's doors forwards to";
    gateway.knockd.wait_for(why);
    let said = gateway.knockd.says_while(&["explain", "--live"], || {
        gateway.run(&format!("{asking} -A tcp/22 -N 198.51.100.7"));
    });
    assert!(said.contains(why), "{said}");
    assert_eq!(gateway.knockd.grants(), [] as [serde_json::Value; 0]);
    gateway.leads_nowhere(2222);
    gateway.leads_nowhere(55000);
}

#[test]
fn a_door_that_only_forwards_opens_by_every_kind_of_knock() {
    needs!("a_door_that_only_forwards_opens_by_every_kind_of_knock", "nft");
    let client = format!(
        ", spa: {{public_key: {}}}, totp: {{secret: {}}}",
        requests::client_key().public(),
        crate::totp::PHONE
    );
    let knock = env!("CARGO_BIN_EXE_knock");
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), crate::totp::PHONE).unwrap();
    for kind in ["sequence: [7000, 9000, 8000]", "totp: {ports: 20000-29999}", "spa: true"] {
        let gateway = Gateway::new(kind, &client);
        match kind {
            "spa: true" => {
                let datagram = requests::native(&gateway.knockd.server_key());
                crate::fwknop::send(&gateway.net.client, &[datagram]);
            }
            "totp: {ports: 20000-29999}" => {
                let secret = secret.path().display();
                gateway.run(&format!(
                    "{knock} --totp --door inner --ports 20000-29999 --secret-file {secret} {SERVER}"
                ));
            }
            _ => {
                gateway.run(&format!("{knock} -d 20 {SERVER} 7000 9000 8000"));
            }
        }
        gateway.knockd.wait_for(&format!("{CLIENT}: inner: OPEN SESAME"));
        leads_to(&gateway.net.client, 2222, "inner");
        gateway.leads_nowhere(55000);
    }
}
