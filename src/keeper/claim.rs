//! Claims: what somebody asks of a door, and whether the configuration in force still grants it.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use super::credible::Lie;
use crate::config::{Client, Config, Door, Name};
use crate::control::{client_of, door_of};
use crate::engine::spa::SpaServer;
use crate::engine::{
    CompletedBy, Credential, DatagramRequest, Event, Local, MAX_UNFLUSHED_AHEAD, Reason,
    UncleanStart, fwknop, is_over,
};
use crate::grants::{GrantKey, OpenedBy, Origin};
use crate::ledger::{Durability, Proof};
use crate::proto::totp::Scheme;
use crate::proto::{Knock, Method, Network, Secret, Widths};
use crate::time::{Monotonic, Now, Wall};

/// How much longer than it can be good what was used is remembered: a clock may be set back.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// A claim that a door be opened, or closed, for some networks, most of them of one address.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) door: Door,
    pub(super) origin: Origin,
    /// At least one.
    pub(super) networks: Vec<Network>,
    /// Where the request came from, if that is not what it is for.
    pub(super) asked_by: Option<IpAddr>,
    /// Only for connections from this port.
    pub(super) source_port: Option<NonZeroU16>,
    /// When the last knock came.
    pub(super) since: Monotonic,
    /// For how long, where that is not left to the door.
    pub(super) open_for: Option<Duration>,
    /// What may be used once.
    pub(super) proof: Option<Proof>,
    /// When a client made the request, as it says itself.
    pub(super) stamp: Option<Wall>,
    pub(super) close: bool,
    /// The gateway of the fleet that has told of it, where it opened.
    pub(super) gateway: Option<Name>,
}

/// A claim, and why it does not hold, or no more: by this host's clocks, its addresses, or the
/// configuration in force.
pub(super) type JudgedClaim = (Claim, Result<(), Reason>);

/// The grounds on which a watcher's words are judged.
#[derive(Clone, Copy)]
pub(super) struct Grounds<'a> {
    /// What the watcher was given.
    pub(super) then: &'a Config,
    pub(super) server: Option<&'a SpaServer>,
    /// The configuration in force.
    pub(super) current: &'a Config,
    pub(super) missing: UncleanStart,
    /// This host's addresses.
    pub(super) local: &'a Local,
    /// Whether a loopback interface is listened on.
    pub(super) looped: bool,
    /// After the words came.
    pub(super) now: Now,
}

/// How long ago the last knock may have come: longer than the keeper is ever busy.
const LATEST: Duration = Duration::from_secs(60);
const NOT_GIVEN: Lie = Lie("what it was not given");

impl Grounds<'_> {
    /// When something was, by the calendar of now.
    pub(super) fn when(&self, at: Monotonic) -> Wall {
        self.now.wall - self.now.monotonic.since(at)
    }

    /// Whether what ended at `at` is told in time, and by whom it can be.
    fn is_in_time(&self, at: Monotonic, source: IpAddr) -> Result<(), Reason> {
        so(self.now.monotonic.since(at) <= LATEST, Reason::TooOld)?;
        so(self.local.can_send(source, self.looped), Reason::ImpossibleAddress)
    }

    /// Whether a step held at some time since the first knock.
    fn holds(&self, scheme: &Scheme, step: u64, began: Monotonic) -> Result<(), Reason> {
        so(step >= *scheme.window(self.when(began)).start(), Reason::TooOld)?;
        so(step <= *scheme.window(self.now.wall).end(), Reason::TooFarAhead)
    }

    /// Whether a client's credential is what it was, and has not run out.
    fn stands(&self, now: Option<&Client>, is_unchanged: bool) -> Result<(), Reason> {
        let client = now.filter(|_| is_unchanged).ok_or(Reason::Changed)?;
        so(!is_over(client.expires, self.now.wall), Reason::Expired)
    }
}

impl Claim {
    /// The stage of a sequence that is complete, as classic knockd counts them, and its knock.
    pub(super) fn last_stage(&self) -> Option<(usize, Option<Knock>)> {
        let by_sequence =
            matches!(self.origin.by, OpenedBy::Method(Method::Sequence | Method::OneTimeSequence));
        let sequence = &self.door.recognition.sequence;
        by_sequence.then(|| (sequence.len(), sequence.last().copied()))
    }

