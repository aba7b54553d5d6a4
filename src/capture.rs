//! Packets from an interface or a file, through libpcap.
//!
//! How interfaces come and go, measured with libpcap 1.10 on Linux 6.18:
//!
//! | what happens | what libpcap does |
//! |---|---|
//! | it does not exist, or is down, when opened | an error |
//! | it goes down while open | nothing; packets come again when it is up again |
//! | it is renamed while open, and another takes over its name | nothing; it goes on with the one that it opened |
//! | it is deleted while open | an error at every read; the handle stays dead even if the name returns |
//! | `any`: an interface comes, goes, goes down | nothing; it captures from what is there |

mod program;

use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::net::if_::if_nametoindex;
use pcap::{Activated, Active, Capture, Direction, Linktype, Offline, Precision};

use crate::time::Wall;
use crate::wire::filter::{Filter, Ranges};
use crate::wire::link::LinkType;

/// Enough for a knock behind tags, IPv6 extension headers and TCP options.
const SNAP_LENGTH: u16 = 512;
/// What stands before what a datagram carries, where it stands at its longest.
const HEADERS: u16 = 256;
/// The ring between kernel and process, in bytes; resident once it has been filled.
const RING: i32 = 4 << 20;

/// One captured packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// When the kernel saw it, to the nanosecond.
    pub time: Wall,
    /// From the link layer on; perhaps not all of it.
    pub bytes: &'a [u8],
}

/// How many packets passed the filter, and how many of them were lost because the ring was full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub received: u64,
    pub dropped: u64,
}

/// A live capture. Needs root or `CAP_NET_RAW` to open, and no privilege from then on.
pub struct Live {
    capture: Capture<Active>,
    link: LinkType,
    interface: String,
    /// `None` where it is no interface of the kernel's: `any`.
    index: Option<u32>,
    stats: Stats,
}

impl Live {
    /// Starts capturing what the filter passes of the packets that come in. Never promiscuous.
    ///
    /// `any` is every interface, also those that come later.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub fn open(interface: &str, filter: &Filter) -> Result<Self, CaptureError> {
        let index = if_nametoindex(interface).ok();
        let failed = |source| CaptureError::live(interface, index, source);
        let mut capture = Capture::from_device(interface)
            .map_err(failed)?
            .promisc(false)
            .immediate_mode(true)
            .snaplen(SNAP_LENGTH.max(filter.longest().saturating_add(HEADERS)).into())
            .buffer_size(RING)
            .precision(Precision::Nano)
            .open()
            .map_err(failed)?;
        let sll2 = Linktype(LinkType::Sll2.dlt());
        if capture.list_datalinks().is_ok_and(|known| known.contains(&sll2)) {
            capture.set_datalink(sll2).map_err(failed)?;
        }
        let link = understood(interface, capture.get_datalink())?;
        let (expression, optimize) = in_kernel(&capture, filter, link).map_err(failed)?;
        capture.filter(&expression, optimize).map_err(failed)?;
        capture.direction(Direction::In).map_err(failed)?;
        let capture = capture.setnonblock().map_err(failed)?;
        Ok(Self { capture, link, interface: interface.to_owned(), index, stats: Stats::default() })
    }

    pub const fn link(&self) -> LinkType {
        self.link
    }

    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The next packet; `None` if none is queued now. Never waits: poll the descriptor.
    ///
    /// # Errors
    /// [`CaptureError::InterfaceGone`] for good; no error where it merely went down.
    #[expect(clippy::should_implement_trait, reason = "an iterator can't lend what it gives")]
    pub fn next(&mut self) -> Result<Option<Frame<'_>>, CaptureError> {
        match self.capture.next_packet() {
            Ok(packet) => Ok(Some(frame(packet))),
            Err(pcap::Error::TimeoutExpired) => Ok(None),
            Err(error) => Err(CaptureError::live(&self.interface, self.index, error)),
        }
    }

    /// Counts since it was opened.
    ///
    /// # Errors
    /// [`CaptureError`], where the kernel does not tell.
    pub fn stats(&mut self) -> Result<Stats, CaptureError> {
        let stats = self
            .capture
            .stats()
            .map_err(|error| CaptureError::live(&self.interface, self.index, error))?;
        // libpcap's counters are 32 bits wide and wrap.
        self.stats.received += u64::from(stats.received.wrapping_sub(self.stats.received as u32));
        self.stats.dropped += u64::from(stats.dropped.wrapping_sub(self.stats.dropped as u32));
        Ok(self.stats)
    }
}

