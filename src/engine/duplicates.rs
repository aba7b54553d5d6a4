//! A memory of one source's latest knocks, which tells copies and retransmissions.

use smallvec::SmallVec;

use crate::time::Monotonic;
use crate::wire::{Packet, Transport};

/// How far apart two copies of one packet come, made by a bridge or by several interfaces: the
/// network makes them within a millisecond. What a client sends again comes later.
const COPY: Micros = 20_000;
/// The longest that a TCP segment may come again: Linux gives up on a SYN after 127 s.
const LONGEST: Micros = 130_000_000;
/// How long a segment that came once may take to come again: after one second or three, and of
/// those after one second the first may be lost.
const RETRANSMISSION: Micros = 4_000_000;
/// How much longer for each microsecond since it came first: the wait doubles each time, and again
/// one may be lost.
const BACK_OFF: Micros = 3;

/// Microseconds of a monotonic clock, or between two of its times.
type Micros = u64;

/// A bounded memory of the latest knocks. It counts in microseconds.
#[derive(Debug, Default)]
pub(super) struct Duplicates {
    knocks: SmallVec<[SeenKnock; 1]>,
    /// When the last one was made, or seen again.
    last: Micros,
}

/// One knock, packed into 16 bytes, since there may be a million of them.
#[derive(Clone, Copy, Debug)]
struct SeenKnock {
    identity: PacketIdentity,
    /// The lower half of the time when it was seen last. The upper half follows from the last of
    /// all: none is older than the longest memory then.
    at: u32,
    /// How long before that it was seen first.
    span: u32,
}

/// Both ports, and the sequence number of a TCP segment.
///
/// No TCP port is 0, so 0 in its place says UDP, and the port takes that of the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PacketIdentity {
    source_port: u16,
    port: u16,
    number: u32,
}

impl PacketIdentity {
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

    /// Whether no TCP of an operating system sends both: whoever does numbers nothing.
    const fn contradicts(self, other: Self) -> bool {
        self.port != 0
            && other.port != 0
            && self.port != other.port
            && self.source_port == other.source_port
            && self.number == other.number
    }
}

impl SeenKnock {
    /// When it was seen last, if that of all was at `last`.
    const fn seen(self, last: Micros) -> Micros {
        // Times can go backwards a little: then it is later than the last one.
        let before_last = (last as u32).wrapping_sub(self.at).cast_signed();
        last.saturating_add_signed(-(before_last as i64))
    }

    /// When the same again is another knock.
    fn over(self, last: Micros) -> Micros {
        let memory = match self.identity.port {
            0 => COPY,
            _ => (Micros::from(self.span) * BACK_OFF + RETRANSMISSION).min(LONGEST),
        };
        self.seen(last).saturating_add(memory)
    }
}

impl Duplicates {
    /// Remembers a knock, and forgets all but the last `capacity`. False if it is a duplicate of
    /// one of them: a copy, or a retransmission.
    #[must_use]
    pub(super) fn record(&mut self, packet: &Packet, now: Monotonic, capacity: usize) -> bool {
        self.forget(now);
        let (identity, last, now) = (PacketIdentity::of(packet), self.last, micros(now));
        let mut knock = SeenKnock { identity, at: now as u32, span: 0 };
        let known = self.knocks.iter().position(|knock| knock.identity == identity);
        let known = known.map(|place| self.knocks.remove(place));
        let unnumbered = self.knocks.iter().any(|knock| knock.identity.contradicts(identity));
        let same = known.filter(|known| !unnumbered || now < known.seen(last) + COPY);
        if let Some(known) = same {
            let span = Micros::from(known.span) + now.saturating_sub(known.seen(last));
            knock.span = span.min(LONGEST) as u32;
        } else if self.knocks.len() >= capacity {
            self.knocks.remove(0);
        }
        self.knocks.push(knock);
        self.last = now;
        same.is_none()
    }

    /// Forgets what can have no duplicate any more.
    pub(super) fn forget(&mut self, now: Monotonic) {
        let last = self.last;
        self.knocks.retain(|knock| micros(now) < knock.over(last));
    }

    /// Forgets the knocks of an attempt whose time is over, but for what has been retransmitted and
    /// may be again.
    pub(super) fn give_up(&mut self) {
        self.knocks.retain(|knock| Micros::from(knock.span) > COPY);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.knocks.is_empty()
    }