    /// What an administrator asks for.
    pub(super) fn by_administrator(
        door: Door,
        address: IpAddr,
        since: Monotonic,
        open_for: Option<Duration>,
    ) -> Self {
        Self { open_for, ..Self::of(door, Origin::KNOCKCTL, vec![address.into()], since) }
    }

    fn of(door: Door, origin: Origin, networks: Vec<Network>, since: Monotonic) -> Self {
        Self {
            door,
            origin,
            networks,
            asked_by: None,
            source_port: None,
            since,
            open_for: None,
            proof: None,
            stamp: None,
            close: false,
            gateway: None,
        }
    }

    /// What a door that has opened at another gateway asks for here, for as long as it may.
    pub(super) fn by_gateway(
        door: Door,
        gateway: Name,
        client: Option<Name>,
        key: &GrantKey,
        since: Monotonic,
        open_for: Duration,
    ) -> Self {
        let origin = Origin { by: OpenedBy::Fleet, client };
        let claim = Self::of(door, origin, vec![key.network], since);
        let (open_for, gateway) = (Some(open_for), Some(gateway));
        Self { source_port: key.source_port, open_for, gateway, ..claim }
    }

    /// What a sequence asks for that was completed under an earlier configuration, or this one.
    ///
    /// # Errors
    /// [`Lie`]: no honest watcher says it.
    pub(super) fn of_sequence(
        grounds: &Grounds<'_>,
        event: &Event,
        knocked: CompletedBy,
        at: Monotonic,
    ) -> Result<JudgedClaim, Lie> {
        let Grounds { then, current, .. } = *grounds;
        let meant = event.door.and_then(|id| door_of(then, id)).ok_or(NOT_GIVEN)?;
        let stands = current.door(meant.name());
        let (method, client, proof, holds) = match knocked {
            CompletedBy::Sequence => {
                let proof = line_proof(meant);
                let method = proof.as_ref().map_or(Method::Sequence, |_| Method::OneTimeSequence);
                let holds = stands.is_some_and(|stands| {
                    stands.recognition.sequence == meant.recognition.sequence
                        && stands.one_time.is_some() == meant.one_time.is_some()
                });
                (method, None, proof, so(holds, Reason::Changed))
            }
            CompletedBy::Totp { client: id, step } => {
                let client = client_of(then, id).ok_or(NOT_GIVEN)?;
                let scheme = meant.recognition.totp.ok_or(NOT_GIVEN)?;
                let until = scheme.turns_at(step.saturating_add(u64::from(scheme.skew()))) + KEPT;
                let bytes = step.to_be_bytes().to_vec();
                let proof = once(meant, Some((client, until)), Method::Totp, bytes);
                let now = current.client(&client.name);
                let is_unchanged = stands.is_some_and(|door| door.recognition.totp == Some(scheme))
                    && now.is_some_and(|now| {
                        now.totp == client.totp && now.doors.contains(meant.name())
                    });
                let holds = grounds
                    .stands(now, is_unchanged)
                    .and_then(|()| grounds.holds(&scheme, step, event.began));
                (Method::Totp, Some(client), Some(proof), holds)
            }
        };
        let origin = origin(method, client);
        let door = stands.unwrap_or(meant).clone();
        let claim = Self { proof, ..Self::of(door, origin, vec![event.source.into()], at) };
        Ok((claim, holds.and_then(|()| grounds.is_in_time(at, event.source))))
    }

