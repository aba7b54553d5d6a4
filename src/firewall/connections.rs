//! Connections that are older than the guard.
//!
//! Where no firewall has asked for connection tracking before, the kernel takes the next packet of
//! a connection that it has not tracked for a new one. Without an exception, whoever starts the
//! guard over SSH would lose the session that does so.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// How long a connection may be silent and still go on. After its first packet it is tracked.
const SILENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// A TCP connection of a peer to a port of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection {
    pub(super) peer: SocketAddr,
    pub(super) port: u16,
}

/// A connection that may go on although no grant lets it in, for some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Older {
    pub connection: Connection,
    pub left: Duration,
}

/// The connections of this moment to ports that `is_guarded`. None where `/proc` does not tell:
/// then they end, which is no reason to stay unguarded.
pub(super) fn established(is_guarded: impl Fn(u16) -> bool) -> Vec<Older> {
    let text = ["tcp", "tcp6"].map(|file| {
        fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default()
    });
    let all: BTreeSet<Connection> = text.iter().flat_map(|text| parse(text)).collect();
    let guarded = all.into_iter().filter(|connection| is_guarded(connection.port));
    guarded.map(|connection| Older { connection, left: SILENCE }).collect()
}

/// Reads proc_net_tcp(5); lines that are none are passed over.
fn parse(text: &str) -> impl Iterator<Item = Connection> {
    text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (local, remote, state) = (words.next()?, words.next()?, words.next()?);
        // Established, or closed by the peer alone.
        if !["01", "08"].contains(&state) {
            return None;
        }
        Some(Connection { peer: parse_address(remote)?, port: parse_address(local)?.port() })
    })
}

/// An address as words of 32 bits in the machine's order, then the port.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok();
    let address: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?.to_ne_bytes()).into(),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?].map(u32::to_ne_bytes);
            let mut bytes = [0; 16];
            bytes.iter_mut().zip(words.as_flattened()).for_each(|(to, from)| *to = *from);
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0
   1: 010200C0:0016 020200C0:A3B2 01 00000000:00000000 02:0006F3D2 00000000     0
   2: 010200C0:0016 030200C0:A3B2 06 00000000:00000000 02:0006F3D2 00000000     0
   3: B80D0120000000000000000001000000:0016 B80D0120000000000000000002000000:0FA0 08 0:0 0
   4: 0000000000000000FFFF0000010200C0:0050 0000000000000000FFFF0000040200C0:0FA1 01 0:0 0
";

    #[test]
    #[cfg(target_endian = "little")]
    fn connections_that_live_are_found() {
        let found: Vec<String> = parse(FILE)
            .map(|connection| format!("{} {}", connection.peer, connection.port))
            .collect();
        assert_eq!(found, ["192.0.2.2:41906 22", "[2001:db8::2]:4000 22", "192.0.2.4:4001 80"]);
    }

    proptest! {
        #[test]
        fn no_text_is_a_panic(text in "([0-9A-F:é ]{0,50}\n){0,4}", address in "\\PC{8}:\\PC{0,5}") {
            let _ = (parse(&text).count(), parse_address(&address));
        }
    }
}
