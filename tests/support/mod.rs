//! Hosts made of network namespaces, and the programs that run in them.

#[allow(dead_code, reason = "what only the tests between namespaces need")]
pub(crate) mod browser;
pub(crate) mod cgroup;
pub(crate) mod conntrack;
#[cfg(feature = "fleet")]
pub(crate) mod fleet;
#[allow(dead_code, reason = "what only the benchmarks need")]
pub(crate) mod flood;
pub(crate) mod mounts;
pub(crate) mod requests;
pub(crate) mod usage;

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use libknock::proto::spa::{PrivateKey, PublicKey};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub(crate) const SERVER: &str = "192.0.2.1";
pub(crate) const CLIENT: &str = "192.0.2.2";
pub(crate) const SERVER_6: &str = "2001:db8::1";
/// The host behind a server that is a gateway.
#[allow(dead_code, reason = "what only the benchmarks need")]
pub(crate) const INNER: &str = "203.0.113.7";
pub(crate) const CLIENT_6: &str = "2001:db8::2";

/// Whether this machine lets tests make namespaces; says loudly when not.
pub(crate) fn can_make_namespaces(test: &str) -> bool {
    let allowed = nix::unistd::geteuid().is_root() && has("ip");
    if !allowed {
        skipped(test, "needs root, and ip from iproute2, to make network namespaces");
    }
    allowed
}

/// Whether all programs are there; says loudly when not.
pub(crate) fn has_programs(test: &str, programs: &[&str]) -> bool {
    let missing: Vec<&str> = programs.iter().copied().filter(|program| !has(program)).collect();
    if !missing.is_empty() {
        skipped(test, &format!("{} not installed", missing.join(", ")));
    }
    missing.is_empty()
}

/// Returns from a test that makes namespaces, or runs these programs, where it can't; says so
/// loudly.
macro_rules! needs {
    ($test:literal $(, $program:literal)*) => {
        if !$crate::support::can_make_namespaces($test)
            || !$crate::support::has_programs($test, &[$($program),*])
        {
            return;
        }
    };
}
pub(crate) use needs;

/// Says loudly that a test does not run here.
pub(crate) fn skipped(test: &str, why: &str) {
    // Not eprintln!, which the test harness swallows.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
}

fn has(program: &str) -> bool {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|directory| Path::new(directory).join(program).exists())
}

