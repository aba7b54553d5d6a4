use std::collections::BTreeMap;

use super::telling::ToldByHand;
use super::*;
use crate::config::{NewPrivileges, SandboxMode, Store, StoreAddress};
use crate::engine::Reason;
use crate::fleet::{self, Entry, News};
use crate::grants::GrantKey;
use crate::ipc::Received;
use crate::ipc::courier::{FromCourier, SharedProof};
use crate::keeper::child::BUDGET;
use crate::keeper::claim::Claim;
use crate::keeper::control::ConnectionId;
use crate::keeper::credible::tests::World;
use crate::keeper::output_lines::OutputLines;
use crate::proto::Network;
use crate::proto::fleet::FleetKey;
use crate::sys::descriptors;
use crate::sys::privileges::Identity;

const MILLI: Duration = Duration::from_millis(1);
const WAIT: Duration = Duration::from_millis(20);

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn key() -> FleetKey {
    [1; 32].into()
}

/// A gateway with a stand-in for its courier, whose end of the channel this is.
struct Gateway {
    fleet: Fleet,
    courier: Channel,
    world: World,
    now: Now,
}

impl Gateway {
    fn new(when_lost: WhenLost) -> Self {
        let world = World::new();
        let store = Store {
            addresses: vec![StoreAddress::Unix("/no/such".into())],
            password: None,
            authorities: None,
        };
        let settings = FleetSettings {
            name: name("gw1"),
            store: store.clone(),
            key: key(),
            wait: WAIT,
            when_lost,
        };
        let assignment =
            CourierAssignment { store, identity: Identity::Unchanged, sandbox: SandboxMode::Off };
        let now = world.now;
        let mut fleet = Fleet::new(now, &world.config, settings, assignment, [1; 16]);
        let (ours, theirs) = descriptors::frame_channel().unwrap();
        let argv = ["/bin/sleep", "1000"].map(str::to_owned);
        let (stderr, output) = descriptors::output_pipe().unwrap();
        let child = process::run(&argv, &[], NewPrivileges::Granted, output, None).unwrap();
        fleet.link.courier = Some(ChildProcess {
            child,
            channel: Channel(ours),
            stderr: OutputLines::of(stderr),
            closed: None,
            budget: BUDGET,
        });
        Self { fleet, courier: Channel(theirs), world, now }
    }

    /// One that the store has told all that it keeps.
    fn joined(when_lost: WhenLost) -> Self {
        let mut gateway = Self::new(when_lost);
        let clock = gateway.now.wall;
        gateway.says(&[FromCourier::Joined { clock }, FromCourier::Live]);
        // It can be read; whether it takes anything is not known yet.
        assert_eq!(gateway.fleet.state(), state(when_lost));
        gateway.fleet.beat(gateway.now, 0);
        assert_eq!(gateway.told().len(), 1);
        gateway.says(&[FromCourier::Store { clock, kept: 0, stamps: 0 }]);
        assert_eq!(gateway.fleet.state(), FleetState::Joined);
        gateway
    }

    fn says(&mut self, messages: &[FromCourier]) -> Vec<Decided> {
        messages.iter().for_each(|message| self.courier.send_message(message).unwrap());
        self.fleet.poll(self.now)
    }

    fn after(&mut self, span: Duration) -> Vec<Decided> {
        let Now { monotonic, wall } = self.now;
        self.now = Now { monotonic: monotonic + span, wall: wall + span };
        self.fleet.poll(self.now)
    }

    fn ask(&mut self) -> Option<Decided> {
        let request = self.world.spa();
        let (claim, _) =
            Claim::of_request(&self.world.grounds(), &request, self.now.monotonic).unwrap();
        self.fleet.ask(self.now, Box::new(claim))
    }

    /// What the courier has been told.
    fn told(&self) -> Vec<ToCourier> {
        std::iter::from_fn(|| match self.courier.receive_message() {
            Received::Frame(message) => Some(message),
            _ => None,
        })
        .collect()
    }
}

fn outcomes(decided: Vec<Decided>) -> Vec<Result<(), Reason>> {
    decided.into_iter().map(|(_, outcome)| outcome).collect()
}

