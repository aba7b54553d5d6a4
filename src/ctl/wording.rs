//! What became of a knock, as people read it.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use crate::config::Recognition;
use crate::control::{EventLine, missed};
use crate::engine::Reason;
use crate::proto::duration;

/// An event, at a door of which this is known. What is not known is left out of the words.
pub(super) fn event(event: &EventLine, wanted: Option<&Recognition>) -> String {
    let EventLine { event: kind, message, .. } = event;
    if message.starts_with(kind.as_str()) {
        return message.clone();
    }
    let text = |name: &str| match event.facts.get(name)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let number = |name: &str| event.facts.get(name).and_then(Value::as_u64);
    // The knock at this place in the sequence.
    let nth = |place: u64| {
        let knock = wanted?.sequence.get(usize::try_from(place).ok()?)?;
        Some(knock.to_string())
    };
    let place = |stage: u64| {
        // The configuration may have changed since the daemon read it.
        let of = wanted.map(|wanted| wanted.sequence.len() as u64).filter(|&of| stage <= of);
        of.map_or_else(|| format!("stage {stage}"), |of| format!("stage {stage} of {of}"))
    };
    let (knock, client, reason) = (text("knock"), text("client"), text("reason"));
    match (kind.as_str(), number("stage"), reason) {
        ("stage", Some(stage), _) => {
            let knock = stage.checked_sub(1).and_then(nth);
            place(stage) + &knock.map_or_else(String::new, |knock| format!(" ({knock})"))
        }
        ("reset", Some(stage), Some(reason)) => {
            let within = wanted.map(|wanted| duration::format(wanted.seq_timeout));
            let why = why_reset(&reason, knock.as_deref(), nth(stage).as_deref(), within);
            format!("reset at {}: {why}", place(stage))
        }
        ("open" | "extend", _, _) => match knock {
            Some(knock) if kind == "open" => format!("open ({knock} completes the sequence)"),
            _ => {
                let by = text("by").map(|by| format!(" by {by}"));
                let client = client.map(|client| format!(" of {client}"));
                let seconds = text("seconds").map(|seconds| format!(", for {seconds}s"));
                let parts = [by, client, seconds].into_iter().flatten().collect::<String>();
                let done = if kind == "open" { "open" } else { "extended" };
                format!("{done}{parts}")
            }
        },
        ("refused", ..) if message.is_empty() && event.is_for(Reason::NoCommand) => {
            let family = event.source.map_or("its address family", family);
            match knock {
                Some(knock) => {
                    format!("refused ({knock} completes it, but nothing opens it for {family})")
                }
                None => format!("refused: nothing opens the door for {family}"),
            }
        }
        ("ignored", _, Some(reason)) => {
            let knock = knock.as_deref().unwrap_or("a packet");
            if event.is_for(Reason::Duplicate) {
                duplicate(knock)
            } else {
                let why = if message.is_empty() { &reason } else { message };
                format!("{knock} changed nothing: {why}")
            }
        }
        ("missed", ..) if message.is_empty() => {
            let steps = event.facts.get("steps").and_then(Value::as_i64).unwrap_or_default();
            format!("refused: {}", missed(client.as_deref(), steps))
        }
        ("locked_out", ..) if message.is_empty() => {
            let lasts = Duration::from_secs(number("seconds").unwrap_or_default());
            let everywhere = event.facts.get("everywhere") == Some(&Value::Bool(true));
            let door = if everywhere { "any door" } else { "this door" };
            let lasts = duration::format(lasts);
            format!("locked out: failed too often, not listened to at {door} for {lasts}")
        }
        (_, _, reason) => match (message.as_str(), reason) {
            ("", None) => kind.clone(),
            ("", Some(reason)) => format!("{kind}: {reason}"),
            (message, _) => format!("{kind}: {message}"),
        },
    }
}

