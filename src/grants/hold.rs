//! Grants that follow the sessions that they let in: what is known of their connections.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{Grant, GrantId, GrantKey, GrantPhase, Grants, ids_of};
use crate::config::{Door, Hold, Mechanism, Name, Opening};
use crate::proto::words::words;
use crate::proto::{Knock, Network, OpenPorts, Protocol};
use crate::time::Monotonic;

/// A connection that the kernel tracks, as its first packet came: before translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackedConnection {
    /// The kernel's number for it, for as long as it is tracked.
    pub id: u32,
    pub protocol: Protocol,
    pub client: SocketAddr,
    pub to: SocketAddr,
    /// Who answers: somebody else than `to` where it is translated.
    pub answered_by: SocketAddr,
    pub phase: ConnectionPhase,
    /// Since its last packet, in either direction, as far as the kernel tells.
    pub silent: Duration,
}

/// The phase of a connection's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectionPhase {
    /// UDP that nobody has answered; TCP before both have agreed to speak.
    Begun,
    /// Also TCP that one side alone has closed.
    Alive,
    /// TCP that both sides have closed, or that one has reset.
    Ended,
    /// The kernel has forgotten it.
    Gone,
}

words! {
/// The reason why a grant that may follow a session has ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HoldEnd {
    /// There was no session.
    Unused = "command timeout",
    /// Nothing came any more.
    Idle = "closed: idle",
    /// Its last connection had ended.
    Session = "closed: session ended",
    /// It was open for as long as it may be.
    AtMost = "closed: open for at_most",
}
}

/// The sessions of a door: which connections are theirs, how its grants and they follow each other,
/// and whether those of other gateways are let in too.
#[derive(Clone, Debug)]
pub struct DoorSessions {
    /// `None`: its grants follow nothing.
    pub(super) hold: Option<Hold>,
    /// Whether packets renew the grants without knockd.
    pub(super) by_kernel: bool,
    /// Whether connections end when the time of their grant is over.
    pub cuts: bool,
    pub ports: Vec<OpenPorts>,
    /// Whose ports they are; `None`: everybody's.
    pub(super) target: Option<IpAddr>,
    /// Whether what opens here opens at every gateway of the fleet that has the door.
    pub fleet: bool,
}

impl DoorSessions {
    /// What a door says of them.
    pub fn of(door: &Door) -> Self {
        let Opening { mechanism, ports, forwards, hold, cuts, fleet, .. } = &door.opening;
        let on = forwards.iter().map(|forward| forward.on.into());
        let is_single = forwards.is_empty() && ports.iter().all(|ports| ports.single().is_some());
        Self {
            hold: *hold,
            by_kernel: *mechanism == Mechanism::Guard && is_single,
            cuts: *cuts,
            ports: ports.iter().copied().chain(on).collect(),
            target: door.recognition.target,
            fleet: *fleet,
        }
    }

    /// Whether a grant of the door lets in such a connection.
    pub fn have(&self, key: &GrantKey, of: Protocol, client: SocketAddr, to: SocketAddr) -> bool {
        Knock::at(of, to).is_some_and(|port| self.ports.iter().any(|ports| ports.contains(port)))
            && self.target.is_none_or(|target| target.to_canonical() == to.ip())
            && key.source_port.is_none_or(|port| port.get() == client.port())
            && key.network.contains(client.ip())
    }

    /// How much longer than a held grant what lets it in is there.
    const fn margin(&self) -> Option<Duration> {
        Some(if self.by_kernel { Duration::ZERO } else { COARSE })
    }
}

/// The session of a grant: the connections that it has let in and that are established.
#[derive(Debug, Default)]
pub(super) struct Session {
    connections: HashSet<u32>,
    /// The last packet of all that there were.
    last: Monotonic,
    /// When it was asked for last, if that is known.
    pub(super) knocked: Monotonic,
    /// How much longer than the grant what lets it in is there, until it has been looked at; `None`:
    /// nothing has held it yet.
    margin: Option<Duration>,
    /// Why it is over, once that is known.
    pub(super) end: Option<HoldEnd>,
}

