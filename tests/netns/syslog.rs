//! A syslog daemon that reads, is away, comes back, or does not read.
//!
//! Needs root; says loudly what it skips where it cannot run.

use std::fs;
use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::Duration;

use crate::support::mounts::{in_own_mounts, own_dev};
use crate::support::{CLIENT, Knockd, Net, PATIENCE, SERVER, eventually, needs};

const CONFIGURATION: &str = "
knockd: {interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody, log: {syslog: auth}}
doors:
  ssh: {sequence: [7000, 8000, 9000], start_command: echo %IP% >> DIR/opened}
";

/// A server with a `/dev` of its own, where this listens at `/dev/log` if anybody does.
struct Scene {
    net: Net,
    daemon: Option<UnixDatagram>,
}

impl Scene {
    fn new() -> Self {
        own_dev();
        Self { net: Net::new(), daemon: None }
    }

    /// A syslog daemon starts: it has room for a few lines.
    fn listen(&mut self) {
        self.daemon = None;
        let _ = fs::remove_file("/dev/log");
        let daemon = self.net.server.enter(|| {
            fs::write("/proc/sys/net/unix/max_dgram_qlen", "10").unwrap();
            UnixDatagram::bind("/dev/log").unwrap()
        });
        daemon.set_read_timeout(Some(PATIENCE)).unwrap();
        self.daemon = Some(daemon);
    }

    /// The lines that the daemon reads until one has this text.
    fn lines_until(&self, text: &str) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        let mut buffer = [0; 2048];
        while !lines.last().is_some_and(|line| line.contains(text)) {
            let length = self.daemon.as_ref().unwrap().recv(&mut buffer);
            let length = length.unwrap_or_else(|_| panic!("no {text:?} in:\n{}", lines.join("\n")));
            lines.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        lines
    }

    /// Knocks from an address that nobody has knocked from, and waits until that opens the door.
    fn opens(&self, knockd: &Knockd, host: u8) {
        let from: IpAddr = [192, 0, 2, host].into();
        let _ = self.net.client.run("ip", &["addr", "add", &format!("{from}/24"), "dev", "eth0"]);
        let ports = ["7000", "8000", "9000"];
        self.net.client.knock_from(from, SERVER, &ports, Duration::from_millis(10));
        let opened = || fs::read_to_string(knockd.directory.path().join("opened"));
        let is_open = || opened().is_ok_and(|text| text.lines().any(|it| it == from.to_string()));
        assert!(eventually(PATIENCE, is_open), "{from}: {}", knockd.log().join("\n"));
    }
}

#[test]
fn syslog_gets_what_the_log_says() {
    needs!("syslog");
    in_own_mounts("syslog", || {
        let mut scene = Scene::new();
        scene.listen();
        let knockd = Knockd::start(&scene.net.server, CONFIGURATION);
        let from = CLIENT.parse().unwrap();
        let (ports, net) = (["7000", "8000", "9000"], &scene.net);
        thread::scope(|scope| {
            scope.spawn(|| net.client.knock_from(from, SERVER, &ports, Duration::from_millis(10)));
            let tag = format!(" knockd[{}]: 192.0.2.2: ssh: OPEN SESAME", knockd.pid());
            let lines = scene.lines_until("OPEN SESAME");
            // auth (4) and informational (6).
            let line = lines.last().unwrap();
            assert!(line.starts_with("<38>") && line.ends_with(&tag), "{line}");
        });
    });
}

#[test]
fn without_a_syslog_daemon_knockd_starts_and_opens_and_one_that_comes_is_told_what_it_missed() {
    needs!("syslog absent");
    in_own_mounts("syslog absent", || {
        let mut scene = Scene::new();
        let knockd = Knockd::start(&scene.net.server, CONFIGURATION);
        scene.opens(&knockd, 10);
        scene.listen();
        scene.opens(&knockd, 11);
        let lines = scene.lines_until("192.0.2.11: ssh: OPEN SESAME");
        let missed = knockd.log().iter().position(|line| line.contains("192.0.2.11")).unwrap();
        let said = format!("{missed} log lines could not be written here");
        assert!(lines[0].ends_with(&said), "{said:?} is not the first of:\n{}", lines.join("\n"));
    });
}

#[test]
fn a_syslog_daemon_that_is_restarted_gets_what_follows() {
    needs!("syslog restarted");
    in_own_mounts("syslog restarted", || {
        let mut scene = Scene::new();
        scene.listen();
        let knockd = Knockd::start(&scene.net.server, CONFIGURATION);
        for host in 10..14 {
            scene.opens(&knockd, host);
            scene.lines_until(&format!("192.0.2.{host}: ssh: OPEN SESAME"));
            scene.listen();
        }
    });
}

#[test]
fn a_syslog_daemon_that_stalls_keeps_nobody_waiting_and_is_told_how_much_it_missed() {
    needs!("syslog stalled");
    in_own_mounts("syslog stalled", || {
        let mut scene = Scene::new();
        scene.listen();
        let knockd = Knockd::start(&scene.net.server, CONFIGURATION);
        for host in 10..20 {
            scene.opens(&knockd, host);
        }
        // It reads again.
        let lines = scene.lines_until("192.0.2.11: ssh: Stage 1");
        assert!(lines.len() <= 11, "more than there is room for:\n{}", lines.join("\n"));
        scene.daemon.as_ref().unwrap().set_nonblocking(true).unwrap();
        while scene.daemon.as_ref().unwrap().recv(&mut [0; 2048]).is_ok() {}
        scene.daemon.as_ref().unwrap().set_nonblocking(false).unwrap();
        scene.opens(&knockd, 20);
        let lines = scene.lines_until("192.0.2.20: ssh: OPEN SESAME");
        assert!(lines[0].ends_with(" log lines could not be written here"), "{}", lines.join("\n"));
    });
}
