//! The end of the connections of grants that are over.

use std::collections::{BTreeSet, HashSet};

use tracing::{error, info};

use super::Doors;
use crate::config::Name;
use crate::firewall::cut;
use crate::grants::{GrantId, GrantKey};
use crate::ledger::{HistoryEntry, HistoryEvent, Query};
use crate::proto::open_ports::OpenPorts;

/// How far back the history is asked whom doors have let in.
const MOST_HISTORY: u32 = 10_000;

/// The connections that end with their grants.
#[derive(Default)]
pub(super) struct Cuts {
    /// Whose connections end with them.
    pub(super) with: HashSet<GrantId>,
    /// What is to end, whether there are such grants or not.
    pub(super) due: HashSet<GrantKey>,
}

impl Doors {
    /// Has the connections of these grants end with them, and those of a client's former ones, or of
    /// everybody's, as far as the history goes.
    pub(super) fn cut_with(&mut self, ids: &[GrantId], client: Option<&Name>) {
        self.cuts.with.extend(ids);
        let query = Query { door: None, address: None, since: None, limit: MOST_HISTORY };
        let entries = self.journal.ledger.history(&query).unwrap_or_else(|why| {
            error!("whose connections are to be cut is not known, but of open doors: {why}");
            Vec::new()
        });
        let let_in = |it: &HistoryEntry| {
            matches!(it.event, HistoryEvent::Open | HistoryEvent::Extend)
                && client.is_none_or(|client| it.client.as_ref() == Some(client))
        };
        let key = |HistoryEntry { door, network, .. }: HistoryEntry| {
            Some(GrantKey { door: door?, network: network?, source_port: None })
        };
        self.cuts.due.extend(entries.into_iter().filter(let_in).filter_map(key));
    }

    /// Has the connections of a grant whose time is over end with it, where its door says so.
    pub(super) fn cut_when_over(&mut self, id: GrantId) {
        if self.grants.get(id).is_some_and(|grant| self.is_cut_when_over(&grant.key)) {
            self.cuts.with.insert(id);
        }
    }

    /// Whether connections end when the time of such a grant is over: its door says so, and none that
    /// is open lets them in too.
    pub(super) fn is_cut_when_over(&self, key: &GrantKey) -> bool {
        let Some(own) = self.grants.sessions_of(&key.door).filter(|door| door.cuts) else {
            return false;
        };
        let meets = |theirs: &OpenPorts| {
            own.ports.iter().any(|it| it.contains(theirs.first()) || theirs.contains(it.first()))
        };
        let others = self.grants.matching(|it| {
            let theirs = self.grants.sessions_of(&it.key.door);
            it.is_open()
                && it.key.network.meets(&key.network)
                && theirs.is_some_and(|theirs| theirs.ports.iter().any(meets))
        });
        others.is_empty()
    }

    /// Ends the connections of grants that are over; how many those were, in words: empty where nothing
    /// is due.
    ///
    /// # Errors
    /// Where some may go on, and why.
    pub(in crate::keeper) fn cut_due(&mut self) -> Result<String, String> {
        let due = std::mem::take(&mut self.cuts.due);
        let due = due.iter().filter_map(|key| Some((key, self.grants.sessions_of(&key.door)?)));
        let due: Vec<_> = due.collect();
        if due.is_empty() {
            return Ok(String::new());
        }
        let ports: BTreeSet<_> = due.iter().flat_map(|(_, door)| &door.ports).copied().collect();
        let is_cut = |of, client, to| due.iter().any(|(key, door)| door.have(key, of, client, to));
        let cut = match cut::cut(&Vec::from_iter(ports), is_cut) {
            Ok(1) => "1 connection cut".to_owned(),
            Ok(count) => format!("{count} connections cut"),
            Err(why) => {
                let why = format!("not all connections can be cut: {why}");
                error!("{why}");
                return Err(why);
            }
        };
        let of: Vec<_> = due.iter().map(|(key, _)| key.network.to_string()).take(2).collect();
        match of.as_slice() {
            [source] => info!(%source, "{cut}"),
            _ => info!("{cut}"),
        }
        Ok(cut)
    }
}
