//! Dates and times, such as 2027-01-31 or 2027-01-31T12:00:00Z.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::time::Wall;

/// The text is neither a date nor a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a date: write 2027-01-31, or with a time 2027-01-31T12:00:00Z (RFC 3339)")]
pub(super) struct DateError;

/// Reads a date, which is its first moment in UTC, or a date and time with its offset (RFC 3339).
///
/// # Errors
/// [`DateError`] if the text is anything else, or if it is before 1970.
pub(super) fn parse(text: &str) -> Result<Wall, DateError> {
    let moment = match text.len() {
        0..=10 => {
            let date: Date = text.parse().map_err(|_| DateError)?;
            date.to_zoned(TimeZone::UTC).map_err(|_| DateError)?.timestamp()
        }
        _ => text.parse::<Timestamp>().map_err(|_| DateError)?,
    };
    u64::try_from(moment.as_nanosecond()).map(Wall::from_nanos).map_err(|_| DateError)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(text: &str) -> Result<u64, DateError> {
        parse(text).map(|wall| wall.as_nanos() / 1_000_000_000)
    }

    #[test]
    fn a_date_is_its_first_moment_in_utc() {
        assert_eq!(seconds("2027-01-31"), Ok(1_801_353_600));
        assert_eq!(seconds("1970-01-01"), Ok(0));
    }

    #[test]
    fn a_time_has_an_offset() {
        assert_eq!(seconds("2027-01-31T12:00:00Z"), Ok(1_801_396_800));
        assert_eq!(seconds("2027-01-31t12:00:00z"), Ok(1_801_396_800));
        assert_eq!(seconds("2027-01-31 13:00:00.5+01:00"), Ok(1_801_396_800));
    }

    #[test]
    fn anything_else_is_an_error() {
        for text in [
            "",
            "soon",
            "31.01.2027",
            "2027-02-29",
            "2027-01-31T12:00:00",
            "1969-12-31",
            "1801353600",
        ] {
            assert_eq!(seconds(text), Err(DateError), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9TZ:+. -]{0,30}|.{0,30}") {
            let _ = parse(&text);
        }
    }
}
