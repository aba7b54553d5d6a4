//! One log line, as facts.

use std::fmt::{self, Write};

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use crate::config::LogLevel;
use crate::control::EventLine;
use crate::sys::clock;
use crate::time::Wall;

/// One log line: when, how grave, about whom and what.
pub(super) struct Record {
    pub(super) time: Zoned,
    level: LogLevel,
    source: Option<String>,
    door: Option<String>,
    message: String,
    fields: Map<String, Value>,
}

pub(super) const fn level(level: Level) -> LogLevel {
    match level {
        Level::ERROR => LogLevel::Error,
        Level::WARN => LogLevel::Warning,
        Level::INFO => LogLevel::Info,
        Level::DEBUG | Level::TRACE => LogLevel::Debug,
    }
}

impl Record {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let mut record = Self::new(level(*event.metadata().level()));
        event.record(&mut record);
        record
    }

    pub(super) fn of_line(line: &EventLine) -> Self {
        let EventLine { source, door, message, .. } = line.clone();
        // An event can always be written.
        let Ok(Value::Object(mut fields)) = serde_json::to_value(line) else {
            return Self::new(line.level());
        };
        for apart in ["time", "source", "door", "message"] {
            fields.remove(apart);
        }
        let source = source.map(|source| source.to_string());
        Self { source, door, message, fields, ..Self::new(line.level()) }
    }

    fn new(level: LogLevel) -> Self {
        Self {
            time: local(clock::now().wall, &TimeZone::system()),
            level,
            source: None,
            door: None,
            message: String::new(),
            fields: Map::new(),
        }
    }

    /// `SOURCE: DOOR: message`, on one line whatever is in it.
    pub(super) fn text(&self) -> String {
        let mut line = String::new();
        for part in [&self.source, &self.door].into_iter().flatten() {
            line.push_str(part);
            line.push_str(": ");
        }
        line.push_str(&self.message);
        escape(&line)
    }

    /// The same facts as an object.
    pub(super) fn json(&self) -> String {
        let mut object = Map::new();
        let time = self.time.strftime("%Y-%m-%dT%H:%M:%S%.6f%:z").to_string();
        object.insert("time".into(), time.into());
        object.insert("level".into(), self.level.as_str().into());
        for (name, value) in [("source", &self.source), ("door", &self.door)] {
            if let Some(value) = value {
                object.insert(name.into(), value.as_str().into());
            }
        }
        object.insert("message".into(), self.message.as_str().into());
        object.extend(self.fields.clone());
        Value::Object(object).to_string()
    }

    fn set(&mut self, field: &Field, value: Value) {
        let text = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        match field.name() {
            "message" => self.message = text(value),
            "source" => self.source = Some(text(value)),
            "door" => self.door = Some(text(value)),
            name => {
                self.fields.insert(name.to_owned(), value);
            }
        }
    }
}
impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.into());
    }
}

/// A time as the clocks of a zone show it.
pub fn local(at: Wall, zone: &TimeZone) -> Zoned {
    let time = Timestamp::from_nanosecond(i128::from(at.as_nanos())).unwrap_or_default();
    time.to_zoned(zone.clone())
}

/// Writes control characters as escapes: a log line stays one line, and a terminal obeys nothing.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\t' => escaped.push_str("\\t"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            character if character.is_control() || is_invisible(character) => {
                // Writing to a String cannot fail.
                let _ = write!(escaped, "\\u{{{:x}}}", u32::from(character));
            }
            character => escaped.push(character),
        }
    }
    escaped
}

/// Characters that change how the rest of a line is shown.
const fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_not_obeyed() {
        assert_eq!(escape("a\nb\x1b[31m\u{9b}c\u{202e}"), "a\\nb\\u{1b}[31m\\u{9b}c\\u{202e}");
        assert_eq!(escape("plain text, ümlaut"), "plain text, ümlaut");
    }

    fn record() -> Record {
        Record {
            time: Timestamp::from_second(1_700_000_000).unwrap().to_zoned(TimeZone::UTC),
            level: LogLevel::Info,
            source: Some("192.0.2.2".into()),
            door: Some("ssh".into()),
            message: "Stage 1".into(),
            fields: [("stage".to_owned(), Value::from(1))].into_iter().collect(),
        }
    }

    #[test]
    fn a_text_line_reads_as_classic_knockd_wrote_it() {
        assert_eq!(record().text(), "192.0.2.2: ssh: Stage 1");
    }

    #[test]
    fn a_json_line_has_the_same_facts_as_fields() {
        let line: Value = serde_json::from_str(&record().json()).unwrap();
        assert_eq!(line["time"], "2023-11-14T22:13:20.000000+00:00");
        assert_eq!(line["level"], "info");
        assert_eq!(line["source"], "192.0.2.2");
        assert_eq!(line["door"], "ssh");
        assert_eq!(line["message"], "Stage 1");
        assert_eq!(line["stage"], 1);
    }
}
