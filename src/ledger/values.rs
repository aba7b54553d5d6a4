//! Values of ours as SQLite keeps them: words as text, times as integers.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

use super::HistoryEvent;
use crate::config::Name;
use crate::grants::{GrantState, OpenedBy};
use crate::proto::{Method, Network};
use crate::time::{BootId, Monotonic, Wall};

/// A number as SQLite knows integers. Of nanoseconds: a time past the year 2262 never comes.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// How each of these types stands in a row, and how it is read.
macro_rules! kept_as {
    ($raw:ty, $write:expr, $read:expr, $($kind:ty),+) => { $(
        impl ToSql for $kind {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(ToSqlOutput::from($write(self)))
            }
        }

        impl FromSql for $kind {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                <$raw>::column_result(value).and_then($read)
            }
        }
    )+ };
}

kept_as! {
    String, |it: &Self| it.to_string(),
    |text: String| text.parse().map_err(|why| FromSqlError::Other(Box::new(why))),
    BootId, GrantState, HistoryEvent, Method, Name, Network, OpenedBy
}
kept_as! { u64, |it: &Self| integer(it.as_nanos()), |it| Ok(Self::from_nanos(it)), Monotonic, Wall }
