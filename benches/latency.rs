//! From the last knock on the wire to the first SYN/ACK of the port that it opens.
//!
//! In one run, one after the other: a port that is open anyway (the floor), knockd with its
//! guard and with a template, classic knockd and fwknopd, each between two network namespaces, 200 rounds, each round from
//! another source. Both ends of a measurement are stamps of the client's kernel. Needs root.

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::net::Ipv4Addr;
use std::process::{Child, Stdio};
use std::time::Duration;

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Host, Knockd, Net, SERVER, can_make_namespaces, eventually, has_programs};

const ROUNDS: u8 = 200;
const PORT: u16 = 22;
const SEQUENCE: [u16; 3] = [7000, 8000, 9000];
/// Where fwknop's datagrams go.
const SPA_PORT: u16 = 62201;

fn main() {
    if !can_make_namespaces("latency") || !has_programs("latency", &["iptables"]) {
        return;
    }
    println!("{:24} {:>10} {:>10} {:>8} {:>8}", "", "p50", "p99", "p50/floor", "p99/floor");
    let floor = measure("open already (floor)", None, || Contender::Nothing);
    if has_programs("latency: guard", &["nft"]) {
        measure("knockd, guard", floor, || Contender::Ours("via: guard"));
    }
    measure("knockd, iptables", floor, || Contender::Ours("via: iptables"));
    if has_programs("latency: classic knockd", &["knockd"]) {
        measure("classic knockd, iptables", floor, || Contender::Classic);
    }
    if has_programs("latency: fwknopd", &["fwknopd", "fwknop"]) {
        measure("fwknopd, iptables", floor, || Contender::Fwknop);
    }
}

/// Who opens the port.
enum Contender {
    /// Nobody has to.
    Nothing,
    Ours(&'static str),
    Classic,
    Fwknop,
}

/// p50 and p99.
type Figures = (Duration, Duration);

fn measure(name: &str, floor: Option<Figures>, who: impl Fn() -> Contender) -> Option<Figures> {
    let net = Net::new();
    // Sources of their own beyond the client, so that no round finds the port open.
    net.server.must("ip", &["route", "add", "198.51.100.0/24", "via", support::CLIENT]);
    let who = who();
    if matches!(who, Contender::Nothing | Contender::Ours("via: guard")) {
        net.server.listen(PORT);
    } else {
        net.shut(PORT);
    }
    let running = Running::start(&net, &who);
    let mut times: Vec<Duration> =
        (1..=ROUNDS).filter_map(|round| one_round(&net, &who, round)).collect();
    drop(running);
    times.sort();
    let missed = usize::from(ROUNDS) - times.len();
    let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len().max(1) - 1));
    let Some((&p50, &p99)) = at(50).zip(at(99)) else {
        println!("{name:24} never opened");
        return None;
    };
    let ratio = |time: Duration, of: fn(&Figures) -> Duration| {
        floor.as_ref().map_or(1.0, |floor| time.as_secs_f64() / of(floor).as_secs_f64())
    };
    println!(
        "{name:24} {:>7.3} ms {:>7.3} ms {:>8.1} {:>8.1}{}",
        p50.as_secs_f64() * 1e3,
        p99.as_secs_f64() * 1e3,
        ratio(p50, |floor| floor.0),
        ratio(p99, |floor| floor.1),
        if missed > 0 { format!("   {missed} rounds never opened") } else { String::new() }
    );
    Some((p50, p99))
}

/// Knocks from a source of its own, then asks for a connection again and again.
fn one_round(net: &Net, who: &Contender, round: u8) -> Option<Duration> {
    let source = Ipv4Addr::new(198, 51, 100, round);
    let macs = (mac(&net.server), mac(&net.client));
    let by_fwknop = matches!(who, Contender::Fwknop);
    let namespace = net.client.name.clone();
    net.client.enter(move || {
        // Or the pauses between probes would be ten times as long as they are meant to be.
        nix::sys::prctl::set_timerslack(1).unwrap();
        // The kernel shows a handle no packet that it has sent itself, so another one looks.
        let mut cable = pcap::Capture::from_device("eth0").unwrap().open().unwrap();
        let mut seeing = pcap::Capture::from_device("eth0")
            .unwrap()
            .immediate_mode(true)
            .precision(pcap::Precision::Nano)
            .open()
            .unwrap()
            .setnonblock()
            .unwrap();
        seeing.filter("tcp or udp", true).unwrap();
        let mut knocker = None;
        let last_knock = if by_fwknop {
            knocker = Some(fwknop(&namespace, source));
            (true, SPA_PORT)
        } else {
            for (number, port) in (0..).zip(SEQUENCE) {
                std::thread::sleep(Duration::from_millis(3));
                cable.sendpacket(syn(macs, source, 30_000, port, number)).unwrap();
            }
            (false, SEQUENCE[2])
        };
        let (mut knocked, mut answered) = (None, None);
        for probe in 0..50_000u32 {
            // The first probe follows the last knock at once, as a client's would.
            if knocked.is_some() || !by_fwknop {
                let port = 32_768 + (probe % 20_000) as u16;
                cable.sendpacket(syn(macs, source, port, PORT, probe)).unwrap();
            }
            while let Ok(packet) = seeing.next_packet() {
                let ts = packet.header.ts;
                let stamp = Duration::new(ts.tv_sec as u64, ts.tv_usec as u32);
                match seen(packet.data) {
                    Some(Seen::To(udp, port)) if (udp, port) == last_knock => knocked = Some(stamp),
                    Some(Seen::SynAck { to, number }) => {
                        answered = answered.or(Some(stamp));
                        // Or the listener's queue would fill with connections half made.
                        cable.sendpacket(reset(macs, source, to, number)).unwrap();
                    }
                    _ => {}
                }
            }
            if answered.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_micros(5));
        }
        if let Some(mut knocker) = knocker {
            let _ = knocker.wait();
        }
        Some(answered?.saturating_sub(knocked?))
    })
}

