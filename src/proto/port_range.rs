//! Ranges of ports: `20000-29999`.

use std::num::NonZeroU16;
use std::ops::RangeInclusive;

use super::knock::{KnockError, parse_port};

/// Ports of which the first is not above the last.
pub type PortRange = RangeInclusive<NonZeroU16>;

/// The reason why a text is not a range of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    #[error(transparent)]
    Port(#[from] KnockError),
    #[error("'{0}' is not a range of ports: write the first and the last, as in 20000-29999")]
    None(String),
    #[error("the range {0}-{1} holds no port: write the lower port first")]
    Empty(NonZeroU16, NonZeroU16),
}

/// Reads `LOW-HIGH`, or one port.
///
/// # Errors
/// [`RangeError`] if it is neither, or holds no port.
pub(crate) fn parse(text: &str) -> Result<PortRange, RangeError> {
    if text.find('-').is_some_and(|at| at > 0) {
        return parse_wide(text);
    }
    let port = parse_port(text)?;
    Ok(port..=port)
}

/// Reads `LOW-HIGH`, and nothing that is one port only.
///
/// # Errors
/// [`RangeError`] if it is not that, or holds no port.
pub(crate) fn parse_wide(text: &str) -> Result<PortRange, RangeError> {
    let (low, high) = match text.split_once('-') {
        Some((low, high)) if !low.is_empty() && !high.contains('-') => (low, high),
        _ => return Err(RangeError::None(text.to_owned())),
    };
    let (low, high) = (parse_port(low.trim_end())?, parse_port(high.trim_start())?);
    if low > high { Err(RangeError::Empty(low, high)) } else { Ok(low..=high) }
}

/// The range as it is read, or with this between the first port and the last.
pub(crate) fn show(range: &PortRange, between: char) -> String {
    let (low, high) = (range.start(), range.end());
    if low == high { low.to_string() } else { format!("{low}{between}{high}") }
}

/// The port that a random number picks; each is as likely as any other, to one in 2^48.
pub(crate) fn pick(range: &PortRange, random: u64) -> NonZeroU16 {
    let width = u64::from(range.end().get() - range.start().get()) + 1;
    // Less than the width, so never past the end.
    range.start().saturating_add(u16::try_from(random % width).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(range: Result<PortRange, RangeError>) -> Result<String, String> {
        let range = range.map_err(|error| error.to_string())?;
        Ok(format!("{}-{}", range.start(), range.end()))
    }

    #[test]
    fn a_range_or_one_port_is_read() {
        for (text, range) in
            [("20000-29999", "20000-29999"), ("1 - 65535", "1-65535"), ("7000", "7000-7000")]
        {
            assert_eq!(shown(parse(text)), Ok(range.to_owned()));
        }
    }

    #[test]
    fn what_is_none_says_so() {
        for (text, why) in [
            ("7000-6000", "the range 7000-6000 holds no port: write the lower port first"),
            ("1-70000", "port 70000 is out of range: ports go from 1 to 65535"),
            ("many", "'many' is not a port: write a number from 1 to 65535"),
            ("-5", "'-5' is not a port: write a number from 1 to 65535"),
            (
                "1-2-3",
                "'1-2-3' is not a range of ports: write the first and the last, as in 20000-29999",
            ),
        ] {
            assert_eq!(shown(parse(text)), Err(why.to_owned()), "{text}");
        }
    }

    #[test]
    fn one_port_is_not_a_wide_range() {
        assert_eq!(shown(parse_wide("20000-29999")), Ok("20000-29999".to_owned()));
        for (text, why) in [
            (
                "20000",
                "'20000' is not a range of ports: write the first and the last, as in 20000-29999",
            ),
            ("3-2", "the range 3-2 holds no port: write the lower port first"),
        ] {
            assert_eq!(shown(parse_wide(text)), Err(why.to_owned()));
        }
        assert!(parse_wide("0-70000").is_err());
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_as_the_same(a in 1u16.., b in 1u16..) {
            let range = a.min(b).try_into().unwrap()..=a.max(b).try_into().unwrap();
            prop_assert_eq!(parse(&show(&range, '-')), Ok(range));
        }

        #[test]
        fn every_pick_is_in_the_range(a in 1u16.., b in 1u16.., random: u64) {
            let range = parse(&format!("{}-{}", a.min(b), a.max(b))).unwrap();
            prop_assert!(range.contains(&pick(&range, random)));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9 -]{0,14}|.{0,20}") {
            if let Ok(range) = parse(&text) {
                prop_assert!(range.start() <= range.end());
            }
            let _ = parse_wide(&text);
        }
    }
}
