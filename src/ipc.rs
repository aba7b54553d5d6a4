//! Fixed-size frames between keeper and watcher, over a channel that keeps frames apart.
//!
//! The watcher is the side that hostile bytes reach, so the keeper believes a frame only as far as
//! its type goes: it may name a door of the configuration that this watcher was given, an address,
//! a time. Anything else is [`MalformedFrame`], and ends the watcher.

pub mod courier;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use derive_more::Deref;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, shutdown};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::SandboxMode;
use crate::engine::{DatagramRequest, Event, LockedSource, Reason, Refusal, Setup};
use crate::proto::{InterfaceName, Knock};
use crate::sys::privileges::Identity;
use crate::sys::sandbox::SandboxReport;
use crate::time::Monotonic;

/// All that a watcher will ever know: the keeper hands it over in a sealed file.
#[derive(Debug, Serialize, Deserialize)]
pub struct Assignment {
    pub setup: Setup,
    pub interfaces: Vec<InterfaceName>,
    /// The addresses of this host. How they change the watcher is told.
    pub addresses: BTreeSet<IpAddr>,
    pub identity: Identity,
    pub sandbox: SandboxMode,
    /// Whether resets are wanted, which only a debug log shows.
    pub verbose: bool,
}

/// How far ahead of the clock a watcher may date a packet: it reads the clock once for many.
pub const EARLY: Duration = Duration::from_secs(1);

/// The length of every frame, in bytes.
pub const FRAME: usize = 192;

/// A message of a watcher to its keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromWatcher {
    /// This much of its sandbox holds.
    Sandbox { report: SandboxReport },
    /// It captures, and root is gone.
    Ready,
    /// Something happened to a source at a door. `at` is when.
    Event { event: Event, at: Monotonic },
    /// The state of the interface with this place in the configuration has changed.
    Interface { index: u32, state: InterfaceState },
    /// So many events were not reported one by one.
    Suppressed { count: u64 },
    /// At the interface with this place in the configuration so many packets more passed the
    /// filter, and of these the kernel dropped so many before they could be looked at.
    Captured { index: u32, seen: u64, dropped: u64 },
    /// So many packets more came to nothing, for this reason.
    Count { reason: Reason, count: u64 },
    /// What it was asked to see to its end has ended.
    Done,
    /// A packet that changed nothing, and why: told while somebody asks.
    Ignored { source: IpAddr, knock: Knock, reason: Reason, at: Monotonic },
    /// What it remembers of an event that has been reported before: told when somebody asks.
    ReplayedEvent { event: Event, at: Monotonic },
    /// A datagram asks for this, and may.
    Request { request: DatagramRequest, at: Monotonic },
    /// A datagram asks for what it may not.
    Refused { refusal: Refusal, at: Monotonic },
    /// What it remembers of a datagram that was refused before: told when somebody asks.
    ReplayedRefusal { refusal: Refusal, at: Monotonic },
}

/// The state of an interface that a watcher is to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InterfaceState {
    Listening,
    /// It does not exist, or cannot be listened on yet.
    Missing,
    /// It was there and has vanished.
    Gone,
}

/// An order of the keeper to a watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWatcher {
    /// Report only sequences that began after this.
    After { time: Monotonic },
    /// Report only sequences that began at or before this, then end.
    Until { time: Monotonic },
    /// Tell what is remembered of these sources' knocks, and from now on all there is about them.
    Explain { asked: ExplainFilter },
    /// Do not listen to this source: another gateway does not.
    Lock { lock: LockedSource },
    /// Listen to this source again.
    Unlock { source: IpAddr },
    /// An address has become one of this host's, or is not any more.
    Address { address: IpAddr, is_own: bool },
}

/// The sources whose knocks somebody asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExplainFilter {
    Nobody,
    One(IpAddr),
    All,
}

impl ExplainFilter {
    /// Whether somebody asks about this one.
    pub fn includes(self, source: IpAddr) -> bool {
        match self {
            Self::Nobody => false,
            Self::One(one) => one == source,
            Self::All => true,
        }
    }
}

/// Bytes that are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a malformed message")]
pub struct MalformedFrame;

/// A message in a frame. It has one encoding, in postcard's format; unused bytes are zero.
pub trait FrameCodec: Serialize + DeserializeOwned {
    fn encode(&self) -> [u8; FRAME] {
        let mut bytes = [0; FRAME];
        postcard::to_slice(self, &mut bytes).expect("a frame has room for the longest message");
        bytes
    }

    /// # Errors
    /// When the bytes are not exactly what [`encode`](Self::encode) would write.
    fn decode(bytes: &[u8; FRAME]) -> Result<Self, MalformedFrame> {
        let read = postcard::take_from_bytes::<Self>(bytes).ok();
        read.map(|(frame, _)| frame).filter(|it| it.encode() == *bytes).ok_or(MalformedFrame)
    }
}

impl FrameCodec for FromWatcher {}
impl FrameCodec for ToWatcher {}

