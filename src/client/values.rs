//! Values that command line and hosts file have in common, and their readers.

use std::fmt::Display;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::MAX_DELAY;
use crate::proto::fwknop::{NatAccess, User};
use crate::proto::knock::parse_port;
use crate::proto::spa::{AddressError, NamedAddresses};
use crate::proto::totp::STEPS;
use crate::proto::{KnockError, Widths, duration};

/// The port that a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourcePort {
    /// One that is free.
    Auto,
    Fixed(NonZeroU16),
}

/// Reads `40000` or `auto`.
impl FromStr for SourcePort {
    type Err = KnockError;

    fn from_str(text: &str) -> Result<Self, KnockError> {
        if text == "auto" { Ok(Self::Auto) } else { parse_port(text).map(Self::Fixed) }
    }
}

/// The host that ports shall lead to, and its port where that is another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatTarget {
    pub host: String,
    pub port: Option<NonZeroU16>,
}

/// The address that a request asks for, as users write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// The one that this machine uses towards the host, if it is a global one; else the observed.
    Auto,
    /// The one that the server sees.
    Observed,
    Given(NamedAddresses),
}

/// The reason why some words are not an address that could be asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressWordError {
    #[error("'{0}' is neither auto, nor observed, nor an address")]
    Unknown(String),
    #[error("one address of each family can be asked for: leave out {0}")]
    Twice(IpAddr),
    #[error("'auto' and 'observed' stand alone: leave them out, or the other addresses")]
    Mixed,
    #[error(transparent)]
    Address(#[from] AddressError),
}

impl Address {
    /// The address that some words name together, each of them `auto`, `observed` or an IP; `None`
    /// if there are none.
    ///
    /// # Errors
    /// [`AddressWordError`] if they do not go together, or if one is not the address of a host.
    pub fn of(words: &[impl AsRef<str>]) -> Result<Option<Self>, AddressWordError> {
        let (mut v4, mut v6) = (None, None);
        for word in words.iter().map(AsRef::as_ref) {
            let second = match (word, word.parse()) {
                ("auto", _) if words.len() == 1 => return Ok(Some(Self::Auto)),
                ("observed", _) if words.len() == 1 => return Ok(Some(Self::Observed)),
                ("auto" | "observed", _) => return Err(AddressWordError::Mixed),
                (_, Ok(IpAddr::V4(ip))) => v4.replace(ip).map(|_| IpAddr::V4(ip)),
                (_, Ok(IpAddr::V6(ip))) => v6.replace(ip).map(|_| IpAddr::V6(ip)),
                (_, Err(_)) => return Err(AddressWordError::Unknown(word.to_owned())),
            };
            if let Some(second) = second {
                return Err(AddressWordError::Twice(second));
            }
        }
        Ok(if words.is_empty() { None } else { Some(Self::Given(NamedAddresses::new(v4, v6)?)) })
    }
}

/// The reader of a number in this range.
pub(super) fn number<T: Copy + Display + FromStr + PartialOrd>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let (low, high) = (range.start(), range.end());
        let wrong = || format!("'{text}' is not valid here: write a number from {low} to {high}");
        text.parse().ok().filter(|number| range.contains(number)).ok_or_else(wrong)
    }
}

/// Reads the time between two knocks, in milliseconds.
///
/// # Errors
/// Says which times are possible.
pub(super) fn delay(text: &str) -> Result<Duration, String> {
    let delay = text.parse().ok().map(Duration::from_millis);
    delay.filter(|delay| *delay <= MAX_DELAY).ok_or_else(|| {
        format!("write a number of milliseconds from 0 to {}", MAX_DELAY.as_millis())
    })
}

/// Reads the port of the pair of digits 00.
///
/// # Errors
/// Says which ports are possible.
pub(super) fn base(text: &str) -> Result<u16, String> {
    match parse_port(text) {
        Ok(base) if base.get() <= u16::MAX - 99 => Ok(base.get()),
        _ => Err(format!(
            "'{text}' is not valid here: 100 ports from there are needed, write 1 to {}",
            u16::MAX - 99
        )),
    }
}

