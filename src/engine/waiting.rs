//! Datagrams that wait until there is time to try the keys of all clients with them.

use super::source_table::SourcePrefix;
use crate::time::Now;
use crate::wire::Packet;

/// How many datagrams wait at most, of which none is longer than a request.
const PLACES: usize = 2048;
/// How many trials are made of what need not wait, before whatever waits has its turn: less than a
/// tenth of a millisecond's.
const AT_ONCE: usize = 256;

/// A datagram that waits, with all that it is judged by.
#[derive(Debug)]
pub(super) struct WaitingDatagram {
    /// When it came.
    pub(super) at: Now,
    pub(super) packet: Packet,
    pub(super) payload: Box<[u8]>,
}

/// A bounded number of datagrams, of which the latest is the first: whoever has sent it still waits
/// for what it opens.
///
/// A trial of one is a MAC for each client, and anybody can send any number of them with any source
/// address, so what would cost much waits until all that costs little has been looked at. A source
/// or IPv6 /64 may take as many places as it leaves free: who sends many keeps out nobody who sends
/// one. Where many sources leave no place, whoever comes then is told apart from nobody: each has
/// the same chance, and a new one with each try.
#[derive(Debug)]
pub(super) struct WaitingRoom {
    places: Vec<WaitingDatagram>,
    at_once: usize,
}

/// There is no place left, or the same source has its share.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoPlace;

impl WaitingRoom {
    pub(super) const fn new() -> Self {
        Self { places: Vec::new(), at_once: AT_ONCE }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Whether something that costs so many trials can be tried now. Nothing goes before what
    /// waits.
    #[must_use]
    pub(super) fn allows(&mut self, trials: usize) -> bool {
        let left = self.at_once.checked_sub(trials).filter(|_| self.places.is_empty());
        self.at_once = left.unwrap_or(self.at_once);
        left.is_some()
    }

    pub(super) fn put(&mut self, at: Now, packet: &Packet, payload: &[u8]) -> Result<(), NoPlace> {
        let source = SourcePrefix::of(packet.source);
        let is_here = |it: &WaitingDatagram| SourcePrefix::of(it.packet.source) == source;
        let free = PLACES.saturating_sub(self.places.len());
        if free == 0 || self.places.iter().filter(|it| is_here(it)).count() >= free {
            return Err(NoPlace);
        }
        self.places.push(WaitingDatagram { at, packet: *packet, payload: payload.into() });
        Ok(())
    }

    /// The latest.
    pub(super) fn next(&mut self) -> Option<WaitingDatagram> {
        let next = self.places.pop();
        if next.is_none() {
            self.at_once = AT_ONCE;
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Transport;

    fn packet(source: &str) -> Packet {
        Packet {
            source: source.parse().unwrap(),
            destination: "192.0.2.1".parse().unwrap(),
            transport: Transport::Udp { source_port: 1, port: 62_201.try_into().unwrap() },
            looped: false,
        }
    }

    fn put(room: &mut WaitingRoom, source: &str, payload: &[u8]) -> bool {
        room.put(Now::default(), &packet(source), payload).is_ok()
    }

    #[test]
    fn whoever_came_last_has_the_first_turn() {
        let mut room = WaitingRoom::new();
        assert!(put(&mut room, "192.0.2.2", b"a"));
        assert!(put(&mut room, "192.0.2.3", b"b"));
        let order = [room.next(), room.next(), room.next()];
        assert_eq!(order.map(|it| it.map(|it| it.payload[0])), [Some(b'b'), Some(b'a'), None]);
    }

    #[test]
    fn one_network_leaves_as_many_places_as_it_takes_however_much_it_sends() {
        let mut room = WaitingRoom::new();
        for network in ["2001:db8:0:1", "2001:db8:0:2"] {
            let entered = (0..9000).filter(|n| put(&mut room, &format!("{network}::{n:x}"), b""));
            assert!(entered.count() >= PLACES / 4);
            assert!(put(&mut room, "192.0.2.2", b"a"), "there is room for others");
        }
    }

    #[test]
    fn the_room_is_bounded() {
        let mut room = WaitingRoom::new();
        let entered =
            (0..9000).filter(|n| put(&mut room, &format!("10.0.{}.{}", n / 256, n % 256), b""));
        assert_eq!(entered.count(), PLACES);
    }

    #[test]
    fn what_costs_little_need_not_wait_unless_much_of_it_comes_or_others_wait() {
        let mut room = WaitingRoom::new();
        assert!(!room.allows(AT_ONCE + 1));
        assert!((0..AT_ONCE).all(|_| room.allows(1)));
        assert!(!room.allows(1));
        assert!(room.next().is_none());
        assert!(room.allows(1));
        assert!(put(&mut room, "192.0.2.2", b""));
        assert!(!room.allows(1));
    }
}
