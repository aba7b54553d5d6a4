//! Codes as authenticators show them, and the knocks that they stand for.

use std::num::NonZeroU16;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::TotpKey;
use crate::proto::knock::{Knock, Protocol};
use crate::proto::words::words;

words! {
FromStr("is not valid here: write 6 or 8"):
/// The number of digits of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Digits {
    Six = "6",
    Eight = "8",
}
}

impl Digits {
    pub const fn count(self) -> usize {
        match self {
            Self::Six => 6,
            Self::Eight => 8,
        }
    }
}

/// Where the ports of a code may begin: a port for each pair of digits has to fit.
pub(super) const BASES: RangeInclusive<u16> = 1..=u16::MAX - 99;

/// The code of a step, with its leading zeros (RFC 6238, SHA-1).
pub fn code(key: &TotpKey, step: u64, digits: Digits) -> Zeroizing<String> {
    Zeroizing::new(format!("{:0width$}", value(key, step, digits), width = digits.count()))
}

/// RFC 4226, section 5.3.
pub(super) fn value(key: &TotpKey, step: u64, digits: Digits) -> u32 {
    let mac = key.mac(&[&step.to_be_bytes()]);
    let [.., last] = mac;
    let offset = usize::from(last & 0xf);
    // At most 15 + 4 of 20 bytes.
    let number =
        mac.iter().skip(offset).take(4).fold(0, |number, &byte| number << 8 | u32::from(byte));
    (number & 0x7fff_ffff) % 10u32.pow(digits.count() as u32)
}

/// The knocks of a code, the first pair of digits first; `base` is one of [`BASES`].
pub(super) fn knocks(base: u16, value: u32, digits: Digits) -> impl Iterator<Item = Knock> {
    (0..digits.count() as u32 / 2).rev().map(move |place| {
        let pair = (value / 100u32.pow(place) % 100) as u16;
        let port = NonZeroU16::new(base).unwrap_or(NonZeroU16::MIN).saturating_add(pair);
        Knock::new(Protocol::Tcp, port)
    })
}

/// The reason why a text is not a code. The text is not repeated: a code is a secret while it
/// holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    #[error("a code is digits only, as the authenticator shows them")]
    NotDigits,
    #[error("a code has 6 or 8 digits, not {0}")]
    Length(usize),
    #[error("base {0} is out of range: 100 ports from there are needed, write 1 to 65436")]
    Base(u16),
}

/// The knocks of a code that somebody typed; blanks and hyphens between the digits are passed
/// over.
///
/// # Errors
/// [`CodeError`] if it is not 6 or 8 digits, or `base` leaves no room for the ports.
pub fn knocks_of_code(base: u16, typed: &str) -> Result<Vec<Knock>, CodeError> {
    if !BASES.contains(&base) {
        return Err(CodeError::Base(base));
    }
    let (mut value, mut count) = (0u32, 0);
    for c in typed.chars().filter(|&c| !c.is_whitespace() && c != '-') {
        let digit = c.to_digit(10).ok_or(CodeError::NotDigits)?;
        // What overflows is too long to be a code.
        value = value.wrapping_mul(10).wrapping_add(digit);
        count += 1;
    }
    let digits = match count {
        6 => Digits::Six,
        8 => Digits::Eight,
        _ => return Err(CodeError::Length(count)),
    };
    Ok(knocks(base, value, digits).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::secret::Secret;

    fn key(secret: &[u8]) -> TotpKey {
        TotpKey::from(&Secret::new(secret.to_vec()))
    }

    fn ports(typed: &str) -> Result<Vec<u16>, CodeError> {
        let knocks = knocks_of_code(7000, typed)?;
        assert!(knocks.iter().all(|knock| knock.protocol == Protocol::Tcp));
        Ok(knocks.iter().map(|knock| knock.port.get()).collect())
    }

    #[test]
    fn codes_are_those_of_rfc_6238() {
        let key = key(b"12345678901234567890");
        for (seconds, expected) in [
            (59, "94287082"),
            (1111111109, "07081804"),
            (1111111111, "14050471"),
            (1234567890, "89005924"),
            (2000000000, "69279037"),
            (20000000000, "65353130"),
        ] {
            assert_eq!(*code(&key, seconds / 30, Digits::Eight), expected);
            assert_eq!(*code(&key, seconds / 30, Digits::Six), expected[2..]);
        }
    }

    #[test]
    fn a_code_is_cut_into_pairs() {
        assert_eq!(ports("493817").unwrap(), [7049, 7038, 7017]);
        assert_eq!(ports("00990102").unwrap(), [7000, 7099, 7001, 7002]);
        assert_eq!(ports("000000").unwrap(), [7000, 7000, 7000]);
    }

    #[test]
    fn a_code_may_be_typed_in_groups() {
        for typed in ["493 817", " 493817\n", "49-38-17", "493\u{a0}817"] {
            assert_eq!(ports(typed).unwrap(), [7049, 7038, 7017], "{typed:?}");
        }
    }

    #[test]
    fn what_is_no_code_is_refused_without_repeating_it() {
        assert_eq!(ports("49381"), Err(CodeError::Length(5)));
        assert_eq!(ports(""), Err(CodeError::Length(0)));
        assert_eq!(ports("4938170000000"), Err(CodeError::Length(13)));
        assert_eq!(ports("49381x"), Err(CodeError::NotDigits));
        assert_eq!(ports("+49381"), Err(CodeError::NotDigits));
        for base in [0, 65437] {
            assert_eq!(knocks_of_code(base, "493817"), Err(CodeError::Base(base)));
        }
        for error in [CodeError::Length(5), CodeError::NotDigits, CodeError::Base(0)] {
            assert!(!error.to_string().contains("4938"));
        }
    }

    proptest! {
        #[test]
        fn codes_are_what_authenticators_show(
            secret in prop::collection::vec(any::<u8>(), 16..80), step in 0..u64::MAX / 30,
        ) {
            for (digits, count) in [(Digits::Six, 6), (Digits::Eight, 8)] {
                let other = totp_rs::Builder::new()
                    .with_secret(secret.clone())
                    .with_digits(count)
                    .build()
                    .unwrap();
                let expected = other.generate(step * 30).to_string();
                prop_assert_eq!(&*code(&key(&secret), step, digits), &expected);
            }
        }

        #[test]
        fn a_typed_code_is_the_derived_sequence(
            secret in prop::collection::vec(any::<u8>(), 16..30), step: u64, base in BASES,
        ) {
            let key = key(&secret);
            for digits in [Digits::Six, Digits::Eight] {
                let typed = knocks_of_code(base, &code(&key, step, digits)).unwrap();
                let derived: Vec<Knock> = knocks(base, value(&key, step, digits), digits).collect();
                prop_assert_eq!(typed, derived);
            }
        }

        #[test]
        fn no_text_makes_it_panic(base: u16, typed in ".{0,20}") {
            let _ = knocks_of_code(base, &typed);
        }
    }
}
