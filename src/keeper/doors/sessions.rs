//! The sessions that grants follow: heard of, or asked for, and what that changes done.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use tracing::{error, warn};

use super::Doors;
use crate::config::Config;
use crate::firewall::netlink::{ConnectionEvents, Netlink, NetlinkError};
use crate::grants::{DoorSessions, GrantChange, GrantId, TrackedConnection};
use crate::ledger::Durability;
use crate::proto::OpenPorts;
use crate::time::{Monotonic, Now};

/// How often connections are asked for where the kernel does not tell of them.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The connections that may hold a grant: heard of while there is one that may be held.
#[derive(Default)]
pub(super) struct Sessions {
    ports: Vec<OpenPorts>,
    events: Option<ConnectionEvents>,
    /// Whether nothing of theirs was before it listened.
    has_heard_all: bool,
    /// When all are asked for again, where nothing is told.
    pub(super) next_look: Option<Monotonic>,
    /// Whether it has been said that nothing can be heard or asked for.
    has_failed: bool,
}

impl Sessions {
    /// Listens, if it does not yet and can. The kernel may never tell of a connection that began
    /// before.
    pub(super) fn listen(&mut self) {
        if self.events.is_none() && ConnectionEvents::are_told() {
            self.events = self.said(ConnectionEvents::open);
            self.has_heard_all = false;
        }
    }

    /// All connections to the ports whose connections hold grants.
    pub(super) fn all(&mut self) -> Option<Vec<TrackedConnection>> {
        self.said(|ports| Netlink::of_connections()?.connections(ports))
    }

    /// Without connection tracking nothing is held, which is said once.
    fn said<T>(&mut self, ask: impl FnOnce(&[OpenPorts]) -> Result<T, NetlinkError>) -> Option<T> {
        let result = ask(&self.ports);
        if let Err(why) = &result
            && !std::mem::replace(&mut self.has_failed, true)
        {
            warn!("what holds grants cannot be seen, they end as if nothing did: {why}");
        }
        self.has_failed &= result.is_err();
        result.ok()
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.events.as_ref().map(|events| events.as_fd())
    }
}

impl Doors {
    /// Has grants and sessions follow each other as this configuration says.
    pub(super) fn learn(&mut self, config: &Config) {
        let doors = config.doors.iter();
        let doors = doors.map(|door| (door.name().clone(), DoorSessions::of(door)));
        let sessions = Sessions { ports: self.grants.learn(doors), ..Sessions::default() };
        // Somebody listens all the time: the kernel remembers when a connection begins.
        let _before = std::mem::replace(&mut self.sessions, sessions);
        if self.grants.is_holding() {
            self.sessions.listen();
        }
    }

    /// Takes note of what has become of the sessions, and lets grants be open for as long as that.
    pub(super) fn follow_sessions(&mut self, now: Now) {
        let at = now.monotonic;
        if !self.grants.is_holding() {
            (self.sessions.events, self.sessions.next_look) = (None, None);
            return;
        }
        let mut later = Vec::new();
        self.sessions.listen();
        let mut is_all = std::mem::replace(&mut self.sessions.has_heard_all, true);
        if let Some(events) = &mut self.sessions.events {
            is_all &= events.look(|it| later.extend(self.grants.saw(at, &it)));
        } else if self.sessions.next_look.is_none_or(|look| look <= at) {
            self.sessions.next_look = Some(at + LOOK_EVERY);
            is_all = false;
        }
        let due = self.grants.to_look_at(at);
        let by_traffic = |id: &GrantId| !self.grants.is_renewed_by_kernel(*id);
        if (!is_all || due.iter().any(by_traffic))
            && let Some(all) = self.sessions.all()
        {
            later.extend(self.grants.saw_all(at, &all));
        }
        for id in due {
            let left = self.left_in_kernel(at, id);
            // Packets renew the ports that they come to; the others are open for as long.
            if self.grants.looked_at(at, id, left) {
                later.push(id);
            }
        }
        for id in later {
            let Some(grant) = self.grants.get(id) else { continue };
            match grant.in_kernel(at) {
                Some(kept) => {
                    if let Err(why) = self.sets.open(&kept, false) {
                        let (source, door) = (kept.key.network, kept.key.door);
                        error!(%source, %door, "cannot be held: {why}");
                    }
                }
                // Without it whoever starts after a crash closes what is held.
                None => {
                    let change = GrantChange::Extend(id, grant.extension(now));
                    let _logged = self.journal.record(change, Durability::Crash);
                }
            }
        }
    }

    /// How long packets let a grant be open; `None` where they do not do that by themselves.
    fn left_in_kernel(&mut self, now: Monotonic, id: GrantId) -> Option<Duration> {
        let kept = self.grants.get(id).filter(|_| self.grants.is_renewed_by_kernel(id));
        let kept = kept?.in_kernel(now)?;
        match self.sets.left(&kept) {
            Ok(left) => Some(left.unwrap_or_default()),
            // Somebody has taken it away: it comes back.
            Err(why) if why.is_gap() => Some(LOOK_EVERY),
            Err(why) => {
                let (source, door) = (kept.key.network, kept.key.door);
                error!(%source, %door, "cannot be looked at: {why}");
                Some(Duration::ZERO)
            }
        }
    }
}
