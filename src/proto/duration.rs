//! Durations as people write them: `30s`, `5m`, `1h30m`; a bare integer is seconds.

use std::time::Duration;

/// A text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a duration: write 30s, 5m, 1h30m, or a number of seconds")]
pub(crate) struct DurationError(String);

/// Reads a duration of whole milliseconds or more; units are `d`, `h`, `m`, `s` and `ms`, the
/// largest first, each once.
///
/// # Errors
/// [`DurationError`] if the text is anything else, or more than a century.
pub(crate) fn parse(text: &str) -> Result<Duration, DurationError> {
    read(text).ok_or_else(|| DurationError(text.to_owned()))
}

const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const CENTURY: u64 = 100 * 366 * 86_400_000;

fn read(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total: u64 = 0;
    let mut units = UNITS.as_slice();
    if rest.is_empty() {
        return None;
    }
    if rest.bytes().all(|byte| byte.is_ascii_digit()) {
        total = rest.parse::<u64>().ok()?.checked_mul(1_000)?;
        rest = "";
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        let at = units.iter().position(|&(name, _)| name == unit)?;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(units[at].1)?)?;
        units = &units[at + 1..];
        rest = tail;
    }
    (total <= CENTURY).then(|| Duration::from_millis(total))
}

/// As [`format()`], of the whole seconds only.
pub(crate) fn format_seconds(duration: Duration) -> String {
    format(Duration::from_secs(duration.as_secs()))
}

/// The shortest text that [`parse`] reads back as the same number of milliseconds.
pub(crate) fn format(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, millis) in UNITS {
        if left >= millis {
            text.push_str(&format!("{}{unit}", left / millis));
            left %= millis;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn people_write_durations_in_several_ways() {
        for (text, seconds) in
            [("30s", 30), ("5m", 300), ("1h30m", 5400), ("25", 25), ("0", 0), ("2d", 172_800)]
        {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse("1500ms"), Ok(Duration::from_millis(1500)));
    }

    #[test]
    fn what_is_no_duration_is_an_error() {
        for text in [
            "",
            "s",
            "5 m",
            "5x",
            "1m1h",
            "1s1s",
            "-5",
            "1.5s",
            "99999999999999999999",
            "9999999999d",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(millis in 0..CENTURY) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = parse(&text);
        }
    }
}
