//! The history: what happened, for people to read later.

use std::collections::HashMap;
use std::net::IpAddr;

use rusqlite::{Connection, params};

use super::rows::AT_A_TIME;
use super::{Durability, Ledger, LedgerError, Retention};
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

impl Ledger {
    /// Adds to the history.
    ///
    /// # Errors
    /// [`LedgerError`]: no reason to stop what happened.
    pub fn append(&mut self, entry: &HistoryEntry) -> Result<(), LedgerError> {
        let HistoryEntry { at, door, network, client, by, event, detail } = entry;
        self.run("write the history", Durability::Crash, |db| {
            db.prepare_cached(
                "INSERT INTO history (at, door, address, client, by, event, detail) \
                 VALUES (?,ifnull(?,''),ifnull(?,''),?,?,?,?)",
            )?
            .execute(params![at, door, network, client, by, event, detail])
            .map(drop)
        })
    }

    /// What happened, the latest first.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn history(&self, query: &Query) -> Result<Vec<HistoryEntry>, LedgerError> {
        self.done("read the history", self.entries(query))
    }

    fn entries(&self, query: &Query) -> rusqlite::Result<Vec<HistoryEntry>> {
        let Query { door, address, since, limit } = query;
        // In the order in which it was written: the calendar may have been set back in between.
        self.db
            .prepare_cached(
                "SELECT at, nullif(door, ''), nullif(address, ''), client, by, event, detail \
                 FROM history WHERE (?1 IS NULL OR door = ?1) \
                 AND (?2 IS NULL OR address IN (SELECT value FROM json_each(?2))) \
                 AND (?3 IS NULL OR at >= ?3) ORDER BY id DESC LIMIT ?4",
            )?
            .query_map(params![door, address.map(networks_around), since, limit], |row| {
                let (at, door, network, client, by, event, detail) = row.try_into()?;
                Ok(HistoryEntry { at, door, network, client, by, event, detail })
            })?
            .collect()
    }

    /// When each client last got in, as far as the history goes.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn last_uses(&self) -> Result<HashMap<Name, Wall>, LedgerError> {
        let used = || {
            self.db
                .prepare_cached(
                    "SELECT client, max(at) FROM history WHERE client IS NOT NULL \
                     AND event IN ('open', 'extend', 'act') GROUP BY client",
                )?
                .query_map([], |row| row.try_into())?
                .collect()
        };
        self.done("read the history", used())
    }
}

/// All networks that an address is in, as a list in JSON.
fn networks_around(address: IpAddr) -> String {
    let around = |prefix| Network::around(address.to_canonical(), prefix).to_string();
    format!("{:?}", (0..=128).map(around).collect::<Vec<_>>())
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
        .execute(params![AT_A_TIME, now - keep.age])?;
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
