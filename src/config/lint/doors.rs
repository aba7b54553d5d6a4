//! The doors as the lints look at them, and what several lints share.

use std::collections::HashMap;
use std::fmt;

use crate::config::{Door, DoorPlaces, Loaded, Opening, Place};
use crate::proto::{Knock, OpenPorts, PortSet};

/// A door, where it is written and what it watches.
#[derive(Clone, Copy)]
pub(super) struct Linted<'a> {
    pub(super) door: &'a Door,
    pub(super) places: &'a DoorPlaces,
    pub(super) watched: &'a PortSet,
}

impl<'a> Linted<'a> {
    pub(super) fn sequence(&self) -> &'a [Knock] {
        &self.door.recognition.sequence
    }

    /// Where its sequence begins.
    pub(super) fn sequence_place(&self) -> &'a Place {
        self.places.sequence.first().unwrap_or(&self.places.name)
    }

    /// What it opens, or forwards.
    fn opens(&self) -> impl Iterator<Item = OpenPorts> + use<'a> {
        let Opening { ports, forwards, .. } = &self.door.opening;
        ports.iter().copied().chain(forwards.iter().map(|forward| forward.on.into()))
    }

    /// The knocks of its sequence, with their places.
    pub(super) fn knocks(&self) -> impl Iterator<Item = (Knock, &'a Place)> + use<'a> {
        self.sequence().iter().copied().zip(&self.places.sequence)
    }
}

/// All doors, and what is asked of all of them at once.
pub(super) struct LintedDoors<'a> {
    pub(super) all: Vec<Linted<'a>>,
    /// All that is opened or forwarded.
    pub(super) opened: PortSet,
    /// The doors whose sequence begins and ends with these knocks.
    pub(super) ends: HashMap<(Knock, Knock), Vec<usize>>,
}

impl<'a> LintedDoors<'a> {
    pub(super) fn new(loaded: &'a Loaded, watched: &'a [PortSet]) -> Self {
        let doors = loaded.config.doors.iter().zip(&loaded.places.doors).zip(watched);
        let linted = doors.map(|((door, places), watched)| Linted { door, places, watched });
        let all: Vec<_> = linted.collect();
        let mut opened = PortSet::default();
        let mut ends: HashMap<_, Vec<usize>> = HashMap::new();
        for (index, one) in all.iter().enumerate() {
            opened.extend(one.opens());
            if let (Some(first), Some(last)) = (one.sequence().first(), one.sequence().last()) {
                ends.entry((*first, *last)).or_default().push(index);
            }
        }
        Self { all, opened, ends }
    }

    /// Who opens a port, or forwards it.
    pub(super) fn opener(&self, knock: Knock) -> Option<&Linted<'a>> {
        let opens = |one: &&Linted<'a>| one.opens().any(|ports| ports.contains(knock));
        self.all.iter().filter(|_| self.opened.contains(knock)).find(opens)
    }
}

/// The first few of the ports that a line names, if there are any.
pub fn some_of(ports: impl Iterator<Item = impl fmt::Display>) -> Option<String> {
    const NAMED: usize = 5;
    let mut named: Vec<_> = ports.take(NAMED + 1).map(|port| port.to_string()).collect();
    let more = if named.len() > NAMED { " and others" } else { "" };
    named.truncate(NAMED);
    (!named.is_empty()).then(|| named.join(", ") + more)
}

/// The ports that are in both sets.
pub(super) fn common_ports(one: &PortSet, other: &PortSet) -> impl Iterator<Item = Knock> {
    one.knocks().filter(|knock| other.contains(*knock))
}
