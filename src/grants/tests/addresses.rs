//! How many addresses a client may have open at a door, and which give way.

use std::num::{NonZeroU16, NonZeroUsize};

use super::*;

/// A door at which each client may have so many addresses open.
struct Limited {
    grants: Grants,
    addresses: usize,
    now: u64,
}

impl Limited {
    fn to(addresses: usize) -> Self {
        Self { grants: Grants::default(), addresses, now: 0 }
    }

    fn ask(&mut self, client: Option<&str>, key: GrantKey) -> Decision {
        self.now += 1;
        let client = client.map(|name| name.parse().unwrap());
        let origin = Origin { client, ..Method::Spa.into() };
        let action = Action { addresses: NonZeroUsize::new(self.addresses), ..action(1, 600) };
        let asked = self.grants.prepare(at(self.now), key, origin, action, true).unwrap();
        self.grants.apply(asked)
    }

    fn begin(&mut self, client: &str, network: &str) -> GrantId {
        let key = GrantKey::new(door(), network.parse::<Network>().unwrap());
        match self.ask(Some(client), key) {
            Decision::Open(id, _) => id,
            other => panic!("{other:?}"),
        }
    }

    /// The networks that have to give way to one that has opened.
    fn opened(&mut self, id: GrantId) -> Vec<String> {
        assert_eq!(self.grants.opened(id, OpenResult::All), OpenOutcome::Open);
        let displaced = self.grants.displaced_by(id);
        let networks = displaced.iter().map(|id| self.grants.get(*id).unwrap().key.network);
        let networks = networks.map(|network| network.to_string()).collect();
        for id in displaced {
            if self.grants.close(id).is_some() {
                assert!(self.grants.closed(id).is_none());
            }
        }
        networks
    }

    fn open(&mut self, client: &str, network: &str) -> Vec<String> {
        let id = self.begin(client, network);
        self.opened(id)
    }
}

#[test]
fn a_new_address_takes_the_place_of_the_one_before() {
    let mut door = Limited::to(1);
    assert!(door.open("phone", "192.0.2.1").is_empty());
    assert_eq!(door.open("phone", "192.0.2.2"), ["192.0.2.1"]);
    assert_eq!(door.open("phone", "198.51.100.0/24"), ["192.0.2.2"]);
}

#[test]
fn of_several_the_one_that_was_opened_first_gives_way() {
    let mut door = Limited::to(2);
    assert!(
        door.open("phone", "192.0.2.9").is_empty() && door.open("phone", "192.0.2.1").is_empty()
    );
    assert_eq!(door.open("phone", "192.0.2.5"), ["192.0.2.9"]);
    assert_eq!(door.open("phone", "192.0.2.3"), ["192.0.2.1"]);
}

#[test]
fn ipv4_and_ipv6_are_counted_apart() {
    let mut door = Limited::to(1);
    assert!(door.open("phone", "192.0.2.1").is_empty());
    assert!(door.open("phone", "2001:db8::1").is_empty());
    assert_eq!(door.open("phone", "2001:db8::2"), ["2001:db8::1"]);
}

#[test]
fn what_others_have_open_stays() {
    let mut limited = Limited::to(1);
    limited.open("laptop", "192.0.2.1");
    let key = GrantKey::new(door(), "192.0.2.2".parse::<IpAddr>().unwrap());
    let Decision::Open(nobodys, _) = limited.ask(None, key) else { panic!("it opens") };
    assert!(limited.opened(nobodys).is_empty(), "nobody's takes no place");
    assert!(limited.open("phone", "192.0.2.3").is_empty());
    let elsewhere = GrantKey::new("web".parse().unwrap(), "192.0.2.4".parse::<IpAddr>().unwrap());
    let Decision::Open(id, _) = limited.ask(Some("phone"), elsewhere) else { panic!("it opens") };
    assert!(limited.opened(id).is_empty(), "each door counts its own");
}

