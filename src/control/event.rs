//! The one account of an event that the log, `watch`, `history` and `explain` give.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_with::skip_serializing_none;

use crate::config::{Client, Config, Door, LogLevel, Name};
use crate::engine::{ClientId, CompletedBy, DoorId, Event, EventKind, Reason, Refusal};
use crate::grants::OpenedBy;
use crate::ledger::{HistoryEntry, HistoryEvent};
use crate::proto::{Knock, Method, Network, duration};
use crate::time::{Monotonic, Wall};

/// Something that happened: an object of `--json`, and what a log line is made of.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventLine {
    /// Seconds since 1970-01-01 UTC.
    pub time: f64,
    /// Who knocked, or whom a door was opened for.
    pub source: Option<Network>,
    /// Who asked for it in one datagram, where that is another address.
    pub asked_by: Option<IpAddr>,
    pub door: Option<String>,
    #[serde(flatten)]
    pub what: What,
    /// How the door was, or was to be, opened.
    pub by: Option<OpenedBy>,
    /// Whose credentials that took.
    pub client: Option<Name>,
    /// The same in words, as in the log.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// The kind of an event, by the word that scripts see in `event`, and what is particular to it.
///
/// A daemon may be newer than the knockctl that asks it: an event that this one does not know, or
/// whose facts it does not understand, is [`What::Other`], and told as it came.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// The latest knocks are so many of a sequence; the latest of them, where that is told.
    Stage { stage: usize, knock: Option<Knock> },
    /// The sequence is complete, or an administrator asks: what came of it is told apart.
    Complete,
    /// The sequence, or the request, is complete, and the door opens; the knock that completed it,
    /// where that is told.
    Open { knock: Option<Knock> },
    /// The door was open, and stays so for so long from now on; `None`: as long as before.
    Extend { seconds: Option<u64> },
    /// The door closes.
    Close,
    /// A door that nothing closes did its work.
    Act,
    /// Opening or closing went wrong.
    Failed,
    /// What a client had used ahead of its time is forgotten. How many marks that were a line of the
    /// history does not say.
    ClientReset { count: Option<usize> },
    /// A sequence that had come this far is broken, by this knock unless that was time.
    Reset { stage: usize, reason: Reason, knock: Option<Knock> },
    /// The sequence, or the request, is complete, and yet nothing opens.
    Refused(RefusalFacts),
    /// A packet changed nothing.
    Ignored { knock: Knock, reason: Reason },
    /// The sequence would have been right for the client so many steps from now.
    Missed { steps: i32 },
    /// A whole sequence that is no client's, at any time around now.
    Unmatched,
    /// The source has failed too often: not listened to for so long, at this door or at any.
    LockedOut { seconds: u64, everywhere: bool },
    /// The source is listened to again.
    Unlocked,
    /// An event that is not known here, as it came.
    #[serde(untagged)]
    Other {
        event: String,
        #[serde(flatten)]
        facts: BTreeMap<String, Value>,
    },
}

/// The reason why nothing opens, as far as it is known.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RefusalFacts {
    /// `None`: the history has it in words only.
    pub reason: Option<Reason>,
    pub stage: Option<usize>,
    pub knock: Option<Knock>,
    /// By how many seconds the request was made in the future, where that is why.
    pub ahead: Option<i64>,
    /// The door that there is not, where that is why.
    pub asked_for: Option<Name>,
}

impl RefusalFacts {
    /// What is known besides the reason, in brackets; empty where nothing is.
    pub fn more(&self) -> String {
        let made = |ahead: i64, when| {
            let span = duration::format(Duration::from_secs(ahead.unsigned_abs()));
            format!(" (it was made {span} {when})")
        };
        match (self.ahead, &self.asked_for) {
            (Some(ahead @ ..0), _) => made(ahead, "ago"),
            (Some(ahead), _) => made(ahead, "ahead"),
            (_, Some(name)) => format!(" ({name})"),
            _ if self.reason == Some(Reason::NoSuchDoor) => " (it names none)".to_owned(),
            _ => String::new(),
        }
    }
}

impl What {
    /// A refusal of which no more is known than why.
    pub fn refused(reason: Reason) -> Self {
        Self::Refused(RefusalFacts { reason: Some(reason), ..RefusalFacts::default() })
    }
}

impl EventLine {
    /// An event that no credentials took part in; `message` is for the log.
    pub fn new(
        at: Wall,
        source: Option<Network>,
        door: Option<&Name>,
        what: What,
        message: impl Into<String>,
    ) -> Self {
        let (door, message) = (door.map(ToString::to_string), message.into());
        let time = seconds(at);
        Self { time, source, asked_by: None, door, what, by: None, client: None, message }
    }

