//! The programs themselves that publish ports, as far as they are here: Docker, Podman, CNI, pasta.
//!
//! Each runs where the server is, with what it writes in a directory and a mount namespace of the
//! test's own, and its container has nothing but one static program in it.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::{APP, BRIDGE, DNS, FAMILIES, Question, WEB, ask, serve};
use crate::guard_fixture::net;
use crate::support::{Host, Net, PATIENCE, command, eventually, must, needs, skipped};

/// A place on the server where a program for containers finds what it needs, and harms nothing.
struct Sandbox {
    holder: Child,
    directory: tempfile::TempDir,
}

impl Sandbox {
    /// None, said loudly, where there can be none.
    fn new(test: &str, server: &Host) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        // The user of rootless containers comes in here.
        must("chmod", &["755", path]);
        let script = "mount -t cgroup2 none /sys/fs/cgroup && mount -t tmpfs none /run &&
            mkdir /run/netns /run/user && mount -t tmpfs none /dev/net &&
            mknod -m 666 /dev/net/tun c 10 200 && echo nobody:100000:65536 > /run/subid &&
            mount --bind /run/subid /etc/subuid && mount --bind /run/subid /etc/subgid &&
            install -d -o nobody /run/user/nobody && exec sleep infinity";
        let mut holder =
            server.command("unshare").args(["-m", "sh", "-c", script]).spawn().unwrap();
        let comm = format!("/proc/{}/comm", holder.id());
        let stands = || fs::read_to_string(&comm).is_ok_and(|comm| comm == "sleep\n");
        let mut ended = || holder.try_wait().unwrap().is_some();
        assert!(eventually(PATIENCE, || stands() || ended()), "no place for containers");
        if ended() {
            skipped(test, "mounts or device nodes are not to be had");
            return None;
        }
        let sandbox = Self { holder, directory };
        sandbox.make_image();
        Some(sandbox)
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    /// An image in a file, without a network: a program that only waits.
    fn make_image(&self) {
        let (source, program) = (self.path("hold.rs"), self.path("hold"));
        fs::write(&source, "fn main() { loop { std::thread::park() } }").unwrap();
        must("rustc", &["-C", "target-feature=+crt-static", "-o", &program, &source]);
        let directory = self.directory.path().to_str().unwrap();
        must("tar", &["-cf", &self.path("hold.tar"), "-C", directory, "hold"]);
    }

