//! `knockctl explain` over capture files: each link layer, each form of output, each outcome.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use assert_cmd::Command;
use etherparse::{PacketBuilder, PacketBuilderStep};
use libknock::proto::totp::{Digits, TotpKey, code, knocks_of_code, parse_secret};
use snapbox::{assert_data_eq, str};
use tempfile::TempDir;

const DOORS: &str = "
doors:
  ssh:
    sequence: [7000, 8000, 9000]
    seq_timeout: 5s
    start_command: /bin/true
    stop_command: /bin/true
  only4:
    sequence: [3001, 3051, 3101]
    start_command: /bin/true
    start_command_6: ''
  router:
    sequence: [5001/udp, 5051/udp]
    target: 192.0.2.10
    start_command: /bin/true
";

const START: f64 = 1_700_000_000.0;

/// A capture file in the making, and a configuration beside it.
struct Case {
    folder: TempDir,
    link: u32,
    packets: Vec<u8>,
}

impl Case {
    fn new() -> Self {
        Self::of_link(101)
    }

    fn of_link(link: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("doors.yaml"), DOORS).unwrap();
        Self { folder, link, packets: Vec::new() }
    }

    /// A frame, so many seconds after the start.
    fn frame(mut self, at: f64, bytes: &[u8]) -> Self {
        let micros = ((START + at) * 1e6).round() as u64;
        let length = u32::try_from(bytes.len()).unwrap();
        let header = [(micros / 1_000_000) as u32, (micros % 1_000_000) as u32, length, length];
        self.packets.extend(header.iter().flat_map(|word| word.to_ne_bytes()));
        self.packets.extend(bytes);
        self
    }

    fn syn(self, at: f64, source: &str, port: u16) -> Self {
        self.tcp(at, source, 40_000 + port % 1000 + (at * 10.0) as u16, port, false)
    }

    fn tcp(self, at: f64, source: &str, source_port: u16, port: u16, ack: bool) -> Self {
        let packet = tcp(source, source_port, port, ack);
        self.frame(at, &packet)
    }

    fn udp(self, at: f64, source: &str, to: &str, port: u16) -> Self {
        let mut packet = Vec::new();
        let IpAddr::V4(from) = address(source) else { panic!("IPv4 is enough here") };
        let IpAddr::V4(to) = address(to) else { panic!("IPv4 is enough here") };
        let builder = PacketBuilder::ipv4(from.octets(), to.octets(), 64).udp(40_000, port);
        builder.write(&mut packet, &[0]).unwrap();
        self.frame(at, &packet)
    }

    fn bytes(&self) -> Vec<u8> {
        let header = [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, self.link];
        let mut file: Vec<u8> = header.iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
        file.extend(&self.packets);
        file
    }

    fn file(&self) -> PathBuf {
        let path = self.folder.path().join("knocks.pcap");
        fs::write(&path, self.bytes()).unwrap();
        path
    }

    fn explain(&self, arguments: &[&str]) -> assert_cmd::assert::Assert {
        knockctl(&self.folder).arg("explain").arg(self.file()).args(arguments).assert()
    }

    fn says(&self, arguments: &[&str]) -> String {
        text(&self.explain(arguments).success().get_output().stdout)
    }

    fn json(&self) -> Vec<serde_json::Value> {
        self.says(&["--json"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn knockctl(folder: &TempDir) -> Command {
    let mut command = Command::cargo_bin("knockctl").unwrap();
    command.env("TZ", "UTC").arg("-c").arg(folder.path().join("doors.yaml"));
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn tcp(source: &str, source_port: u16, port: u16, ack: bool) -> Vec<u8> {
    let ip: PacketBuilderStep<_> = match address(source) {
        IpAddr::V4(from) => PacketBuilder::ipv4(from.octets(), [192, 0, 2, 1], 64),
        IpAddr::V6(from) => PacketBuilder::ipv6(from.octets(), from.octets(), 64),
    };
    let mut tcp = ip.tcp(source_port, port, 7, 1024).syn();
    if ack {
        tcp = tcp.ack(1);
    }
    let mut packet = Vec::new();
    tcp.write(&mut packet, &[]).unwrap();
    packet
}

fn classic() -> Case {
    Case::new().syn(0.123456, "192.0.2.2", 7000).syn(0.5, "192.0.2.2", 8000).syn(
        1.0,
        "192.0.2.2",
        9000,
    )
}

#[test]
fn json_has_one_object_for_each_thing_that_happened() {
    assert_data_eq!(
        classic().says(&["--json"]),
        str![[r#"
{"time":1700000000.123456,"source":"192.0.2.2","door":"ssh","event":"stage","stage":1,"knock":"7000/tcp","message":"Stage 1"}
{"time":1700000000.5,"source":"192.0.2.2","door":"ssh","event":"stage","stage":2,"knock":"8000/tcp","message":"Stage 2"}
{"time":1700000001.0,"source":"192.0.2.2","door":"ssh","event":"open","knock":"9000/tcp","by":"sequence","message":"OPEN SESAME"}

"#]]
    );
}

#[test]
fn text_is_aligned_and_in_local_time() {
    assert_data_eq!(
        classic().syn(1.5, "198.51.100.77", 7000).says(&[]),
        str![[r#"
Tuesday, 2023-11-14, UTC
22:13:20.123456  192.0.2.2        ssh     stage 1 of 3 (7000/tcp)
22:13:20.500000  192.0.2.2        ssh     stage 2 of 3 (8000/tcp)
22:13:21.000000  192.0.2.2        ssh     open (9000/tcp completes the sequence)
22:13:21.500000  198.51.100.77    ssh     stage 1 of 3 (7000/tcp)

4 packets, 4 of them knocks

"#]]
    );
}

#[test]
fn every_link_layer_is_read() {
    let ethernet = |packet: &[u8]| [&[0; 12], &[8, 0][..], packet].concat();
    let tagged = |packet: &[u8]| [&[0; 12], &[0x81, 0, 0, 5, 8, 0][..], packet].concat();
    let stacked =
        |packet: &[u8]| [&[0; 12], &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 8, 0][..], packet].concat();
    let sll = |packet: &[u8]| [&[0; 14], &[8, 0][..], packet].concat();
    let sll2 = |packet: &[u8]| [&[8, 0], &[0; 18][..], packet].concat();
    let null = |packet: &[u8]| [&[2, 0, 0, 0], packet].concat();
    let looped = |packet: &[u8]| [&[0, 0, 0, 2], packet].concat();
    let raw = |packet: &[u8]| packet.to_vec();
    type Wrap<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;
    let layers: [(&str, u32, Wrap<'_>); 9] = [
        ("Ethernet", 1, &ethernet),
        ("802.1Q", 1, &tagged),
        ("QinQ", 1, &stacked),
        ("SLL", 113, &sll),
        ("SLL2", 276, &sll2),
        ("NULL", 0, &null),
        ("LOOP", 108, &looped),
        ("RAW", 101, &raw),
        ("IPV4", 228, &raw),
    ];
    for (name, link, wrap) in layers {
        let mut case = Case::of_link(link);
        for (nth, port) in [7000, 8000, 9000].into_iter().enumerate() {
            let packet = tcp("192.0.2.2", 40_000, port, false);
            case = case.frame(nth as f64 / 10.0, &wrap(&packet));
        }
        let last = case.json().pop().unwrap_or_else(|| panic!("{name}: nothing was read"));
        assert_eq!(last["event"], "open", "{name}");
    }
}

#[test]
fn a_wrong_knock_is_explained_and_begins_anew_where_it_can() {
    let case = Case::new()
        .syn(0.0, "192.0.2.2", 7000)
        .syn(0.1, "192.0.2.2", 9000)
        .syn(0.2, "192.0.2.2", 7000)
        .syn(0.3, "192.0.2.2", 8000)
        .syn(0.4, "192.0.2.2", 7000);
    assert_data_eq!(
        case.says(&[]),
        str![[r#"
Tuesday, 2023-11-14, UTC
22:13:20.000000  192.0.2.2        ssh     stage 1 of 3 (7000/tcp)
22:13:20.100000  192.0.2.2        ssh     reset at stage 1 of 3: 9000/tcp came, 8000/tcp was expected
22:13:20.200000  192.0.2.2        ssh     stage 1 of 3 (7000/tcp)
22:13:20.300000  192.0.2.2        ssh     stage 2 of 3 (8000/tcp)
22:13:20.400000  192.0.2.2        ssh     reset at stage 2 of 3: 7000/tcp came, 9000/tcp was expected
22:13:20.400000  192.0.2.2        ssh     stage 1 of 3 (7000/tcp)

5 packets, 5 of them knocks

"#]]
    );
    let reset = &case.json()[1];
    assert_eq!((&reset["event"], &reset["reason"]), (&"reset".into(), &"wrong-knock".into()));
}

#[test]
fn a_trip_wire_is_named_as_such() {
    let case = Case::new().syn(0.0, "192.0.2.2", 7000).syn(0.1, "192.0.2.2", 7003);
    assert_data_eq!(
        case.says(&[]),
        str![[r#"
Tuesday, 2023-11-14, UTC
22:13:20.000000  192.0.2.2        ssh     stage 1 of 3 (7000/tcp)
22:13:20.100000  192.0.2.2        ssh     reset at stage 1 of 3: 7003/tcp is a trip-wire, 8000/tcp was expected

2 packets, 2 of them knocks

"#]]
    );
    assert_eq!(case.json()[1]["reason"], "trip-wire");
}

#[test]
fn a_timeout_is_told_at_its_own_time_between_the_packets() {
    let case = Case::new().syn(0.0, "192.0.2.2", 7000).syn(1.0, "192.0.2.2", 8000).syn(
        9.0,
        "192.0.2.3",
        7000,
    );
    assert_data_eq!(
        case.says(&[]),
        str![[r#"
Tuesday, 2023-11-14, UTC
22:13:20.000000  192.0.2.2        ssh     stage 1 of 3 (7000/tcp)
22:13:21.000000  192.0.2.2        ssh     stage 2 of 3 (8000/tcp)
22:13:25.000000  192.0.2.2        ssh     reset at stage 2 of 3: 9000/tcp did not come within 5s of the first knock
22:13:29.000000  192.0.2.3        ssh     stage 1 of 3 (7000/tcp)

3 packets, 3 of them knocks

"#]]
    );
    assert_eq!(case.json()[2]["reason"], "timeout");
}

#[test]
fn any_later_packet_makes_a_timeout_certain() {
    let case = Case::new().syn(0.0, "192.0.2.2", 7000).frame(9.0, b"no packet at all");
    assert_eq!(case.json()[1]["reason"], "timeout");
}

#[test]
fn what_would_end_after_the_last_packet_is_not_said_to_have_ended() {
    let case = Case::new().syn(0.0, "192.0.2.2", 7000).syn(4.0, "192.0.2.2", 8000);
    assert_eq!(case.json().len(), 2);
}

#[test]
fn an_address_whose_family_has_no_command_is_refused() {
    let case = [3001, 3051, 3101]
        .into_iter()
        .zip([0.0, 0.1, 0.2])
        .fold(Case::new(), |case, (port, at)| case.syn(at, "2001:db8::2", port));
    let refused = case.json().pop().unwrap();
    assert_eq!(refused["event"], "refused");
    assert_eq!(refused["reason"], "no-command");
    assert_eq!(refused["source"], "2001:db8::2");
    assert!(
        case.says(&[]).contains("refused (3101/tcp completes it, but nothing opens it for IPv6)")
    );
}

#[test]
fn with_an_address_only_its_packets_are_told_and_counted() {
    let case = classic().syn(1.1, "192.0.2.3", 7000).syn(1.2, "192.0.2.3", 22);
    assert_data_eq!(
        case.says(&["--ip", "192.0.2.3"]),
        str![[r#"
Tuesday, 2023-11-14, UTC
22:13:21.100000  192.0.2.3        ssh     stage 1 of 3 (7000/tcp)

the file ends at stage 1 of 3 of ssh: 8000/tcp is missing
2 packets from 192.0.2.3, 1 of them a knock
       1  no door watches this port, or not with these flags

"#]]
    );
    assert_eq!(case.says(&["--ip", "192.0.2.3", "--json"]).lines().count(), 1);
}

#[test]
fn with_an_address_it_says_why_knocks_changed_nothing() {
    let case = Case::new()
        .tcp(0.0, "192.0.2.2", 40_000, 7000, true)
        .tcp(0.1, "192.0.2.2", 40_001, 7000, false)
        .tcp(0.2, "192.0.2.2", 40_001, 7000, false)
        .udp(0.3, "192.0.2.2", "192.0.2.1", 5001)
        .udp(0.4, "192.0.2.2", "192.0.2.10", 5001)
        .syn(0.5, "192.0.2.2", 3101)
        .syn(0.6, "192.0.2.2", 3110);
    assert_data_eq!(
        case.says(&["--ip", "192.0.2.2"]),
        str![[r#"
Tuesday, 2023-11-14, UTC
22:13:20.000000  192.0.2.2        ssh     7000/tcp is not seen: its flags are syn,ack, tcpflags are syn,!ack
22:13:20.100000  192.0.2.2        ssh     stage 1 of 3 (7000/tcp)
22:13:20.200000  192.0.2.2        -       7000/tcp again: a retransmission, no knock of its own
22:13:20.300000  192.0.2.2        router  5001/udp is not seen: it went to 192.0.2.1, the target is 192.0.2.10
22:13:20.400000  192.0.2.2        router  stage 1 of 2 (5001/udp)
22:13:20.500000  192.0.2.2        -       3101/tcp does not come first, and nothing had begun
22:13:20.600000  192.0.2.2        -       3110/tcp is a trip-wire, but there was nothing to break

the file ends at stage 1 of 2 of router: 5051/udp is missing
the file ends at stage 1 of 3 of ssh: 8000/tcp is missing
7 packets from 192.0.2.2, 4 of them knocks
       1  sent to an address that is not this host's, nor a door's target
       1  no door watches this port, or not with these flags
       1  a duplicate of an earlier knock

"#]]
    );
}

#[test]
fn an_address_that_sent_nothing_is_said_to_have_sent_nothing() {
    let case = classic();
    assert_data_eq!(
        case.says(&["--ip", "192.0.2.9"]),
        str![[r#"
no packet from 192.0.2.9 in this file (3 from others)
If it did knock, then its packets took another way, a firewall before this host dropped them,
or it came from another address (behind NAT, or IPv6).

"#]]
    );
    let json = case.explain(&["--ip", "192.0.2.9", "--json"]).success();
    assert_eq!(text(&json.get_output().stdout), "");
    assert_eq!(text(&json.get_output().stderr), "no packet from 192.0.2.9 in this file\n");
}

#[test]
fn packets_that_are_no_knock_are_counted_by_reason() {
    let syn = tcp("192.0.2.2", 40_000, 7000, false);
    let mut fragment = syn.clone();
    fragment[6] = 0x20;
    let mut icmp = syn.clone();
    icmp[9] = 1;
    let mut malformed = syn.clone();
    malformed[3] = 10;
    let case = Case::new()
        .frame(0.0, &syn[..30])
        .frame(0.0, &fragment)
        .frame(0.0, &icmp)
        .frame(0.0, &malformed)
        .frame(0.0, b"neither")
        .syn(0.1, "192.0.2.2", 22)
        .syn(0.2, "192.0.2.2", 23);
    assert_data_eq!(
        case.says(&[]),
        str![[r#"
7 packets, none of them a knock
       2  no door watches this port, or not with these flags
       2  cut off before its ports: capture with tcpdump -s 0
       1  a fragment
       1  its headers contradict each other
       1  neither TCP nor UDP

"#]]
    );
    assert_data_eq!(
        case.says(&["--ip", "192.0.2.2"]),
        str![[r#"
2 packets from 192.0.2.2, none of them a knock
       2  no door watches this port, or not with these flags
and, from whatever address:
       2  cut off before its ports: capture with tcpdump -s 0
       1  a fragment
       1  its headers contradict each other
       1  neither TCP nor UDP

"#]]
    );
}

#[test]
fn a_file_without_packets_says_so() {
    assert_data_eq!(
        Case::new().says(&[]),
        str![[r#"
no packets in this file

"#]]
    );
}

#[test]
fn packets_out_of_order_are_explained_in_the_order_of_the_file() {
    let case = Case::new().syn(0.2, "192.0.2.2", 7000).syn(0.1, "192.0.2.2", 8000).syn(
        0.3,
        "192.0.2.2",
        9000,
    );
    let events = case.json();
    assert_eq!(events[1]["time"], START + 0.1);
    assert_eq!(events[2]["event"], "open");
}

#[test]
fn sequences_given_up_for_want_of_room_are_counted() {
    let case = (0..100u8).fold(Case::new(), |case, nth| {
        case.syn(f64::from(nth) / 1000.0, &format!("198.51.100.{nth}"), 7000)
    });
    let doors = format!("{DOORS}\nknockd: {{track: {{sources: 64}}}}\n");
    fs::write(case.folder.path().join("doors.yaml"), doors).unwrap();
    let said = case.says(&[]);
    assert!(said.contains(" begun sequences were given up: too many sources at once"), "{said}");
}

#[test]
fn standard_input_is_read_where_the_file_is_a_dash() {
    let case = classic();
    let mut command = knockctl(&case.folder);
    let said = command.args(["explain", "-", "--json"]).write_stdin(case.bytes()).assert();
    assert_eq!(text(&said.success().get_output().stdout), case.says(&["--json"]));
}

#[test]
fn a_reader_that_stops_early_is_no_error() {
    let case = (0..2_000u16).fold(Case::new(), |case, nth| {
        case.tcp(f64::from(nth), "192.0.2.2", 40_000 + nth, 7000, false)
    });
    let pipeline = format!(
        "'{}' -c '{}' explain '{}' --json | head -n 1",
        assert_cmd::cargo::cargo_bin("knockctl").display(),
        case.folder.path().join("doors.yaml").display(),
        case.file().display(),
    );
    let said = Command::new("bash").args(["-o", "pipefail", "-c", &pipeline]).assert().success();
    assert_eq!(text(&said.get_output().stdout).lines().count(), 1);
    assert_eq!(text(&said.get_output().stderr), "");
}

#[test]
fn a_file_that_was_cut_off_is_explained_as_far_as_it_goes() {
    let case = classic();
    let mut bytes = case.bytes();
    bytes.truncate(bytes.len() - 5);
    let path = case.folder.path().join("cut.pcap");
    fs::write(&path, bytes).unwrap();
    let said = knockctl(&case.folder).arg("explain").arg(&path).assert().code(1);
    let (out, err) = (text(&said.get_output().stdout), text(&said.get_output().stderr));
    assert!(out.contains("stage 2 of 3") && out.contains("2 packets"), "{out}");
    let path = path.display();
    assert_eq!(err, format!("knockctl: error: {path}: the file ends in the middle of a packet\n"));
}

#[test]
fn a_file_that_cannot_be_read_is_said_on_standard_error() {
    let said = Case::of_link(127).explain(&[]).code(1);
    let err = text(&said.get_output().stderr);
    assert!(err.contains("link type IEEE802_11_RADIO is not understood"), "{err}");
}

#[test]
fn a_configuration_that_is_wrong_is_said_on_standard_error() {
    let case = classic();
    fs::File::create(case.folder.path().join("doors.yaml")).unwrap().write_all(b"dors:\n").unwrap();
    let said = case.explain(&[]).code(1);
    let err = text(&said.get_output().stderr);
    assert!(err.contains("doors.yaml:1:1: error: "), "{err}");
}

#[test]
fn sequences_that_rotate_are_explained_with_whose_they_are() {
    let case = Case::new();
    let doors = "
clients:
  phone: {doors: [code], totp: {secret_file: DIR/phone.totp}}
doors:
  code:
    totp: {mode: code, base: 7000}
    start_command: /bin/true
";
    let doors = doors.replace("DIR", case.folder.path().to_str().unwrap());
    fs::write(case.folder.path().join("doors.yaml"), doors).unwrap();
    let secret = case.folder.path().join("phone.totp");
    fs::write(&secret, "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    // What the phone shows at 2000000000, and what it shows ten minutes later.
    let then = 2_000_000_000.0 - START;
    let key = TotpKey::from(&parse_secret("JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP").unwrap());
    let later = code(&key, 66_666_666 + 20, Digits::Six);
    let mut case = case;
    for (at, port) in [7097, 7085, 7024].into_iter().enumerate() {
        case = case.tcp(then + at as f64, "192.0.2.2", 40_000, port, false);
    }
    for (at, knock) in knocks_of_code(7000, &later).unwrap().into_iter().enumerate() {
        case = case.tcp(then + 5.0 + at as f64, "192.0.2.3", 40_000, knock.port.get(), false);
    }
    let told: Vec<_> = case
        .json()
        .into_iter()
        .filter(|line| line["event"] == "open" || line["event"] == "missed")
        .collect();
    assert_eq!(told.len(), 2, "{told:?}");
    for (member, value) in [("by", "totp"), ("client", "phone"), ("source", "192.0.2.2")] {
        assert_eq!(told[0][member], value);
    }
    assert_eq!(told[1]["steps"], 20);
    assert_eq!((&told[1]["client"], &told[1]["source"]), (&"phone".into(), &"192.0.2.3".into()));
}

/// Requests in one datagram: the published vectors, at the time of their server's clock.
mod requests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const KEY: &str = "uYMqxqI17aCacPp6idHMh0dtJZZSZ9PlaFvOcmwg7C4=\n";
    const CLIENT: &str = "ngoLprV+qNBob6m9GZw5OwFUkkMyE9L1O1BKH/3WJCU=";

    fn case() -> Case {
        let case = Case::new();
        let key = case.folder.path().join("server.key");
        let doors = format!(
            "knockd: {{spa: {{key_file: {}}}}}\n\
             clients:\n  laptop: {{doors: [ssh, web], spa: {{public_key: {CLIENT}}}}}\n\
             doors:\n\
             \x20 ssh: {{spa: true, start_command: /bin/true}}\n\
             \x20 web: {{spa: true, start_command: /bin/true}}\n",
            key.display()
        );
        fs::write(case.folder.path().join("doors.yaml"), doors).unwrap();
        ["door web, ", "61 s old", "a key that is enrolled nowhere", "one bit of p flipped"]
            .iter()
            .zip(0..)
            .fold(case, |case, (why, nth)| {
                let mut packet = Vec::new();
                let builder = PacketBuilder::ipv4([192, 0, 2, 2], [192, 0, 2, 1], 64);
                builder.udp(40_000 + nth, 62_201).write(&mut packet, &vector(why)).unwrap();
                case.frame(0.1 * f64::from(nth), &packet)
            })
    }

    fn vector(why: &str) -> Vec<u8> {
        let vectors = include_str!("../../src/proto/spa/vectors.txt");
        let line = vectors.lines().find(|line| line.contains(why)).unwrap();
        let digits = line.rsplit(": ").next().unwrap();
        data_encoding::HEXLOWER.decode(digits.as_bytes()).unwrap()
    }

    fn give_key(case: &Case) {
        let path = case.folder.path().join("server.key");
        fs::write(&path, KEY).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn are_read_where_the_servers_key_can_be() {
        let case = case();
        give_key(&case);
        let lines = case.json();
        let said: Vec<[&str; 4]> = lines
            .iter()
            .map(|line| {
                ["event", "door", "client", "reason"].map(|key| line[key].as_str().unwrap_or("-"))
            })
            .collect();
        assert_eq!(
            said,
            [
                // It asks for two addresses, and comes from a third.
                ["open", "web", "laptop", "-"],
                ["open", "web", "laptop", "-"],
                ["refused", "-", "laptop", "too-old"],
                ["refused", "-", "-", "unknown-client"],
            ]
        );
        for line in &lines[..2] {
            assert_eq!((&line["by"], &line["asked_by"]), (&"spa".into(), &"192.0.2.2".into()));
            assert_ne!(line["source"], line["asked_by"]);
        }
    }

    #[test]
    fn are_counted_where_it_cannot_be() {
        let case = case();
        let output = case.explain(&[]).success();
        let said = text(&output.get_output().stderr);
        assert!(
            said.contains("4 datagrams that may be requests are not read: there is no key"),
            "{said}"
        );
    }
}
