//! What grants that follow their sessions promise.

use std::net::SocketAddr;

use super::*;
use crate::config::Hold;
use crate::grants::{ConnectionPhase, DoorSessions, HoldEnd, TrackedConnection};
use crate::proto::Protocol;

const OPEN_FOR: u64 = 30;
const HOLD: Hold = Hold {
    idle: Duration::from_secs(60),
    grace: Duration::from_secs(20),
    at_most: Duration::from_secs(600),
};
fn held_action() -> Action {
    let open_for = Duration::from_secs(OPEN_FOR);
    let backend = GrantBackend::Kernel(KernelElement::Guard);
    Action { backend, open_for, hold: Some(HOLD), ..action(1, OPEN_FOR) }
}

fn grants_of_held_door(by_kernel: bool) -> Grants {
    let mut grants = Grants::default();
    let ports = vec!["22/tcp".parse().unwrap(), "60000-61000/udp".parse().unwrap()];
    let (hold, cuts, target) = (Some(HOLD), false, None);
    let sessions =
        DoorSessions { hold, by_kernel, cuts, ports: ports.clone(), target, fleet: false };
    assert_eq!(grants.learn([("ssh".parse().unwrap(), sessions)].into_iter()), ports);
    grants
}

/// A grant of a held door that opened at 0.
fn held() -> (Grants, GrantId) {
    let mut grants = grants_of_held_door(false);
    let Decision::Open(id, _) = ask(&mut grants, 0, ADDRESS, held_action()) else { panic!() };
    assert_eq!(grants.opened(id, OpenResult::All), OpenOutcome::Open);
    (grants, id)
}

fn connection(id: u32, phase: ConnectionPhase) -> TrackedConnection {
    let client = SocketAddr::new(ADDRESS, 40_000);
    let to = "192.0.2.1:22".parse().unwrap();
    let (protocol, silent) = (Protocol::Tcp, Duration::ZERO);
    TrackedConnection { id, protocol, client, to, answered_by: to, phase, silent }
}

fn tell(grants: &mut Grants, seconds: u64, id: u32, phase: ConnectionPhase) {
    let _later = grants.saw(at(seconds), &connection(id, phase));
}

/// Lets it end at its time, where nothing is found that renewed it, and says why.
fn end_of(grants: &mut Grants, seconds: u64) -> Option<HoldEnd> {
    for id in grants.to_look_at(at(seconds)) {
        grants.looked_at(at(seconds), id, None);
    }
    grants.expire(at(seconds)).pop().map(|ended| ended.end.expect("it may be held"))
}

fn ends(grants: &Grants) -> u64 {
    grants.next_deadline().unwrap().since(Monotonic::ZERO).as_secs()
}

#[test]
fn without_a_connection_it_ends_as_any_does() {
    let (mut grants, _) = held();
    tell(&mut grants, 5, 1, ConnectionPhase::Begun);
    assert_eq!(end_of(&mut grants, OPEN_FOR - 1), None);
    assert_eq!(end_of(&mut grants, OPEN_FOR), Some(HoldEnd::Unused));
}

#[test]
fn an_established_connection_holds_it_until_it_is_idle() {
    let (mut grants, id) = held();
    tell(&mut grants, 5, 1, ConnectionPhase::Alive);
    assert_eq!((ends(&grants), grants.get(id).unwrap().held_by()), (65, 1));
    assert_eq!(end_of(&mut grants, 64), None);
    assert_eq!(end_of(&mut grants, 65), Some(HoldEnd::Idle));
}

#[test]
fn what_the_kernel_has_renewed_is_open_for_as_long_as_the_kernel_says() {
    let (mut grants, id) = held();
    assert_eq!(grants.to_look_at(at(30)), [id]);
    assert!(grants.looked_at(at(30), id, Some(Duration::from_secs(50))));
    assert_eq!(ends(&grants), 80);
    assert!(!grants.looked_at(at(81), id, Some(Duration::ZERO)));
    assert_eq!(grants.expire(at(81))[0].end, Some(HoldEnd::Idle));
}

