//! The capture filter: what the kernel passes on.
//!
//! It passes every packet that a door would see, and little else; the engine decides. What a
//! filter cannot look into (IPv6 behind extension headers, authentication headers, tags inside a
//! cooked frame) it passes on.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;

use super::link::{IpVersion, LinkType};
use crate::proto::{FlagTest, PortSet, Protocol, TcpFlags};

/// Datagrams of certain lengths to certain ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagrams {
    pub ports: RangeInclusive<NonZeroU16>,
    /// In bytes of what they carry.
    pub lengths: RangeInclusive<u16>,
}

/// The detail in which a filter tells packets apart: how many flag tests, how many ranges of ports.
///
/// A kernel before 6.7 lends a socket 20 KiB for its filter (`net.core.optmem_max`); with more
/// libpcap would filter in the process, after a copy of every packet on the interface. That is
/// about 800 instructions, far fewer than the 4,096 that the kernel takes. The kernel takes the
/// outermost tag off before it filters, so tags are rarely met, but what stands behind one costs
/// many times as much to test.
#[derive(Clone, Copy)]
struct Detail {
    flag_tests: usize,
    ranges: usize,
}

const UNTAGGED: Detail = Detail { flag_tests: 4, ranges: 32 };
const TAGGED: Detail = Detail { flag_tests: 1, ranges: 2 };

/// The ports and flags that any door watches, in few enough ranges: perhaps more than asked for,
/// never less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    ranges: Vec<Range>,
    /// The same for packets behind VLAN tags, more coarsely.
    tagged: Vec<Range>,
    only_ipv4: bool,
    /// The length of the longest datagram that passes for its length: so much has to be captured.
    pub longest: u16,
}

/// Ports of one protocol, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    transport: TransportTest,
    low: u16,
    high: u16,
}

/// The condition beside its port under which a packet passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum TransportTest {
    Tcp(FlagTest),
    Udp,
    /// With a length in its header between these.
    Datagram(u16, u16),
}

impl Filter {
    /// From the ports that each door watches, and the TCP flags with which it does.
    pub fn new<'a>(
        watched: impl IntoIterator<Item = (&'a PortSet, FlagTest)>,
        only_ipv4: bool,
    ) -> Self {
        let mut ranges = Vec::new();
        for (ports, flags) in watched {
            for protocol in Protocol::ALL {
                let transport = match protocol {
                    Protocol::Tcp if flags.set.0 & flags.clear.0 != 0 => continue,
                    Protocol::Tcp => TransportTest::Tcp(flags),
                    Protocol::Udp => TransportTest::Udp,
                };
                let of_protocol = ports.ranges(protocol);
                ranges.extend(of_protocol.map(|(low, high)| Range { transport, low, high }));
            }
        }
        reduce(&mut ranges, UNTAGGED);
        let mut tagged = ranges.clone();
        reduce(&mut tagged, TAGGED);
        Self { ranges, tagged, only_ipv4, longest: 0 }
    }

    /// Passes these datagrams too.
    pub fn and(mut self, Datagrams { ports, lengths }: Datagrams) -> Self {
        let claimed = |length: &u16| length.saturating_add(UDP_HEADER);
        let range = Range {
            transport: TransportTest::Datagram(claimed(lengths.start()), claimed(lengths.end())),
            low: ports.start().get(),
            high: ports.end().get(),
        };
        self.longest = self.longest.max(*lengths.end());
        self.ranges.push(range);
        self.tagged.push(range);
        self
    }

    /// The filter for one link type, in libpcap's language.
    pub fn expression(&self, link: LinkType, in_words: Ranges) -> String {
        if self.ranges.is_empty() {
            // libpcap refuses what it sees can never match; no packet is this short.
            return "less 0".to_owned();
        }
        let packet = self.packet(&self.ranges, in_words);
        match link {
            // Each `vlan` moves whatever comes after it, so the tags come last.
            LinkType::Ethernet => {
                let tagged = self.packet(&self.tagged, in_words);
                format!("{packet} or (vlan and ({tagged} or (vlan and {tagged})))")
            }
            // Only a cooked frame says itself which way it went. Of others the kernel knows, but
            // libpcap runs the filter without it on the first packets, and would lose them.
            LinkType::Sll | LinkType::Sll2 => format!(
                "inbound and ({packet} or ether proto 0x8100 or ether proto 0x88a8 or ether proto \
                 0x9100)"
            ),
            LinkType::Raw | LinkType::Null => packet,
        }
    }

