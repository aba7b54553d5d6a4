//! News of the doors of a fleet: what opened and closed at this gateway, for the others to hear.

use super::Doors;
use crate::config::Name;
use crate::grants::{Grant, GrantKey, GrantState, OpenedBy, Origin};
use crate::time::Monotonic;

/// The news of a door of the fleet. What ends by itself is none: the others know when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::keeper) enum DoorNews {
    /// It has opened, or stays open.
    Open { key: GrantKey, client: Option<Name>, until: Monotonic },
    /// Somebody has asked that it close before its time.
    Close { key: GrantKey },
}

impl Doors {
    /// What is open, or about to be, at doors of the fleet, and no other gateway has told of.
    pub(in crate::keeper) fn fleet_grants(&self) -> impl Iterator<Item = &Grant> {
        let is_own = |it: &&Grant| it.origin.by != OpenedBy::Fleet && self.is_fleets(&it.key.door);
        self.grants.list().filter(is_own).filter(|it| it.state() != GrantState::Closing)
    }

    /// Until when a door is open; `None`: it is not.
    pub(in crate::keeper) fn stands_until(&self, key: &GrantKey) -> Option<Monotonic> {
        self.grants.open_until(key)
    }

    pub(super) fn is_fleets(&self, door: &Name) -> bool {
        self.grants.sessions_of(door).is_some_and(|door| door.fleet)
    }

    /// Whether something at a door closes because these ask for it: other gateways close what is the
    /// fleet's.
    pub(super) fn reaches(&self, by: OpenedBy, door: &Name) -> bool {
        by != OpenedBy::Fleet || self.is_fleets(door)
    }

    /// It is open until then.
    pub(super) fn note_open(&mut self, key: &GrantKey, origin: &Origin, until: Option<Monotonic>) {
        let is_told = origin.by != OpenedBy::Fleet && self.is_fleets(&key.door);
        let (key, client) = (key.clone(), origin.client.clone());
        let open = until.map(|until| DoorNews::Open { key, client, until });
        self.news.extend(open.filter(|_| is_told));
    }
}

#[cfg(test)]
mod tests {
    use std::mem;
    use std::time::Duration;

    use super::*;
    use crate::config::load::{self, load};
    use crate::config::{Config, Door};
    use crate::keeper::claim::Claim;
    use crate::keeper::journal::Journal;
    use crate::sys::clock;
    use crate::time::{BootId, Now};

    const ALICE: &str = "192.0.2.2";

    /// Doors that commands open: one of the fleet, one of this gateway alone.
    struct Gateway {
        doors: Doors,
        config: Config,
        _dir: tempfile::TempDir,
    }

    impl Gateway {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let text = format!(
                "knockd: {{state_dir: {}}}\n\
                 doors:\n  \
                 ssh: {{sequence: [7000, 7001, 7002], open_for: 1h, addresses: 1, fleet: true, \
                       start_command: 'true', stop_command: 'true'}}\n  \
                 own: {{sequence: [7010, 7011, 7012], open_for: 1h, \
                       start_command: 'true', stop_command: 'true'}}\n",
                dir.path().display()
            );
            let file = dir.path().join("doors.yaml");
            std::fs::write(&file, text).unwrap();
            let options = load::Options { insecure_permissions: true };
            let config = load(&file, &options).unwrap().config;
            let boot = BootId::default();
            let (journal, records) = Journal::open(dir.path(), boot, clock::now()).unwrap();
            let doors = Doors::start(clock::now(), &config, journal, records, None);
            Self { doors: doors.map_err(|it| it.0).unwrap(), config, _dir: dir }
        }

        fn door(&self, name: &str) -> Door {
            self.config.door(&name.parse().unwrap()).unwrap().clone()
        }

        fn open_by_hand(&mut self, door: &str, address: &str) {
            let since = clock::now().monotonic;
            let claim =
                Claim::by_administrator(self.door(door), address.parse().unwrap(), since, None);
            self.carry_out(&claim);
        }

        fn open_by_gateway(&mut self, address: &str) {
            let claim = Claim::by_gateway(
                self.door("ssh"),
                "gw2".parse().unwrap(),
                None,
                &key("ssh", address),
                clock::now().monotonic,
                Duration::from_secs(60),
            );
            self.carry_out(&claim);
        }

        fn carry_out(&mut self, claim: &Claim) {
            let _job = self.doors.carry_out(clock::now(), claim).unwrap();
            self.settle();
        }

        /// Until no command runs any more.
        fn settle(&mut self) {
            while !self.doors.jobs.is_empty() {
                self.doors.poll(clock::now());
            }
        }

