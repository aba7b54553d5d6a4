use super::*;

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
    let network = text.parse().unwrap();
    News::Close { door: name("ssh"), network, source_port: None, cut: false }
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
