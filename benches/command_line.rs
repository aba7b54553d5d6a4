//! From the command line to the open port: a program is started as a user starts it at a terminal,
//! with what it needs to know in its file of settings, and its port is probed until it opens.
//!
//! In one run: `knock` with a native request, a rotating sequence and a sequence, each at a knockd
//! with its guard; classic knock, fwknop and letmein, each at its own server; each pair between two
//! network namespaces of its own. Each of 200 rounds measures all of them, one after the other, from
//! another source. The start is the moment before the program is forked, all else are stamps of the
//! client's kernel. Needs root.

mod others;
#[allow(dead_code, reason = "what only other benchmarks need")]
mod probes;
#[path = "../tests/support/mod.rs"]
#[allow(dead_code, unused_imports, unused_macros, reason = "what only the tests need")]
mod support;

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, thread};

use data_encoding::BASE32;
use nix::pty::openpty;
use others::{LETMEIN_KEY, OtherServer};
use probes::{KnockKind, PORT, ProgramTimes, until_open_by};
use support::{Knockd, Net, SERVER, can_make_namespaces, has_programs, requests, skipped};

/// How many, and so how many sources and clients.
const ROUNDS: u8 = 200;

fn main() {
    if !can_make_namespaces("command_line") || !has_programs("command_line", &["iptables"]) {
        return;
    }
    // `cargo bench --bench command_line -- SPA` measures only those with the word in their name.
    let words: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let mut entries: Vec<Entry> = CONTENDERS
        .into_iter()
        .filter(|(name, ..)| words.is_empty() || words.iter().any(|word| name.contains(word)))
        .filter(|(name, program, _)| is_there(name, program))
        .map(|(name, program, who)| Entry::start(name, program, who))
        .collect();
    let terminal = Terminal::new();
    // In turn, so that whatever else the machine does meets all of them alike.
    for round in 1..=ROUNDS {
        for entry in &mut entries {
            let times = entry.one_round(round, &terminal);
            entry.times.push(times);
            // What is done after a door has opened is no part of the next round.
            thread::sleep(Duration::from_millis(20));
        }
    }
    println!("ms from the start, p50 and p99; 'server': from the last packet to the open port");
    println!(
        "{:24} {:>13} {:>15} {:>15} {:>15} {:>13}",
        "", "first packet", "last packet", "server", "open", "ended"
    );
    entries.iter().for_each(Entry::report);
}

/// Who is measured, and by which client. That of another build is named by `OTHER_KNOCK`.
const CONTENDERS: [(&str, &str, Contender); 9] = [
    ("knock, SPA", env!("CARGO_BIN_EXE_knock"), Contender::Spa),
    ("other build, SPA", "$OTHER_KNOCK", Contender::Spa),
    ("knock, TOTP", env!("CARGO_BIN_EXE_knock"), Contender::Totp),
    ("knock, sequence", env!("CARGO_BIN_EXE_knock"), Contender::Sequence),
    ("other build, sequence", "$OTHER_KNOCK", Contender::Sequence),
    ("classic knock", "/usr/bin/knock", Contender::Classic),
    ("fwknop, capture", "/usr/bin/fwknop", Contender::Fwknop { udp: false }),
    ("fwknop, UDP", "/usr/bin/fwknop", Contender::Fwknop { udp: true }),
    ("letmein", "letmein", Contender::Letmein),
];

/// How a door is knocked at, and at whose.
#[derive(Clone, Copy)]
enum Contender {
    Spa,
    /// Four SYNs without a pause.
    Totp,
    /// Three SYNs without a pause.
    Sequence,
    Classic,
    /// By capture, or with a socket of its own.
    Fwknop {
        udp: bool,
    },
    Letmein,
}

/// Whether client and server are there; says so when not.
fn is_there(name: &str, program: &str) -> bool {
    let servers: &[&str] = match name.split([' ', ',']).next() {
        Some("classic") => &["knockd"],
        Some("fwknop") => &["fwknopd"],
        Some("letmein") => &["letmeind", "letmeinfwd", "nft", "setpriv"],
        _ => &[],
    };
    let path = env::var_os("PATH").unwrap_or_default();
    let is_found = |program: &str| env::split_paths(&path).any(|it| it.join(program).exists());
    let client = client_at(program);
    let mut needed = client.iter().map(String::as_str).chain(servers.iter().copied());
    let missing = needed.find(|program| !is_found(program));
    if client.is_none() {
        return false;
    }
    missing.inspect(|it| skipped(name, &format!("{it} is not in PATH"))).is_none()
}

