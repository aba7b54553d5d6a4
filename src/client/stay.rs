//! The life of `--stay`, made without a clock or a socket: when to knock again, and why.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use derive_more::Display;

use crate::time::Monotonic;

/// The time that a change may take: what is told of first is seldom all of it.
const CALM: Duration = Duration::from_millis(100);
/// The time until what nobody told of is looked for; until the next try, where one has failed, and
/// where one has left on a way that is new: new networks lose packets.
const SOON: Duration = Duration::from_secs(2);

/// A stay at a host: what is known of the way there, and when to do what.
#[derive(Clone, Debug, Default)]
pub(super) struct Stay {
    every: Duration,
    pub host: Option<SocketAddr>,
    /// The own address that was used towards the host; `None`: there was no way.
    own: Option<IpAddr>,
    look_at: Monotonic,
    knock_at: Monotonic,
    why: StayReason,
    failures: u32,
}

/// The next thing to do for a client that stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum StayAction {
    /// Have the host's name looked up, send a whole try meanwhile to the address that it had, and
    /// tell what became of each.
    Knock { host: Option<SocketAddr>, why: StayReason },
    /// Do nothing before `until`, unless there is something to tell.
    Rest { until: Monotonic },
}

/// The reason for a knock.
#[derive(Clone, Copy, Debug, Default, Display, PartialEq, Eq)]
pub(super) enum StayReason {
    #[default]
    #[display("the first time")]
    First,
    #[display("again")]
    Again,
    #[display("this machine has the address {_0} there now")]
    Moved(IpAddr),
    #[display("its name leads there now")]
    Renamed,
}

impl Stay {
    /// Begins at once, and knocks again each time that `every` is over.
    pub(super) fn new(every: Duration) -> Self {
        Self { every, ..Self::default() }
    }

    /// The thing to do at `now`; call it again when that is done, or something was told. `own` says
    /// which address this machine uses towards a host.
    pub(super) fn next(
        &mut self,
        now: Monotonic,
        own: impl Fn(SocketAddr) -> Option<IpAddr>,
    ) -> StayAction {
        let is_due = now >= self.knock_at;
        if is_due || now >= self.look_at {
            self.look_at = now + SOON;
            let found = self.host.and_then(own);
            match found {
                Some(own) if found != self.own && !is_due => self.plan(now, StayReason::Moved(own)),
                // The name may lead another way.
                None if self.own.is_some() => self.knock_at = self.knock_at.min(now + SOON),
                _ => {}
            }
            self.own = found;
        }
        if now < self.knock_at {
            return StayAction::Rest { until: self.knock_at.min(self.look_at) };
        }
        StayAction::Knock { host: self.host, why: self.why }
    }

    const fn plan(&mut self, at: Monotonic, why: StayReason) {
        (self.knock_at, self.why) = (at, why);
    }

    /// Hears that something of this machine's network has changed.
    pub(super) fn changed(&mut self, now: Monotonic) {
        self.look_at = self.look_at.min(now + CALM);
        if self.host.is_none() {
            self.knock_at = self.knock_at.min(now + SOON);
        }
    }

    /// Hears which address the host has.
    pub(super) fn found(&mut self, now: Monotonic, host: SocketAddr) {
        let before = self.host.replace(host);
        if before != Some(host) {
            self.plan(now, before.map_or(StayReason::First, |_| StayReason::Renamed));
        }
    }

    /// Hears that a knock has left.
    pub(super) fn knocked(&mut self, now: Monotonic) {
        self.failures = 0;
        let is_repeated = self.why == StayReason::Again;
        let pause = if is_repeated { self.every } else { SOON.min(self.every) };
        self.plan(now + pause, StayReason::Again);
    }

    /// Hears that no knock could leave.
    pub(super) fn failed(&mut self, now: Monotonic) {
        self.knock_at = now + (SOON * (1 << self.failures.min(5))).min(self.every);
        self.failures += 1;
    }

