//! `knock --stay`: real packets, networks that change under it, and the signals that end it.
//!
//! Needs root; says loudly what it skips where it cannot run.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use libknock::proto::spa::PrivateKey;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::mounts::in_own_mounts;
use crate::support::{CLIENT, Host, Knockd, Net, PATIENCE, SERVER, eventually, must, needs};
use crate::totp;

const KNOCK: &str = env!("CARGO_BIN_EXE_knock");
/// The address that the client moves to.
const MOVED: &str = "192.0.2.3";

/// A door that a laptop may ask for, for so long unless it says otherwise.
fn configuration(interfaces: &str, open_for: &str) -> String {
    let public = PrivateKey::from([7; 32]).public();
    format!(
        "knockd: {{interfaces: [{interfaces}], run_dir: DIR/run, state_dir: DIR/state, user: nobody,\n\
         \x20 spa: {{key_file: DIR/keys/server.key}}}}\n\
         clients: {{laptop: {{doors: [ssh], spa: {{public_key: {public}}}}}}}\n\
         doors:\n\
         \x20 ssh: {{spa: true, open: [22], open_for: {open_for}}}\n\
         \x20 plain: {{sequence: [7000, 8000, 9000], open: [23], open_for: 1h}}\n"
    )
}

/// A server that listens on 22 and 23, with both locked, and a client that can ask for 22.
struct Scene {
    net: Net,
    knockd: Knockd,
    /// The client's key.
    key: tempfile::NamedTempFile,
}

impl Scene {
    fn new(open_for: &str) -> Self {
        Self::of(Net::new(), &configuration("eth0", open_for))
    }

    fn of(net: Net, configuration: &str) -> Self {
        net.server.listen(22);
        net.server.listen(23);
        let knockd = Knockd::start(&net.server, configuration);
        let key = tempfile::NamedTempFile::new().unwrap();
        let private = PrivateKey::from([7; 32]);
        fs::write(key.path(), format!("{}\n", private.encode().as_str())).unwrap();
        Self { net, knockd, key }
    }

    /// Stays at a host by requests.
    fn stay(&self, options: &[&str], host: &str) -> Staying {
        let mut command = self.net.client.command(KNOCK);
        command.args(["--stay", "--spa", "--server-key", &self.knockd.server_key().to_string()]);
        command.arg("--key").arg(self.key.path()).args(options).arg(host);
        Staying::run(command)
    }

    /// For whom a door is open.
    fn open_for(&self) -> Vec<String> {
        let mut addresses: Vec<String> = self
            .knockd
            .grants()
            .iter()
            .map(|grant| grant["address"].as_str().unwrap().to_owned())
            .collect();
        addresses.sort();
        addresses
    }

    fn opens_for(&self, addresses: &[&str]) {
        let is_so = eventually(PATIENCE, || self.open_for() == addresses);
        assert!(is_so, "{:?} and not {addresses:?}", self.open_for());
    }

    /// Gives the client another address in place of the one that it has.
    fn move_to(&self, old: &str, new: &str) {
        ip(&self.net.client, &format!("addr del {old}/24 dev eth0"));
        ip(&self.net.client, &format!("addr add {new}/24 dev eth0"));
    }
}

fn ip(host: &Host, arguments: &str) {
    host.must("ip", &arguments.split(' ').collect::<Vec<_>>());
}

/// A client that stays, and what it says.
pub(crate) struct Staying {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
}

impl Staying {
    pub(crate) fn run(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let streams: [Box<dyn BufRead + Send>; 2] =
            [Box::new(BufReader::new(out)), Box::new(BufReader::new(err))];
        for stream in streams {
            let said = Arc::clone(&said);
            thread::spawn(move || {
                for line in stream.lines().map_while(Result::ok) {
                    said.lock().unwrap().push(line);
                }
            });
        }
        Self { child, said }
    }

    fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    fn count(&self, text: &str) -> usize {
        self.said().iter().filter(|line| line.contains(text)).count()
    }

    fn wait_for(&self, text: &str) {
        self.wait_for_count(text, 1);
    }

