//! Ranges of ports: `20000-29999`.

use std::num::NonZeroU16;
use std::ops::RangeInclusive;

use crate::proto::knock::{KnockError, parse_port};

/// Why a text is no range of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    #[error(transparent)]
    Port(#[from] KnockError),
    #[error("'{0}' is not a range of ports: write for example 20000-29999")]
    None(String),
    #[error("the range {0}-{1} holds no port: write the lower port first")]
    Empty(NonZeroU16, NonZeroU16),
}

/// Reads `LOW-HIGH`, or one port.
///
/// # Errors
/// [`RangeError`] if it is neither, or holds no port.
pub fn parse(text: &str) -> Result<RangeInclusive<NonZeroU16>, RangeError> {
    let Some((low, high)) = text.split_once('-') else {
        let port = parse_port(text)?;
        return Ok(port..=port);
    };
    if low.is_empty() || high.contains('-') {
        return Err(RangeError::None(text.to_owned()));
    }
    let (low, high) = (parse_port(low.trim_end())?, parse_port(high.trim_start())?);
    if low > high { Err(RangeError::Empty(low, high)) } else { Ok(low..=high) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> Result<String, String> {
        let range = parse(text).map_err(|error| error.to_string())?;
        Ok(format!("{}-{}", range.start(), range.end()))
    }

    #[test]
    fn a_range_or_one_port_is_read() {
        for (text, range) in
            [("20000-29999", "20000-29999"), ("1 - 65535", "1-65535"), ("7000", "7000-7000")]
        {
            assert_eq!(shown(text), Ok(range.to_owned()));
        }
    }

    #[test]
    fn what_is_none_says_so() {
        for (text, why) in [
            ("7000-6000", "the range 7000-6000 holds no port: write the lower port first"),
            ("1-70000", "port 70000 is out of range: ports go from 1 to 65535"),
            ("many", "'many' is not a port: write a number from 1 to 65535"),
            ("-5", "'-5' is not a range of ports: write for example 20000-29999"),
            ("1-2-3", "'1-2-3' is not a range of ports: write for example 20000-29999"),
        ] {
            assert_eq!(shown(text), Err(why.to_owned()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9 -]{0,14}|.{0,20}") {
            if let Ok(range) = parse(&text) {
                prop_assert!(range.start() <= range.end());
            }
        }
    }
}