/// The filter in words of which libpcap makes a program that the kernel takes, and whether it is to
/// be optimised: the shortest that it takes, or the first if it takes none.
fn in_kernel<T: Activated + ?Sized>(
    capture: &Capture<T>,
    filter: &Filter,
    link: LinkType,
) -> Result<(String, bool), pcap::Error> {
    let first = (filter.expression(link, Ranges::Compared), true);
    let others =
        [(Ranges::Subtracted, true), (Ranges::Compared, false), (Ranges::Subtracted, false)];
    if program::is_loadable(&capture.compile(&first.0, first.1)?) {
        return Ok(first);
    }
    for (ranges, optimize) in others {
        let expression = filter.expression(link, ranges);
        if program::is_loadable(&capture.compile(&expression, optimize)?) {
            return Ok((expression, optimize));
        }
    }
    Ok(first)
}

impl AsFd for Live {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.capture.as_fd()
    }
}

/// A capture file, pcap or pcapng.
pub struct Recording {
    capture: Capture<Offline>,
    link: LinkType,
    file: String,
}

impl Recording {
    /// Opens a file; `-` is standard input.
    ///
    /// # Errors
    /// [`CaptureError`], where it can't be read or is no capture file.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let file = match path.to_str() {
            Some("-") => "standard input".to_owned(),
            _ => path.display().to_string(),
        };
        let capture = match path.to_str() {
            Some(name) => Capture::from_file_with_precision(name, Precision::Nano),
            // libpcap's binding takes no other.
            None => Err(pcap::Error::PcapError(
                "its name is not UTF-8: rename it, or give it on standard input".to_owned(),
            )),
        };
        let capture = capture.map_err(|source| CaptureError::opening(&file, source))?;
        let link = understood(&file, capture.get_datalink())?;
        Ok(Self { capture, link, file })
    }

    pub const fn link(&self) -> LinkType {
        self.link
    }

    /// The next packet; `None` at the end.
    ///
    /// # Errors
    /// [`CaptureError::Truncated`] where the file ends in the middle of a packet.
    #[expect(clippy::should_implement_trait, reason = "an iterator can't lend what it gives")]
    pub fn next(&mut self) -> Result<Option<Frame<'_>>, CaptureError> {
        match self.capture.next_packet() {
            Ok(packet) => Ok(Some(frame(packet))),
            Err(pcap::Error::NoMorePackets) => Ok(None),
            Err(error) => Err(CaptureError::recorded(&self.file, error)),
        }
    }
}

fn frame(packet: pcap::Packet<'_>) -> Frame<'_> {
    // Nanosecond precision was asked for: the field for microseconds has them.
    let seconds = u64::try_from(packet.header.ts.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(packet.header.ts.tv_usec).unwrap_or(0);
    let time = Wall::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos));
    Frame { time, bytes: packet.data }
}

fn understood(of: &str, link: Linktype) -> Result<LinkType, CaptureError> {
    LinkType::from_dlt(link.0).ok_or_else(|| CaptureError::LinkType {
        of: of.to_owned(),
        name: link.get_name().unwrap_or_else(|_| format!("number {}", link.0)),
    })
}

/// Why packets can't be had.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("{interface}: there is no such interface")]
    NoSuchInterface { interface: String, source: pcap::Error },
    #[error("{interface}: the interface is down")]
    InterfaceDown { interface: String, source: pcap::Error },
    /// It was there, and was deleted or moved away. Opening it anew is all that helps.
    #[error("{interface}: the interface has gone away")]
    InterfaceGone { interface: String, source: pcap::Error },
    #[error("{interface}: capturing packets needs root or CAP_NET_RAW")]
    NoPermission { interface: String, source: pcap::Error },
    #[error(
        "{of}: link type {name} is not understood: it has to be Ethernet, SLL, SLL2, RAW, NULL or \
         LOOP"
    )]
    LinkType { of: String, name: String },
    #[error("{file}: neither a pcap nor a pcapng file")]
    NotACapture { file: String, source: pcap::Error },
    #[error("{file}: the file ends in the middle of a packet")]
    Truncated { file: String, source: pcap::Error },
    #[error("{of}: {}", said(of, source))]
    Other { of: String, source: pcap::Error },
}

impl CaptureError {
    /// libpcap has but one error, and a text in it.
    fn live(interface: &str, index: Option<u32>, source: pcap::Error) -> Self {
        let is_gone = index.is_some() && if_nametoindex(interface).ok() != index;
        let interface = interface.to_owned();
        let said = said(&interface, &source);
        if is_gone || said.contains("disappeared") {
            Self::InterfaceGone { interface, source }
        } else if said.contains("not permitted") || said.contains("CAP_NET_RAW") {
            Self::NoPermission { interface, source }
        } else if index.is_none() && said.contains("No such device") {
            Self::NoSuchInterface { interface, source }
        } else if said.contains("not up") {
            Self::InterfaceDown { interface, source }
        } else {
            Self::Other { of: interface, source }
        }
    }