/// What another gateway has sealed.
fn sealed(gateway: &str, at: Wall, news: News) -> (u64, Vec<u8>) {
    let mut sealer = Sealer::new(&key(), [2; 16]);
    fleet::seal(&mut sealer, at, &name(gateway), &BTreeMap::new(), false, news)
}

fn open(until: Wall) -> News {
    let key = GrantKey::new(name("spa"), "192.0.2.9".parse::<Network>().unwrap());
    News::Open { key, client: None, until }
}

#[test]
fn a_claim_waits_until_the_store_says_that_its_proof_is_unused() {
    let mut gateway = Gateway::joined(WhenLost::Alone);
    assert!(gateway.ask().is_none());
    let [ToCourier::Take { ask: Some(ask), proof: SharedProof::Highest { .. } }] =
        gateway.told()[..]
    else {
        panic!("it asks")
    };
    assert!(gateway.after(WAIT - MILLI).is_empty());
    assert_eq!(outcomes(gateway.says(&[FromCourier::Taken { ask, is_new: true }])), [Ok(())]);
    assert!(gateway.after(WAIT).is_empty());
}

#[test]
fn what_another_gateway_has_used_is_refused() {
    let mut gateway = Gateway::joined(WhenLost::Alone);
    assert!(gateway.ask().is_none());
    let taken = FromCourier::Taken { ask: 1, is_new: false };
    assert_eq!(outcomes(gateway.says(&[taken])), [Err(Reason::UsedElsewhere)]);
}

#[test]
fn without_an_answer_in_time_nobody_waits_until_there_is_one() {
    for (when_lost, outcome) in
        [(WhenLost::Alone, Ok(())), (WhenLost::Refuse, Err(Reason::StoreLost))]
    {
        let mut gateway = Gateway::joined(when_lost);
        assert!(gateway.ask().is_none());
        assert_eq!(outcomes(gateway.after(WAIT)), [outcome]);
        assert_eq!(gateway.fleet.state(), state(when_lost));
        // The store is asked all the same, and what it has answered is an answer.
        assert_eq!(gateway.ask().unwrap().1, outcome);
        assert_eq!(gateway.told().len(), 2);
        assert!(gateway.says(&[FromCourier::Taken { ask: 1, is_new: true }]).is_empty());
        assert_eq!(gateway.fleet.state(), FleetState::Joined);
        assert!(gateway.ask().is_none());
    }
}

#[test]
fn whoever_waits_is_decided_about_when_the_courier_ends() {
    let mut gateway = Gateway::joined(WhenLost::Alone);
    assert!(gateway.ask().is_none());
    drop(std::mem::replace(&mut gateway.courier, Channel(descriptors::frame_channel().unwrap().0)));
    let mut decided = Vec::new();
    while decided.is_empty() {
        decided = gateway.after(Duration::ZERO);
    }
    assert_eq!(outcomes(decided), [Ok(())]);
    assert_eq!(gateway.ask().unwrap().1, Ok(()));
}

#[test]
fn a_gateway_whose_clock_is_too_far_off_does_not_join() {
    let mut gateway = Gateway::new(WhenLost::Alone);
    let clock = gateway.now.wall + gateway.world.config.settings.spa.max_age + MILLI;
    assert!(gateway.says(&[FromCourier::Joined { clock }, FromCourier::Live]).is_empty());
    assert_eq!(gateway.fleet.state(), FleetState::Alone);
    assert!(gateway.fleet.link.why.as_ref().is_some_and(|why| why.contains("behind the store's")));
    assert_eq!(gateway.fleet.link.restart, Some(gateway.now.monotonic + CLOCK_PAUSE));
}

#[test]
fn what_closes_is_told_again_until_the_store_has_it() {
    let mut gateway = Gateway::new(WhenLost::Alone);
    let closing = News::CloseAll { cut: false };
    let number = gateway.fleet.tell(gateway.now, closing, false);
    gateway.fleet.tell(gateway.now, open(Wall::MAX), false);
    assert!(gateway.told().is_empty());
    let clock = gateway.now.wall;
    gateway.says(&[FromCourier::Joined { clock }, FromCourier::Live]);
    gateway.fleet.catch_up(gateway.now, Vec::new());
    let told = gateway.told();
    assert!(matches!(told[..], [ToCourier::Tell { number: told, .. }] if told == number));
    assert_eq!(gateway.fleet.telling.unsent.len(), 1);
    gateway.says(&[FromCourier::Told { number }]);
    assert_eq!(gateway.fleet.telling.unsent.len(), 0);
}

