//! One thing that happened, as the log, `watch`, `history` and `explain` tell it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{Config, Door, LogLevel, Name};
use crate::engine::{ClientId, CompletedBy, Event, EventKind, Reason, Refusal};
use crate::grants::OpenedBy;
use crate::ledger::HistoryEntry;
use crate::proto::method::Method;
use crate::time::{Monotonic, Wall};

/// Something that happened, as `watch`, `history` and `explain` print it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventLine {
    /// Seconds since 1970-01-01 UTC.
    pub time: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub door: Option<String>,
    pub event: String,
    /// The same in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What else is known: `stage`, `reason`, `by`, `client`, `knock`, …
    #[serde(flatten)]
    pub facts: BTreeMap<String, Value>,
}

impl EventLine {
    pub fn new(
        at: Wall,
        source: Option<IpAddr>,
        door: Option<&Name>,
        event: &str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            time: seconds(at),
            source,
            door: door.map(ToString::to_string),
            event: event.to_owned(),
            message: message.into(),
            facts: BTreeMap::new(),
        }
    }

    /// The same with one more fact, where that is known.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        if !value.is_null() {
            self.facts.insert(name.to_owned(), value);
        }
        self
    }

    /// What the engine has found, at `seen`, which is `at` by the calendar.
    pub fn of_event(config: &Config, event: &Event, seen: Monotonic, at: Wall) -> Self {
        let door = config.doors.get(event.door.0 as usize);
        let line =
            |kind, message| Self::new(at, Some(event.source), door.map(Door::name), kind, message);
        match event.kind {
            EventKind::Stage(stage) => line("stage", format!("Stage {stage}")).with("stage", stage),
            EventKind::Open(knocked) => {
                let (by, client) = match knocked {
                    CompletedBy::Totp { client, .. } => (Method::Totp, name_of(config, client)),
                    CompletedBy::Sequence => match door.and_then(|door| door.one_time.as_ref()) {
                        Some(_) => (Method::OneTimeSequence, None),
                        None => (Method::Sequence, None),
                    },
                };
                line("open", "OPEN SESAME".to_owned())
                    .with("by", by.as_str())
                    .with("client", client)
            }
            EventKind::Reset { stage, reason, knock } => {
                let knock = knock.map(|knock| knock.to_string());
                let (kind, message) = match (reason, &knock) {
                    (Reason::Timeout, _) => ("reset", format!("sequence timeout (stage {stage})")),
                    (Reason::Used | Reason::Expired, _) => {
                        ("refused", format!("not opened: {reason}"))
                    }
                    (_, None) => ("reset", format!("sequence broken (stage {stage}): {reason}")),
                    (_, Some(knock)) => {
                        ("reset", format!("sequence broken (stage {stage}): {knock}, {reason}"))
                    }
                };
                let line = line(kind, message).with("stage", stage).with("reason", reason.as_str());
                line.with("knock", knock)
            }
            EventKind::Missed { client, steps } => {
                let client = name_of(config, client);
                line("missed", missed(client, steps.into()))
                    .with("client", client)
                    .with("steps", steps)
            }
            EventKind::LockedOut { until, everywhere } => {
                let seconds = until.since(seen).as_secs();
                let place = if everywhere { "any door" } else { "this door" };
                let message =
                    format!("failed too often: not listened to at {place} for {seconds} s");
                line("locked_out", message).with("seconds", seconds).with("everywhere", everywhere)
            }
        }
    }

    /// An authenticated datagram that opens nothing.
    pub fn of_refusal(config: &Config, refusal: &Refusal, at: Wall) -> Self {
        let Refusal { source, client, door, reason } = *refusal;
        let door = door.and_then(|door| config.doors.get(door.0 as usize)).map(Door::name);
        let client = client.and_then(|client| name_of(config, client));
        let of = client.map_or_else(String::new, |client| format!(" of {client}"));
        let message = format!("request{of} refused: {reason}");
        Self::new(at, Some(source), door, "refused", message)
            .with("client", client)
            .with("reason", reason.as_str())
    }

    /// A line of the history.
    pub fn of_history(entry: &HistoryEntry) -> Self {
        let HistoryEntry { at, door, address, client, by, event, detail } = entry;
        Self::new(*at, *address, door.as_ref(), event.as_str(), detail)
            .with("by", by.map(OpenedBy::as_str))
            .with("client", client.as_ref().map(Name::as_str))
    }

    /// How grave it is, for the log.
    pub fn level(&self) -> LogLevel {
        match self.event.as_str() {
            "failed" => LogLevel::Error,
            "refused" | "missed" | "locked_out" => LogLevel::Warning,
            "reset" if !self.is_for(Reason::Timeout) => LogLevel::Debug,
            _ => LogLevel::Info,
        }
    }

    /// Whether this is the reason that it has.
    pub fn is_for(&self, reason: Reason) -> bool {
        self.facts.get("reason").is_some_and(|it| it == reason.as_str())
    }
}

/// What is said of a sequence that would have been right at another time.
pub fn missed(client: Option<&str>, steps: i64) -> String {
    let client = client.unwrap_or("a client");
    let (count, when) = (steps.unsigned_abs(), if steps < 0 { "ago" } else { "ahead" });
    let noun = if count == 1 { "step" } else { "steps" };
    format!("right for {client} {count} {noun} {when}: is a clock off?")
}

/// The name of a client of this configuration.
pub fn name_of(config: &Config, ClientId(place): ClientId) -> Option<&str> {
    config.clients.get(place as usize).map(|client| client.name.as_str())
}

/// Seconds since 1970-01-01 UTC, to the microsecond, which is what a double holds.
pub fn seconds(at: Wall) -> f64 {
    (at.as_nanos() / 1000) as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::engine::DoorId;

    fn line(kind: EventKind) -> EventLine {
        let config = Config { settings: Settings::default(), doors: vec![], clients: vec![] };
        let source = "192.0.2.2".parse().unwrap();
        let event = Event { door: DoorId(0), source, kind, began: Monotonic::ZERO };
        EventLine::of_event(&config, &event, Monotonic::ZERO, Wall::from_nanos(1_500_000_999))
    }

    #[test]
    fn a_sequence_is_refused_when_it_is_complete_and_reset_when_it_is_not() {
        for (reason, knock, event, level, message) in [
            (Reason::Timeout, None, "reset", LogLevel::Info, "sequence timeout (stage 2)"),
            (Reason::Used, None, "refused", LogLevel::Warning, "not opened: "),
            (Reason::Expired, None, "refused", LogLevel::Warning, "not opened: "),
            (
                Reason::WrongKnock,
                Some("9000"),
                "reset",
                LogLevel::Debug,
                "sequence broken (stage 2): 9000/tcp, ",
            ),
        ] {
            let knock = knock.map(|knock| knock.parse().unwrap());
            let line = line(EventKind::Reset { stage: 2, reason, knock });
            assert_eq!((line.event.as_str(), line.level()), (event, level), "{reason}");
            assert!(line.message.starts_with(message), "{reason}: {}", line.message);
        }
    }

    #[test]
    fn what_is_not_known_is_not_in_its_object() {
        let line = line(EventKind::Reset { stage: 1, reason: Reason::TripWire, knock: None });
        let line = EventLine { message: String::new(), ..line };
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"time":1.5,"source":"192.0.2.2","event":"reset","reason":"trip-wire","stage":1}"#
        );
    }
}