enum Seen {
    /// A packet to this port; true: by UDP.
    To(bool, u16),
    SynAck {
        to: u16,
        number: u32,
    },
}

fn seen(bytes: &[u8]) -> Option<Seen> {
    match SlicedPacket::from_ethernet(bytes).ok()?.transport? {
        TransportSlice::Tcp(tcp) if tcp.syn() && tcp.ack() => {
            let number = tcp.acknowledgment_number();
            (tcp.source_port() == PORT)
                .then_some(Seen::SynAck { to: tcp.destination_port(), number })
        }
        TransportSlice::Tcp(tcp) => Some(Seen::To(false, tcp.destination_port())),
        TransportSlice::Udp(udp) => Some(Seen::To(true, udp.destination_port())),
        _ => None,
    }
}

type Macs = ([u8; 6], [u8; 6]);

fn mac(host: &Host) -> [u8; 6] {
    let text = host.must("cat", &["/sys/class/net/eth0/address"]);
    let bytes: Vec<u8> =
        text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

fn syn(macs: Macs, source: Ipv4Addr, from: u16, to: u16, number: u32) -> Vec<u8> {
    let server: Ipv4Addr = SERVER.parse().unwrap();
    let builder = PacketBuilder::ethernet2(macs.1, macs.0)
        .ipv4(source.octets(), server.octets(), 64)
        .tcp(from, to, number, 1024)
        .syn();
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &[]).unwrap();
    bytes
}

fn reset(macs: Macs, source: Ipv4Addr, from: u16, number: u32) -> Vec<u8> {
    let server: Ipv4Addr = SERVER.parse().unwrap();
    let builder = PacketBuilder::ethernet2(macs.1, macs.0)
        .ipv4(source.octets(), server.octets(), 64)
        .tcp(from, PORT, number, 0)
        .rst();
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &[]).unwrap();
    bytes
}

const KEY: &str = "d2l0aG91dCBhIGtub2NrIG5vdGhpbmcgb3BlbnM=";
const HMAC_KEY: &str = "bm90aGluZyBvcGVucyB3aXRob3V0IGEga25vY2s=";

/// Sends one datagram with Debian's client.
fn fwknop(namespace: &str, source: Ipv4Addr) -> Child {
    let source = source.to_string();
    support::command("ip")
        .args(["netns", "exec", namespace, "fwknop", "--no-home-dir", "--no-rc-file"])
        .args(["-A", "tcp/22", "-a", &source, "-D", SERVER, "--use-hmac"])
        .args(["--key-base64-rijndael", KEY, "--key-base64-hmac", HMAC_KEY, "-E", "/dev/null"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The server under test; ended when it goes out of scope.
struct Running {
    _ours: Option<Knockd>,
    other: Option<Child>,
    _directory: tempfile::TempDir,
}

impl Running {
    fn start(net: &Net, who: &Contender) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let mut running =
            Self { _ours: None, other: None, _directory: tempfile::tempdir().unwrap() };
        match who {
            Contender::Nothing => {}
            Contender::Ours(via) => {
                let configuration = format!(
                    "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody}}\n\
                     doors:\n  ssh: {{sequence: [7000, 8000, 9000], open: [22], {via}, open_for: 1h}}\n"
                );
                running._ours = Some(Knockd::start(&net.server, &configuration));
            }
            Contender::Classic => {
                fs::write(
                    path("knockd.conf"),
                    "[options]\n[ssh]\nsequence = 7000,8000,9000\nseq_timeout = 5\ntcpflags = syn\n\
                     command = /usr/sbin/iptables -I INPUT -s %IP% -p tcp --dport 22 -j ACCEPT\n",
                )
                .unwrap();
                let child = net
                    .server
                    .command("/usr/sbin/knockd")
                    .args(["-i", "eth0", "-c", &path("knockd.conf")])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                running.other = Some(child);
            }
            Contender::Fwknop => {
                let run = path("run");
                fs::create_dir(&run).unwrap();
                fs::write(
                    path("fwknopd.conf"),
                    format!(
                        "PCAP_INTF eth0;\nFWKNOP_RUN_DIR {run};\nENABLE_DIGEST_PERSISTENCE N;\n"
                    ),
                )
                .unwrap();
                fs::write(
                    path("access.conf"),
                    format!("SOURCE ANY\nKEY_BASE64 {KEY}\nHMAC_KEY_BASE64 {HMAC_KEY}\nFW_ACCESS_TIMEOUT 3600\n"),
                )
                .unwrap();
                let child = net
                    .server
                    .command("/usr/sbin/fwknopd")
                    .args(["-f", "-c", &path("fwknopd.conf"), "-a", &path("access.conf")])
                    .args(["-r", &run, "-d", &format!("{run}/digests")])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                running.other = Some(child);
            }
        }
        running._directory = directory;
        std::thread::sleep(Duration::from_secs(2));
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.other {
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
            let _ = kill(pid, Signal::SIGTERM);
            if !eventually(Duration::from_secs(5), || !matches!(child.try_wait(), Ok(None))) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}