#[test]
fn any_number_stays_where_the_door_says_nothing() {
    let mut door = Limited::to(0);
    for last in 1..9 {
        assert!(door.open("phone", &format!("192.0.2.{last}")).is_empty());
    }
}

#[test]
fn the_source_ports_of_an_address_are_one_address() {
    let mut limited = Limited::to(1);
    let key = |address: &str, port| GrantKey {
        source_port: NonZeroU16::new(port),
        ..GrantKey::new(door(), address.parse::<IpAddr>().unwrap())
    };
    for port in [40_000, 40_001] {
        let Decision::Open(id, _) = limited.ask(Some("phone"), key("192.0.2.1", port)) else {
            panic!("each has a grant of its own");
        };
        assert!(limited.opened(id).is_empty());
    }
    assert_eq!(limited.open("phone", "192.0.2.2"), ["192.0.2.1", "192.0.2.1"], "both close");
}

#[test]
fn nothing_gives_way_before_the_new_one_is_open() {
    let mut door = Limited::to(1);
    door.open("phone", "192.0.2.1");
    let id = door.begin("phone", "192.0.2.2");
    assert!(door.grants.displaced_by(id).is_empty());
    assert_eq!(door.grants.opened(id, OpenResult::NotStarted(0)), OpenOutcome::Nothing);
    assert!(door.grants.displaced_by(id).is_empty(), "it failed");
}

#[test]
fn of_two_that_open_at_once_the_later_one_stays() {
    let mut door = Limited::to(1);
    let (first, second) = (door.begin("phone", "192.0.2.1"), door.begin("phone", "192.0.2.2"));
    assert_eq!(door.opened(second), ["192.0.2.1"]);
    assert!(door.opened(first).is_empty());
    assert_eq!(door.grants.expire(at(door.now)).len(), 1, "the first ends as soon as it is open");
}

#[test]
fn a_client_that_takes_an_address_over_has_it_open_too() {
    let mut limited = Limited::to(1);
    limited.open("laptop", "192.0.2.1");
    limited.open("phone", "192.0.2.2");
    let key = GrantKey::new(door(), "192.0.2.1".parse::<IpAddr>().unwrap());
    let Decision::Extend(id, ..) = limited.ask(Some("phone"), key) else { panic!("it is open") };
    let displaced = limited.grants.displaced_by(id);
    let networks: Vec<_> = displaced
        .iter()
        .map(|id| limited.grants.get(*id).unwrap().key.network.to_string())
        .collect();
    assert_eq!(networks, ["192.0.2.2"]);
}

proptest! {
    #[test]
    fn once_all_have_opened_no_client_has_more_than_it_may(
        most in 1..4_usize,
        asked in prop::collection::vec((0..2_u8, 1..7_u8, any::<bool>()), 0..40),
    ) {
        let mut limited = Limited::to(most);
        for (client, last, is_ipv6) in asked {
            let address: IpAddr = match is_ipv6 {
                true => [0, 0, 0, 0, 0, 0, 1, u16::from(last)].into(),
                false => [192, 0, 2, last].into(),
            };
            let name = format!("client{client}");
            let key = GrantKey::new(door(), address);
            match limited.ask(Some(&name), key.clone()) {
                Decision::Open(id, _) => drop(limited.opened(id)),
                Decision::Extend(id, ..) => {
                    for id in limited.grants.displaced_by(id) {
                        prop_assert!(limited.grants.close(id).is_some());
                        prop_assert!(limited.grants.closed(id).is_none());
                    }
                }
                other => prop_assert!(false, "{:?}", other),
            }
            prop_assert!(limited.grants.open_until(&key).is_some());
            let own = limited.grants.list().filter(|it| it.origin.client == name.parse().ok());
            let of_family = own.filter(|it| it.key.network.address().is_ipv6() == is_ipv6);
            prop_assert!(of_family.count() <= most);
        }
    }
}