#[test]
fn what_was_kept_comes_in_the_order_in_which_it_was_told() {
    let mut gateway = Gateway::new(WhenLost::Alone);
    let (clock, until) = (gateway.now.wall, gateway.now.wall + Duration::from_secs(60));
    let (_, later) = sealed("gw3", clock + MILLI, open(until));
    let (_, earlier) = sealed("gw2", clock, News::CloseAll { cut: false });
    let kept = [later, earlier].map(|sealed| FromCourier::Entry { sealed });
    let [later, earlier] = kept;
    gateway.says(&[FromCourier::Joined { clock }, later, earlier, FromCourier::Live]);
    let gateways: Vec<_> =
        gateway.fleet.hearing.backlog.iter().map(|it| it.gateway.as_str()).collect();
    assert_eq!(gateways, ["gw2", "gw3"]);
    assert_eq!(gateway.fleet.telling.missing_there.as_ref().unwrap().len(), 1);
}

#[test]
fn an_entry_of_this_name_that_this_gateway_did_not_tell_is_anothers() {
    let mut gateway = Gateway::joined(WhenLost::Alone);
    let before = gateway.now.wall - MILLI;
    let entry = |at| FromCourier::Entry { sealed: sealed("gw1", at, open(Wall::MAX)).1 };
    // It was told before this knockd started.
    gateway.says(&[entry(before)]);
    assert!(!gateway.fleet.has_namesake(gateway.now));
    gateway.says(&[entry(before + 2 * MILLI)]);
    assert!(gateway.fleet.has_namesake(gateway.now) && gateway.fleet.hearing.backlog.is_empty());
    // Until it has another.
    gateway.after(Duration::from_secs(10));
    assert!(!gateway.fleet.has_namesake(gateway.now));
}

#[test]
fn entries_of_another_fleet_or_of_nobody_are_passed_over() {
    let mut gateway = Gateway::joined(WhenLost::Alone);
    let mut sealer = Sealer::new(&[9; 32].into(), [2; 16]);
    let now = gateway.now.wall;
    let news = News::CloseAll { cut: false };
    let (_, sealed) = fleet::seal(&mut sealer, now, &name("gw2"), &BTreeMap::new(), false, news);
    let entries = [sealed, vec![], vec![1; 100]].map(|sealed| FromCourier::Entry { sealed });
    gateway.says(&entries);
    assert!(gateway.fleet.hearing.backlog.is_empty());
    assert_eq!(gateway.fleet.state(), FleetState::Joined);
}

#[test]
fn whoever_acts_by_hand_is_told_who_has_done_it_and_who_has_not() {
    let mut gateway = Gateway::joined(WhenLost::Alone);
    let counter = gateway.fleet.tell(gateway.now, News::CloseAll { cut: false }, true);
    let told = ToldByHand {
        asked_by: ConnectionId::default(),
        counter,
        missing: [name("gw2"), name("gw3")].into(),
        done: [].into(),
        by: gateway.now.monotonic + WAIT,
        said: "it closes".to_owned(),
    };
    gateway.fleet.telling.by_hand.extend([told]);
    gateway.fleet.is_done(&name("gw3"), counter);
    assert!(gateway.fleet.take_done(gateway.now).is_empty());
    gateway.after(WAIT);
    let said: Vec<_> =
        gateway.fleet.take_done(gateway.now).into_iter().map(|(_, said)| said).collect();
    assert_eq!(said, ["it closes; done at gw3; gw2 did not answer"]);
}

#[test]
fn a_courier_that_owes_a_reply_and_says_nothing_is_given_up() {
    let mut gateway = Gateway::joined(WhenLost::Alone);
    gateway.fleet.beat(gateway.now, 0);
    gateway.after(SILENCE - MILLI);
    gateway.says(&[FromCourier::Entry { sealed: Vec::new() }]);
    gateway.after(SILENCE - MILLI);
    assert_eq!(gateway.fleet.state(), FleetState::Joined);
    gateway.after(MILLI);
    assert_eq!(gateway.fleet.state(), FleetState::Alone);
    assert!(gateway.fleet.link.why.as_ref().is_some_and(|why| why.contains("says nothing")));
}

