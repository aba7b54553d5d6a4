//! The capture filter against the engine: whatever the engine looks at passes the filter, and where
//! the filter can be exact nothing else does. All programs that libpcap makes of one filter agree.
#![no_main]

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeSet, HashMap};

use knock_fuzz::frame::{build, plain};
use knock_fuzz::{NOW, config, port, server, take};
use libfuzzer_sys::fuzz_target;
use libknock::capture::in_kernel;
use libknock::engine::{Engine, Reason, Setup, Verdict};
use libknock::proto::knock::Protocol;
use libknock::wire::filter::{Filter, Ranges};
use libknock::wire::link::LinkType;
use libknock::wire::parse;
use pcap::{BpfProgram, Capture, Linktype};

/// A configuration: its engine, the programs of its filter, and ports worth knocking on.
struct House {
    engine: Engine,
    filter: Filter,
    /// The one that the kernel gets, and one as it is written, for each link type.
    programs: [OnceCell<[BpfProgram; 2]>; LinkType::ALL.len()],
    ports: Vec<u16>,
    is_exact: bool,
}

/// How many tags an Ethernet frame has.
fn tags(frame: &[u8]) -> usize {
    let types = frame[12..].chunks_exact(4).map(|it| [it[0], it[1]]);
    types.take_while(|it| [[0x81, 0], [0x88, 0xa8], [0x91, 0]].contains(it)).count()
}

thread_local! {
    static HOUSES: RefCell<HashMap<[u8; 2], House>> = RefCell::default();
}

/// How many configurations there are. It takes some milliseconds to make one.
const HOUSES_IN_ALL: u16 = 256;

impl House {
    fn new(number: u16) -> Self {
        let mut random = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = |most: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 20) % most
        };
        let doors = if number % 16 == 15 { 40 } else { 1 + below(4) };
        let only_ipv4 = below(8) == 0;
        let mut text = format!(
            "knockd: {{interfaces: [any], only_ipv4: {only_ipv4}, track: {{sources: 64}}, \
             spa: {{port: {0}-{1}}}, fwknop: {{port: {2}}}}}\n\
             clients:\n\x20 a: {{doors: [f], fwknop: {{key: testkey, hmac_key: hmackey}}}}\n\
             doors:\n",
            62_000 + below(100),
            62_201 + below(3),
            62_200 + below(3),
        );
        for door in 0..doors {
            let mut knocks = Vec::new();
            for _ in 0..3 + below(3) {
                let protocol = if below(3) == 0 { "udp" } else { "tcp" };
                knocks.push(format!("{}/{protocol}", 1 + below(65_534)));
            }
            let flags = ["syn", "syn, \"!ack\"", "fin", "\"!rst\"", "syn, ack", "psh, \"!urg\""];
            let flags = flags[below(6) as usize];
            let wires = [0, 1, 16, 300][below(4) as usize];
            let target = if below(5) == 0 { ", target: 192.0.2.1" } else { "" };
            text += &format!(
                "\x20 d{door}: {{sequence: [{}], tcpflags: [{flags}], trip_wires: {wires}, \
                 open: [22]{target}}}\n",
                knocks.join(", ")
            );
        }
        if below(3) == 0 {
            text += "\x20 t: {totp: {mode: ports, ports: 20000-20999, length: 4}, open: [22]}\n";
        }
        text += [
            "\x20 f: {spa: true, fwknop: true, open: [22]}\n",
            "\x20 f: {fwknop: true, open: [22]}\n",
        ][below(2) as usize];
        let config = config(&text);
        let mut setup = Setup::new(&config, None);
        setup.spa = setup.spa_ports.is_some().then(|| server(&config));
        let engine = Engine::new(setup);
        let filter = engine.datagrams().fold(Filter::new(engine.watched(), only_ipv4), Filter::and);
        let ranges = |protocol| engine.watched().flat_map(move |(ports, _)| ports.ranges(protocol));
        let ranges: Vec<_> = Protocol::ALL.into_iter().flat_map(ranges).collect();
        let ends =
            ranges.iter().flat_map(|&(low, high)| [low, high, low - 1, high.wrapping_add(1)]);
        let datagrams =
            engine.datagrams().flat_map(|it| [it.ports.start().get(), it.ports.end().get()]);
        let ports = ends.chain(datagrams).collect();
        let flags: BTreeSet<_> = engine.watched().map(|(_, flags)| flags).collect();
        let is_exact = ranges.len() <= 32 && flags.len() <= 4;
        Self { engine, filter, programs: Default::default(), ports, is_exact }
    }

    fn programs(&self, place: usize) -> &[BpfProgram; 2] {
        self.programs[place].get_or_init(|| {
            let link = LinkType::ALL[place];
            let dead = Capture::dead(Linktype(link.dlt())).expect("a link type of libpcap's");
            let loaded = in_kernel(&dead, &self.filter, link).expect("a filter that compiles");
            let written = (self.filter.expression(link, Ranges::Compared), false);
            [loaded, written].map(|(expression, optimize)| {
                dead.compile(&expression, optimize).expect("a filter that compiles")
            })
        })
    }
}

