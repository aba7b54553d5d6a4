//! What a fleet's store holds: what was not sealed with the fleet's key is refused, whatever it is;
//! what was is read as it was written or named malformed; and no entry opens more than this
//! gateway's own configuration allows, or what a closing that knew of it has ended.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use knock_fuzz::{NOW, config, take};
use libfuzzer_sys::fuzz_target;
use libknock::config::Config;
use libknock::fleet::{Closings, Entry, EntryError, News, may_open, seal};
use libknock::proto::fleet::{FleetKey, SealError, Sealer};

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    config(
        "knockd: {interfaces: [eth0]}\n\
         clients:\n\
         \x20 alice: {doors: [ssh], totp: {secret: GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ}}\n\
         \x20 past: {doors: [ssh], expires: 2020-01-01, totp: {secret: JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP}}\n\
         doors:\n\
         \x20 ssh: {totp: {mode: code, base: 7100}, open: [22], open_for: 30s, open_for_max: 1h, width: {ipv4: 24, ipv6: 64}, fleet: true}\n\
         \x20 own: {sequence: [7000, 8000, 9000], open: [23]}\n",
    )
});

const RUN: [u8; 16] = [7; 16];
const OTHER_RUN: [u8; 16] = [8; 16];

fn key() -> FleetKey {
    [1; 32].into()
}

/// Whatever may be said about an entry that has been opened.
fn judged(entry: &Entry) {
    let item = entry.news.item(&key());
    let passes = matches!(entry.news, News::Done { .. } | News::Beat(_));
    assert_eq!(item.is_none(), passes);
    if let News::Open { key, client, until } = &entry.news
        && let Ok((door, left)) = may_open(&CONFIG, NOW.wall, key, client.as_ref(), *until)
    {
        assert_eq!((door.name().as_str(), key.door.as_str()), ("ssh", "ssh"));
        assert!(client.as_ref().is_none_or(|client| client.as_str() == "alice"));
        assert!(!left.is_zero() && left <= door.opening.open_for_max);
        assert!(*until >= NOW.wall + left);
        let narrowest = if key.network.address().is_ipv4() { 24 } else { 64 };
        assert!(key.network.prefix() >= narrowest);
    }
}

/// Seals a text as a gateway of the fleet does.
fn sealed(text: &[u8], run: [u8; 16]) -> Vec<u8> {
    Sealer::new(&key(), run).seal(NOW.wall, text).1
}

fuzz_target!(|input: &[u8]| {
    let mut input = input;
    let [kind, at, change] = take(&mut input);
    match kind % 4 {
        // As it comes, and after a header that is right.
        0 => {
            assert!(Entry::open(&key(), input).is_err());
            let headed = [&sealed(b"", RUN)[..25], input].concat();
            assert!(Entry::open(&key(), &headed).is_err());
        }
        // One that was right, altered in one place or cut.
        1 => {
            let whole = sealed(input, RUN);
            let place = usize::from(at) % whole.len();
            let mut altered = whole.clone();
            altered[place] ^= change;
            let opened = Entry::open(&key(), &altered);
            let refused = matches!(opened, Err(EntryError::Seal(_)));
            assert_eq!(refused, change != 0);
            let cut = Entry::open(&key(), &whole[..place]);
            let expected = if place < 25 { SealError::Short } else { SealError::Broken };
            assert_eq!(cut, Err(EntryError::Seal(expected)));
        }
        // Bodies that a gateway of another version, or one that has been taken over, has sealed.
        _ => {
            let half = if kind % 4 == 3 { input.len() / 2 } else { input.len() };
            let (one, other) = input.split_at(half);
            let opened: Vec<Entry> = [(one, RUN), (other, OTHER_RUN)]
                .into_iter()
                .filter_map(|(text, run)| Entry::open(&key(), &sealed(text, run)).ok())
                .collect();
            let mut closings = Closings::default();
            for entry in &opened {
                judged(entry);
                assert_eq!(entry.counter, NOW.wall.as_nanos());
                // What one has read it can tell on, and that is read as the same.
                let mut sealer = Sealer::new(&key(), entry.run);
                let (news, waits) = (entry.news.clone(), entry.is_waiting);
                let (counter, again) =
                    seal(&mut sealer, NOW.wall, &entry.gateway, &entry.heard, waits, news);
                let heard =
                    if entry.news.is_closing() { entry.heard.clone() } else { BTreeMap::new() };
                let expected = Entry { counter, heard, ..entry.clone() };
                assert_eq!(Entry::open(&key(), &again).as_ref(), Ok(&expected));
            }
            opened.iter().for_each(|entry| closings.note(entry));
            for entry in &opened {
                // Its gateway closes, or one that had heard of it.
                let knew = |closing: &Entry| {
                    let heard = closing.heard.get(&entry.gateway);
                    closing.news.is_closing()
                        && (closing.gateway == entry.gateway || heard >= Some(&entry.counter))
                };
                let opens = matches!(entry.news, News::Open { .. } | News::LockOut { .. });
                assert!(!closings.end(entry) || opens && opened.iter().any(knew));
            }
        }
    }
});
