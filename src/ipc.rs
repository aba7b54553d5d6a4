//! Fixed-size frames between keeper and watcher, over a channel that keeps frames apart.
//!
//! The watcher is the side that hostile bytes reach, so the keeper believes a frame only as far as
//! its type goes: it may name a door of the configuration that this watcher was given, an address,
//! a time. Anything else is [`Malformed`], and ends the watcher.
#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use serde::{Deserialize, Serialize};

use crate::config::{Client, Fwknop, Lockout, Recognition};
use crate::engine::spa::Server;
use crate::engine::{
    ClientId, Credential, DoorId, Event, EventKind, Knocked, Lock, Reason, Refusal, Request,
};
use crate::proto::knock::{Knock, Protocol};
use crate::sys::privileges::Identity;
use crate::time::{Monotonic, Wall};

/// What the keeper hands a watcher in a sealed file: all that it will ever know.
#[derive(Debug, Serialize, Deserialize)]
pub struct Assignment {
    pub doors: Vec<Recognition>,
    pub clients: Vec<Client>,
    /// `None`: native SPA datagrams are not looked at.
    pub spa: Option<Server>,
    pub fwknop: Fwknop,
    pub interfaces: Vec<String>,
    pub only_ipv4: bool,
    pub track_sources: usize,
    pub lockout: Option<Lockout>,
    /// Whom earlier watchers have locked out.
    pub locks: Vec<Lock>,
    pub identity: Identity,
    /// Whether resets are wanted, which only a debug log shows.
    pub verbose: bool,
}

/// The length of every frame, in bytes.
pub const FRAME: usize = 128;

/// What a watcher tells the keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromWatcher {
    /// It captures, and root is gone.
    Ready,
    /// Something happened to a source at a door. `at` is when.
    Event { event: Event, at: Monotonic },
    /// The state of the interface with this place in the configuration has changed.
    Interface { index: u32, state: InterfaceState },
    /// So many events were not reported one by one.
    Suppressed { count: u64 },
    /// The kernel dropped so many packets before they could be looked at.
    Dropped { count: u64 },
    /// So many packets more came to nothing, for this reason.
    Count { reason: Reason, count: u64 },
    /// What it was asked to see to its end has ended.
    Done,
    /// A packet that changed nothing, and why: told while somebody asks.
    Seen { source: IpAddr, knock: Knock, reason: Reason, at: Monotonic },
    /// What it remembers of an event that has been reported before: told when somebody asks.
    Past { event: Event, at: Monotonic },
    /// A datagram asks for this, and may.
    Asked { request: Request, at: Monotonic },
    /// A datagram asks for what it may not.
    Refused { refusal: Refusal, at: Monotonic },
    /// What it remembers of a datagram that was refused before: told when somebody asks.
    PastRefusal { refusal: Refusal, at: Monotonic },
}

/// How an interface fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterfaceState {
    Listening,
    /// It does not exist, or cannot be listened on yet.
    Missing,
    /// It was there and has vanished.
    Gone,
}

/// What the keeper tells a watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToWatcher {
    /// Report only sequences that began after this.
    After { time: Monotonic },
    /// Report only sequences that began at or before this, then end.
    Until { time: Monotonic },
    /// End now.
    Stop,
    /// Tell what is remembered of this source's knocks, and from now on all there is about it.
    Explain { source: IpAddr },
    /// The same of all sources.
    ExplainAll,
    /// Nobody asks any more.
    ExplainNothing,
    /// Listen to this source again.
    Unlock { source: IpAddr },
}

/// The bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a malformed message")]
pub struct Malformed;

/// A value with a frame of its own.
pub trait Frame: Sized {
    fn encode(&self) -> [u8; FRAME];

    /// # Errors
    /// When the bytes are not exactly what [`encode`](Self::encode) would write.
    fn decode(bytes: &[u8; FRAME]) -> Result<Self, Malformed>;
}

struct Writer {
    bytes: [u8; FRAME],
    at: usize,
}

impl Writer {
    const fn new(kind: u8) -> Self {
        let mut bytes = [0; FRAME];
        bytes[0] = kind;
        Self { bytes, at: 1 }
    }

    fn put<const N: usize>(mut self, value: [u8; N]) -> Self {
        self.bytes[self.at..self.at + N].copy_from_slice(&value);
        self.at += N;
        self
    }

