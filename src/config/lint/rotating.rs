//! Lints of rotating sequences: those that luck, a browser or another door gets in the way of.

use std::collections::HashMap;

use super::datagrams;
use super::doors::{Linted, LintedDoors, common_ports, some_of};
use super::scan::valid;
use crate::config::{Config, Diagnostic, Door, Loaded, Name, Place};
use crate::proto::totp::{Scheme, TotpMode};
use crate::proto::{Knock, PortSet, Protocol};

/// A door with rotating sequences.
#[derive(Clone, Copy)]
struct RotatingDoor<'a> {
    door: &'a Door,
    at: &'a Place,
    scheme: Scheme,
    /// How many clients have sequences here.
    clients: usize,
}

/// How many clients each door has whose sequences rotate.
fn rotating_clients(config: &Config) -> HashMap<&Name, usize> {
    let mut clients = HashMap::new();
    for client in config.clients.iter().filter(|client| client.totp.is_some()) {
        for door in &client.doors {
            *clients.entry(door).or_default() += 1;
        }
    }
    clients
}

/// Warnings about the doors whose sequences rotate.
pub(super) fn doubts(
    loaded: &Loaded,
    doors: &LintedDoors<'_>,
    listening: &PortSet,
) -> Vec<Diagnostic> {
    let clients = rotating_clients(&loaded.config);
    let all = doors.all.iter().filter_map(|&Linted { door, places, .. }| {
        let (at, scheme) = (places.of("totp"), door.recognition.totp?);
        let clients = clients.get(door.name()).copied().unwrap_or_default();
        Some(RotatingDoor { door, at, scheme, clients })
    });
    let all: Vec<_> = all.collect();
    let locked_out = loaded.config.settings.lockout.is_some();
    let arrivals = datagrams::arrivals(loaded);
    let mut warnings = shared_ranges(&all);
    for one in &all {
        warnings.extend(refused_by_browsers(*one));
        warnings.extend(soon_guessed(*one, locked_out));
        warnings.extend(used_ports(*one, listening, &doors.opened));
        warnings.extend(datagrams::knocks(&one.scheme.watched(), &arrivals, one.at));
    }
    for (knock, at) in doors.all.iter().flat_map(Linted::knocks) {
        warnings.extend(all.iter().find_map(|one| knocked_on(*one, knock, at)));
    }
    warnings
}

/// Ports to which browsers connect for nobody (Fetch Standard, "port blocking").
const BAD_PORTS: [u16; 83] = [
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101,
    102, 103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427,
    465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990,
    993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667,
    6668, 6669, 6679, 6697, 10080,
];

/// The ports of codes to which browsers do not connect.
pub fn bad_ports(base: u16) -> Vec<u16> {
    let codes = base..=base.saturating_add(99);
    BAD_PORTS.into_iter().filter(|port| codes.contains(port)).collect()
}

/// Codes that nobody can knock with a browser.
fn refused_by_browsers(one: RotatingDoor<'_>) -> Option<Diagnostic> {
    let TotpMode::Code { base, .. } = one.scheme.mode() else { return None };
    let bad = bad_ports(base);
    let (first, named) = (*bad.first()?, some_of(bad.iter())?);
    let message = format!(
        "browsers refuse to connect to {named}: they knock no code with {:02} in it",
        first - base
    );
    let next =
        (base.max(1024)..=u16::MAX - 99).chain([7000]).find(|base| bad_ports(*base).is_empty());
    let help = format!("write for example base: {}", next.unwrap_or(7000));
    Some(one.at.warning(message).help(help))
}

/// How many knocks one source may make in a second.
const KNOCKS_A_SECOND: f64 = 1e5;
const DAY: f64 = 86_400.0;

/// Sequences that somebody guesses who only goes on long enough.
fn soon_guessed(one: RotatingDoor<'_>, locked_out: bool) -> Option<Diagnostic> {
    if locked_out || matches!(one.scheme.mode(), TotpMode::Code { .. }) {
        return None;
    }
    let days = one.scheme.variety() / valid(&one.scheme, one.clients) / KNOCKS_A_SECOND / DAY;
    if days > 1000.0 {
        return None;
    }
    let when = if days < 1.0 { "a day".to_owned() } else { format!("{days:.0} days") };
    let message = format!("whoever knocks 100,000 times a second guesses a sequence within {when}");
    let help = "widen 'ports', write a greater 'length', or a 'lockout' under 'knockd:'";
    Some(one.at.warning(message).help(help))
}

/// Ports of the range that are in use: whoever uses them knocks.
fn used_ports(one: RotatingDoor<'_>, listening: &PortSet, opens: &PortSet) -> Vec<Diagnostic> {
    let range = one.scheme.watched();
    let warn = |what: &str, used: &PortSet| {
        let common = some_of(common_ports(used, &range))?;
        let message = format!("{what} {common}, which is in this range: whoever uses it knocks");
        Some(one.at.warning(message).help("name a range of ports that nothing else uses"))
    };
    let both = [warn("something listens on", listening), warn("a door opens", opens)];
    both.into_iter().flatten().collect()
}

/// A fixed knock within the range of rotating ones.
fn knocked_on(one: RotatingDoor<'_>, knock: Knock, at: &Place) -> Option<Diagnostic> {
    one.scheme.watched().contains(knock).then(|| {
        let message = format!(
            "{knock} is in the range of the rotating sequences of door '{}': it breaks those off",
            one.door.name()
        );
        at.warning(message).help("knock on a port outside of that range")
    })
}

/// Doors with a failure budget, and doors whose sequences use that up.
fn shared_ranges(all: &[RotatingDoor<'_>]) -> Vec<Diagnostic> {
    let mut sorted: Vec<(u16, u16, RotatingDoor<'_>)> = all
        .iter()
        .filter_map(|one| {
            let watched = one.scheme.watched();
            let (low, high) = Protocol::ALL.into_iter().find_map(|it| watched.ranges(it).next())?;
            Some((low, high, *one))
        })
        .collect();
    sorted.sort_by_key(|(low, _, one)| (*low, one.door.name()));
    let mut found = Vec::new();
    // The range so far that reaches furthest, with and without a budget.
    let mut reach: [Option<(u16, RotatingDoor<'_>)>; 2] = [None, None];
    for (low, high, one) in sorted {
        let budget = one.door.recognition.lockout.is_some();
        let against = if budget { reach.as_slice() } else { &reach[1..] };
        let other = against.iter().flatten().find(|(reach, _)| *reach >= low);
        found.extend(other.map(|(_, other)| {
            let (loser, winner) = if budget { (one, *other) } else { (*other, one) };
            let message = format!(
                "shares ports with door '{}': whoever knocks there fails here, and is locked out",
                winner.door.name()
            );
            loser.at.warning(message).help("give each door a range of its own")
        }));
        let own = &mut reach[usize::from(budget)];
        if own.as_ref().is_none_or(|(reach, _)| *reach < high) {
            *own = Some((high, one));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_that_browsers_refuse_are_in_order() {
        assert!(BAD_PORTS.is_sorted());
    }
}
