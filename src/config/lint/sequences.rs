//! Lints of fixed sequences: those that a port scan or another door's knocks complete.

use std::collections::BTreeSet;

use super::doors::{Linted, LintedDoors};
use super::scan::{scan_odds, scan_order};
use crate::config::Diagnostic;
use crate::proto::{Knock, PortSet, Protocol};

/// A sequence that a port scan soon hits.
pub(super) fn too_short(one: Linted<'_>) -> Option<Diagnostic> {
    let knocks = one.sequence().len();
    let message = match knocks {
        1 => "one knock opens this door: any port scan does".to_owned(),
        2 => "fewer than three knocks open this door".to_owned(),
        _ => return None,
    };
    Some(one.places.name.warning(message).help("three knocks or more are hard to hit by chance"))
}

/// A scan in ascending or descending order completes a sequence in that order, unless a port that
/// the door watches lies between two of its knocks.
pub(super) fn completed_by_scan(one: Linted<'_>) -> Option<Diagnostic> {
    let order = scan_order(one.sequence())?;
    let mut pairs = one.sequence().array_windows();
    if pairs.any(|&[from, to]| watches_between(one.watched, from, to)) {
        return None;
    }
    let message = format!("this sequence is monotone: a port scan in {order} order completes it");
    let help = if one.door.recognition.trip_wires == 0 {
        "mix the order of the ports, and do not turn 'trip_wires' off"
    } else {
        "mix the order of the ports, or leave room for trip-wires between them"
    };
    Some(one.sequence_place().warning(message).help(help))
}

fn watches_between(watched: &PortSet, from: Knock, to: Knock) -> bool {
    let (low, high) = (from.port.min(to.port).get(), from.port.max(to.port).get());
    watched
        .ranges(from.protocol)
        .any(|(start, end)| start.max(low.saturating_add(1)) <= end.min(high.saturating_sub(1)))
}

/// A sequence that nothing breaks off, with the odds of a port scan.
pub(super) fn without_trip_wires(one: Linted<'_>) -> Option<Diagnostic> {
    if one.door.recognition.trip_wires > 0 || one.sequence().is_empty() {
        return None;
    }
    let odds = scan_odds(&one.door.recognition, one.watched);
    let message = format!("without trip-wires a port scan in random order opens this door {odds}");
    let warning = one.places.of("trip_wires").warning(message);
    Some(warning.help("remove this line, or write a number such as 16"))
}

impl<'a> LintedDoors<'a> {
    /// Knocks on ports that some door opens, whose users would knock.
    pub(super) fn knocks_on_opened_ports(&self, one: Linted<'a>) -> Vec<Diagnostic> {
        one.knocks()
            .filter_map(|(knock, at)| {
                let opener = self.opener(knock)?;
                let message = format!(
                    "{knock} is knocked on here, and opened by door '{}': using it knocks",
                    opener.door.name()
                );
                Some(at.warning(message).help("knock on a port that nothing else uses"))
            })
            .collect()
    }

    /// The doors that the knocks of this one open as well.
    pub(super) fn opened_on_the_way(&self, index: usize, one: Linted<'a>) -> Vec<Diagnostic> {
        let sequence = one.sequence();
        let mut found: BTreeSet<usize> = BTreeSet::new();
        for (from, first) in sequence.iter().enumerate() {
            for last in sequence.iter().skip(from) {
                found.extend(self.ends.get(&(*first, *last)).into_iter().flatten());
            }
        }
        found.remove(&index);
        let warn = |other: &usize| {
            let opened = self.all.get(*other).filter(|opened| opens_too(one, **opened))?;
            let name = opened.door.name();
            let message = if opened.sequence() == sequence {
                // Said once, of the later of the two.
                if *other > index {
                    return None;
                }
                format!("the same sequence as door '{name}' has: both open")
            } else {
                format!("this sequence holds that of door '{name}': that one opens too")
            };
            let help = format!("the other is at {}", opened.places.name);
            Some(one.places.name.warning(message).help(help))
        };
        found.iter().filter_map(warn).collect()
    }

    /// Doors that begin with the same knocks, each with the one that is nearest to it.
    pub(super) fn shared_prefixes(&self) -> Vec<Diagnostic> {
        let mut sorted: Vec<&Linted<'_>> = self.all.iter().collect();
        sorted.sort_by_key(|one| one.sequence());
        sorted
            .array_windows()
            .filter_map(|&[one, other]| {
                let pairs = one.sequence().iter().zip(other.sequence());
                let shared = pairs.take_while(|(one, other)| one == other).count();
                let shorter = one.sequence().len().min(other.sequence().len());
                // Where the whole of one is shared, that was said already.
                if shared < 2 || shared == shorter || !same_target(*one, *other) {
                    return None;
                }
                let message = format!(
                    "shares a prefix of {shared} knocks with door '{}': who knows one has only the rest of the other to guess",
                    one.door.name()
                );
                let help = format!("the other is at {}", one.places.name);
                Some(other.places.name.warning(message).help(help))
            })
            .collect()
    }
}

fn same_target(one: Linted<'_>, other: Linted<'_>) -> bool {
    let targets = one.door.recognition.target.zip(other.door.recognition.target);
    targets.is_none_or(|(one, other)| one == other)
}

/// Whether the knocks of one door, as another sees them, hold that one's sequence.
fn opens_too(one: Linted<'_>, other: Linted<'_>) -> bool {
    let seen: Vec<Knock> =
        one.sequence().iter().copied().filter(|knock| other.watched.contains(*knock)).collect();
    let both_see = |knock: &Knock| {
        let (one, other) = (&one.door.recognition, &other.door.recognition);
        knock.protocol == Protocol::Udp || one.flags.and(other.flags).is_ok()
    };
    same_target(one, other)
        && other.sequence().iter().all(both_see)
        && seen.windows(other.sequence().len()).any(|knocks| knocks == other.sequence())
}
