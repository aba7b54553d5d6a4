//! Names that this machine resolves: hosts and services.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::num::NonZeroU16;

use dns_lookup::{AddrInfoHints, SockType, getaddrinfo};

use crate::proto::knock::parse_port;
use crate::proto::{Family, Knock, KnockError, Protocol};

/// The reason why a host has no address that could be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolveError {
    #[error("{host}: no address found: {}", explain(source))]
    Unknown { host: String, source: io::Error },
    #[error(
        "{host} has no IPv{0} address, only {found}: leave out -{0}, or take another --source",
        other_version(*found)
    )]
    OtherFamily { host: String, found: IpAddr },
}

/// The resolver's own words, without what the standard library puts before them.
fn explain(error: &io::Error) -> String {
    let text = error.to_string();
    text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_owned()
}

/// The version of IP that an address is not of.
const fn other_version(address: IpAddr) -> u8 {
    if address.is_ipv4() { 6 } else { 4 }
}

/// The addresses of a host that can be used; their ports are 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    /// The first by RFC 6724.
    pub address: SocketAddr,
    pub others: Vec<SocketAddr>,
}

impl Resolved {
    /// The first of the family that the first of all is not of.
    pub(super) fn other_family(&self) -> Option<SocketAddr> {
        self.others.iter().copied().find(|other| other.is_ipv4() != self.address.is_ipv4())
    }

    /// The first, or where `used` is in use and of its family, that: resolvers give equals in any
    /// order.
    pub(super) fn or_equal(&self, used: Option<SocketAddr>) -> SocketAddr {
        let is_equal = |it: &SocketAddr| it.is_ipv4() == self.address.is_ipv4();
        used.filter(|it| is_equal(it) && self.others.contains(it)).unwrap_or(self.address)
    }
}

/// The addresses to use for a host, of this family if one is given; asks the resolver once.
///
/// # Errors
/// [`ResolveError`] if the name has no address, or none of the family.
pub(super) fn resolve(host: &str, family: Option<Family>) -> Result<Resolved, ResolveError> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let unknown = |source| ResolveError::Unknown { host: host.to_owned(), source };
    let mut all: Vec<SocketAddr> = Vec::new();
    for address in (bare, 0).to_socket_addrs().map_err(unknown)? {
        if !all.contains(&address) {
            all.push(address);
        }
    }
    choose(host, family, &all)
}

fn choose(
    host: &str,
    family: Option<Family>,
    all: &[SocketAddr],
) -> Result<Resolved, ResolveError> {
    let is_usable =
        |address: &SocketAddr| family.is_none_or(|family| family == Family::of(address.ip()));
    let mut usable = all.iter().copied().filter(is_usable);
    match (usable.next(), all.first()) {
        (Some(address), _) => Ok(Resolved { address, others: usable.collect() }),
        (None, Some(other)) => {
            Err(ResolveError::OtherFamily { host: host.to_owned(), found: other.ip() })
        }
        (None, None) => {
            let source = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            Err(ResolveError::Unknown { host: host.to_owned(), source })
        }
    }
}

/// The reason why a text names no port to knock on. The message says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    #[error(transparent)]
    Knock(#[from] KnockError),
    #[error("'{0}' is not a {1} service that this machine knows: write the number of the port")]
    Service(String, Protocol),
    #[error("'{0}' is not one port: write the ports apart, as in 7000 8000 9000")]
    Several(String),
    #[error("'{0}' is a protocol and not a port: write it after the port, as in 7000/{0}")]
    Protocol(Protocol),
    #[error("{0}: only a TCP port can be connected to")]
    Udp(Knock),
}

/// Reads `PORT`, `PORT:PROTO` or `PORT/PROTO`, where the port may be a service's name. With
/// `protocol` that one is meant, whatever the text says.
///
/// # Errors
/// [`PortError`] if there is no such port, service or protocol.
pub(super) fn knock(text: &str, protocol: Option<Protocol>) -> Result<Knock, PortError> {
    if text.contains([',', ';', ' ']) {
        return Err(PortError::Several(text.to_owned()));
    }
    let (port, written) = text.split_once(['/', ':']).unzip();
    let port = port.unwrap_or(text);
    if let Ok(misplaced) = port.parse() {
        return Err(PortError::Protocol(misplaced));
    }
    let written = written.map_or(Ok(Protocol::Tcp), str::parse).map_err(KnockError::from)?;
    let protocol = protocol.unwrap_or(written);
    let port = if is_service(port) { service(port, protocol)? } else { parse_port(port)? };
    Ok(Knock { protocol, port })
}

/// Reads a port that can be connected to.
///
/// # Errors
/// As [`knock`], and if it is one of UDP.
pub(super) fn tcp_port(text: &str) -> Result<NonZeroU16, PortError> {
    let knock = knock(text, None)?;
    if knock.protocol == Protocol::Tcp { Ok(knock.port) } else { Err(PortError::Udp(knock)) }
}