    fn wait_for_count(&self, text: &str, count: usize) {
        let is_said = eventually(PATIENCE, || self.count(text) >= count);
        assert!(is_said, "no {count} times {text:?} in {:#?}", self.said());
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Ends it by a signal; its exit status.
    fn end(&mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        let mut status = None;
        let has_ended = eventually(PATIENCE, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(has_ended, "it did not end: {:#?}", self.said());
        status.unwrap().code()
    }
}

impl Drop for Staying {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_door_follows_to_another_address_and_closes_when_it_ends() {
    needs!("stay moves", "nft");
    let scene = Scene::new("1h");
    let mut staying = scene.stay(&["-v"], SERVER);
    scene.opens_for(&[CLIENT]);
    assert!(scene.net.client.can_connect(SERVER, 22));
    scene.move_to(CLIENT, MOVED);
    scene.opens_for(&[CLIENT, MOVED]);
    assert!(scene.net.client.can_connect(SERVER, 22));
    staying.wait_for("knocked at 192.0.2.1: this machine has the address 192.0.2.3 there now");
    assert_eq!(staying.end(Signal::SIGTERM), Some(0));
    // What is open for the address before stays open until its time is over.
    scene.opens_for(&[CLIENT]);
    staying.wait_for("SIGTERM: asking 192.0.2.1 to close");
}

#[test]
fn each_signal_that_ends_programs_closes_the_door() {
    needs!("stay signals", "nft");
    let scene = Scene::new("1h");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut staying = scene.stay(&[], SERVER);
        scene.opens_for(&[CLIENT]);
        assert_eq!(staying.end(signal), Some(0), "{signal}");
        scene.opens_for(&[]);
        assert!(staying.said().is_empty(), "{:?}", staying.said());
    }
}

#[test]
fn a_terminal_that_goes_away_does_not_end_what_nohup_started() {
    needs!("stay nohup", "nft");
    let scene = Scene::new("1h");
    let mut command = scene.net.client.command("sh");
    let line = format!(
        "trap '' HUP; exec {KNOCK} -v --stay --every 1s --spa --server-key {} --key {} {SERVER}",
        scene.knockd.server_key(),
        scene.key.path().display()
    );
    command.args(["-c", &line]);
    let mut staying = Staying::run(command);
    scene.opens_for(&[CLIENT]);
    staying.signal(Signal::SIGHUP);
    let before = staying.count("knocked at");
    staying.wait_for_count("knocked at", before + 3);
    assert_eq!(staying.end(Signal::SIGTERM), Some(0));
    scene.opens_for(&[]);
}

#[test]
fn a_route_over_another_interface_is_followed() {
    needs!("stay routes", "nft");
    let net = Net::new();
    let cable = ["link", "add", "eth1", "type", "veth", "peer", "name", "eth1", "netns"];
    net.server.must("ip", &[&cable[..], &[&net.client.name]].concat());
    for (host, v4) in [(&net.server, "198.51.100.1"), (&net.client, "198.51.100.2")] {
        ip(host, &format!("addr add {v4}/24 dev eth1"));
        ip(host, "link set eth1 up");
    }
    ip(&net.server, "addr add 203.0.113.1/32 dev lo");
    ip(&net.client, "route add default via 192.0.2.1 metric 100");
    let scene = Scene::of(net, &configuration("eth0, eth1", "1h"));
    let staying = scene.stay(&["-v"], "203.0.113.1");
    scene.opens_for(&[CLIENT]);
    staying.wait_for("knocked at 203.0.113.1: again");
    // As a VPN that comes up: addresses stay as they are.
    ip(&scene.net.client, "route add default via 198.51.100.1 metric 50");
    scene.opens_for(&[CLIENT, "198.51.100.2"]);
    assert!(scene.net.client.can_connect("203.0.113.1", 22));
    staying.wait_for("this machine has the address 198.51.100.2 there now");
    ip(&scene.net.client, "route del default metric 50");
    staying.wait_for("this machine has the address 192.0.2.2 there now");
}

#[test]
fn changes_that_lead_nowhere_else_send_nothing() {
    needs!("stay calm", "nft");
    let scene = Scene::new("1h");
    let staying = scene.stay(&["-v", "--every", "1h"], SERVER);
    staying.wait_for_count("knocked at", 2);
    for number in 1..=20 {
        ip(&scene.net.client, &format!("addr add 203.0.113.{number}/24 dev lo"));
        ip(&scene.net.client, &format!("route add 198.51.100.{number}/32 via {SERVER}"));
    }
    thread::sleep(Duration::from_secs(3));
    assert_eq!(staying.count("knocked at"), 2, "{:#?}", staying.said());
}

#[test]
fn a_network_that_goes_is_waited_for_in_silence_and_used_when_it_is_back() {
    needs!("stay offline", "nft");
    let scene = Scene::new("2s");
    let mut staying = scene.stay(&["--every", "1s"], SERVER);
    scene.opens_for(&[CLIENT]);
    ip(&scene.net.client, "link set eth0 down");
    scene.opens_for(&[]);
    ip(&scene.net.client, "link set eth0 up");
    scene.opens_for(&[CLIENT]);
    assert!(staying.said().is_empty(), "{:?}", staying.said());
    ip(&scene.net.client, "link set eth0 down");
    // Nobody is asked to close any more.
    assert_eq!(staying.end(Signal::SIGTERM), Some(1));
    let said = staying.said().join("\n");
    assert!(said.contains("the request was not sent") && said.contains("no route"), "{said}");
}

#[test]
fn a_client_that_begins_without_a_network_waits_for_it() {
    needs!("stay late", "nft");
    let scene = Scene::new("1h");
    ip(&scene.net.client, "link set eth0 down");
    let staying = scene.stay(&["-v"], SERVER);
    staying.wait_for("no route to it: trying again");
    ip(&scene.net.client, "link set eth0 up");
    scene.opens_for(&[CLIENT]);
}

#[test]
fn whoever_was_suspended_for_longer_than_the_door_is_open_opens_it_on_waking() {
    needs!("stay suspended", "nft");
    let scene = Scene::new("2s");
    let staying = scene.stay(&["-v", "--every", "1s"], SERVER);
    scene.opens_for(&[CLIENT]);
    staying.signal(Signal::SIGSTOP);
    scene.opens_for(&[]);
    staying.signal(Signal::SIGCONT);
    scene.opens_for(&[CLIENT]);
}

#[test]
fn a_door_that_is_open_for_a_short_time_is_not_shut_in_between() {
    needs!("stay open", "nft");
    let scene = Scene::new("3s");
    let _staying = scene.stay(&["--open-for", "2s"], SERVER);
    scene.opens_for(&[CLIENT]);
    for _ in 0..40 {
        thread::sleep(Duration::from_millis(100));
        assert_eq!(scene.open_for(), [CLIENT]);
    }
}

#[test]
fn a_server_that_has_forgotten_everything_is_asked_again() {
    needs!("stay restart", "nft");
    let mut scene = Scene::new("1h");
    let _staying = scene.stay(&["--every", "1s"], SERVER);
    scene.opens_for(&[CLIENT]);
    scene.knockd.signal(Signal::SIGKILL);
    scene.knockd.ended();
    must("ip", &["netns", "exec", &scene.net.server.name, "nft", "flush", "ruleset"]);
    fs::remove_dir_all(scene.knockd.directory.path().join("state")).unwrap();
    scene.knockd = scene.knockd.start_again(&scene.net.server);
    scene.knockd.wait_for("starting up");
    scene.opens_for(&[CLIENT]);
    assert!(eventually(PATIENCE, || scene.net.client.can_connect(SERVER, 22)));
}

#[test]
fn a_name_that_leads_to_another_address_is_followed_and_a_resolver_that_fails_is_not() {
    needs!("stay name", "nft");
    in_own_mounts("stay name", || {
        let hosts = tempfile::NamedTempFile::new().unwrap();
        let says = |text: &str| fs::write(hosts.path(), text).unwrap();
        says("192.0.2.1 gw.test\n");
        must("mount", &["--bind", hosts.path().to_str().unwrap(), "/etc/hosts"]);
        let scene = Scene::new("1h");
        ip(&scene.net.server, "addr add 192.0.2.9/24 dev eth0");
        let staying = scene.stay(&["-v", "--every", "1s"], "gw.test");
        staying.wait_for("knocked at 192.0.2.1: the first time");
        says("");
        let before = staying.count("knocked at 192.0.2.1: again");
        staying.wait_for("gw.test: no address found");
        staying.wait_for_count("knocked at 192.0.2.1: again", before + 2);
        says("192.0.2.9 gw.test\n");
        staying.wait_for("knocked at 192.0.2.9: its name leads there now");
        // Resolvers give the addresses of a name in any order.
        let before = staying.count("knocked at 192.0.2.9");
        says("192.0.2.1 gw.test\n192.0.2.9 gw.test\n");
        staying.wait_for_count("knocked at 192.0.2.9", before + 3);
        assert_eq!(staying.count("its name leads there now"), 1, "{:#?}", staying.said());
    });
}

#[test]
fn ports_that_do_not_rotate_are_knocked_again_and_close_by_themselves() {
    needs!("stay ports", "nft");
    let scene = Scene::new("1h");
    let mut command = scene.net.client.command(KNOCK);
    let ports = ["-d", "20", SERVER, "7000", "8000", "9000"];
    command.args(["-v", "--stay", "--stay", "--every", "1s"]).args(ports);
    let mut staying = Staying::run(command);
    scene.opens_for(&[CLIENT]);
    staying.wait_for_count("knocked at 192.0.2.1: again", 2);
    assert_eq!(staying.end(Signal::SIGINT), Some(0));
    staying.wait_for("SIGINT: what is open closes when its time is over");
    scene.opens_for(&[CLIENT]);
}

#[test]
fn two_that_stay_at_one_host_make_up_for_what_the_other_closes() {
    needs!("stay twice", "nft");
    let scene = Scene::new("1h");
    let mut one = scene.stay(&["-v", "--every", "1s"], SERVER);
    let other = scene.stay(&["-v", "--every", "1s"], SERVER);
    one.wait_for_count("knocked at", 3);
    other.wait_for_count("knocked at", 3);
    assert_eq!(one.end(Signal::SIGTERM), Some(0));
    let before = other.count("knocked at");
    other.wait_for_count("knocked at", before + 2);
    scene.opens_for(&[CLIENT]);
    // No stamp was used twice.
    assert_eq!(scene.knockd.count("not opened"), 0);
}

#[test]
fn a_step_of_a_rotating_sequence_is_knocked_once() {
    needs!("stay totp");
    let net = Net::new();
    let knockd =
        totp::start(&net.server, "{ports: 20000-29999, protocol: mixed, step: 4s, skew: 2}");
    let secret = knockd.directory.path().join("phone.totp");
    let mut command = net.client.command(KNOCK);
    command.args(["-v", "--stay", "--every", "1s", "--totp", "--door", "ssh", "-d", "10"]);
    command.args(["--ports", "20000-29999", "--protocol", "mixed", "--step", "4s"]);
    command.arg("--secret-file").arg(secret).arg(SERVER);
    let mut staying = Staying::run(command);
    totp::wait_until_opened(&knockd, 2);
    // A move does not change that.
    ip(&net.client, "addr del 192.0.2.2/24 dev eth0");
    ip(&net.client, "addr add 192.0.2.3/24 dev eth0");
    totp::wait_until_opened(&knockd, 4);
    staying.wait_for("for the next sequence");
    assert_eq!(staying.end(Signal::SIGTERM), Some(0));
    assert_eq!(knockd.count("it has been used before"), 0, "{:#?}", knockd.log());
    let opened = totp::opened(&knockd);
    assert_eq!(opened[0], format!("{CLIENT} phone"));
    assert_eq!(opened.last(), Some(&format!("{MOVED} phone")));
}
