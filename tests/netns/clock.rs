//! The kernel's own clock is set by hours while everything runs: by hand, by a boot without a
//! battery, by whoever forges time on the network.
//!
//! Only in the virtual machine of `tools/vm`, which `make long` runs: no namespace has a calendar
//! of its own.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use libknock::proto::fwknop::FwknopRequest;
use libknock::proto::spa::{SpaRequest, Stamp};
use libknock::sys::clock;
use nix::sys::signal::Signal;

use crate::support::{CLIENT, Knockd, Net, PATIENCE, SERVER, command, eventually, must};
use crate::{fwknop, spa, totp};

const HOURS: i64 = 5;
const BY_COMMANDS: [&str; 3] = ["7000", "8000", "9000"];
const BY_GUARD: [&str; 3] = ["7100", "8100", "9100"];
/// How long the doors are open: the machine may be an emulated one.
const OPEN_FOR: Duration = Duration::from_secs(20);

/// Sets the clock of this machine, forwards or back.
fn set_by(hours: i64) {
    let command_line = fs::read_to_string("/proc/cmdline").unwrap();
    assert!(command_line.contains("knock.vm"), "this is not the machine of tools/vm");
    let before = seconds();
    let after = before.checked_add_signed(hours * 3600).unwrap();
    must("date", &["-s", &format!("@{after}")]);
    assert!(seconds().abs_diff(after) < 60, "the clock was not set");
}

fn seconds() -> u64 {
    micros() / 1_000_000
}

fn micros() -> u64 {
    clock::now().wall.as_nanos() / 1000
}

#[expect(clippy::disallowed_methods, reason = "what the calendar must not change is measured")]
fn now() -> Instant {
    Instant::now()
}

fn knock(net: &Net, ports: &[&str]) {
    net.client.knock_from(CLIENT.parse().unwrap(), SERVER, ports, Duration::from_millis(10));
}