fn client_at(program: &str) -> Option<String> {
    program.strip_prefix('$').map_or_else(|| Some(program.to_owned()), |it| env::var(it).ok())
}

/// A server at work between two namespaces of its own, and what its client needs.
struct Entry {
    name: &'static str,
    client: String,
    who: Contender,
    // Before the namespaces that they run in.
    _ours: Option<Knockd>,
    _other: Option<OtherServer>,
    _theirs: tempfile::TempDir,
    net: Net,
    /// With the client's settings.
    home: tempfile::TempDir,
    /// `None`: the port did not open.
    times: Vec<Option<ProgramTimes>>,
}

impl Entry {
    fn start(name: &'static str, program: &'static str, who: Contender) -> Self {
        let net = Net::new();
        // Sources of their own, so that no round finds the port open.
        net.server.must("ip", &["route", "add", "198.51.100.0/24", "via", support::CLIENT]);
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join(".config/knock")).unwrap();
        let (directory, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mut ours, mut other) = (None, None);
        match who {
            Contender::Spa | Contender::Totp | Contender::Sequence => {
                net.server.listen(PORT);
                let knockd = start_ours(&net, directory, who);
                settle_ours(home.path(), &knockd, who);
                ours = Some(knockd);
            }
            Contender::Classic => {
                net.shut(PORT);
                other = Some(OtherServer::knockd(&net, theirs.path()));
            }
            Contender::Fwknop { udp } => {
                net.shut(PORT);
                let keys = (KEY, HMAC_KEY);
                other = Some(OtherServer::fwknopd(&net, theirs.path(), keys, udp));
                let text = format!(
                    "[gw]\nSPA_SERVER {SERVER}\nACCESS tcp/22\nKEY_BASE64 {KEY}\n\
                     HMAC_KEY_BASE64 {HMAC_KEY}\nUSE_HMAC Y\n"
                );
                write(&home.path().join(".fwknoprc"), &text);
            }
            Contender::Letmein => {
                net.server.listen(PORT);
                other = Some(OtherServer::letmein(&net, theirs.path()));
                let text = format!(
                    "[GENERAL]\nport = 5800\nseccomp = off\n[CLIENT]\ndefault-user = 00000001\n\
                     [KEYS]\n00000001 = {LETMEIN_KEY}\n[RESOURCES]\n0000000A = port: 22\n"
                );
                write(&home.path().join("letmein.conf"), &text);
            }
        }
        thread::sleep(Duration::from_secs(2));
        let client = client_at(program).unwrap();
        let (_ours, _other, _theirs, times) = (ours, other, theirs, Vec::new());
        Self { name, client, who, _ours, _other, _theirs, net, home, times }
    }

    fn one_round(&self, round: u8, terminal: &Terminal) -> Option<ProgramTimes> {
        let source = Ipv4Addr::new(198, 51, 100, round);
        let client = &self.net.client;
        client.must("ip", &["addr", "add", &format!("{source}/32"), "dev", "eth0"]);
        let from = ["dev", "eth0", "src", &source.to_string()];
        client.must("ip", &[&["route", "replace", "192.0.2.0/24"], &from[..]].concat());
        if matches!(self.who, Contender::Totp) {
            // Each sequence opens once.
            settle_totp(self.home.path(), round);
        }
        let mut program = support::command(&self.client);
        let letmein = self.home.path().join("letmein.conf").display().to_string();
        let (arguments, knocks): (&[&str], _) = match self.who {
            Contender::Spa => (&["gw"], (KnockKind::Datagram, 1)),
            Contender::Totp => (&["gw"], (KnockKind::Syn, 4)),
            Contender::Sequence => (&["gw"], (KnockKind::Syn, 3)),
            Contender::Classic => (&[SERVER, "7000", "8000", "9000"], (KnockKind::Syn, 3)),
            Contender::Fwknop { .. } => (&["-s", "-n", "gw"], (KnockKind::Datagram, 1)),
            Contender::Letmein => {
                (&["-c", &letmein, "knock", SERVER, "22"], (KnockKind::Segment, 2))
            }
        };
        let path = env::var_os("PATH").unwrap_or_default();
        program.args(arguments).env_clear().env("PATH", path);
        program.env("HOME", self.home.path()).env("TERM", "xterm");
        terminal.lend(&mut program);
        until_open_by(&self.net, source, program, knocks)
    }

    fn report(&self) {
        let all: Vec<ProgramTimes> = self.times.iter().copied().flatten().collect();
        if all.is_empty() {
            println!("{:24} never opened", self.name);
            return;
        }
        let figures = |of: fn(&ProgramTimes) -> Duration| {
            let mut times: Vec<Duration> = all.iter().map(of).collect();
            times.sort();
            let at = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1e3;
            format!("{:.2} {:.2}", at(50), at(99))
        };
        let missed = self.times.len() - all.len();
        println!(
            "{:24} {:>13} {:>15} {:>15} {:>15} {:>13}{}",
            self.name,
            figures(|it| it.first),
            figures(|it| it.last),
            figures(|it| it.open.saturating_sub(it.last)),
            figures(|it| it.open),
            figures(|it| it.ended),
            if missed > 0 { format!("   {missed} rounds never opened") } else { String::new() }
        );
    }
}

