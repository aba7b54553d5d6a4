//! Whether the owner gets in while strangers flood the wire, and what that costs.
//!
//! 100,000 packets a second from spoofed sources go to a door's first port, or to where requests go,
//! native ones or those of fwknop's, between two network namespaces; meanwhile a legitimate address
//! knocks, or sends a request, twenty times. Needs root.

mod requests;
#[path = "../tests/support/mod.rs"]
#[allow(dead_code, unused_imports, unused_macros, reason = "what only the tests need")]
mod support;

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use etherparse::PacketBuilder;
use libknock::proto::fwknop;
use libknock::proto::spa::{LEN, PORT, PrivateKey};
use support::{CLIENT, Knockd, Net, SERVER, can_make_namespaces, eventually, has_programs};

const PER_SECOND: u64 = 100_000;
const KNOCKS: usize = 20;

fn main() {
    if !can_make_namespaces("flood") || !has_programs("flood", &["iptables"]) {
        return;
    }
    // `cargo bench --bench flood -- junk` floods only with what has the word in its name.
    let words: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    for (name, kind) in [
        ("first knocks", Kind::Knocks),
        ("junk datagrams", Kind::Datagrams),
        ("junk that looks like fwknop's", Kind::Fwknop),
    ] {
        if words.is_empty() || words.iter().any(|word| name.contains(word)) {
            println!("{name}");
            measure(kind);
        }
    }
}

/// What a flood consists of, and how the owner gets in.
#[derive(Clone, Copy)]
enum Kind {
    Knocks,
    Datagrams,
    Fwknop,
}

fn measure(kind: Kind) {
    let net = Net::new();
    let drop_knocks = ["-A", "INPUT", "-p", "tcp", "--dport", "7000:9000", "-j", "DROP"];
    net.server.must("iptables", &drop_knocks);
    // Or the kernel would answer each with an error.
    let drop_datagrams = ["-A", "INPUT", "-p", "udp", "--dport", "62201", "-j", "DROP"];
    net.server.must("iptables", &drop_datagrams);
    let configuration = format!(
        "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody,\n\
         \x20 spa: {{key_file: DIR/keys/server.key}}}}\n\
         clients:\n  owner: {{doors: [ssh], spa: {{public_key: {}}}, fwknop: {{key: testkey, hmac_key: hmackey}}}}\n\
         doors:\n\
         \x20 ssh: {{sequence: [7000, 8000, 9000], spa: true, fwknop: true, start_command: [echo, \"%IP%\"]}}\n",
        requests::client_key().public()
    );
    let knockd = Knockd::start(&net.server, &configuration);
    let key: PrivateKey = fs::read_to_string(knockd.directory.path().join("keys/server.key"))
        .unwrap()
        .parse()
        .unwrap();
    println!("  idle:       {}", resident(&knockd));
    let flood = Flood::start(&net, kind);
    thread::sleep(Duration::from_secs(3));
    let (sent_before, cpu_before, begun) = (flood.sent(), cpu(&knockd), now());
    let mut opened = 0;
    for knock in 1..=KNOCKS {
        match kind {
            Kind::Knocks => {
                let from: IpAddr = CLIENT.parse().unwrap();
                let ports = ["7000", "8000", "9000"];
                net.client.knock_from(from, SERVER, &ports, Duration::from_millis(15));
            }
            Kind::Datagrams => send(&net, requests::native(&key.public())),
            Kind::Fwknop => send(&net, of_fwknop()),
        }
        if eventually(Duration::from_secs(2), || knockd.count("OPEN SESAME") >= knock) {
            opened += 1;
        }
        thread::sleep(Duration::from_millis(100));
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("  flood:      {}", resident(&knockd));
    println!("  rate:       {:.0} packets/s", (flood.sent() - sent_before) as f64 / seconds);
    println!("  processor:  {:.0} % of one core", (cpu(&knockd) - cpu_before) / seconds * 100.0);
    println!("  opened:     {opened} of {KNOCKS}");
    drop(flood);
    thread::sleep(Duration::from_secs(11));
    for line in
        knockd.log().iter().filter(|line| line.contains("more knocks") || line.contains("dropped"))
    {
        println!("  log:        {line}");
    }
    println!("  log lines:  {}", knockd.log().len());
}

/// Sends one datagram from the client.
fn send(net: &Net, datagram: Vec<u8>) {
    net.client.enter(move || {
        let socket = UdpSocket::bind((CLIENT, 0)).unwrap();
        socket.send_to(&datagram, (SERVER, PORT)).unwrap();
    });
}

fn of_fwknop() -> Vec<u8> {
    let key = fwknop::FwknopKey::new(b"testkey".to_vec()).unwrap();
    let hmac = fwknop::HmacKey::new(b"hmackey".to_vec()).unwrap();
    requests::of_fwknop(&key, &hmac, None)
}

/// Spoofed packets, until it goes out of scope.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
}

