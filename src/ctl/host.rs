//! Facts about the host for `knockctl check`: sockets, interfaces, addresses, rules.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;

use crate::config::lint::{HostFacts, HostNetwork};
use crate::config::{Family, PATH};
use crate::firewall::connections::socket;
use crate::proto::{InterfaceName, Knock, PortSet, Protocol};
use crate::sys::clock::now;
use crate::sys::{descriptors, host};

/// How long nft may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than this is no ruleset that anybody has written, and is cut, in bytes.
const LONGEST: usize = 64 << 20;

/// Looks at sockets, interfaces and addresses; `names` are those by which interfaces may be called
/// besides. What can't be read stays unknown.
pub(super) fn look(names: &[InterfaceName]) -> HostFacts {
    HostFacts { listening: listening_ports(), network: network(names), now: Some(now().wall) }
}

/// The `SSH_CONNECTION` of this process, or of the nearest process that it comes from: sudo and su
/// leave it out.
pub(super) fn ssh_connection() -> Option<String> {
    let mut process = "self".to_owned();
    // Whoever is further away than this has not typed it.
    for _ in 0..16 {
        let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        if let Some(connection) = variable(&environment, "SSH_CONNECTION") {
            return Some(connection);
        }
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim();
        if matches!(parent, "0" | "1") {
            return None;
        }
        parent.clone_into(&mut process);
    }
    None
}

/// A variable of an environment such as proc_pid_environ(5) describes.
fn variable(environment: &[u8], name: &str) -> Option<String> {
    let pairs = environment.split(|byte| *byte == 0).filter_map(|pair| str::from_utf8(pair).ok());
    let value = |pair: &str| Some(pair.strip_prefix(name)?.strip_prefix('=')?.to_owned());
    pairs.into_iter().find_map(value)
}

/// The kernel's ruleset as nft prints it, in JSON; `None` without nft or the permission to ask it,
/// or where it takes more than 10 s.
///
/// Rules of iptables-legacy are not among it.
pub(super) fn ruleset() -> Option<Vec<u8>> {
    #[expect(clippy::disallowed_methods, reason = "only nft knows how to print rules")]
    let mut nft = Command::new("nft");
    nft.args(["-j", "-t", "list", "ruleset"]).env_clear().env("PATH", PATH);
    let (read, write) = descriptors::output_pipe().ok()?;
    let mut child = nft.stdin(Stdio::null()).stdout(write).stderr(Stdio::null()).spawn().ok()?;
    // It holds the other end of the pipe.
    drop(nft);
    let listed = descriptors::read_within(&mut read.into(), PATIENCE, LONGEST);
    if !matches!(listed, Ok(Some(_))) {
        // An error means that it has ended by itself.
        let _ = child.kill();
    }
    let succeeded = child.wait().is_ok_and(|status| status.success());
    listed.ok().flatten().filter(|_| succeeded)
}

fn network(names: &[InterfaceName]) -> Option<HostNetwork> {
    let mut interfaces: Vec<_> = getifaddrs().ok()?.map(|entry| entry.interface_name).collect();
    let others = names.iter().filter(|name| host::index(name).is_some());
    interfaces.extend(others.map(ToString::to_string));
    interfaces.sort();
    interfaces.dedup();
    let addresses = host::addresses().ok()?.into_iter().collect();
    Some(HostNetwork { interfaces, addresses, forwards: forwards() })
}

/// The families for which it is a router.
fn forwards() -> Vec<Family> {
    let is_on = |path| fs::read_to_string(path).is_ok_and(|text| text.trim() != "0");
    let v4 = is_on("/proc/sys/net/ipv4/ip_forward").then_some(Family::V4);
    let v6 = is_on("/proc/sys/net/ipv6/conf/all/forwarding").then_some(Family::V6);
    v4.into_iter().chain(v6).collect()
}

/// Whether there is a route to an address: of a datagram socket, to connect it sends nothing.
pub(super) fn has_route(to: IpAddr) -> bool {
    let socket = UdpSocket::bind((Family::of(to).unspecified(), 0));
    socket.is_ok_and(|socket| socket.connect((to, 9)).is_ok())
}

/// The ports on which something on this host listens for others; none where that can't be known.
fn listening_ports() -> PortSet {
    let mut ports = PortSet::default();
    for protocol in Protocol::ALL {
        for version in ["", "6"] {
            let table = fs::read_to_string(format!("/proc/net/{protocol}{version}"));
            let table = table.unwrap_or_default();
            ports.extend(table.lines().skip(1).filter_map(|line| listener(line, protocol)));
        }
    }
    ports
}

/// The port of a line of such a table, if it is of a socket that takes packets from anyone, and
/// not only from this host (proc_pid_net(5)).
fn listener(line: &str, protocol: Protocol) -> Option<Knock> {
    let (local, remote, state) = socket(line)?;
    let listens = match protocol {
        Protocol::Tcp => state == "0A",
        Protocol::Udp => remote.port() == 0,
    };
    let port = local.port().try_into().ok()?;
    (listens && !local.ip().is_loopback()).then_some(Knock::new(protocol, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listens(line: &str, protocol: Protocol) -> Option<String> {
        listener(line, protocol).map(|knock| knock.to_string())
    }

    #[test]
    fn a_variable_is_found_by_its_whole_name() {
        let environment =
            b"A=1\0\xff=2\0SSH_CONNECTION_X=3\0SSH_CONNECTION=192.0.2.2 1 192.0.2.1 22\0";
        let found = variable(environment, "SSH_CONNECTION");
        assert_eq!(found.as_deref(), Some("192.0.2.2 1 192.0.2.1 22"));
        assert_eq!(variable(environment, "SSH"), None);
    }

    #[test]
    fn a_socket_that_takes_connections_listens() {
        let line =
            "   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1";
        assert_eq!(listens(line, Protocol::Tcp).as_deref(), Some("22/tcp"));
        let line =
            "   1: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A";
        assert_eq!(listens(line, Protocol::Tcp).as_deref(), Some("8080/tcp"));
        let line = "  12: 0202000A:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000";
        assert_eq!(listens(line, Protocol::Udp).as_deref(), Some("68/udp"));
    }

    #[test]
    fn a_connection_does_not_listen() {
        let line =
            "   0: 0202000A:0016 010200C0:D431 01 00000000:00000000 00:00000000 00000000 0 0 1";
        assert_eq!(listens(line, Protocol::Tcp), None);
        assert_eq!(listens(line, Protocol::Udp), None);
    }

    #[test]
    fn what_only_this_host_reaches_does_not_count() {
        for line in [
            "   0: 3500007F:0035 00000000:0000 0A",
            "   0: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 0A",
            "   0: 0000000000000000FFFF00000100007F:0035 00000000000000000000000000000000:0000 0A",
        ] {
            assert_eq!(listens(line, Protocol::Tcp), None, "{line}");
        }
    }

    #[test]
    fn a_line_that_is_not_understood_is_passed_over() {
        for line in ["", "0:", "0: x y z", "0: 00000000:ZZZZ 00000000:0000 0A", "0: 0:0000 0:0 0A"]
        {
            assert_eq!(listens(line, Protocol::Tcp), None, "{line}");
        }
    }
}
