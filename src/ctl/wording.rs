//! The words for an event, as people read it in `watch`, `history` and `explain`.

use std::net::IpAddr;

use crate::config::Recognition;
use crate::control::{EventLine, RefusalFacts, What};
use crate::engine::Reason;
use crate::grants::OpenedBy;
use crate::proto::{Knock, Method, duration};

/// An event, at a door of which this is known. What is not known is left out of the words.
pub(super) fn event(line: &EventLine, wanted: Option<&Recognition>) -> String {
    let EventLine { what, by, client, message, .. } = line;
    let of = client.as_ref().map_or_else(String::new, |client| format!(" of {client}"));
    let from = asked_by(line);
    let whose = by.map_or_else(String::new, |by| format!(" by {by}")) + &of;
    // Where codes open the door too, a stage may be one of a code.
    let wanted = wanted.filter(|wanted| wanted.totp.is_none());
    let mut sequence = wanted.map_or(&[][..], |wanted| &wanted.sequence);
    // The configuration may have changed since: it says nothing then of what was knocked.
    if let What::Stage { stage, knock: Some(knock) } = what
        && sequence.get(stage.saturating_sub(1)).is_some_and(|now| now != knock)
    {
        sequence = &[];
    }
    let place = |stage: usize| {
        // The configuration may have changed since the daemon read it.
        if stage <= sequence.len() {
            format!("stage {stage} of {}", sequence.len())
        } else {
            format!("stage {stage}")
        }
    };
    match what {
        What::Stage { stage, knock } => {
            let knock = knock.or_else(|| sequence.get(stage.checked_sub(1)?).copied());
            place(*stage) + &knock.map_or_else(String::new, |knock| format!(" ({knock})"))
        }
        What::Reset { stage, reason, knock } => {
            let why = why_reset(*reason, *knock, sequence.get(*stage), wanted);
            format!("reset at {}: {why}", place(*stage))
        }
        What::Open { knock: Some(knock) } => {
            let whose = if *by == Some(OpenedBy::Method(Method::Sequence)) { &of } else { &whose };
            format!("open{whose} ({knock} completes the sequence)")
        }
        What::Complete => format!("complete{whose}"),
        What::Open { knock: None } if *by == Some(OpenedBy::Fleet) && !message.is_empty() => {
            format!("open{of}, {message}")
        }
        What::Open { knock: None } => format!("open{whose}{from}"),
        What::Extend { seconds } => {
            let lasts = seconds.map_or_else(String::new, |seconds| format!(", for {seconds}s"));
            format!("extended{whose}{lasts}{from}")
        }
        What::Close if message.starts_with("clos") => message.clone(),
        What::Refused(facts) => refused(line, facts),
        What::Ignored { knock, reason: Reason::Duplicate } => duplicate(*knock),
        What::Ignored { knock, reason } => format!("{knock} changed nothing: {reason}"),
        What::Missed { .. } => said("missed", message),
        What::Unmatched => said("unmatched", message),
        What::LockedOut { .. } => said("locked out", message),
        What::Close => said("close", message),
        What::Act => said("act", message),
        What::Failed => said("failed", message),
        What::ClientReset { .. } => said("client_reset", message),
        What::Unlocked => said("unlocked", message),
        What::Other { event, .. } => said(event, message),
    }
}

fn refused(line: &EventLine, facts: &RefusalFacts) -> String {
    let Some(reason) = facts.reason else { return said("refused", &line.message) };
    let family = line.source.map_or("its address family", |source| family(source.address()));
    let whom = line.client.as_ref().map_or_else(String::new, |client| format!(" to {client}"));
    let from = asked_by(line);
    match (reason, facts.knock) {
        (Reason::NoCommand, Some(knock)) => {
            format!("refused ({knock} completes it, but nothing opens it for {family})")
        }
        (Reason::NoCommand, None) => {
            format!("refused{whom}: nothing opens the door for {family}{from}")
        }
        _ => format!("refused{whom}: {reason}{}{from}", facts.more()),
    }
}

/// Who asked, where it was for another address.
fn asked_by(line: &EventLine) -> String {
    line.asked_by.map_or_else(String::new, |address| format!(", asked for by {address}"))
}

fn said(event: &str, message: &str) -> String {
    if message.is_empty() { event.to_owned() } else { format!("{event}: {message}") }
}

fn why_reset(
    reason: Reason,
    knock: Option<Knock>,
    expected: Option<&Knock>,
    wanted: Option<&Recognition>,
) -> String {
    let but = expected.map_or_else(String::new, |knock| format!(", {knock} was expected"));
    match (reason, knock) {
        (Reason::Timeout, _) => {
            let expected = expected.map_or_else(|| "the next knock".to_owned(), Knock::to_string);
            match wanted.map(|wanted| duration::format(wanted.seq_timeout)) {
                Some(within) => {
                    format!("{expected} did not come within {within} of the first knock")
                }
                None => format!("{expected} did not come in time"),
            }
        }
        (Reason::TripWire, None) => format!("a trip-wire was hit{but}"),
        (Reason::TripWire, Some(knock)) => format!("{knock} is a trip-wire{but}"),
        (Reason::WrongKnock, None) => format!("a knock out of turn came{but}"),
        (Reason::WrongKnock, Some(knock)) => format!("{knock} came{but}"),
        (reason, _) => reason.to_string(),
    }
}

const fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// That a packet to this port was none of its own.
pub(super) fn duplicate(knock: Knock) -> String {
    format!("{knock} again: a retransmission, no knock of its own")
}

/// How many there are of a thing, in words.
pub(super) fn count(number: usize, of: &str) -> String {
    match number {
        0 => format!("no {of}s"),
        1 => format!("1 {of}"),
        _ => format!("{number} {of}s"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::proto::totp::{Digits, Scheme, TotpMode};

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
            (r#""event":"open","by":"knockctl","client":null"#, "open by knockctl"),
            (
                r#""event":"open","by":"fleet","client":"phone","message":"opened at gw1""#,
                "open of phone, opened at gw1",
            ),
            (r#""event":"open","by":"fleet","client":"phone""#, "open by fleet of phone"),
            (
                r#""event":"open","by":"spa","client":"phone","asked_by":"192.0.2.9""#,
                "open by spa of phone, asked for by 192.0.2.9",
            ),
            (
                r#""event":"refused","reason":"too-far-ahead","client":"phone","ahead":90"#,
                "refused to phone: from the future: is a clock off? (it was made 1m30s ahead)",
            ),
            (
                r#""event":"refused","reason":"no-such-door","asked_for":"webb""#,
                "refused: asks for a door that there is not (webb)",
            ),
            (r#""event":"stage","stage":2,"knock":"7003/tcp""#, "stage 2 (7003/tcp)"),
            (r#""event":"open","by":"sequence","message":"OPEN SESAME""#, "open by sequence"),
            (r#""event":"extend","seconds":30"#, "extended, for 30s"),
            (r#""event":"close","message":"its time is over""#, "close: its time is over"),
            (r#""event":"close","message":"closed by hand""#, "closed by hand"),
            (
                r#""event":"refused","source":"2001:db8::2","reason":"no-command""#,
                "refused: nothing opens the door for IPv6",
            ),
            (
                r#""event":"refused","source":"2001:db8::2","asked_by":"192.0.2.2","client":"laptop","reason":"no-command""#,
                "refused to laptop: nothing opens the door for IPv6, asked for by 192.0.2.2",
            ),
            (
                r#""event":"refused","client":"laptop","reason":"no-such-door","asked_for":"web""#,
                "refused to laptop: asks for a door that there is not (web)",
            ),
            (
                r#""event":"refused","client":"laptop","reason":"no-such-door""#,
                "refused to laptop: asks for a door that there is not (it names none)",
            ),
            (
                r#""event":"ignored","reason":"duplicate","knock":"7000/tcp""#,
                "7000/tcp again: a retransmission, no knock of its own",
            ),
            (
                r#""event":"ignored","reason":"only-ipv4","knock":"7000/tcp","message":"so""#,
                "7000/tcp changed nothing: IPv6, and only IPv4 is listened for",
            ),
            (r#""event":"failed","message":"command returned 1""#, "failed: command returned 1"),
            (r#""event":"act""#, "act"),
            (r#""event":"refused","message":"by nobody""#, "refused: by nobody"),
            (
                r#""event":"refused","reason":"used","client":"phone""#,
                "refused to phone: it has been used before",
            ),
            (r#""event":"missed","steps":-3,"message":"so""#, "missed: so"),
            (r#""event":"sung","message":"la","tune":3"#, "sung: la"),
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
            (r#""event":"stage","stage":2,"knock":"8000/udp""#, "stage 2 of 3 (8000/udp)"),
            // As the sequence was before the file was changed.
            (r#""event":"stage","stage":2,"knock":"8500/udp""#, "stage 2 (8500/udp)"),
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
        // A stage may be one of a code.
        let mode = TotpMode::Code { base: 7000, digits: Digits::Six };
        wanted.totp = Some(Scheme::new(mode, 30, 1).unwrap());
        for (text, expected) in [
            (r#""event":"stage","stage":2"#, "stage 2"),
            (r#""event":"stage","stage":2,"knock":"7038/tcp""#, "stage 2 (7038/tcp)"),
        ] {
            assert_eq!(said(text, Some(&wanted)), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_event_makes_it_panic_or_say_nothing(
            event in prop_oneof!["stage|reset|open|extend|close|refused|failed|act|ignored", "[a-z]+"],
            message in ".*",
            facts in prop::collection::btree_map(
                prop_oneof!["stage|knock|reason|seconds|steps", "[a-z]{7,9}"],
                prop_oneof![
                    any::<i64>().prop_map(Value::from),
                    ".*".prop_map(Value::from),
                    "timeout|used|7000/tcp".prop_map(Value::from),
                    Just(Value::Null),
                ],
                0..5,
            ),
        ) {
            let mut object: serde_json::Map<String, Value> = facts.into_iter().collect();
            object.extend([
                ("time".to_owned(), 0.0.into()),
                ("event".to_owned(), event.into()),
                ("message".to_owned(), message.into()),
            ]);
            let line = serde_json::from_value(Value::Object(object)).unwrap();
            prop_assert!(!super::event(&line, None).is_empty());
        }
    }
}