#[test]
fn where_the_kernel_does_not_renew_it_its_connections_are_looked_at() {
    let look = |grants: &mut Grants, seconds: u64, silent: u64| {
        let silent = Duration::from_secs(silent);
        let seen = TrackedConnection { silent, ..connection(1, ConnectionPhase::Alive) };
        let _later = grants.saw_all(at(seconds), &[seen]);
        grants.looked_at(at(seconds), GrantId(1), None);
        ends(grants)
    };
    let (mut grants, _) = held();
    tell(&mut grants, 0, 1, ConnectionPhase::Alive);
    assert_eq!(look(&mut grants, 60, 10), 110);
    assert_eq!(look(&mut grants, 109, 59), 110);
    assert_eq!(look(&mut grants, 110, 1), 169);
    assert_eq!(end_of(&mut grants, 169), Some(HoldEnd::Idle));
}

#[test]
fn a_connection_that_fell_silent_before_does_not_end_what_was_just_opened() {
    let mut grants = grants_of_held_door(false);
    let Decision::Open(id, _) = ask(&mut grants, 100, ADDRESS, held_action()) else { panic!() };
    assert_eq!(grants.opened(id, OpenResult::All), OpenOutcome::Open);
    for silent in [50, 70] {
        let silent = Duration::from_secs(silent);
        let before = TrackedConnection { silent, ..connection(1, ConnectionPhase::Alive) };
        assert_eq!(grants.saw_all(at(101), &[before]), []);
        assert_eq!(ends(&grants), 100 + OPEN_FOR);
    }
}

#[test]
fn it_ends_a_while_after_its_last_tcp_connection_has() {
    for end in [ConnectionPhase::Ended, ConnectionPhase::Gone] {
        let (mut grants, _) = held();
        tell(&mut grants, 5, 1, ConnectionPhase::Alive);
        tell(&mut grants, 6, 2, ConnectionPhase::Alive);
        tell(&mut grants, 7, 1, ConnectionPhase::Ended);
        assert_eq!(ends(&grants), 66, "one is left");
        tell(&mut grants, 10, 2, end);
        // What the kernel has only forgotten was silent, and had not ended.
        let is_over = end == ConnectionPhase::Ended;
        let (ends_at, why) = if is_over { (30, HoldEnd::Session) } else { (66, HoldEnd::Idle) };
        assert_eq!(end_of(&mut grants, ends_at - 1), None);
        assert_eq!(end_of(&mut grants, ends_at), Some(why));
    }
}

#[test]
fn what_the_kernel_forgets_holds_it_until_it_has_been_idle() {
    let (mut grants, id) = held();
    tell(&mut grants, 5, 1, ConnectionPhase::Alive);
    // Of UDP it forgets what is silent, sooner than `idle` may be.
    assert_eq!(grants.saw_all(at(35), &[]), []);
    assert_eq!((ends(&grants), grants.get(id).unwrap().held_by()), (65, 0));
    assert_eq!(end_of(&mut grants, 64), None);
    assert_eq!(end_of(&mut grants, 65), Some(HoldEnd::Idle));
}

#[test]
fn who_reconnects_in_time_holds_it_again() {
    let (mut grants, _) = held();
    tell(&mut grants, 5, 1, ConnectionPhase::Alive);
    tell(&mut grants, 10, 1, ConnectionPhase::Ended);
    tell(&mut grants, 29, 2, ConnectionPhase::Alive);
    assert_eq!(ends(&grants), 89);
    assert_eq!(end_of(&mut grants, 89), Some(HoldEnd::Idle));
}

#[test]
fn nothing_holds_it_longer_than_at_most() {
    let (mut grants, id) = held();
    for seconds in (10..600).step_by(10) {
        tell(&mut grants, seconds, 1, ConnectionPhase::Alive);
        let _decision = ask(&mut grants, seconds, ADDRESS, held_action());
        grants.looked_at(at(seconds), id, Some(Duration::from_secs(1000)));
    }
    assert_eq!((ends(&grants), grants.to_look_at(at(600))), (600, vec![]));
    assert_eq!(grants.get(id).unwrap().in_kernel(at(599)).unwrap().left, Duration::from_secs(1));
    assert_eq!(end_of(&mut grants, 600), Some(HoldEnd::AtMost));
}