    /// What a datagram asks for that was authenticated under an earlier configuration, or this one.
    /// How long it may ask for is what the door says.
    ///
    /// # Errors
    /// [`Lie`]: no honest watcher says it.
    pub(super) fn of_request(
        grounds: &Grounds<'_>,
        request: &DatagramRequest,
        at: Monotonic,
    ) -> Result<JudgedClaim, Lie> {
        let Grounds { then, current, missing, .. } = *grounds;
        let meant = door_of(then, request.door).ok_or(NOT_GIVEN)?;
        let client = client_of(then, request.client).ok_or(NOT_GIVEN)?;
        let stands = current.door(meant.name());
        let now = current.client(&client.name).filter(|now| now.doors.contains(meant.name()));
        let (method, stamp, proof, is_unchanged, lifetime) = match request.credential {
            Credential::Spa { key, stamp } => {
                let spa = client.spa.as_ref().ok_or(NOT_GIVEN)?;
                let key = *spa.keys.get(usize::from(key)).ok_or(NOT_GIVEN)?;
                let is_unchanged = stands.is_some_and(|door| door.recognition.spa)
                    && now
                        .and_then(|now| now.spa.as_ref())
                        .is_some_and(|spa| spa.keys.contains(&key));
                let lifetime = grounds.server.ok_or(NOT_GIVEN)?.lifetime(missing);
                let proof = Proof::Monotonic { key: *key.as_bytes(), stamp };
                (Method::Spa, stamp, proof, is_unchanged, lifetime)
            }
            Credential::Fwknop { digest, stamp } => {
                let fwknop = client.fwknop.as_ref().ok_or(NOT_GIVEN)?;
                let until = stamp + then.settings.fwknop.max_age + KEPT;
                let proof = once(meant, Some((client, until)), Method::Fwknop, digest.to_vec());
                let is_unchanged = stands.is_some_and(|door| door.recognition.fwknop)
                    && now.is_some_and(|now| now.fwknop.as_ref() == Some(fwknop));
                let lifetime = fwknop::lifetime(&then.settings.fwknop, missing);
                (Method::Fwknop, stamp, proof, is_unchanged, lifetime)
            }
        };
        let may_ask = |network| grounds.local.may_ask_for(request.source, network);
        let width = stands.and_then(|door| door.recognition.width);
        let widest = Widths::both(width, now.and_then(|now| now.width));
        let holds = grounds
            .stands(now, is_unchanged)
            .and_then(|()| lifetime.judge(stamp, grounds.now))
            .and_then(|()| grounds.is_in_time(at, request.source))
            .and_then(|()| so(request.networks().all(may_ask), Reason::ImpossibleAddress))
            .and_then(|()| so(request.networks().all(|it| widest.allows(&it)), Reason::Width));
        let door = stands.unwrap_or(meant).clone();
        let origin = origin(method, Some(client));
        let networks: Vec<_> = request.networks().collect();
        let asked_by = Some(request.source).filter(|it| !networks.contains(&(*it).into()));
        let most = door.opening.open_for_max;
        let open_for =
            request.open_for.map(|seconds| Duration::from_secs(seconds.max(1).into()).min(most));
        let claim = Self {
            asked_by,
            source_port: request.source_port,
            open_for,
            proof: Some(proof),
            stamp: Some(stamp),
            close: request.close,
            ..Self::of(door, origin, networks, at)
        };
        Ok((claim, holds))
    }

    /// What its proof has to survive before anything opens.
    ///
    /// What a power cut takes, [`UncleanStart`] lets nobody use again: for that a stamp must not be
    /// too far ahead.
    pub(super) fn durability(&self, now: Wall) -> Durability {
        let is_safe = self.stamp.is_some_and(|stamp| stamp.since(now) < MAX_UNFLUSHED_AHEAD);
        if self.proof.is_none() || is_safe { Durability::Crash } else { Durability::PowerLoss }
    }

    /// The key of the grant for one of its networks.
    pub(super) fn key(&self, network: Network) -> GrantKey {
        let door = self.door.name().clone();
        GrantKey { source_port: self.source_port, ..GrantKey::new(door, network) }
    }
}

fn origin(method: Method, client: Option<&Client>) -> Origin {
    Origin { client: client.map(|client| client.name.clone()), ..method.into() }
}

const fn so(holds: bool, reason: Reason) -> Result<(), Reason> {
    if holds { Ok(()) } else { Err(reason) }
}

/// What can be used once: by whoever can read it, or of a client's until then.
pub(super) fn once(door: &Door, of: Option<(&Client, Wall)>, by: Method, bytes: Vec<u8>) -> Proof {
    let (door, client) = (door.name().clone(), of.map(|(client, _)| client.name.clone()));
    let until = of.map(|(_, until)| until);
    Proof::Once { door, client, kind: by.as_str(), bytes: Secret::new(bytes), until }
}

