//! What became of a knock, as people read it.

use std::net::IpAddr;

use serde_json::Value;

use crate::control::EventLine;
use crate::engine::Reason;

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

    pub(super) fn refused(&self, reason: &str) -> String {
        if reason != Reason::NoCommand.as_str() {
            return format!("refused: {reason}");
        }
        let family = self.family.unwrap_or("its address family");
        match &self.knock {
            Some(knock) => {
                format!("refused ({knock} completes it, but it has no command for {family})")
            }
            None => format!("refused: the door has no command for {family}"),
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
            format!("{} is a trip-wire{but}", knock.unwrap_or("a port beside the sequence"))
        } else if reason == Reason::WrongKnock.as_str() {
            format!("{} came{but}", knock.unwrap_or("a knock out of turn"))
        } else {
            reason.to_owned()
        };
        format!("reset at {}: {why}", self.place(stage))
    }
}

pub(super) const fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// That a packet to this port was none of its own.
pub(super) fn duplicate(knock: &str) -> String {
    format!("{knock} again: a retransmission, no knock of its own")
}

/// An event that a daemon tells of.
pub(super) fn event(event: &EventLine) -> String {
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
    let told = Told {
        of: number("of").and_then(|of| of.try_into().ok()),
        knock: text("knock"),
        expected: text("expected"),
        within: None,
        family: event.source.as_ref().and_then(|source| source.parse().ok()).map(family),
    };
    let reason = text("reason");
    match (kind.as_str(), number("stage"), reason) {
        ("stage", Some(stage), _) => told.stage(stage),
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

    fn said(text: &str) -> String {
        event(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn what_the_daemon_knows_is_told_and_no_more() {
        for (text, expected) in [
            (r#"{"time":1,"event":"stage","stage":1}"#, "stage 1"),
            (r#"{"time":1,"event":"stage","stage":1,"message":"Stage 1"}"#, "stage 1"),
            (
                r#"{"time":1,"event":"stage","stage":1,"of":3,"knock":"7000/tcp"}"#,
                "stage 1 of 3 (7000/tcp)",
            ),
            (
                r#"{"time":1,"event":"reset","stage":2,"reason":"timeout"}"#,
                "reset at stage 2: the next knock did not come in time",
            ),
            (
                r#"{"time":1,"event":"reset","stage":2,"of":3,"reason":"trip-wire","knock":"1/tcp","expected":"2/tcp"}"#,
                "reset at stage 2 of 3: 1/tcp is a trip-wire, 2/tcp was expected",
            ),
            (
                r#"{"time":1,"event":"open","by":"knockctl","client":null,"seconds":30}"#,
                "open by knockctl, for 30s",
            ),
            (
                r#"{"time":1,"event":"open","by":"sequence","message":"OPEN SESAME"}"#,
                "open by sequence",
            ),
            (r#"{"time":1,"event":"extend","seconds":30}"#, "extended, for 30s"),
            (
                r#"{"time":1,"event":"close","message":"its time is over"}"#,
                "close: its time is over",
            ),
            (r#"{"time":1,"event":"close","message":"closed by hand"}"#, "closed by hand"),
            (
                r#"{"time":1,"event":"refused","source":"2001:db8::2","reason":"no-command"}"#,
                "refused: the door has no command for IPv6",
            ),
            (
                r#"{"time":1,"event":"ignored","reason":"duplicate","knock":"7000/tcp"}"#,
                "7000/tcp again: a retransmission, no knock of its own",
            ),
            (
                r#"{"time":1,"event":"ignored","reason":"not-for-us","knock":"7000/tcp"}"#,
                "7000/tcp changed nothing: it went neither to this host nor to a door's target",
            ),
            (
                r#"{"time":1,"event":"failed","message":"command returned 1"}"#,
                "failed: command returned 1",
            ),
            (r#"{"time":1,"event":"act"}"#, "act"),
        ] {
            assert_eq!(said(text), expected, "{text}");
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
            prop_assert!(!event(&line).is_empty());
        }
    }
}
