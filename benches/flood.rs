//! Whether the owner gets in while strangers flood the wire, and what that costs.
//!
//! 100,000 SYN a second from spoofed sources go to a door's first port, between two network
//! namespaces; meanwhile a legitimate address knocks twenty times. Needs root.

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use support::{CLIENT, Knockd, Net, SERVER, can_make_namespaces, eventually, has_programs};

const PER_SECOND: u64 = 100_000;
const KNOCKS: usize = 20;

fn main() {
    if !can_make_namespaces("flood") || !has_programs("flood", &["iptables"]) {
        return;
    }
    let net = Net::new();
    let drop_knocks = ["-A", "INPUT", "-p", "tcp", "--dport", "7000:9000", "-j", "DROP"];
    net.server.must("iptables", &drop_knocks);
    let knockd = Knockd::start(
        &net.server,
        "knockd: {interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody}\n\
         doors:\n  ssh: {sequence: [7000, 8000, 9000], start_command: [echo, \"%IP%\"]}\n",
    );
    println!("idle:       {}", resident(&knockd));
    let flood = Flood::start(&net);
    thread::sleep(Duration::from_secs(3));
    let (sent_before, cpu_before, begun) = (flood.sent(), cpu(&knockd), now());
    let mut opened = 0;
    for knock in 1..=KNOCKS {
        let from: IpAddr = CLIENT.parse().unwrap();
        net.client.knock_from(from, SERVER, &["7000", "8000", "9000"], Duration::from_millis(15));
        if eventually(Duration::from_secs(2), || knockd.count("OPEN SESAME") >= knock) {
            opened += 1;
        }
        thread::sleep(Duration::from_millis(100));
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("flood:      {}", resident(&knockd));
    println!("rate:       {:.0} SYN/s", (flood.sent() - sent_before) as f64 / seconds);
    println!("processor:  {:.0} % of one core", (cpu(&knockd) - cpu_before) / seconds * 100.0);
    println!("opened:     {opened} of {KNOCKS}");
    drop(flood);
    thread::sleep(Duration::from_secs(11));
    for line in
        knockd.log().iter().filter(|line| line.contains("more knocks") || line.contains("dropped"))
    {
        println!("log:        {line}");
    }
    println!("log lines:  {}", knockd.log().len());
}

/// Spoofed first knocks, until it goes out of scope.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
}

impl Flood {
    fn start(net: &Net) -> Self {
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
                let packet =
                    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], mac[..].try_into().unwrap())
                        .ipv4(source.to_be_bytes(), [192, 0, 2, 1], 64)
                        .tcp((bits >> 16) as u16 | 1024, 7000, bits, 1024)
                        .syn();
                let mut bytes = Vec::with_capacity(64);
                packet.write(&mut bytes, &[]).unwrap();
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