    /// Whether it is about an address, or was asked for by it; `None`: any is.
    pub fn is_about(&self, wanted: Option<IpAddr>) -> bool {
        wanted.is_none_or(|wanted| {
            self.source.is_some_and(|source| source.contains(wanted))
                || self.asked_by == Some(wanted)
        })
    }

    /// The same event, of this client where one is known.
    pub fn of_client(self, client: Option<&Name>) -> Self {
        Self { client: client.cloned(), ..self }
    }

    /// The same event, asked for by this address: told where it is not the one that it is about.
    pub fn asked_by(self, asked_by: Option<IpAddr>) -> Self {
        let Some(other) = asked_by.filter(|it| self.source != Some((*it).into())) else {
            return self;
        };
        let message = format!("{}, asked for by {other}", self.message);
        Self { asked_by, message, ..self }
    }

    /// An event of the engine's, at `seen`, which is `at` by the calendar.
    pub fn of_event(config: &Config, event: &Event, seen: Monotonic, at: Wall) -> Self {
        let door = event.door.and_then(|id| door_of(config, id));
        let (mut by, mut client) = (None, None);
        let (what, message) = match event.kind {
            EventKind::Stage { stage, knock } => {
                (What::Stage { stage: stage.into(), knock }, format!("Stage {stage}"))
            }
            EventKind::Open(knocked) => {
                let is_of_list = door.is_some_and(|door| door.one_time.is_some());
                by = Some(OpenedBy::Method(match knocked {
                    CompletedBy::Totp { client: id, .. } => {
                        client = client_of(config, id);
                        Method::Totp
                    }
                    CompletedBy::Sequence if is_of_list => Method::OneTimeSequence,
                    CompletedBy::Sequence => Method::Sequence,
                }));
                (What::Open { knock: None }, "OPEN SESAME".to_owned())
            }
            EventKind::Reset {
                stage,
                reason: reason @ (Reason::Used | Reason::Expired),
                knock,
            } => {
                let (stage, what) = (Some(stage.into()), format!("not opened: {reason}"));
                let facts =
                    RefusalFacts { reason: Some(reason), stage, knock, ..Default::default() };
                (What::Refused(facts), what)
            }
            EventKind::Reset { stage, reason, knock } => {
                let message = match (reason, knock) {
                    (Reason::Timeout, _) => format!("sequence timeout (stage {stage})"),
                    (_, None) => format!("sequence broken (stage {stage}): {reason}"),
                    (_, Some(knock)) => {
                        format!("sequence broken (stage {stage}): {knock}, {reason}")
                    }
                };
                (What::Reset { stage: stage.into(), reason, knock }, message)
            }
            EventKind::Missed { client: id, steps } => {
                client = client_of(config, id);
                (What::Missed { steps }, missed(client.map(|client| &client.name), steps))
            }
            EventKind::Unmatched => (
                What::Unmatched,
                "right for nobody, up to an hour off: a wrong code, or is a clock off by more?"
                    .to_owned(),
            ),
            EventKind::LockedOut { until } => {
                let everywhere = event.door.is_none();
                let seconds = until.since(seen).as_secs();
                let place = if everywhere { "any door" } else { "this door" };
                let message =
                    format!("failed too often: not listened to at {place} for {seconds} s");
                (What::LockedOut { seconds, everywhere }, message)
            }
        };
        let line = Self::new(at, Some(event.source.into()), door.map(Door::name), what, message);
        Self { by, ..line.of_client(client.map(|client| &client.name)) }
    }

    /// An authenticated datagram that opens nothing.
    pub fn of_refusal(config: &Config, refusal: &Refusal, at: Wall) -> Self {
        let Refusal { source, client, door, reason, stamp, asked_for, .. } = *refusal;
        let door = door.and_then(|id| door_of(config, id)).map(Door::name);
        let client = client.and_then(|id| client_of(config, id)).map(|client| &client.name);
        let of = client.map_or_else(String::new, |client| format!(" of {client}"));
        let seconds =
            |from: Wall, to: Wall| i64::try_from(from.since(to).as_secs()).unwrap_or(i64::MAX);
        let ahead = stamp.filter(|_| matches!(reason, Reason::TooOld | Reason::TooFarAhead));
        let ahead = ahead.map(|stamp| seconds(stamp, at) - seconds(at, stamp));
        // Whatever a watcher says, it is a name.
        let asked_for = asked_for.filter(|_| reason == Reason::NoSuchDoor).and_then(|name| {
            str::from_utf8(&name).ok()?.trim_end_matches('\0').parse::<Name>().ok()
        });
        let facts =
            RefusalFacts { reason: Some(reason), ahead, asked_for, ..RefusalFacts::default() };
        let message = format!("request{of} refused: {reason}{}", facts.more());
        Self::new(at, Some(source.into()), door, What::Refused(facts), message).of_client(client)
    }