    /// Hears that no knock may leave before `until`.
    pub(super) const fn postpone(&mut self, until: Monotonic) {
        self.knock_at = until;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVERY: u64 = 15_000;

    const fn millis(millis: u64) -> Monotonic {
        Monotonic::from_nanos(millis * 1_000_000)
    }

    fn at(ip: &str) -> SocketAddr {
        (ip.parse::<IpAddr>().unwrap(), 0).into()
    }

    /// A client that stays, in a network of which tests say what it is like.
    struct World {
        stay: Stay,
        now: u64,
        /// What the resolver answers; `None`: it fails.
        name: Option<SocketAddr>,
        /// The address of the client; `None`: there is no way to any host.
        own: Option<IpAddr>,
        knocks: Vec<(u64, String)>,
        /// Where the last of them went, and where it left from.
        knocked_at: Option<SocketAddr>,
        knocked_from: Option<IpAddr>,
        failures: Vec<u64>,
    }

    impl World {
        fn new() -> Self {
            Self {
                stay: Stay::new(Duration::from_millis(EVERY)),
                now: 0,
                name: Some(at("192.0.2.1")),
                own: Some(at("198.51.100.1").ip()),
                knocks: Vec::new(),
                knocked_at: None,
                knocked_from: None,
                failures: Vec::new(),
            }
        }

        /// One that has knocked twice, and rests until something happens or 17 s have passed.
        fn at_rest() -> Self {
            let mut world = Self::new();
            world.run_until(5_000);
            assert_eq!(world.taken(), ["0: the first time", "2000: again"]);
            world
        }

        fn run_until(&mut self, end: u64) {
            loop {
                let own = self.own;
                let now = millis(self.now);
                match self.stay.next(now, |_| own) {
                    StayAction::Knock { host, why } => {
                        if host.is_some() && own.is_some() {
                            self.knocks.push((self.now, why.to_string()));
                            self.knocked_at = host;
                            self.knocked_from = own;
                            self.stay.knocked(now);
                        } else {
                            self.failures.push(self.now);
                            self.stay.failed(now);
                        }
                        // It is known a little later.
                        if let Some(host) = self.name {
                            self.stay.found(now, host);
                        }
                    }
                    StayAction::Rest { until } => {
                        assert!(until > now, "it does not rest");
                        let until = until.as_nanos().div_ceil(1_000_000);
                        if until >= end {
                            self.now = end;
                            return;
                        }
                        self.now = until;
                    }
                }
            }
        }

        /// The network changes, and the kernel says so.
        fn change(&mut self, own: Option<&str>) {
            self.own = own.map(|ip| at(ip).ip());
            self.stay.changed(millis(self.now));
        }

        /// The knocks since the last call.
        fn taken(&mut self) -> Vec<String> {
            self.knocks.drain(..).map(|(at, why)| format!("{at}: {why}")).collect()
        }
    }

    #[test]
    fn it_knocks_at_once_and_two_seconds_later_and_then_whenever_it_is_time() {
        let mut world = World::new();
        world.run_until(33_000);
        assert_eq!(
            world.taken(),
            ["0: the first time", "2000: again", "17000: again", "32000: again"]
        );
    }

    #[test]
    fn another_address_of_this_machine_is_knocked_for_a_tenth_of_a_second_later() {
        let mut world = World::at_rest();
        world.change(None);
        world.run_until(5_050);
        world.change(Some("198.51.100.2"));
        world.run_until(10_000);
        assert_eq!(
            world.taken(),
            ["5100: this machine has the address 198.51.100.2 there now", "7100: again"]
        );
    }

    #[test]
    fn a_change_that_alters_nothing_on_the_way_to_the_host_sends_nothing() {
        let mut world = World::at_rest();
        for _ in 0..10 {
            world.change(Some("198.51.100.1"));
            world.run_until(world.now + 1_000);
        }
        assert!(world.taken().is_empty());
    }

    #[test]
    fn changes_without_end_do_not_keep_it_from_looking() {
        let mut world = World::at_rest();
        for _ in 0..100 {
            world.change(Some("198.51.100.2"));
            world.run_until(world.now + 10);
        }
        assert_eq!(world.taken(), ["5100: this machine has the address 198.51.100.2 there now"]);
    }

    #[test]
    fn a_change_that_nobody_told_of_is_found_within_two_seconds() {
        let mut world = World::at_rest();
        world.own = Some(at("198.51.100.2").ip());
        world.run_until(7_000);
        assert_eq!(world.taken(), ["6000: this machine has the address 198.51.100.2 there now"]);
    }

    #[test]
    fn a_network_that_is_gone_is_waited_for_ever_more_patiently() {
        let mut world = World::at_rest();
        world.failures.clear();
        world.change(None);
        world.run_until(60_000);
        assert_eq!(world.failures, [7_100, 9_100, 13_100, 21_100, 36_100, 51_100]);
        assert!(world.taken().is_empty());
    }

    #[test]
    fn a_network_that_is_back_is_knocked_through_at_once_even_with_the_same_address() {
        let mut world = World::at_rest();
        world.change(None);
        world.run_until(60_000);
        world.change(Some("198.51.100.1"));
        world.run_until(65_000);
        assert_eq!(
            world.taken(),
            ["60100: this machine has the address 198.51.100.1 there now", "62100: again"]
        );
    }

    #[test]
    fn the_name_is_looked_up_with_each_knock_and_where_it_leads_now_is_knocked_at() {
        let mut world = World::at_rest();
        world.name = Some(at("192.0.2.9"));
        world.run_until(18_000);
        assert_eq!(world.taken(), ["17000: again", "17000: its name leads there now"]);
        assert_eq!(world.knocked_at, Some(at("192.0.2.9")));
    }

    #[test]
    fn a_resolver_that_fails_changes_nothing() {
        let mut world = World::at_rest();
        world.name = None;
        world.run_until(18_000);
        assert_eq!(world.taken(), ["17000: again"]);
    }

    #[test]
    fn a_name_that_is_not_known_yet_is_looked_up_until_it_is() {
        let mut world = World::new();
        world.name = None;
        world.run_until(30_000);
        assert_eq!(world.failures, [0, 2_000, 6_000, 14_000, 29_000]);
        world.name = Some(at("192.0.2.1"));
        // A network has come: that is not waited for.
        world.change(Some("198.51.100.1"));
        world.run_until(33_000);
        assert_eq!(world.taken(), ["32000: the first time"]);
    }

    #[test]
    fn a_way_that_is_gone_has_the_name_looked_up_which_may_lead_another_way() {
        let mut world = World::at_rest();
        world.change(None);
        world.run_until(5_500);
        world.own = Some(at("2001:db8::2").ip());
        world.name = Some(at("2001:db8::1"));
        world.run_until(8_000);
        assert_eq!(world.taken(), ["7100: again", "7100: its name leads there now"]);
        assert_eq!(world.knocked_at, Some(at("2001:db8::1")));
    }

    #[test]
    fn whoever_slept_knocks_as_soon_as_it_wakes() {
        let mut world = World::at_rest();
        world.now = 3_600_000;
        world.run_until(3_601_000);
        assert_eq!(world.taken(), ["3600000: again"]);
    }

    #[test]
    fn a_try_that_may_not_leave_yet_leaves_when_it_may() {
        let mut stay = Stay::new(Duration::from_millis(EVERY));
        let own = |_| Some(at("198.51.100.1").ip());
        let _ = stay.next(millis(0), own);
        stay.found(millis(0), at("192.0.2.1"));
        assert!(matches!(stay.next(millis(0), own), StayAction::Knock { .. }));
        stay.postpone(millis(1_500));
        assert_eq!(stay.next(millis(0), own), StayAction::Rest { until: millis(1_500) });
        let why = StayReason::First;
        let host = Some(at("192.0.2.1"));
        assert_eq!(stay.next(millis(1_500), own), StayAction::Knock { host, why });
    }

    #[test]
    fn there_is_something_to_close_only_where_a_knock_has_left() {
        let mut world = World::new();
        world.own = None;
        world.run_until(10_000);
        assert_eq!(world.knocked_at, None);
        world.change(Some("198.51.100.1"));
        world.run_until(11_000);
        assert_eq!(world.knocked_at, Some(at("192.0.2.1")));
    }

    proptest! {
        #[test]
        fn whatever_happens_a_new_address_is_knocked_for_soon_and_nothing_is_flooded(
            events in proptest::collection::vec((0u64..5_000, 0u8..4, proptest::bool::ANY), 1..60),
        ) {
            let mut world = World::new();
            let mut moves = 0;
            for (pause, own, is_told) in events {
                let own = (own > 0).then(|| at(&format!("198.51.100.{own}")).ip());
                moves += usize::from(world.own != own);
                world.own = own;
                if is_told {
                    world.stay.changed(millis(world.now));
                }
                world.run_until(world.now + pause);
            }
            let begun = world.now;
            world.run_until(begun + 2_500);
            prop_assert!(world.own.is_none() || world.knocked_from == world.own);
            let most = 2 + 2 * moves + usize::try_from(world.now / EVERY).unwrap();
            prop_assert!(world.knocks.len() <= most, "{} > {most}", world.knocks.len());
        }
    }
}
