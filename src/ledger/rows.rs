//! Rows of grants and proofs: written, read, pruned.

use std::num::NonZeroU16;

use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};
use serde::de::DeserializeOwned;

use super::values::integer;
use super::{Ahead, Durability, Ledger, LedgerError, Proof, Written};
use crate::grants::{
    CommandPair, Extension, GrantBackend, GrantChange, GrantId, GrantKey, GrantRecord, GrantState,
    Origin,
};
use crate::proto::{Method, Secret};
use crate::time::Wall;

/// How many rows of history, or proofs, are forgotten at a time: some two milliseconds.
pub(super) const AT_A_TIME: u32 = 500;

/// How many proofs are told others at once.
const MOST_RECENT: usize = 200_000;

pub(super) fn change(db: &Connection, change: &GrantChange) -> rusqlite::Result<()> {
    match change {
        GrantChange::Record(record) => insert(db, record),
        GrantChange::Extend(id, to) => extend(db, *id, to),
    }
}

pub(super) fn insert(db: &Connection, record: &GrantRecord) -> rusqlite::Result<()> {
    let (kind, means) = match &record.backend {
        GrantBackend::Commands(steps) => ("commands", serde_json::to_string(steps)),
        GrantBackend::Kernel(element) => ("kernel", serde_json::to_string(element)),
    };
    let means = means.map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    db.prepare_cached(
        "INSERT OR REPLACE INTO grants (id, door, address, source_port, client, by, state, boot, \
         deadline, since, until, ceiling, kind, means) \
         VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    )?
    .execute(params![
        integer(record.id.0),
        record.key.door,
        record.key.network,
        record.key.source_port.map_or(0, NonZeroU16::get),
        record.origin.client,
        record.origin.by,
        record.state,
        record.boot,
        record.deadline,
        record.since,
        record.until,
        record.ceiling,
        kind,
        means,
    ])
    .map(drop)
}

fn extend(db: &Connection, id: GrantId, to: &Extension) -> rusqlite::Result<()> {
    let Extension { deadline, until, origin: Origin { client, by } } = to;
    one(db
        .prepare_cached("UPDATE grants SET deadline=?, until=?, client=?, by=? WHERE id=?")?
        .execute(params![deadline, until, client, by, integer(id.0)])?)
}

/// A grant that is not in the ledger cannot be written about.
const fn one(changed: usize) -> rusqlite::Result<()> {
    if changed == 0 { Err(rusqlite::Error::QueryReturnedNoRows) } else { Ok(()) }
}

/// Uses a proof up, unless it was used before.
pub(super) fn use_up(db: &Connection, proof: &Proof) -> rusqlite::Result<Written> {
    let changed = match proof {
        Proof::Once { door, client, kind, bytes, until } => db
            .prepare_cached(
                "INSERT INTO proofs (door, client, kind, bytes, until) \
                 VALUES (?,ifnull(?,''),?,?,?) ON CONFLICT DO NOTHING",
            )?
            .execute(params![door, client, kind, bytes.expose(), until])?,
        Proof::Monotonic { key, stamp } => db
            .prepare_cached(
                "INSERT INTO marks (key, stamp) VALUES (?,?) ON CONFLICT DO UPDATE \
                 SET stamp=excluded.stamp WHERE excluded.stamp > stamp",
            )?
            .execute(params![key, stamp])?,
    };
    Ok(if changed > 0 { Written::New } else { Written::Used })
}

impl Ledger {
    /// Says how far a grant has come, before what the state names begins.
    ///
    /// # Errors
    /// [`LedgerError`]: then it must not start; it closes all the same.
    pub fn advance(
        &mut self,
        id: GrantId,
        state: GrantState,
        durability: Durability,
    ) -> Result<(), LedgerError> {
        self.run("record a grant's state", durability, |db| {
            let mut advance = db.prepare_cached("UPDATE grants SET state=? WHERE id=?")?;
            one(advance.execute(params![state, integer(id.0)])?)
        })
    }

    /// Removes the record of a grant that has closed, or that never opened.
    ///
    /// # Errors
    /// [`LedgerError`]: then it is closed once more after a restart.
    pub fn forget(&mut self, id: GrantId) -> Result<(), LedgerError> {
        self.run("remove a grant", Durability::Crash, |db| {
            db.prepare_cached("DELETE FROM grants WHERE id=?")?.execute([integer(id.0)]).map(drop)
        })
    }

    /// Whether this has been used; not, where that cannot be read.
    pub fn is_used(&self, proof: &Proof) -> bool {
        let used = || match proof {
            Proof::Once { door, client, kind, bytes, .. } => self
                .db
                .prepare_cached(
                    "SELECT 1 FROM proofs \
                     WHERE door=? AND client=ifnull(?,'') AND kind=? AND bytes=?",
                )?
                .exists(params![door, client, kind, bytes.expose()]),
            Proof::Monotonic { key, stamp } => self
                .db
                .prepare_cached("SELECT 1 FROM marks WHERE key=? AND stamp>=?")?
                .exists(params![key, stamp]),
        };
        used().unwrap_or_default()
    }

    /// The stamps of keys that were used since `marks_since`, and what was used once and proves
    /// something after `now`: the newest, as many as are worth telling others.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn recent_proofs(&self, marks_since: Wall, now: Wall) -> Result<Vec<Proof>, LedgerError> {
        self.done("read proofs", recent_proofs(&self.db, marks_since, now))
    }

    /// Forgets what a client has used ahead of its time. How many proofs that were.
    ///
    /// # Errors
    /// [`LedgerError`]: then all of it is as it was.
    pub fn forget_ahead(&mut self, ahead: &Ahead) -> Result<usize, LedgerError> {
        self.run("forget proofs", Durability::PowerLoss, |db| {
            let db = db.transaction()?;
            let mut count = 0;
            for key in &ahead.keys {
                count += db
                    .prepare_cached("UPDATE marks SET stamp=?2 WHERE key=?1 AND stamp>?2")?
                    .execute(params![key, ahead.stamp])?;
            }
            for (door, step) in &ahead.steps {
                // As numbers of one length, their bytes are in their order.
                count += db
                    .prepare_cached(
                        "DELETE FROM proofs WHERE door=? AND client=? AND kind=? AND bytes>?",
                    )?
                    .execute(params![door, ahead.client, Method::Totp, step.to_be_bytes()])?;
            }
            db.commit().map(|()| count)
        })
    }
}