/// Reads the step of a rotating sequence, in seconds.
///
/// # Errors
/// Says which durations are possible.
pub(super) fn step(text: &str) -> Result<u32, String> {
    match whole_seconds(text)? {
        Some(seconds) if STEPS.contains(&seconds) => Ok(seconds),
        _ => Err(format!("a step of {text} is out of range: write 1s to 1h, in whole seconds")),
    }
}

/// Reads how many bits of an address count: up to 32 of IPv4, more of IPv6, or both.
///
/// # Errors
/// Says how to write it.
pub(super) fn width(text: &str) -> Result<Widths, String> {
    let bits: Result<Vec<u8>, _> = text.split(',').map(str::parse).collect();
    match bits.as_deref() {
        Ok([ipv4 @ 1..=32]) => Ok(Widths { ipv4: *ipv4, ..Widths::SINGLE }),
        Ok([ipv6 @ 33..=128]) => Ok(Widths { ipv6: *ipv6, ..Widths::SINGLE }),
        Ok([ipv4 @ 1..=32, ipv6 @ 33..=128]) => Ok(Widths { ipv4: *ipv4, ipv6: *ipv6 }),
        _ => Err(format!("'{text}' is not {A_WIDTH}")),
    }
}

pub(super) const A_WIDTH: &str = "a width such as 24 of IPv4, 64 of IPv6 or 24,64";

/// Reads the name that fwknop gives a user.
///
/// # Errors
/// Says what is possible.
pub(super) fn user(text: &str) -> Result<User, String> {
    text.parse().map_err(|_| "write 1 to 48 letters and digits".to_owned())
}

/// Reads the difference between two clocks, in seconds, as fwknop writes it.
///
/// # Errors
/// Says how to write it.
pub(super) fn time_offset(text: &str) -> Result<i64, String> {
    offset(text)
        .ok_or_else(|| format!("'{text}' is not a time: write for example 60s, -5min or 1day"))
}

