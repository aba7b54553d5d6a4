//! What a scan sees: each probe and its answers, without what differs from one run to the next.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use etherparse::{IpNumber, LaxNetSlice, LaxSlicedPacket, TcpHeaderSlice, TcpOptionElement};
use pcap::{Active, Capture};

use crate::support::{CLIENT, CLIENT_6, Host, SERVER, SERVER_6};

/// The answers to each kind of probe.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answers(BTreeMap<String, BTreeSet<String>>);

/// What was seen, and after how long the answers came.
#[derive(Debug, Default)]
pub(super) struct Observed {
    answers: Answers,
    delays: Vec<Duration>,
}

impl PartialEq for Observed {
    fn eq(&self, other: &Self) -> bool {
        self.answers == other.answers
    }
}

impl Observed {
    pub(super) fn add(&mut self, other: Self) {
        for (probe, answers) in other.answers.0 {
            self.answers.0.entry(probe).or_default().extend(answers);
        }
        self.delays.extend(other.delays);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.answers.0.values().all(BTreeSet::is_empty)
    }

    /// What one of the two answers and the other does not.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        let none = BTreeSet::new();
        let probes: BTreeSet<_> = self.answers.0.keys().chain(other.answers.0.keys()).collect();
        let of = |it: &'_ Self, probe: &String| it.answers.0.get(probe).unwrap_or(&none).clone();
        let differ = probes.into_iter().filter(|probe| of(self, probe) != of(other, probe));
        differ
            .map(|probe| {
                format!(
                    "{probe}\n  plain:   {:?}\n  guarded: {:?}",
                    of(self, probe),
                    of(other, probe)
                )
            })
            .collect()
    }
}

/// How many probes, how many kinds of answers, and the middle one of their delays.
impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers: usize = self.answers.0.values().map(BTreeSet::len).sum();
        let mut delays = self.delays.clone();
        delays.sort_unstable();
        let middle = delays.get(delays.len() / 2).copied().unwrap_or_default();
        write!(
            f,
            "{} probes, {answers} answers, half of them within {middle:?}",
            self.answers.0.len()
        )
    }
}

/// What passes between a client and its server while a scanner runs there.
pub(super) fn observe(client: &Host, scanner: &str, scan: &[&str]) -> Observed {
    let mut capture = client.enter(|| {
        let capture =
            Capture::from_device("eth0").unwrap().immediate_mode(true).buffer_size(8 << 20);
        capture.open().unwrap().setnonblock().unwrap()
    });
    let filter = format!("host {CLIENT} or host {CLIENT_6}");
    capture.filter(&filter, true).unwrap();
    client.must(scanner, scan);
    // Answers to the last probes may be on their way.
    thread::sleep(Duration::from_millis(200));
    read(&mut capture)
}

fn read(capture: &mut Capture<Active>) -> Observed {
    let mut observed = Observed::default();
    let mut probes: HashMap<Flow, Probe> = HashMap::new();
    while let Ok(packet) = capture.next_packet() {
        let stamp = packet.header.ts;
        let at = Duration::new(stamp.tv_sec as u64, stamp.tv_usec as u32 * 1000);
        let Some(seen) = Seen::parse(packet.data) else { continue };
        if seen.is_probe {
            let text = seen.text(None);
            observed.answers.0.entry(text.clone()).or_default();
            probes.insert(seen.flow, Probe { at, text, sequence: seen.sequence });
        } else if let Some(probe) = probes.get(&seen.flow) {
            let answers = observed.answers.0.entry(probe.text.clone()).or_default();
            answers.insert(seen.text(Some(probe)));
            observed.delays.push(at.saturating_sub(probe.at));
        } else {
            let flow = (seen.flow.0, seen.flow.2);
            observed
                .answers
                .0
                .entry(format!("unasked {flow:?}"))
                .or_default()
                .insert(seen.text(None));
        }
    }
    observed
}

struct Probe {
    at: Duration,
    text: String,
    /// Sequence number and acknowledgment.
    sequence: (u32, u32),
}

/// Protocol, the client's port or identifier, the server's port.
type Flow = (u8, u16, u16);

/// A packet between the two.
struct Seen {
    is_probe: bool,
    flow: Flow,
    what: String,
    sequence: (u32, u32),
    is_tcp: bool,
}

