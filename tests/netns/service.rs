//! knockd and the service manager: what it is told, and what a reload says.
//!
//! Needs root; says loudly what it skips where it cannot run.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{Host, Knockd, Net, PATIENCE, needs};

fn configuration() -> String {
    "knockd: {interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody}\n\
     doors:\n  ssh: {sequence: [7000, 8000, 9000], start_command: 'true'}\n"
        .to_owned()
}

/// Where a service manager listens.
struct Manager {
    socket: UnixDatagram,
    directory: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        Self { socket, directory }
    }

    fn start(&self, host: &Host, text: &str) -> Knockd {
        let path = self.directory.path().join("notify");
        let variables = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "200000")];
        Knockd::spawn_in(host, text, &[], &variables)
    }

    /// The next message, if one comes within this time.
    fn next(&self, limit: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(limit)).unwrap();
        let mut buffer = [0; 4096];
        match self.socket.recv(&mut buffer) {
            Ok(length) => Some(String::from_utf8_lossy(&buffer[..length]).into_owned()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// The next message with this text.
    fn wait_for(&self, text: &str) -> String {
        loop {
            let message = self.next(PATIENCE).unwrap_or_else(|| panic!("no message with {text}"));
            if message.contains(text) {
                return message;
            }
        }
    }
}

#[test]
fn the_service_manager_is_told_how_knockd_is() {
    needs!("status");
    let net = Net::new();
    let manager = Manager::new();
    let knockd = manager.start(&net.server, &configuration());
    assert!(manager.wait_for("READY=1").contains("STATUS=listening on eth0; doors: 1\n"));
    knockd.configure(&configuration().replace("7000", "0"));
    knockd.signal(Signal::SIGHUP);
    manager.wait_for("RELOADING=1");
    let ready = manager.wait_for("READY=1");
    assert!(ready.contains("doors: 1; the configuration before stays: "), "{ready}");
    assert!(ready.contains("knock.conf:3:20: "), "{ready}");
    knockd.configure(&configuration());
    knockd.signal(Signal::SIGHUP);
    manager.wait_for("RELOADING=1");
    assert!(manager.wait_for("READY=1").contains("STATUS=listening on eth0; doors: 1\n"));
    knockd.signal(Signal::SIGTERM);
    manager.wait_for("STOPPING=1");
}

#[test]
fn a_wrong_configuration_is_told_with_its_place() {
    needs!("wrong configuration");
    let host = Host::new("s");
    let manager = Manager::new();
    let mut knockd = manager.start(&host, &configuration().replace("7000", "0"));
    assert!(manager.wait_for("STATUS=").contains("knock.conf:3:20: "));
    assert_eq!(knockd.ended().code(), Some(3));
}

#[test]
fn the_watchdog_hears_from_a_keeper_for_as_long_as_it_is_at_work() {
    needs!("watchdog");
    let net = Net::new();
    let manager = Manager::new();
    let knockd = manager.start(&net.server, &configuration());
    for _ in 0..4 {
        manager.wait_for("WATCHDOG=1");
    }
    knockd.signal(Signal::SIGSTOP);
    // What it had said before.
    while manager.next(Duration::from_millis(500)).is_some() {}
    assert_eq!(manager.next(Duration::from_secs(1)), None);
    knockd.signal(Signal::SIGCONT);
    manager.wait_for("WATCHDOG=1");
}

#[test]
fn the_watchdog_hears_from_a_keeper_that_stops_and_still_has_doors_to_close() {
    needs!("watchdog at the end");
    let net = Net::new();
    let manager = Manager::new();
    let text = configuration().replace("'true'", "'true', stop_command: exec sleep 1");
    let knockd = manager.start(&net.server, &text);
    manager.wait_for("READY=1");
    let open = r#"{"do":"open","door":"ssh","address":"192.0.2.9","seconds":null}"#;
    assert_eq!(knockd.ask(open).pop().unwrap()["reply"], "done");
    knockd.signal(Signal::SIGTERM);
    manager.wait_for("STOPPING=1");
    manager.wait_for("WATCHDOG=1");
    let (status, _) = knockd.stop();
    assert_eq!(status.code(), Some(0));
    // One each time that it is due, and not one each time that it looks.
    let told = std::iter::from_fn(|| manager.next(Duration::from_millis(10)));
    assert!(told.filter(|message| message.contains("WATCHDOG=1")).count() < 20);
}

#[test]
fn knockctl_reload_says_whether_the_configuration_is_in_force() {
    needs!("knockctl reload");
    let net = Net::new();
    let knockd = Knockd::start(&net.server, &configuration());
    let reload = || {
        let config = knockd.config.to_str().unwrap();
        let output = net.server.run(env!("CARGO_BIN_EXE_knockctl"), &["-c", config, "reload"]);
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    knockd.configure(&configuration().replace("ssh", "web"));
    assert_eq!(reload(), (Some(0), "the configuration is in force\n".to_owned()));
    for broken in [configuration().replace("7000", "0"), configuration() + "  x: {open: [\n"] {
        knockd.configure(&broken);
        let (status, said) = reload();
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("knock.conf:"), "{said}");
    }
    let status = knockd.ask(r#"{"do":"status"}"#);
    assert_eq!(status[0]["doors"][0]["door"], "web", "{status:?}");
}