fn acts(knockd: &Knockd) -> Vec<String> {
    let path = knockd.directory.path().join("acts");
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn doors() -> String {
    let open_for = OPEN_FOR.as_secs();
    format!(
        "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody}}\n\
         doors:\n\
         \x20 acts:\n\
         \x20   sequence: [7000, 8000, 9000]\n\
         \x20   open_for: {open_for}s\n\
         \x20   start_command: echo open >> DIR/acts\n\
         \x20   stop_command: echo close >> DIR/acts\n\
         \x20 ssh: {{sequence: [7100, 8100, 9100], open: [22], open_for: {open_for}s}}\n"
    )
}

fn open_both(net: &Net, knockd: &Knockd) {
    knock(net, &BY_COMMANDS);
    knock(net, &BY_GUARD);
    let opened = || knockd.grants().iter().filter(|grant| grant["state"] == "open").count() == 2;
    assert!(eventually(PATIENCE, opened), "{:?}", knockd.grants());
}

/// What opened both at this moment ends when its time is over: no earlier, and not hours later.
fn ends_in_time(net: &Net, knockd: &Knockd, opened: Instant) {
    let ended = eventually(2 * OPEN_FOR, || knockd.grants().is_empty());
    assert!(ended, "late: {:?}", knockd.grants());
    assert!(opened.elapsed() >= OPEN_FOR - Duration::from_millis(500), "early");
    assert_eq!(acts(knockd).last().unwrap(), "close");
    assert!(!net.client.can_connect(SERVER, 22), "the guarded port stays open");
}

#[test]
#[ignore = "sets the clock: tools/vm"]
fn grants_end_in_their_time() {
    let net = Net::new();
    net.server.listen(22);
    let knockd = Knockd::start(&net.server, &doors());
    for hours in [HOURS, -HOURS] {
        let before = now();
        open_both(&net, &knockd);
        set_by(hours);
        thread::sleep(Duration::from_secs(2));
        assert_eq!(knockd.grants().len(), 2, "{hours}: early");
        assert!(net.client.can_connect(SERVER, 22), "{hours}: the kernel closes early");
        ends_in_time(&net, &knockd, before);
    }
    assert_eq!(acts(&knockd), ["open", "close", "open", "close"]);
}

#[test]
#[ignore = "sets the clock: tools/vm"]
fn grants_end_in_their_time_where_the_keeper_was_dead_when_it_was_set() {
    let net = Net::new();
    net.server.listen(22);
    let mut knockd = Knockd::start(&net.server, &doors());
    for hours in [HOURS, -HOURS] {
        let before = now();
        open_both(&net, &knockd);
        knockd.signal(Signal::SIGKILL);
        knockd.ended();
        set_by(hours);
        knockd = knockd.start_again(&net.server);
        knockd.wait_for("starting up");
        assert_eq!(knockd.grants().len(), 2, "{hours}: early");
        ends_in_time(&net, &knockd, before);
    }
}

#[test]
#[ignore = "sets the clock: tools/vm"]
fn a_sequence_goes_on_across_it_and_one_that_took_too_long_does_not() {
    let net = Net::new();
    let with_limit = doors().replace("open_for: 20s}", "open_for: 20s, seq_timeout: 10s}");
    let knockd = Knockd::start(&net.server, &with_limit);
    for (round, hours) in (1..).zip([HOURS, -HOURS]) {
        knock(&net, &BY_COMMANDS[..2]);
        knockd.wait_for_count("192.0.2.2: acts: Stage 2", round);
        set_by(hours);
        knock(&net, &BY_COMMANDS[2..]);
        knockd.wait_for_count("192.0.2.2: acts: OPEN SESAME", round);

        knock(&net, &BY_GUARD[..2]);
        knockd.wait_for_count("192.0.2.2: ssh: Stage 2", round);
        set_by(-hours);
        knockd.wait_for_count("192.0.2.2: ssh: sequence timeout (stage 2)", round);
        knock(&net, &BY_GUARD[2..]);
        set_by(hours);
    }
    assert_eq!(knockd.count("ssh: OPEN SESAME"), 0);
}

#[test]
#[ignore = "sets the clock: tools/vm"]
fn a_rotating_sequence_is_of_the_calendar_and_opens_once() {
    let net = Net::new();
    let knockd = totp::start(&net.server, totp::BY_PORTS);
    let of = |off: i64| totp::sequence(totp::by_ports(3600), totp::PHONE, off);
    let first = of(0);
    totp::knock(&net, &first);
    totp::wait_until_opened(&knockd, 1);

    set_by(HOURS);
    let second = of(0);
    totp::knock(&net, &first);
    totp::knock(&net, &second);
    totp::wait_until_opened(&knockd, 2);

    set_by(-HOURS);
    totp::knock(&net, &first);
    knockd.wait_for("not opened: it has been used before");
    totp::knock(&net, &second);
    totp::knock(&net, &of(1));
    totp::wait_until_opened(&knockd, 3);

    set_by(HOURS);
    totp::knock(&net, &second);
    knockd.wait_for_count("not opened: it has been used before", 2);
    set_by(-HOURS);
    assert_eq!(totp::opened(&knockd).len(), 3, "{:?}", knockd.log());
}

/// Has what a client used ahead of its time forgotten, and waits until the watcher has.
fn reset(knockd: &Knockd, client: &str) {
    let before = knockd.watchers();
    let mut knockctl = command(env!("CARGO_BIN_EXE_knockctl"));
    knockctl.arg("-c").arg(&knockd.config).args(["client", "reset", client]);
    let output = knockctl.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let replaced = || matches!(knockd.watchers()[..], [watcher] if !before.contains(&watcher));
    assert!(eventually(3 * PATIENCE, replaced), "no new watcher");
}

#[test]
#[ignore = "sets the clock: tools/vm"]
fn a_request_is_of_the_calendar_and_opens_once() {
    let scene = spa::Scene::with(&spa::configuration(", max_ahead: 2s", ""));
    let close = || {
        scene.knockd().ask(r#"{"do":"close_all"}"#);
        scene.grants(0);
    };
    let made = || {
        let stamp = Stamp::from_micros(micros());
        scene.seal(&SpaRequest { stamp, ..spa::request() }, spa::LAPTOP)
    };
    let send = |datagram| scene.send(datagram, CLIENT, SERVER);
    let opens = |datagram| {
        send(datagram);
        scene.grants(1);
        close();
    };
    let used = "it has been used before";

    let (held_back, first) = (made(), made());
    opens(first);
    set_by(HOURS);
    send(first);
    scene.refused(used, 1);
    send(held_back);
    scene.refused("too old: is a clock off?", 1);
    let second = made();
    let never_sent = made();
    opens(second);

    set_by(-HOURS);
    send(second);
    scene.refused(used, 2);
    send(never_sent);
    scene.refused("from the future: is a clock off?", 1);
    send(first);
    scene.refused(used, 3);
    // What lies ahead of the calendar bars what comes before it, and the administrator ends that.
    send(made());
    scene.refused(used, 4);
    reset(scene.knockd(), "laptop");
    thread::sleep(Duration::from_secs(3));
    send(first);
    scene.refused(used, 5);
    opens(made());
}

#[test]
#[ignore = "sets the clock: tools/vm"]
fn a_request_of_fwknop_is_of_the_calendar_and_opens_once() {
    let net = Net::new();
    let mut knockd = fwknop::two_clients(&net);
    let made = |last| {
        let timestamp = seconds();
        let request = fwknop::request("22", [203, 0, 113, last]);
        fwknop::sealed_by_phone(&FwknopRequest { timestamp, ..request })
    };
    let send = |datagram: &Vec<u8>| fwknop::send(&net.client, std::slice::from_ref(datagram));
    let (held_back, first) = (made(1), made(2));
    send(&first);
    knockd.wait_for("OPEN SESAME");
    set_by(HOURS);
    for datagram in [&first, &held_back] {
        send(datagram);
    }
    fwknop::wait_for_counter(&knockd, "too-old", 2);
    let second = made(3);
    send(&second);
    knockd.wait_for_count("OPEN SESAME", 2);
    set_by(-HOURS);
    for datagram in [&first, &second] {
        send(datagram);
    }
    fwknop::wait_for_counter(&knockd, "used", 1);
    fwknop::wait_for_counter(&knockd, "too-far-ahead", 1);
    send(&made(4));
    knockd.wait_for_count("OPEN SESAME", 3);
    // Of a watcher that has seen none of them.
    knockd.signal(Signal::SIGKILL);
    knockd.ended();
    let knockd = knockd.start_again(&net.server);
    knockd.wait_for("starting up, listening on");
    send(&first);
    fwknop::wait_for_counter(&knockd, "used", 1);
    set_by(HOURS);
    send(&second);
    fwknop::wait_for_counter(&knockd, "used", 2);
    set_by(-HOURS);
    send(&made(5));
    knockd.wait_for("OPEN SESAME");
    assert_eq!(knockd.count("OPEN SESAME"), 1);
}