    /// When all of it can be forgotten; `None`: there is nothing to forget.
    pub(super) fn over(&self) -> Option<Monotonic> {
        let over = self.knocks.iter().map(|knock| knock.over(self.last)).max()?;
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

    fn is_new(duplicates: &mut Duplicates, packet: &Packet, millis: u64) -> bool {
        duplicates.record(packet, at(millis), CAPACITY)
    }

    #[test]
    fn a_segment_is_a_duplicate_as_often_as_a_tcp_retransmits_it() {
        for first in [1000, 3000] {
            let mut duplicates = Duplicates::default();
            assert!(is_new(&mut duplicates, &tcp(5, 7, 9), 0));
            let mut wait = first;
            let mut millis = 0;
            while millis + wait < 130_000 {
                millis += wait;
                wait *= 2;
                assert!(!is_new(&mut duplicates, &tcp(5, 7, 9), millis), "{millis} ms");
            }
        }
    }

    #[test]
    fn one_retransmission_may_be_lost() {
        for lost in 0..7 {
            let mut duplicates = Duplicates::default();
            assert!(is_new(&mut duplicates, &tcp(5, 7, 9), 0));
            for (number, second) in [1, 3, 7, 15, 31, 63, 127].into_iter().enumerate() {
                let is_new =
                    number != lost && is_new(&mut duplicates, &tcp(5, 7, 9), second * 1000);
                assert!(!is_new, "{lost} was lost, and {second} s is new");
            }
        }
    }

    #[test]
    fn a_segment_comes_anew_where_none_would_be_retransmitted_any_more() {
        let mut duplicates = Duplicates::default();
        assert!(is_new(&mut duplicates, &tcp(5, 7, 9), 0));
        assert!(is_new(&mut duplicates, &tcp(5, 7, 9), 4000));
        assert!(!is_new(&mut duplicates, &tcp(5, 7, 9), 5000));
        assert!(!is_new(&mut duplicates, &tcp(5, 7, 9), 11_999));
        assert!(is_new(&mut duplicates, &tcp(5, 7, 9), 11_999 + 4000 + 3 * 7999));
    }

    #[test]
    fn who_numbers_nothing_retransmits_nothing() {
        let mut duplicates = Duplicates::default();
        for millis in [0, 300, 600] {
            assert!(is_new(&mut duplicates, &tcp(20, 7, 0), millis));
            assert!(!is_new(&mut duplicates, &tcp(20, 7, 0), millis + 1), "a copy");
            assert!(is_new(&mut duplicates, &tcp(20, 8, 0), millis + 100));
            assert!(is_new(&mut duplicates, &tcp(20, 9, 0), millis + 200));
        }
    }

    #[test]
    fn what_was_given_up_may_come_again_unless_it_is_retransmitted() {
        let mut duplicates = Duplicates::default();
        assert!(is_new(&mut duplicates, &tcp(20, 7, 0), 0));
        assert!(is_new(&mut duplicates, &tcp(5, 7, 9), 0));
        assert!(!is_new(&mut duplicates, &tcp(5, 7, 9), 1000));
        duplicates.give_up();
        assert!(is_new(&mut duplicates, &tcp(20, 7, 0), 2000));
        assert!(!is_new(&mut duplicates, &tcp(5, 7, 9), 3000));
    }

    #[test]
    fn any_other_number_or_port_is_another_knock() {
        let mut duplicates = Duplicates::default();
        assert!(is_new(&mut duplicates, &tcp(5, 7, 9), 0));
        assert!(is_new(&mut duplicates, &tcp(5, 7, 8), 0));
        assert!(is_new(&mut duplicates, &tcp(5, 8, 9), 0));
        assert!(is_new(&mut duplicates, &tcp(4, 7, 9), 0));
    }

    #[test]
    fn two_datagrams_of_one_socket_are_copies_only_at_the_same_time() {
        let mut duplicates = Duplicates::default();
        assert!(is_new(&mut duplicates, &udp(5, 7), 0));
        assert!(!is_new(&mut duplicates, &udp(5, 7), 1));
        assert!(is_new(&mut duplicates, &udp(5, 7), 100));
    }

    #[test]
    fn a_datagram_is_no_duplicate_of_a_segment() {
        let mut duplicates = Duplicates::default();
        assert!(is_new(&mut duplicates, &tcp(5, 7, 7), 0));
        assert!(is_new(&mut duplicates, &udp(5, 7), 0));
        assert!(is_new(&mut duplicates, &tcp(5, 1, 7), 0));
    }

    #[test]
    fn only_the_latest_are_remembered() {
        let mut duplicates = Duplicates::default();
        for number in 0..=3 {
            assert!(is_new(&mut duplicates, &tcp(5, 7, number), 0));
        }
        assert!(!is_new(&mut duplicates, &tcp(5, 7, 1), 0));
        assert!(is_new(&mut duplicates, &tcp(5, 7, 0), 0));
    }

    #[test]
    fn all_of_it_is_over_when_its_longest_memory_is() {
        let mut duplicates = Duplicates::default();
        assert!(is_new(&mut duplicates, &tcp(5, 7, 0), 0));
        assert!(is_new(&mut duplicates, &udp(5, 7), 1000));
        assert_eq!(duplicates.over(), Some(at(4000)));
        duplicates.forget(at(3999));
        assert!(!duplicates.is_empty());
        duplicates.forget(at(4000));
        assert!(duplicates.is_empty());
    }
}