/// The outcome of reading from a channel.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum Received<T> {
    Frame(T),
    /// Nothing is queued.
    Nothing,
    /// The other side has ended.
    Closed,
    Malformed,
}

/// One end of the channel. Neither side ever waits for the other.
#[derive(Debug, Deref)]
pub struct Channel(pub OwnedFd);

impl Channel {
    /// Sends one frame.
    ///
    /// # Errors
    /// `WouldBlock` when the other side does not keep up, `BrokenPipe` when it has ended.
    pub fn send(&self, frame: &impl FrameCodec) -> io::Result<()> {
        send(self.0.as_raw_fd(), &frame.encode(), MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    }

    /// Closes it for both sides, whoever else holds a descriptor of it.
    pub fn shut(&self) {
        // An error means that it is closed already.
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Both);
    }

    /// The next frame, if one is queued. Never waits: poll the descriptor.
    pub fn receive<T: FrameCodec>(&self) -> Received<T> {
        // One byte more than a frame, to tell a longer one.
        self.take::<{ FRAME + 1 }, _>(|frame| T::decode(frame.try_into().ok()?).ok())
    }

    /// The next packet of at most so many bytes, as `read` reads it.
    fn take<const N: usize, T>(&self, read: impl FnOnce(&[u8]) -> Option<T>) -> Received<T> {
        let mut buffer = [0; N];
        match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(0) => Received::Closed,
            Ok(length) => read(&buffer[..length]).map_or(Received::Malformed, Received::Frame),
            Err(Errno::EAGAIN | Errno::EINTR) => Received::Nothing,
            Err(_) => Received::Closed,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::num::NonZeroU16;

    use proptest::prelude::*;

    use super::*;
    use crate::engine::{ClientId, CompletedBy, Credential, DoorId, EventKind};
    use crate::proto::knock::Protocol;
    use crate::proto::method::Method;
    use crate::proto::network::Network;
    use crate::sys::descriptors::frame_channel;
    use crate::time::Wall;

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
            any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())),
        ]
    }

    fn reason() -> impl Strategy<Value = Reason> {
        prop::sample::select(Reason::all().collect::<Vec<_>>())
    }

    fn knock() -> impl Strategy<Value = Knock> {
        (1..=u16::MAX, any::<bool>()).prop_map(|(port, udp)| {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            Knock::new(protocol, port.try_into().unwrap())
        })
    }

    fn kind() -> impl Strategy<Value = EventKind> {
        prop_oneof![
            (any::<u8>(), prop::option::of(knock()))
                .prop_map(|(stage, knock)| EventKind::Stage { stage, knock }),
            Just(EventKind::Open(CompletedBy::Sequence)),
            (any::<u32>(), any::<u64>()).prop_map(|(client, step)| {
                EventKind::Open(CompletedBy::Totp { client: ClientId(client), step })
            }),
            (any::<u32>(), any::<i32>())
                .prop_map(|(client, steps)| EventKind::Missed { client: ClientId(client), steps }),
            Just(EventKind::Unmatched),
            any::<u64>()
                .prop_map(|until| { EventKind::LockedOut { until: Monotonic::from_nanos(until) } }),
            (any::<u8>(), reason(), prop::option::of(knock()))
                .prop_map(|(stage, reason, knock)| EventKind::Reset { stage, reason, knock }),
        ]
    }

    fn request() -> impl Strategy<Value = DatagramRequest> {
        let credential = prop_oneof![
            (any::<u16>(), any::<u64>())
                .prop_map(|(key, stamp)| Credential::Spa { key, stamp: Wall::from_nanos(stamp) }),
            (any::<[u8; 32]>(), any::<u64>()).prop_map(|(digest, stamp)| {
                Credential::Fwknop { digest, stamp: Wall::from_nanos(stamp) }
            }),
        ];
        let v4 = || {
            (any::<u32>(), any::<u8>())
                .prop_map(|(bits, prefix)| Some(Network::around(IpAddr::V4(bits.into()), prefix)))
        };
        let v6 = || {
            (any::<u128>(), any::<u8>())
                .prop_map(|(bits, prefix)| Some(Network::around(IpAddr::V6(bits.into()), prefix)))
        };
        let networks = prop_oneof![
            v4().prop_map(|v4| (v4, None)),
            v6().prop_map(|v6| (None, v6)),
            (v4(), v6()),
        ];
        let rest = (any::<Option<u32>>(), any::<Option<u16>>(), any::<bool>());
        ((any::<u32>(), any::<u32>()), address(), credential, networks, rest).prop_map(
            |((door, client), source, credential, (v4, v6), (open_for, port, close))| {
                DatagramRequest {
                    door: DoorId(door),
                    client: ClientId(client),
                    credential,
                    source,
                    v4,
                    v6,
                    open_for,
                    source_port: port.and_then(NonZeroU16::new),
                    close,
                }
            },
        )
    }

    pub(crate) fn from_watcher() -> impl Strategy<Value = FromWatcher> {
        let time = || any::<u64>().prop_map(Monotonic::from_nanos);
        let state = prop::sample::select(vec![
            InterfaceState::Listening,
            InterfaceState::Missing,
            InterfaceState::Gone,
        ]);
        prop_oneof![
            Just(FromWatcher::Ready),
            Just(FromWatcher::Done),
            (request(), time()).prop_map(|(request, at)| FromWatcher::Request { request, at }),
            (
                (prop::sample::select(Method::ALL.to_vec()), address()),
                any::<Option<u32>>(),
                any::<Option<u32>>(),
                reason(),
                any::<Option<u64>>(),
                any::<Option<[u8; 32]>>(),
                time()
            )
                .prop_map(
                    |((by, source), client, door, reason, stamp, asked_for, at)| {
                        let (client, door) = (client.map(ClientId), door.map(DoorId));
                        let stamp = stamp.map(Wall::from_nanos);
                        let refusal =
                            Refusal { by, source, client, door, reason, stamp, asked_for };
                        if source.is_ipv4() {
                            FromWatcher::Refused { refusal, at }
                        } else {
                            FromWatcher::ReplayedRefusal { refusal, at }
                        }
                    }
                ),
            (address(), knock(), reason(), time()).prop_map(|(source, knock, reason, at)| {
                FromWatcher::Ignored { source, knock, reason, at }
            }),
            (address(), kind(), time(), time()).prop_map(|(source, kind, began, at)| {
                FromWatcher::ReplayedEvent {
                    event: Event { door: Some(DoorId(7)), source, kind, began },
                    at,
                }
            }),
            (any::<Option<u32>>(), address(), kind(), time(), time()).prop_map(
                |(door, source, kind, began, at)| FromWatcher::Event {
                    event: Event { door: door.map(DoorId), source, kind, began },
                    at,
                }
            ),
            (any::<u32>(), state)
                .prop_map(|(index, state)| FromWatcher::Interface { index, state }),
            any::<u64>().prop_map(|count| FromWatcher::Suppressed { count }),
            (any::<u32>(), any::<[u64; 2]>()).prop_map(|(index, [seen, dropped])| {
                FromWatcher::Captured { index, seen, dropped }
            }),
            (reason(), any::<u64>())
                .prop_map(|(reason, count)| FromWatcher::Count { reason, count }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(frame in from_watcher()) {
            prop_assert_eq!(FromWatcher::decode(&frame.encode()), Ok(frame));
        }

        #[test]
        fn a_frame_has_one_encoding_and_no_bytes_make_it_panic(
            bytes in prop::array::uniform32(any::<u8>()),
            tail in prop::array::uniform32(prop::sample::select(vec![0u8, 0, 0, 0, 1, 255])),
            kind in 0u8..14,
        ) {
            let mut frame = [0; FRAME];
            frame[..32].copy_from_slice(&bytes);
            frame[32..64].copy_from_slice(&tail);
            frame[0] = kind;
            if let Ok(decoded) = FromWatcher::decode(&frame) {
                prop_assert_eq!(decoded.encode(), frame);
            }
            if let Ok(decoded) = ToWatcher::decode(&frame) {
                prop_assert_eq!(decoded.encode(), frame);
            }
        }
    }

    #[test]
    fn orders_are_decoded() {
        let time = Monotonic::from_nanos(5);
        let source = IpAddr::from([192, 0, 2, 2]);
        for order in [
            ToWatcher::After { time },
            ToWatcher::Until { time },
            ToWatcher::Explain { asked: ExplainFilter::Nobody },
            ToWatcher::Explain { asked: ExplainFilter::One(source) },
            ToWatcher::Explain { asked: ExplainFilter::All },
            ToWatcher::Lock { lock: LockedSource { door: Some(DoorId(3)), source, until: time } },
            ToWatcher::Unlock { source },
            ToWatcher::Address { address: source, is_own: false },
        ] {
            assert_eq!(ToWatcher::decode(&order.encode()), Ok(order));
        }
    }

    #[test]
    fn a_channel_tells_an_end_from_silence() {
        let (one, other) = frame_channel().unwrap();
        let (one, other) = (Channel(one), Channel(other));
        assert_eq!(other.receive::<ToWatcher>(), Received::Nothing);
        let order = ToWatcher::After { time: Monotonic::ZERO };
        one.send(&order).unwrap();
        assert_eq!(other.receive(), Received::Frame(order));
        drop(one);
        assert_eq!(other.receive::<ToWatcher>(), Received::Closed);
    }

    #[test]
    fn a_frame_of_another_length_is_malformed() {
        let (one, other) = frame_channel().unwrap();
        for length in [1, FRAME - 1, FRAME + 1, 2 * FRAME] {
            send(one.as_raw_fd(), &vec![3; length], MsgFlags::empty()).unwrap();
        }
        let other = Channel(other);
        for _ in 0..4 {
            assert_eq!(other.receive::<ToWatcher>(), Received::Malformed);
        }
    }
}
