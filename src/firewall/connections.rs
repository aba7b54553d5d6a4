//! Connections that are older than the guard, and go on.
//!
//! The guard knows by a label what it has let in. What was there before it has none, and where
//! no firewall has asked for connection tracking before, the kernel even takes its next packet for
//! a new connection. Without an exception, whoever starts the guard over SSH would lose the session
//! that does so.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::proto::{Knock, Protocol};

/// A connection, as its packets come to this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InboundConnection {
    pub peer: SocketAddr,
    /// The address and the port that they are for.
    pub address: IpAddr,
    pub port: Knock,
}

/// The TCP connections of this moment that end at this host, tracked or not. None where `/proc`
/// does not tell: then they end, which is no reason to stay unguarded.
pub(super) fn established() -> Vec<InboundConnection> {
    let text = ["tcp", "tcp6"].map(|file| {
        fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default()
    });
    text.iter().flat_map(|text| parse(text)).collect()
}

/// Reads proc_net_tcp(5); lines that are none are passed over.
fn parse(text: &str) -> impl Iterator<Item = InboundConnection> {
    text.lines().filter_map(|line| {
        let (local, peer, state) = socket(line)?;
        // Established, or closed by the peer alone.
        if !["01", "08"].contains(&state) {
            return None;
        }
        let port = Knock::at(Protocol::Tcp, local)?;
        Some(InboundConnection { peer, address: local.ip(), port })
    })
}

/// The local and the remote address of the socket in a line of proc_net_tcp(5) or its like, and the
/// word for its state.
pub(crate) fn socket(line: &str) -> Option<(SocketAddr, SocketAddr, &str)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (local, remote, state) = (words.next()?, words.next()?, words.next()?);
    Some((parse_address(local)?, parse_address(remote)?, state))
}

/// An address as words of 32 bits in the machine's order, then the port.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok();
    let address: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?.to_ne_bytes()).into(),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?].map(u32::to_ne_bytes);
            let octets: [u8; 16] = words.as_flattened().try_into().ok()?;
            Ipv6Addr::from(octets).to_canonical()
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
        let found: Vec<String> =
            parse(FILE).map(|it| format!("{} to {} {}", it.peer, it.address, it.port)).collect();
        assert_eq!(
            found,
            [
                "192.0.2.2:41906 to 192.0.2.1 22/tcp",
                "[2001:db8::2]:4000 to 2001:db8::1 22/tcp",
                "192.0.2.4:4001 to 192.0.2.1 80/tcp",
            ]
        );
    }

    proptest! {
        #[test]
        fn no_text_is_a_panic(text in "([0-9A-F:é ]{0,50}\n){0,4}", address in "\\PC{8}:\\PC{0,5}") {
            let _ = (parse(&text).count(), parse_address(&address));
        }
    }
}
