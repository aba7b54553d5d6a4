//! What becomes of the grants of a keeper that has died.

use std::collections::HashMap;
use std::time::Duration;

use super::{
    Element, Grant, GrantId, GrantState, Grants, Means, Opener, Place, Record, State, Step,
};
use crate::time::{BootId, Monotonic, Now};

/// An element that the kernel still holds: a grant of which there may be no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub place: Place,
    pub opener: Opener,
    pub element: Element,
    pub remaining: Duration,
}

/// What is to be done about one grant.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// Nothing was opened: remove its record.
    Forget(GrantId),
    /// It has ended by itself: remove its record, and say in the history that it closed.
    Ended(GrantId),
    /// It is open until its deadline. `restore`: the kernel has lost its element, which has to be
    /// set again for this long.
    Keep { id: GrantId, restore: Option<(Element, Duration)> },
    /// It is open and has no record, or one that is out of date: write this one.
    Adopt(Record),
    /// It is closing. Record that, run these commands and delete this element; then
    /// [`Grants::closed`].
    ///
    /// What an earlier keeper has left running may have been about to open what is closed here: it
    /// has to be gone by now.
    Close { id: GrantId, close: Vec<Step>, delete: Option<Element> },
}

impl Grants {
    /// Takes up what an earlier keeper has left: its records and what the kernel still holds.
    ///
    /// To be called once, before anything is asked for. What comes back is to be done in its
    /// order. Doing it again after another crash does no harm beyond one more close.
    #[must_use]
    pub fn recover(
        &mut self,
        now: Now,
        boot: BootId,
        records: Vec<Record>,
        held: Vec<Held>,
    ) -> Vec<Recovered> {
        let last = records.iter().map(|record| record.id.0).max();
        self.last = self.last.max(last.unwrap_or(0));
        // Doors may share an element of a set: it says for which of them it is there until then.
        let mut held: HashMap<(Element, Place), Held> = held
            .into_iter()
            .map(|held| ((held.element.clone(), held.place.clone()), held))
            .collect();
        let mut effects = Vec::new();
        for record in records {
            let held = match &record.means {
                Means::Kernel(element) => held.remove(&(element.clone(), record.place.clone())),
                Means::Commands(_) => None,
            };
            effects.push(self.recover_one(now, boot, record, held));
        }
        let mut rest: Vec<Held> = held.into_values().collect();
        rest.sort_by_key(|held| (held.place.address, held.remaining));
        effects.extend(rest.into_iter().filter_map(|held| self.adopt(now, boot, held)));
        // Only now it is known what others hold too.
        for effect in &mut effects {
            if let Recovered::Close { id, close, .. } = effect {
                *close = self.begin_close(*id, usize::MAX);
            }
        }
        effects
    }

    fn recover_one(
        &mut self,
        now: Now,
        boot: BootId,
        record: Record,
        held: Option<Held>,
    ) -> Recovered {
        let over = record.boot != boot || record.deadline <= now.monotonic;
        match (&record.means, record.state) {
            (Means::Commands(_), GrantState::Recorded) => Recovered::Forget(record.id),
            (Means::Commands(_), GrantState::Open | GrantState::OpenedWithErrors) if !over => {
                self.keep(record, None)
            }
            (Means::Commands(_), _) => self.close_again(record),
            // The kernel has the last word: it may have been told of an extension that was not
            // recorded any more.
            (Means::Kernel(_), GrantState::Closing) if held.is_some() => self.close_again(record),
            (Means::Kernel(element), GrantState::Open) if !over && held.is_none() => {
                let remaining = record.deadline.since(now.monotonic);
                let restore = Some((element.clone(), remaining));
                self.keep(record, restore)
            }
            (Means::Kernel(_), state) => match (held, state) {
                (Some(held), _) => self.keep_held(now, boot, record, &held),
                (None, GrantState::Recorded | GrantState::Starting) => Recovered::Forget(record.id),
                (None, _) => Recovered::Ended(record.id),
            },
        }
    }