fn why_reset(
    reason: &str,
    knock: Option<&str>,
    expected: Option<&str>,
    within: Option<String>,
) -> String {
    let but = expected.map_or_else(String::new, |knock| format!(", {knock} was expected"));
    if reason == Reason::Timeout.as_str() {
        let expected = expected.unwrap_or("the next knock");
        let limit = within
            .map_or_else(|| "in time".to_owned(), |it| format!("within {it} of the first knock"));
        format!("{expected} did not come {limit}")
    } else if reason == Reason::TripWire.as_str() {
        let hit = knock.map_or_else(
            || "a trip-wire was hit".to_owned(),
            |knock| format!("{knock} is a trip-wire"),
        );
        hit + &but
    } else if reason == Reason::WrongKnock.as_str() {
        format!("{} came{but}", knock.unwrap_or("a knock out of turn"))
    } else {
        reason.to_owned()
    }
}

const fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// That a packet to this port was none of its own.
pub(super) fn duplicate(knock: &str) -> String {
    format!("{knock} again: a retransmission, no knock of its own")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(text: &str, wanted: Option<&Recognition>) -> String {
        event(&serde_json::from_str(&format!("{{\"time\":1,{text}}}")).unwrap(), wanted)
    }

    #[test]
    fn what_the_daemon_says_is_told_and_no_more() {
        for (text, expected) in [
            (r#""event":"stage","stage":1"#, "stage 1"),
            (r#""event":"stage","stage":1,"message":"Stage 1""#, "stage 1"),
            (
                r#""event":"reset","stage":2,"reason":"timeout""#,
                "reset at stage 2: the next knock did not come in time",
            ),
            (
                r#""event":"open","by":"knockctl","client":null,"seconds":30"#,
                "open by knockctl, for 30s",
            ),
            (r#""event":"open","by":"sequence","message":"OPEN SESAME""#, "open by sequence"),
            (r#""event":"extend","seconds":30"#, "extended, for 30s"),
            (r#""event":"close","message":"its time is over""#, "close: its time is over"),
            (r#""event":"close","message":"closed by hand""#, "closed by hand"),
            (
                r#""event":"refused","source":"2001:db8::2","reason":"no-command""#,
                "refused: nothing opens the door for IPv6",
            ),
            (
                r#""event":"ignored","reason":"duplicate","knock":"7000/tcp""#,
                "7000/tcp again: a retransmission, no knock of its own",
            ),
            (
                r#""event":"ignored","reason":"not-for-us","knock":"7000/tcp","message":"so""#,
                "7000/tcp changed nothing: so",
            ),
            (r#""event":"failed","message":"command returned 1""#, "failed: command returned 1"),
            (r#""event":"act""#, "act"),
        ] {
            assert_eq!(said(text, None), expected, "{text}");
        }
    }

    #[test]
    fn knocks_of_a_door_that_is_known_are_named() {
        let sequence = ["7000", "8000/udp", "9000"].map(|knock| knock.parse().unwrap()).to_vec();
        let mut wanted = Recognition::new("ssh".parse().unwrap());
        wanted.sequence = sequence;
        wanted.seq_timeout = Duration::from_secs(5);
        for (text, expected) in [
            (r#""event":"stage","stage":2"#, "stage 2 of 3 (8000/udp)"),
            (
                r#""event":"reset","stage":1,"reason":"trip-wire""#,
                "reset at stage 1 of 3: a trip-wire was hit, 8000/udp was expected",
            ),
            (
                r#""event":"reset","stage":2,"reason":"timeout""#,
                "reset at stage 2 of 3: 9000/tcp did not come within 5s of the first knock",
            ),
            (r#""event":"stage","stage":9"#, "stage 9"),
        ] {
            assert_eq!(said(text, Some(&wanted)), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_event_makes_it_panic_or_say_nothing(
            kind in prop_oneof!["stage|reset|open|extend|close|refused|failed|act|ignored", "[a-z]+"],
            message in ".*",
            facts in prop::collection::btree_map(
                prop_oneof!["stage|of|knock|expected|reason|by|client|seconds", "[a-z]+"],
                prop_oneof![
                    any::<i64>().prop_map(Value::from),
                    ".*".prop_map(Value::from),
                    Just(Value::Null),
                ],
                0..5,
            ),
        ) {
            let line = EventLine { time: 0.0, source: None, door: None, event: kind, message, facts };
            prop_assert!(!event(&line, None).is_empty());
        }
    }
}
