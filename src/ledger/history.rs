//! The history: what happened, for people to read later.

use std::collections::HashMap;
use std::net::IpAddr;

use rusqlite::{Connection, Row, params};

use super::Retention;
use super::rows::{AT_A_TIME, integer, optional_word, word};
use crate::config::Name;
use crate::grants::OpenedBy;
use crate::proto::Network;
use crate::proto::words::words;
use crate::time::Wall;

/// An entry of the history: one thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    pub at: Wall,
    /// Where it was about one; an empty text in the file where it was not.
    pub door: Option<Name>,
    pub network: Option<Network>,
    pub client: Option<Name>,
    pub by: Option<OpenedBy>,
    pub event: HistoryEvent,
    /// In words; empty where there is nothing to add. Never a secret.
    pub detail: String,
}

words! {
FromStr:
/// The kind of an entry of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HistoryEvent {
    Open = "open",
    Extend = "extend",
    Close = "close",
    /// It was asked for and not granted.
    Refused = "refused",
    /// It was granted, and opening or closing did not work.
    Failed = "failed",
    /// A door without a close did its work.
    Act = "act",
    /// What a client had used ahead of its time was forgotten.
    ClientReset = "client_reset",
}
}

/// The part of the history that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub door: Option<Name>,
    pub address: Option<IpAddr>,
    pub since: Option<Wall>,
    /// At most so many, the latest.
    pub limit: u32,
}

pub(super) fn append(db: &Connection, entry: &HistoryEntry) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO history (at, door, address, client, by, event, detail) \
         VALUES (?,?,?,?,?,?,?)",
    )?
    .execute(params![
        integer(entry.at.as_nanos()),
        entry.door.as_ref().map_or("", Name::as_str),
        entry.network.map_or_else(String::new, |network| network.to_string()),
        entry.client.as_ref().map(Name::as_str),
        entry.by.map(OpenedBy::as_str),
        entry.event.as_str(),
        entry.detail,
    ])?;
    Ok(())
}

pub(super) fn query(db: &Connection, query: &Query) -> rusqlite::Result<Vec<HistoryEntry>> {
    // In the order in which it was written: the calendar may have been set back in between.
    db.prepare_cached(
        "SELECT at, nullif(door, '') AS door, nullif(address, '') AS address, client, by, event, \
         detail FROM history WHERE (?1 IS NULL OR door = ?1) \
         AND (?2 IS NULL OR address IN (SELECT value FROM json_each(?2))) AND (?3 IS NULL OR at >= ?3) \
         ORDER BY id DESC LIMIT ?4",
    )?
    .query_map(
        params![
            query.door.as_ref().map(Name::as_str),
            query.address.map(networks_around),
            query.since.map(|since| integer(since.as_nanos())),
            query.limit,
        ],
        read,
    )?
    .collect()
}

/// All networks that an address is in, as a list in JSON.
fn networks_around(address: IpAddr) -> String {
    let around = |prefix| Network::around(address.to_canonical(), prefix).to_string();
    format!("{:?}", (0..=128).map(around).collect::<Vec<_>>())
}

/// When each client last got in.
pub(super) fn last_uses(db: &Connection) -> rusqlite::Result<HashMap<Name, Wall>> {
    db.prepare_cached(
        "SELECT client, max(at) AS at FROM history WHERE client IS NOT NULL \
         AND event IN ('open', 'extend', 'act') GROUP BY client",
    )?
    .query_map([], |row| Ok((word(row, "client")?, Wall::from_nanos(row.get("at")?))))?
    .collect()
}

fn read(row: &Row<'_>) -> rusqlite::Result<HistoryEntry> {
    Ok(HistoryEntry {
        at: Wall::from_nanos(row.get("at")?),
        door: optional_word(row, "door")?,
        network: optional_word(row, "address")?,
        client: optional_word(row, "client")?,
        by: optional_word(row, "by")?,
        event: word(row, "event")?,
        detail: row.get("detail")?,
    })
}

/// Forgets some of the oldest rows if they are too old, or too many: then those of the door that
/// has most, so that nobody pushes out what happened at another door. Returns whether there may be
/// more to forget.
///
/// Looks at the oldest only: rows are in the order in which they were written.
pub(super) fn prune(db: &Connection, now: Wall, keep: Retention) -> rusqlite::Result<bool> {
    let aged = db
        .prepare_cached(
            "DELETE FROM history WHERE id IN (SELECT id FROM history ORDER BY id LIMIT ?1) \
             AND at < ?2",
        )?
        .execute(params![AT_A_TIME, integer((now - keep.age).as_nanos())])?;
    let rows: u32 = db.query_row("SELECT count(*) FROM history", [], |row| row.get(0))?;
    let mut excess = rows.saturating_sub(keep.rows);
    if excess > 0 {
        let pruned = db
            .prepare_cached(
                "DELETE FROM history WHERE id IN (SELECT id FROM history WHERE door = \
             (SELECT door FROM history GROUP BY door ORDER BY count(*) DESC, min(id) LIMIT 1) \
             ORDER BY id LIMIT ?1)",
            )?
            .execute([excess.min(AT_A_TIME)])?;
        excess -= pruned as u32;
    }
    Ok(aged == AT_A_TIME as usize || excess > 0)
}