    fn packet(&self, ranges: &[Range], in_words: Ranges) -> String {
        // 51: an authentication header stands before the ports.
        let v4 =
            format!("(ip and ({} or ip[9] = 51))", transports(ranges, IpVersion::V4, in_words));
        if self.only_ipv4 {
            return v4;
        }
        // Hop-by-hop, routing, fragment, authentication, destination options.
        let behind = [0, 43, 44, 51, 60].map(|next| format!("ip6[6] = {next}")).join(" or ");
        format!("({v4} or (ip6 and ({} or {behind})))", transports(ranges, IpVersion::V6, in_words))
    }
}

fn transports(ranges: &[Range], version: IpVersion, in_words: Ranges) -> String {
    let of_transport = ranges.chunk_by(|a, b| a.transport == b.transport);
    let alternatives = of_transport.filter_map(|ranges| {
        let (protocol, more) = match ranges.first()?.transport {
            TransportTest::Tcp(FlagTest::ANY) => (Protocol::Tcp, String::new()),
            TransportTest::Tcp(FlagTest { set, clear }) => {
                let flags = field(version, Protocol::Tcp, 13, "");
                (Protocol::Tcp, format!(" and {flags} & {} = {}", set.0 | clear.0, set.0))
            }
            TransportTest::Udp => (Protocol::Udp, String::new()),
            TransportTest::Datagram(low, high) => {
                let length = field(version, Protocol::Udp, 4, ":2");
                (Protocol::Udp, format!(" and {}", in_words.test(&length, low, high)))
            }
        };
        let test = match version {
            IpVersion::V4 => protocol.to_string(),
            IpVersion::V6 => format!("ip6[6] = {}", protocol.number()),
        };
        let port = field(version, protocol, 2, ":2");
        let ports = ranges.iter().map(|range| in_words.test(&port, range.low, range.high));
        Some(format!("({test}{more} and ({}))", ports.collect::<Vec<_>>().join(" or ")))
    });
    alternatives.collect::<Vec<_>>().join(" or ")
}

/// A field of a transport's header. libpcap checks by itself that `tcp[…]` and `udp[…]` are no
/// later fragment; it has no such words for IPv6.
fn field(version: IpVersion, protocol: Protocol, at: u8, length: &str) -> String {
    match version {
        IpVersion::V4 => format!("{protocol}[{at}{length}]"),
        IpVersion::V6 => format!("ip6[{}{length}]", 40 + at),
    }
}

const UDP_HEADER: u16 = 8;

/// The words that test whether a field is in a range. Both mean the same; libpcap's optimiser makes
/// a sound program now of one, now of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranges {
    Compared,
    /// What is less than the lower end wraps around, and is above the upper one.
    Subtracted,
}

impl Ranges {
    fn test(self, field: &str, low: u16, high: u16) -> String {
        match self {
            _ if low == high => format!("{field} = {low}"),
            Self::Compared => format!("({field} >= {low} and {field} <= {high})"),
            Self::Subtracted => format!("({field} - {low} <= {})", high.saturating_sub(low)),
        }
    }
}

/// Widens flag tests and ranges until there are few enough.
fn reduce(ranges: &mut Vec<Range>, detail: Detail) {
    widen_flags(ranges, detail.flag_tests);
    ranges.sort_unstable();
    close_gaps(ranges, 1);
    let too_many = ranges.len().saturating_sub(detail.ranges);
    let mut gaps: Vec<u16> = ranges.array_windows().filter_map(|[a, b]| gap(a, b)).collect();
    gaps.sort_unstable();
    if let Some(&widest) = gaps.iter().take(too_many).next_back() {
        close_gaps(ranges, widest);
    }
}

