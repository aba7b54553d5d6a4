//! Lints: what is valid in a configuration, and yet probably a mistake.

pub(crate) mod access;
mod commands;
mod datagrams;
pub(crate) mod doors;
mod rotating;
pub(crate) mod scan;
mod sequences;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::Path;

pub use doors::some_of;
pub use rotating::bad_ports;
pub use scan::{Odds, rotating_odds, scan_odds};

use self::doors::{Linted, LintedDoors, common_ports};
use super::diagnostic::{Diagnostic, Place};
use super::loaded::Loaded;
use super::watch::watch_sets;
use crate::proto::name::Name;
use crate::proto::{Family, Knock, PortSet, Widths};
use crate::time::Wall;

/// Facts about the host that a configuration is for, as far as they are known.
#[derive(Clone, Debug, Default)]
pub struct HostFacts {
    /// The ports on which something listens for others.
    pub listening: PortSet,
    /// Its interfaces and their addresses, where they are known.
    pub network: Option<HostNetwork>,
    /// What time it is there, where it is known.
    pub now: Option<Wall>,
}

/// The interfaces of a host and their addresses.
#[derive(Clone, Debug, Default)]
pub struct HostNetwork {
    pub interfaces: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// The families of which packets for other hosts come through.
    pub forwards: Vec<Family>,
}

/// Warnings about the interfaces and the doors.
pub fn lint(loaded: &Loaded, host: &HostFacts) -> Vec<Diagnostic> {
    let watched = watch_sets(loaded.config.doors.iter().map(|door| &door.recognition));
    let doors = LintedDoors::new(loaded, &watched);
    let mut warnings =
        host.network.as_ref().map_or_else(Vec::new, |network| missing_interfaces(loaded, network));
    let arrivals = datagrams::arrivals(loaded);
    for (index, one) in doors.all.iter().copied().enumerate() {
        warnings.extend(datagrams::knocks(one.watched, &arrivals, one.sequence_place()));
        warnings.extend(looks_like_option(one.door.name(), &one.places.name));
        warnings.extend(commands::doubts(one, loaded.config.settings.only_ipv4));
        warnings.extend(sequences::too_short(one));
        warnings.extend(sequences::completed_by_scan(one));
        warnings.extend(sequences::without_trip_wires(one));
        warnings.extend(doors.knocks_on_opened_ports(one));
        warnings.extend(listened_on(one, &host.listening));
        warnings.extend(host.network.as_ref().and_then(|network| foreign_target(one, network)));
        warnings.extend(leads_nobody(one));
        warnings.extend(wide(one.door.recognition.width, one.places.keys.get("width")));
        warnings.extend(doors.opened_on_the_way(index, one));
    }
    for (it, places) in loaded.config.clients.iter().zip(&loaded.places.clients) {
        warnings.extend(looks_like_option(&it.name, &places.name));
        warnings.extend(wide(it.width, places.keys.get("width")));
    }
    warnings.extend(readable(&doors));
    warnings.extend(doors.shared_prefixes());
    warnings.extend(masqueraded_anyway(&doors));
    warnings.extend(rotating::doubts(loaded, &doors, &host.listening));
    warnings.extend(datagrams::caught(loaded));
    warnings.extend(host.now.into_iter().flat_map(|now| datagrams::expired(loaded, now)));
    warnings
}

fn looks_like_option(name: &Name, at: &Place) -> Option<Diagnostic> {
    let warning =
        at.warning(format!("'{name}' looks like an option: programs take it only after --"));
    name.as_str().starts_with('-').then(|| warning.help("begin the name with a letter or a digit"))
}

/// Networks that are more than a carrier's few addresses, or one customer's.
fn wide(width: Option<Widths>, at: Option<&Place>) -> impl Iterator<Item = Diagnostic> {
    let Widths { ipv4, ipv6 } = width.unwrap_or(Widths::SINGLE);
    let families = [(ipv4, 28, 32, "IPv4"), (ipv6, 64, 128, "IPv6")].into_iter();
    families.filter(|(bits, least, ..)| bits < least).filter_map(move |(bits, least, all, of)| {
        let many = 1_u128 << (all - bits);
        let message = format!("a request may open for {many} addresses of {of}, most a stranger's");
        let warning = at?.warning(message).without_line();
        Some(warning.help(format!("write {least} or more where that is enough")))
    })
}