    fn address(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.put([4]).put(address.octets()).put([0; 12]),
            IpAddr::V6(address) => self.put([6]).put(address.octets()),
        }
    }

    fn knock(self, knock: Knock) -> Self {
        self.put([u8::from(knock.protocol == Protocol::Udp)]).put(knock.port.get().to_be_bytes())
    }

    fn time(self, time: Monotonic) -> Self {
        self.put(time.as_nanos().to_be_bytes())
    }

    fn event(self, event: Event) -> Self {
        let writer = match event.kind {
            EventKind::Stage(stage) => self.put([0, stage]),
            EventKind::Open(Knocked::Sequence) => self.put([1]),
            EventKind::Open(Knocked::Totp { client, step }) => {
                self.put([2]).client(client).put(step.to_be_bytes())
            }
            EventKind::Reset { stage, reason, knock } => {
                self.put([3, stage, reason_code(reason)]).optional(knock, Self::knock)
            }
            EventKind::Missed { client, steps } => {
                self.put([4]).client(client).put(steps.to_be_bytes())
            }
            EventKind::LockedOut { until, everywhere } => {
                self.put([5, u8::from(everywhere)]).time(until)
            }
        };
        writer.door(event.door).address(event.source).time(event.began)
    }

    fn refusal(self, refusal: Refusal) -> Self {
        self.address(refusal.source)
            .optional(refusal.client, Self::client)
            .optional(refusal.door, Self::door)
            .put([reason_code(refusal.reason)])
    }

    fn door(self, door: DoorId) -> Self {
        self.put(door.0.to_be_bytes())
    }

    fn client(self, client: ClientId) -> Self {
        self.put(client.0.to_be_bytes())
    }

    fn optional<T>(self, value: Option<T>, put: impl FnOnce(Self, T) -> Self) -> Self {
        match value {
            Some(value) => put(self.put([1]), value),
            None => self.put([0]),
        }
    }

    fn request(self, request: &Request) -> Self {
        let writer = self.door(request.door).client(request.client).address(request.source);
        let writer = match request.credential {
            Credential::Spa { key, stamp } => {
                writer.put([0]).put(key.to_be_bytes()).put(stamp.as_nanos().to_be_bytes())
            }
            Credential::Fwknop { digest, until } => {
                writer.put([1]).put(digest).put(until.as_nanos().to_be_bytes())
            }
        };
        writer
            .optional(request.v4, |writer, v4| writer.put(v4.octets()))
            .optional(request.v6, |writer, v6| writer.put(v6.octets()))
            .optional(request.open_for, |writer, seconds| writer.put(seconds.to_be_bytes()))
            .optional(request.source_port, |writer, port| writer.put(port.get().to_be_bytes()))
            .put([u8::from(request.close)])
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*head)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_be_bytes(self.take()?))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.take()?))
    }

    fn time(&mut self) -> Result<Monotonic, Malformed> {
        Ok(Monotonic::from_nanos(self.u64()?))
    }

    fn address(&mut self) -> Result<IpAddr, Malformed> {
        let family = self.byte()?;
        let bytes: [u8; 16] = self.take()?;
        match (family, bytes) {
            (4, [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) => {
                Ok(Ipv4Addr::new(a, b, c, d).into())
            }
            (6, _) => Ok(Ipv6Addr::from(bytes).into()),
            _ => Err(Malformed),
        }
    }

    fn knock(&mut self) -> Result<Knock, Malformed> {
        let protocol = if self.boolean()? { Protocol::Udp } else { Protocol::Tcp };
        let port = NonZeroU16::new(u16::from_be_bytes(self.take()?)).ok_or(Malformed)?;
        Ok(Knock::new(protocol, port))
    }

    fn reason(&mut self) -> Result<Reason, Malformed> {
        Reason::ALL.get(usize::from(self.byte()?)).copied().ok_or(Malformed)
    }

    fn event(&mut self) -> Result<Event, Malformed> {
        let kind = match self.byte()? {
            0 => EventKind::Stage(self.byte()?),
            1 => EventKind::Open(Knocked::Sequence),
            2 => EventKind::Open(Knocked::Totp { client: self.client()?, step: self.u64()? }),
            3 => {
                let (stage, reason) = (self.byte()?, self.reason()?);
                EventKind::Reset { stage, reason, knock: self.optional(Self::knock)? }
            }
            4 => {
                let client = self.client()?;
                EventKind::Missed { client, steps: i32::from_be_bytes(self.take()?) }
            }
            5 => {
                let everywhere = self.boolean()?;
                EventKind::LockedOut { until: self.time()?, everywhere }
            }
            _ => return Err(Malformed),
        };
        let door = self.door()?;
        Ok(Event { door, source: self.address()?, kind, began: self.time()? })
    }

    fn boolean(&mut self) -> Result<bool, Malformed> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    fn door(&mut self) -> Result<DoorId, Malformed> {
        Ok(DoorId(self.u32()?))
    }

    fn client(&mut self) -> Result<ClientId, Malformed> {
        Ok(ClientId(self.u32()?))
    }

    fn wall(&mut self) -> Result<Wall, Malformed> {
        Ok(Wall::from_nanos(self.u64()?))
    }

    fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        if self.boolean()? { read(self).map(Some) } else { Ok(None) }
    }

    fn request(&mut self) -> Result<Request, Malformed> {
        let (door, client, source) = (self.door()?, self.client()?, self.address()?);
        let credential = match self.byte()? {
            0 => {
                let key = u16::from_be_bytes(self.take()?);
                Credential::Spa { key, stamp: self.wall()? }
            }
            1 => Credential::Fwknop { digest: self.take()?, until: self.wall()? },
            _ => return Err(Malformed),
        };
        let request = Request {
            door,
            client,
            credential,
            source,
            v4: self.optional(|reader| Ok(reader.take::<4>()?.into()))?,
            v6: self.optional(|reader| Ok(reader.take::<16>()?.into()))?,
            open_for: self.optional(Self::u32)?,
            source_port: self.optional(|reader| {
                NonZeroU16::new(u16::from_be_bytes(reader.take()?)).ok_or(Malformed)
            })?,
            close: self.boolean()?,
        };
        if request.v4.is_none() && request.v6.is_none() { Err(Malformed) } else { Ok(request) }
    }

    fn refusal(&mut self) -> Result<Refusal, Malformed> {
        Ok(Refusal {
            source: self.address()?,
            client: self.optional(Self::client)?,
            door: self.optional(Self::door)?,
            reason: self.reason()?,
        })
    }

    /// What a frame does not use is zero.
    fn end<T>(self, value: T) -> Result<T, Malformed> {
        if self.rest.iter().all(|&byte| byte == 0) { Ok(value) } else { Err(Malformed) }
    }
}