#[test]
fn a_knock_makes_it_end_later_and_never_earlier() {
    let (mut grants, _) = held();
    tell(&mut grants, 5, 1, ConnectionPhase::Alive);
    let _decision = ask(&mut grants, 10, ADDRESS, held_action());
    assert_eq!(ends(&grants), 65);
    let _decision = ask(&mut grants, 50, ADDRESS, held_action());
    assert_eq!(ends(&grants), 80);
}

#[test]
fn connections_of_other_ports_addresses_and_doors_hold_nothing() {
    let (mut grants, _) = held();
    let ours = connection(1, ConnectionPhase::Alive);
    let other = TrackedConnection { client: "192.0.2.3:40000".parse().unwrap(), ..ours };
    for other in [other, TrackedConnection { to: "192.0.2.1:23".parse().unwrap(), ..ours }] {
        assert_eq!(grants.saw(at(1), &other), []);
    }
    assert_eq!(ends(&grants), OPEN_FOR);
    let Some(door) = grants.doors.values_mut().next() else { panic!() };
    door.hold = None;
    assert_eq!(grants.saw(at(1), &ours), []);
    assert_eq!(grants.expire(at(OPEN_FOR)).len(), 1);
}

#[test]
fn a_door_that_is_no_more_goes_on_as_it_was() {
    let (mut grants, id) = held();
    assert_eq!(grants.learn(std::iter::empty()).len(), 2, "its ports are still asked for");
    let ours = connection(1, ConnectionPhase::Alive);
    assert_eq!(grants.saw(at(1), &ours), [id]);
    assert_eq!(ends(&grants), 61);
}

#[test]
fn a_connection_from_anywhere_in_its_network_holds_it() {
    let mut grants = grants_of_held_door(false);
    let key = GrantKey::new("ssh".parse().unwrap(), "192.0.2.0/24".parse::<Network>().unwrap());
    let asked = grants.prepare(at(0), key, Method::Spa.into(), held_action(), true).unwrap();
    let Decision::Open(id, _) = grants.apply(asked) else { panic!() };
    assert_eq!(grants.opened(id, OpenResult::All), OpenOutcome::Open);
    tell(&mut grants, 5, 1, ConnectionPhase::Alive);
    assert_eq!(ends(&grants), 65);
}

/// What the kernel has of a grant, and what the client does.
#[derive(Debug, Default)]
struct Kernel {
    /// Until when the element that packets renew is there, and the one that nothing renews.
    element: Option<(u64, u64)>,
    connections: HashMap<u32, u64>,
    news: Vec<(u32, ConnectionPhase)>,
}

#[derive(Clone, Debug)]
enum Happening {
    Knock,
    Begin(u32),
    Packet(u32),
    End(u32),
    Dies,
    Starts,
}

