//! What is allowed in a configuration and yet hardly wanted.

mod commands;
mod datagrams;
mod rotating;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::path::Path;

pub use rotating::{clients as rotating_clients, scan_odds as rotating_odds};

use super::diagnostic::{Diagnostic, Place};
use super::load::Loaded;
use super::sequence::scan_order;
use super::watch::watch_sets;
use super::{Door, DoorPlaces, Name, Recognition};
use crate::proto::knock::{Knock, Protocol};
use crate::proto::ports::PortSet;
use crate::time::Wall;

/// What is known of the host that a configuration is for.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// The ports on which something listens for others.
    pub listening: PortSet,
    /// Its interfaces and their addresses, where they are known.
    pub network: Option<Network>,
    /// What time it is there, where it is known.
    pub now: Option<Wall>,
}

#[derive(Clone, Debug, Default)]
pub struct Network {
    pub interfaces: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// Whether packets for other hosts come through.
    pub forwards: bool,
}

/// Warnings about the interfaces and the doors.
pub fn lint(loaded: &Loaded, host: &Host) -> Vec<Diagnostic> {
    let watched = watch_sets(loaded.config.doors.iter().map(|door| &door.recognition));
    let doors = Doors::new(loaded, &watched);
    let mut warnings =
        host.network.as_ref().map_or_else(Vec::new, |network| missing_interfaces(loaded, network));
    let arrivals = datagrams::arrivals(loaded);
    for (index, one) in doors.all.iter().copied().enumerate() {
        let knocked = one.places.sequence.first().unwrap_or(&one.places.name);
        warnings.extend(datagrams::knocks(one.watched, &arrivals, knocked));
        warnings.extend(looks_like_option(one.door.name(), &one.places.name));
        warnings.extend(commands::doubts(one, loaded.config.settings.only_ipv4));
        warnings.extend(too_short(one));
        warnings.extend(completed_by_scan(one));
        warnings.extend(without_trip_wires(one));
        warnings.extend(doors.knocks_on_opened_ports(one));
        warnings.extend(listened_on(one, &host.listening));
        warnings.extend(host.network.as_ref().and_then(|network| foreign_target(one, network)));
        warnings.extend(doors.opened_on_the_way(index, one));
    }
    let clients = loaded.config.clients.iter().zip(&loaded.places.clients);
    warnings.extend(clients.filter_map(|(it, places)| looks_like_option(&it.name, &places.name)));
    warnings.extend(doors.readable());
    warnings.extend(doors.shared_prefixes());
    warnings.extend(rotating::doubts(loaded, &doors, &host.listening));
    warnings.extend(host.now.into_iter().flat_map(|now| datagrams::expired(loaded, now)));
    warnings
}

/// How likely a port scan in random order is to open a door.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Odds {
    /// There is no sequence.
    Never,
    OneIn(f64),
}

/// The odds of the fixed sequence of a door that watches w ports: w (w - 1) ... (w - n + 2) to one
/// for n knocks. A scan tries each port as often as the sequence has any of its own; a port tried
/// again at once does no harm.
pub fn scan_odds(door: &Recognition, watched: &PortSet) -> Odds {
    let mut knocks = door.sequence.clone();
    knocks.sort_unstable();
    let alike: Vec<usize> = knocks.chunk_by(|a, b| a == b).map(<[Knock]>::len).collect();
    let Some(&tries) = alike.iter().max() else { return Odds::Never };
    let orders = falling(tries * watched.len(), knocks.len() - 1);
    let right: f64 = alike.iter().map(|&count| falling(tries, count)).product();
    Odds::OneIn((orders / right).max(1.0))
}

/// How many ways there are to take so many of `all`, one after the other.
fn falling(all: usize, taken: usize) -> f64 {
    let left = (0..all).rev().take(taken);
    left.map(|below| f64::from(u32::try_from(below + 1).unwrap_or(u32::MAX))).product()
}

impl fmt::Display for Odds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Never => f.write_str("never"),
            Self::OneIn(one) if one <= 1.0 => f.write_str("every time"),
            Self::OneIn(number) if number < 1e15 => {
                let digits = format!("{number:.0}");
                let mut grouped = String::new();
                for (place, digit) in digits.chars().enumerate() {
                    if place > 0 && (digits.len() - place) % 3 == 0 {
                        grouped.push(',');
                    }
                    grouped.push(digit);
                }
                write!(f, "1 time in {grouped}")
            }
            Self::OneIn(number) => write!(f, "1 time in 10^{:.0}", number.log10().floor()),
        }
    }
}

/// A door, where it is written and what it watches.
#[derive(Clone, Copy)]
struct Linted<'a> {
    door: &'a Door,
    places: &'a DoorPlaces,
    watched: &'a PortSet,
}

impl<'a> Linted<'a> {
    fn sequence(&self) -> &'a [Knock] {
        &self.door.recognition.sequence
    }

    fn knocks(&self) -> impl Iterator<Item = (Knock, &'a Place)> + use<'a> {
        self.sequence().iter().copied().zip(&self.places.sequence)
    }
}