/// A line of a list proves something once, wherever it stands in the list.
pub(super) fn line_proof(door: &Door) -> Option<Proof> {
    let line = door.one_time.as_ref()?.line.unwrap_or(0);
    let knocks: Vec<String> = door.recognition.sequence.iter().map(ToString::to_string).collect();
    let bytes = format!("{line} {}", knocks.join(",")).into_bytes();
    Some(once(door, None, Method::OneTimeSequence, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::{self, load};

    /// What is asked for on a proof that says when it was made.
    fn ask(stamp: Option<Wall>) -> Claim {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        std::fs::write(file.path(), "doors: {ssh: {sequence: [7000], open: [22]}}").unwrap();
        let options = load::Options { insecure_permissions: true };
        let door = load(file.path(), &options).unwrap().config.doors.remove(0);
        let proof = Proof::Once {
            door: door.name().clone(),
            client: None,
            kind: Method::Fwknop.as_str(),
            bytes: Secret::new(vec![1]),
            until: None,
        };
        Claim {
            proof: Some(proof),
            stamp,
            ..Claim::of(door, Method::Fwknop.into(), vec![], Monotonic::ZERO)
        }
    }

    #[test]
    fn a_proof_that_a_power_cut_may_take_needs_a_stamp_that_is_refused_after_it() {
        let now = Wall::from_nanos(1_000_000_000_000);
        let second = Duration::from_secs(1);
        for (stamp, flush) in [
            (None, Durability::PowerLoss),
            (Some(now - second * 100), Durability::Crash),
            (Some(now + MAX_UNFLUSHED_AHEAD - second), Durability::Crash),
            (Some(now + MAX_UNFLUSHED_AHEAD), Durability::PowerLoss),
        ] {
            assert_eq!(ask(stamp).durability(now), flush, "{stamp:?}");
        }
        assert_eq!(Claim { proof: None, ..ask(None) }.durability(now), Durability::Crash);
    }

    use crate::keeper::credible::tests::{ALICE, CODE, PLAIN, World, address};

    const HOUR: Duration = Duration::from_secs(3600);

    fn outcome(asked: Result<JudgedClaim, Lie>) -> Option<Reason> {
        asked.unwrap().1.err()
    }

    fn asked(world: &World, request: &DatagramRequest) -> Option<Reason> {
        outcome(Claim::of_request(&world.grounds(), request, world.now.monotonic))
    }

    fn stamped(request: &DatagramRequest, to: Wall) -> DatagramRequest {
        let credential = match request.credential {
            Credential::Spa { key, .. } => Credential::Spa { key, stamp: to },
            Credential::Fwknop { digest, .. } => Credential::Fwknop { digest, stamp: to },
        };
        DatagramRequest { credential, ..*request }
    }

    fn knocked(world: &World, step: u64, began: Monotonic) -> Option<Reason> {
        let knocked = CompletedBy::Totp { client: ALICE, step };
        let kind = crate::engine::EventKind::Open(knocked);
        let event = Event { began, ..world.event(CODE, kind) };
        outcome(Claim::of_sequence(&world.grounds(), &event, knocked, world.now.monotonic))
    }

    #[test]
    fn a_stamp_is_held_against_the_keepers_own_clock() {
        let world = World::new();
        let now = world.now.wall;
        for request in [world.spa(), world.fwknop()] {
            assert_eq!(asked(&world, &request), None);
            let to = |stamp| asked(&world, &stamped(&request, stamp));
            assert_eq!(to(Wall::MAX), Some(Reason::TooFarAhead));
            assert_eq!(to(now + HOUR), Some(Reason::TooFarAhead));
            assert_eq!(to(now - HOUR), Some(Reason::TooOld));
            let missing = UncleanStart(Some(world.now.monotonic));
            let grounds = Grounds { missing, ..world.grounds() };
            let refused = Claim::of_request(&grounds, &request, world.now.monotonic);
            assert_eq!(outcome(refused), Some(Reason::BeforeStart));
        }
    }

    #[test]
    fn a_step_has_to_have_held_since_the_first_knock() {
        let mut world = World::new();
        let began = world.now.monotonic - Duration::from_secs(2);
        let step =
            world.config.doors[CODE.0 as usize].recognition.totp.unwrap().step_at(world.now.wall);
        for (ahead, expected) in [(0, None), (1, None), (2, Some(Reason::TooFarAhead))] {
            assert_eq!(knocked(&world, step + ahead, began), expected);
        }
        assert_eq!(knocked(&world, u64::MAX, began), Some(Reason::TooFarAhead));
        assert_eq!(knocked(&world, step - 1, began), None);
        assert_eq!(knocked(&world, step - 2, began), Some(Reason::TooOld));
        // It was told half a minute later.
        world.now.wall = world.now.wall + Duration::from_secs(30);
        world.now.monotonic = world.now.monotonic + Duration::from_secs(30);
        assert_eq!(knocked(&world, step - 1, began), None);
        // The calendar was set in between: that is nobody's fault.
        world.now.wall = world.now.wall - 5 * HOUR;
        assert_eq!(knocked(&world, step, began), Some(Reason::TooFarAhead));
        world.now.wall = world.now.wall + 10 * HOUR;
        assert_eq!(knocked(&world, step, began), Some(Reason::TooOld));
    }

    #[test]
    fn a_client_that_has_expired_or_is_gone_gets_nothing() {
        let mut world = World::new();
        let step =
            world.config.doors[CODE.0 as usize].recognition.totp.unwrap().step_at(world.now.wall);
        let at = world.now.monotonic;
        world.config.clients[0].expires = Some(world.now.wall);
        for request in [world.spa(), world.fwknop()] {
            assert_eq!(asked(&world, &request), Some(Reason::Expired));
        }
        assert_eq!(knocked(&world, step, at), Some(Reason::Expired));
        world.config.clients[0].expires = Some(world.now.wall + HOUR);
        assert_eq!(asked(&world, &world.spa()), None);
        let mut current = world.config.clone();
        current.clients.remove(0);
        let grounds = Grounds { current: &current, ..world.grounds() };
        for request in [world.spa(), world.fwknop()] {
            let refused = Claim::of_request(&grounds, &request, at);
            assert_eq!(outcome(refused), Some(Reason::Changed));
        }
    }

    #[test]
    fn a_network_that_is_too_wide_by_now_is_refused() {
        let mut world = World::new();
        let request = DatagramRequest { v4: "192.0.2.0/24".parse().ok(), ..world.spa() };
        assert_eq!(asked(&world, &request), Some(Reason::Width));
        world.config.clients[0].width = Some(Widths { ipv4: 24, ipv6: 128 });
        // This host is in it: it is that of others all the same.
        let (claim, holds) =
            Claim::of_request(&world.grounds(), &request, world.now.monotonic).unwrap();
        assert_eq!(holds, Ok(()));
        assert_eq!(claim.networks, ["192.0.2.0/24".parse().unwrap()]);
        assert_eq!(claim.asked_by, Some(request.source));
    }

    #[test]
    fn what_is_told_too_late_opens_nothing() {
        let world = World::new();
        let event = world.event(PLAIN, crate::engine::EventKind::Open(CompletedBy::Sequence));
        let told = |after| {
            let at = world.now.monotonic - after;
            outcome(Claim::of_sequence(&world.grounds(), &event, CompletedBy::Sequence, at))
        };
        assert_eq!(told(LATEST), None);
        assert_eq!(told(LATEST + Duration::from_nanos(1)), Some(Reason::TooOld));
        let asked = |after| {
            let at = world.now.monotonic - after;
            outcome(Claim::of_request(&world.grounds(), &world.spa(), at))
        };
        assert_eq!(asked(LATEST), None);
        assert_eq!(asked(LATEST * 2), Some(Reason::TooOld));
    }

    #[test]
    fn this_hosts_addresses_open_nothing_unless_loopback_is_listened_on() {
        let world = World::new();
        for own in ["192.0.2.1", "127.0.0.1"] {
            let kind = crate::engine::EventKind::Open(CompletedBy::Sequence);
            let event = Event { source: address(own), ..world.event(PLAIN, kind) };
            let told = |looped| {
                let grounds = Grounds { looped, ..world.grounds() };
                let at = world.now.monotonic;
                outcome(Claim::of_sequence(&grounds, &event, CompletedBy::Sequence, at))
            };
            assert_eq!(told(false), Some(Reason::ImpossibleAddress));
            assert_eq!(told(true), None);
        }
        let v4 = "192.0.2.1".parse().ok();
        for request in [world.spa(), world.fwknop()] {
            let refused = asked(&world, &DatagramRequest { v4, ..request });
            assert_eq!(refused, Some(Reason::ImpossibleAddress), "named by another");
        }
    }
}