/// Runs a program to its end.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    command(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// Runs a program that has to succeed.
pub(crate) fn must(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[expect(clippy::disallowed_methods, reason = "tests start programs")]
pub(crate) fn command(program: &str) -> Command {
    Command::new(program)
}

/// A program beside those that are tried; ended when it goes out of scope.
pub(crate) struct Beside(Child);

impl Beside {
    /// Starts it; what it says is for nobody.
    pub(crate) fn start(command: &mut Command) -> Self {
        let silent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(silent.spawn().unwrap())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A network namespace; removed when it goes out of scope.
pub(crate) struct Host {
    pub name: String,
}

impl Host {
    pub(crate) fn new(role: &str) -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!("knock-{}-{number}-{role}", std::process::id());
        must("ip", &["netns", "add", &name]);
        let host = Self { name };
        host.must("ip", &["link", "set", "lo", "up"]);
        host
    }

    /// A command line that runs in this namespace, as the same process.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = command("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(program).args(arguments).output().unwrap()
    }

    pub(crate) fn must(&self, program: &str, arguments: &[&str]) -> String {
        let all: Vec<&str> =
            ["netns", "exec", &self.name, program].iter().chain(arguments).copied().collect();
        must("ip", &all)
    }

    /// Runs a function in this namespace, on a thread of its own. Sockets that it makes stay here.
    pub(crate) fn enter<T: Send + 'static>(
        &self,
        function: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.name)).unwrap();
        thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            function()
        })
        .join()
        .unwrap()
    }

    /// A listener that accepts and forgets, for as long as the test lives.
    pub(crate) fn listen(&self, port: u16) {
        let listener =
            self.enter(move || TcpListener::bind(SocketAddr::from(([0u16; 8], port))).unwrap());
        thread::spawn(move || for _ in listener.incoming() {});
    }

    /// Answers every datagram to a port of these addresses with what it says.
    pub(crate) fn echo_udp(&self, addresses: &[&str], port: u16) {
        for address in addresses {
            let address: IpAddr = address.parse().unwrap();
            let socket = self.enter(move || UdpSocket::bind((address, port)).unwrap());
            thread::spawn(move || {
                let mut buffer = [0; 2000];
                while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], from);
                }
            });
        }
    }

    /// Whether a datagram to a port is answered from there in this time.
    pub(crate) fn is_answered(&self, address: &str, port: u16, limit: Duration) -> bool {
        let to = SocketAddr::new(address.parse().unwrap(), port);
        self.enter(move || {
            let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.set_read_timeout(Some(limit)).unwrap();
            socket.connect(to).unwrap();
            socket.send(b"?").unwrap();
            socket.recv(&mut [0; 10]).is_ok()
        })
    }

    /// Whether a connection to a port is accepted within half a second.
    pub(crate) fn can_connect(&self, address: &str, port: u16) -> bool {
        self.can_connect_from(None, address, port)
    }

    /// The same, from one of this host's addresses.
    pub(crate) fn can_connect_from(&self, from: Option<IpAddr>, address: &str, port: u16) -> bool {
        let to = SocketAddr::new(address.parse().unwrap(), port);
        self.enter(move || match from {
            None => TcpStream::connect_timeout(&to, Duration::from_millis(500)).is_ok(),
            Some(from) => {
                let socket = Syn::from(from, to);
                socket.accepted_within(Duration::from_millis(500))
            }
        })
    }

    /// Whether an address answers at all: its closed port refuses.
    pub(crate) fn reaches(&self, address: &str) -> bool {
        let to = SocketAddr::new(address.parse().unwrap(), 9);
        self.enter(move || {
            let refused = std::io::ErrorKind::ConnectionRefused;
            TcpStream::connect_timeout(&to, Duration::from_millis(500))
                .is_err_and(|error| error.kind() == refused)
        })
    }

    /// Knocks with one SYN or one datagram a port, from one of this host's addresses.
    pub(crate) fn knock_from(&self, from: IpAddr, address: &str, ports: &[&str], delay: Duration) {
        let address: IpAddr = address.parse().unwrap();
        let ports: Vec<String> = ports.iter().map(|&port| port.to_owned()).collect();
        self.enter(move || knock(from, address, &ports, delay));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        run("ip", &["netns", "del", &self.name]);
    }
}

/// Sends the knocks; call it in the right namespace.
pub(crate) fn knock(from: IpAddr, address: IpAddr, ports: &[String], delay: Duration) {
    for port in ports {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let to = SocketAddr::new(address, number.parse().unwrap());
        if protocol == "udp" {
            let socket = UdpSocket::bind((from, 0)).unwrap();
            // An ICMP error for an earlier datagram is no concern of a knock.
            let _ = socket.send_to(&[0], to);
        } else {
            drop(Syn::from(from, to));
        }
        thread::sleep(delay);
    }
}

/// A connection under way: its SYN has left.
struct Syn(std::os::fd::OwnedFd);

impl Syn {
    fn from(from: IpAddr, to: SocketAddr) -> Self {
        use nix::sys::socket::{
            AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket,
        };
        use std::os::fd::AsRawFd;
        let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        // A program that another test starts meanwhile does not get it.
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(family, SockType::Stream, flags, None).unwrap();
        bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from, 0))).unwrap();
        let _ = connect(fd.as_raw_fd(), &SockaddrStorage::from(to));
        Self(fd)
    }

    fn accepted_within(self, limit: Duration) -> bool {
        let stream = TcpStream::from(self.0);
        for _ in 0..limit.as_millis() {
            match stream.take_error() {
                Ok(None) if stream.peer_addr().is_ok() => return true,
                Ok(None) => thread::sleep(Duration::from_millis(1)),
                _ => return false,
            }
        }
        false
    }
}