/// The kernel tells whole seconds. A grant may be looked at so much too early, and what lets it in
/// may end so much later.
const COARSE: Duration = Duration::from_secs(1);
/// How many grants are looked at in one go: some milliseconds.
const LOOKS: usize = 256;

impl Session {
    pub(super) fn new(knocked: Monotonic) -> Self {
        Self { knocked, ..Self::default() }
    }

    /// Takes note of a connection; when the grant ends, if that changes.
    fn note(
        &mut self,
        now: Monotonic,
        it: &TrackedConnection,
        door: &DoorSessions,
        deadline: Monotonic,
    ) -> Option<Monotonic> {
        let hold = door.hold?;
        match it.phase {
            ConnectionPhase::Begun => None,
            ConnectionPhase::Alive => {
                let last = now - it.silent;
                let until = last + hold.idle;
                // One that fell silent before does not end what a knock has just opened.
                let is_new = last + COARSE >= self.knocked && until > now;
                let is_first = self.connections.is_empty() && is_new;
                self.connections.insert(it.id);
                self.last = self.last.max(last);
                (self.margin, self.end) = (door.margin(), None);
                Some(if is_first { until } else { until.max(deadline) })
            }
            ConnectionPhase::Ended | ConnectionPhase::Gone => {
                let was_there = self.connections.remove(&it.id);
                let is_ended = it.phase == ConnectionPhase::Ended;
                let is_over = was_there && is_ended && self.connections.is_empty();
                is_over.then(|| {
                    self.end = Some(HoldEnd::Session);
                    now + hold.grace
                })
            }
        }
    }
}

impl Grants {
    /// Learns of doors; one that it knew and that is not among them stays as it was. A grant that
    /// followed no session when it opened never does. The ports whose connections hold grants.
    #[must_use]
    pub fn learn(&mut self, doors: impl Iterator<Item = (Name, DoorSessions)>) -> Vec<OpenPorts> {
        self.doors.extend(doors);
        let held = self.doors.values().filter(|door| door.hold.is_some());
        held.flat_map(|door| door.ports.iter().copied()).collect()
    }

    /// The sessions of a door.
    pub fn sessions_of(&self, door: &Name) -> Option<&DoorSessions> {
        self.doors.get(door)
    }

    /// Whether there is a grant that may follow a session.
    pub const fn is_holding(&self) -> bool {
        self.held > 0
    }

    /// Whether a grant that is open lets in such a connection.
    pub fn let_in(&self, of: Protocol, client: SocketAddr, to: SocketAddr) -> bool {
        let open = self.around(client.ip()).filter_map(|id| self.grants.get(&id));
        open.filter(|it| it.is_open()).any(|Grant { key, .. }| {
            self.doors.get(&key.door).is_some_and(|door| door.have(key, of, client, to))
        })
    }

    /// The grants of all networks that an address is in.
    fn around(&self, address: IpAddr) -> impl Iterator<Item = GrantId> {
        let prefixes = self.prefixes.range(..=if address.is_ipv4() { 32 } else { 128 });
        let networks = prefixes.map(move |prefix| Network::around(address, *prefix));
        networks.flat_map(|around| ids_of(&self.of_network, around))
    }

    /// Takes note of a connection: the grants that end later now, whose elements have to be told.
    #[must_use]
    pub fn saw(&mut self, now: Monotonic, it: &TrackedConnection) -> Vec<GrantId> {
        let ids: Vec<_> = self.around(it.client.ip()).collect();
        let mut later = Vec::new();
        for id in ids {
            let Some(grant) = self.grants.get_mut(&id).filter(|grant| grant.is_open()) else {
                continue;
            };
            let door = self.doors.get(&grant.key.door).filter(|_| grant.ceiling.is_some());
            let door = door.filter(|door| door.have(&grant.key, it.protocol, it.client, it.to));
            let until = door.and_then(|door| grant.session.note(now, it, door, grant.deadline));
            if until.is_some_and(|until| self.end_at(id, until)) {
                later.push(id);
            }
        }
        later
    }

