//! What grants promise, one behaviour each.

mod addresses;
mod hold;
mod lives;

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::proto::Method;

impl Grants {
    /// All that end now or have ended.
    pub(super) fn expire(&mut self, now: Monotonic) -> Vec<ToClose> {
        self.expire_some(now, usize::MAX)
    }
}

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

fn at(seconds: u64) -> Monotonic {
    Monotonic::ZERO + Duration::from_secs(seconds)
}

fn door() -> Name {
    "ssh".parse().unwrap()
}

fn command(text: &str) -> Rendered {
    Rendered { argv: vec![text.to_owned()], environment: Vec::new() }
}

fn action(ports: usize, open_for: u64) -> Action {
    let pair = |port: usize| CommandPair {
        open: command(&format!("open {port}")),
        close: Some(command(&format!("close {port}"))),
        verify: None,
        is_timed: false,
    };
    Action {
        hold: None,
        backend: GrantBackend::Commands((0..ports).map(pair).collect()),
        open_for: Duration::from_secs(open_for),
        is_own: false,
        most: usize::MAX,
        addresses: None,
        cooldown: Duration::ZERO,
    }
}

fn closes(pairs: &[CommandPair]) -> Vec<String> {
    pairs.iter().map(|pair| pair.close.as_ref().unwrap().to_string().replace('\'', "")).collect()
}

fn undone(after: OpenOutcome) -> Vec<String> {
    let OpenOutcome::Close(pairs) = after else { panic!("{after:?}") };
    closes(&pairs)
}

fn pair() -> CommandPair {
    let close = Some(command("close"));
    CommandPair { open: command("open"), close, verify: None, is_timed: false }
}

fn key(address: IpAddr) -> GrantKey {
    GrantKey::new(door(), address)
}

fn ask(grants: &mut Grants, seconds: u64, address: IpAddr, action: Action) -> Decision {
    let asked =
        grants.prepare(at(seconds), key(address), Method::Sequence.into(), action, true).unwrap();
    grants.apply(asked)
}

fn open(grants: &mut Grants, seconds: u64, open_for: u64) -> GrantId {
    let decision = ask(grants, seconds, ADDRESS, action(1, open_for));
    let Decision::Open(id, _) = decision else { panic!("{decision:?}") };
    assert_eq!(grants.opened(id, OpenResult::All), OpenOutcome::Open);
    id
}

#[test]
fn a_door_does_nothing_for_anybody_else_while_it_cools_down() {
    let mut grants = Grants::default();
    let cooling = |open_for| Action { cooldown: Duration::from_secs(60), ..action(1, open_for) };
    let other = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 3));
    let mut ask = |seconds, address, origin: Origin, action| {
        let asked = grants.prepare(at(seconds), key(address), origin, action, true);
        let answer = asked.map(|asked| _ = grants.apply(asked));
        (answer.err(), grants.refuses_first(&door()))
    };
    assert_eq!(ask(0, ADDRESS, Method::Sequence.into(), cooling(10)), (None, true));
    for seconds in [0, 59] {
        for address in [ADDRESS, other] {
            let (refused, _) = ask(seconds, address, Method::Totp.into(), cooling(10));
            assert_eq!(refused, Some(Reason::Cooldown));
        }
    }
    // What was refused does not begin it anew; it is the first of its own cooldown alone.
    assert_eq!(ask(60, other, Method::Sequence.into(), cooling(10)), (None, true));
    assert_eq!(
        ask(61, other, Method::Sequence.into(), cooling(10)),
        (Some(Reason::Cooldown), false)
    );
    // An administrator may, and begins none; and a reload may do away with it.
    assert_eq!(ask(62, other, Origin::KNOCKCTL, cooling(10)), (None, false));
    assert_eq!(ask(63, other, Method::Sequence.into(), action(1, 10)), (None, false));
}