proptest! {
    /// For random traffic and deaths of the keeper: open neither past `at_most`, nor past the last
    /// packet and `idle`, or the last knock and `open_for`, and a second.
    #[test]
    fn it_is_never_open_for_longer_than_it_may_be(
        moves in prop::collection::vec((0u64..40, prop_oneof![
            1 => Just(Happening::Knock),
            3 => (0u32..3).prop_map(Happening::Begin),
            8 => (0u32..3).prop_map(Happening::Packet),
            2 => (0u32..3).prop_map(Happening::End),
            1 => Just(Happening::Dies),
            2 => Just(Happening::Starts),
        ]), 0..60),
        renews in any::<bool>(),
    ) {
        let idle = HOLD.idle.as_secs();
        let new = || grants_of_held_door(renews);
        let mut keeper = Some(new());
        let (mut kernel, mut now, mut opened) = (Kernel::default(), 0u64, 0u64);
        // The last knock, and the last packet on an established connection.
        let (mut knocked, mut heard) = (0u64, 0u64);
        for (pause, happens) in moves {
            for _ in 0..=pause {
                let is_open = kernel.element.is_some_and(|(until, most)| until.min(most) > now);
                if is_open {
                    prop_assert!(now <= opened + HOLD.at_most.as_secs(), "open past at_most");
                    prop_assert!(
                        now <= (heard + idle).max(knocked + OPEN_FOR) + 1
                            || now <= heard + idle + 1,
                        "open at {now}, knocked {knocked}, heard {heard}"
                    );
                } else {
                    kernel.element = None;
                }
                if let Some(grants) = &mut keeper {
                    step(grants, &mut kernel, now, renews);
                }
                now += 1;
            }
            match happens {
                Happening::Knock => {
                    let Some(grants) = &mut keeper else { continue };
                    let asked = ask(grants, now, ADDRESS, held_action());
                    if let Decision::Open(id, _) = asked {
                        let _open = grants.opened(id, OpenResult::All);
                        opened = now;
                        kernel.element = Some((0, 0));
                    }
                    knocked = now;
                    push(grants, &mut kernel, now);
                }
                Happening::Begin(id) if kernel.element.is_some() => {
                    kernel.connections.insert(id, now);
                    kernel.news.push((id, ConnectionPhase::Alive));
                    heard = now;
                    renew(&mut kernel, now, renews);
                }
                Happening::Packet(id) if kernel.connections.contains_key(&id) => {
                    kernel.connections.insert(id, now);
                    heard = now;
                    renew(&mut kernel, now, renews);
                }
                Happening::End(id) if kernel.connections.remove(&id).is_some() => {
                    kernel.news.push((id, ConnectionPhase::Ended));
                    heard = now;
                }
                Happening::Dies => keeper = None,
                Happening::Starts if keeper.is_none() => {
                    let mut grants = new();
                    // Nobody has listened.
                    kernel.news.clear();
                    let held = kernel.element.filter(|(until, most)| until.min(most) > &now);
                    let held = held.map(|(until, most)| KernelGrant {
                        key: key(ADDRESS),
                        origin: Method::Sequence.into(),
                        element: held_action().backend.element().unwrap().clone(),
                        left: Duration::from_secs(until - now),
                        ceiling: Some(Duration::from_secs(most - now)),
                    });
                    let wall = crate::time::Wall::ZERO;
                    let boot = "a".repeat(32).parse().unwrap();
                    let now_ = Now { monotonic: at(now), wall };
                    let _effects = grants.recover(now_, boot, vec![], held.into_iter().collect());
                    let _later = grants.saw_all(at(now), &all(&kernel, now));
                    keeper = Some(grants);
                }
                _ => {}
            }
        }
    }
}

/// An established packet: it makes nothing that is not there.
fn renew(kernel: &mut Kernel, now: u64, renews: bool) {
    if let Some((until, most)) = &mut kernel.element
        && renews
        && (*until).min(*most) > now
    {
        *until = now + HOLD.idle.as_secs();
    }
}

fn all(kernel: &Kernel, now: u64) -> Vec<TrackedConnection> {
    let one = |(&id, &last): (&u32, &u64)| TrackedConnection {
        silent: Duration::from_secs(now - last),
        ..connection(id, ConnectionPhase::Alive)
    };
    kernel.connections.iter().map(one).collect()
}

/// Tells the kernel what the keeper wants it to hold, as it does: never shorter.
fn push(grants: &Grants, kernel: &mut Kernel, now: u64) {
    if let Some(kept) = grants.list().next().and_then(|grant| grant.in_kernel(at(now))) {
        let (until, most) = kernel.element.unwrap_or_default();
        let end = |left: Duration| now + left.as_secs();
        kernel.element = Some((until.max(end(kept.left)), most.max(end(kept.ceiling.unwrap()))));
    }
}

fn step(grants: &mut Grants, kernel: &mut Kernel, now: u64, renews: bool) {
    let mut later = Vec::new();
    for (id, phase) in std::mem::take(&mut kernel.news) {
        later.extend(grants.saw(at(now), &connection(id, phase)));
    }
    for id in grants.to_look_at(at(now)) {
        let left = kernel.element.map_or(0, |(until, most)| until.min(most).saturating_sub(now));
        let left = renews.then_some(Duration::from_secs(left));
        if left.is_none() {
            later.extend(grants.saw_all(at(now), &all(kernel, now)));
        }
        later.extend(grants.looked_at(at(now), id, left).then_some(id));
    }
    if !later.is_empty() {
        push(grants, kernel, now);
    }
    for ended in grants.expire(at(now)) {
        kernel.element = None;
        assert_eq!(grants.closed(ended.id).map(|_| ()), None);
    }
}
