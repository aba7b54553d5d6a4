//! Lints of clients, and of the ports at which datagrams arrive.

use super::doors::common_ports;
use crate::config::{Diagnostic, Loaded, Place, Recognition};
use crate::proto::{PortSet, Protocol};
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
    if any(|door| door.spa) {
        ports.insert_range(Protocol::Udp, settings.spa.ports.clone());
    }
    if any(|door| door.fwknop) {
        ports.insert_range(Protocol::Udp, settings.fwknop.ports.clone());
    }
    ports
}

/// Datagrams that are knocks at a door with these ports as well.
pub(super) fn knocks(watched: &PortSet, arrivals: &PortSet, at: &Place) -> Option<Diagnostic> {
    let port = common_ports(watched, arrivals).next()?;
    let message =
        format!("datagrams arrive at {port}, which this door watches: each is a knock too");
    Some(at.warning(message).help("knock elsewhere, or write another 'port' for them"))
}
