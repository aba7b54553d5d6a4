//! Frames between watcher and keeper, in both directions: each has one encoding. And what the
//! keeper makes of those of a watcher: whatever they say, what they claim is within bounds.
#![no_main]

use std::net::IpAddr;
use std::sync::LazyLock;

use knock_fuzz::{NOW, house, is_clean, local, server, take};
use libfuzzer_sys::fuzz_target;
use libknock::config::Config;
use libknock::control::EventLine;
use libknock::engine::Local;
use libknock::engine::spa::SpaServer;
use libknock::ipc::{EARLY, FRAME, FrameCodec, FromWatcher, ToWatcher};
use libknock::keeper::fuzzing::judge;
use libknock::proto::network::{Network, Widths};

static HOUSE: LazyLock<(Config, SpaServer, Local)> = LazyLock::new(|| {
    let config = house();
    let server = server(&config);
    (config, server, local())
});

fuzz_target!(|input: &[u8]| {
    let mut input = input;
    let bytes = take::<FRAME>(&mut input);
    if let Ok(frame) = ToWatcher::decode(&bytes) {
        assert_eq!(frame.encode(), bytes);
    }
    let Ok(frame) = FromWatcher::decode(&bytes) else { return };
    assert_eq!(frame.encode(), bytes);

    let (config, server, local) = &*HOUSE;
    let judged = judge((config, Some(server), local), NOW, &frame);
    // What is written down of it is fit for a terminal, whoever says it.
    if judged.is_ok() {
        let line = match &frame {
            FromWatcher::Event { event, at } | FromWatcher::ReplayedEvent { event, at } => {
                Some(EventLine::of_event(config, event, *at, NOW.wall))
            }
            FromWatcher::Refused { refusal, .. } | FromWatcher::ReplayedRefusal { refusal, .. } => {
                Some(EventLine::of_refusal(config, refusal, NOW.wall))
            }
            _ => None,
        };
        assert!(line.is_none_or(|line| is_clean(&line.message)));
    }
    let Ok(Some((door, networks, open_for, holds))) = judged else { return };
    let (source, at, client) = match &frame {
        FromWatcher::Event { event, at } => (event.source, *at, None),
        FromWatcher::Request { request, at } => (request.source, *at, Some(request.client)),
        other => panic!("{other:?} claims a door"),
    };
    assert!(config.doors.iter().any(|known| known.name() == door.name()));
    assert!(at <= NOW.monotonic + EARLY);
    assert!(open_for.is_none_or(|it| !it.is_zero() && it <= door.opening.open_for_max));
    assert!(matches!(networks[..], [_] | [_, _]));
    let addresses: Vec<_> = networks.iter().map(Network::address).collect();
    let is_own = |address: &IpAddr| matches!(local, Local::Addresses(all) if all.contains(address));
    assert!(!addresses.iter().any(|it| it.is_unspecified() || it.is_multicast()));
    if let Some(client) = client {
        let client = &config.clients[client.0 as usize];
        assert!(client.doors.contains(door.name()), "{} opens {}", client.name, door.name());
        let widest = Widths::both(door.recognition.width, client.width);
        assert!(networks.iter().all(|it| widest.allows(it)), "{networks:?}");
    } else {
        assert!(networks.iter().all(|it| it.single().is_some()), "{networks:?}");
    }
    if holds.is_ok() {
        assert!(
            !is_own(&source) && !networks.iter().filter_map(Network::single).any(|it| is_own(&it)),
            "{source} {addresses:?}"
        );
        assert!(!source.is_loopback() && !addresses.iter().any(|it| it.is_loopback()));
        assert!(NOW.monotonic.since(at).as_secs() <= 60);
    }
});
