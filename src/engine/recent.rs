//! The recent knocks of one source: what is a duplicate.

use std::time::Duration;

use smallvec::SmallVec;

use crate::time::Monotonic;
use crate::wire::{Packet, Transport};

/// How long a TCP segment may come again: Linux gives up on a SYN after 127 s.
const TCP_MEMORY: Duration = Duration::from_secs(130);
/// How long a datagram between the same ports counts as the same.
const UDP_MEMORY: Duration = Duration::from_secs(1);

/// A bounded memory of the latest knocks.
#[derive(Debug, Default)]
pub(super) struct Recent(SmallVec<[Mark; 1]>);

#[derive(Clone, Copy, Debug)]
struct Mark {
    identity: Identity,
    /// From here on the same again is another knock.
    until: Monotonic,
}

/// Both ports, and the sequence number of a TCP segment.
///
/// Packed, since there are a million of them: the source port, the destination port, the sequence
/// number. No TCP port is 0, so 0 in its place says UDP, and the port takes that of the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity(u64);

impl Identity {
    fn of(packet: &Packet) -> Self {
        let (source_port, port, low) = match packet.transport {
            Transport::Tcp { source_port, port, sequence, .. } => {
                (source_port, port.get(), sequence)
            }
            Transport::Udp { source_port, port } => (source_port, 0, u32::from(port.get())),
        };
        Self(u64::from(source_port) << 48 | u64::from(port) << 32 | u64::from(low))
    }
}

impl Recent {
    /// Remembers a knock, and forgets all but the last `capacity`. False if it is a duplicate of
    /// one of them; then nothing changes.
    #[must_use]
    pub(super) fn record(&mut self, packet: &Packet, now: Monotonic, capacity: usize) -> bool {
        let identity = Identity::of(packet);
        if self.0.iter().any(|mark| mark.identity == identity && now < mark.until) {
            return false;
        }
        self.forget(now);
        if self.0.len() >= capacity {
            self.0.remove(0);
        }
        let memory = match packet.transport {
            Transport::Tcp { .. } => TCP_MEMORY,
            Transport::Udp { .. } => UDP_MEMORY,
        };
        self.0.push(Mark { identity, until: now + memory });
        true
    }

    /// Forgets what can have no duplicate any more.
    pub(super) fn forget(&mut self, now: Monotonic) {
        self.0.retain(|mark| now < mark.until);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// When all of it can be forgotten; `None`: there is nothing to forget.
    pub(super) fn over(&self) -> Option<Monotonic> {
        self.0.iter().map(|mark| mark.until).max()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::proto::flags::TcpFlags;

    const CAPACITY: usize = 3;

    fn packet(transport: Transport) -> Packet {
        Packet {
            source: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
            destination: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            transport,
        }
    }

    fn tcp(source_port: u16, port: u16, sequence: u32) -> Packet {
        let port = port.try_into().unwrap();
        packet(Transport::Tcp { source_port, port, sequence, flags: TcpFlags::SYN })
    }

    fn udp(source_port: u16, port: u16) -> Packet {
        packet(Transport::Udp { source_port, port: port.try_into().unwrap() })
    }

    fn at(millis: u64) -> Monotonic {
        Monotonic::ZERO + Duration::from_millis(millis)
    }

    fn is_new(recent: &mut Recent, packet: &Packet, millis: u64) -> bool {
        recent.record(packet, at(millis), CAPACITY)
    }

    #[test]
    fn a_segment_with_both_ports_and_the_number_of_another_is_a_duplicate() {
        let mut recent = Recent::default();
        assert!(is_new(&mut recent, &tcp(5, 7, 9), 0));
        assert!(!is_new(&mut recent, &tcp(5, 7, 9), 127_000));
        assert!(is_new(&mut recent, &tcp(5, 7, 9), 130_000));
    }

    #[test]
    fn any_other_number_or_port_is_another_knock() {
        let mut recent = Recent::default();
        assert!(is_new(&mut recent, &tcp(5, 7, 9), 0));
        assert!(is_new(&mut recent, &tcp(5, 7, 8), 0));
        assert!(is_new(&mut recent, &tcp(5, 8, 9), 0));
        assert!(is_new(&mut recent, &tcp(4, 7, 9), 0));
    }

    #[test]
    fn a_datagram_is_a_duplicate_for_less_than_a_second() {
        let mut recent = Recent::default();
        assert!(is_new(&mut recent, &udp(5, 7), 0));
        assert!(!is_new(&mut recent, &udp(5, 7), 999));
        assert!(is_new(&mut recent, &udp(5, 7), 1000));
    }

    #[test]
    fn a_datagram_is_no_duplicate_of_a_segment() {
        let mut recent = Recent::default();
        assert!(is_new(&mut recent, &tcp(5, 7, 7), 0));
        assert!(is_new(&mut recent, &udp(5, 7), 0));
        assert!(is_new(&mut recent, &tcp(5, 1, 7), 0));
    }

    #[test]
    fn only_the_latest_are_remembered() {
        let mut recent = Recent::default();
        for number in 0..=3 {
            assert!(is_new(&mut recent, &tcp(5, 7, number), 0));
        }
        assert!(!is_new(&mut recent, &tcp(5, 7, 1), 0));
        assert!(is_new(&mut recent, &tcp(5, 7, 0), 0));
    }

    #[test]
    fn all_of_it_is_over_when_its_longest_memory_is() {
        let mut recent = Recent::default();
        assert!(is_new(&mut recent, &tcp(5, 7, 0), 0));
        assert!(is_new(&mut recent, &udp(5, 7), 10_000));
        assert_eq!(recent.over(), Some(at(130_000)));
        recent.forget(at(129_999));
        assert!(!recent.is_empty());
        recent.forget(at(130_000));
        assert!(recent.is_empty());
    }
}