/// A SYN to the server in an Ethernet frame with so many VLAN tags.
pub(crate) fn tagged_syn(tags: usize, source: [u8; 4], port: u16, number: u32) -> Vec<u8> {
    use etherparse::{EtherType, PacketBuilder};
    let ip = PacketBuilder::ipv4(source, [192, 0, 2, 1], 64).tcp(40000, port, number, 1024).syn();
    let mut frame = [[0xff; 6], [2, 0, 0, 0, 0, 1]].concat();
    for tag in 0..tags {
        let kind: u16 = if tag + 1 < tags { 0x88a8 } else { 0x8100 };
        frame.extend([kind.to_be_bytes(), 5u16.to_be_bytes()].concat());
    }
    frame.extend(EtherType::IPV4.0.to_be_bytes());
    ip.write(&mut frame, &[]).unwrap();
    frame
}

/// A server and a client, joined by a cable.
pub(crate) struct Net {
    pub server: Host,
    pub client: Host,
}

impl Net {
    /// The server has [`SERVER`] and [`SERVER_6`] on `eth0`, the client [`CLIENT`] and
    /// [`CLIENT_6`].
    pub(crate) fn new() -> Self {
        let net = Self { server: Host::new("s"), client: Host::new("c") };
        net.plug();
        net
    }

    /// Joins the two by a new cable.
    pub(crate) fn plug(&self) {
        let (server, client) = (&self.server.name, &self.client.name);
        must(
            "ip",
            &[
                "link", "add", "eth0", "netns", server, "type", "veth", "peer", "name", "eth0",
                "netns", client,
            ],
        );
        for (host, v4, v6) in [(&self.server, SERVER, SERVER_6), (&self.client, CLIENT, CLIENT_6)] {
            host.must("ip", &["addr", "add", &format!("{v4}/24"), "dev", "eth0"]);
            host.must("ip", &["addr", "add", &format!("{v6}/64"), "dev", "eth0", "nodad"]);
            host.must("ip", &["link", "set", "eth0", "up"]);
        }
        // Carrier and neighbours take a moment.
        for address in [SERVER, SERVER_6] {
            let reached = eventually(Duration::from_secs(10), || self.client.reaches(address));
            assert!(reached, "no connection to {address}");
        }
    }

    /// A host behind the server, which leads there: [`INNER`].
    #[allow(dead_code, reason = "what only the benchmarks need")]
    pub(crate) fn inner_host(&self) -> Host {
        let inner = Host::new("i");
        self.server.must("sysctl", &["-qw", "net.ipv4.ip_forward=1"]);
        let cable = ["link", "add", "inside", "type", "veth", "peer", "name", "eth0", "netns"];
        self.server.must("ip", &[&cable[..], &[&inner.name]].concat());
        self.server.must("ip", &["addr", "add", "203.0.113.1/24", "dev", "inside"]);
        inner.must("ip", &["addr", "add", &format!("{INNER}/24"), "dev", "eth0"]);
        self.server.must("ip", &["link", "set", "inside", "up"]);
        inner.must("ip", &["link", "set", "eth0", "up"]);
        inner.must("ip", &["route", "add", "default", "via", "203.0.113.1"]);
        self.client.must("ip", &["route", "add", "203.0.113.0/24", "via", SERVER]);
        let reached = eventually(Duration::from_secs(10), || self.client.reaches(INNER));
        assert!(reached, "no connection to {INNER}");
        inner
    }

    /// Drops new connections to a port of the server, as a firewall does, and listens there.
    pub(crate) fn shut(&self, port: u16) {
        for iptables in ["iptables", "ip6tables"] {
            let port = port.to_string();
            let rule = ["-A", "INPUT", "-p", "tcp", "--dport", &port, "-j", "DROP"];
            self.server.must(iptables, &rule);
        }
        self.server.listen(port);
    }
}

/// Asks again and again until the answer is yes, or the time is over.
pub(crate) fn eventually(limit: Duration, mut question: impl FnMut() -> bool) -> bool {
    let begun = now();
    while !question() {
        // A question may take longer than the pause between two.
        if begun.elapsed() >= limit {
            return question();
        }
        thread::sleep(Duration::from_millis(10));
    }
    true
}

