//! Sequences that rotate with time, knocked with `knock`, by hand and by a browser.
//!
//! Needs root; says loudly what it skips where it cannot run.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use libknock::proto::knock::Knock;
use libknock::proto::totp::{Digits, Protocols, Scheme, TotpKey, TotpMode, parse_secret};
use libknock::time::Wall;
use nix::sys::signal::Signal;

use crate::support::browser::{Browser, BrowserKind};
use crate::support::{
    CLIENT, CLIENT_6, Host, Knockd, Net, PATIENCE, SERVER, SERVER_6, eventually, needs,
};

pub(crate) const PHONE: &str = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP";
const LAPTOP: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";

const CLIENTS: &str = "clients:
  laptop: {doors: [ssh], totp: {secret_file: DIR/laptop.totp}}
  phone: {doors: [ssh], totp: {secret_file: DIR/phone.totp}}
";

/// Steps of an hour: what holds when a test begins holds until it ends, but for one in a thousand.
pub(crate) const BY_PORTS: &str = "{ports: 20000-29999, protocol: mixed, step: 1h}";
const BY_CODE: &str = "{mode: code, base: 7000, step: 1h}";

/// A daemon whose door writes who opened it, and two clients of it.
pub(crate) fn start(host: &Host, totp: &str) -> Knockd {
    start_for(host, totp, PHONE)
}