    /// A line of the history.
    pub fn of_history(entry: &HistoryEntry) -> Self {
        let HistoryEntry { at, door, network, client, by, event, detail } = entry;
        let what = match event {
            HistoryEvent::Open => What::Open { knock: None },
            HistoryEvent::Extend => What::Extend { seconds: None },
            HistoryEvent::Close => What::Close,
            HistoryEvent::Refused => {
                let reason = detail.parse().ok();
                What::Refused(RefusalFacts { reason, ..RefusalFacts::default() })
            }
            HistoryEvent::Failed => What::Failed,
            HistoryEvent::Act => What::Act,
            HistoryEvent::ClientReset => What::ClientReset { count: None },
        };
        let line = Self::new(*at, *network, door.as_ref(), what, detail);
        Self { by: *by, ..line.of_client(client.as_ref()) }
    }

    /// How grave it is, for the log.
    pub const fn level(&self) -> LogLevel {
        match self.what {
            What::Failed => LogLevel::Error,
            What::Refused(_) | What::Missed { .. } | What::LockedOut { .. } => LogLevel::Warning,
            What::Reset { reason, .. } if !matches!(reason, Reason::Timeout) => LogLevel::Debug,
            _ => LogLevel::Info,
        }
    }
}

/// The words for a sequence that would have been right at another time.
fn missed(client: Option<&Name>, steps: i32) -> String {
    let client = client.map_or("a client", Name::as_str);
    let (count, when) = (steps.unsigned_abs(), if steps < 0 { "ago" } else { "ahead" });
    let noun = if count == 1 { "step" } else { "steps" };
    format!("right for {client} {count} {noun} {when}: is a clock off?")
}

/// The client with this place in a configuration.
pub fn client_of(config: &Config, ClientId(place): ClientId) -> Option<&Client> {
    config.clients.get(place as usize)
}

/// The door with this place in a configuration.
pub fn door_of(config: &Config, DoorId(place): DoorId) -> Option<&Door> {
    config.doors.get(place as usize)
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
        let event = Event { door: Some(DoorId(0)), source, kind, began: Monotonic::ZERO };
        EventLine::of_event(&config, &event, Monotonic::ZERO, Wall::from_nanos(1_500_000_999))
    }

    #[test]
    fn a_sequence_is_refused_when_it_is_complete_and_reset_when_it_is_not() {
        let broken = "sequence broken (stage 2): 9000/tcp, ";
        for (reason, knock, is_refused, level, message) in [
            (Reason::Timeout, None, false, LogLevel::Info, "sequence timeout (stage 2)"),
            (Reason::Used, None, true, LogLevel::Warning, "not opened: "),
            (Reason::Expired, None, true, LogLevel::Warning, "not opened: "),
            (Reason::WrongKnock, Some("9000"), false, LogLevel::Debug, broken),
        ] {
            let knock = knock.map(|knock| knock.parse().unwrap());
            let line = line(EventKind::Reset { stage: 2, reason, knock });
            assert_eq!(matches!(line.what, What::Refused(_)), is_refused, "{reason}");
            assert_eq!(line.level(), level, "{reason}");
            assert!(line.message.starts_with(message), "{reason}: {}", line.message);
        }
    }

    #[test]
    fn a_search_that_found_nobody_does_not_say_that_it_looked_at_a_whole_hour() {
        let line = line(EventKind::Unmatched);
        assert!(line.message.starts_with("right for nobody, up to an hour off: "), "{line:?}");
    }

    #[test]
    fn what_is_not_known_is_not_in_its_object() {
        let line = line(EventKind::Reset { stage: 1, reason: Reason::TripWire, knock: None });
        let line = EventLine { message: String::new(), ..line };
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"time":1.5,"source":"192.0.2.2","event":"reset","stage":1,"reason":"trip-wire"}"#
        );
    }

    #[test]
    fn an_event_that_is_not_known_is_told_as_it_came() {
        for text in [
            r#"{"time":1.5,"door":"ssh","event":"sung","message":"la","tune":3}"#,
            r#"{"time":1.5,"event":"reset","reason":"boredom","stage":1}"#,
            r#"{"time":1.5,"event":"stage"}"#,
        ] {
            let line: EventLine = serde_json::from_str(text).unwrap();
            assert!(matches!(line.what, What::Other { .. }), "{text}");
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_value(&line).unwrap(), value, "{text}");
        }
        let text = r#"{"time":1.5,"source":"192.0.2.2","door":"a","event":"unlocked"}"#;
        let line: EventLine = serde_json::from_str(text).unwrap();
        assert_eq!(line.what, What::Unlocked);
        assert_eq!(serde_json::to_string(&line).unwrap(), text);
    }
}