#[test]
fn what_opened_at_another_gateway_opens_while_a_door_cools_down_and_begins_that_anew() {
    let mut grants = Grants::default();
    let cooling = Action { cooldown: Duration::from_secs(60), ..action(1, 10) };
    let mut ask = |seconds, by| {
        let origin = Origin { by, client: None };
        let asked = grants.prepare(at(seconds), key(ADDRESS), origin, cooling.clone(), true);
        asked.map(|asked| _ = grants.apply(asked)).err()
    };
    let knock = OpenedBy::Method(Method::Sequence);
    assert_eq!(ask(0, knock), None);
    assert_eq!(ask(50, OpenedBy::Fleet), None);
    assert_eq!(ask(109, knock), Some(Reason::Cooldown));
    assert_eq!(ask(110, knock), None);
}

#[test]
fn a_grant_stands_from_its_request_until_it_begins_to_close() {
    let mut grants = Grants::default();
    assert_eq!(grants.stands_until(&key(ADDRESS)), None);
    let Decision::Open(id, _) = ask(&mut grants, 100, ADDRESS, action(1, 30)) else { panic!() };
    assert_eq!(grants.stands_until(&key(ADDRESS)), Some(at(130)));
    assert_eq!(grants.opened(id, OpenResult::All), OpenOutcome::Open);
    assert_eq!(grants.stands_until(&key(ADDRESS)), Some(at(130)));
    assert!(grants.close(id).is_some());
    assert_eq!(grants.stands_until(&key(ADDRESS)), None);
}

#[test]
fn a_grant_closes_at_its_deadline_and_not_before() {
    let mut grants = Grants::default();
    let id = open(&mut grants, 100, 30);
    assert_eq!(grants.next_deadline(), Some(at(130)));
    assert!(grants.expire(at(129)).is_empty());
    let expired = grants.expire(at(130));
    assert_eq!(closes(&expired[0].close), ["close 0"]);
    assert!(grants.closed(id).is_none());
    assert!(grants.is_empty());
}

#[test]
fn another_knock_extends_without_opening_again() {
    let mut grants = Grants::default();
    open(&mut grants, 100, 30);
    let decision = ask(&mut grants, 120, ADDRESS, action(1, 30));
    assert_eq!(decision, Decision::Extend(GrantId(1), at(150), None));
    assert!(grants.expire(at(149)).is_empty());
    assert_eq!(grants.expire(at(150)).len(), 1);
}

#[test]
fn a_shorter_knock_does_not_shorten() {
    let mut grants = Grants::default();
    open(&mut grants, 100, 30);
    let decision = ask(&mut grants, 101, ADDRESS, action(1, 5));
    assert_eq!(decision, Decision::Extend(GrantId(1), at(130), None));
}

#[test]
fn a_knock_while_the_open_command_runs_extends() {
    let mut grants = Grants::default();
    let Decision::Open(id, _) = ask(&mut grants, 0, ADDRESS, action(1, 10)) else { panic!() };
    assert_eq!(
        ask(&mut grants, 5, ADDRESS, action(1, 10)),
        Decision::Extend(GrantId(1), at(15), None)
    );
    assert_eq!(grants.opened(id, OpenResult::All), OpenOutcome::Open);
    assert_eq!(grants.next_deadline(), Some(at(15)));
}

#[test]
fn a_knock_while_the_close_command_runs_opens_again_afterwards() {
    let mut grants = Grants::default();
    let id = open(&mut grants, 0, 10);
    assert_eq!(grants.expire(at(10)).len(), 1);
    assert_eq!(ask(&mut grants, 11, ADDRESS, action(1, 10)), Decision::Wait);
    let asked = grants.closed(id).unwrap();
    let Decision::Open(again, _) = grants.apply(asked) else { panic!() };
    assert_ne!(id, again);
    assert_eq!(grants.opened(again, OpenResult::All), OpenOutcome::Open);
    assert_eq!(grants.next_deadline(), Some(at(21)));
}

#[test]
fn a_door_without_a_close_is_an_act_each_time() {
    let mut grants = Grants::default();
    let act = {
        let pairs =
            vec![CommandPair { open: command("wake"), close: None, verify: None, is_timed: false }];
        Action { backend: GrantBackend::Commands(pairs), ..action(0, 10) }
    };
    for seconds in 0..3 {
        let decision = ask(&mut grants, seconds, ADDRESS, act.clone());
        assert_eq!(decision, Decision::Act(vec![command("wake")]));
    }
    assert!(grants.is_empty());
}