/// A number and a unit, of which the first letter counts, in either case; seconds where there is
/// none.
fn offset(value: &str) -> Option<i64> {
    let (sign, value) = match value.strip_prefix('-') {
        Some(value) => (-1, value),
        None => (1, value.strip_prefix('+').unwrap_or(value)),
    };
    let end = value.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(value.len());
    let (number, unit) = value.split_at_checked(end)?;
    let unit = match unit.bytes().next().map(|letter| letter.to_ascii_lowercase()) {
        None | Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 3_600,
        Some(b'd') => 86_400,
        Some(_) => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(unit * sign)
}

/// Reads `192.0.2.1:22`, or without the port; fwknop itself has a comma before it.
///
/// # Errors
/// Says how to write it.
pub(super) fn nat_target(text: &str) -> Result<NatTarget, String> {
    let (host, port) = text.split_once([':', ',']).unzip();
    let host = host.unwrap_or(text);
    match port.map(parse_port).transpose() {
        Ok(port) if NatAccess::new(host, NonZeroU16::MIN, false).is_ok() => {
            Ok(NatTarget { host: host.to_owned(), port })
        }
        _ => Err(format!("'{text}' is not {A_NAT_TARGET}")),
    }
}

pub(super) const A_NAT_TARGET: &str = "a host and a port such as 192.168.1.10:22";

/// Reads the time that a door shall stay open, in seconds.
///
/// # Errors
/// Says which durations are possible.
pub(super) fn open_for(text: &str) -> Result<NonZeroU32, String> {
    whole_seconds(text)?
        .and_then(NonZeroU32::new)
        .ok_or_else(|| format!("a door cannot be open for {text}: write whole seconds, as in 30s"))
}

/// Reads the time between two knocks of a client that stays, in seconds.
///
/// # Errors
/// Says which durations are possible.
pub(super) fn every(text: &str) -> Result<NonZeroU32, String> {
    open_for(text)
        .map_err(|_| format!("'{text}' is not valid here: write whole seconds, as in 30s"))
}

fn whole_seconds(text: &str) -> Result<Option<u32>, String> {
    let duration = duration::parse(text).map_err(|error| error.to_string())?;
    Ok(u32::try_from(duration.as_secs()).ok().filter(|_| duration.subsec_nanos() == 0))
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use proptest::prelude::*;

    use super::*;
    use crate::proto::totp::LENGTHS;

    fn said<T: fmt::Debug, E: Display>(result: Result<T, E>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn an_address_is_one_of_each_family_or_a_word() {
        let of = |words: &[&str]| Address::of(words);
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["auto"]), Ok(Some(Address::Auto)));
        assert_eq!(of(&["observed"]), Ok(Some(Address::Observed)));
        let Ok(Some(Address::Given(both))) = of(&["2001:db8::7", "198.51.100.7"]) else {
            panic!("two families go together");
        };
        assert_eq!(both.iter().count(), 2);
        assert_eq!(of(&["auto", "192.0.2.1"]), Err(AddressWordError::Mixed));
        assert!(said(of(&["192.0.2.1", "192.0.2.2"])).ends_with("leave out 192.0.2.2"));
        assert_eq!(said(of(&["0.0.0.0"])), "0.0.0.0 is not the address of a host");
        assert!(said(of(&["autp"])).contains("neither auto, nor observed"));
    }

    #[test]
    fn numbers_out_of_range_say_which_are_in_it() {
        assert!(said(number(LENGTHS)("9")).contains("from 3 to 8"));
        assert!(said(base("65437")).contains("write 1 to 65436"));
        for text in ["0", "2h", "1500ms"] {
            assert!(said(step(text)).contains("write 1s to 1h"), "{text}");
        }
        for text in ["0", "500ms", "150y", "100000d"] {
            assert!(open_for(text).is_err(), "{text}");
        }
        assert_eq!((step("1m"), number(LENGTHS)("8"), base("65436")), (Ok(60), Ok(8), Ok(65436)));
    }

    #[test]
    fn a_width_is_of_ipv4_up_to_32_bits_and_of_ipv6_from_33_on() {
        for (text, ipv4, ipv6) in
            [("24", 24, 128), ("64", 32, 64), ("24,64", 24, 64), ("32", 32, 128)]
        {
            assert_eq!(width(text), Ok(Widths { ipv4, ipv6 }), "{text}");
        }
        for text in ["", "0", "129", "24,", "24,25", "64,65", "/24", "64,24", "24,64,1", "-1"] {
            assert!(said(width(text)).contains("is not a width such as 24 of IPv4"), "{text}");
        }
    }

    #[test]
    fn where_a_port_leads_is_a_host_with_or_without_a_port() {
        let read = |text| nat_target(text).map(|target| (target.host, target.port));
        let port = NonZeroU16::new(22);
        assert_eq!(read("192.0.2.1:22"), Ok(("192.0.2.1".to_owned(), port)));
        assert_eq!(read("gw.example.com,22"), Ok(("gw.example.com".to_owned(), port)));
        assert_eq!(read("192.0.2.1"), Ok(("192.0.2.1".to_owned(), None)));
        for text in ["", ":22", "a b:22", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:1:2", "::1"] {
            let why = format!("'{text}' is not a host and a port such as 192.168.1.10:22");
            assert_eq!(read(text), Err(why));
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_reader_panic(text in ".{0,20}") {
            let _ = nat_target(&text);
            let _ = Address::of(&[&text]);
            let _ = width(&text);
            let _ = (number(LENGTHS)(&text), base(&text), step(&text), open_for(&text));
        }
    }
}