    fn opening(file: &str, source: pcap::Error) -> Self {
        let file = file.to_owned();
        let said = said(&file, &source);
        // A file too short for its own header is none either.
        if said.starts_with("unknown file format") || said.starts_with("truncated") {
            Self::NotACapture { file, source }
        } else {
            Self::Other { of: file, source }
        }
    }

    fn recorded(file: &str, source: pcap::Error) -> Self {
        let file = file.to_owned();
        if said(&file, &source).starts_with("truncated") {
            Self::Truncated { file, source }
        } else {
            Self::Other { of: file, source }
        }
    }
}

/// What libpcap said, without the name that it puts before some of it.
fn said<'a>(of: &str, error: &'a pcap::Error) -> Cow<'a, str> {
    match error {
        pcap::Error::PcapError(text) => {
            let named = text.strip_prefix(of).and_then(|text| text.strip_prefix(": "));
            Cow::Borrowed(named.unwrap_or(text))
        }
        other => Cow::Owned(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::UdpSocket;
    use std::num::NonZeroU16;
    use std::process::Command;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::proto::flags::{FlagTest, TcpFlags};
    use crate::proto::knock::Knock;
    use crate::proto::ports::PortSet;
    use crate::wire::filter::Datagrams;
    use crate::wire::parse;

    fn watching(ports: &[&str]) -> Filter {
        let ports: PortSet = ports.iter().map(|port| port.parse::<Knock>().unwrap()).collect();
        Filter::new([(&ports, FlagTest::SYN)], false)
    }

    #[test]
    fn the_kernel_takes_the_filter_whatever_datagrams_it_passes() {
        let port = |port: u16| NonZeroU16::new(port).unwrap();
        let native = Datagrams { ports: port(62_000)..=port(62_999), lengths: 192..=192 };
        let fwknops = Datagrams { ports: port(62_201)..=port(62_201), lengths: 140..=1_499 };
        let both = Datagrams { ports: port(62_000)..=port(62_999), lengths: 140..=1_499 };
        for knocks in [&[][..], &["7000"], &["7000", "8000/udp", "9000"]] {
            for datagrams in 1..8 {
                let of = [&native, &fwknops, &both].into_iter().enumerate();
                let filter = of
                    .filter(|(place, _)| datagrams & (1 << place) != 0)
                    .fold(watching(knocks), |filter, (_, it)| filter.and(it.clone()));
                for link in LinkType::ALL {
                    let dead = Capture::dead(Linktype(link.dlt())).unwrap();
                    let (words, optimize) = in_kernel(&dead, &filter, link).unwrap();
                    let program = dead.compile(&words, optimize).unwrap();
                    assert!(program::is_loadable(&program), "{knocks:?} {datagrams} {link:?}");
                }
            }
        }
    }

    /// A network namespace for this thread alone; `false`, and loudly, where there can be none.
    fn own_namespace() -> bool {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            // Not `eprintln`, which the test harness swallows.
            let _ = writeln!(std::io::stderr(), "SKIPPED: live capture needs root: {error}");
            return false;
        }
        ip("link set lo up");
        true
    }

    fn ip(arguments: &str) {
        assert!(can_ip(arguments), "ip {arguments}");
    }

    #[expect(clippy::disallowed_methods, reason = "sets up interfaces for the test")]
    fn can_ip(arguments: &str) -> bool {
        Command::new("ip").args(arguments.split(' ')).status().unwrap().success()
    }

    fn send(port: u16) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let _ = socket.send_to(b"x", ("127.0.0.1", port));
    }

    fn knocks(live: &mut Live) -> Vec<String> {
        let mut seen = Vec::new();
        let link = live.link();
        while let Some(frame) = live.next().unwrap() {
            seen.push(parse(link, frame.bytes).unwrap().0.knock().to_string());
        }
        seen
    }

    fn is_readable(live: &Live) -> bool {
        poll(&mut [PollFd::new(live.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() > 0
    }

    #[test]
    fn each_knock_is_captured_once_on_an_interface_and_on_any() {
        if !own_namespace() {
            return;
        }
        for (interface, link) in [("lo", LinkType::Ethernet), ("any", LinkType::Sll2)] {
            let mut live = Live::open(interface, &watching(&["7000/udp", "8000/udp"])).unwrap();
            assert_eq!(live.link(), link);
            assert!(!is_readable(&live));
            for port in [7000, 7001, 8000] {
                send(port);
            }
            assert!(is_readable(&live));
            assert_eq!(knocks(&mut live), ["7000/udp", "8000/udp"]);
            assert!(!is_readable(&live));
        }
    }

    #[test]
    fn what_goes_out_takes_no_room_in_the_ring_of_any() {
        if !own_namespace() {
            return;
        }
        let mut live = Live::open("any", &watching(&["7000/udp"])).unwrap();
        send(7000);
        assert_eq!(knocks(&mut live), ["7000/udp"]);
        // Loopback shows each packet twice: going out and coming in.
        assert_eq!(live.stats().unwrap(), Stats { received: 1, dropped: 0 });
    }

    #[test]
    fn a_tunnel_has_no_link_layer() {
        if !own_namespace() {
            return;
        }
        if !can_ip("tuntap add tun0 mode tun") {
            let _ = writeln!(std::io::stderr(), "SKIPPED: there are no tunnels here");
            return;
        }
        ip("link set tun0 up");
        let mut live = Live::open("tun0", &watching(&["7000"])).unwrap();
        assert_eq!(live.link(), LinkType::Raw);
        assert_eq!(live.next().unwrap(), None);
    }

    #[test]
    fn any_follows_interfaces() {
        if !own_namespace() {
            return;
        }
        ip("link set lo down");
        let mut live = Live::open("any", &watching(&["7000/udp"])).unwrap();
        ip("link add br0 type bridge");
        ip("link del br0");
        ip("link set lo up");
        send(7000);
        assert_eq!(knocks(&mut live), ["7000/udp"]);
    }

    #[test]
    fn an_interface_that_is_not_there_or_down_is_an_error() {
        if !own_namespace() {
            return;
        }
        let open = |interface| Live::open(interface, &watching(&["7000"])).err().unwrap();
        assert!(matches!(open("eth9"), CaptureError::NoSuchInterface { .. }));
        ip("link set lo down");
        assert!(matches!(open("lo"), CaptureError::InterfaceDown { .. }));
    }

    #[test]
    fn an_interface_that_goes_down_is_captured_from_when_it_is_up_again() {
        if !own_namespace() {
            return;
        }
        let mut live = Live::open("lo", &watching(&["7000/udp"])).unwrap();
        ip("link set lo down");
        assert_eq!(live.next().unwrap(), None);
        assert!(!is_readable(&live), "whoever polls would spin");
        ip("link set lo up");
        send(7000);
        assert_eq!(knocks(&mut live), ["7000/udp"]);
    }

    #[test]
    fn a_deleted_interface_has_gone_away() {
        if !own_namespace() {
            return;
        }
        ip("link add br0 type bridge");
        ip("link set br0 up");
        let mut live = Live::open("br0", &watching(&["7000"])).unwrap();
        ip("link del br0");
        assert!(is_readable(&live), "whoever polls would not hear of it");
        for _ in 0..2 {
            // What the kernel caught before the filter was in place comes first, as no frame.
            let error = (0..100).find_map(|_| live.next().err());
            assert!(matches!(error, Some(CaptureError::InterfaceGone { .. })), "{error:?}");
        }
    }

    #[test]
    fn the_largest_filter_runs_in_the_kernel_even_where_memory_for_it_is_short() {
        if !own_namespace() {
            return;
        }
        // The default before Linux 6.7, where it is one for all namespaces and can't be set here.
        let _ = std::fs::write("/proc/sys/net/core/optmem_max", "20480");
        let doors: Vec<_> = (0..400u16)
            .map(|door| {
                let mut ports = PortSet::new();
                for protocol in crate::proto::knock::Protocol::ALL {
                    let low = NonZeroU16::new(1000 + door * 100).unwrap();
                    let high = NonZeroU16::new(1030 + door * 100).unwrap();
                    ports.insert_range(protocol, low..=high);
                }
                let set = TcpFlags(1 << (door % 4));
                (ports, FlagTest { set, clear: TcpFlags::ACK })
            })
            .collect();
        let filter = Filter::new(doors.iter().map(|(ports, flags)| (ports, *flags)), false);
        let mut live = Live::open("lo", &filter).unwrap();
        for port in 50_000..50_010 {
            send(port);
        }
        assert_eq!(live.stats().unwrap(), Stats::default());
        send(1000);
        assert_eq!(knocks(&mut live), ["1000/udp"]);
    }

    #[test]
    fn tagged_packets_come_through_the_kernel_filter() {
        use crate::wire::samples::{Sample, framed};

        if !own_namespace() {
            return;
        }
        let mut live = Live::open("lo", &watching(&["7000"])).unwrap();
        let mut wire = Capture::from_device("lo").unwrap().open().unwrap();
        for v6 in [false, true] {
            for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
                for port in [7000, 20_000] {
                    let packet = Sample { v6, port, ..Sample::default() }.ip();
                    wire.sendpacket(framed(LinkType::Ethernet, tags, &packet)).unwrap();
                }
                assert_eq!(knocks(&mut live), ["7000/tcp"], "{tags:x?}");
            }
        }
    }

    #[test]
    fn it_says_what_is_missing_where_it_may_not_capture() {
        for said in [
            "socket: Operation not permitted",
            "Attempt to create packet socket failed - CAP_NET_RAW may be required",
        ] {
            let source = pcap::Error::PcapError(said.to_owned());
            let error = CaptureError::live("eth9", None, source);
            assert_eq!(error.to_string(), "eth9: capturing packets needs root or CAP_NET_RAW");
        }
    }

    /// A pcap file with one packet of four bytes at 1.000000005 s.
    fn file(magic: u32, dlt: u32) -> Vec<u8> {
        let words = [magic, 0x0004_0002, 0, 0, 65_535, dlt, 1, 5, 4, 4, 0x4433_2211];
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    const MICROSECONDS: u32 = 0xa1b2_c3d4;
    const NANOSECONDS: u32 = 0xa1b2_3c4d;

    fn recorded(bytes: &[u8]) -> (tempfile::NamedTempFile, Result<Recording, CaptureError>) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let recording = Recording::open(file.path());
        (file, recording)
    }

    #[test]
    fn a_file_gives_its_packets_and_ends() {
        for (magic, nanos) in [(MICROSECONDS, 1_000_005_000), (NANOSECONDS, 1_000_000_005)] {
            let (_file, recording) = recorded(&file(magic, 1));
            let mut recording = recording.unwrap();
            assert_eq!(recording.link(), LinkType::Ethernet);
            let frame = recording.next().unwrap().unwrap();
            assert_eq!(frame.bytes.len(), 4);
            assert_eq!(frame.time, Wall::from_nanos(nanos));
            assert_eq!(recording.next().unwrap(), None);
        }
    }

    /// The pcapng blocks of a section, an interface (Ethernet, microseconds) and one packet.
    #[test]
    fn a_pcapng_file_is_read_too() {
        let section = [0x0a0d_0d0a, 28, 0x1a2b_3c4d, 1, u32::MAX, u32::MAX, 28];
        let interface = [1, 20, 1, 65_535, 20];
        let micros = 1_700_000_000_123_456_u64;
        let packet = [6, 36, 0, (micros >> 32) as u32, micros as u32, 4, 4, 0x4433_2211, 36];
        let blocks = [&section[..], &interface, &packet].concat();
        let bytes: Vec<u8> = blocks.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let (_file, recording) = recorded(&bytes);
        let mut recording = recording.unwrap();
        let frame = recording.next().unwrap().unwrap();
        assert_eq!((frame.time, frame.bytes.len()), (Wall::from_nanos(micros * 1000), 4));
        assert_eq!(recording.next().unwrap(), None);
    }

    #[test]
    fn a_file_that_was_cut_off_says_so_after_its_last_whole_packet() {
        let whole = file(MICROSECONDS, 101);
        let (_file, recording) = recorded(&[&whole[..], &whole[24..30]].concat());
        let mut recording = recording.unwrap();
        assert!(recording.next().unwrap().is_some());
        assert!(matches!(recording.next(), Err(CaptureError::Truncated { .. })));
    }

    #[test]
    fn a_file_that_is_no_capture_says_so() {
        for bytes in [&b""[..], b"short", b"doors:\n  ssh:\n    sequence: [7000, 8000, 9000]\n"] {
            let (file, recording) = recorded(bytes);
            let error = recording.err().unwrap();
            assert!(matches!(error, CaptureError::NotACapture { .. }), "{error:?}");
            let name = file.path().display().to_string();
            assert_eq!(error.to_string(), format!("{name}: neither a pcap nor a pcapng file"));
        }
    }

    #[test]
    fn a_link_type_that_is_not_understood_is_named() {
        let (_file, recording) = recorded(&file(MICROSECONDS, 127));
        let text = recording.err().unwrap().to_string();
        assert!(text.contains("link type IEEE802_11_RADIO is not understood"), "{text}");
    }

    #[test]
    fn a_file_that_is_not_there_is_named_once() {
        let error = Recording::open(Path::new("/nonexistent.pcap")).err().unwrap();
        assert_eq!(error.to_string(), "/nonexistent.pcap: No such file or directory");
    }
}