#[test]
fn an_open_that_failed_is_no_grant() {
    let mut grants = Grants::default();
    let Decision::Open(id, _) = ask(&mut grants, 0, ADDRESS, action(2, 10)) else { panic!() };
    let failed = OpenResult::NotStarted(0);
    assert_eq!(grants.opened(id, failed), OpenOutcome::Nothing);
    assert!(grants.is_empty() && grants.open_until(&key(ADDRESS)).is_none());
}

#[test]
fn ports_that_were_opened_before_one_failed_are_closed_again() {
    let mut grants = Grants::default();
    let Decision::Open(id, _) = ask(&mut grants, 0, ADDRESS, action(3, 10)) else { panic!() };
    let failed = OpenResult::NotStarted(2);
    assert_eq!(undone(grants.opened(id, failed)), ["close 0", "close 1"]);
    assert!(grants.closed(id).is_none());
    assert!(grants.is_empty());
}

#[test]
fn stopping_closes_what_is_open_and_what_is_still_starting() {
    let mut grants = Grants::default();
    open(&mut grants, 0, 1000);
    let other = "192.0.2.3".parse().unwrap();
    let Decision::Open(starting, _) = ask(&mut grants, 1, other, action(1, 10)) else { panic!() };
    assert_eq!(grants.leave(9).len(), 1);
    assert_eq!(grants.opened(starting, OpenResult::All), OpenOutcome::Open);
    assert_eq!(grants.leave(9).len(), 1);
}

fn starting(action: Action) -> (Grants, GrantId) {
    let mut grants = Grants::default();
    let Decision::Open(id, _) = ask(&mut grants, 0, ADDRESS, action) else { panic!() };
    (grants, id)
}

fn verified(action: Action) -> Action {
    let GrantBackend::Commands(mut pairs) = action.backend else { panic!() };
    pairs.iter_mut().for_each(|pair| pair.verify = Some(command("verify")));
    Action { backend: GrantBackend::Commands(pairs), ..action }
}

fn timed(action: Action, open: &str) -> Action {
    let GrantBackend::Commands(mut pairs) = action.backend else { panic!() };
    for pair in &mut pairs {
        pair.is_timed = true;
        pair.open = command(open);
    }
    Action { backend: GrantBackend::Commands(pairs), ..action }
}

#[test]
fn what_failed_and_what_is_not_there_is_closed_with_what_was_opened_before() {
    for outcome in [OpenResult::Failed(1), OpenResult::NotThere(1)] {
        let (mut grants, id) = starting(action(3, 10));
        assert_eq!(undone(grants.opened(id, outcome)), ["close 0", "close 1"], "{outcome:?}");
    }
}

#[test]
fn an_own_command_that_failed_may_have_opened_and_is_closed_at_its_time() {
    let (mut grants, id) = starting(Action { is_own: true, ..action(1, 10) });
    let failed = OpenResult::Failed(0);
    assert_eq!(grants.opened(id, failed), OpenOutcome::WithErrors);
    assert_eq!(grants.list().next().unwrap().state(), GrantState::OpenedWithErrors);
    assert_eq!(closes(&grants.expire(at(10))[0].close), ["close 0"]);
}

#[test]
fn an_own_command_after_which_nothing_is_there_opened_nothing() {
    let (mut grants, id) = starting(Action { is_own: true, ..action(1, 10) });
    let failed = OpenResult::NotThere(0);
    assert_eq!(undone(grants.opened(id, failed)), ["close 0"]);
}

#[test]
fn a_close_that_failed_is_tried_again_a_few_times_and_later_each_time() {
    let mut grants = Grants::default();
    let id = open(&mut grants, 0, 10);
    let mut left = grants.expire(at(10)).remove(0).close;
    let mut now = 10;
    for pause in TRY_AGAIN {
        let again = FailedClose::Again(Duration::from_secs(pause));
        assert_eq!(grants.close_failed(at(now), id, left, CloseFailure::OfCommand), again);
        assert!(grants.expire(at(now + pause - 1)).is_empty());
        now += pause;
        let expired = grants.expire(at(now)).remove(0);
        assert!(expired.again);
        left = expired.close;
    }
    assert_eq!(
        grants.close_failed(at(now), id, left, CloseFailure::OfCommand),
        FailedClose::GivenUp
    );
}