fn reason_code(reason: Reason) -> u8 {
    // Every reason is in the list: a test holds the two together.
    let place = Reason::ALL.iter().position(|&other| other == reason);
    place.and_then(|place| u8::try_from(place).ok()).unwrap_or(u8::MAX)
}

impl Frame for FromWatcher {
    fn encode(&self) -> [u8; FRAME] {
        let writer = match *self {
            Self::Ready => Writer::new(1),
            Self::Event { event, at } => Writer::new(2).event(event).time(at),
            Self::Interface { index, state } => {
                let state = match state {
                    InterfaceState::Listening => 0,
                    InterfaceState::Missing => 1,
                    InterfaceState::Gone => 2,
                };
                Writer::new(3).put(index.to_be_bytes()).put([state])
            }
            Self::Suppressed { count } => Writer::new(4).put(count.to_be_bytes()),
            Self::Dropped { count } => Writer::new(5).put(count.to_be_bytes()),
            Self::Count { reason, count } => {
                Writer::new(6).put([reason_code(reason)]).put(count.to_be_bytes())
            }
            Self::Done => Writer::new(7),
            Self::Seen { source, knock, reason, at } => {
                Writer::new(8).address(source).knock(knock).put([reason_code(reason)]).time(at)
            }
            Self::Past { event, at } => Writer::new(9).event(event).time(at),
            Self::Asked { ref request, at } => Writer::new(10).request(request).time(at),
            Self::Refused { refusal, at } => Writer::new(11).refusal(refusal).time(at),
            Self::PastRefusal { refusal, at } => Writer::new(12).refusal(refusal).time(at),
        };
        writer.bytes
    }