fn looks_like_option(name: &Name, at: &Place) -> Option<Diagnostic> {
    let warning =
        at.warning(format!("'{name}' looks like an option: programs take it only after --"));
    name.as_str().starts_with('-').then(|| warning.help("begin the name with a letter or a digit"))
}

fn missing_interfaces(loaded: &Loaded, network: &Network) -> Vec<Diagnostic> {
    let named = loaded.config.settings.interfaces.iter().zip(&loaded.places.interfaces);
    let missing = named
        .filter(|(name, _)| **name != "any" && !network.interfaces.contains(&name.to_string()));
    missing
        .map(|(name, at)| {
            let known = network.interfaces.join(", ");
            at.warning(format!("there is no interface '{name}' now: knockd will wait for it"))
                .help(format!("the interfaces of this host are: {known}"))
        })
        .collect()
}

/// A knock at an address that this host neither has nor leads to.
fn foreign_target(one: Linted<'_>, network: &Network) -> Option<Diagnostic> {
    let target = one.door.recognition.target?;
    if network.forwards || network.addresses.contains(&target) {
        return None;
    }
    let place = one.places.target.as_ref().unwrap_or(&one.places.name);
    let message = format!("{target} is not an address of this host, and it forwards nothing");
    Some(place.warning(message).help("remove it: then a knock at any address of this host counts"))
}

fn too_short(one: Linted<'_>) -> Option<Diagnostic> {
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
fn completed_by_scan(one: Linted<'_>) -> Option<Diagnostic> {
    let order = scan_order(one.sequence())?;
    let mut pairs = one.sequence().windows(2);
    if pairs.any(|pair| watches_between(one.watched, pair[0], pair[1])) {
        return None;
    }
    let message = format!("this sequence is monotone: a port scan in {order} order completes it");
    let place = one.places.sequence.first().unwrap_or(&one.places.name);
    let help = if one.door.recognition.trip_wires == 0 {
        "mix the order of the ports, and do not turn 'trip_wires' off"
    } else {
        "mix the order of the ports, or leave room for trip-wires between them"
    };
    Some(place.warning(message).help(help))
}

fn watches_between(watched: &PortSet, from: Knock, to: Knock) -> bool {
    let (low, high) = (from.port.min(to.port).get(), from.port.max(to.port).get());
    watched
        .ranges(from.protocol)
        .any(|(start, end)| start.max(low.saturating_add(1)) <= end.min(high.saturating_sub(1)))
}

fn without_trip_wires(one: Linted<'_>) -> Option<Diagnostic> {
    if one.door.recognition.trip_wires > 0 || one.sequence().is_empty() {
        return None;
    }
    let odds = scan_odds(&one.door.recognition, one.watched);
    let place = one.places.trip_wires.as_ref().unwrap_or(&one.places.name);
    let message = format!("without trip-wires a port scan in random order opens this door {odds}");
    Some(place.warning(message).help("remove this line, or write a number such as 16"))
}

/// The first few of the ports that a line names, if there are any.
pub fn some_of(ports: impl Iterator<Item = impl fmt::Display>) -> Option<String> {
    const NAMED: usize = 5;
    let mut named: Vec<_> = ports.take(NAMED + 1).map(|port| port.to_string()).collect();
    let more = if named.len() > NAMED { " and others" } else { "" };
    named.truncate(NAMED);
    (!named.is_empty()).then(|| named.join(", ") + more)
}

fn listened_on(one: Linted<'_>, listening: &PortSet) -> Vec<Diagnostic> {
    let mut warnings: Vec<_> = one
        .knocks()
        .filter(|(knock, _)| listening.contains(*knock))
        .map(|(knock, at)| {
            let message = format!("something listens on {knock}: whoever uses it knocks");
            at.warning(message).help("knock on a port that nothing else uses")
        })
        .collect();
    let wires =
        common_ports(listening, one.watched).filter(|knock| !one.sequence().contains(knock));
    if let Some(wires) = some_of(wires) {
        let message = format!(
            "something listens on {wires}, a trip-wire of this door: whoever uses it breaks off their sequence"
        );
        let place = one.places.trip_wires.as_ref().unwrap_or(&one.places.name);
        warnings
            .push(place.warning(message).help("knock further away from it, or lower 'trip_wires'"));
    }
    warnings
}

fn common_ports(one: &PortSet, other: &PortSet) -> impl Iterator<Item = Knock> {
    one.knocks().filter(|knock| other.contains(*knock))
}

/// All doors, and what is asked of all of them at once.
struct Doors<'a> {
    all: Vec<Linted<'a>>,
    /// Who opens a port.
    openers: HashMap<Knock, usize>,
    /// The doors whose sequence begins and ends with these knocks.
    ends: HashMap<(Knock, Knock), Vec<usize>>,
}

