//! How what the two say is written: one encoding each, of fixed size, zero where nothing is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use super::{FRAME, FromWatcher, InterfaceState, ToWatcher};
use crate::engine::{
    ClientId, Credential, DoorId, Event, EventKind, Knocked, Reason, Refusal, Request,
};
use crate::proto::knock::{Knock, Protocol};
use crate::time::{Monotonic, Wall};

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
            Credential::Fwknop { digest, stamp } => {
                writer.put([1]).put(digest).put(stamp.as_nanos().to_be_bytes())
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
            1 => Credential::Fwknop { digest: self.take()?, stamp: self.wall()? },
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