fn missing_interfaces(loaded: &Loaded, network: &HostNetwork) -> Vec<Diagnostic> {
    let named = loaded.config.settings.interfaces.iter().zip(&loaded.places.interfaces);
    let missing = named
        .filter(|(name, _)| &***name != "any" && !network.interfaces.contains(&name.to_string()));
    missing
        .map(|(name, at)| {
            let known = network.interfaces.join(", ");
            at.warning(format!("there is no interface '{name}' now: knockd will wait for it"))
                .help(format!("the interfaces of this host are: {known}"))
        })
        .collect()
}

/// A knock at an address that this host neither has nor leads to.
fn foreign_target(one: Linted<'_>, network: &HostNetwork) -> Option<Diagnostic> {
    let target = one.door.recognition.target?;
    if network.forwards.contains(&Family::of(target)) || network.addresses.contains(&target) {
        return None;
    }
    let message = format!("{target} is not an address of this host, and it forwards nothing");
    let warning = one.places.of("target").warning(message);
    Some(warning.help("remove it: then a knock at any address of this host counts"))
}

/// A forward that is for who comes by the family that the door's target is not of.
fn leads_nobody(one: Linted<'_>) -> Option<Diagnostic> {
    let target = one.door.recognition.target?;
    let mut forwards = one.door.opening.forwards.iter().zip(&one.places.forwards);
    let (_, at) = forwards.find(|(it, _)| Family::of(it.to) != Family::of(target))?;
    let message = format!("nobody who comes to {target} is led to an address of the other family");
    Some(at.warning(message).help("remove this entry; or make it one of a door without 'target'"))
}

/// Forwards to where another one masquerades: the guard does so for a host and port.
fn masqueraded_anyway(doors: &LintedDoors<'_>) -> Vec<Diagnostic> {
    let all = || {
        let all = doors.all.iter();
        let forwards =
            all.flat_map(|one| one.door.opening.forwards.iter().zip(&one.places.forwards));
        forwards.map(|(it, at)| ((it.to, Knock { port: it.port, ..it.on }), it.masquerade, at))
    };
    let others = all().filter(|(_, masquerade, _)| *masquerade);
    let others: HashMap<_, _> = others.map(|(leads_to, _, at)| (leads_to, at)).collect();
    let plain = all().filter(|(_, masquerade, _)| !masquerade);
    let doubt = |(leads_to, _, at): (_, _, &Place)| {
        let other = others.get(&leads_to)?;
        let message = format!("masqueraded all the same, since another forward there is: {other}");
        Some(at.warning(message).help("write masquerade: true for both, or for none"))
    };
    plain.filter_map(doubt).collect()
}

fn listened_on(one: Linted<'_>, listening: &PortSet) -> Vec<Diagnostic> {
    let warn = |(knock, at): (Knock, &Place)| {
        let message = format!("something listens on {knock}: whoever uses it knocks");
        at.warning(message).help("knock on a port that nothing else uses")
    };
    let used = one.knocks().filter(|(knock, _)| listening.contains(*knock));
    let mut warnings: Vec<_> = used.map(warn).collect();
    let wires =
        common_ports(listening, one.watched).filter(|knock| !one.sequence().contains(knock));
    if let Some(wires) = some_of(wires) {
        let message = format!(
            "something listens on {wires}, a trip-wire of this door: whoever uses it breaks off their sequence"
        );
        let help = "knock further away from it, or lower 'trip_wires'";
        warnings.push(one.places.of("trip_wires").warning(message).help(help));
    }
    warnings
}

/// Files in which everybody on this host can read what opens a door.
fn readable(doors: &LintedDoors<'_>) -> Vec<Diagnostic> {
    let knocks = doors.all.iter().filter_map(|one| one.places.sequence.first());
    let files = knocks.filter_map(|at| Some((at.path(), at.file_mode()?)));
    let files: BTreeMap<_, _> = files.filter(|(_, mode)| mode & 0o004 != 0).collect();
    let warn = |(path, mode): (&Path, u32)| {
        let what = format!("holds sequences, and everybody here can read it (mode {mode:04o})");
        let help = format!("run: chmod o-r {}", path.display());
        Diagnostic::file(path, what).into_warning().help(help)
    };
    files.into_iter().map(warn).collect()
}