impl<'a> Doors<'a> {
    fn new(loaded: &'a Loaded, watched: &'a [PortSet]) -> Self {
        let all: Vec<_> = loaded
            .config
            .doors
            .iter()
            .zip(&loaded.places.doors)
            .zip(watched)
            .map(|((door, places), watched)| Linted { door, places, watched })
            .collect();
        let mut openers = HashMap::new();
        let mut ends: HashMap<_, Vec<usize>> = HashMap::new();
        for (index, one) in all.iter().enumerate() {
            for port in &one.door.opening.ports {
                openers.entry(*port).or_insert(index);
            }
            if let (Some(first), Some(last)) = (one.sequence().first(), one.sequence().last()) {
                ends.entry((*first, *last)).or_default().push(index);
            }
        }
        Self { all, openers, ends }
    }

    fn knocks_on_opened_ports(&self, one: Linted<'a>) -> Vec<Diagnostic> {
        one.knocks()
            .filter_map(|(knock, at)| {
                let opener = self.all.get(*self.openers.get(&knock)?)?;
                let message = format!(
                    "{knock} is knocked on here, and opened by door '{}': using it knocks",
                    opener.door.name()
                );
                Some(at.warning(message).help("knock on a port that nothing else uses"))
            })
            .collect()
    }

    /// The doors that the knocks of this one open as well.
    fn opened_on_the_way(&self, index: usize, one: Linted<'a>) -> Vec<Diagnostic> {
        let sequence = one.sequence();
        let mut found: Vec<usize> = Vec::new();
        for (from, first) in sequence.iter().enumerate() {
            for last in sequence.iter().skip(from) {
                let candidates = self.ends.get(&(*first, *last)).into_iter().flatten();
                found.extend(candidates.filter(|other| **other != index));
            }
        }
        found.sort_unstable();
        found.dedup();
        found.retain(|other| self.all.get(*other).is_some_and(|other| opens_too(one, *other)));
        let warn = |other: &usize| {
            let opened = self.all.get(*other)?;
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

    /// Files in which everybody on this host can read what opens a door.
    fn readable(&self) -> Vec<Diagnostic> {
        let knocks = self.all.iter().filter_map(|one| one.places.sequence.first());
        let files = knocks.filter_map(|at| Some((at.path(), at.file_mode()?)));
        let files: BTreeMap<_, _> = files.filter(|(_, mode)| mode & 0o004 != 0).collect();
        let warn = |(path, mode): (&Path, u32)| {
            let what = format!("holds sequences, and everybody here can read it (mode {mode:04o})");
            let help = format!("run: chmod o-r {}", path.display());
            Diagnostic::file(path, what).into_warning().help(help)
        };
        files.into_iter().map(warn).collect()
    }

    /// Doors that begin with the same knocks, each with the one that is nearest to it.
    fn shared_prefixes(&self) -> Vec<Diagnostic> {
        let mut sorted: Vec<&Linted<'_>> = self.all.iter().collect();
        sorted.sort_by_key(|one| one.sequence());
        let pairs = sorted.windows(2).filter_map(|pair| Some((*pair.first()?, *pair.last()?)));
        pairs
            .filter_map(|(one, other)| {
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
    match (one.door.recognition.target, other.door.recognition.target) {
        (Some(one), Some(other)) => one == other,
        _ => true,
    }
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

#[cfg(test)]
mod tests {

    use super::*;

    fn odds(sequence: &[&str], trip_wires: u16) -> Odds {
        let door = Recognition {
            sequence: sequence.iter().map(|port| port.parse().unwrap()).collect(),
            trip_wires,
            ..Recognition::new("door".parse().unwrap())
        };
        let watched = watch_sets([&door]);
        scan_odds(&door, &watched[0])
    }

    #[test]
    fn three_knocks_among_their_trip_wires_are_hit_once_in_many_scans() {
        let odds = odds(&["7000", "8000", "9000"], 16);
        assert_eq!(odds, Odds::OneIn(99.0 * 98.0));
        assert_eq!(odds.to_string(), "1 time in 9,702");
    }

    #[test]
    fn without_trip_wires_one_scan_in_six_hits_three_knocks() {
        assert_eq!(odds(&["7000", "8000", "9000"], 0), Odds::OneIn(6.0));
    }

    #[test]
    fn one_knock_is_hit_by_every_scan() {
        assert_eq!(odds(&["7000"], 16).to_string(), "every time");
    }

    #[test]
    fn a_scan_that_tries_each_port_twice_may_hit_a_sequence_that_has_one_twice() {
        assert_eq!(odds(&["7000", "8000", "7000"], 0), Odds::OneIn(3.0));
        assert_eq!(odds(&["7000", "7000", "8000"], 16).to_string(), "1 time in 4,323");
        assert_eq!(odds(&[], 16), Odds::Never);
    }

    #[test]
    fn long_sequences_have_odds_that_can_be_read() {
        let ports: Vec<_> = (1..=32).map(|place| (place * 1000).to_string()).collect();
        let ports: Vec<_> = ports.iter().map(String::as_str).collect();
        assert_eq!(odds(&ports, 16).to_string(), "1 time in 10^93");
    }
}
