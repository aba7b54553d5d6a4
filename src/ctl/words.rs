//! What became of a knock, as people read it.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use crate::control::EventLine;
use crate::engine::Reason;
use crate::grants::By;
use crate::proto::duration;
use crate::proto::knock::Knock;

/// What is known of an event; what is not known is left out of the words.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// How many knocks the door's sequence has.
    pub(super) of: Option<usize>,
    /// The knock that came.
    pub(super) knock: Option<String>,
    /// The knock that would have been right.
    pub(super) expected: Option<String>,
    /// How long the sequence may take.
    pub(super) within: Option<String>,
    pub(super) family: Option<&'static str>,
}

impl Told {
    fn place(&self, stage: u64) -> String {
        match self.of {
            Some(of) => format!("stage {stage} of {of}"),
            None => format!("stage {stage}"),
        }
    }

    pub(super) fn stage(&self, stage: u64) -> String {
        let place = self.place(stage);
        self.knock.as_ref().map_or_else(|| place.clone(), |knock| format!("{place} ({knock})"))
    }

    pub(super) fn open(&self) -> String {
        let knock = self.knock.as_deref().unwrap_or("the last knock");
        format!("open ({knock} completes the sequence)")
    }

    pub(super) fn open_by(&self, by: By, client: Option<&str>) -> String {
        format!("open ({})", by_whom(by, client))
    }

    pub(super) fn close_by(&self, by: By, client: Option<&str>) -> String {
        format!("close ({})", by_whom(by, client))
    }

    pub(super) fn refused(&self, reason: &str) -> String {
        if reason != Reason::NoCommand.as_str() {
            return format!("refused: {reason}");
        }
        let family = self.family.unwrap_or("its address family");
        match &self.knock {
            Some(knock) => {
                format!("refused ({knock} completes it, but nothing opens it for {family})")
            }
            None => format!("refused: nothing opens the door for {family}"),
        }
    }

    pub(super) fn reset(&self, stage: u64, reason: &str) -> String {
        let expected = self.expected.as_deref();
        let knock = self.knock.as_deref();
        let but = expected.map_or_else(String::new, |knock| format!(", {knock} was expected"));
        let why = if reason == Reason::Timeout.as_str() {
            let expected = expected.unwrap_or("the next knock");
            match &self.within {
                Some(within) => {
                    format!("{expected} did not come within {within} of the first knock")
                }
                None => format!("{expected} did not come in time"),
            }
        } else if reason == Reason::TripWire.as_str() {
            knock.map_or_else(
                || format!("a trip-wire was hit{but}"),
                |knock| format!("{knock} is a trip-wire{but}"),
            )
        } else if reason == Reason::WrongKnock.as_str() {
            format!("{} came{but}", knock.unwrap_or("a knock out of turn"))
        } else {
            reason.to_owned()
        };
        format!("reset at {}: {why}", self.place(stage))
    }
}

fn by_whom(by: By, client: Option<&str>) -> String {
    client.map_or_else(|| by.to_string(), |client| format!("{by} of {client}"))
}

/// A sequence of another time: a clock is off.
pub(super) fn missed(client: Option<&str>, steps: i64) -> String {
    let client = client.unwrap_or("a client");
    let count = steps.unsigned_abs();
    let noun = if count == 1 { "step" } else { "steps" };
    let when = if steps < 0 { "ago" } else { "ahead" };
    format!("refused: right for {client} {count} {noun} {when}: is a clock off?")
}

pub(super) fn locked_out(seconds: u64, everywhere: bool) -> String {
    let lasts = duration::format(Duration::from_secs(seconds));
    let door = if everywhere { "any door" } else { "this door" };
    format!("locked out: failed too often, not listened to at {door} for {lasts}")
}

pub(super) const fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// That a packet to this port was none of its own.
pub(super) fn duplicate(knock: &str) -> String {
    format!("{knock} again: a retransmission, no knock of its own")
}

/// What a door wants to hear.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) sequence: Vec<Knock>,
    pub(super) within: Duration,
}

/// An event that a daemon tells of, at a door of which this is known.
pub(super) fn event(event: &EventLine, wanted: Option<&Wanted>) -> String {
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
    let stage = number("stage");
    // The knock at this place in the sequence.
    let nth = |place: u64| {
        let knock = wanted?.sequence.get(usize::try_from(place).ok()?)?;
        Some(knock.to_string())
    };
    let told = Told {
        // The configuration may have changed since the daemon read it.
        of: wanted.map(|wanted| wanted.sequence.len()).filter(|&of| {
            stage.is_none_or(|stage| usize::try_from(stage).is_ok_and(|it| it <= of))
        }),
        knock: text("knock"),
        expected: stage.and_then(nth),
        within: wanted.map(|wanted| duration::format(wanted.within)),
        family: event.source.map(family),
    };
    let reason = text("reason");
    match (kind.as_str(), stage, reason) {
        ("stage", Some(stage), _) => {
            let knock = stage.checked_sub(1).and_then(nth);
            Told { knock, ..told }.stage(stage)
        }
        ("reset", Some(stage), Some(reason)) => told.reset(stage, &reason),
        ("open", _, _) if told.knock.is_some() => told.open(),
        ("open" | "extend", _, _) => {
            let by = text("by").map(|by| format!(" by {by}"));
            let client = text("client").map(|client| format!(" of {client}"));
            let seconds = text("seconds").map(|seconds| format!(", for {seconds}s"));
            let parts = [by, client, seconds].into_iter().flatten().collect::<String>();
            let done = if kind == "open" { "open" } else { "extended" };
            format!("{done}{parts}")
        }
        ("refused", _, Some(reason)) if message.is_empty() => told.refused(&reason),
        ("ignored", _, Some(reason)) => {
            let knock = told.knock.as_deref().unwrap_or("a packet");
            if reason == Reason::Duplicate.as_str() {
                duplicate(knock)
            } else {
                format!("{knock} changed nothing: {}", why_ignored(&reason, message))
            }
        }
        (_, _, reason) => match (message.as_str(), reason) {
            ("", None) => kind.clone(),
            ("", Some(reason)) => format!("{kind}: {reason}"),
            (message, _) => format!("{kind}: {message}"),
        },
    }
}

fn why_ignored<'a>(reason: &'a str, message: &'a str) -> &'a str {
    if !message.is_empty() {
        return message;
    }
    let known = Reason::ALL.into_iter().find(|known| known.as_str() == reason);
    match known {
        Some(Reason::NotWatched) => "no door wants this port, or not with these flags",
        Some(Reason::NotForUs) => "it went neither to this host nor to a door's target",
        Some(Reason::OnlyIpv4) => "it is IPv6, and only_ipv4 is set",
        Some(Reason::TripWire) => "a trip-wire, but there was nothing to break",
        Some(Reason::WrongKnock) => "it does not come first, and nothing had begun",
        _ => reason,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(text: &str, wanted: Option<&Wanted>) -> String {
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
        let wanted = Wanted { sequence, within: Duration::from_secs(5) };
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