/// The same, with a secret of the phone's own.
pub(crate) fn start_for(host: &Host, totp: &str, phone: &str) -> Knockd {
    let directory = tempfile::tempdir().unwrap();
    for (name, secret) in [("phone", phone), ("laptop", LAPTOP)] {
        let path = directory.path().join(format!("{name}.totp"));
        fs::write(&path, format!("{secret}\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }
    let config = directory.path().join("knock.conf");
    let text = format!(
        "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody}}\n\
         {CLIENTS}doors:\n  ssh:\n    totp: {totp}\n    \
         start_command: echo %IP% %CLIENT% >> DIR/opened\n"
    );
    fs::write(&config, text.replace("DIR", directory.path().to_str().unwrap())).unwrap();
    let knockd = Knockd::run(host, directory, config, &[], &[]);
    knockd.wait_for("starting up, listening on");
    knockd
}

/// Who has opened the door: `192.0.2.2 phone`.
pub(crate) fn opened(knockd: &Knockd) -> Vec<String> {
    let path = knockd.directory.path().join("opened");
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

pub(crate) fn wait_until_opened(knockd: &Knockd, count: usize) {
    let done = eventually(PATIENCE, || opened(knockd).len() >= count);
    assert!(done, "{:?}", opened(knockd));
}

pub(crate) fn by_ports(step: u32) -> Scheme {
    let port = |number: u16| number.try_into().unwrap();
    let (low, high) = (port(20_000), port(29_999));
    let mode = TotpMode::Ports { low, high, length: 4, protocol: Protocols::Mixed };
    Scheme::new(mode, step, 1).unwrap()
}

fn by_code() -> Scheme {
    Scheme::new(TotpMode::Code { base: 7000, digits: Digits::Six }, 3600, 1).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "the daemon under test asks the clock too")]
fn step_now(scheme: Scheme) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    scheme.step_at(Wall::ZERO + now)
}

/// The sequence of a secret, so many steps from now.
pub(crate) fn sequence(scheme: Scheme, secret: &str, off: i64) -> Vec<Knock> {
    let key = TotpKey::from(&parse_secret(secret).unwrap());
    let step = step_now(scheme).checked_add_signed(off).unwrap();
    scheme.knocks(&key, "ssh", step).to_vec()
}

pub(crate) fn knock(net: &Net, knocks: &[Knock]) {
    let ports: Vec<String> = knocks.iter().map(Knock::to_string).collect();
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    net.client.knock_from(CLIENT.parse().unwrap(), SERVER, &ports, Duration::from_millis(10));
}

/// `knock --totp` with the secret of a client.
fn knock_totp(net: &Net, knockd: &Knockd, client: &str, address: &str, step: &str) {
    let secret: PathBuf = knockd.directory.path().join(format!("{client}.totp"));
    let secret = secret.to_str().unwrap();
    let arguments = [
        "--totp",
        "--door",
        "ssh",
        "--ports",
        "20000-29999",
        "--protocol",
        "mixed",
        "--step",
        step,
        "--secret-file",
        secret,
        "-d",
        "10",
        address,
    ];
    net.client.must(env!("CARGO_BIN_EXE_knock"), &arguments);
}

#[test]
fn the_client_opens_the_door_and_the_log_says_who_it_was() {
    needs!("totp");
    let net = Net::new();
    let knockd = start(&net.server, BY_PORTS);
    knock_totp(&net, &knockd, "phone", SERVER, "1h");
    wait_until_opened(&knockd, 1);
    knockd.wait_for("192.0.2.2: ssh: OPEN SESAME");
    knock_totp(&net, &knockd, "laptop", SERVER, "1h");
    wait_until_opened(&knockd, 2);
    assert_eq!(opened(&knockd), [format!("{CLIENT} phone"), format!("{CLIENT} laptop")]);
}

#[test]
fn both_families_open_but_one_sequence_only_once() {
    needs!("totp-families");
    let net = Net::new();
    let knockd = start(&net.server, BY_PORTS);
    knock_totp(&net, &knockd, "phone", SERVER_6, "1h");
    wait_until_opened(&knockd, 1);
    knock_totp(&net, &knockd, "phone", SERVER, "1h");
    knockd.wait_for("192.0.2.2: ssh: not opened: it has been used before");
    assert_eq!(opened(&knockd), [format!("{CLIENT_6} phone")]);
}

#[test]
fn a_sequence_that_has_been_used_opens_nothing_even_after_a_restart() {
    needs!("totp-replay");
    let net = Net::new();
    let knockd = start(&net.server, BY_PORTS);
    let knocks = sequence(by_ports(3600), PHONE, 0);
    knock(&net, &knocks);
    wait_until_opened(&knockd, 1);
    knock(&net, &knocks);
    knockd.wait_for_count("not opened: it has been used before", 1);
    knockd.signal(Signal::SIGKILL);
    let knockd = knockd.start_again(&net.server);
    knockd.wait_for("starting up, listening on");
    knock(&net, &knocks);
    knockd.wait_for("not opened: it has been used before");
    // Those of the steps beside it have not been used.
    knock(&net, &sequence(by_ports(3600), PHONE, 1));
    wait_until_opened(&knockd, 2);
    assert_eq!(opened(&knockd).len(), 2);
}

#[test]
fn half_a_sequence_that_was_overheard_opens_nothing() {
    needs!("totp-half");
    let net = Net::new();
    let knockd = start(&net.server, BY_PORTS);
    let knocks = sequence(by_ports(3600), PHONE, 0);
    let mut early = knocks.clone();
    early.truncate(3);
    knock(&net, &early);
    knockd.wait_for("192.0.2.2: ssh: Stage 3");
    let address: std::net::IpAddr = CLIENT_6.parse().unwrap();
    let rest = knocks[3].to_string();
    net.client.knock_from(address, SERVER_6, &[&rest], Duration::from_millis(10));
    // The owner is not disturbed.
    knock(&net, &knocks[3..]);
    wait_until_opened(&knockd, 1);
    assert_eq!(opened(&knockd), [format!("{CLIENT} phone")]);
}

#[test]
fn steps_turn_while_it_runs() {
    needs!("totp-turn");
    let net = Net::new();
    let knockd = start(&net.server, "{ports: 20000-29999, protocol: mixed, step: 2s, skew: 2}");
    for round in 1..=4 {
        knock_totp(&net, &knockd, "phone", SERVER, "2s");
        wait_until_opened(&knockd, round);
        std::thread::sleep(Duration::from_millis(2100));
    }
    assert_eq!(opened(&knockd).len(), 4);
}

#[test]
fn a_client_whose_clock_is_off_is_told_by_how_much() {
    needs!("totp-clock");
    let net = Net::new();
    let knockd = start(&net.server, "{ports: 20000-29999, protocol: mixed, step: 30s}");
    knock(&net, &sequence(by_ports(30), LAPTOP, 40));
    knockd.wait_for("is a clock off?");
    let log = knockd.log();
    let line = log.iter().find(|line| line.contains("is a clock off?")).unwrap();
    // The step may have turned in between.
    assert!(line.contains(" 40 steps ahead") || line.contains(" 39 steps ahead"), "{line}");
    assert!(line.contains("laptop"), "{line}");
    assert!(opened(&knockd).is_empty());
}

#[test]
fn guesses_lock_out_and_the_status_shows_it_over_a_reload_too() {
    needs!("totp-lockout");
    let net = Net::new();
    let knockd = start(&net.server, BY_CODE);
    let valid: Vec<Knock> = [PHONE, LAPTOP]
        .iter()
        .flat_map(|secret| (-1..=1).flat_map(|off| sequence(by_code(), secret, off)))
        .collect();
    let wrong: Vec<Knock> = (7000..7100)
        .map(|port: u16| port.to_string().parse().unwrap())
        .filter(|knock| !valid.contains(knock))
        .take(15)
        .collect();
    knock(&net, &wrong);
    knockd.wait_for("192.0.2.2: ssh: failed too often: not listened to at this door for 3600 s");
    let locked_out = |knockd: &Knockd| {
        let status = knockd.ask(r#"{"do":"status"}"#).remove(0);
        status["locked_out"].clone()
    };
    let shown = locked_out(&knockd);
    assert_eq!((&shown[0]["address"], &shown[0]["door"]), (&CLIENT.into(), &"ssh".into()));
    knock(&net, &sequence(by_code(), PHONE, 0));
    let before = knockd.watchers();
    knockd.signal(Signal::SIGHUP);
    let replaced = || matches!(knockd.watchers()[..], [watcher] if !before.contains(&watcher));
    assert!(eventually(2 * PATIENCE, replaced), "there is no new watcher");
    knock(&net, &sequence(by_code(), PHONE, 1));
    // Others are listened to.
    let code: Vec<String> = sequence(by_code(), LAPTOP, 0).iter().map(Knock::to_string).collect();
    let code: Vec<&str> = code.iter().map(String::as_str).collect();
    net.client.knock_from(CLIENT_6.parse().unwrap(), SERVER_6, &code, Duration::from_millis(10));
    wait_until_opened(&knockd, 1);
    assert_eq!(opened(&knockd), [format!("{CLIENT_6} laptop")]);
    assert_eq!(locked_out(&knockd)[0]["address"], CLIENT);
}

/// The ports of a code, as they are typed.
fn typed(secret: &str, off: i64) -> Vec<String> {
    sequence(by_code(), secret, off).iter().map(|knock| knock.port.to_string()).collect()
}

#[test]
fn a_code_is_knocked_with_nothing_but_a_shell() {
    needs!("totp-shell", "bash");
    let net = Net::new();
    let knockd = start(&net.server, BY_CODE);
    for port in typed(PHONE, 0) {
        let script = format!("(echo > /dev/tcp/{SERVER}/{port}) 2>/dev/null || true");
        net.client.must("bash", &["-c", &script]);
    }
    wait_until_opened(&knockd, 1);
    assert_eq!(opened(&knockd), [format!("{CLIENT} phone")]);
}

#[test]
fn a_code_is_knocked_with_nc() {
    needs!("totp-nc", "nc");
    let net = Net::new();
    let knockd = start(&net.server, BY_CODE);
    for port in typed(PHONE, 0) {
        net.client.run("nc", &["-z", "-w", "1", SERVER, &port]);
    }
    wait_until_opened(&knockd, 1);
}

/// Drops what comes to the ports of a door for codes, as a firewall does, instead of refusing it.
pub(crate) fn be_silent(net: &Net) {
    for iptables in ["iptables", "ip6tables"] {
        let rule = ["-A", "INPUT", "-p", "tcp", "--dport", "7000:7099", "-j", "DROP"];
        net.server.must(iptables, &rule);
    }
}

#[test]
fn a_code_is_knocked_with_the_address_bar_of_a_browser() {
    needs!("totp-browser", "chromium", "firefox-esr", "iptables");
    // Ports that refuse and ports that do not answer are tried again in different ways.
    for (kind, silent) in BrowserKind::ALL.into_iter().flat_map(|it| [(it, false), (it, true)]) {
        let net = Net::new();
        if silent {
            be_silent(&net);
        }
        let knockd = start(&net.server, BY_CODE);
        let mut browser = Browser::start(kind, &net.client);
        for (port, told) in typed(PHONE, 0).iter().zip(["Stage 1", "Stage 2", "OPEN SESAME"]) {
            browser.visit(&format!("http://{SERVER}:{port}/"));
            knockd.wait_for(told);
            // A person goes on to the next address when nothing happens; meanwhile it tries again.
            std::thread::sleep(Duration::from_secs(2));
        }
        wait_until_opened(&knockd, 1);
        assert_eq!(opened(&knockd), [format!("{CLIENT} phone")], "{kind:?}, silent: {silent}");
        assert_eq!(knockd.count("failed too often"), 0);
    }
}

#[test]
fn who_may_knock_is_listed_with_the_last_time_that_they_did() {
    needs!("clients");
    let net = Net::new();
    let knockd = start(&net.server, BY_PORTS);
    let clients = || match &knockd.ask(r#"{"do":"clients"}"#)[..] {
        [reply, _done] => reply["clients"].as_array().unwrap().clone(),
        other => panic!("{other:?}"),
    };
    let before = clients();
    assert_eq!(before.len(), 2);
    for (client, name) in before.iter().zip(["laptop", "phone"]) {
        let expected = serde_json::json!({"client": name, "by": ["totp"], "doors": ["ssh"]});
        assert_eq!(*client, expected);
    }
    knock(&net, &sequence(by_ports(3600), PHONE, 0));
    wait_until_opened(&knockd, 1);
    assert!(eventually(PATIENCE, || clients()[1]["last_used"].as_f64().is_some()));
    assert_eq!(clients()[0], before[0]);
}
