//! The links of the manual.

use std::fs;

use libknock::proto::link::{Link, LinkEntry};
use libknock::proto::spa::PrivateKey;
use libknock::proto::totp::{Digits, Protocols, Scheme, TotpMode, parse_secret};

const SECRET: &str = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP";
const KEY: &str = "tgPY74An3thtrObu/mblPRwjkjver9khsuXqhRzzmKY=";
const SERVER: &str = "4BbmHjtWeVM7bEaAdK2cj0F9oCf/oNUue5BUuSUn6kA=";

fn entry(door: &str, scheme: Option<TotpMode>, wait: u16) -> LinkEntry {
    let scheme = scheme.map(|mode| Scheme::new(mode, 30, 1).unwrap());
    LinkEntry { door: door.parse().unwrap(), scheme, wait: wait.try_into().ok() }
}

fn vectors() -> [(&'static str, Link); 4] {
    let port = |port: u16| port.try_into().unwrap();
    let key: PrivateKey = KEY.parse().unwrap();
    let (low, high) = (port(20000), port(29999));
    let ports = TotpMode::Ports { low, high, length: 4, protocol: Protocols::Mixed };
    let code = TotpMode::Code { base: 7000, digits: Digits::Six };
    let link = |entries: &[LinkEntry]| Link {
        host: "gw.example.com".to_owned(),
        label: "gw".parse().unwrap(),
        secret: parse_secret(SECRET).ok(),
        key: None,
        server: None,
        entries: entries.to_vec(),
    };
    let asks = entry("ssh", None, 22);
    let spa = Link {
        secret: None,
        key: Some(key),
        server: Some((SERVER.parse().unwrap(), None)),
        ..link(&[asks])
    };
    let range = Some(port(62000)..=port(62999));
    let own = Link {
        key: None,
        server: Some((SERVER.parse().unwrap(), range)),
        ..link(&[entry("ssh", None, 22), entry("web", Some(code), 0)])
    };
    [
        (
            "door ssh, ports 20000-29999, 4 knocks, mixed, 30s, wait for 22",
            link(&[entry("ssh", Some(ports), 22)]),
        ),
        ("door web, base 7000, 6 digits, 30s", link(&[entry("web", Some(code), 0)])),
        ("door ssh by SPA, with the client's private key, wait for 22", spa),
        ("door ssh by SPA, ports 62000-62999, wait for 22; door web as above", own),
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
