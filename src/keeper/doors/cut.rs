//! The end of the connections of grants that are over.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use tracing::{error, info};

use super::Doors;
use crate::config::{Config, Door, Name};
use crate::firewall::cut::{self, Cut};
use crate::grants::{Grant, GrantId, GrantKey};
use crate::ledger::{HistoryEntry, HistoryEvent, Query};
use crate::proto::open_ports::OpenPorts;

/// How far back the history is asked whom doors have let in.
const MOST_HISTORY: u32 = 10_000;

/// The connections that end with their grants.
#[derive(Default)]
pub(super) struct Cuts {
    /// The ports of each door, whose they are, and whether connections end when its time is over.
    doors: HashMap<Name, (Vec<OpenPorts>, Option<IpAddr>, bool)>,
    /// Whose connections end with them.
    pub(super) with: HashSet<GrantId>,
    /// Of grants that are over.
    due: HashSet<Cut>,
}

impl Cuts {
    /// From now on cuts as this configuration says. A door that is no more is as it was.
    pub(super) fn reconfigure(&mut self, config: &Config) {
        self.doors.extend(config.doors.iter().map(|door: &Door| {
            let on = door.opening.forwards.iter().map(|forward| forward.on.into());
            let ports = door.opening.ports.iter().copied().chain(on).collect();
            (door.name().clone(), (ports, door.recognition.target, door.opening.cuts))
        }));
    }

    /// Whether connections end when the time of such a grant is over.
    pub(super) fn ends_with(&self, key: &GrantKey) -> bool {
        self.doors.get(&key.door).is_some_and(|(.., cuts)| *cuts)
    }

    /// What such a grant has let in is to end, whether it is there or not.
    pub(super) fn cut(&mut self, key: GrantKey) {
        if let Some((ports, target, _)) = self.doors.get(&key.door) {
            let (GrantKey { network, source_port, .. }, ports) = (key, ports.clone());
            self.due.insert(Cut { network, source_port, ports, target: *target });
        }
    }

    /// A grant is over.
    pub(super) fn is_over(&mut self, id: GrantId, key: &GrantKey) {
        if self.with.remove(&id) {
            self.cut(key.clone());
        }
    }
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
        let former: HashSet<GrantKey> =
            entries.into_iter().filter(let_in).filter_map(key).collect();
        former.into_iter().for_each(|key| self.cuts.cut(key));
    }

    /// Has the connections of a grant whose time is over end with it, where its door says so, unless
    /// another that is open lets them in too.
    pub(super) fn cut_expired(&mut self, id: GrantId) {
        let (doors, grants) = (&self.cuts.doors, &self.grants);
        let Some(Grant { key, .. }) = grants.get(id) else { return };
        let Some((ports, _, true)) = doors.get(&key.door) else { return };
        let shares = |it: &Grant| {
            let theirs = doors.get(&it.key.door).map(|(theirs, ..)| theirs);
            theirs.is_some_and(|theirs| theirs.iter().any(|it| ports.contains(it)))
        };
        if !grants.open_for(key.network).any(shares) {
            self.cuts.with.insert(id);
        }
    }

    /// Ends the connections of grants that are over; how many those were, in words: empty where nothing
    /// is due.
    ///
    /// # Errors
    /// Where some may go on, and why.
    pub(in crate::keeper) fn cut_due(&mut self) -> Result<String, String> {
        let due = std::mem::take(&mut self.cuts.due);
        if due.is_empty() {
            return Ok(String::new());
        }
        let count = cut::cut(&due).map_err(|why| {
            let why = format!("not all connections can be cut: {why}");
            error!("{why}");
            why
        })?;
        let cut = format!("{count} connection{} cut", if count == 1 { "" } else { "s" });
        let of: Vec<_> = due.iter().map(|it| it.network.to_string()).take(2).collect();
        match of.as_slice() {
            _ if count == 0 => {}
            [source] => info!(%source, "{cut}"),
            _ => info!("{cut}"),
        }
        Ok(cut)
    }
}