    /// Takes note of all connections that there are; those that are not among them are gone.
    #[must_use]
    pub fn saw_all(&mut self, now: Monotonic, all: &[TrackedConnection]) -> Vec<GrantId> {
        let there: HashSet<u32> = all.iter().map(|it| it.id).collect();
        for grant in self.grants.values_mut() {
            grant.session.connections.retain(|id| there.contains(id));
        }
        all.iter().flat_map(|it| self.saw(now, it)).collect()
    }

    /// Sets when a grant ends; whether that is later than before.
    fn end_at(&mut self, id: GrantId, until: Monotonic) -> bool {
        let Some(grant) = self.grants.get_mut(&id) else { return false };
        let until = grant.ceiling.map_or(until, |ceiling| until.min(ceiling));
        let is_later = until > grant.deadline;
        if self.deadlines.remove(&(grant.deadline, id)) {
            self.deadlines.insert((until, id));
        }
        grant.deadline = until;
        is_later
    }

    /// Grants that end now, or almost, unless packets have renewed them; none as long as none ends
    /// now. Say what is found: [`looked_at`](Self::looked_at).
    pub fn to_look_at(&self, now: Monotonic) -> Vec<GrantId> {
        let due = |at: Monotonic| self.deadlines.iter().take_while(move |(until, _)| *until <= at);
        if !due(now).any(|&(_, id)| self.is_to_look_at(id)) {
            return Vec::new();
        }
        let due = due(now + COARSE).map(|&(_, id)| id);
        due.filter(|&id| self.is_to_look_at(id)).take(LOOKS).collect()
    }

    /// Whether the kernel renews it by itself, and has to be asked how long it is open.
    pub fn is_renewed_by_kernel(&self, id: GrantId) -> bool {
        let door = self.grants.get(&id).and_then(|it| self.doors.get(&it.key.door));
        door.is_some_and(|door| door.by_kernel)
    }

    /// Takes note of how much longer the kernel, where it renews it by itself, lets a grant be open;
    /// elsewhere what is known of its connections counts. Whether it ends later
    /// than before.
    pub fn looked_at(&mut self, now: Monotonic, id: GrantId, left: Option<Duration>) -> bool {
        let Some(grant) = self.grants.get_mut(&id) else { return false };
        let Some(door) = self.doors.get(&grant.key.door) else { return false };
        let session = &mut grant.session;
        let heard = session.margin.and(door.hold).map(|hold| session.last + hold.idle);
        let until = left.map_or(heard, |left| Some(now + left)).unwrap_or(Monotonic::ZERO);
        if until > grant.deadline.max(now) {
            session.margin = door.margin();
            return self.end_at(id, until);
        }
        if grant.deadline <= now {
            session.end = Some(session.margin.map_or(HoldEnd::Unused, |_| HoldEnd::Idle));
        }
        false
    }

    /// Whether it has to be looked at before it may end: packets may have renewed it.
    pub(super) fn is_to_look_at(&self, id: GrantId) -> bool {
        self.grants.get(&id).is_some_and(|grant| {
            matches!(grant.state, GrantPhase::Open { .. })
                && grant.session.end.is_none()
                && grant.ceiling.is_some_and(|ceiling| grant.deadline < ceiling)
                && self.doors.get(&grant.key.door).is_some_and(|door| door.hold.is_some())
        })
    }
}

impl Grant {
    /// How many connections are known to hold it.
    pub fn held_by(&self) -> usize {
        self.session.connections.len()
    }

    /// Why it ends, where it may follow a session and its time is over.
    pub(super) fn hold_end(&self) -> Option<HoldEnd> {
        let is_at_most = self.ceiling.is_some_and(|ceiling| self.deadline >= ceiling);
        self.session.end.or(is_at_most.then_some(HoldEnd::AtMost))
    }

    /// How long what lets it in has to be there.
    pub(super) fn left_in_kernel(&self, now: Monotonic) -> Duration {
        let until = self.deadline + self.session.margin.unwrap_or_default();
        self.ceiling.map_or(until, |ceiling| until.min(ceiling)).since(now)
    }
}