#[test]
fn a_close_for_which_there_is_no_room_is_tried_until_there_is_and_then_as_often_as_any() {
    let mut grants = Grants::default();
    let id = open(&mut grants, 0, 10);
    let mut left = grants.expire(at(10)).remove(0).close;
    let mut now = 10;
    for pause in TRY_AGAIN.into_iter().chain([8; 100]) {
        let again = FailedClose::Again(Duration::from_secs(pause));
        assert_eq!(grants.close_failed(at(now), id, left, CloseFailure::NoRoom), again);
        now += pause;
        left = grants.expire(at(now)).remove(0).close;
    }
    let once_more = FailedClose::Again(Duration::from_secs(8));
    assert_eq!(grants.close_failed(at(now), id, left, CloseFailure::OfCommand), once_more);
    left = grants.expire(at(now + 8)).remove(0).close;
    let failed = grants.close_failed(at(now + 8), id, left, CloseFailure::OfCommand);
    assert_eq!(failed, FailedClose::GivenUp);
}

#[test]
fn what_could_be_closed_is_not_closed_again() {
    let (mut grants, id) = starting(action(3, 10));
    assert_eq!(grants.opened(id, OpenResult::All), OpenOutcome::Open);
    let close = grants.expire(at(10)).remove(0).close;
    let _again = grants.close_failed(at(10), id, close[1..2].to_vec(), CloseFailure::OfCommand);
    assert_eq!(closes(&grants.expire(at(11))[0].close), ["close 1"]);
}

#[test]
fn a_knock_looks_whether_the_door_is_open_where_that_can_be_looked_at() {
    let (mut grants, id) = starting(verified(action(1, 30)));
    assert_eq!(grants.opened(id, OpenResult::All), OpenOutcome::Open);
    let decision = ask(&mut grants, 20, ADDRESS, verified(action(1, 30)));
    assert_eq!(decision, Decision::Extend(id, at(50), Some(Manner::IfGone)));
    assert_eq!(grants.work(id, Manner::IfGone)[0].1, Manner::IfGone);
    // While it is being looked at nothing closes it.
    assert!(grants.expire(at(60)).is_empty());
    assert_eq!(grants.opened(id, OpenResult::All), OpenOutcome::Open);
    assert_eq!(grants.expire(at(60)).len(), 1);
}

#[test]
fn what_is_gone_and_cannot_be_opened_again_is_closed_as_a_whole() {
    let (mut grants, id) = starting(verified(action(2, 30)));
    assert_eq!(grants.opened(id, OpenResult::All), OpenOutcome::Open);
    let _ensure = ask(&mut grants, 20, ADDRESS, verified(action(2, 30)));
    let failed = OpenResult::Failed(0);
    assert_eq!(undone(grants.opened(id, failed)), ["close 0", "close 1"]);
}

#[test]
fn what_is_told_its_time_is_told_the_new_one() {
    let (mut grants, id) = starting(timed(action(1, 30), "for 30"));
    assert_eq!(grants.opened(id, OpenResult::All), OpenOutcome::Open);
    let decision = ask(&mut grants, 10, ADDRESS, timed(action(1, 60), "for 60"));
    assert_eq!(decision, Decision::Extend(id, at(70), Some(Manner::Anew)));
    assert_eq!(grants.work(id, Manner::Anew)[0].0.open, command("for 60"));
    assert_eq!(grants.opened(id, OpenResult::All), OpenOutcome::Open);
    // A shorter time changes nothing.
    let decision = ask(&mut grants, 11, ADDRESS, timed(action(1, 5), "for 5"));
    assert_eq!(decision, Decision::Extend(id, at(70), None));
}

#[test]
fn what_is_opening_when_its_time_changes_is_opened_again() {
    let (mut grants, id) = starting(timed(action(1, 30), "for 30"));
    let decision = ask(&mut grants, 1, ADDRESS, timed(action(1, 30), "for 30"));
    assert_eq!(decision, Decision::Extend(id, at(31), None));
    assert_eq!(grants.opened(id, OpenResult::All), OpenOutcome::Again(Manner::Anew));
    assert_eq!(grants.opened(id, OpenResult::All), OpenOutcome::Open);
}

