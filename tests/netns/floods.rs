//! The floods that other tests and the benchmarks send: what of them reaches a server.

use std::collections::BTreeSet;

use libknock::proto::spa;
use libknock::wire::link::LinkType;
use libknock::wire::{self, Ignored};

use crate::support::flood::{self, Flood, FloodKind, FloodRate};
use crate::support::{Net, needs};

/// The port of each packet that arrives within a moment, or why it has none, how much it carries,
/// and from how many sources they come.
fn seen(kind: FloodKind) -> (BTreeSet<Result<u16, Ignored>>, BTreeSet<usize>, usize) {
    let net = Net::new();
    let flood = Flood::start(&net, kind, FloodRate::PerSecond(20_000));
    let seen = net.server.enter(|| {
        let mut capture = pcap::Capture::from_device("eth0").unwrap().timeout(10).open().unwrap();
        // Neighbours ask for each other meanwhile, and networks for their members.
        capture.filter(&format!("ether src {}", flood::SOURCE_MAC), true).unwrap();
        let (mut ports, mut lengths, mut sources) =
            <(BTreeSet<_>, BTreeSet<_>, BTreeSet<_>)>::default();
        for _ in 0..1000 {
            let packet = loop {
                match capture.next_packet() {
                    Err(pcap::Error::TimeoutExpired) => {}
                    packet => break packet.unwrap(),
                }
            };
            let parsed = wire::parse(LinkType::Ethernet, packet.data);
            ports.insert(parsed.map(|(packet, _)| packet.knock().port.get()));
            if let Ok((packet, payload)) = parsed {
                lengths.insert(payload.len());
                sources.insert(packet.source);
            }
        }
        (ports, lengths, sources.len())
    });
    assert!(flood.sent() >= 1000);
    seen
}

#[test]
fn first_knocks_go_to_one_port_from_many_sources() {
    needs!("first_knocks_go_to_one_port_from_many_sources");
    for kind in [
        FloodKind::Knocks(7000..=7000),
        FloodKind::KnocksOfOneNetwork(7000..=7000),
        FloodKind::ExtensionHeaders(7000, 6),
    ] {
        let (ports, _, sources) = seen(kind.clone());
        assert_eq!(ports, [Ok(7000)].into(), "{kind:?}");
        assert!(sources > 950, "{kind:?}: {sources}");
    }
}

#[test]
fn random_knocks_go_to_all_of_a_range() {
    needs!("random_knocks_go_to_all_of_a_range");
    let (ports, ..) = seen(FloodKind::Knocks(20_000..=20_009));
    assert_eq!(ports, (20_000..=20_009).map(Ok).collect());
}

#[test]
fn junk_has_the_port_and_length_of_a_request() {
    needs!("junk_has_the_port_and_length_of_a_request");
    for (kind, length) in [(FloodKind::Native, spa::LEN), (FloodKind::Fwknop(204), 204)] {
        let (ports, lengths, sources) = seen(kind.clone());
        assert_eq!((ports, lengths), ([Ok(spa::PORT)].into(), [length].into()), "{kind:?}");
        assert!(sources > 950, "{kind:?}: {sources}");
    }
}

#[test]
fn fragments_are_fragments() {
    needs!("fragments_are_fragments");
    let (ports, ..) = seen(FloodKind::Fragments(62_201));
    assert_eq!(ports, [Err(Ignored::Fragment)].into());
}