#[expect(clippy::disallowed_methods, reason = "tests wait for no longer than they may")]
fn now() -> Instant {
    Instant::now()
}

/// A running `knockd` and what it says; stopped when it goes out of scope.
pub(crate) struct Knockd {
    child: Child,
    lines: Arc<(Mutex<Vec<String>>, Condvar)>,
    pub directory: tempfile::TempDir,
    pub config: PathBuf,
}

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

impl Knockd {
    /// What a command of `knockctl` that goes on until it is interrupted says while `meanwhile`
    /// runs.
    pub(crate) fn says_while(&self, arguments: &[&str], meanwhile: impl FnOnce()) -> String {
        let mut knockctl = command(env!("CARGO_BIN_EXE_knockctl"));
        knockctl.arg("-c").arg(&self.config).args(arguments);
        let child = knockctl.stdout(Stdio::piped()).spawn().unwrap();
        thread::sleep(Duration::from_millis(500));
        meanwhile();
        thread::sleep(Duration::from_millis(500));
        kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts `knockd` in a namespace with a configuration, and waits until it listens.
    pub(crate) fn start(host: &Host, configuration: &str) -> Self {
        let knockd = Self::spawn(host, configuration, &[]);
        knockd.wait_for("starting up, listening on");
        knockd
    }

    /// Starts `knockd` with more arguments and does not wait. In the configuration `DIR` stands
    /// for a directory of its own.
    pub(crate) fn spawn(host: &Host, configuration: &str, arguments: &[&str]) -> Self {
        Self::spawn_in(host, configuration, arguments, &[])
    }

    /// Starts `knockd` with more arguments and environment variables and does not wait.
    pub(crate) fn spawn_in(
        host: &Host,
        configuration: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("knock.conf");
        write_configuration(&directory, &config, configuration);
        Self::run(host, directory, config, arguments, environment)
    }

    /// Makes its ledger say, after it has ended, that a power cut may have taken what was not
    /// flushed, and that the machine started so long ago.
    pub(crate) fn pretend_power_cut(&self, ago: Duration) {
        let missing = (libknock::sys::clock::now().monotonic - ago).as_nanos();
        let ledger = self.directory.path().join("state/ledger.db");
        let db = rusqlite::Connection::open(ledger).unwrap();
        let missing = i64::try_from(missing).unwrap();
        db.execute("UPDATE runs SET missing = ?", [missing]).unwrap();
    }

    /// The server's public key, of a configuration with `key_file: DIR/keys/server.key`.
    pub(crate) fn server_key(&self) -> PublicKey {
        let key = fs::read_to_string(self.directory.path().join("keys/server.key")).unwrap();
        key.parse::<PrivateKey>().unwrap().public()
    }

    /// Starts it once more in the same directory, after it has ended. Does not wait.
    pub(crate) fn start_again(mut self, host: &Host) -> Self {
        let directory = std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap());
        let config = self.config.clone();
        Self::run(host, directory, config, &[], &[])
    }

    /// Starts `knockd` in a directory that has its configuration.
    pub(crate) fn run(
        host: &Host,
        directory: tempfile::TempDir,
        config: PathBuf,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let mut command = host.command(env!("CARGO_BIN_EXE_knockd"));
        command.arg("-c").arg(&config).args(arguments).envs(environment.iter().copied());
        Self::from_command(command, directory, config)
    }

    /// Starts `knockd` where the programs in the subdirectory `sbin` of a directory come before all
    /// others, and waits until it listens.
    pub(crate) fn start_with_programs(
        host: &Host,
        directory: tempfile::TempDir,
        configuration: &str,
    ) -> Self {
        let config = directory.path().join("knock.conf");
        write_configuration(&directory, &config, configuration);
        // `ip netns exec` gives it a mount namespace of its own.
        let script = "mount --bind \"$1\" /usr/local/sbin && shift && exec \"$@\"";
        let mut command = host.command("sh");
        command.args(["-c", script, "sh"]).arg(directory.path().join("sbin"));
        command.args([env!("CARGO_BIN_EXE_knockd"), "-c"]).arg(&config);
        let knockd = Self::from_command(command, directory, config);
        knockd.wait_for("starting up, listening on");
        knockd
    }