#[test]
fn what_was_too_much_for_the_log_is_logged_later() {
    let mut gateway = Gateway::joined(WhenLost::Alone);
    while gateway.fleet.lines.pass(gateway.now.monotonic) {}
    gateway.fleet.link.has_logged_loss = Some(true);
    gateway.after(MILLI);
    assert_eq!(gateway.fleet.link.has_logged_loss, Some(true));
    gateway.after(Duration::from_secs(60));
    assert_eq!(gateway.fleet.link.has_logged_loss, Some(false));
}

#[test]
fn what_waits_is_told_by_the_clock_that_is_right_once_it_has_been_set() {
    for year in [Duration::from_secs(365 * 24 * 3600), Duration::ZERO] {
        let mut gateway = Gateway::new(WhenLost::Alone);
        let right = gateway.now.wall;
        // It is wrong by a year when the gateway starts, or right.
        gateway.now.wall = right + year;
        gateway.fleet.began = gateway.now;
        let number = gateway.fleet.tell(gateway.now, News::CloseAll { cut: false }, false);
        gateway.now.wall = right;
        gateway.says(&[FromCourier::Joined { clock: right }, FromCourier::Live]);
        gateway.fleet.catch_up(gateway.now, Vec::new());
        let [ToCourier::Tell { sealed, keep: Some((_, until)), .. }] = &gateway.told()[..] else {
            panic!("it is told")
        };
        let entry = Entry::open(&key(), sealed).unwrap();
        assert_eq!(entry.news, News::CloseAll { cut: false });
        assert_eq!(entry.counter == number, year.is_zero());
        assert!(entry.counter < (right + MILLI).as_nanos());
        assert!(*until < right + Duration::from_secs(24 * 3600));
    }
}

#[test]
fn an_entry_of_a_time_to_come_is_passed_over() {
    let mut gateway = Gateway::joined(WhenLost::Alone);
    let latest = gateway.now.wall + gateway.fleet.window * 2;
    let entry = |at| FromCourier::Entry { sealed: sealed("gw2", at, open(Wall::MAX)).1 };
    gateway.says(&[entry(latest + MILLI)]);
    assert!(gateway.fleet.hearing.backlog.is_empty());
    gateway.says(&[entry(latest)]);
    assert_eq!(gateway.fleet.hearing.backlog.len(), 1);
}

#[test]
fn a_store_is_told_anew_once_for_each_beat_that_it_has_forgotten() {
    let mut gateway = Gateway::joined(WhenLost::Alone);
    let store = FromCourier::Store { clock: gateway.now.wall, kept: 0, stamps: 0 };
    let mut is_told = |beats: bool| {
        if beats {
            gateway.fleet.beat(gateway.now, 0);
        }
        gateway.says(std::slice::from_ref(&store));
        std::mem::take(&mut gateway.fleet.telling.has_to_catch_up)
    };
    // What there is at first is told when it has joined.
    is_told(true);
    assert_eq!([false, true, false, false, true].map(is_told), [false, true, false, false, true]);
}

#[test]
fn whoever_repeats_an_entry_fills_no_memory_and_makes_no_closing_forgotten() {
    let mut gateway = Gateway::new(WhenLost::Alone);
    let clock = gateway.now.wall;
    let repeated = |sealed: &[u8]| vec![FromCourier::Entry { sealed: sealed.to_vec() }; 3];
    let (_, closing) = sealed("gw2", clock, News::CloseAll { cut: false });
    gateway.says(&[FromCourier::Joined { clock }]);
    gateway.says(&repeated(&closing));
    assert_eq!(gateway.fleet.hearing.kept.as_ref().unwrap().len(), 1);
    gateway.says(&[FromCourier::Live]);
    gateway.says(&repeated(&closing));
    assert_eq!(gateway.fleet.hearing.backlog.len(), 1);
    // What is new comes on.
    let (_, later) = sealed("gw2", clock + MILLI, News::CloseAll { cut: true });
    gateway.says(&repeated(&later));
    assert_eq!(gateway.fleet.hearing.backlog.len(), 2);
}