    fn decode(bytes: &[u8; FRAME]) -> Result<Self, Malformed> {
        let mut reader = Reader { rest: bytes };
        let frame = match reader.byte()? {
            1 => Self::Ready,
            2 => Self::Event { event: reader.event()?, at: reader.time()? },
            3 => {
                let index = reader.u32()?;
                let state = match reader.byte()? {
                    0 => InterfaceState::Listening,
                    1 => InterfaceState::Missing,
                    2 => InterfaceState::Gone,
                    _ => return Err(Malformed),
                };
                Self::Interface { index, state }
            }
            4 => Self::Suppressed { count: reader.u64()? },
            5 => Self::Dropped { count: reader.u64()? },
            6 => Self::Count { reason: reader.reason()?, count: reader.u64()? },
            7 => Self::Done,
            8 => {
                let (source, knock) = (reader.address()?, reader.knock()?);
                Self::Seen { source, knock, reason: reader.reason()?, at: reader.time()? }
            }
            9 => Self::Past { event: reader.event()?, at: reader.time()? },
            10 => Self::Asked { request: reader.request()?, at: reader.time()? },
            11 => Self::Refused { refusal: reader.refusal()?, at: reader.time()? },
            12 => Self::PastRefusal { refusal: reader.refusal()?, at: reader.time()? },
            _ => return Err(Malformed),
        };
        reader.end(frame)
    }
}

impl Frame for ToWatcher {
    fn encode(&self) -> [u8; FRAME] {
        match *self {
            Self::After { time } => Writer::new(1).time(time),
            Self::Until { time } => Writer::new(2).time(time),
            Self::Stop => Writer::new(3),
            Self::Explain { source } => Writer::new(4).address(source),
            Self::ExplainAll => Writer::new(5),
            Self::ExplainNothing => Writer::new(6),
            Self::Unlock { source } => Writer::new(7).address(source),
        }
        .bytes
    }

    fn decode(bytes: &[u8; FRAME]) -> Result<Self, Malformed> {
        let mut reader = Reader { rest: bytes };
        let frame = match reader.byte()? {
            1 => Self::After { time: reader.time()? },
            2 => Self::Until { time: reader.time()? },
            3 => Self::Stop,
            4 => Self::Explain { source: reader.address()? },
            5 => Self::ExplainAll,
            6 => Self::ExplainNothing,
            7 => Self::Unlock { source: reader.address()? },
            _ => return Err(Malformed),
        };
        reader.end(frame)
    }
}

