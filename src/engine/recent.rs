//! The recent knocks of one source: what is a duplicate.

use smallvec::SmallVec;

use crate::time::Monotonic;
use crate::wire::{Packet, Transport};

/// How long a TCP segment may come again: Linux gives up on a SYN after 127 s.
const TCP_MEMORY: Micros = 130_000_000;
/// How long a datagram between the same ports counts as the same.
const UDP_MEMORY: Micros = 1_000_000;

/// Microseconds of a monotonic clock, or between two of its times.
type Micros = u64;

/// A bounded memory of the latest knocks. It counts in microseconds.
#[derive(Debug, Default)]
pub(super) struct Recent {
    marks: SmallVec<[Mark; 1]>,
    /// When the last one was made.
    last: Micros,
}

/// One knock, packed into 12 bytes, since there may be a million of them.
#[derive(Clone, Copy, Debug)]
struct Mark {
    identity: Identity,
    /// The lower half of its time. The upper half follows from the last mark: none is older than
    /// the longest memory when that is made.
    at: u32,
}

/// Both ports, and the sequence number of a TCP segment.
///
/// No TCP port is 0, so 0 in its place says UDP, and the port takes that of the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    source_port: u16,
    port: u16,
    number: u32,
}

impl Identity {
    const fn of(packet: &Packet) -> Self {
        match packet.transport {
            Transport::Tcp { source_port, port, sequence, .. } => {
                Self { source_port, port: port.get(), number: sequence }
            }
            Transport::Udp { source_port, port } => {
                Self { source_port, port: 0, number: port.get() as u32 }
            }
        }
    }

    const fn memory(self) -> Micros {
        if self.port == 0 { UDP_MEMORY } else { TCP_MEMORY }
    }
}

impl Mark {
    /// When the same again is another knock.
    const fn over(self, last: Micros) -> Micros {
        // Times can go backwards a little: then it is later than the last one.
        let before_last = (last as u32).wrapping_sub(self.at).cast_signed();
        last.saturating_add_signed(-(before_last as i64)).saturating_add(self.identity.memory())
    }
}

impl Recent {
    /// Remembers a knock, and forgets all but the last `capacity`. False if it is a duplicate of
    /// one of them; then nothing changes.
    #[must_use]
    pub(super) fn record(&mut self, packet: &Packet, now: Monotonic, capacity: usize) -> bool {
        let identity = Identity::of(packet);
        let (last, now_micros) = (self.last, micros(now));
        let same = |mark: &Mark| mark.identity == identity && now_micros < mark.over(last);
        if self.marks.iter().any(same) {
            return false;
        }
        self.forget(now);
        if self.marks.len() >= capacity {
            self.marks.remove(0);
        }
        self.marks.push(Mark { identity, at: now_micros as u32 });
        self.last = now_micros;
        true
    }

    /// Forgets what can have no duplicate any more.
    pub(super) fn forget(&mut self, now: Monotonic) {
        let last = self.last;
        self.marks.retain(|mark| micros(now) < mark.over(last));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// When all of it can be forgotten; `None`: there is nothing to forget.
    pub(super) fn over(&self) -> Option<Monotonic> {
        let over = self.marks.iter().map(|mark| mark.over(self.last)).max()?;
        Some(Monotonic::from_nanos(over.saturating_mul(1000)))
    }
}

const fn micros(time: Monotonic) -> Micros {
    time.as_nanos() / 1000
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use super::*;
    use crate::proto::flags::TcpFlags;

    const CAPACITY: usize = 3;

    fn packet(transport: Transport) -> Packet {
        Packet {
            source: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
            destination: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            transport,
            looped: false,
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
