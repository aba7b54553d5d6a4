//! TCP flags, and which of them a door asks for.

use std::str::FromStr;

use derive_more::Display;
use serde::{Deserialize, Serialize};

/// The six classic TCP flags, as the bits of the header's fourteenth byte (RFC 9293, 3.1). Shown as
/// `syn,ack`; `none` where there is none of the six.
#[derive(
    Clone, Copy, Debug, Display, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[display("{}", listed(self.names(), "none"))]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    pub const FIN: Self = Self(0x01);
    pub const SYN: Self = Self(0x02);
    pub const RST: Self = Self(0x04);
    pub const PSH: Self = Self(0x08);
    pub const ACK: Self = Self(0x10);
    pub const URG: Self = Self(0x20);

    const NAMES: [(&str, Self); 6] = [
        ("fin", Self::FIN),
        ("syn", Self::SYN),
        ("rst", Self::RST),
        ("psh", Self::PSH),
        ("ack", Self::ACK),
        ("urg", Self::URG),
    ];

    fn names(self) -> impl Iterator<Item = String> {
        let names = Self::NAMES.into_iter().filter(move |(_, flag)| self.0 & flag.0 != 0);
        names.map(|(name, _)| name.to_owned())
    }
}

fn listed(words: impl Iterator<Item = String>, none: &str) -> String {
    let words = words.collect::<Vec<_>>().join(",");
    if words.is_empty() { none.to_owned() } else { words }
}

/// A test of TCP flags: a packet passes it with all of `set` and none of `clear`. Shown as it is
/// read: `syn,!ack`; `any` where it asks for nothing.
#[derive(
    Clone, Copy, Debug, Display, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[display("{}", listed(set.names().chain(clear.names().map(|name| "!".to_owned() + &name)), "any"))]
pub struct FlagTest {
    pub set: TcpFlags,
    pub clear: TcpFlags,
}

impl FlagTest {
    /// The default: the first packet of a connection.
    pub const SYN: Self = Self { set: TcpFlags::SYN, clear: TcpFlags::ACK };
    /// Every TCP packet, as classic knockd without `TCPFlags`.
    pub const ANY: Self = Self { set: TcpFlags(0), clear: TcpFlags(0) };

    pub const fn passes(self, flags: TcpFlags) -> bool {
        flags.0 & self.set.0 == self.set.0 && flags.0 & self.clear.0 == 0
    }

    /// Passes what both tests pass.
    ///
    /// # Errors
    /// [`FlagsError::Both`] if that is nothing.
    pub fn and(self, other: Self) -> Result<Self, FlagsError> {
        let set = TcpFlags(self.set.0 | other.set.0);
        let clear = TcpFlags(self.clear.0 | other.clear.0);
        match TcpFlags::NAMES.into_iter().find(|(_, flag)| set.0 & clear.0 & flag.0 != 0) {
            Some((name, _)) => Err(FlagsError::Both(name)),
            None => Ok(Self { set, clear }),
        }
    }
}

/// The reason why a text is not a test of flags. The message says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagsError {
    #[error(
        "'{0}' is not a TCP flag: write fin, syn, rst, psh, ack or urg, or one of them after !"
    )]
    Unknown(String),
    #[error("no packet has the flag {0} and lacks it: write {0} or !{0}")]
    Both(&'static str),
}

/// Reads `syn,!ack`, in any case.
impl FromStr for FlagTest {
    type Err = FlagsError;

    fn from_str(text: &str) -> Result<Self, FlagsError> {
        text.split(',').try_fold(Self::ANY, |test, word| test.and(one(word.trim())?))
    }
}

fn one(word: &str) -> Result<FlagTest, FlagsError> {
    let (name, wanted) = word.strip_prefix('!').map_or((word, true), |name| (name, false));
    let (_, flag) = TcpFlags::NAMES
        .into_iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .ok_or_else(|| FlagsError::Unknown(word.to_owned()))?;
    let (set, clear) = if wanted { (flag, TcpFlags(0)) } else { (TcpFlags(0), flag) };
    Ok(FlagTest { set, clear })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_as_the_classic_writes_them() {
        assert_eq!("syn,!ack".parse(), Ok(FlagTest::SYN));
        assert_eq!("SYN, !Ack".parse(), Ok(FlagTest::SYN));
    }

    #[test]
    fn flags_are_written_as_they_are_read() {
        assert_eq!(FlagTest::SYN.to_string(), "syn,!ack");
        assert_eq!(FlagTest::ANY.to_string(), "any");
        assert_eq!(TcpFlags(0x12).to_string(), "syn,ack");
        assert_eq!(TcpFlags(0).to_string(), "none");
    }

    #[test]
    fn what_is_no_flag_is_an_error() {
        for text in ["", "foo", "syn,", "syn|ack", "! ack", "!!ack"] {
            assert!(matches!(text.parse::<FlagTest>(), Err(FlagsError::Unknown(_))), "{text:?}");
        }
    }

    #[test]
    fn a_test_that_nothing_passes_is_an_error() {
        assert_eq!("ack,!ack".parse::<FlagTest>(), Err(FlagsError::Both("ack")));
    }
}