        fn close(&mut self, door: &str, address: &str, by: OpenedBy) -> bool {
            let is_open = self.doors.close(clock::now(), &key(door, address), false, by);
            self.settle();
            is_open
        }
    }

    fn key(door: &str, address: &str) -> GrantKey {
        GrantKey::new(door.parse().unwrap(), address.parse::<std::net::IpAddr>().unwrap())
    }

    fn closed(door: &str, address: &str) -> DoorNews {
        DoorNews::Close { key: key(door, address) }
    }

    #[test]
    fn what_opens_and_is_closed_at_a_door_of_the_fleet_is_news_and_at_others_not() {
        let mut gateway = Gateway::new();
        for door in ["ssh", "own"] {
            gateway.open_by_hand(door, ALICE);
        }
        let until = gateway.doors.stands_until(&key("ssh", ALICE)).unwrap();
        let opened = DoorNews::Open { key: key("ssh", ALICE), client: None, until };
        assert_eq!(mem::take(&mut gateway.doors.news), [opened]);
        gateway.open_by_hand("ssh", ALICE);
        let until = gateway.doors.stands_until(&key("ssh", ALICE)).unwrap();
        let longer = DoorNews::Open { key: key("ssh", ALICE), client: None, until };
        assert_eq!(mem::take(&mut gateway.doors.news), [longer]);
        for door in ["ssh", "own"] {
            assert!(gateway.close(door, ALICE, OpenedBy::Knockctl));
        }
        assert_eq!(mem::take(&mut gateway.doors.news), [closed("ssh", ALICE)]);
    }

    #[test]
    fn what_another_gateway_has_told_is_no_news_until_somebody_closes_it_here() {
        let mut gateway = Gateway::new();
        gateway.open_by_gateway(ALICE);
        assert_eq!(gateway.doors.fleet_grants().count(), 0);
        assert!(gateway.close("ssh", ALICE, OpenedBy::Fleet));
        assert_eq!(mem::take(&mut gateway.doors.news), []);
        gateway.open_by_gateway(ALICE);
        assert!(gateway.close("ssh", ALICE, OpenedBy::Knockctl));
        assert_eq!(mem::take(&mut gateway.doors.news), [closed("ssh", ALICE)]);
    }

    #[test]
    fn what_another_gateway_closes_is_of_the_fleet() {
        let mut gateway = Gateway::new();
        for door in ["ssh", "own"] {
            gateway.open_by_hand(door, ALICE);
        }
        assert!(!gateway.close("own", ALICE, OpenedBy::Fleet));
        gateway.doors.close_all(clock::now(), false, OpenedBy::Fleet);
        gateway.settle();
        let said = mem::take(&mut gateway.doors.logged).into_iter().map(|it| it.message);
        assert_eq!(said.last().as_deref(), Some("closed at another gateway"));
        let left: Vec<_> = gateway.doors.list().iter().map(|it| it.key.clone()).collect();
        assert_eq!(left, [key("own", ALICE)]);
    }

    #[test]
    fn what_a_client_moves_away_from_is_news_where_it_moved_here() {
        let mut gateway = Gateway::new();
        let phone = || Some("phone".parse().unwrap());
        let mut open = |address: &str, by| {
            let hand = Claim::by_administrator(
                gateway.door("ssh"),
                address.parse().unwrap(),
                clock::now().monotonic,
                None,
            );
            gateway.carry_out(&Claim { origin: Origin { by, client: phone() }, ..hand });
            let news = mem::take(&mut gateway.doors.news);
            news.into_iter().filter(|it| matches!(it, DoorNews::Close { .. })).collect::<Vec<_>>()
        };
        assert_eq!(open(ALICE, OpenedBy::Knockctl), []);
        assert_eq!(open("192.0.2.3", OpenedBy::Knockctl), [closed("ssh", ALICE)]);
        assert_eq!(open("192.0.2.4", OpenedBy::Fleet), []);
        let (now, by) = (clock::now(), OpenedBy::Knockctl);
        assert_eq!(gateway.doors.close_client(now, &phone().unwrap(), false, by), 1);
        assert_eq!(mem::take(&mut gateway.doors.news), [closed("ssh", "192.0.2.4")]);
    }

    #[test]
    fn the_end_of_its_time_is_no_news() {
        let mut gateway = Gateway::new();
        gateway.open_by_hand("ssh", ALICE);
        let _opened = mem::take(&mut gateway.doors.news);
        let now = clock::now();
        let over = Now { monotonic: now.monotonic + Duration::from_secs(7200), ..now };
        gateway.doors.poll(over);
        gateway.settle();
        assert!(gateway.doors.list().is_empty());
        assert_eq!(mem::take(&mut gateway.doors.news), []);
    }

    #[test]
    fn what_opened_here_is_told_whoever_joins() {
        let mut gateway = Gateway::new();
        gateway.open_by_hand("ssh", ALICE);
        gateway.open_by_hand("own", ALICE);
        gateway.open_by_gateway("192.0.2.3");
        let told: Vec<_> = gateway.doors.fleet_grants().map(|it| it.key.clone()).collect();
        assert_eq!(told, [key("ssh", ALICE)]);
    }

    #[test]
    fn the_log_says_at_which_gateway_it_opened() {
        let mut gateway = Gateway::new();
        gateway.open_by_gateway(ALICE);
        let said: Vec<_> =
            mem::take(&mut gateway.doors.logged).into_iter().map(|it| it.message).collect();
        assert_eq!(said, ["opened at gw2"]);
    }
}