/// Whether a text may be a service's name: RFC 6335, 5.1, and the characters that are found in
/// /etc/services besides.
fn is_service(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte))
}

fn service(name: &str, protocol: Protocol) -> Result<NonZeroU16, PortError> {
    let socktype = match protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::DGram,
    };
    let hints = AddrInfoHints { socktype: socktype.into(), ..AddrInfoHints::default() };
    getaddrinfo(None, Some(name), Some(hints))
        .ok()
        .and_then(|found| found.flatten().find_map(|entry| NonZeroU16::new(entry.sockaddr.port())))
        .ok_or_else(|| PortError::Service(name.to_owned(), protocol))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> String {
        match knock(text, None) {
            Ok(knock) => knock.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn both_separators_and_any_case_are_understood() {
        assert_eq!(read("7000"), "7000/tcp");
        assert_eq!(read("7000:UDP"), "7000/udp");
        assert_eq!(read("7000/Tcp"), "7000/tcp");
    }

    #[test]
    fn services_are_known_by_name_and_protocol() {
        if !std::path::Path::new("/etc/services").exists() {
            // Not eprintln!, which the test harness swallows.
            let _ = writeln!(io::stderr(), "SKIPPED: services: there is no /etc/services");
            return;
        }
        assert_eq!(read("ssh"), "22/tcp");
        assert_eq!(read("domain/udp"), "53/udp");
    }

    #[test]
    fn a_forced_protocol_wins_over_the_written_one() {
        assert_eq!(knock("7000:tcp", Some(Protocol::Udp)).unwrap().to_string(), "7000/udp");
    }

    #[test]
    fn what_is_no_port_says_what_to_write() {
        for (text, message) in [
            ("70000", "port 70000 is out of range: ports go from 1 to 65535"),
            ("0", "port 0 is out of range: ports go from 1 to 65535"),
            ("7000:upd", "'upd' is not a protocol: write tcp or udp"),
            ("7000:udp:x", "'udp:x' is not a protocol: write tcp or udp"),
            ("", "'' is not a port: write a number from 1 to 65535"),
            ("+1", "'+1' is not a port: write a number from 1 to 65535"),
            ("UDP", "'udp' is a protocol and not a port: write it after the port, as in 7000/udp"),
            (
                "tcp:80",
                "'tcp' is a protocol and not a port: write it after the port, as in 7000/tcp",
            ),
            (
                "7000,8000",
                "'7000,8000' is not one port: write the ports apart, as in 7000 8000 9000",
            ),
            (
                "nosuch",
                "'nosuch' is not a tcp service that this machine knows: write the number of the port",
            ),
        ] {
            assert_eq!(read(text), message, "{text:?}");
        }
    }

    fn address(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 0)
    }

    #[test]
    fn the_first_address_of_the_family_is_used() {
        let all = [address("2001:db8::1"), address("192.0.2.1")];
        for (family, at, others) in
            [(None, 0, vec![all[1]]), (Some(Family::V4), 1, vec![]), (Some(Family::V6), 0, vec![])]
        {
            let expected = Resolved { address: all[at], others };
            assert_eq!(choose("gw", family, &all).unwrap(), expected);
        }
    }

    #[test]
    fn an_address_in_use_stays_while_the_name_has_it_and_its_family_is_preferred() {
        let all = ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(address);
        let used = |used| choose("gw", None, &all).unwrap().or_equal(used);
        assert_eq!(used(None), all[0]);
        assert_eq!(used(Some(all[0])), all[0]);
        assert_eq!(used(Some(all[1])), all[1]);
        assert_eq!(used(Some(all[2])), all[0]);
        assert_eq!(used(Some(address("192.0.2.3"))), all[0]);
    }

    #[test]
    fn of_the_other_family_the_first_address_is_used() {
        let of = |all: &[&str]| {
            let all: Vec<_> = all.iter().map(|it| address(it)).collect();
            choose("gw", None, &all).unwrap().other_family()
        };
        let all = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"];
        assert_eq!(of(&all), Some(address("2001:db8::1")));
        assert_eq!(of(&all[..2]), None);
    }

    #[test]
    fn a_name_without_an_address_of_the_family_says_which_it_has() {
        let error = choose("gw", Some(Family::V4), &[address("2001:db8::1")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "gw has no IPv4 address, only 2001:db8::1: leave out -4, or take another --source"
        );
    }

    #[test]
    fn a_literal_address_needs_no_resolver() {
        assert_eq!(resolve("192.0.2.1", None).unwrap().address, address("192.0.2.1"));
        assert_eq!(
            resolve("[2001:db8::1]", Some(Family::V6)).unwrap().address,
            address("2001:db8::1")
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,20}") {
            let _ = knock(&text, None);
        }
    }
}
