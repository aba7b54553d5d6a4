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

macro_rules! by_word {
    ($($kind:ty),+) => { $(
        impl ToSql for $kind {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(self.to_string().into())
            }
        }

        impl FromSql for $kind {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                value.as_str()?.parse().map_err(|why| FromSqlError::Other(Box::new(why)))
            }
        }
    )+ };
}

macro_rules! by_nanos {
    ($($kind:ty),+) => { $(
        impl ToSql for $kind {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(integer(self.as_nanos()).into())
            }
        }

        impl FromSql for $kind {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                u64::column_result(value).map(Self::from_nanos)
            }
        }
    )+ };
}

by_word!(BootId, GrantState, HistoryEvent, Method, Name, Network, OpenedBy);
by_nanos!(Monotonic, Wall);
