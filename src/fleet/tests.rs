use proptest::prelude::*;

use super::*;
use crate::config::diagnostic::SourceText;
use crate::config::load;
use crate::proto::Network;

fn key() -> FleetKey {
    [1; 32].into()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn opened(gateway: &str, counter: u64, client: Option<&str>) -> Entry {
    let key = GrantKey::new(name("ssh"), "192.0.2.2".parse::<Network>().unwrap());
    let news = News::Open { key, client: client.map(name), until: Wall::MAX };
    entry(gateway, counter, &[], news)
}

fn entry(gateway: &str, counter: u64, heard: &[(&str, u64)], news: News) -> Entry {
    let heard = heard.iter().map(|(gateway, counter)| (name(gateway), *counter)).collect();
    Entry { gateway: name(gateway), run: [0; 16], counter, heard, is_waiting: false, news }
}

fn closing(text: &str) -> News {
    let network: Network = text.parse().unwrap();
    News::Close { key: GrantKey::new(name("ssh"), network), cut: false }
}

#[test]
fn an_entry_is_read_as_it_was_sealed() {
    let mut sealer = Sealer::new(&key(), [7; 16]);
    let heard = BTreeMap::from([(name("gw2"), 5)]);
    let (counter, sealed) =
        seal(&mut sealer, Wall::from_nanos(9), &name("gw1"), &heard, true, closing("192.0.2.0/24"));
    let expected = Entry {
        run: [7; 16],
        is_waiting: true,
        ..entry("gw1", counter, &[("gw2", 5)], closing("192.0.2.0/24"))
    };
    assert_eq!(Entry::open(&key(), &sealed), Ok(expected));
}

#[test]
fn what_a_closing_knew_of_does_not_open_after_it_however_late_it_comes() {
    let mut closings = Closings::default();
    closings.note(&entry("gw2", 50, &[("gw1", 10)], closing("192.0.2.0/24")));
    assert!(closings.end(&opened("gw1", 10, None)));
    assert!(closings.end(&opened("gw2", 49, None)));
    // What opened after it.
    assert!(!closings.end(&opened("gw1", 11, None)));
    assert!(!closings.end(&opened("gw2", 51, None)));
    // What it did not know of at all.
    assert!(!closings.end(&opened("gw3", 1, None)));
}

#[test]
fn a_closing_ends_what_it_names_alone() {
    let ends = |news: News| {
        let mut closings = Closings::default();
        closings.note(&entry("gw2", 50, &[("gw1", 10)], news));
        closings.end(&opened("gw1", 10, Some("alice")))
    };
    let revoked = |client| News::Revoke { client: name(client), cut: false };
    assert!(ends(closing("192.0.2.2")) && ends(News::CloseAll { cut: false }));
    assert!(ends(revoked("alice")) && !ends(revoked("bob")));
    assert!(!ends(closing("192.0.2.3")) && !ends(News::Unlock { source: [192, 0, 2, 2].into() }));
}

#[test]
fn what_opened_elsewhere_opens_by_the_configuration_here() {
    let text = "knockd: {interfaces: [eth0]}\n\
                clients:\n\
                \x20 alice: {doors: [ssh, wide], totp: {secret: GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ}, width: {ipv4: 24}}\n\
                \x20 past: {doors: [ssh], expires: 2020-01-01, totp: {secret: JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP}}\n\
                \x20 bob: {doors: [own], totp: {secret: MFRGGZDFMZTWQ2LKNNWG23TPOBYXE43U}}\n\
                doors:\n\
                \x20 ssh: {totp: {mode: code, base: 7100}, open: [22], open_for: 30s, open_for_max: 1h, fleet: true}\n\
                \x20 wide: {totp: {mode: code, base: 7200}, open: [24], width: {ipv4: 16}, fleet: true}\n\
                \x20 own: {totp: {mode: code, base: 7300}, open: [23]}\n";
    let config = load::parse(&SourceText::new("fleet.yaml", text)).unwrap().config;
    let now = Wall::from_nanos(1_700_000_000_000_000_000);
    let opens = |door: &str, network: &str, client: Option<&str>, seconds| {
        let key = GrantKey::new(name(door), network.parse::<Network>().unwrap());
        let (client, until) = (client.map(name), now + Duration::from_secs(seconds));
        may_open(&config, now, &key, client.as_ref(), until).map(|(_, left)| left.as_secs())
    };
    let here = "192.0.2.2";
    assert_eq!(opens("ssh", here, None, 60), Ok(60));
    assert_eq!(opens("ssh", here, Some("alice"), 7200), Ok(3600));
    assert_eq!(opens("ssh", here, None, 0), Err(NotHere::Over));
    for door in ["own", "nosuch"] {
        assert_eq!(opens(door, here, None, 60), Err(NotHere::Door));
    }
    for client in ["nobody", "past", "bob"] {
        assert_eq!(opens("ssh", here, Some(client), 60), Err(NotHere::Client));
    }
    assert_eq!(opens("ssh", "192.0.2.0/24", None, 60), Err(NotHere::Width));
    assert_eq!(opens("wide", "192.0.0.0/16", None, 30), Ok(30));
    assert_eq!(opens("wide", "192.0.2.0/24", Some("alice"), 30), Ok(30));
    assert_eq!(opens("wide", "192.0.0.0/16", Some("alice"), 30), Err(NotHere::Width));
}

proptest! {
    #[test]
    fn whatever_is_sealed_is_an_entry_or_malformed(text: Vec<u8>, run: Run) {
        let (counter, sealed) = Sealer::new(&key(), run).seal(Wall::ZERO, &text);
        match Entry::open(&key(), &sealed) {
            Ok(entry) => prop_assert_eq!((entry.run, entry.counter), (run, counter)),
            Err(why) => prop_assert_eq!(why, EntryError::Malformed),
        }
    }
}
