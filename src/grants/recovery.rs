//! Recovery of the grants that an earlier keeper has left.

use std::collections::HashMap;
use std::time::Duration;

use super::hold::Session;
use super::{
    Grant, GrantBackend, GrantId, GrantKey, GrantPhase, GrantRecord, GrantState, Grants,
    KernelElement, Origin, ToClose,
};
use crate::time::{BootId, Monotonic, Now};

/// A grant that the kernel holds, or has to hold, as an element of a set; there may be no record
/// of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelGrant {
    pub key: GrantKey,
    pub origin: Origin,
    pub element: KernelElement,
    pub left: Duration,
    /// What is left until it ends whatever comes, where it follows its session.
    pub ceiling: Option<Duration>,
}

/// The effect of recovery on one grant: what is to be done about it.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// Nothing was opened: remove its record.
    Forget(GrantId),
    /// It has ended by itself: remove its record, and say in the history that it closed.
    Ended(GrantId, GrantKey),
    /// It is open until its deadline. `restore`: the kernel has lost its element, which has to be
    /// set again.
    Keep { id: GrantId, restore: bool },
    /// It is open and has no record, or one that is out of date: write this one.
    Adopt(GrantRecord),
    /// It is closing. Record that, run these commands and delete this element; then
    /// [`Grants::closed`].
    ///
    /// What an earlier keeper has left running may have been about to open what is closed here: it
    /// has to be gone by now.
    Close(ToClose),
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
        records: Vec<GrantRecord>,
        held: Vec<KernelGrant>,
    ) -> Vec<Recovered> {
        let last = records.iter().map(|record| record.id.0).max();
        self.last = self.last.max(last.unwrap_or(0));
        // Doors may share an element of a set: it says for which of them it is there until then.
        let mut held: HashMap<(KernelElement, GrantKey), KernelGrant> =
            held.into_iter().map(|held| ((held.element.clone(), held.key.clone()), held)).collect();
        let mut effects = Vec::new();
        for record in records {
            let element = record.backend.element().cloned();
            let held = element.and_then(|element| held.remove(&(element, record.key.clone())));
            effects.push(self.recover_one(now, boot, record, held));
        }
        let mut rest: Vec<KernelGrant> = held.into_values().collect();
        rest.sort_by_key(|held| (held.key.network, held.left));
        effects.extend(rest.into_iter().filter_map(|held| self.adopt(now, boot, held)));
        // Only now it is known what others hold too.
        for effect in &mut effects {
            if let Recovered::Close(it) = effect {
                it.close = self.begin_close(it.id, usize::MAX);
            }
        }
        effects
    }

    fn recover_one(
        &mut self,
        now: Now,
        boot: BootId,
        record: GrantRecord,
        held: Option<KernelGrant>,
    ) -> Recovered {
        let is_over = record.boot != boot || record.deadline <= now.monotonic;
        match (held, record.state) {
            // The kernel has the last word: it may have been told of an extension that was not
            // recorded any more.
            (Some(_), GrantState::Closing) => self.close_again(record),
            (Some(held), _) => self.keep_held(now, boot, record, held.left),
            (None, GrantState::Open | GrantState::OpenedWithErrors) if !is_over => {
                self.keep(record)
            }
            (None, _) if record.backend.element().is_none() => self.close_again(record),
            (None, GrantState::Starting) => Recovered::Forget(record.id),
            (None, _) => Recovered::Ended(record.id, record.key),
        }
    }

    fn keep(&mut self, record: GrantRecord) -> Recovered {
        let (id, restore) = (record.id, record.backend.element().is_some());
        let with_errors = record.state == GrantState::OpenedWithErrors;
        self.insert(record, GrantPhase::Open { with_errors });
        Recovered::Keep { id, restore }
    }

    fn keep_held(
        &mut self,
        now: Now,
        boot: BootId,
        record: GrantRecord,
        left: Duration,
    ) -> Recovered {
        let (state, deadline, until) = (GrantState::Open, now.monotonic + left, now.wall + left);
        let record = GrantRecord { state, boot, deadline, until, ..record };
        self.insert(record.clone(), GrantPhase::Open { with_errors: false });
        Recovered::Adopt(record)
    }

    fn close_again(&mut self, record: GrantRecord) -> Recovered {
        let id = record.id;
        let delete = record.backend.element().cloned();
        let record = GrantRecord { deadline: Monotonic::ZERO, ..record };
        self.insert(record, GrantPhase::Closing { again: None, left: Vec::new(), tries: 0 });
        self.let_go(id);
        Recovered::Close(ToClose { id, close: Vec::new(), delete, again: false, end: None })
    }

    /// `None` where the door has a grant for this address: it stays the only one.
    fn adopt(&mut self, now: Now, boot: BootId, held: KernelGrant) -> Option<Recovered> {
        let KernelGrant { key, origin, element, left, ceiling } = held;
        if self.by_key.contains_key(&key) {
            return None;
        }
        self.last += 1;
        let record = GrantRecord {
            id: GrantId(self.last),
            key,
            origin,
            state: GrantState::Open,
            boot,
            deadline: now.monotonic,
            since: now.wall,
            until: now.wall,
            ceiling: ceiling.map(|left| now.monotonic + left),
            backend: GrantBackend::Kernel(element),
        };
        Some(self.keep_held(now, boot, record, left))
    }

    fn insert(&mut self, record: GrantRecord, state: GrantPhase) {
        let GrantRecord { id, key, origin, deadline, ceiling, backend, .. } = record;
        if matches!(state, GrantPhase::Open { .. }) {
            self.deadlines.insert((deadline, id));
        }
        self.add(Grant {
            id,
            key,
            origin,
            state,
            deadline,
            ceiling,
            backend,
            session: Session::new(Monotonic::ZERO),
            addresses: None,
            is_own: false,
            turn: id.0,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::config::Rendered;
    use crate::config::{NftFamily, SetRef};
    use crate::grants::{Action, CommandPair, Decision, OpenResult, OpenedBy};
    use crate::proto::method::Method;
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

    fn element() -> KernelElement {
        KernelElement::Guard
    }

    fn pair() -> CommandPair {
        let close = Some(command("close"));
        CommandPair { open: command("open"), close, verify: None, is_timed: false }
    }

    /// A grant of this boot that ends at 130 s.
    fn record(state: GrantState) -> GrantRecord {
        GrantRecord {
            id: GrantId(7),
            key: key("ssh"),
            origin: Method::Sequence.into(),
            state,
            boot: boot('a'),
            deadline: at(130),
            since: now().wall,
            until: now().wall + Duration::from_secs(30),
            ceiling: None,
            backend: GrantBackend::Commands(vec![pair()]),
        }
    }

    fn kernel(state: GrantState) -> GrantRecord {
        GrantRecord { backend: GrantBackend::Kernel(element()), ..record(state) }
    }

    fn held(seconds: u64) -> KernelGrant {
        KernelGrant {
            key: key("ssh"),
            origin: Origin { by: OpenedBy::Knockctl, client: Some("phone".parse().unwrap()) },
            element: element(),
            left: Duration::from_secs(seconds),
            ceiling: None,
        }
    }

    fn key(door: &str) -> GrantKey {
        GrantKey::new(door.parse().unwrap(), ADDRESS)
    }

    fn knock(grants: &mut Grants, seconds: u64, door: &str) -> Decision {
        let pairs = vec![CommandPair {
            open: command("open"),
            close: Some(command("close")),
            verify: None,
            is_timed: false,
        }];
        let action = Action {
            backend: GrantBackend::Commands(pairs),
            open_for: Duration::from_secs(30),
            is_own: false,
            hold: None,
            most: 9,
            addresses: None,
            cooldown: Duration::ZERO,
        };
        let asked =
            grants.prepare(at(seconds), key(door), Method::Sequence.into(), action, true).unwrap();
        grants.apply(asked)
    }

    fn recover(record: GrantRecord, held: &[KernelGrant]) -> (Grants, Recovered) {
        let mut grants = Grants::default();
        let mut effects = grants.recover(now(), boot('a'), vec![record], held.to_vec());
        assert_eq!(effects.len(), 1, "{effects:?}");
        (grants, effects.remove(0))
    }

    fn closes() -> Recovered {
        Recovered::Close(ToClose {
            id: GrantId(7),
            close: vec![pair()],
            delete: None,
            again: false,
            end: None,
        })
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
        assert_eq!(effect, Recovered::Keep { id: GrantId(7), restore: false });
        assert!(grants.expire(at(129)).is_empty());
        assert_eq!(grants.expire(at(130))[0].close, [pair()]);
    }

    #[test]
    fn what_is_open_and_over_is_closed() {
        let over = GrantRecord { deadline: at(100), ..record(GrantState::Open) };
        assert_eq!(recover(over, &[]).1, closes());
    }

    #[test]
    fn what_was_opened_with_errors_still_is() {
        let (mut grants, effect) = recover(record(GrantState::OpenedWithErrors), &[]);
        assert_eq!(effect, Recovered::Keep { id: GrantId(7), restore: false });
        assert_eq!(grants.list().next().unwrap().state(), GrantState::OpenedWithErrors);
        assert_eq!(grants.expire(at(130)).len(), 1);
    }

    #[test]
    fn what_another_grant_holds_too_is_not_closed() {
        let shared = CommandPair { verify: Some(command("verify")), ..pair() };
        let backend = GrantBackend::Commands(vec![shared]);
        let closing = GrantRecord { backend: backend.clone(), ..record(GrantState::Closing) };
        let web =
            GrantRecord { id: GrantId(8), key: key("web"), backend, ..record(GrantState::Open) };
        let mut grants = Grants::default();
        let effects = grants.recover(now(), boot('a'), vec![closing, web], Vec::new());
        let closes = Recovered::Close(ToClose {
            id: GrantId(7),
            close: Vec::new(),
            delete: None,
            again: false,
            end: None,
        });
        assert_eq!(effects, [closes, Recovered::Keep { id: GrantId(8), restore: false }]);
    }

    #[test]
    fn another_boot_ends_every_grant() {
        for state in [GrantState::Starting, GrantState::Open, GrantState::Closing] {
            let other = GrantRecord { boot: boot('b'), ..record(state) };
            assert_eq!(recover(other, &[]).1, closes(), "{state}");
        }
    }

    #[test]
    fn a_knock_extends_what_was_kept() {
        let (mut grants, _) = recover(record(GrantState::Open), &[]);
        let decision = knock(&mut grants, 120, "ssh");
        assert_eq!(decision, Decision::Extend(GrantId(7), at(150), None));
    }

    #[test]
    fn a_knock_while_recovery_closes_opens_anew_for_its_own_time() {
        let other = GrantRecord { boot: boot('b'), deadline: at(9000), ..record(GrantState::Open) };
        let (mut grants, _) = recover(other, &[]);
        let decision = knock(&mut grants, 101, "ssh");
        assert_eq!(decision, Decision::Wait);
        let again = grants.closed(GrantId(7)).unwrap();
        let Decision::Open(id, _) = grants.apply(again) else { panic!() };
        let _ = grants.opened(id, OpenResult::All);
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
        for state in [GrantState::Starting, GrantState::Open] {
            let (grants, effect) = recover(kernel(state), &[held(50)]);
            let Recovered::Adopt(record) = effect else { panic!("{effect:?}") };
            assert_eq!((record.id, record.state), (GrantId(7), GrantState::Open));
            assert_eq!((record.deadline, grants.next_deadline()), (at(150), Some(at(150))));
            assert_eq!(record.origin.client, None, "its record says who opened it");
        }
    }

    #[test]
    fn what_the_kernel_has_ended_has_ended() {
        let over = GrantRecord { deadline: at(100), ..kernel(GrantState::Open) };
        for record in [over, kernel(GrantState::Closing)] {
            let (grants, effect) = recover(record, &[]);
            assert!(matches!(effect, Recovered::Ended(GrantId(7), _)));
            assert!(grants.is_empty());
        }
        let starting = kernel(GrantState::Starting);
        assert_eq!(recover(starting, &[]).1, Recovered::Forget(GrantId(7)));
    }

    #[test]
    fn what_the_kernel_lost_before_its_time_is_restored() {
        let (grants, effect) = recover(kernel(GrantState::Open), &[]);
        assert_eq!(effect, Recovered::Keep { id: GrantId(7), restore: true });
        let kept = grants.get(GrantId(7)).unwrap().in_kernel(at(100)).unwrap();
        assert_eq!((kept.element, kept.left), (element(), Duration::from_secs(30)));
        assert_eq!(grants.next_deadline(), Some(at(130)));
    }

    #[test]
    fn an_element_whose_grant_was_closing_is_deleted() {
        let (_, effect) = recover(kernel(GrantState::Closing), &[held(50)]);
        let delete = Some(element());
        assert_eq!(
            effect,
            Recovered::Close(ToClose {
                id: GrantId(7),
                close: Vec::new(),
                delete,
                again: false,
                end: None
            })
        );
    }

    #[test]
    fn of_doors_that_share_an_element_it_speaks_for_the_one_that_it_names() {
        let mut grants = Grants::default();
        let web = GrantRecord { id: GrantId(8), key: key("web"), ..kernel(GrantState::Open) };
        let records = vec![kernel(GrantState::Open), web];
        let effects = grants.recover(now(), boot('a'), records, vec![held(500)]);
        let [Recovered::Adopt(ssh), Recovered::Keep { id, restore: true }] = effects.as_slice()
        else {
            panic!("{effects:?}")
        };
        assert_eq!((ssh.id, ssh.deadline), (GrantId(7), at(600)));
        let left = grants.get(*id).unwrap().in_kernel(at(100)).unwrap().left;
        assert_eq!((*id, left), (GrantId(8), Duration::from_secs(30)));
    }

    #[test]
    fn an_element_that_the_ledger_lacks_is_adopted() {
        let mut grants = Grants::default();
        let effects = grants.recover(now(), boot('a'), Vec::new(), vec![held(50)]);
        let [Recovered::Adopt(record)] = effects.as_slice() else { panic!("{effects:?}") };
        assert_eq!((record.state, record.origin.by), (GrantState::Open, OpenedBy::Knockctl));
        assert_eq!(record.deadline, at(150));
        assert_eq!(grants.open_until(&key("ssh")), Some(at(150)));
    }

    #[test]
    fn a_place_has_one_grant_also_after_recovery() {
        let mut grants = Grants::default();
        let set = SetRef::new(NftFamily::Inet, "t", "other").unwrap();
        let other = KernelElement::Set(set);
        let held = vec![held(50), KernelGrant { element: other, ..held(60) }];
        let effects = grants.recover(now(), boot('a'), Vec::new(), held);
        assert_eq!((effects.len(), grants.len()), (1, 1));
    }
}