    fn keep(&mut self, record: Record, restore: Option<(Element, Duration)>) -> Recovered {
        let id = record.id;
        let with_errors = record.state == GrantState::OpenedWithErrors;
        self.insert(record, State::Open { with_errors });
        Recovered::Keep { id, restore }
    }

    fn keep_held(&mut self, now: Now, boot: BootId, record: Record, held: &Held) -> Recovered {
        let deadline = now.monotonic + held.remaining;
        let record = Record {
            state: GrantState::Open,
            boot,
            deadline,
            until: now.wall + held.remaining,
            ..record
        };
        self.insert(record.clone(), State::Open { with_errors: false });
        Recovered::Adopt(record)
    }

    fn close_again(&mut self, record: Record) -> Recovered {
        let id = record.id;
        let delete = record.means.element().cloned();
        let record = Record { deadline: Monotonic::ZERO, ..record };
        self.insert(record, State::Closing { again: None, left: Vec::new(), tries: 0 });
        self.let_go(id);
        Recovered::Close { id, close: Vec::new(), delete }
    }

    /// `None` where the door has a grant for this address: it stays the only one.
    fn adopt(&mut self, now: Now, boot: BootId, held: Held) -> Option<Recovered> {
        let Held { place, opener, element, remaining } = held;
        if self.places.contains_key(&place) {
            return None;
        }
        self.last += 1;
        let record = Record {
            id: GrantId(self.last),
            place,
            opener,
            state: GrantState::Open,
            boot,
            deadline: now.monotonic + remaining,
            since: now.wall,
            until: now.wall + remaining,
            means: Means::Kernel(element),
        };
        self.insert(record.clone(), State::Open { with_errors: false });
        Some(Recovered::Adopt(record))
    }