/// Where there are too many flag tests, one takes their place that passes whatever any of them
/// passes.
fn widen_flags(ranges: &mut [Range], most: usize) {
    let of_tcp = ranges.iter().filter_map(|range| match range.transport {
        TransportTest::Tcp(flags) => Some(flags),
        TransportTest::Udp | TransportTest::Datagram(..) => None,
    });
    let tests: BTreeSet<FlagTest> = of_tcp.collect();
    if tests.len() <= most {
        return;
    }
    let common = tests.into_iter().reduce(|a, b| FlagTest {
        set: TcpFlags(a.set.0 & b.set.0),
        clear: TcpFlags(a.clear.0 & b.clear.0),
    });
    for range in ranges {
        if let (TransportTest::Tcp(flags), Some(common)) = (&mut range.transport, common) {
            *flags = common;
        }
    }
}

/// How far apart two ranges are that could be one.
fn gap(before: &Range, after: &Range) -> Option<u16> {
    (before.transport == after.transport).then(|| after.low.saturating_sub(before.high))
}

fn close_gaps(ranges: &mut Vec<Range>, widest: u16) {
    ranges.dedup_by(|after, before| {
        let close = gap(before, after).is_some_and(|gap| gap <= widest);
        if close {
            before.high = before.high.max(after.high);
        }
        close
    });
}

#[cfg(test)]
mod tests {
    use pcap::{BpfProgram, Capture, Linktype};
    use proptest::prelude::*;

    use super::*;
    use crate::proto::knock::Knock;
    use crate::wire::tests::samples::{self, Sample, behind_fragment_header, framed};
    use crate::wire::{Transport, parse};

    type Watched = (PortSet, FlagTest);

    fn watched(ports: &[&str], flags: FlagTest) -> Watched {
        (ports.iter().map(|port| port.parse::<Knock>().unwrap()).collect(), flags)
    }

    fn filter_of(doors: &[Watched], only_ipv4: bool) -> Filter {
        Filter::new(doors.iter().map(|(ports, flags)| (ports, *flags)), only_ipv4)
    }

    fn classic() -> Vec<Watched> {
        vec![watched(&["7000", "8000/udp", "9000"], FlagTest::SYN)]
    }

    fn compile(filter: &Filter, link: LinkType) -> BpfProgram {
        compile_in(filter, link, Ranges::Compared)
    }

    fn compile_in(filter: &Filter, link: LinkType, in_words: Ranges) -> BpfProgram {
        let dead = Capture::dead(Linktype(link.dlt())).unwrap();
        dead.compile(&filter.expression(link, in_words), true).unwrap()
    }

    fn port(number: u16) -> NonZeroU16 {
        NonZeroU16::new(number).unwrap()
    }

    /// Whether a door sees this packet: what the filter may never lose.
    fn is_seen(watched: &[Watched], link: LinkType, frame: &[u8]) -> bool {
        parse(link, frame).is_ok_and(|(packet, _)| {
            watched.iter().any(|(ports, door)| {
                ports.contains(packet.knock())
                    && match packet.transport {
                        Transport::Tcp { flags, .. } => door.passes(flags),
                        Transport::Udp { .. } => true,
                    }
            })
        })
    }

    prop_compose! {
        fn doors(most: usize)(
            doors in prop::collection::vec(
                (
                    prop::collection::vec((any::<bool>(), 1u16..=65_000, 0u16..500), 1..6),
                    any::<u8>(),
                    any::<u8>(),
                ),
                0..most,
            ),
        ) -> Vec<Watched> {
            let door = |(ranges, set, clear): (Vec<_>, u8, u8)| {
                let mut ports = PortSet::default();
                for (tcp, low, width) in ranges {
                    let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
                    ports.insert_range(protocol, port(low)..=port(low + width));
                }
                // Few bits, so that a random packet has a chance to pass.
                let set = TcpFlags(set & 0x03);
                (ports, FlagTest { set, clear: TcpFlags(clear & 0x14 & !set.0) })
            };
            doors.into_iter().map(door).collect()
        }
    }

