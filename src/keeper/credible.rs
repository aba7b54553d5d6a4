//! Credibility checks: what an honest watcher can say. Whatever else one says ends it, since
//! somebody has taken it over.
//!
//! "Given" is what this watcher was given, which an honest one knows as well as the keeper does.
//! What depends on the calendar or on the addresses of the moment may have changed since it was
//! judged, so it is [refused](super::claim::JudgedClaim) and ends nobody.
//!
//! | field | an honest watcher says | else |
//! |---|---|---|
//! | door, client (index) | one that was given, or none where a source is locked out of all doors; for what a client does, one that may open this door and has what it takes | ends |
//! | source | what [one host](is_a_hosts) can have; IPv4 where only that is wanted | ends |
//! | | not this host's, nor loopback's, unless a loopback interface is listened on | refused |
//! | `at`, `began` (clock that does not jump) | no later than now and a second | ends |
//! | `at` of what opens | any time before: packets wait, the machine sleeps, the calendar is set | refused after [`LATEST`](super::claim) |
//! | `at` less `began` of what opens | up to the door's `seq_timeout` | ends |
//! | plain sequence | only of a door that has one | ends |
//! | TOTP step | one that held between the first knock and now | refused |
//! | stage | from 1 to the length of the door's sequence, short of it where it has to go on | ends |
//! | knock of a stage | one of the sequence's, or any where codes open the door | ends |
//! | reason of a reset | one of the five for which a sequence ends | ends |
//! | missed steps | as far as clocks are searched, never 0 | ends |
//! | lock: `until`, where | as long as the rule says, where there is one | ends |
//! | SPA key (index) | one of the client's, where datagrams are taken | ends |
//! | stamp | within the ages that are allowed, nor hidden by an unclean start | refused |
//! | fwknop: source | in the client's networks | ends |
//! | fwknop: address | one, which the engine's own rule lets this client have | ends |
//! | networks | of what hosts can have, loopback only over loopback | ends |
//! | | no wider than door and client allow; fwknop's are addresses | ends |
//! | | an address of this host's only from this host's | refused |
//! | `open_for` | not 0; fwknop's at most its format's; the door clamps it | ends |
//! | `source_port`, `close` | not of fwknop's; whether the door can is the grant's to say | ends |
//! | interface (index, state) | one that was given, and that it has gone | ends |
//! | counts | no more than packets can have come | ends |
//! | name of a door that there is not | a name | ends |
//! | knock, reason, source of what was seen | anything: it is only shown | |
//! | sandbox, ready, done | once each, at its time | ends |
//! | how often doors are asked for | [as people do](super::intake) | refused |
//! | how often something is only logged | as it limits itself | left out |
//! | standard error | little | left out |
//! | channel | open as long as it lives | ends |
//!
//! Not in a frame, so known to the watcher alone: where a packet was sent to (`target`,
//! fwknop's `destination`), fwknop's user name, which ports a request of fwknop's names and where
//! they shall lead, and whether an address was named or observed where it is the source
//! (`address: explicit`). Expiry, revocation and the configuration in force are
//! [`Claim`](super::claim::Claim)'s.

use std::net::IpAddr;

use super::claim::Grounds;
use crate::config::{AddressPolicy, Client, Door, FwknopClient, Lockout, Name};
use crate::control::{client_of, door_of};
use crate::engine::{
    CompletedBy, Credential, DatagramRequest, Event, EventKind, NAME_LEN, Reason, Refusal,
    SEARCHED, fwknop,
};
use crate::ipc::{EARLY, FromWatcher, InterfaceState};
use crate::proto::fwknop::MAX_TIMEOUT;
use crate::proto::network::{is_a_hosts, may_ask_for};
use crate::proto::{Method, Widths};
use crate::time::Monotonic;

/// A lie: what was said that no honest watcher says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lie(pub(super) &'static str);

/// More than can be counted in a second: a thousand for each packet of the fastest network.
const COUNTED_PER_SECOND: u64 = 1_000_000_000_000;

