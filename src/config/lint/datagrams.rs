//! Lints of clients, and of the ports at which datagrams arrive.

use super::doors::{common_ports, some_of};
use crate::config::{
    AddressPolicy, Client, Config, Diagnostic, Door, Loaded, Place, Recognition, WhenLost,
};
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

/// Clients whose requests need not name an address: who has caught one may send it to another gateway
/// of the fleet, as long as the store cannot say that it has been used.
pub(super) fn caught(loaded: &Loaded) -> Option<Diagnostic> {
    let Config { settings, doors, clients } = &loaded.config;
    settings.fleet.as_ref().filter(|fleet| fleet.when_lost == WhenLost::Alone)?;
    let may_be_caught = |(client, _): &(&Client, _)| {
        let is_any = |address: Option<AddressPolicy>| address == Some(AddressPolicy::Any);
        let spa = is_any(client.spa.as_ref().map(|it| it.address));
        let fwknop = is_any(client.fwknop.as_ref().map(|it| it.address));
        let mut doors = doors.iter().filter(|door| client.doors.contains(door.name()));
        doors.any(|Door { recognition: it, .. }| it.spa && spa || it.fwknop && fwknop)
    };
    let found = clients.iter().zip(&loaded.places.clients).filter(may_be_caught);
    let (_, places) = found.clone().next()?;
    let clients = some_of(found.map(|(client, _)| format!("'{}'", client.name)))?;
    let message = format!(
        "while the store is lost, whoever has caught a request of {clients} is let in by it at \
         another gateway"
    );
    let help = "write address: explicit for each that names its own; or fleet: {when_lost: refuse}";
    Some(places.name.warning(message).help(help))
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
