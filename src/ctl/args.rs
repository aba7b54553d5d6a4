//! Parsers of values on the command line: addresses, names, points and stretches of time.

use std::net::IpAddr;

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::output::local;
use crate::control::TrialTime;
use crate::proto::duration;
use crate::proto::network::is_a_hosts;
use crate::sys::clock;
use crate::time::Wall;

/// The arguments of a command that can print objects, and has no others.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct JsonArgs {
    /// One JSON object a line, for scripts
    #[arg(long)]
    pub(super) json: bool,
}

/// An address; one of IPv4 in IPv6's clothes is the IPv4 address, as on the wire.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map(|address: IpAddr| address.to_canonical())
        .map_err(|_| "not an IP address: write one such as 192.0.2.2 or 2001:db8::2".to_owned())
}

/// An address that packets can come from.
pub(super) fn source(text: &str) -> Result<IpAddr, String> {
    let source = address(text)?;
    if is_a_hosts(source) { Ok(source) } else { Err("no packet comes from there".to_owned()) }
}

/// The name or address of a host, for clients.
pub(super) fn host(text: &str) -> Result<String, String> {
    let is_plain = |it: char| it.is_alphanumeric() || "-._:%".contains(it);
    let (literal, _) = text.split_once('%').unwrap_or((text, ""));
    let is_odd = text.contains([':', '%']) && literal.parse::<IpAddr>().is_err();
    if !(1..=253).contains(&text.len()) || !text.chars().all(is_plain) || is_odd {
        return Err("write a name such as gw.example.com, or an address".to_owned());
    }
    Ok(text.to_owned())
}

/// For how long a door is open, in seconds; at least one.
pub(super) fn open_for(text: &str) -> Result<u64, String> {
    match whole_seconds(text)? {
        0 => Err("a door is open for 1s or more".to_owned()),
        seconds => Ok(seconds),
    }
}

/// How long a configuration is on trial.
pub(super) fn trial_time(text: &str) -> Result<TrialTime, String> {
    whole_seconds(text)?.try_into().map_err(str::to_owned)
}

fn whole_seconds(text: &str) -> Result<u64, String> {
    let duration = duration::parse(text).map_err(|error| error.to_string())?;
    if duration.subsec_nanos() > 0 && duration.as_secs() > 0 {
        return Err("write whole seconds".to_owned());
    }
    Ok(duration.as_secs())
}

/// A point in time: of this calendar's, or in seconds since 1970-01-01 UTC.
pub(super) fn time(text: &str) -> Result<Wall, String> {
    time_in(text, &TimeZone::system())
        .ok_or_else(|| "write 2026-11-22T13:00:00Z, '2026-11-22 13:00', or seconds".to_owned())
}

fn time_in(text: &str, zone: &TimeZone) -> Option<Wall> {
    let time = match text.parse() {
        Ok(seconds) => Timestamp::from_second(seconds).ok(),
        Err(_) => calendar_time(text, zone),
    };
    u64::try_from(time?.as_nanosecond()).ok().map(Wall::from_nanos)
}

/// A time with a zone of its own, or without one.
fn calendar_time(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    text.parse().ok().or_else(|| zone.to_timestamp(text.parse::<DateTime>().ok()?).ok())
}

/// A beginning: so long ago, or a time, which is today's where it has no day.
pub(super) fn since(text: &str) -> Result<Timestamp, String> {
    since_at(text, clock::now().wall, &TimeZone::system())
}

fn since_at(text: &str, now: Wall, zone: &TimeZone) -> Result<Timestamp, String> {
    let now = local(now, zone);
    if let Ok(ago) = duration::parse(text) {
        let ago = SignedDuration::try_from(ago).unwrap_or(SignedDuration::MAX);
        return now.timestamp().checked_sub(ago).map_err(|error| error.to_string());
    }
    let today = || zone.to_timestamp(now.date().to_datetime(text.parse::<Time>().ok()?)).ok();
    calendar_time(text, zone).or_else(today).ok_or_else(|| {
        "neither so long ago, as 2h or 30d, nor a time, as 2026-11-22 or '2026-11-22 09:30'"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const NOW: Wall = Wall::from_nanos(1_700_000_000_000_000_000);

    fn seconds_before_now(text: &str) -> Result<i64, String> {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        since_at(text, NOW, &zone).map(|since| 1_700_000_000 - since.as_second())
    }

    fn at(seconds: u64) -> Wall {
        Wall::ZERO + Duration::from_secs(seconds)
    }

    // Now is 2023-11-15 00:13:20 at +02:00.
    #[test]
    fn a_beginning_is_so_long_ago_or_a_local_time() {
        for (text, seconds) in [
            ("2h", 7200),
            ("90", 90),
            ("30d", 30 * 86_400),
            ("2023-11-15", 800),
            ("2023-11-14 23:13:20", 3600),
            ("2023-11-14T23:13", 3620),
            ("00:13", 20),
            ("2023-11-14T22:13:00Z", 20),
        ] {
            assert_eq!(seconds_before_now(text), Ok(seconds), "{text}");
        }
    }

    #[test]
    fn what_is_no_beginning_is_an_error_that_says_what_is() {
        for text in ["", "soon", "2023-13-01", "25:00", "-2h"] {
            assert!(seconds_before_now(text).unwrap_err().contains("2026-11-22"), "{text}");
        }
    }

    #[test]
    fn a_time_is_absolute_local_or_a_number_of_seconds() {
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        for text in [
            "2023-11-14T22:13:20Z",
            "2023-11-14T23:13:20+01:00",
            "2023-11-14 23:13:20",
            "1700000000",
        ] {
            assert_eq!(time_in(text, &zone), Some(at(1_700_000_000)), "{text}");
        }
        assert_eq!(time_in("2023-11-14 23:13", &zone), Some(at(1_700_000_000 - 20)));
        for text in ["soon", "", "-1", "2023-13-01", "99999999999999999999"] {
            assert_eq!(time_in(text, &zone), None, "{text}");
        }
    }

    #[test]
    fn a_trial_takes_ten_seconds_to_an_hour() {
        for (text, seconds) in [("10s", 10), ("2m", 120), ("1h", 3600), ("90", 90)] {
            let time = trial_time(text).map(Duration::from);
            assert_eq!(time, Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["9s", "0", "1h1s", "1500ms", "10500ms", "soon", ""] {
            assert!(trial_time(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9TZ:dhms+. -]{0,25}") {
            let _ = seconds_before_now(&text);
        }

        #[test]
        fn no_text_makes_reading_a_time_panic(text in "[-0-9T:Z+ .]{0,30}|.{0,20}") {
            let _ = time_in(&text, &TimeZone::UTC);
        }
    }
}
