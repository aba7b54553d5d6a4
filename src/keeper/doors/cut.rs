//! The end of the connections of grants that are over.

use std::collections::{BTreeSet, HashMap, HashSet};

use tracing::{error, info};

use super::{AskedAt, Doors};
use crate::config::Name;
use crate::firewall::cut;
use crate::grants::{GrantId, GrantKey};
use crate::ledger::{HistoryEntry, HistoryEvent, Query};

/// How far back the history is asked whom doors have let in.
const MOST_HISTORY: u32 = 10_000;

/// The connections that end with their grants.
#[derive(Default)]
pub(super) struct Cuts {
    /// Whose connections end with them.
    pub(super) with: HashMap<GrantId, CutCause>,
    /// What is to end, whether there are such grants or not.
    pub(super) due: HashSet<(GrantKey, CutCause)>,
}

/// The cause of a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum CutCause {
    /// Somebody wants it.
    Request,
    /// The time of a grant was over: what another one lets in goes on.
    Expiry,
}

impl Doors {
    /// Has the connections of these grants end with them, and those of a client's former ones, or of
    /// everybody's, as far as the history goes.
    pub(super) fn cut_with(&mut self, from: AskedAt, ids: &[GrantId], client: Option<&Name>) {
        self.cuts.with.extend(ids.iter().map(|id| (*id, CutCause::Request)));
        let query = Query { door: None, address: None, since: None, limit: MOST_HISTORY };
        let entries = self.journal.ledger.history(&query).unwrap_or_else(|why| {
            error!("whose connections are to be cut is not known, but of open doors: {why}");
            Vec::new()
        });
        let let_in = |it: &HistoryEntry| {
            matches!(it.event, HistoryEvent::Open | HistoryEvent::Extend)
                && client.is_none_or(|client| it.client.as_ref() == Some(client))
                && it.door.as_ref().is_some_and(|door| self.reaches(from, door))
        };
        let key = |HistoryEntry { door, network, .. }: HistoryEntry| {
            Some((GrantKey::new(door?, network?), CutCause::Request))
        };
        let due: Vec<_> = entries.into_iter().filter(let_in).filter_map(key).collect();
        self.cuts.due.extend(due);
    }

    /// Has the connections of a grant whose time is over end with it, where its door says so.
    pub(super) fn cut_when_over(&mut self, id: GrantId) {
        if self.grants.get(id).is_some_and(|grant| self.is_cut_when_over(&grant.key)) {
            self.cuts.with.insert(id, CutCause::Expiry);
        }
    }

    /// Whether connections end when the time of such a grant is over.
    pub(super) fn is_cut_when_over(&self, key: &GrantKey) -> bool {
        self.grants.sessions_of(&key.door).is_some_and(|door| door.cuts)
    }

    /// Ends the connections of grants that are over; how many those were, in words: empty where nothing
    /// is due.
    ///
    /// # Errors
    /// Where some may go on, and why.
    pub(in crate::keeper) fn cut_due(&mut self) -> Result<String, String> {
        let due = std::mem::take(&mut self.cuts.due);
        let due = due.iter().filter_map(|(key, cause)| {
            let door = self.grants.sessions_of(&key.door)?;
            Some((key, *cause, door))
        });
        let due: Vec<_> = due.collect();
        if due.is_empty() {
            return Ok(String::new());
        }
        let ports: BTreeSet<_> = due.iter().flat_map(|(.., door)| &door.ports).copied().collect();
        let is_cut = |of, client, to| {
            let mut due = due.iter().filter(|(key, _, door)| door.have(key, of, client, to));
            due.any(|it| it.1 == CutCause::Request || !self.grants.let_in(of, client, to))
        };
        let count = cut::cut(&Vec::from_iter(ports), is_cut).map_err(|why| {
            let why = format!("not all connections can be cut: {why}");
            error!("{why}");
            why
        })?;
        let cut = format!("{count} connection{} cut", if count == 1 { "" } else { "s" });
        let of: Vec<_> = due.iter().map(|(key, ..)| key.network.to_string()).take(2).collect();
        match of.as_slice() {
            _ if count == 0 => {}
            [source] => info!(%source, "{cut}"),
            _ => info!("{cut}"),
        }
        Ok(cut)
    }
}