    fn aimed(watched: &[Watched], sample: &mut Sample, at: prop::sample::Index) {
        let ranges: Vec<_> =
            watched.iter().flat_map(|(ports, _)| ports.ranges(sample.protocol)).collect();
        if !ranges.is_empty() {
            let (low, high) = ranges[at.index(ranges.len())];
            sample.port = if at.index(2) == 0 { low } else { high };
        }
    }

    proptest! {
        #[test]
        fn whatever_a_door_would_see_passes(
            watched in doors(40),
            mut sample in samples::samples(),
            at in any::<prop::sample::Index>(),
        ) {
            aimed(&watched, &mut sample, at);
            let program = compile(&filter_of(&watched, false), sample.link);
            let frame = sample.frame();
            if is_seen(&watched, sample.link, &frame) {
                prop_assert!(program.filter(&frame));
            }
        }

        /// Up to 32 ranges and four flag tests nothing else passes either, tags apart.
        #[test]
        fn with_few_doors_the_filter_is_exact(
            watched in doors(5),
            mut sample in samples::samples(),
            at in any::<prop::sample::Index>(),
        ) {
            sample.options &= !sample.v6;
            sample.tags.clear();
            aimed(&watched, &mut sample, at);
            let program = compile(&filter_of(&watched, false), sample.link);
            let frame = sample.frame();
            prop_assert_eq!(program.filter(&frame), is_seen(&watched, sample.link, &frame));
        }

        #[test]
        fn no_doors_let_nothing_pass(sample in samples::samples()) {
            let program = compile(&filter_of(&[], false), sample.link);
            prop_assert!(!program.filter(&sample.frame()));
        }
    }

    #[test]
    fn ports_next_to_a_knock_do_not_pass() {
        let filter = filter_of(&classic(), false);
        for link in LinkType::ALL {
            let program = compile(&filter, link);
            for (port, passes) in [(6999, false), (7000, true), (7001, false), (8000, false)] {
                for v6 in [false, true] {
                    let sample = Sample { v6, port, link, ..Sample::default() };
                    assert_eq!(program.filter(&sample.frame()), passes, "{sample:?}");
                }
            }
        }
    }

    #[test]
    fn each_door_keeps_its_own_flags() {
        let fin = FlagTest { set: TcpFlags::FIN, clear: TcpFlags(0) };
        let doors = [watched(&["7000"], FlagTest::SYN), watched(&["8000"], fin)];
        let program = compile(&filter_of(&doors, false), LinkType::Ethernet);
        let passes =
            |port, flags| program.filter(&Sample { port, flags, ..Sample::default() }.frame());
        assert!(passes(7000, TcpFlags::SYN) && !passes(7000, TcpFlags::FIN));
        assert!(passes(8000, TcpFlags::FIN) && !passes(8000, TcpFlags::SYN));
        assert!(!passes(7000, TcpFlags(TcpFlags::SYN.0 | TcpFlags::ACK.0)));
    }

    #[test]
    fn flags_that_exclude_each_other_watch_nothing() {
        let never = FlagTest { set: TcpFlags::SYN, clear: TcpFlags::SYN };
        let doors = [watched(&["7000", "7000/udp"], never)];
        let program = compile(&filter_of(&doors, false), LinkType::Raw);
        assert!(!program.filter(&Sample::default().ip()));
        let udp = Sample { protocol: Protocol::Udp, ..Sample::default() };
        assert!(program.filter(&udp.ip()));
    }

    #[test]
    fn ipv6_behind_extension_headers_passes_whatever_its_port() {
        let program = compile(&filter_of(&classic(), false), LinkType::Raw);
        let sample = Sample { v6: true, options: true, port: 1, ..Sample::default() };
        assert!(program.filter(&sample.ip()));
        assert!(program.filter(&behind_fragment_header(0, false)));
    }

    #[test]
    fn ipv6_does_not_pass_where_only_ipv4_is_wanted() {
        let program = compile(&filter_of(&classic(), true), LinkType::Ethernet);
        for options in [false, true] {
            let v6 = Sample { v6: true, options, ..Sample::default() };
            assert!(!program.filter(&v6.frame()));
        }
        assert!(program.filter(&Sample::default().frame()));
    }