fuzz_target!(|input: &[u8]| {
    let mut input = input;
    let [first, second, kind, aim] = take(&mut input);
    let number = u16::from_be_bytes([first, second]) % HOUSES_IN_ALL;
    HOUSES.with_borrow_mut(|houses| {
        let house = houses.entry(number.to_be_bytes()).or_insert_with(|| House::new(number));
        let place = usize::from(kind & 0x7f) % LinkType::ALL.len();
        let link = LinkType::ALL[place];
        let frame = if kind < 0x80 {
            input.to_vec()
        } else {
            let aimed = house.ports.get(usize::from(aim)).copied();
            build(link, aimed.unwrap_or_else(|| port(u16::from(aim) * 257).get()), input)
        };
        let [passes, as_written] = [0, 1].map(|which| house.programs(place)[which].filter(&frame));
        assert_eq!(passes, as_written, "in house {number}, optimised and not");
        let Ok((packet, payload)) = parse(link, &frame) else { return };
        // The kernel has taken one tag off; behind three more no filter looks. In a cooked frame the
        // kernel still sees the tags that it leaves, though the frame says that it has none. And the
        // families in front of NULL are those of the system that captures, while files are read from
        // any.
        let hides_tags = |says: usize, starts: usize| {
            let is_ip = [[8, 0], [0x86, 0xdd]].contains(&take(&mut &frame[says..]));
            is_ip && parse(LinkType::Raw, &frame[starts..]).is_err()
        };
        let is_foreign = match link {
            LinkType::Ethernet => tags(&frame) > 2,
            LinkType::Sll => hides_tags(14, 16),
            LinkType::Sll2 => hides_tags(0, 20),
            LinkType::Null => ![2u32, 10].map(u32::to_ne_bytes).contains(&take(&mut &frame[..])),
            _ => false,
        };
        if is_foreign {
            return;
        }
        let not_for_us = match house.engine.receive(NOW, &packet, payload) {
            Verdict::Ignored(
                reason @ (Reason::NotWatched | Reason::OnlyIpv4 | Reason::NotForUs),
            ) => Some(reason),
            _ => None,
        };
        assert!(passes || not_for_us.is_some(), "lost in house {number}: {packet:?}");
        if let Some(plain) = plain(link, &frame)
            && house.is_exact
            && not_for_us.is_some_and(|reason| reason != Reason::NotForUs)
        {
            // By its header it may be a datagram of another length than it was captured with.
            let is_datagram = !plain.is_tcp && plain.segment.len() != 8 + payload.len();
            assert!(!passes || is_datagram, "passes in house {number}: {packet:?}");
        }
    });
});