#[test]
fn what_ends_by_itself_cannot_fail_to_close_at_its_time() {
    for (closed_at, expected) in
        [(30, FailedClose::Ended), (20, FailedClose::Again(Duration::from_secs(1)))]
    {
        let (mut grants, id) = starting(timed(action(1, 30), "for 30"));
        assert_eq!(grants.opened(id, OpenResult::All), OpenOutcome::Open);
        let close = grants.close(id).unwrap().close;
        assert_eq!(
            grants.close_failed(at(closed_at), id, close, CloseFailure::OfCommand),
            expected
        );
    }
}

fn open_at(grants: &mut Grants, door: &str, seconds: u64) -> GrantId {
    let key = GrantKey::new(door.parse().unwrap(), ADDRESS);
    let action = verified(action(1, 30));
    let asked = grants.prepare(at(seconds), key, Method::Sequence.into(), action, true).unwrap();
    let Decision::Open(id, _) = grants.apply(asked) else { panic!() };
    id
}

#[test]
fn what_two_doors_hold_is_closed_with_the_last_of_them() {
    let mut grants = Grants::default();
    let ids = [("ssh", 0), ("web", 10)].map(|(door, seconds)| {
        let id = open_at(&mut grants, door, seconds);
        let manner = if seconds == 0 { Manner::Once } else { Manner::IfGone };
        assert_eq!(grants.work(id, Manner::Once)[0].1, manner, "{door}");
        assert_eq!(grants.opened(id, OpenResult::All), OpenOutcome::Open);
        id
    });
    let first = grants.expire(at(30)).remove(0);
    assert_eq!((first.id, first.close.len()), (ids[0], 0));
    assert!(grants.closed(ids[0]).is_none());
    assert_eq!(closes(&grants.expire(at(40))[0].close), ["close 0"]);
}

#[test]
fn what_could_not_be_closed_and_is_held_by_another_door_now_is_left_to_it() {
    let mut grants = Grants::default();
    let first = open_at(&mut grants, "ssh", 0);
    assert_eq!(grants.opened(first, OpenResult::All), OpenOutcome::Open);
    let close = grants.expire(at(30)).remove(0).close;
    let _again = grants.close_failed(at(30), first, close, CloseFailure::OfCommand);
    let second = open_at(&mut grants, "web", 30);
    assert_eq!(grants.opened(second, OpenResult::All), OpenOutcome::Open);
    assert_eq!(grants.expire(at(31))[0].close, []);
}

#[test]
fn what_is_told_its_time_is_held_by_one_door_alone() {
    let mut grants = Grants::default();
    for door in ["ssh", "web"] {
        let key = GrantKey::new(door.parse().unwrap(), ADDRESS);
        let action = timed(verified(action(1, 30)), "for 30");
        let asked = grants.prepare(at(0), key, Method::Sequence.into(), action, true).unwrap();
        let Decision::Open(id, _) = grants.apply(asked) else { panic!() };
        assert_eq!(grants.work(id, Manner::Once)[0].1, Manner::Once, "{door}");
    }
}

#[test]
fn what_a_door_holds_that_opened_while_another_closed_it_is_looked_at_again() {
    let mut grants = Grants::default();
    let first = open_at(&mut grants, "ssh", 0);
    assert_eq!(grants.opened(first, OpenResult::All), OpenOutcome::Open);
    assert_eq!(grants.expire(at(30)).len(), 1);
    let second = open_at(&mut grants, "web", 30);
    assert_eq!(grants.also_held(first), [second]);
    assert!(!grants.work_again(second, Manner::IfGone), "it is still opening");
    assert_eq!(grants.opened(second, OpenResult::All), OpenOutcome::Again(Manner::IfGone));
}