impl Seen {
    /// `None`: it is of another host, or of the neighbourhood.
    fn parse(frame: &[u8]) -> Option<Self> {
        let packet = LaxSlicedPacket::from_ethernet(frame).ok()?;
        let net = packet.net.as_ref()?;
        let (source, about) = match net {
            LaxNetSlice::Ipv4(ip) => {
                let header = ip.header();
                let about = format!(
                    "ttl {} tos {} df {} id {} options {:?}",
                    header.ttl(),
                    header.dcp().value() << 2 | header.ecn().value(),
                    header.dont_fragment(),
                    if header.identification() == 0 { "0" } else { "some" },
                    header.options()
                );
                (IpAddr::V4(header.source_addr()), about)
            }
            LaxNetSlice::Ipv6(ip) => {
                let header = ip.header();
                let about = format!("ttl {} class {}", header.hop_limit(), header.traffic_class());
                (IpAddr::V6(header.source_addr()), about)
            }
            LaxNetSlice::Arp(_) => return None,
        };
        let is_of = |addresses: [&str; 2]| addresses.iter().any(|it| it.parse() == Ok(source));
        let is_probe = is_of([CLIENT, CLIENT_6]);
        if !is_probe && !is_of([SERVER, SERVER_6]) {
            return None;
        }
        let payload = net.ip_payload_ref()?;
        // Probes have whatever time to live nmap likes.
        let about = if is_probe { String::new() } else { about };
        let (flow, what, sequence) = transport(payload.ip_number, payload.payload, is_probe)?;
        let what = format!("{what} {about}");
        let is_tcp = payload.ip_number == IpNumber::TCP;
        Some(Self { is_probe, flow, what, sequence, is_tcp })
    }

    /// In words; of an answer, its numbers as they follow from those of the probe.
    fn text(&self, probe: Option<&Probe>) -> String {
        let follows = |number: u32, from: u32| match number.wrapping_sub(from) {
            _ if number == 0 => "0".to_owned(),
            more if more < 2000 => format!("+{more}"),
            _ => "other".to_owned(),
        };
        let numbers = probe.filter(|_| self.is_tcp).map(|probe| {
            let (sequence, acknowledged) = self.sequence;
            let sequence = follows(sequence, probe.sequence.1);
            format!("sequence {sequence}, acknowledges {}", follows(acknowledged, probe.sequence.0))
        });
        format!("{} {}", self.what, numbers.unwrap_or_default())
    }
}

/// The ports that are asked for; whatever else nmap takes at random.
const PORTS: [u16; 13] = [22, 53, 80, 81, 7000, 7001, 7142, 8000, 8001, 9000, 62201, 0, 1];

fn port(port: u16) -> String {
    if PORTS.contains(&port) { port.to_string() } else { "any".to_owned() }
}

fn transport(
    protocol: IpNumber,
    bytes: &[u8],
    is_probe: bool,
) -> Option<(Flow, String, (u32, u32))> {
    let number = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let (source, destination) = (number(0)?, number(2)?);
    let (client, server) = if is_probe { (source, destination) } else { (destination, source) };
    let flow = (protocol.0, client, server);
    match protocol {
        IpNumber::TCP => {
            let tcp = TcpHeaderSlice::from_slice(bytes).ok()?;
            let options: Vec<String> = tcp
                .options_iterator()
                .map(|option| match option {
                    Ok(TcpOptionElement::Timestamp(..)) => "timestamp".to_owned(),
                    other => format!("{other:?}"),
                })
                .collect();
            let flags = format!("{:#010b} {:#04b}", bytes[13], bytes[12] & 0xf);
            let payload = bytes.len() - tcp.slice().len();
            let what = format!(
                "tcp {} flags {flags} window {} options {options:?} urgent {} payload {payload}",
                port(server),
                tcp.window_size(),
                tcp.urgent_pointer()
            );
            Some((flow, what, (tcp.sequence_number(), tcp.acknowledgment_number())))
        }
        // nmap sends several at once from one port: which of them an answer is to is not known.
        IpNumber::UDP if is_probe => Some((flow, format!("udp {}", port(server)), (0, 0))),
        IpNumber::UDP => Some((
            flow,
            format!("udp {} payload {}", port(server), bytes.len().saturating_sub(8)),
            (0, 0),
        )),
        IpNumber::ICMP => icmp(bytes, protocol, &[3, 4, 5, 11, 12], (20, 9)),
        IpNumber::IPV6_ICMP if (133..138).contains(&bytes[0]) => None,
        IpNumber::IPV6_ICMP => icmp(bytes, protocol, &[1, 2, 3, 4], (40, 6)),
        other => Some(((other.0, 0, 0), format!("protocol {}", other.0), (0, 0))),
    }
}

/// An error belongs to what it quotes, with a header of this length and the protocol there;
/// anything else to its identifier.
fn icmp(
    bytes: &[u8],
    protocol: IpNumber,
    errors: &[u8],
    (header, protocol_at): (usize, usize),
) -> Option<(Flow, String, (u32, u32))> {
    let (kind, code) = (*bytes.first()?, *bytes.get(1)?);
    let what = format!("icmp {kind} code {code} length {}", bytes.len());
    if errors.contains(&kind) {
        let quoted = bytes.get(8..)?;
        let protocol = *quoted.get(protocol_at)?;
        let ports = quoted.get(header..header + 4)?;
        let client = u16::from_be_bytes([ports[0], ports[1]]);
        let server = u16::from_be_bytes([ports[2], ports[3]]);
        return Some(((protocol, client, server), what, (0, 0)));
    }
    let identifier = u16::from_be_bytes([*bytes.get(4)?, *bytes.get(5)?]);
    Some(((protocol.0, identifier, 0), what, (0, 0)))
}