    #[test]
    fn what_this_machine_sent_does_not_pass_where_the_frame_says_so() {
        for (link, packet_type) in [(LinkType::Sll, 1), (LinkType::Sll2, 10)] {
            let program = compile(&filter_of(&classic(), false), link);
            let mut frame = Sample { link, ..Sample::default() }.frame();
            assert!(program.filter(&frame));
            frame[packet_type] = 4;
            assert!(!program.filter(&frame), "{link:?}");
        }
    }

    #[test]
    fn a_later_ipv4_fragment_does_not_pass() {
        let program = compile(&filter_of(&classic(), false), LinkType::Raw);
        let mut later = Sample::default().ip();
        later[7] = 1;
        assert!(!program.filter(&later));
    }

    #[test]
    fn ten_thousand_doors_fit_into_the_kernel() {
        let ports = |door: u16| {
            let ports = [1, 2, 3].map(|nth| port(door.wrapping_mul(nth * 13).max(1)));
            ports.map(|port| Knock::new(Protocol::ALL[usize::from(door % 2)], port))
        };
        let doors: Vec<_> = (1..=10_000u16)
            .map(|door| {
                let flags = FlagTest {
                    set: TcpFlags((door % 64) as u8),
                    clear: TcpFlags(!(door % 64) as u8 & (door % 7) as u8),
                };
                (ports(door).into_iter().collect(), flags)
            })
            .collect();
        let filter = filter_of(&doors, false);
        assert!(filter.ranges.len() <= UNTAGGED.ranges);
        let datagrams = |lengths| Datagrams { ports: port(62_201)..=port(62_300), lengths };
        let filter = filter.and(datagrams(192..=192)).and(datagrams(140..=1500));
        for link in LinkType::ALL {
            let program = compile(&filter, link);
            let instructions = program.get_instructions().len();
            assert!(instructions < 700, "{link:?}: {instructions}");
        }
    }

    #[test]
    fn datagrams_pass_by_port_and_length() {
        let datagrams = Datagrams { ports: port(62_201)..=port(62_203), lengths: 140..=192 };
        for doors in [&[][..], &classic()] {
            let filter = filter_of(doors, false).and(datagrams.clone());
            assert_eq!(filter.longest, 192);
            let in_words = [Ranges::Compared, Ranges::Subtracted];
            let alike = LinkType::ALL.into_iter().flat_map(|link| in_words.map(|it| (link, it)));
            for (link, in_words) in alike {
                let program = compile_in(&filter, link, in_words);
                for (port, length, passes) in [
                    (62_201, 192, true),
                    (62_203, 140, true),
                    (62_202, 193, false),
                    (62_202, 139, false),
                    (62_200, 192, false),
                    (62_204, 192, false),
                ] {
                    for v6 in [false, true] {
                        let (protocol, payload) = (Protocol::Udp, vec![0; length]);
                        let sample =
                            Sample { v6, port, link, protocol, payload, ..Sample::default() };
                        let frame = sample.frame();
                        assert_eq!(program.filter(&frame), passes, "{port} {length} {link:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_smallest_gaps_are_closed_first() {
        let ports = (0..40).map(|nth| Knock::new(Protocol::Tcp, port(1 + nth * nth * 40)));
        let doors = [(ports.collect(), FlagTest::SYN)];
        let Filter { ranges, .. } = filter_of(&doors, false);
        assert_eq!(ranges.len(), UNTAGGED.ranges);
        assert_eq!((ranges[0].low, ranges[0].high), (1, 1 + 8 * 8 * 40));
        assert!(ranges[1..].iter().all(|range| range.low == range.high));
    }

    #[test]
    fn tags_pass_on_ethernet_once_and_twice() {
        let program = compile(&filter_of(&classic(), false), LinkType::Ethernet);
        let packet = Sample::default().ip();
        let far = Sample { port: 20_000, ..Sample::default() }.ip();
        for tags in [&[0x8100][..], &[0x88a8, 0x8100], &[0x9100, 0x8100]] {
            assert!(program.filter(&framed(LinkType::Ethernet, tags, &packet)), "{tags:x?}");
            assert!(!program.filter(&framed(LinkType::Ethernet, tags, &far)), "{tags:x?}");
        }
    }
}
