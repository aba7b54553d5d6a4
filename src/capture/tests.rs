//! Captures of loopback in a network namespace, and of files.

use std::io::Write as _;
use std::net::UdpSocket;
use std::num::NonZeroU16;
use std::os::fd::AsFd;
use std::process::Command;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::proto::{FlagTest, Knock, PortSet, TcpFlags};
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
    let wide = Datagrams { ports: port(10_000)..=port(65_535), lengths: 140..=1_499 };
    let both = Datagrams { ports: port(62_000)..=port(62_999), lengths: 140..=1_499 };
    for knocks in [&[][..], &["7000"], &["7000", "8000/udp", "9000"]] {
        for datagrams in 1..16 {
            let of = [&native, &fwknops, &both, &wide].into_iter().enumerate();
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
    let link = live.link;
    let mut see = |frame: Frame<'_>| {
        seen.push(parse(link, frame.bytes).unwrap().0.knock().to_string());
    };
    // One at a time, and then all that is left.
    while live.read(1, &mut see).unwrap() > 0 && live.read(100, &mut see).unwrap() > 0 {}
    seen
}

fn is_readable(live: &Live) -> bool {
    poll(&mut [PollFd::new(live.capture.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap()
        > 0
}

#[test]
fn each_knock_is_captured_once_on_an_interface_and_on_any() {
    if !own_namespace() {
        return;
    }
    for (interface, link) in [("lo", LinkType::Ethernet), ("any", LinkType::Sll2)] {
        let mut live = Live::open(interface, &watching(&["7000/udp", "8000/udp"])).unwrap();
        assert_eq!(live.link, link);
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
    assert_eq!(live.link, LinkType::Raw);
    assert_eq!(live.read(100, |_| ()).unwrap(), 0);
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
    assert_eq!(open("eth9").to_string(), "eth9: there is no such interface");
    ip("link set lo down");
    assert_eq!(open("lo").to_string(), "lo: the interface is down");
}

#[test]
fn an_interface_that_goes_down_is_captured_from_when_it_is_up_again() {
    if !own_namespace() {
        return;
    }
    let mut live = Live::open("lo", &watching(&["7000/udp"])).unwrap();
    ip("link set lo down");
    assert_eq!(live.read(100, |_| ()).unwrap(), 0);
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
        let error = (0..100).find_map(|_| live.read(100, |_| ()).err());
        assert!(matches!(error, Some(CaptureError::NoInterface { why: GONE, .. })), "{error:?}");
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
            let mut ports = PortSet::default();
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
    use crate::wire::tests::samples::{Sample, framed};

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
        assert_eq!(recording.link, LinkType::Ethernet);
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
    let error = recording.next().unwrap_err().to_string();
    assert!(error.ends_with(": the file ends in the middle of a packet"), "{error}");
}

#[test]
fn a_file_that_is_no_capture_says_so() {
    for bytes in [&b""[..], b"short", b"doors:\n  ssh:\n    sequence: [7000, 8000, 9000]\n"] {
        let (file, recording) = recorded(bytes);
        let error = recording.err().unwrap();
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
