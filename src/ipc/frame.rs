//! Canonical 128-byte encoding of the messages; unused bytes are zero.
//!
//! What a type is made of is said once, and both directions follow from it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use super::{ExplainFilter, FRAME, FromWatcher, InterfaceState, ToWatcher};
use crate::engine::{
    ClientId, CompletedBy, Credential, DatagramRequest, DoorId, Event, EventKind, Reason, Refusal,
};
use crate::proto::knock::{Knock, Protocol};
use crate::proto::method::Method;
use crate::proto::network::Network;
use crate::sys::landlock::LandlockReport;
use crate::sys::sandbox::{MemoryState, SandboxReport, SeccompState};
use crate::time::{Monotonic, Wall};

/// Bytes that are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a malformed message")]
pub struct MalformedFrame;

/// A value with a frame of its own.
pub trait FrameCodec: Field {
    fn encode(&self) -> [u8; FRAME] {
        let mut writer = FrameWriter { bytes: [0; FRAME], at: 0 };
        self.put(&mut writer);
        writer.bytes
    }

    /// # Errors
    /// When the bytes are not exactly what [`encode`](Self::encode) would write.
    fn decode(bytes: &[u8; FRAME]) -> Result<Self, MalformedFrame> {
        let mut reader = FrameReader { rest: bytes };
        let frame = Self::take(&mut reader)?;
        // What a frame does not use is zero.
        if reader.rest.iter().all(|&byte| byte == 0) { Ok(frame) } else { Err(MalformedFrame) }
    }
}

impl FrameCodec for FromWatcher {}
impl FrameCodec for ToWatcher {}

/// A part of a frame. No two values are written alike.
pub trait Field: Copy {
    fn put(self, writer: &mut FrameWriter);

    /// # Errors
    /// When this is not what [`put`](Self::put) would write.
    fn take(reader: &mut FrameReader<'_>) -> Result<Self, MalformedFrame>;
}

/// A frame that is being written.
pub struct FrameWriter {
    bytes: [u8; FRAME],
    at: usize,
}

/// A reader over what is left of a frame.
pub struct FrameReader<'a> {
    rest: &'a [u8],
}

impl<const N: usize> Field for [u8; N] {
    fn put(self, writer: &mut FrameWriter) {
        writer.bytes[writer.at..writer.at + N].copy_from_slice(&self);
        writer.at += N;
    }

    fn take(reader: &mut FrameReader<'_>) -> Result<Self, MalformedFrame> {
        let (head, rest) = reader.rest.split_first_chunk().ok_or(MalformedFrame)?;
        reader.rest = rest;
        Ok(*head)
    }
}

impl<T: Field> Field for Option<T> {
    fn put(self, writer: &mut FrameWriter) {
        self.is_some().put(writer);
        if let Some(value) = self {
            value.put(writer);
        }
    }

    fn take(reader: &mut FrameReader<'_>) -> Result<Self, MalformedFrame> {
        bool::take(reader)?.then(|| T::take(reader)).transpose()
    }
}

/// Host bits are zero.
impl Field for Network {
    fn put(self, writer: &mut FrameWriter) {
        self.address().put(writer);
        self.prefix().put(writer);
    }

    fn take(reader: &mut FrameReader<'_>) -> Result<Self, MalformedFrame> {
        let (address, prefix) = (IpAddr::take(reader)?, u8::take(reader)?);
        let network = Some(Self::around(address, prefix));
        network.filter(|it| (it.address(), it.prefix()) == (address, prefix)).ok_or(MalformedFrame)
    }
}

/// Types that are written as another, and how they come from it, if they do.
macro_rules! written_as {
    ($($name:ty: $other:ty, $to:expr, $from:expr;)+) => {$(
        impl Field for $name {
            fn put(self, writer: &mut FrameWriter) {
                let to: fn(Self) -> $other = $to;
                to(self).put(writer);
            }

            fn take(reader: &mut FrameReader<'_>) -> Result<Self, MalformedFrame> {
                let from: fn($other) -> Option<Self> = $from;
                from(<$other>::take(reader)?).ok_or(MalformedFrame)
            }
        }
    )+};
}

/// The fields of a struct, in their order, and what they have to fulfil together.
macro_rules! fields {
    ($name:ident { $($field:ident),+ } $(if $holds:expr)?) => {
        impl Field for $name {
            fn put(self, writer: &mut FrameWriter) {
                $(self.$field.put(writer);)+
            }

            fn take(reader: &mut FrameReader<'_>) -> Result<Self, MalformedFrame> {
                Some(Self { $($field: Field::take(reader)?),+ })$(.filter($holds))?.ok_or(MalformedFrame)
            }
        }
    };
}