    fn command(&self, program: &str) -> Command {
        let mut command = command("nsenter");
        command.args(["-m", "-n", "-t", &self.holder.id().to_string(), program]);
        command
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// What starts and stops a container, by the arguments that `docker` and `podman` have in common.
trait Engine {
    fn command(&self) -> Command;

    fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    fn must(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Starts a container with the published ports and these options; gives its namespace. None,
    /// said loudly, where it does not start.
    fn start(&self, test: &str, image: &str, options: &[&str]) -> Option<Host> {
        self.must(&["import", image, "hold"]);
        let ports = [(APP, "tcp"), (WEB, "tcp"), (DNS, "udp")]
            .map(|((outer, inner), protocol)| format!("-p{outer}:{inner}/{protocol}"));
        let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
        let run = ["run", "-d", "--name", "one"];
        let started = self.run(&[&run[..], &ports, options, &["hold", "/hold"]].concat());
        if !started.status.success() {
            let said = String::from_utf8_lossy(&started.stderr);
            skipped(test, &format!("no container starts: {}", said.lines().last().unwrap_or("")));
            return None;
        }
        Some(namespace(&self.must(&["inspect", "-f", "{{.State.Pid}}", "one"])))
    }
}

/// The namespace of a process, with the services of a container.
fn namespace(process: &str) -> Host {
    let host = Host { name: format!("knock-{}-{process}", std::process::id()) };
    must("ip", &["netns", "attach", &host.name, process]);
    serve(&host);
    host
}

/// A daemon of Docker.
struct Docker {
    sandbox: Sandbox,
    daemon: Child,
}

impl Docker {
    /// None, said loudly, where it does not start.
    fn start(test: &str, server: &Host, options: &[&str]) -> Option<Self> {
        let sandbox = Sandbox::new(test, server)?;
        let log = fs::File::create(sandbox.path("log")).unwrap();
        let mut daemon = sandbox.command("dockerd");
        for (option, name) in [("data-root", "data"), ("exec-root", "exec"), ("pidfile", "pid")] {
            daemon.arg(format!("--{option}={}", sandbox.path(name)));
        }
        daemon.arg(format!("--host=unix://{}", sandbox.path("sock")));
        daemon.args(["--storage-driver=vfs", "--experimental", "--ip6tables"]).args(options);
        let daemon = daemon.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut docker = Self { sandbox, daemon };
        let answers = |docker: &mut Self| {
            docker.daemon.try_wait().unwrap().is_some() || docker.run(&["info"]).status.success()
        };
        let answered = eventually(PATIENCE, || answers(&mut docker));
        if answered && docker.daemon.try_wait().unwrap().is_none() {
            return Some(docker);
        }
        let log = fs::read_to_string(docker.sandbox.path("log")).unwrap();
        skipped(test, &format!("dockerd does not start: {}", log.lines().last().unwrap_or("")));
        None
    }
}

impl Engine for Docker {
    fn command(&self) -> Command {
        let mut docker = command("docker");
        docker.arg(format!("--host=unix://{}", self.sandbox.path("sock")));
        docker
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        self.run(&["rm", "-f", "one"]);
        let _ = kill(Pid::from_raw(self.daemon.id().try_into().unwrap()), Signal::SIGTERM);
        let _ = self.daemon.wait();
    }
}

/// Podman, as root or as a user who is not.
struct Podman {
    sandbox: Sandbox,
    is_rootless: bool,
}

/// Containers that ask for no more than this machine may give.
const MODEST: [&str; 5] =
    ["--cgroups=disabled", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"];

impl Engine for Podman {
    fn command(&self) -> Command {
        let mut podman = self.sandbox.command(if self.is_rootless { "setpriv" } else { "env" });
        let (home, run) = (self.sandbox.path("home"), "/run/user/nobody");
        if self.is_rootless {
            podman.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "env"]);
            podman.args([format!("HOME={home}"), format!("XDG_RUNTIME_DIR={run}")]);
        }
        let run = if self.is_rootless { run } else { "/run" };
        podman.args(["podman", "--storage-driver=vfs", "--cgroup-manager=cgroupfs"]);
        podman.args(["--events-backend=none", &format!("--root={home}/storage")]);
        podman.args([format!("--runroot={run}/root"), format!("--tmpdir={run}/tmp")]);
        podman.arg(format!("--network-config-dir={home}/networks"));
        podman
    }
}

impl Podman {
    fn new(test: &str, server: &Host, is_rootless: bool) -> Option<Self> {
        let sandbox = Sandbox::new(test, server)?;
        let owner = if is_rootless { "nobody" } else { "root" };
        must("install", &["-d", "-o", owner, &sandbox.path("home")]);
        Some(Self { sandbox, is_rootless })
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.run(&["rm", "-f", "-a", "-t", "0"]);
        if self.is_rootless {
            // The process that keeps its namespaces.
            self.run(&["system", "migrate"]);
        }
    }
}

/// A network with both families, by an engine's own words.
const BOTH: [&str; 8] = [
    "network",
    "create",
    "--ipv6",
    "--subnet",
    "172.30.0.0/24",
    "--subnet",
    "fd00:30::/64",
    "both",
];

#[test]
fn docker_itself() {
    needs!("docker", "dockerd", "docker", "iptables", "nft", "tar");
    let net = net();
    let Some(docker) = Docker::start("docker", &net.server, &["--userland-proxy=false"]) else {
        return;
    };
    docker.must(&BOTH);
    let image = docker.sandbox.path("hold.tar");
    let Some(container) = docker.start("docker", &image, &["--network=both"]) else { return };
    ask(&net, &container, &FAMILIES);
    for family in &FAMILIES {
        Question { net: &net, container: &container, family }.ask_by_target();
    }
}

#[test]
fn docker_itself_whose_proxy_takes_ipv6_to_a_container_that_has_none() {
    needs!("docker with its proxy", "dockerd", "docker", "iptables", "nft", "tar");
    let net = net();
    let Some(docker) = Docker::start("docker with its proxy", &net.server, &[]) else { return };
    let image = docker.sandbox.path("hold.tar");
    let Some(container) = docker.start("docker with its proxy", &image, &[]) else { return };
    ask(&net, &container, &FAMILIES);
}

#[test]
fn podman_itself() {
    needs!("podman", "podman", "iptables", "nft", "tar");
    let net = net();
    let Some(podman) = Podman::new("podman", &net.server, false) else { return };
    podman.must(&BOTH);
    let image = podman.sandbox.path("hold.tar");
    let options = [&MODEST[..], &["--network=both"]].concat();
    let Some(container) = podman.start("podman", &image, &options) else { return };
    ask(&net, &container, &FAMILIES);
    for family in &FAMILIES {
        Question { net: &net, container: &container, family }.ask_by_target();
    }
}

#[test]
fn podman_itself_without_root() {
    needs!("rootless podman", "podman", "newuidmap", "nft", "setpriv", "tar");
    let net = net();
    lead_out(&net);
    let Some(podman) = Podman::new("rootless podman", &net.server, true) else { return };
    let image = podman.sandbox.path("hold.tar");
    let Some(container) = podman.start("rootless podman", &image, &MODEST) else { return };
    ask(&net, &container, &FAMILIES);
}

#[test]
fn pasta_itself() {
    needs!("pasta", "pasta", "nft", "setpriv", "tar");
    let net = net();
    lead_out(&net);
    let Some(sandbox) = Sandbox::new("pasta", &net.server) else { return };
    let pasta = Pasta::start(&sandbox);
    ask(&net, &pasta.container, &FAMILIES);
}

/// Gives the server a way to the world, of which pasta makes one for its container.
fn lead_out(net: &Net) {
    for (flag, gateway) in [("-4", "192.0.2.254"), ("-6", "2001:db8::fe")] {
        net.server.must("ip", &[flag, "route", "add", "default", "via", gateway]);
    }
}

/// Pasta, which takes the ports of a host to a program in a namespace of its own.
struct Pasta {
    process: Child,
    program: Pid,
    container: Host,
}

impl Pasta {
    fn start(sandbox: &Sandbox) -> Self {
        let mut pasta = sandbox.command("setpriv");
        pasta.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "pasta"]);
        pasta.args(["--foreground", "--config-net"]);
        pasta.args(["-t", &format!("{}:{},{}:{}", APP.0, APP.1, WEB.0, WEB.1)]);
        pasta.args(["-u", &format!("{}:{}", DNS.0, DNS.1)]);
        let process = pasta.args(["--", &sandbox.path("hold")]).spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", process.id());
        let mut program = String::new();
        let runs = || {
            program = fs::read_to_string(&children).unwrap().trim().to_owned();
            let comm = fs::read_to_string(format!("/proc/{program}/comm"));
            comm.is_ok_and(|comm| comm == "hold\n")
        };
        assert!(eventually(PATIENCE, runs), "pasta does not run it");
        let container = namespace(&program);
        Self { process, program: Pid::from_raw(program.parse().unwrap()), container }
    }
}