/// Whether a watcher at work since `since` may say this.
///
/// # Errors
/// [`Lie`].
pub(super) fn check(
    grounds: &Grounds<'_>,
    since: Monotonic,
    frame: &FromWatcher,
) -> Result<(), Lie> {
    match frame {
        FromWatcher::Event { event: what, at } | FromWatcher::ReplayedEvent { event: what, at } => {
            event(grounds, what, *at)
        }
        FromWatcher::Request { request: what, at } => request(grounds, what, *at),
        FromWatcher::Refused { refusal: what, at }
        | FromWatcher::ReplayedRefusal { refusal: what, at } => refusal(grounds, what, *at),
        FromWatcher::Ignored { at, .. } => is_past(grounds, *at),
        FromWatcher::Interface { index, state } => {
            let is_given = grounds.then.settings.interfaces.get(*index as usize).is_some();
            so(is_given && *state == InterfaceState::Gone, "news of no interface of its own")
        }
        FromWatcher::Captured { index, seen, dropped } => {
            let is_given = grounds.then.settings.interfaces.get(*index as usize).is_some();
            so(is_given, "news of no interface of its own")?;
            count(grounds, since, *seen.max(dropped))
        }
        FromWatcher::Suppressed { count: many } | FromWatcher::Count { count: many, .. } => {
            count(grounds, since, *many)
        }
        FromWatcher::Sandbox { .. } | FromWatcher::Ready | FromWatcher::Done => {
            Err(Lie("that it begins or ends"))
        }
    }
}

fn count(grounds: &Grounds<'_>, since: Monotonic, count: u64) -> Result<(), Lie> {
    let seconds = grounds.now.monotonic.since(since).as_secs() + 1;
    so(count <= seconds.saturating_mul(COUNTED_PER_SECOND), "an impossible count")
}

const fn so(is_honest: bool, lie: &'static str) -> Result<(), Lie> {
    if is_honest { Ok(()) } else { Err(Lie(lie)) }
}

fn is_past(grounds: &Grounds<'_>, at: Monotonic) -> Result<(), Lie> {
    so(at <= grounds.now.monotonic + EARLY, "a time to come")
}

/// A packet that came from there then.
fn packet(grounds: &Grounds<'_>, source: IpAddr, at: Monotonic) -> Result<(), Lie> {
    is_past(grounds, at)?;
    let is_read = source.is_ipv4() || !grounds.then.settings.only_ipv4;
    so(is_a_hosts(source) && is_read, "a packet from where none comes from")
}

fn event(grounds: &Grounds<'_>, event: &Event, at: Monotonic) -> Result<(), Lie> {
    let given = |id| door_of(grounds.then, id).ok_or(Lie("a door that it was not given"));
    let door = event.door.map(given).transpose()?;
    packet(grounds, event.source, at.max(event.began))?;
    let is_lock = |until: Monotonic, rule: Option<Lockout>| {
        let ends = |rule: Lockout| grounds.now.monotonic + EARLY + rule.lasts.max(rule.within);
        so(rule.is_some_and(|rule| until <= ends(rule)), "a lock that no rule allows")
    };
    let Some(door) = door else {
        return match event.kind {
            EventKind::LockedOut { until } => is_lock(until, grounds.then.settings.lockout),
            _ => Err(Lie("an event at no door")),
        };
    };
    let recognition = &door.recognition;
    let rotating = recognition.totp.map_or(0, |scheme| scheme.length());
    let length = recognition.sequence.len().max(rotating);
    let may = |id| client_of(grounds.then, id).is_some_and(|client| holds_secret(client, door));
    match event.kind {
        EventKind::Stage { stage, knock } => {
            let may = |knock| rotating > 0 || recognition.sequence.contains(&knock);
            so(knock.is_none_or(may), "a stage by a knock that the door does not have")?;
            is_stage(stage, length.saturating_sub(1))
        }
        EventKind::Open(knocked) => {
            so(at.since(event.began) <= recognition.seq_timeout, "a sequence that took too long")?;
            match knocked {
                CompletedBy::Sequence => {
                    so(!recognition.sequence.is_empty(), "a sequence that the door does not have")
                }
                CompletedBy::Totp { client: id, .. } => {
                    so(may(id), "a code of a client that has none for the door")
                }
            }
        }
        EventKind::Reset { stage, reason, .. } => match reason {
            Reason::WrongKnock | Reason::TripWire | Reason::Timeout => {
                is_stage(stage, length.saturating_sub(1))
            }
            Reason::Used | Reason::Expired => is_stage(stage, rotating),
            _ => Err(Lie("a reason for which no sequence ends")),
        },
        EventKind::Missed { client: id, steps } => {
            let farthest = recognition.totp.map_or(0, |scheme| SEARCHED / u64::from(scheme.step()));
            let is_searched = steps != 0 && u64::from(steps.unsigned_abs()) <= farthest;
            so(may(id) && is_searched, "a clock that is off by more than is searched")
        }
        EventKind::Unmatched => so(rotating > 0, "a code at a door that has none"),
        EventKind::LockedOut { until } => is_lock(until, recognition.lockout),
    }
}

