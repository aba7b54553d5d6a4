//! Lints of clients, and of the ports at which datagrams arrive.

use std::num::NonZeroU16;
use std::ops::RangeInclusive;

use crate::config::diagnostic::{Diagnostic, Place};
use crate::config::{Loaded, Recognition};
use crate::proto::knock::{Knock, Protocol};
use crate::proto::ports::PortSet;
use crate::time::Wall;

/// Clients that open nothing any more.
pub(super) fn expired(loaded: &Loaded, now: Wall) -> Vec<Diagnostic> {
    let clients = loaded.config.clients.iter().zip(&loaded.places.clients);
    clients
        .filter(|(client, _)| client.expires.is_some_and(|end| end <= now))
        .map(|(client, places)| {
            let at = places.keys.get("expires").unwrap_or(&places.name);
            let warning =
                at.warning(format!("client '{}' has expired: it opens nothing", client.name));
            warning.help("write a later date, or 'knockctl revoke' it")
        })
        .collect()
}

/// The ports at which datagrams arrive that open some door.
pub(super) fn arrivals(loaded: &Loaded) -> PortSet {
    let settings = &loaded.config.settings;
    let any = |opens: fn(&Recognition) -> bool| {
        loaded.config.doors.iter().any(|door| opens(&door.recognition))
    };
    let mut ports = PortSet::default();
    let mut add = |range: RangeInclusive<NonZeroU16>| ports.insert_range(Protocol::Udp, range);
    if any(|door| door.spa) {
        add(settings.spa.ports.clone());
    }
    if any(|door| door.fwknop) {
        add(settings.fwknop.ports.clone());
    }
    ports
}

/// Datagrams that are knocks at a door with these ports as well.
pub(super) fn knocks(watched: &PortSet, arrivals: &PortSet, at: &Place) -> Option<Diagnostic> {
    let (low, _) = watched.ranges(Protocol::Udp).find(|(low, high)| {
        arrivals.ranges(Protocol::Udp).any(|(from, to)| from <= *high && *low <= to)
    })?;
    let first = arrivals.ranges(Protocol::Udp).find(|(_, to)| low <= *to)?.0.max(low);
    let port = Knock::new(Protocol::Udp, NonZeroU16::new(first)?);
    let message =
        format!("datagrams arrive at {port}, which this door watches: each is a knock too");
    Some(at.warning(message).help("knock elsewhere, or write another 'port' for them"))
}