/// The variants of an enum, each after its number, with their fields in their order.
macro_rules! variants {
    ($name:ident { $(
        $number:literal $variant:ident $(($only:ident))? $({ $($field:ident),+ })?
    ),+ $(,)? }) => {
        impl Field for $name {
            fn put(self, writer: &mut FrameWriter) {
                match self {$(
                    Self::$variant $(($only))? $({ $($field),+ })? => {
                        [$number].put(writer);
                        $($only.put(writer);)?
                        $($($field.put(writer);)+)?
                    }
                )+}
            }

            fn take(reader: &mut FrameReader<'_>) -> Result<Self, MalformedFrame> {
                Ok(match u8::take(reader)? {
                    $($number => {
                        $(let $only = Field::take(reader)?;)?
                        $($(let $field = Field::take(reader)?;)+)?
                        Self::$variant $(($only))? $({ $($field),+ })?
                    })+
                    _ => return Err(MalformedFrame),
                })
            }
        }
    };
}

written_as! {
    u8: [u8; 1], Self::to_be_bytes, |bytes| Some(Self::from_be_bytes(bytes));
    u16: [u8; 2], Self::to_be_bytes, |bytes| Some(Self::from_be_bytes(bytes));
    u32: [u8; 4], Self::to_be_bytes, |bytes| Some(Self::from_be_bytes(bytes));
    u64: [u8; 8], Self::to_be_bytes, |bytes| Some(Self::from_be_bytes(bytes));
    i32: [u8; 4], Self::to_be_bytes, |bytes| Some(Self::from_be_bytes(bytes));
    bool: u8, u8::from, |byte| [false, true].get(usize::from(byte)).copied();
    NonZeroU16: u16, Self::get, Self::new;
    Ipv4Addr: u32, Self::to_bits, |bits| Some(Self::from_bits(bits));
    Ipv6Addr: [u8; 16], |address| address.octets(), |octets| Some(octets.into());
    Monotonic: u64, Self::as_nanos, |nanos| Some(Self::from_nanos(nanos));
    Wall: u64, Self::as_nanos, |nanos| Some(Self::from_nanos(nanos));
    DoorId: u32, |door| door.0, |place| Some(Self(place));
    ClientId: u32, |client| client.0, |place| Some(Self(place));
    Reason: u8, reason_code, |place| Self::all().nth(place.into());
}

fn reason_code(reason: Reason) -> u8 {
    // Every reason is in the list: a test holds the two together.
    let place = Reason::all().position(|other| other == reason);
    place.and_then(|place| u8::try_from(place).ok()).unwrap_or(u8::MAX)
}

variants!(IpAddr { 4 V4(address), 6 V6(address) });
variants!(Protocol { 0 Tcp, 1 Udp });
fields!(Knock { protocol, port });
variants!(CompletedBy { 0 Sequence, 1 Totp { client, step } });
variants!(EventKind {
    0 Stage { stage, knock },
    1 Open(knocked),
    2 Reset { stage, reason, knock },
    3 Missed { client, steps },
    4 LockedOut { until },
    5 Unmatched,
});
fields!(Event { door, source, kind, began });
variants!(Credential { 0 Spa { key, stamp }, 1 Fwknop { digest, stamp } });
fields!(DatagramRequest { door, client, credential, source, v4, v6, open_for, source_port, close }
    if |request| request.networks().next().is_some()
        && request.v4.is_none_or(|it| it.address().is_ipv4())
        && request.v6.is_none_or(|it| it.address().is_ipv6()));
variants!(Method { 0 Sequence, 1 OneTimeSequence, 2 Totp, 3 Spa, 4 Fwknop });
fields!(Refusal { by, source, client, door, reason, stamp, asked_for });
variants!(InterfaceState { 0 Listening, 1 Missing, 2 Gone });
variants!(SeccompState { 0 Enforced, 1 Logging, 2 NoList, 3 Refused, 4 Off });
variants!(MemoryState { 0 Locked, 1 Swappable });
fields!(LandlockReport { abi, no_network, scoped });
fields!(SandboxReport { landlock, seccomp, memory });
variants!(FromWatcher {
    1 Ready,
    2 Event { event, at },
    3 Interface { index, state },
    4 Suppressed { count },
    5 Captured { index, seen, dropped },
    6 Count { reason, count },
    7 Done,
    8 Ignored { source, knock, reason, at },
    9 ReplayedEvent { event, at },
    10 Request { request, at },
    11 Refused { refusal, at },
    12 ReplayedRefusal { refusal, at },
    13 Sandbox { report },
});
variants!(ExplainFilter { 0 Nobody, 1 One(source), 2 All });
variants!(ToWatcher {
    1 After { time },
    2 Until { time },
    3 Stop,
    4 Explain { asked },
    5 Unlock { source },
    6 Address { address, is_own },
});
