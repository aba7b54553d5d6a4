//! Attributes of netlink messages, written and read: pure.
//!
//! Their headers are in the machine's byte order, their values in the network's (linux/netlink.h).

const NESTED: u16 = 0x8000;
const NETWORK_ORDER: u16 = 0x4000;

/// Attributes being written, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes(pub(super) Vec<u8>);

impl Attributes {
    /// A value as it is, at most 65,531 bytes.
    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.reserve(value.len() + 8);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A number, in the network's order.
    pub(super) fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn u64(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A text, which ends with NUL.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Attributes within one.
    pub(super) fn nest(self, kind: u16, value: &Self) -> Self {
        self.bytes(kind | NESTED, &value.0)
    }

    /// With one more, where there is a value for it.
    pub(super) fn optional<T>(self, value: Option<T>, with: impl FnOnce(Self, T) -> Self) -> Self {
        if let Some(value) = value { with(self, value) } else { self }
    }
}

/// The attributes one after the other; what is broken ends them.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(array(bytes, 0)?));
        let kind = u16::from_ne_bytes(array(bytes, 2)?) & !(NESTED | NETWORK_ORDER);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute at the end of a path of kinds, each within the one before.
pub(super) fn find<'a>(bytes: &'a [u8], path: &[u16]) -> Option<&'a [u8]> {
    path.iter().try_fold(bytes, |bytes, &wanted| {
        attributes(bytes).find(|&(kind, _)| kind == wanted).map(|(_, value)| value)
    })
}

/// The number of an attribute.
pub(super) fn find_u32(bytes: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(array(find(bytes, &[kind])?, 0)?))
}

pub(super) fn find_u64(bytes: &[u8], kind: u16) -> Option<u64> {
    Some(u64::from_be_bytes(array(find(bytes, &[kind])?, 0)?))
}

/// The text of an attribute, up to its NUL.
pub(super) fn find_text(bytes: &[u8], kind: u16) -> Option<&str> {
    text(find(bytes, &[kind])?)
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes.split(|&byte| byte == 0).next()?).ok()
}

/// The bytes from a place on, as many as the caller asks for.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// A comment as nft keeps it beside an object: kind 0, length, text, NUL; `None` of an empty text.
pub(super) fn comment(text: &str) -> Option<Vec<u8>> {
    let length = u8::try_from(text.len() + 1).ok().filter(|&length| length > 1)?;
    Some([&[0, length], text.as_bytes(), &[0]].concat())
}

/// The comment in such a row of kind, length and value.
pub(super) fn read_comment(mut bytes: &[u8]) -> Option<&str> {
    loop {
        let (&kind, &length) = (bytes.first()?, bytes.get(1)?);
        let end = 2 + usize::from(length);
        if kind == 0 {
            return text(bytes.get(2..end)?);
        }
        bytes = bytes.get(end..)?;
    }
}