impl Drop for Pasta {
    fn drop(&mut self) {
        // It ends with what it runs.
        let _ = kill(self.program, Signal::SIGKILL);
        let _ = self.process.wait();
    }
}

const CNI: &str = "/usr/lib/cni";

/// Has a plugin add a container; gives what it says.
fn plug_in(net: &Net, container: &Host, plugin: &str, configuration: &serde_json::Value) -> String {
    let mut command = net.server.command(&format!("{CNI}/{plugin}"));
    let namespace = format!("/run/netns/{}", container.name);
    command.envs([("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "one"), ("CNI_IFNAME", "eth0")]);
    command.envs([("CNI_NETNS", namespace.as_str()), ("CNI_PATH", CNI)]);
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut plugin = pipes.spawn().unwrap();
    plugin.stdin.take().unwrap().write_all(configuration.to_string().as_bytes()).unwrap();
    let output = plugin.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn the_plugin_portmap_itself() {
    needs!("portmap", "iptables", "nft");
    if !Path::new(CNI).join("portmap").exists() {
        skipped("portmap", &format!("{CNI}/portmap is not installed"));
        return;
    }
    let net = net();
    let container = Host::new("k");
    for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        net.server.must("sysctl", &["-qw", &format!("{key}=1")]);
    }
    // What a kubelet has them do for a pod with ports of its host.
    let mut configuration = json!({
        "cniVersion": "1.0.0", "name": "inner", "type": "bridge", "bridge": BRIDGE,
        "isGateway": true, "ipMasq": true, "hairpinMode": true,
        "ipam": {
            "type": "static",
            "addresses": [
                {"address": "172.30.0.2/24", "gateway": "172.30.0.1"},
                {"address": "fd00:30::2/64", "gateway": "fd00:30::1"},
            ],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        },
    });
    let added = plug_in(&net, &container, "bridge", &configuration);
    let ports = [(APP, "tcp"), (WEB, "tcp"), (DNS, "udp")].map(|((outer, inner), protocol)| {
        json!({"hostPort": outer, "containerPort": inner, "protocol": protocol})
    });
    configuration = json!({
        "cniVersion": "1.0.0", "name": "inner", "type": "portmap", "snat": true,
        "capabilities": {"portMappings": true}, "runtimeConfig": {"portMappings": ports},
        "prevResult": serde_json::from_str::<serde_json::Value>(&added).unwrap(),
    });
    plug_in(&net, &container, "portmap", &configuration);
    serve(&container);
    ask(&net, &container, &FAMILIES);
}
