//! Log lines as facts, and their two forms.

use std::fmt;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use crate::config::LogLevel;
use crate::control::EventLine;
use crate::proto::escape::escape;
use crate::time::Wall;

/// The facts of a log line: the `message`, and the `source` and the `door` of one that is about
/// such.
#[derive(Default)]
pub(super) struct Facts(Map<String, Value>);

/// The level of a line that code logs.
pub(super) const fn level(level: Level) -> LogLevel {
    match level {
        Level::ERROR => LogLevel::Error,
        Level::WARN => LogLevel::Warning,
        Level::INFO => LogLevel::Info,
        Level::DEBUG | Level::TRACE => LogLevel::Debug,
    }
}

impl Facts {
    /// What code logs.
    pub(super) fn of(event: &Event<'_>) -> Self {
        let mut facts = Self::default();
        event.record(&mut facts);
        facts
    }

    /// Nothing but a message.
    pub(super) fn saying(message: &str) -> Self {
        Self([("message".to_owned(), message.into())].into_iter().collect())
    }

    /// What happened at a door.
    pub(super) fn of_line(line: &EventLine) -> Self {
        match serde_json::to_value(line) {
            Ok(Value::Object(facts)) => Self(facts),
            _ => Self::default(),
        }
    }

    /// `SOURCE: DOOR: message`, on one line whatever is in it.
    pub(super) fn text(&self) -> String {
        let parts = ["source", "door", "message"].into_iter();
        let parts: Vec<&str> = parts.filter_map(|name| self.0.get(name)?.as_str()).collect();
        escape(&parts.join(": "))
    }

    /// The same facts as an object.
    pub(super) fn json(self, time: &Zoned, level: LogLevel) -> String {
        let Self(mut object) = self;
        let time = time.strftime("%Y-%m-%dT%H:%M:%S%.6f%:z").to_string();
        object.insert("time".into(), time.into());
        object.insert("level".into(), level.as_str().into());
        Value::Object(object).to_string()
    }
}

impl Visit for Facts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

/// A time as the clocks of a zone show it.
pub(crate) fn local(at: Wall, zone: &TimeZone) -> Zoned {
    let time = Timestamp::from_nanosecond(i128::from(at.as_nanos())).unwrap_or_default();
    time.to_zoned(zone.clone())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::span::{Attributes, Id, Record};
    use tracing::{Metadata, Subscriber};

    use super::*;
    use crate::control::What;

    fn facts() -> Facts {
        let source = "192.0.2.2".parse().ok();
        let door = "ssh".parse().ok();
        let at = Wall::from_nanos(0);
        Facts::of_line(&EventLine::new(
            at,
            source,
            door.as_ref(),
            What::Stage { stage: 1, knock: None },
            "Stage 1",
        ))
    }

    #[test]
    fn a_text_line_reads_as_classic_knockd_wrote_it() {
        assert_eq!(facts().text(), "192.0.2.2: ssh: Stage 1");
    }

    /// Keeps the facts of the latest line.
    #[derive(Clone, Default)]
    struct Latest(Arc<Mutex<Map<String, Value>>>);

    impl Subscriber for Latest {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn event(&self, event: &Event<'_>) {
            *self.0.lock().unwrap() = Facts::of(event).0;
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn what_code_logs_keeps_its_type() {
        let latest = Latest::default();
        tracing::subscriber::with_default(latest.clone(), || {
            let (door, source) = ("ssh", "192.0.2.2");
            tracing::info!(door, source = %source, count = 2_u64, "{}", 1);
        });
        assert_eq!(
            Value::Object(latest.0.lock().unwrap().clone()).to_string(),
            r#"{"count":2,"door":"ssh","message":"1","source":"192.0.2.2"}"#
        );
    }

    #[test]
    fn a_json_line_has_the_same_facts_as_fields() {
        let time = Timestamp::from_second(1_700_000_000).unwrap().to_zoned(TimeZone::UTC);
        assert_eq!(
            facts().json(&time, LogLevel::Info),
            r#"{"door":"ssh","event":"stage","level":"info","message":"Stage 1","source":"192.0.2.2","stage":1,"time":"2023-11-14T22:13:20.000000+00:00"}"#
        );
    }
}