impl Flood {
    fn start(net: &Net, kind: Kind) -> Self {
        let flood = Self { stop: Arc::default(), sent: Arc::default() };
        let (stop, sent) = (Arc::clone(&flood.stop), Arc::clone(&flood.sent));
        let mac = net.server.must("cat", &["/sys/class/net/eth0/address"]);
        let namespace = net.client.name.clone();
        thread::spawn(move || {
            let file = fs::File::open(format!("/run/netns/{namespace}")).unwrap();
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let mut cable = pcap::Capture::from_device("eth0").unwrap().open().unwrap();
            let mac: Vec<u8> =
                mac.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
            let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
            let begun = now();
            while !stop.load(Ordering::Relaxed) {
                let due = (begun.elapsed().as_micros() as u64) * PER_SECOND / 1_000_000;
                if sent.load(Ordering::Relaxed) >= due {
                    thread::sleep(Duration::from_micros(200));
                    continue;
                }
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let bits = (state >> 32) as u32;
                // 100.64.0.0/10: four million sources.
                let source = 0x6440_0000 | (bits & 0x003f_ffff);
                let packet = PacketBuilder::ethernet2(
                    [2, 0, 0, 0, 0, 9],
                    mac[..].try_into().unwrap(),
                )
                .ipv4(source.to_be_bytes(), [192, 0, 2, 1], 64);
                let port = (bits >> 16) as u16 | 1024;
                let mut bytes = Vec::with_capacity(256);
                match kind {
                    Kind::Knocks => {
                        packet.tcp(port, 7000, bits, 1024).syn().write(&mut bytes, &[]).unwrap();
                    }
                    Kind::Datagrams => {
                        let mut junk = [0; LEN];
                        junk.chunks_exact_mut(8).zip(1u64..).for_each(|(eight, n)| {
                            eight.copy_from_slice(&(state ^ n).to_be_bytes())
                        });
                        packet.udp(port, PORT).write(&mut bytes, &junk).unwrap();
                    }
                    Kind::Fwknop => {
                        // Of the right length, and with the right characters: only the HMAC tells.
                        let mut junk = [b'8'; 204];
                        let digits = format!("{state:020}");
                        junk[1..21].copy_from_slice(digits.as_bytes());
                        packet.udp(port, PORT).write(&mut bytes, &junk).unwrap();
                    }
                }
                if cable.sendpacket(bytes).is_ok() {
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        flood
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads a clock")]
fn now() -> Instant {
    Instant::now()
}

fn processes(knockd: &Knockd) -> Vec<i32> {
    let mut all = knockd.watchers();
    all.push(knockd.pid());
    all
}

/// Resident memory of all processes, the mapped rings included.
fn resident(knockd: &Knockd) -> String {
    let kib = |pid: &i32| -> u64 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let each: Vec<u64> = processes(knockd).iter().map(kib).collect();
    format!("{} KiB resident ({each:?}: watcher, keeper)", each.iter().sum::<u64>())
}

/// Processor seconds that all processes have used.
fn cpu(knockd: &Knockd) -> f64 {
    let ticks = |pid: &i32| -> f64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()
    };
    processes(knockd).iter().map(ticks).sum::<f64>() / 100.0
}