    fn insert(&mut self, record: Record, state: State) {
        let Record { id, place, opener, deadline, means, .. } = record;
        if matches!(state, State::Open { .. }) {
            self.deadlines.insert((deadline, id));
        }
        self.add(id, Grant { place, opener, state, deadline, means, is_own: false });
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::config::Rendered;
    use crate::grants::{By, Decision, Deed, Opened, Step};
    use crate::time::Wall;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn now() -> Now {
        Now { monotonic: at(100), wall: Wall::ZERO + Duration::from_secs(1_795_344_888) }
    }

    fn at(seconds: u64) -> Monotonic {
        Monotonic::ZERO + Duration::from_secs(seconds)
    }

    fn boot(digit: char) -> BootId {
        digit.to_string().repeat(32).parse().unwrap()
    }

    fn command(text: &str) -> Rendered {
        Rendered { argv: vec![text.to_owned()], environment: Vec::new() }
    }

    fn element() -> Element {
        Element { table: "inet knockd".into(), set: "g_ssh_4".into(), source_port: None }
    }

    fn step() -> Step {
        let close = Some(command("close"));
        Step { open: command("open"), close, verify: None, is_timed: false }
    }

    /// A grant of this boot that ends at 130 s.
    fn record(state: GrantState) -> Record {
        Record {
            id: GrantId(7),
            place: place("ssh"),
            opener: By::Sequence.into(),
            state,
            boot: boot('a'),
            deadline: at(130),
            since: now().wall,
            until: now().wall + Duration::from_secs(30),
            means: Means::Commands(vec![step()]),
        }
    }

    fn kernel(state: GrantState) -> Record {
        Record { means: Means::Kernel(element()), ..record(state) }
    }

    fn held(seconds: u64) -> Held {
        Held {
            place: place("ssh"),
            opener: Opener { by: By::Knockctl, client: Some("phone".parse().unwrap()) },
            element: element(),
            remaining: Duration::from_secs(seconds),
        }
    }

    fn place(door: &str) -> Place {
        Place::new(door.parse().unwrap(), ADDRESS)
    }

    fn knock(grants: &mut Grants, seconds: u64, door: &str) -> Decision {
        let steps = vec![Step {
            open: command("open"),
            close: Some(command("close")),
            verify: None,
            is_timed: false,
        }];
        let deed = Deed {
            means: Means::Commands(steps),
            open_for: Duration::from_secs(30),
            is_own: false,
            most: 9,
            cooldown: Duration::ZERO,
        };
        let asked = grants.ask(at(seconds), place(door), By::Sequence.into(), deed, true).unwrap();
        grants.take(asked)
    }

    fn recover(record: Record, held: &[Held]) -> (Grants, Recovered) {
        let mut grants = Grants::new();
        let mut effects = grants.recover(now(), boot('a'), vec![record], held.to_vec());
        assert_eq!(effects.len(), 1, "{effects:?}");
        (grants, effects.remove(0))
    }

    fn closes() -> Recovered {
        Recovered::Close { id: GrantId(7), close: vec![step()], delete: None }
    }

    #[test]
    fn what_never_started_is_forgotten() {
        let (grants, effect) = recover(record(GrantState::Recorded), &[]);
        assert_eq!(effect, Recovered::Forget(GrantId(7)));
        assert!(grants.is_empty());
    }

    #[test]
    fn what_was_starting_or_closing_is_closed_once_more() {
        for state in [GrantState::Starting, GrantState::Closing] {
            let (mut grants, effect) = recover(record(state), &[]);
            assert_eq!(effect, closes(), "{state}");
            assert_eq!(grants.next_deadline(), None);
            assert!(grants.closed(GrantId(7)).is_none());
            assert!(grants.is_empty());
        }
    }

    #[test]
    fn what_is_open_and_not_over_is_kept_until_its_deadline() {
        let (mut grants, effect) = recover(record(GrantState::Open), &[]);
        assert_eq!(effect, Recovered::Keep { id: GrantId(7), restore: None });
        assert!(grants.expire(at(129)).is_empty());
        assert_eq!(grants.expire(at(130))[0].close, [step()]);
    }

    #[test]
    fn what_is_open_and_over_is_closed() {
        let over = Record { deadline: at(100), ..record(GrantState::Open) };
        assert_eq!(recover(over, &[]).1, closes());
    }

    #[test]
    fn what_was_opened_with_errors_still_is() {
        let (mut grants, effect) = recover(record(GrantState::OpenedWithErrors), &[]);
        assert_eq!(effect, Recovered::Keep { id: GrantId(7), restore: None });
        assert_eq!(grants.list()[0].state, GrantState::OpenedWithErrors);
        assert_eq!(grants.expire(at(130)).len(), 1);
    }

    #[test]
    fn what_another_grant_holds_too_is_not_closed() {
        let shared = Step { verify: Some(command("verify")), ..step() };
        let means = Means::Commands(vec![shared]);
        let closing = Record { means: means.clone(), ..record(GrantState::Closing) };
        let web = Record { id: GrantId(8), place: place("web"), means, ..record(GrantState::Open) };
        let mut grants = Grants::new();
        let effects = grants.recover(now(), boot('a'), vec![closing, web], Vec::new());
        let closes = Recovered::Close { id: GrantId(7), close: Vec::new(), delete: None };
        assert_eq!(effects, [closes, Recovered::Keep { id: GrantId(8), restore: None }]);
    }

    #[test]
    fn another_boot_ends_every_grant() {
        for state in [GrantState::Starting, GrantState::Open, GrantState::Closing] {
            let other = Record { boot: boot('b'), ..record(state) };
            assert_eq!(recover(other, &[]).1, closes(), "{state}");
        }
        let other = Record { boot: boot('b'), ..record(GrantState::Recorded) };
        assert_eq!(recover(other, &[]).1, Recovered::Forget(GrantId(7)));
    }

    #[test]
    fn a_knock_extends_what_was_kept() {
        let (mut grants, _) = recover(record(GrantState::Open), &[]);
        let decision = knock(&mut grants, 120, "ssh");
        assert_eq!(decision, Decision::Extend(GrantId(7), at(150), None));
    }

    #[test]
    fn a_knock_while_recovery_closes_opens_anew_for_its_own_time() {
        let other = Record { boot: boot('b'), deadline: at(9000), ..record(GrantState::Open) };
        let (mut grants, _) = recover(other, &[]);
        let decision = knock(&mut grants, 101, "ssh");
        assert_eq!(decision, Decision::Wait);
        let again = grants.closed(GrantId(7)).unwrap();
        let Decision::Open(id, _) = grants.take(again) else { panic!() };
        let _ = grants.opened(id, Opened::All);
        assert_eq!(grants.next_deadline(), Some(at(131)));
    }

    #[test]
    fn a_new_grant_takes_no_number_that_is_in_use() {
        let (mut grants, _) = recover(record(GrantState::Open), &[]);
        let decision = knock(&mut grants, 120, "web");
        assert!(matches!(decision, Decision::Open(GrantId(8), _)), "{decision:?}");
    }

    #[test]
    fn the_kernel_has_the_last_word_on_what_it_still_holds() {
        for state in [GrantState::Recorded, GrantState::Starting, GrantState::Open] {
            let (grants, effect) = recover(kernel(state), &[held(50)]);
            let Recovered::Adopt(record) = effect else { panic!("{effect:?}") };
            assert_eq!((record.id, record.state), (GrantId(7), GrantState::Open));
            assert_eq!((record.deadline, grants.next_deadline()), (at(150), Some(at(150))));
            assert_eq!(record.opener.client, None, "its record says who opened it");
        }
    }

    #[test]
    fn what_the_kernel_has_ended_has_ended() {
        let over = Record { deadline: at(100), ..kernel(GrantState::Open) };
        for record in [over, kernel(GrantState::Closing)] {
            let (grants, effect) = recover(record, &[]);
            assert_eq!(effect, Recovered::Ended(GrantId(7)));
            assert!(grants.is_empty());
        }
        for state in [GrantState::Recorded, GrantState::Starting] {
            assert_eq!(recover(kernel(state), &[]).1, Recovered::Forget(GrantId(7)), "{state}");
        }
    }

    #[test]
    fn what_the_kernel_lost_before_its_time_is_restored() {
        let (grants, effect) = recover(kernel(GrantState::Open), &[]);
        let restore = Some((element(), Duration::from_secs(30)));
        assert_eq!(effect, Recovered::Keep { id: GrantId(7), restore });
        assert_eq!(grants.next_deadline(), Some(at(130)));
    }

    #[test]
    fn an_element_whose_grant_was_closing_is_deleted() {
        let (_, effect) = recover(kernel(GrantState::Closing), &[held(50)]);
        let delete = Some(element());
        assert_eq!(effect, Recovered::Close { id: GrantId(7), close: Vec::new(), delete });
    }

    #[test]
    fn of_doors_that_share_an_element_it_speaks_for_the_one_that_it_names() {
        let mut grants = Grants::new();
        let web = Record { id: GrantId(8), place: place("web"), ..kernel(GrantState::Open) };
        let records = vec![kernel(GrantState::Open), web];
        let effects = grants.recover(now(), boot('a'), records, vec![held(500)]);
        let [Recovered::Adopt(ssh), Recovered::Keep { id, restore: Some((_, left)) }] =
            effects.as_slice()
        else {
            panic!("{effects:?}")
        };
        assert_eq!((ssh.id, ssh.deadline), (GrantId(7), at(600)));
        assert_eq!((*id, *left), (GrantId(8), Duration::from_secs(30)));
    }

    #[test]
    fn an_element_that_the_ledger_lacks_is_adopted() {
        let mut grants = Grants::new();
        let effects = grants.recover(now(), boot('a'), Vec::new(), vec![held(50)]);
        let [Recovered::Adopt(record)] = effects.as_slice() else { panic!("{effects:?}") };
        assert_eq!((record.state, record.opener.by), (GrantState::Open, By::Knockctl));
        assert_eq!(record.deadline, at(150));
        assert_eq!(grants.open_until(&place("ssh")), Some(at(150)));
    }

    #[test]
    fn a_place_has_one_grant_also_after_recovery() {
        let mut grants = Grants::new();
        let other = Element { set: "other".into(), ..element() };
        let held = vec![held(50), Held { element: other, ..held(60) }];
        let effects = grants.recover(now(), boot('a'), Vec::new(), held);
        assert_eq!((effects.len(), grants.len()), (1, 1));
    }
}