#[test]
fn there_are_no_more_grants_than_the_door_and_all_doors_may_have() {
    let address = |last| IpAddr::from([192, 0, 2, last]);
    for (most, all, by_commands) in [(2, 9, 9), (9, 2, 9), (9, 9, 2)] {
        let mut grants = Grants::default();
        grants.limit(all, by_commands);
        let mut ask = |last| {
            let action = Action { most, ..action(1, 30) };
            let asked =
                grants.prepare(at(0), key(address(last)), Method::Sequence.into(), action, true);
            asked.map(|asked| grants.apply(asked))
        };
        assert!(ask(1).is_ok() && ask(2).is_ok());
        assert_eq!(ask(3), Err(Reason::TooMany));
        assert!(matches!(ask(1), Ok(Decision::Extend(..))), "an extension always fits");
        assert_eq!(grants.close(GrantId(1)), None, "it has not opened yet");
    }
}

#[test]
fn what_needs_a_command_is_refused_while_too_many_wait() {
    let mut grants = Grants::default();
    let mut ask =
        |action| grants.prepare(at(0), key(ADDRESS), Method::Sequence.into(), action, false);
    assert!(matches!(ask(action(1, 30)), Err(Reason::TooMany)));
    let act = vec![CommandPair { close: None, ..pair() }];
    assert!(matches!(
        ask(Action { backend: GrantBackend::Commands(act), ..action(1, 30) }),
        Err(Reason::TooMany)
    ));
}

#[test]
fn a_grant_that_has_closed_makes_room() {
    let mut grants = Grants::default();
    grants.limit(1, 1);
    for round in 0..3 {
        let id = open(&mut grants, round * 100, 10);
        assert_eq!(grants.expire(at(round * 100 + 10)).len(), 1);
        assert!(grants.closed(id).is_none());
    }
}

#[derive(Clone, Debug)]
enum Move {
    Knock(u8),
    Pass(u64),
    CommandEnds(u8, bool),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        (0..3u8).prop_map(Move::Knock),
        (0..20u64).prop_map(Move::Pass),
        (0..3u8, any::<bool>()).prop_map(|(who, well)| Move::CommandEnds(who, well)),
    ];
    prop::collection::vec(one, 0..60)
}

proptest! {
    /// Whatever happens in whatever order: no open without a close, no close without an open,
    /// at most one command a place at a time, nothing open past its deadline.
    #[test]
    fn opens_and_closes_alternate(moves in moves()) {
        let mut grants = Grants::default();
        let mut now = 0;
        // Who has a command running: the grant, and whether it opens.
        let mut running: HashMap<u8, (GrantId, bool)> = HashMap::new();
        let mut holding: HashMap<u8, bool> = HashMap::new();
        let address = |who: u8| IpAddr::from([192, 0, 2, who]);
        for pair in moves {
            match pair {
                Move::Knock(who) => {
                    match ask(&mut grants, now, address(who), action(1, 10)) {
                        Decision::Open(id, _) => {
                            prop_assert_eq!(running.insert(who, (id, true)), None);
                            prop_assert!(!holding.contains_key(&who));
                        }
                        Decision::Extend(_, until, _) => prop_assert!(until >= at(now + 10)),
                        Decision::Wait => prop_assert!(!running[&who].1),
                        Decision::Act(_) => prop_assert!(false),
                    }
                }
                Move::Pass(seconds) => now += seconds,
                Move::CommandEnds(who, well) => {
                    let Some((id, opens)) = running.remove(&who) else { continue };
                    if opens && well {
                        prop_assert_eq!(grants.opened(id, OpenResult::All), OpenOutcome::Open);
                        holding.insert(who, true);
                    } else if opens {
                        let failed = OpenResult::NotStarted(0);
                        prop_assert_eq!(grants.opened(id, failed), OpenOutcome::Nothing);
                    } else {
                        holding.remove(&who);
                        if let Some(asked) = grants.closed(id)
                            && let Decision::Open(id, _) = grants.apply(asked)
                        {
                            running.insert(who, (id, true));
                        }
                    }
                }
            }
            for expired in grants.expire(at(now)) {
                let IpAddr::V4(address) = grants.get(expired.id).unwrap().key.network.address() else { unreachable!() };
                let who = address.octets()[3];
                prop_assert_eq!(holding.get(&who), Some(&true));
                prop_assert_eq!(running.insert(who, (expired.id, false)), None);
            }
            prop_assert!(grants.next_deadline().is_none_or(|deadline| deadline > at(now)));
        }
    }
}