const KEY: &str = "d2l0aG91dCBhIGtub2NrIG5vdGhpbmcgb3BlbnM=";
const HMAC_KEY: &str = "bm90aGluZyBvcGVucyB3aXRob3V0IGEga25vY2s=";

fn start_ours(net: &Net, directory: tempfile::TempDir, who: Contender) -> Knockd {
    let spa = "spa: {key_file: DIR/keys/server.key}";
    let (spa, clients, door) = match who {
        Contender::Spa => {
            let key = requests::client_key().public();
            (spa, format!("  owner: {{doors: [ssh], spa: {{public_key: {key}}}}}\n"), "spa: true")
        }
        Contender::Totp => {
            let client = |round| {
                let file = directory.path().join(format!("{round}.totp"));
                write(&file, &totp_secret(round));
                format!("  c{round}: {{doors: [ssh], totp: {{secret_file: {}}}}}\n", file.display())
            };
            ("", (1..=ROUNDS).map(client).collect(), "totp: {ports: 20000-29999, step: 1h}")
        }
        _ => ("", "  {}\n".to_owned(), "sequence: [7000, 8000, 9000]"),
    };
    let text = format!(
        "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody, {spa}}}\n\
         clients:\n{clients}doors:\n  ssh: {{{door}, open: [22], via: guard, open_for: 1h}}\n"
    );
    let config = directory.path().join("knock.conf");
    write(&config, &text.replace("DIR", directory.path().to_str().unwrap()));
    let knockd = Knockd::run(&net.server, directory, config, &[], &[]);
    knockd.wait_for("starting up, listening on");
    knockd
}

/// The settings of `knock`.
fn settle_ours(home: &Path, knockd: &Knockd, who: Contender) {
    let how = match who {
        Contender::Spa => {
            write(&home.join(".config/knock/gw.key"), &requests::client_key().encode());
            format!("mode: spa, server_key: {}, key_file: gw.key", knockd.server_key())
        }
        Contender::Totp => return,
        _ => "ports: [7000, 8000, 9000], delay: 0".to_owned(),
    };
    write_hosts(home, &how);
}

fn settle_totp(home: &Path, round: u8) {
    write(&home.join(".config/knock/gw.totp"), &totp_secret(round));
    let how = "mode: totp, door: ssh, ports: 20000-29999, step: 1h, secret_file: gw.totp, delay: 0";
    write_hosts(home, how);
}

fn write_hosts(home: &Path, how: &str) {
    let text = format!("hosts:\n  gw: {{host: {SERVER}, {how}}}\n");
    write(&home.join(".config/knock/hosts.yaml"), &text);
}

fn totp_secret(round: u8) -> String {
    let bytes: [u8; 20] = std::array::from_fn(|at| round.wrapping_mul(7).wrapping_add(at as u8));
    BASE32.encode(&bytes)
}

fn write(file: &PathBuf, text: &str) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
}

/// A terminal that nobody looks at.
struct Terminal(File);

impl Terminal {
    fn new() -> Self {
        let pair = openpty(None, None).unwrap();
        let mut master = File::from(pair.master);
        thread::spawn(move || while master.read(&mut [0; 4096]).is_ok_and(|length| length > 0) {});
        Self(pair.slave.into())
    }

    /// Standard input and output of a program.
    fn lend(&self, program: &mut Command) {
        let end = || self.0.try_clone().unwrap();
        program.stdin(end()).stdout(end()).stderr(end());
    }
}
