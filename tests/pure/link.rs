//! The links of the manual.

use std::fs;

use libknock::proto::Secret;
use libknock::proto::fwknop::Hash;
use libknock::proto::link::{FwknopWay, Link, LinkEntry, Way};
use libknock::proto::spa::PrivateKey;
use libknock::proto::totp::{Digits, Protocols, Scheme, TotpMode, parse_secret};

const SECRET: &str = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP";
const KEY: &str = "tgPY74An3thtrObu/mblPRwjkjver9khsuXqhRzzmKY=";
const FWKNOP_KEYS: &str = "the key for the encryption of it\
    the key for the HMAC of the same, which has twice as many bytes.";
const SERVER: &str = "4BbmHjtWeVM7bEaAdK2cj0F9oCf/oNUue5BUuSUn6kA=";

fn entry(door: &str, way: Way, wait: u16) -> LinkEntry {
    LinkEntry { door: door.parse().unwrap(), way, wait: wait.try_into().ok() }
}

fn totp(mode: TotpMode) -> Way {
    Way::Totp(Scheme::new(mode, 30, 1).unwrap())
}

fn vectors() -> [(&'static str, Link); 5] {
    let port = |port: u16| port.try_into().unwrap();
    let key: PrivateKey = KEY.parse().unwrap();
    let (low, high) = (port(20000), port(29999));
    let sequence = TotpMode::Ports { low, high, length: 4, protocol: Protocols::Mixed };
    let code = TotpMode::Code { base: 7000, digits: Digits::Six };
    let link = |entries: &[LinkEntry]| Link {
        host: "gw.example.com".to_owned(),
        label: "gw".parse().unwrap(),
        secret: parse_secret(SECRET).ok(),
        key: None,
        server: None,
        entries: entries.to_vec(),
    };
    let asks = entry("ssh", Way::Spa, 22);
    let spa = Link {
        secret: None,
        key: Some(key),
        server: Some((SERVER.parse().unwrap(), None)),
        ..link(std::slice::from_ref(&asks))
    };
    let range = Some(port(62000)..=port(62999));
    let own = Link {
        key: None,
        server: Some((SERVER.parse().unwrap(), range)),
        ..link(&[asks.clone(), entry("web", totp(code), 0)])
    };
    let keys = Some(Secret::new(FWKNOP_KEYS.into()));
    let asked = |ports: &[&str]| FwknopWay {
        keys: None,
        hash: Hash::Sha512,
        port: 7777.try_into().ok(),
        ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
        nat: None,
    };
    let gate = FwknopWay { keys, ..asked(&["443/tcp", "4500/udp"]) };
    let nat = "192.168.1.10:22".parse().ok();
    let inner = FwknopWay { nat, ..asked(&["2222/tcp"]) };
    let of_fwknop = Link {
        secret: None,
        key: spa.key.clone(),
        server: spa.server.clone(),
        ..link(&[
            entry("gate", Way::Fwknop(gate), 443),
            entry("inner", Way::Fwknop(inner), 2222),
            asks.clone(),
        ])
    };
    [
        (
            "door ssh, ports 20000-29999, 4 knocks, mixed, 30s, wait for 22",
            link(&[entry("ssh", totp(sequence), 22)]),
        ),
        ("door web, base 7000, 6 digits, 30s", link(&[entry("web", totp(code), 0)])),
        ("door ssh by SPA, with the client's private key, wait for 22", spa),
        ("door ssh by SPA, ports 62000-62999, wait for 22; door web as above", own),
        (
            "door gate by fwknop, 443/tcp and 4500/udp, wait for 443; door inner by fwknop, \
             2222/tcp to 192.168.1.10:22, wait for 2222; both at port 7777, sha512; door ssh by \
             SPA, wait for 22",
            of_fwknop,
        ),
    ]
}

#[test]
fn the_manual_has_links_that_are_read_and_written_so() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/man/knock-spa.7")).unwrap();
    let (_, section) = page.split_once(".Sh THE LINK\n").unwrap();
    for (what, link) in vectors() {
        let (_, text) = section
            .split_once(&format!(".It \"{what}\"\n.Bd -literal -compact\n"))
            .unwrap_or_else(|| panic!("{what}: {:?}", link.encode().unwrap().as_str()));
        let (text, _) = text.split_once(".Ed\n").unwrap();
        assert_eq!(Link::decode(text).unwrap(), link, "{what}");
        let joined: String = text.split_whitespace().collect();
        assert_eq!(joined, *link.encode().unwrap(), "{what}");
    }
    assert_eq!(section.matches("knock://1/").count(), vectors().len() + 1, "and the form");
}