/// What a channel has to offer at the moment.
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
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    #[must_use]
    pub const fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// `WouldBlock` when the other side does not keep up, `BrokenPipe` when it has ended.
    pub fn send(&self, frame: &impl Frame) -> io::Result<()> {
        send(self.0.as_raw_fd(), &frame.encode(), MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    }

    pub fn receive<T: Frame>(&self) -> Received<T> {
        // One byte more than a frame, to tell a longer one.
        let mut buffer = [0; FRAME + 1];
        match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(0) => Received::Closed,
            Ok(FRAME) => match buffer.first_chunk().map(T::decode) {
                Some(Ok(frame)) => Received::Frame(frame),
                _ => Received::Malformed,
            },
            Ok(_) => Received::Malformed,
            Err(Errno::EAGAIN | Errno::EINTR) => Received::Nothing,
            Err(_) => Received::Closed,
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sys::files::frame_channel;

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
            any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())),
        ]
    }

    fn reason() -> impl Strategy<Value = Reason> {
        prop::sample::select(Reason::ALL.to_vec())
    }

    fn knock() -> impl Strategy<Value = Knock> {
        (1..=u16::MAX, any::<bool>()).prop_map(|(port, udp)| {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            Knock::new(protocol, port.try_into().unwrap())
        })
    }

    fn kind() -> impl Strategy<Value = EventKind> {
        prop_oneof![
            any::<u8>().prop_map(EventKind::Stage),
            Just(EventKind::Open(Knocked::Sequence)),
            (any::<u32>(), any::<u64>()).prop_map(|(client, step)| {
                EventKind::Open(Knocked::Totp { client: ClientId(client), step })
            }),
            (any::<u32>(), any::<i32>())
                .prop_map(|(client, steps)| EventKind::Missed { client: ClientId(client), steps }),
            (any::<u64>(), any::<bool>()).prop_map(|(until, everywhere)| {
                EventKind::LockedOut { until: Monotonic::from_nanos(until), everywhere }
            }),
            (any::<u8>(), reason(), prop::option::of(knock()))
                .prop_map(|(stage, reason, knock)| EventKind::Reset { stage, reason, knock }),
        ]
    }

    fn request() -> impl Strategy<Value = Request> {
        let credential = prop_oneof![
            (any::<u16>(), any::<u64>())
                .prop_map(|(key, stamp)| Credential::Spa { key, stamp: Wall::from_nanos(stamp) }),
            (any::<[u8; 32]>(), any::<u64>()).prop_map(|(digest, until)| {
                Credential::Fwknop { digest, until: Wall::from_nanos(until) }
            }),
        ];
        let addresses = prop_oneof![
            any::<u32>().prop_map(|v4| (Some(v4.into()), None)),
            any::<u128>().prop_map(|v6| (None, Some(v6.into()))),
            (any::<u32>(), any::<u128>()).prop_map(|(v4, v6)| (Some(v4.into()), Some(v6.into()))),
        ];
        let rest = (any::<Option<u32>>(), any::<Option<u16>>(), any::<bool>());
        ((any::<u32>(), any::<u32>()), address(), credential, addresses, rest).prop_map(
            |((door, client), source, credential, (v4, v6), (open_for, port, close))| Request {
                door: DoorId(door),
                client: ClientId(client),
                credential,
                source,
                v4,
                v6,
                open_for,
                source_port: port.and_then(NonZeroU16::new),
                close,
            },
        )
    }

    fn from_watcher() -> impl Strategy<Value = FromWatcher> {
        let time = || any::<u64>().prop_map(Monotonic::from_nanos);
        let state = prop::sample::select(vec![
            InterfaceState::Listening,
            InterfaceState::Missing,
            InterfaceState::Gone,
        ]);
        prop_oneof![
            Just(FromWatcher::Ready),
            Just(FromWatcher::Done),
            (request(), time()).prop_map(|(request, at)| FromWatcher::Asked { request, at }),
            (address(), any::<Option<u32>>(), any::<Option<u32>>(), reason(), time()).prop_map(
                |(source, client, door, reason, at)| {
                    let (client, door) = (client.map(ClientId), door.map(DoorId));
                    let refusal = Refusal { source, client, door, reason };
                    if source.is_ipv4() {
                        FromWatcher::Refused { refusal, at }
                    } else {
                        FromWatcher::PastRefusal { refusal, at }
                    }
                }
            ),
            (address(), knock(), reason(), time()).prop_map(|(source, knock, reason, at)| {
                FromWatcher::Seen { source, knock, reason, at }
            }),
            (address(), kind(), time(), time()).prop_map(|(source, kind, began, at)| {
                FromWatcher::Past { event: Event { door: DoorId(7), source, kind, began }, at }
            }),
            (any::<u32>(), address(), kind(), time(), time()).prop_map(
                |(door, source, kind, began, at)| FromWatcher::Event {
                    event: Event { door: DoorId(door), source, kind, began },
                    at,
                }
            ),
            (any::<u32>(), state)
                .prop_map(|(index, state)| FromWatcher::Interface { index, state }),
            any::<u64>().prop_map(|count| FromWatcher::Suppressed { count }),
            any::<u64>().prop_map(|count| FromWatcher::Dropped { count }),
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
            ToWatcher::Stop,
            ToWatcher::Explain { source },
            ToWatcher::ExplainAll,
            ToWatcher::ExplainNothing,
            ToWatcher::Unlock { source },
        ] {
            assert_eq!(ToWatcher::decode(&order.encode()), Ok(order));
        }
    }

    #[test]
    fn a_channel_tells_an_end_from_silence() {
        let (one, other) = frame_channel().unwrap();
        let (one, other) = (Channel::new(one), Channel::new(other));
        assert_eq!(other.receive::<ToWatcher>(), Received::Nothing);
        one.send(&ToWatcher::Stop).unwrap();
        assert_eq!(other.receive(), Received::Frame(ToWatcher::Stop));
        drop(one);
        assert_eq!(other.receive::<ToWatcher>(), Received::Closed);
    }

    #[test]
    fn a_frame_of_another_length_is_malformed() {
        let (one, other) = frame_channel().unwrap();
        for length in [1, FRAME - 1, FRAME + 1, 2 * FRAME] {
            send(one.as_raw_fd(), &vec![3; length], MsgFlags::empty()).unwrap();
        }
        let other = Channel::new(other);
        for _ in 0..4 {
            assert_eq!(other.receive::<ToWatcher>(), Received::Malformed);
        }
    }
}