/// The newest come first. Whatever cannot be read is left out.
fn recent_proofs(db: &Connection, marks_since: Wall, now: Wall) -> rusqlite::Result<Vec<Proof>> {
    let stamps = "SELECT key, stamp FROM marks WHERE stamp >= ? ORDER BY stamp DESC LIMIT ?";
    let mut proofs = Vec::new();
    db.prepare(stamps)?
        .query_map(params![marks_since, MOST_RECENT], |row| {
            Ok(Proof::Monotonic { key: row.get(0)?, stamp: row.get(1)? })
        })?
        .for_each(|mark| proofs.extend(mark));
    // Each sort is good for as long after its use: which ends last is the newest.
    let once = "SELECT door, NULLIF(client, '') AS client, kind, bytes, until FROM proofs \
                WHERE until IS NULL OR until > ? ORDER BY until DESC NULLS FIRST LIMIT ?";
    let room = MOST_RECENT - proofs.len();
    db.prepare(once)?
        .query_map(params![now, room], |row| {
            Ok(Proof::Once {
                door: row.get("door")?,
                client: row.get("client")?,
                kind: row.get::<_, Method>("kind")?.as_str(),
                bytes: Secret::new(row.get::<_, Vec<u8>>("bytes")?),
                until: row.get("until")?,
            })
        })?
        .for_each(|once| proofs.extend(once));
    Ok(proofs)
}

/// Forgets some proofs that prove nothing any more; returns whether there may be others.
pub(super) fn prune_proofs(db: &Connection, now: Wall) -> rusqlite::Result<bool> {
    let pruned = db
        .prepare_cached(
            "DELETE FROM proofs WHERE (door, client, kind, bytes) IN \
             (SELECT door, client, kind, bytes FROM proofs WHERE until < ? LIMIT ?)",
        )?
        .execute(params![now, AT_A_TIME])?;
    Ok(pruned == AT_A_TIME as usize)
}

/// All grants, the oldest first; what cannot be read is the error in its place.
pub(super) fn grants(db: &Connection) -> rusqlite::Result<Vec<rusqlite::Result<GrantRecord>>> {
    let mut statement = db.prepare("SELECT * FROM grants ORDER BY id")?;
    Ok(statement.query_map([], read)?.collect())
}

fn read(row: &Row<'_>) -> rusqlite::Result<GrantRecord> {
    let kind: String = row.get("kind")?;
    let backend = match kind.as_str() {
        "commands" => GrantBackend::Commands(json::<Vec<CommandPair>>(row, "means")?),
        "kernel" => GrantBackend::Kernel(json(row, "means")?),
        _ => return Err(unreadable(format!("grants of the kind '{kind}' are not known"))),
    };
    Ok(GrantRecord {
        id: GrantId(row.get("id")?),
        key: GrantKey {
            door: row.get("door")?,
            network: row.get("address")?,
            source_port: NonZeroU16::new(row.get("source_port")?),
        },
        origin: Origin { by: row.get("by")?, client: row.get("client")? },
        state: row.get("state")?,
        boot: row.get("boot")?,
        deadline: row.get("deadline")?,
        since: row.get("since")?,
        until: row.get("until")?,
        ceiling: row.get("ceiling")?,
        backend,
    })
}

pub(super) fn unreadable(
    why: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, why.into())
}

fn json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    serde_json::from_str(&row.get::<_, String>(column)?).map_err(unreadable)
}
