//! Replay protection within one watcher: when and from where authenticated datagrams came.
//!
//! The ledger remembers all that count; this refuses early, and tells copies from replays.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use crate::time::{Monotonic, Now};
use crate::wire::Packet;

/// How many datagrams of each kind are remembered.
pub(super) const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).expect("is not zero");
/// How long a datagram between the same ports counts as the same.
const COPY: Duration = Duration::from_secs(1);

/// The arrival of a datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    at: Monotonic,
    source: IpAddr,
    source_port: u16,
}

impl Arrival {
    pub(super) const fn new(now: Now, packet: &Packet) -> Self {
        Self { at: now.monotonic, source: packet.source, source_port: packet.source_port() }
    }

    /// Whether it came soon after an earlier one.
    pub(super) fn is_soon_after(self, earlier: Self) -> bool {
        self.at.since(earlier.at) < COPY
    }

    /// Whether it is the same packet as an earlier one, captured at another place.
    pub(super) fn is_copy_of(self, earlier: Self) -> bool {
        (self.source, self.source_port) == (earlier.source, earlier.source_port)
            && self.is_soon_after(earlier)
    }
}
