//! The one parser of captured bytes.

use std::net::IpAddr;
use std::num::NonZeroU16;

use super::link::LinkType;
use crate::proto::flags::TcpFlags;
use crate::proto::knock::{Knock, Protocol};

/// What the engine needs to know of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub transport: Transport,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp { source_port: u16, port: NonZeroU16, sequence: u32, flags: TcpFlags },
    Udp { source_port: u16, port: NonZeroU16 },
}

impl Packet {
    /// The knock that this packet is.
    #[must_use]
    pub const fn knock(&self) -> Knock {
        match self.transport {
            Transport::Tcp { port, .. } => Knock::new(Protocol::Tcp, port),
            Transport::Udp { port, .. } => Knock::new(Protocol::Udp, port),
        }
    }
}

/// Why captured bytes are no packet that anyone knocks with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ignored {
    /// The capture ends before the ports and flags do.
    Truncated,
    /// A fragment: the first one has no whole datagram, the others no ports.
    Fragment,
    /// Lengths or versions that contradict each other.
    Malformed,
    /// Neither IPv4 nor IPv6.
    NotIp,
    /// Neither TCP nor UDP.
    NotTransport,
    /// Sent by this machine.
    Outgoing,
}

/// Reads one captured frame. Never panics, whatever the bytes are.
///
/// # Errors
/// [`Ignored`] says why it cannot be a knock.
pub fn parse(link: LinkType, bytes: &[u8]) -> Result<Packet, Ignored> {
    let _ = (link, bytes);
    todo!()
}
