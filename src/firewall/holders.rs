//! Who holds which element of the guard's table, and until when: pure.

use std::collections::HashMap;

use super::netlink::Comment;
use super::ruleset::Slot;
use crate::config::Name;
use crate::time::Monotonic;

/// What a door's grant says of an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) until: Monotonic,
    pub(super) comment: Comment,
}

/// Several doors may open one port: its element stays until the last of their grants ends, and one
/// that closes does not shut out another's.
#[derive(Debug, Default)]
pub(super) struct Holders(HashMap<Slot, Vec<(Name, Hold)>>);

impl Holders {
    /// One door has one hold of an element: the new one takes the place of the old, which comes
    /// back.
    pub(super) fn hold(&mut self, slot: Slot, door: &Name, hold: Hold) -> Option<Hold> {
        let holds = self.0.entry(slot).or_default();
        match holds.iter_mut().find(|(holder, _)| holder == door) {
            Some((_, known)) => Some(std::mem::replace(known, hold)),
            None => {
                holds.push((door.clone(), hold));
                None
            }
        }
    }

    /// What is left are the other doors' holds.
    pub(super) fn release(&mut self, slot: &Slot, door: &Name) {
        let Some(holds) = self.0.get_mut(slot) else { return };
        holds.retain(|(holder, _)| holder != door);
        if holds.is_empty() {
            self.0.remove(slot);
        }
    }

    /// Until when an element is held, and by whom then.
    pub(super) fn longest(&self, slot: &Slot) -> Option<&Hold> {
        self.0.get(slot).and_then(|holds| longest(holds))
    }

    /// All elements that are held.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Slot, &Hold)> {
        self.0.iter().filter_map(|(slot, holds)| Some((slot, longest(holds)?)))
    }
}

fn longest(holds: &[(Name, Hold)]) -> Option<&Hold> {
    holds.iter().map(|(_, hold)| hold).max_by_key(|hold| hold.until)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::ruleset::GuardedDoor;
    use super::*;

    fn slot() -> Slot {
        let door = GuardedDoor {
            name: "ssh".parse().unwrap(),
            ports: vec!["22".parse().unwrap()],
            target: None,
        };
        door.slots("192.0.2.2".parse().unwrap(), None).next().unwrap()
    }

    fn hold(seconds: u64) -> Hold {
        Hold { until: Monotonic::ZERO + Duration::from_secs(seconds), comment: Comment::default() }
    }

    #[test]
    fn an_element_lasts_as_long_as_the_longest_of_its_holders() {
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let mut holders = Holders::default();
        for (door, seconds) in [(&a, 10), (&b, 30), (&a, 20)] {
            holders.hold(slot(), door, hold(seconds));
        }
        assert_eq!(holders.longest(&slot()), Some(&hold(30)));
        for _ in 0..2 {
            holders.release(&slot(), &b);
            assert_eq!(holders.longest(&slot()), Some(&hold(20)));
        }
        holders.release(&slot(), &a);
        assert_eq!(holders.longest(&slot()), None);
        assert_eq!(holders.all().count(), 0);
    }
}
