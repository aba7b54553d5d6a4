//! Rows of grants and proofs: written, read, pruned.

use std::fmt::Display;
use std::num::NonZeroU16;
use std::str::FromStr;

use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};
use serde::de::DeserializeOwned;

use super::{Ahead, Proof, Written};
use crate::config::Name;
use crate::grants::{
    CommandPair, Extension, GrantBackend, GrantChange, GrantId, GrantKey, GrantRecord, GrantState,
    Origin,
};
use crate::proto::{Method, Secret};
use crate::time::{Monotonic, Wall};

/// How many rows of history, or proofs, are forgotten at a time: some two milliseconds.
pub(super) const AT_A_TIME: u32 = 500;

/// How many proofs are told others at once.
const MOST_RECENT: usize = 200_000;

/// A number as SQLite knows integers. Of nanoseconds: a time past the year 2262 never comes.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

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
        record.key.door.as_str(),
        record.key.network.to_string(),
        record.key.source_port.map_or(0, NonZeroU16::get),
        record.origin.client.as_ref().map(Name::as_str),
        record.origin.by.as_str(),
        record.state.as_str(),
        record.boot.to_string(),
        integer(record.deadline.as_nanos()),
        integer(record.since.as_nanos()),
        integer(record.until.as_nanos()),
        record.ceiling.map(|ceiling| integer(ceiling.as_nanos())),
        kind,
        means,
    ])
    .map(drop)
}

fn extend(db: &Connection, id: GrantId, to: &Extension) -> rusqlite::Result<()> {
    one(db
        .prepare_cached("UPDATE grants SET deadline=?, until=?, client=?, by=? WHERE id=?")?
        .execute(params![
            integer(to.deadline.as_nanos()),
            integer(to.until.as_nanos()),
            to.origin.client.as_ref().map(Name::as_str),
            to.origin.by.as_str(),
            integer(id.0)
        ])?)
}

pub(super) fn advance(db: &Connection, id: GrantId, state: GrantState) -> rusqlite::Result<()> {
    one(db
        .prepare_cached("UPDATE grants SET state=? WHERE id=?")?
        .execute(params![state.as_str(), integer(id.0)])?)
}

pub(super) fn forget(db: &Connection, id: GrantId) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM grants WHERE id=?")?.execute([integer(id.0)]).map(drop)
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
                "INSERT INTO proofs (door, client, kind, bytes, until) VALUES (?,?,?,?,?) \
                 ON CONFLICT DO NOTHING",
            )?
            .execute(params![
                door.as_str(),
                client.as_ref().map_or("", Name::as_str),
                kind,
                bytes.expose(),
                until.map(|until| integer(until.as_nanos()))
            ])?,
        Proof::Monotonic { key, stamp } => db
            .prepare_cached(
                "INSERT INTO marks (key, stamp) VALUES (?,?) ON CONFLICT DO UPDATE \
                 SET stamp=excluded.stamp WHERE excluded.stamp > stamp",
            )?
            .execute(params![key, integer(stamp.as_nanos())])?,
    };
    Ok(if changed > 0 { Written::New } else { Written::Used })
}

/// The newest come first. Whatever cannot be read is left out.
pub(super) fn recent_proofs(
    db: &Connection,
    marks_since: Wall,
    now: Wall,
) -> rusqlite::Result<Vec<Proof>> {
    let mut proofs = Vec::new();
    db.prepare("SELECT key, stamp FROM marks WHERE stamp >= ? ORDER BY stamp DESC LIMIT ?")?
        .query_map(params![integer(marks_since.as_nanos()), MOST_RECENT], |row| {
            Ok(Proof::Monotonic { key: row.get(0)?, stamp: Wall::from_nanos(row.get(1)?) })
        })?
        .for_each(|mark| proofs.extend(mark));
    // Each sort is good for as long after its use: which ends last is the newest.
    db.prepare(
        "SELECT door, NULLIF(client, '') AS client, kind, bytes, until FROM proofs \
         WHERE until IS NULL OR until > ? \
         ORDER BY until DESC NULLS FIRST LIMIT ?",
    )?
    .query_map(params![integer(now.as_nanos()), MOST_RECENT - proofs.len()], |row| {
        Ok(Proof::Once {
            door: word(row, "door")?,
            client: optional_word(row, "client")?,
            kind: word::<Method>(row, "kind")?.as_str(),
            bytes: Secret::new(row.get::<_, Vec<u8>>("bytes")?),
            until: row.get::<_, Option<_>>("until")?.map(Wall::from_nanos),
        })
    })?
    .for_each(|once| proofs.extend(once));
    Ok(proofs)
}

pub(super) fn forget_ahead(db: &Connection, ahead: &Ahead) -> rusqlite::Result<usize> {
    let mut count = 0;
    for key in &ahead.keys {
        count += db
            .prepare_cached("UPDATE marks SET stamp=?2 WHERE key=?1 AND stamp>?2")?
            .execute(params![key, integer(ahead.stamp.as_nanos())])?;
    }
    for (door, step) in &ahead.steps {
        // As numbers of one length, their bytes are in their order.
        count += db
            .prepare_cached("DELETE FROM proofs WHERE door=? AND client=? AND kind=? AND bytes>?")?
            .execute(params![
                door.as_str(),
                ahead.client.as_str(),
                Method::Totp.as_str(),
                step.to_be_bytes()
            ])?;
    }
    Ok(count)
}

/// Forgets some proofs that prove nothing any more; returns whether there may be others.
pub(super) fn prune_proofs(db: &Connection, now: Wall) -> rusqlite::Result<bool> {
    let pruned = db
        .prepare_cached(
            "DELETE FROM proofs WHERE (door, client, kind, bytes) IN \
             (SELECT door, client, kind, bytes FROM proofs WHERE until < ? LIMIT ?)",
        )?
        .execute(params![integer(now.as_nanos()), AT_A_TIME])?;
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
            door: word(row, "door")?,
            network: word(row, "address")?,
            source_port: NonZeroU16::new(row.get("source_port")?),
        },
        origin: Origin { by: word(row, "by")?, client: optional_word(row, "client")? },
        state: word(row, "state")?,
        boot: word(row, "boot")?,
        deadline: Monotonic::from_nanos(row.get("deadline")?),
        since: Wall::from_nanos(row.get("since")?),
        until: Wall::from_nanos(row.get("until")?),
        ceiling: row.get::<_, Option<_>>("ceiling")?.map(Monotonic::from_nanos),
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

pub(super) fn word<T>(row: &Row<'_>, column: &str) -> rusqlite::Result<T>
where
    T: FromStr<Err: Display>,
{
    parse(&row.get::<_, String>(column)?)
}

pub(super) fn optional_word<T>(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<T>>
where
    T: FromStr<Err: Display>,
{
    row.get::<_, Option<String>>(column)?.map(|text| parse(&text)).transpose()
}

fn parse<T: FromStr<Err: Display>>(text: &str) -> rusqlite::Result<T> {
    text.parse().map_err(|error: T::Err| unreadable(error.to_string()))
}