    /// Starts `knockd` by a command that names the program alone, and waits until it listens.
    pub(crate) fn start_by(mut command: Command, configuration: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("knock.conf");
        write_configuration(&directory, &config, configuration);
        command.arg("-c").arg(&config);
        let knockd = Self::from_command(command, directory, config);
        knockd.wait_for("starting up, listening on");
        knockd
    }

    pub(crate) fn from_command(
        mut command: Command,
        directory: tempfile::TempDir,
        config: PathBuf,
    ) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines: Arc<(Mutex<Vec<String>>, Condvar)> = Arc::default();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let heard = Arc::clone(&lines);
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                heard.0.lock().unwrap().push(line);
                heard.1.notify_all();
            }
        });
        Self { child, lines, directory, config }
    }

    /// Replaces the configuration; SIGHUP takes it up.
    pub(crate) fn configure(&self, configuration: &str) {
        write_configuration(&self.directory, &self.config, configuration);
    }

    /// Asks over the control socket; gives the replies.
    pub(crate) fn ask(&self, request: &str) -> Vec<serde_json::Value> {
        let mut stream = UnixStream::connect(self.directory.path().join("run/control.sock"))
            .unwrap_or_else(|error| panic!("{error}\n{}", self.log().join("\n")));
        stream.write_all(format!("{request}\n").as_bytes()).unwrap();
        let lines = BufReader::new(stream).lines().map_while(Result::ok);
        lines.map(|line| serde_json::from_str(&line).unwrap()).collect()
    }

    /// What is open, opening or closing, as the status says.
    pub(crate) fn grants(&self) -> Vec<serde_json::Value> {
        let status = self.ask(r#"{"do":"status"}"#).remove(0);
        status["grants"].as_array().unwrap().clone()
    }

    pub(crate) fn log(&self) -> Vec<String> {
        // A test that has failed while it waited still shows it.
        self.lines.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    pub(crate) fn count(&self, text: &str) -> usize {
        self.log().iter().filter(|line| line.contains(text)).count()
    }

    /// Waits until a line with this text has been logged.
    pub(crate) fn wait_for(&self, text: &str) {
        self.wait_for_count(text, 1);
    }

    /// Waits until so many lines with this text have been logged.
    pub(crate) fn wait_for_count(&self, text: &str, count: usize) {
        let lines = self.lines.0.lock().unwrap();
        let missing = |lines: &mut Vec<String>| {
            lines.iter().filter(|line| line.contains(text)).count() < count
        };
        let (lines, result) = self.lines.1.wait_timeout_while(lines, PATIENCE, missing).unwrap();
        assert!(!result.timed_out(), "no {count} lines with {text:?} in:\n{}", lines.join("\n"));
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// The process ids of its watchers.
    pub(crate) fn watchers(&self) -> Vec<i32> {
        let pid = self.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let is_watcher = |pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.contains("watcher"))
        };
        children.split_whitespace().map(|pid| pid.parse().unwrap()).filter(is_watcher).collect()
    }

    /// Asks it to stop and waits until it has.
    pub(crate) fn stop(mut self) -> (ExitStatus, Vec<String>) {
        self.signal(Signal::SIGTERM);
        let status = self.ended();
        (status, self.log())
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        let ended = eventually(PATIENCE, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(ended, "knockd did not end; it said:\n{}", self.log().join("\n"));
        // The reader of its output may lag behind.
        thread::sleep(Duration::from_millis(50));
        status.unwrap()
    }
}

fn write_configuration(directory: &tempfile::TempDir, file: &Path, configuration: &str) {
    let path = directory.path().display().to_string();
    fs::write(file, configuration.replace("DIR", &path)).unwrap();
    // It may hold secrets.
    fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
}

impl Drop for Knockd {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.pid()), Signal::SIGTERM);
            if !eventually(Duration::from_secs(5), || !matches!(self.child.try_wait(), Ok(None))) {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        if thread::panicking() {
            eprintln!("knockd said:\n{}", self.log().join("\n"));
        }
    }
}