fn is_stage(stage: u8, most: usize) -> Result<(), Lie> {
    so((1..=most).contains(&stage.into()), "a stage that the door does not have")
}

fn holds_secret(client: &Client, door: &Door) -> bool {
    door.recognition.totp.is_some() && client.totp.is_some() && client.doors.contains(door.name())
}

fn request(grounds: &Grounds<'_>, request: &DatagramRequest, at: Monotonic) -> Result<(), Lie> {
    let door = door_of(grounds.then, request.door).ok_or(Lie("a door that it was not given"))?;
    let client =
        client_of(grounds.then, request.client).ok_or(Lie("a client that it was not given"))?;
    packet(grounds, request.source, at)?;
    so(client.doors.contains(door.name()), "a client at a door that it may not open")?;
    let is_there = request.networks().next().is_some()
        && request.v4.is_none_or(|it| it.address().is_ipv4())
        && request.v6.is_none_or(|it| it.address().is_ipv6());
    let may = is_there && request.networks().all(|it| may_ask_for(request.source, it));
    so(may, "a request for an address that none may be for")?;
    let widest = Widths::both(door.recognition.width, client.width);
    so(request.networks().all(|it| widest.allows(&it)), "a request for too wide a network")?;
    so(request.open_for != Some(0), "a request for no time at all")?;
    match request.credential {
        Credential::Spa { key, .. } => {
            let keys = client.spa.as_ref().map_or(0, |spa| spa.keys.len());
            let takes = grounds.server.is_some() && door.recognition.spa;
            so(takes && keys > usize::from(key), "a key that it was not given")
        }
        Credential::Fwknop { .. } => {
            let holds = client.fwknop.as_ref().filter(|_| door.recognition.fwknop);
            let holder = holds.ok_or(Lie("a key that it was not given"))?;
            so(is_fwknops(holder, request), "a request that fwknop's format cannot make")
        }
    }
}

/// Whether a request can be one of fwknop's, of this client.
fn is_fwknops(client: &FwknopClient, request: &DatagramRequest) -> bool {
    let source = request.source.to_canonical();
    let mut networks = request.networks();
    let (Some(asked), None) = (networks.next(), networks.next()) else { return false };
    let Some(asked) = asked.single() else { return false };
    // The one that the packet comes from need not be named.
    let named = match asked {
        IpAddr::V4(v4) if asked != source || client.address == AddressPolicy::Explicit => Some(v4),
        _ => None,
    };
    fwknop::address(client, source, named) == Ok(asked)
        && client.sends_from(source)
        && request.source_port.is_none()
        && !request.close
        && request.open_for.is_none_or(|seconds| seconds <= MAX_TIMEOUT)
}

