//! fwknopd and knockd, put to the same packets.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;

use libknock::config::{Config, FwknopClient};
use libknock::proto::fwknop::{Access, FwknopKeys, FwknopRequest, Hash, Random, seal};
use libknock::sys::clock;

use crate::support::command;

/// A request, and where it comes from and goes to.
struct Probe {
    from: [u8; 4],
    to: [u8; 4],
    ports: &'static [&'static str],
    user: &'static str,
    names_address: bool,
}

const PLAIN: Probe = Probe {
    from: [192, 0, 2, 1],
    to: [203, 0, 113, 1],
    ports: &["22"],
    user: "root",
    names_address: true,
};

/// The address that a probe asks for shows in the logs which one it was.
const PROBES: &[Probe] = &[
    PLAIN,
    Probe { from: [192, 0, 2, 2], ..PLAIN },
    Probe { from: [192, 0, 3, 1], ..PLAIN },
    Probe { from: [198, 51, 100, 77], ..PLAIN },
    Probe { from: [8, 1, 1, 1], ..PLAIN },
    Probe { from: [10, 1, 1, 1], ..PLAIN },
    Probe { to: [192, 0, 2, 1], ..PLAIN },
    Probe { to: [192, 0, 2, 2], ..PLAIN },
    Probe { from: [192, 0, 2, 9], names_address: false, ..PLAIN },
    Probe { ports: &["53/udp"], ..PLAIN },
    Probe { ports: &["22", "53/udp"], ..PLAIN },
    Probe { ports: &["22/udp"], ..PLAIN },
    Probe { ports: &["23"], ..PLAIN },
    Probe { ports: &["25"], ..PLAIN },
    Probe { ports: &["65535"], ..PLAIN },
    Probe { user: "bob", ..PLAIN },
    Probe { user: "bob smith", ..PLAIN },
];

/// What each probe opens, as the one and the other see it, by its number.
pub(super) type Opened = BTreeMap<usize, BTreeSet<String>>;

/// Sends the probes, with the keys of the first client that was imported, to fwknopd and to knockd.
pub(super) fn opened(directory: &Path, yaml: &str, config: &Config) -> Option<[Opened; 2]> {
    let client = config.clients.iter().find(|client| !client.doors.is_empty())?;
    let capture = directory.join("probes.pcap");
    write_capture(&capture, client.fwknop.as_ref()?);
    Some([by_fwknopd(directory, &capture), by_knockd(directory, &capture, yaml, config)])
}

fn asked_for(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, u8::try_from(number).unwrap() + 100)
}

fn write_capture(path: &Path, client: &FwknopClient) {
    let now = u32::try_from(clock::now().wall.as_nanos() / 1_000_000_000).unwrap();
    // libpcap's file, version 2.4, of packets that begin with their IP header.
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 101] {
        file.extend(word.to_ne_bytes());
    }
    for (number, probe) in PROBES.iter().enumerate() {
        let unique = u8::try_from(number).unwrap();
        let request = FwknopRequest {
            random: Random::new([unique; 16]),
            user: probe.user.parse().unwrap(),
            timestamp: now.into(),
            access: Access {
                address: probe.names_address.then(|| asked_for(number)),
                ports: probe.ports.iter().map(|port| port.parse().unwrap()).collect(),
                nat: None,
                timeout: None,
            },
        };
        let hmac = client.hmac.as_ref().map(|(key, hash)| (key, *hash));
        let keys = FwknopKeys { key: &client.key, mode: client.mode, hmac };
        let text = seal(&request, Hash::Sha256, keys, [unique; 8]);
        let payload = text.unwrap().into_bytes();
        let length = u16::try_from(payload.len()).unwrap();
        let mut packet = vec![0x45, 0];
        packet.extend((length + 28).to_be_bytes());
        packet.extend([0, 1, 0, 0, 64, 17, 0, 0]);
        packet.extend([probe.from, probe.to].concat());
        for word in [40_000, 62_201, length + 8, 0] {
            packet.extend(word.to_be_bytes());
        }
        packet.extend(payload);
        let length = u32::try_from(packet.len()).unwrap();
        // The fraction tells the probes apart.
        for word in [now, u32::try_from(number).unwrap(), length, length] {
            file.extend(word.to_ne_bytes());
        }
        file.extend(packet);
    }
    fs::write(path, file).unwrap();
}

/// By the rules that it would have added.
fn by_fwknopd(directory: &Path, capture: &Path) -> Opened {
    let own = fs::read_to_string(directory.join("fwknopd.conf")).unwrap();
    let config = directory.join("probed.conf");
    let more = "PCAP_INTF lo;\nPCAP_LOOP_SLEEP 1000;\nFIREWALL_EXE /bin/true;\n";
    fs::write(&config, format!("{own}{more}ENABLE_IPT_COMMENT_CHECK N;\n")).unwrap();
    let count = PROBES.len().to_string();
    let output = command("timeout")
        .args(["5", "fwknopd", "-f", "--no-ipt-check-support", "-C", &count, "-r"])
        .arg(directory)
        .arg("-c")
        .arg(&config)
        .arg("-a")
        .arg(directory.join("access.conf"))
        .arg("--pcap-file")
        .arg(capture)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.contains("Packet count limit"), "it did not read all of them: {text}");
    let mut opened = Opened::new();
    // The second is for what is led to another host.
    let rules = ["Added access rule to ", "Added FORWARD rule to "];
    for line in text.lines().filter_map(|line| rules.iter().find_map(|it| line.strip_prefix(it))) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (address, ports) = (words[2], words[5].trim_end_matches(','));
        let number = PROBES.iter().enumerate().position(|(number, probe)| {
            let shown = if probe.names_address { asked_for(number) } else { probe.from.into() };
            shown.to_string() == address
        });
        let ports = ports.split(',').map(|port| {
            let (protocol, port) = port.split_once('/').unwrap();
            format!("{port}/{protocol}")
        });
        opened.entry(number.unwrap()).or_default().extend(ports);
    }
    opened
}

/// By the doors that would open.
fn by_knockd(directory: &Path, capture: &Path, yaml: &str, config: &Config) -> Opened {
    let file = directory.join("imported.yaml");
    fs::write(&file, yaml).unwrap();
    let output = command(env!("CARGO_BIN_EXE_knockctl"))
        .args(["--insecure-permissions", "-c"])
        .arg(&file)
        .args(["explain", "--json"])
        .arg(capture)
        .output()
        .unwrap();
    let mut opened = Opened::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        if event["event"] != "open" {
            continue;
        }
        let fraction = event["time"].as_f64().unwrap().fract() * 1e6;
        let door = config.doors.iter().find(|door| event["door"] == door.name().as_str()).unwrap();
        let forwards = door.opening.forwards.iter().map(|forward| forward.on.to_string());
        let ports = door.opening.ports.iter().map(ToString::to_string).chain(forwards);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is small")]
        opened.entry(fraction.round() as usize).or_default().extend(ports);
    }
    opened
}
