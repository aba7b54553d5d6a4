//! One knock: a transport protocol and a destination port.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::str::FromStr;

use derive_more::Display;
use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay};

use super::words::{UnknownWord, words};

words! {
FromStr("is not a protocol: write tcp or udp"):
/// A transport protocol that can be knocked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp = "tcp",
    Udp = "udp",
}
}

impl Protocol {
    /// Its number in IP headers.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// The most knocks that a sequence has.
pub const MAX_KNOCKS: usize = 32;

/// A knock on a port from 1 to 65535; also names a port that a door opens.
///
/// Written `7000`, `7000/udp` or, as classic knockd does, `7000:udp`; tcp is the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Display)]
#[display("{port}/{protocol}")]
#[derive(SerializeDisplay, DeserializeFromStr)]
pub struct Knock {
    pub protocol: Protocol,
    pub port: NonZeroU16,
}

impl Knock {
    pub const fn new(protocol: Protocol, port: NonZeroU16) -> Self {
        Self { protocol, port }
    }

    /// One that comes to this address; `None` at port 0.
    pub fn at(protocol: Protocol, to: SocketAddr) -> Option<Self> {
        NonZeroU16::new(to.port()).map(|port| Self { protocol, port })
    }

    /// As people write it, with this before a protocol: tcp goes without saying.
    pub fn short(self, separator: char) -> String {
        match self.protocol {
            Protocol::Tcp => self.port.to_string(),
            Protocol::Udp => format!("{}{separator}udp", self.port),
        }
    }
}

/// The reason why a text is not a knock. The message says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KnockError {
    #[error("'{0}' is not a port: write a number from 1 to 65535")]
    Port(String),
    #[error("port {0} is out of range: ports go from 1 to 65535")]
    Range(String),
    #[error(transparent)]
    Protocol(#[from] UnknownWord),
}

impl FromStr for Knock {
    type Err = KnockError;

    fn from_str(text: &str) -> Result<Self, KnockError> {
        let (port, protocol) = with_protocol(text)?;
        Ok(Self { protocol, port: parse_port(port)? })
    }
}

/// A text up to its protocol, and that: tcp where it names none.
pub(super) fn with_protocol(text: &str) -> Result<(&str, Protocol), KnockError> {
    match text.split_once(['/', ':']) {
        Some((ports, protocol)) => Ok((ports, protocol.parse()?)),
        None => Ok((text, Protocol::Tcp)),
    }
}

/// A port from 1 to 65535, decimal digits only.
///
/// # Errors
/// [`KnockError::Port`] if it is not a number, [`KnockError::Range`] if there is no such port.
pub fn parse_port(text: &str) -> Result<NonZeroU16, KnockError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(KnockError::Port(text.to_owned()));
    }
    text.parse().map_err(|_| KnockError::Range(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knock(text: &str) -> Result<String, KnockError> {
        text.parse::<Knock>().map(|knock| knock.to_string())
    }

    #[test]
    fn tcp_is_the_default() {
        assert_eq!(knock("7000").unwrap(), "7000/tcp");
    }

    #[test]
    fn both_separators_and_any_case_are_understood() {
        assert_eq!(knock("7000/udp").unwrap(), "7000/udp");
        assert_eq!(knock("7000:UDP").unwrap(), "7000/udp");
    }

    #[test]
    fn what_is_no_port_is_an_error() {
        for text in ["", "abc", "+1", "-1", " 7", "7 ", "0x10"] {
            assert!(matches!(knock(text), Err(KnockError::Port(_))), "{text:?}");
        }
        for text in ["0", "65536", "70000", "99999999999999999999"] {
            assert!(matches!(knock(text), Err(KnockError::Range(_))), "{text:?}");
        }
    }

    #[test]
    fn an_unknown_protocol_is_an_error() {
        assert_eq!(
            knock("7000:upd").unwrap_err(),
            KnockError::Protocol(UnknownWord("upd".into(), "is not a protocol: write tcp or udp"))
        );
        assert!(matches!(knock("7000/"), Err(KnockError::Protocol(_))));
    }
}