fn refusal(grounds: &Grounds<'_>, refusal: &Refusal, at: Monotonic) -> Result<(), Lie> {
    packet(grounds, refusal.source, at)?;
    so(matches!(refusal.by, Method::Spa | Method::Fwknop), "a datagram by another method")?;
    let knows_door = refusal.door.is_none_or(|id| door_of(grounds.then, id).is_some());
    let knows_client = refusal.client.is_none_or(|id| client_of(grounds.then, id).is_some());
    so(knows_door && knows_client, "a door or a client that it was not given")?;
    let is_name = |bytes: &[u8; NAME_LEN]| {
        let text = str::from_utf8(bytes).unwrap_or_default();
        text.trim_end_matches('\0').parse::<Name>().is_ok()
    };
    so(refusal.asked_for.as_ref().is_none_or(is_name), "a name that no door has")
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::config::load::{self, load};
    use crate::config::{Config, SpaClient, TotpClient};
    use crate::engine::spa::SpaServer;
    use crate::engine::{ClientId, DoorId, Local, UncleanStart};
    use crate::ipc::tests::from_watcher;
    use crate::ipc::{FRAME, FrameCodec};
    use crate::proto::fwknop::{CipherMode, FwknopKey};
    use crate::proto::knock::Knock;
    use crate::proto::network::Network;
    use crate::proto::secret::Secret;
    use crate::proto::spa::PrivateKey;
    use crate::time::{Now, Wall};

    pub(in crate::keeper) const SECOND: Duration = Duration::from_secs(1);
    // In the order of their names.
    pub(in crate::keeper) const CODE: DoorId = DoorId(0);
    pub(in crate::keeper) const FWKNOP: DoorId = DoorId(1);
    pub(in crate::keeper) const PLAIN: DoorId = DoorId(2);
    pub(in crate::keeper) const SPA: DoorId = DoorId(3);
    /// Holds whatever opens the three doors that want a client.
    pub(in crate::keeper) const ALICE: ClientId = ClientId(0);
    /// Holds the same, and may open the plain door only.
    const BOB: ClientId = ClientId(1);

    /// What a watcher was given, and the clocks of the keeper.
    pub(in crate::keeper) struct World {
        pub(in crate::keeper) config: Config,
        pub(in crate::keeper) server: Option<SpaServer>,
        pub(in crate::keeper) local: Local,
        pub(in crate::keeper) now: Now,
    }

    impl World {
        pub(in crate::keeper) fn new() -> Self {
            let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
            let text = "knockd: {interfaces: [eth0]}\n\
                 doors:\n\
                 \x20 plain: {sequence: [7000, 8000, 9000], open: [22]}\n\
                 \x20 code: {totp: {mode: code, base: 7100}, open: [22]}\n\
                 \x20 spa: {spa: true, open: [22]}\n\
                 \x20 fwknop: {fwknop: true, open: [22]}\n";
            std::fs::write(file.path(), text).unwrap();
            let options = load::Options { insecure_permissions: true };
            let mut config = load(file.path(), &options).unwrap().config;
            let client = |name: &str, number, doors: &[&str]| Client {
                width: None,
                name: name.parse().unwrap(),
                doors: doors.iter().map(|door| door.parse().unwrap()).collect(),
                expires: None,
                totp: Some(TotpClient { secret: Secret::new(vec![number; 20]), old: None }),
                spa: Some(SpaClient {
                    keys: vec![PrivateKey::from([number; 32]).public()],
                    address: AddressPolicy::Any,
                }),
                fwknop: Some(FwknopClient {
                    key: FwknopKey::new(vec![number; 16]).unwrap(),
                    mode: CipherMode::Cbc,
                    hmac: None,
                    from: vec!["192.0.2.0/24".parse().unwrap()],
                    destination: Vec::new(),
                    username: None,
                    address: AddressPolicy::Any,
                    force_nat: false,
                    old: None,
                }),
            };
            config.clients =
                vec![client("alice", 1, &["code", "fwknop", "spa"]), client("bob", 2, &["plain"])];
            let server = Some(SpaServer::new(&config.settings.spa, Vec::new()));
            let local = Local::Addresses([address("192.0.2.1")].into());
            let now = Now {
                monotonic: Monotonic::ZERO + 10_000 * SECOND,
                wall: Wall::ZERO + 1_700_000_000 * SECOND,
            };
            Self { config, server, local, now }
        }

        pub(in crate::keeper) fn grounds(&self) -> Grounds<'_> {
            Grounds {
                then: &self.config,
                server: self.server.as_ref(),
                current: &self.config,
                missing: UncleanStart::default(),
                local: &self.local,
                looped: false,
                now: self.now,
            }
        }

        fn check(&self, frame: &FromWatcher) -> Result<(), Lie> {
            check(&self.grounds(), self.now.monotonic - 100 * SECOND, frame)
        }

        pub(in crate::keeper) fn event(&self, door: DoorId, kind: EventKind) -> Event {
            let began = self.now.monotonic - SECOND;
            Event { door: Some(door), source: address("192.0.2.7"), kind, began }
        }

        fn told(&self, event: Event) -> Result<(), Lie> {
            let at = self.now.monotonic;
            let told = self.check(&FromWatcher::Event { event, at });
            assert_eq!(told, self.check(&FromWatcher::ReplayedEvent { event, at }));
            told
        }

        fn asked(&self, request: DatagramRequest) -> Result<(), Lie> {
            self.check(&FromWatcher::Request { request, at: self.now.monotonic })
        }

        pub(in crate::keeper) fn spa(&self) -> DatagramRequest {
            DatagramRequest {
                door: SPA,
                client: ALICE,
                credential: Credential::Spa { key: 0, stamp: self.now.wall },
                source: address("192.0.2.7"),
                v4: "192.0.2.7".parse().ok(),
                v6: None,
                open_for: None,
                source_port: None,
                close: false,
            }
        }

        pub(in crate::keeper) fn fwknop(&self) -> DatagramRequest {
            let credential = Credential::Fwknop { digest: [9; 32], stamp: self.now.wall };
            DatagramRequest { door: FWKNOP, credential, ..self.spa() }
        }
    }

    pub(in crate::keeper) fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn totp(client: ClientId) -> EventKind {
        EventKind::Open(CompletedBy::Totp { client, step: 1 })
    }

    fn stage(stage: u8, knock: Option<Knock>) -> EventKind {
        EventKind::Stage { stage, knock }
    }

    fn reset(stage: u8, reason: Reason) -> EventKind {
        EventKind::Reset { stage, reason, knock: None }
    }

    fn lie(checked: Result<(), Lie>) -> &'static str {
        checked.expect_err("no honest watcher says this").0
    }

    #[test]
    fn what_an_honest_watcher_says_is_no_lie() {
        let world = World::new();
        let lasts = world.config.doors[CODE.0 as usize].recognition.lockout.unwrap().lasts;
        let until = world.now.monotonic + EARLY + lasts;
        for (door, kind) in [
            (PLAIN, stage(2, None)),
            (PLAIN, stage(2, "8000".parse().ok())),
            (CODE, stage(1, "20042".parse().ok())),
            (PLAIN, EventKind::Open(CompletedBy::Sequence)),
            (PLAIN, reset(2, Reason::Timeout)),
            (CODE, totp(ALICE)),
            (CODE, reset(3, Reason::Used)),
            (CODE, EventKind::Missed { client: ALICE, steps: -120 }),
            (CODE, EventKind::LockedOut { until }),
        ] {
            assert_eq!(world.told(world.event(door, kind)), Ok(()), "{kind:?}");
        }
        let named = "198.51.100.7".parse().ok();
        for request in [
            world.spa(),
            DatagramRequest { v4: named, v6: "2001:db8::7".parse().ok(), ..world.spa() },
            DatagramRequest { close: true, open_for: Some(u32::MAX), ..world.spa() },
            world.fwknop(),
            DatagramRequest { v4: named, open_for: Some(MAX_TIMEOUT), ..world.fwknop() },
        ] {
            assert_eq!(world.asked(request), Ok(()), "{request:?}");
        }
        let state = InterfaceState::Gone;
        for frame in [
            FromWatcher::Interface { index: 0, state },
            FromWatcher::Captured { index: 0, seen: 1 << 40, dropped: 1 << 40 },
            FromWatcher::Ignored {
                source: address("0.0.0.0"),
                knock: "7000".parse().unwrap(),
                reason: Reason::ImpossibleAddress,
                at: world.now.monotonic,
            },
        ] {
            assert_eq!(world.check(&frame), Ok(()), "{frame:?}");
        }
    }

    #[test]
    fn packets_may_have_waited_and_the_calendar_may_have_been_set_meanwhile() {
        let world = World::new();
        let event = world.event(PLAIN, EventKind::Open(CompletedBy::Sequence));
        let opened =
            |at, began| world.check(&FromWatcher::Event { event: Event { began, ..event }, at });
        let now = world.now.monotonic;
        assert_eq!(opened(now - 5000 * SECOND, now - 5001 * SECOND), Ok(()));
        assert_eq!(opened(now + SECOND, now), Ok(()), "dated by a clock that was read before");
        assert_eq!(opened(now - SECOND, now), Ok(()), "captured on two interfaces");
        assert_eq!(lie(opened(now + SECOND * 2, now)), "a time to come");
        assert_eq!(lie(opened(now, now + SECOND * 2)), "a time to come");
        assert_eq!(lie(opened(now, now - 1000 * SECOND)), "a sequence that took too long");
        for stamp in [Wall::ZERO, Wall::MAX] {
            let credential = Credential::Spa { key: 0, stamp };
            assert_eq!(world.asked(DatagramRequest { credential, ..world.spa() }), Ok(()));
        }
    }

    #[test]
    fn what_a_door_or_a_client_does_not_have_is_a_lie() {
        let world = World::new();
        let until = world.now.monotonic;
        let plain = EventKind::Open(CompletedBy::Sequence);
        for (door, kind, what) in [
            (DoorId(9), plain, "a door that it was not given"),
            (CODE, plain, "a sequence that the door does not have"),
            (SPA, plain, "a sequence that the door does not have"),
            (PLAIN, totp(BOB), "a code of a client that has none for the door"),
            (CODE, totp(BOB), "a code of a client that has none for the door"),
            (CODE, totp(ClientId(7)), "a code of a client that has none for the door"),
            (PLAIN, stage(0, None), "a stage that the door does not have"),
            (PLAIN, stage(3, None), "a stage that the door does not have"),
            (SPA, stage(1, None), "a stage that the door does not have"),
            (
                PLAIN,
                stage(1, "7001".parse().ok()),
                "a stage by a knock that the door does not have",
            ),
            (PLAIN, reset(1, Reason::Used), "a stage that the door does not have"),
            (PLAIN, reset(1, Reason::BadTag), "a reason for which no sequence ends"),
            (PLAIN, EventKind::LockedOut { until }, "a lock that no rule allows"),
            (CODE, EventKind::LockedOut { until: Monotonic::MAX }, "a lock that no rule allows"),
        ] {
            assert_eq!(lie(world.told(world.event(door, kind))), what, "{kind:?} at {door:?}");
        }
        for (kind, what) in [
            (EventKind::LockedOut { until }, "a lock that no rule allows"),
            (plain, "an event at no door"),
        ] {
            let event = Event { door: None, ..world.event(CODE, kind) };
            assert_eq!(lie(world.told(event)), what, "{kind:?}");
        }
        for (client, steps) in [(ALICE, 121), (ALICE, 0), (ALICE, i32::MIN), (BOB, 5)] {
            let kind = EventKind::Missed { client, steps };
            let said = lie(world.told(world.event(CODE, kind)));
            assert_eq!(said, "a clock that is off by more than is searched");
        }
    }

    #[test]
    fn a_source_that_no_host_has_or_that_is_not_read_is_a_lie() {
        let mut world = World::new();
        for source in ["0.0.0.1", "224.0.0.1", "255.255.255.255", "::", "ff02::1", "::ffff:1.2.3.4"]
        {
            let source = address(source);
            let said = "a packet from where none comes from";
            let event =
                Event { source, ..world.event(PLAIN, EventKind::Stage { stage: 1, knock: None }) };
            assert_eq!(lie(world.told(event)), said);
            assert_eq!(lie(world.asked(DatagramRequest { source, ..world.spa() })), said);
            let refusal = Refusal::new(Method::Spa, source, Reason::TooOld);
            let at = world.now.monotonic;
            assert_eq!(lie(world.check(&FromWatcher::Refused { refusal, at })), said);
        }
        let source = address("2001:db8::7");
        let event =
            Event { source, ..world.event(PLAIN, EventKind::Stage { stage: 1, knock: None }) };
        assert_eq!(world.told(event), Ok(()));
        world.config.settings.only_ipv4 = true;
        assert!(world.told(event).is_err());
    }

    #[test]
    fn a_door_that_is_not_there_is_asked_for_by_a_name() {
        let world = World::new();
        let refused = |text: &[u8]| {
            let mut name = [0; NAME_LEN];
            name[..text.len()].copy_from_slice(text);
            let asked_for = Some(name);
            let refusal = Refusal::new(Method::Spa, address("192.0.2.7"), Reason::NoSuchDoor);
            let refusal = Refusal { asked_for, ..refusal };
            world.check(&FromWatcher::Refused { refusal, at: world.now.monotonic })
        };
        assert_eq!(refused(b"cellar"), Ok(()));
        for text in [&b""[..], b"a\0b", b"a b", b"\x1b[2J", b"\xff"] {
            assert_eq!(lie(refused(text)), "a name that no door has", "{text:?}");
        }
    }

    #[test]
    fn a_request_that_the_client_cannot_have_made_is_a_lie() {
        let mut world = World::new();
        let (spa, fwknop) = (world.spa(), world.fwknop());
        let port = std::num::NonZeroU16::new(22);
        let v4 = |text: &str| Some(text.parse::<Network>().unwrap());
        for (request, what) in [
            (DatagramRequest { door: DoorId(9), ..spa }, "a door that it was not given"),
            (DatagramRequest { client: ClientId(9), ..spa }, "a client that it was not given"),
            (DatagramRequest { client: BOB, ..spa }, "a client at a door that it may not open"),
            (DatagramRequest { door: FWKNOP, ..spa }, "a key that it was not given"),
            (DatagramRequest { door: SPA, ..fwknop }, "a key that it was not given"),
            (
                DatagramRequest {
                    credential: Credential::Spa { key: 1, stamp: world.now.wall },
                    ..spa
                },
                "a key that it was not given",
            ),
            (DatagramRequest { open_for: Some(0), ..spa }, "a request for no time at all"),
            (
                DatagramRequest { v4: v4("0.0.0.0"), ..spa },
                "a request for an address that none may be for",
            ),
            (
                DatagramRequest { v4: v4("127.0.0.1"), ..spa },
                "a request for an address that none may be for",
            ),
            (
                DatagramRequest { v4: v4("224.0.0.1"), ..fwknop },
                "a request for an address that none may be for",
            ),
            (
                DatagramRequest { v4: v4("126.0.0.0/7"), ..spa },
                "a request for an address that none may be for",
            ),
            (DatagramRequest { v4: v4("192.0.2.0/24"), ..spa }, "a request for too wide a network"),
            (
                DatagramRequest { close: true, ..fwknop },
                "a request that fwknop's format cannot make",
            ),
            (
                DatagramRequest { source_port: port, ..fwknop },
                "a request that fwknop's format cannot make",
            ),
            (
                DatagramRequest { open_for: Some(MAX_TIMEOUT + 1), ..fwknop },
                "a request that fwknop's format cannot make",
            ),
            (
                DatagramRequest { source: address("203.0.113.7"), ..fwknop },
                "a request that fwknop's format cannot make",
            ),
            (
                DatagramRequest { v4: None, v6: "2001:db8::7".parse().ok(), ..fwknop },
                "a request that fwknop's format cannot make",
            ),
            (
                DatagramRequest { v6: "2001:db8::7".parse().ok(), ..fwknop },
                "a request that fwknop's format cannot make",
            ),
        ] {
            assert_eq!(lie(world.asked(request)), what, "{request:?}");
        }
        world.server = None;
        assert_eq!(lie(world.asked(spa)), "a key that it was not given");
    }

    #[test]
    fn a_network_is_believed_where_door_and_client_were_given_as_much() {
        let mut world = World::new();
        let spa = DatagramRequest { v4: "192.0.2.0/24".parse().ok(), ..world.spa() };
        let width = |ipv4| Some(Widths { ipv4, ipv6: 64 });
        world.config.doors[SPA.0 as usize].recognition.width = width(24);
        assert_eq!(world.asked(spa), Ok(()));
        world.config.clients[0].width = width(25);
        assert_eq!(lie(world.asked(spa)), "a request for too wide a network");
        world.config.doors[FWKNOP.0 as usize].recognition.width = width(24);
        world.config.clients[0].width = None;
        let fwknop = DatagramRequest { v4: spa.v4, ..world.fwknop() };
        assert_eq!(lie(world.asked(fwknop)), "a request that fwknop's format cannot make");
    }

    #[test]
    fn a_fwknop_client_that_has_to_name_the_address_cannot_have_left_it_out() {
        let mut world = World::new();
        let holder = world.config.clients[0].fwknop.as_mut().unwrap();
        holder.address = AddressPolicy::Explicit;
        holder.from.clear();
        assert_eq!(world.asked(world.fwknop()), Ok(()), "it may have named its own");
        let v6 = "2001:db8::7".parse().ok();
        let request =
            DatagramRequest { source: address("2001:db8::7"), v4: None, v6, ..world.fwknop() };
        assert!(world.asked(request).is_err(), "the format has no place for it");
    }

    #[test]
    fn counts_interfaces_beginnings_and_ends_are_what_can_be() {
        let world = World::new();
        let gone = InterfaceState::Gone;
        for (frame, what) in [
            (FromWatcher::Captured { index: 0, seen: u64::MAX, dropped: 0 }, "an impossible count"),
            (
                FromWatcher::Captured { index: 1, seen: 1, dropped: 0 },
                "news of no interface of its own",
            ),
            (FromWatcher::Suppressed { count: u64::MAX }, "an impossible count"),
            (FromWatcher::Count { reason: Reason::BadTag, count: u64::MAX }, "an impossible count"),
            (FromWatcher::Interface { index: 1, state: gone }, "news of no interface of its own"),
            (
                FromWatcher::Interface { index: 0, state: InterfaceState::Listening },
                "news of no interface of its own",
            ),
            (FromWatcher::Ready, "that it begins or ends"),
            (FromWatcher::Done, "that it begins or ends"),
        ] {
            assert_eq!(lie(world.check(&frame)), what);
        }
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(message in from_watcher()) {
            let _ = World::new().check(&message);
        }

        #[test]
        fn no_frame_makes_it_panic(kind in 0u8..13, rest in prop::collection::vec(0u8..12, FRAME)) {
            let mut bytes: [u8; FRAME] = rest.try_into().unwrap();
            bytes[0] = kind;
            bytes[60..].fill(0);
            if let Ok(frame) = FromWatcher::decode(&bytes) {
                let _ = World::new().check(&frame);
            }
        }
    }
}
