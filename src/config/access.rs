//! What clients and doors have to do with each other.

use std::collections::{HashMap, HashSet};

use super::client::Client;
use super::clients::ClientPlaces;
use super::diagnostic::{Diagnostic, Place};
use super::{Door, DoorPlaces, Name};
use crate::proto::spa::PublicKey;

type Clients = [(Client, ClientPlaces)];
type Doors = [(Door, DoorPlaces)];

/// Ways to open a door that need a client.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Way {
    Totp,
    Spa,
    Fwknop,
}

impl Way {
    const ALL: [Self; 3] = [Self::Totp, Self::Spa, Self::Fwknop];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Totp => "totp",
            Self::Spa => "spa",
            Self::Fwknop => "fwknop",
        }
    }

    const fn opens(self, door: &Door) -> bool {
        match self {
            Self::Totp => door.recognition.totp.is_some(),
            Self::Spa => door.recognition.spa,
            Self::Fwknop => door.recognition.fwknop,
        }
    }

    /// Where a door says so.
    const fn place(self, door: &DoorPlaces) -> Option<&Place> {
        match self {
            Self::Totp => door.totp.as_ref(),
            Self::Spa => door.spa.as_ref(),
            Self::Fwknop => door.fwknop.as_ref(),
        }
    }

    const fn is_held_by(self, client: &Client) -> bool {
        match self {
            Self::Totp => client.totp.is_some(),
            Self::Spa => client.spa.is_some(),
            Self::Fwknop => client.fwknop.is_some(),
        }
    }
}

/// Credentials that two clients share, as errors, and those that open nothing, as warnings.
///
/// Takes time in proportion to the doors that clients name.
pub(super) fn check(clients: &Clients, doors: &Doors) -> Vec<Diagnostic> {
    let mut found = shared_credentials(clients);
    let doors: HashMap<&Name, &Door> = doors.iter().map(|(door, _)| (door.name(), door)).collect();
    found.extend(clients.iter().flat_map(|(client, places)| useless(client, places, &doors)));
    found
}

/// The doors that take what no client of theirs has, as warnings.
pub(super) fn unopened(clients: &Clients, doors: &Doors) -> Vec<Diagnostic> {
    let mut opened: HashSet<(&Name, Way)> = HashSet::new();
    for (client, _) in clients {
        let ways = Way::ALL.into_iter().filter(|way| way.is_held_by(client));
        opened.extend(ways.flat_map(|way| client.doors.iter().map(move |door| (door, way))));
    }
    let mut found = Vec::new();
    for (door, places) in doors {
        let name = door.name();
        let ways = Way::ALL.into_iter().filter(|way| way.opens(door));
        found.extend(ways.filter(|way| !opened.contains(&(name, *way))).map(|way| {
            let at = way.place(places).unwrap_or(&places.name);
            let message = format!("no client may open door '{name}' by {}", way.as_str());
            let help = "write one under 'clients:'; 'knockctl enroll' does it for you";
            at.warning(message).help(help)
        }));
    }
    found
}

/// The doors that a client names in vain, and what it holds in vain.
fn useless(
    client: &Client,
    places: &ClientPlaces,
    doors: &HashMap<&Name, &Door>,
) -> Vec<Diagnostic> {
    // A door that is not here has errors of its own.
    let own: Vec<_> = client.doors.iter().map(|name| doors.get(name)).collect();
    let opens = |way: Way, door: &Door| way.is_held_by(client) && way.opens(door);
    let mut found: Vec<Diagnostic> = own
        .iter()
        .zip(&places.doors)
        .filter_map(|(door, at)| Some((door.as_ref()?, at)))
        .filter(|(door, _)| !Way::ALL.iter().any(|way| opens(*way, door)))
        .map(|(door, at)| {
            let message =
                format!("door '{}' takes nothing that client '{}' has", door.name(), client.name);
            let takes = Way::ALL.iter().filter(|way| way.opens(door)).map(|way| way.as_str());
            let takes = takes.collect::<Vec<_>>().join(", ");
            let warning = at.warning(message);
            if takes.is_empty() {
                warning.help("write totp, spa or fwknop to the door as well")
            } else {
                warning.help(format!("the door takes {takes}"))
            }
        })
        .collect();
    // Where every door is useless, that has been said.
    if found.len() < own.len() && own.iter().all(Option::is_some) {
        let spa = places.spa_keys.first();
        let held = [
            (Way::Totp, places.totp.as_ref()),
            (Way::Spa, spa),
            (Way::Fwknop, places.fwknop.as_ref()),
        ];
        found.extend(held.into_iter().filter_map(|(way, at)| {
            let vain = at.filter(|_| !own.iter().flatten().any(|door| way.opens(door)))?;
            let message = format!("no door of client '{}' takes {}", client.name, way.as_str());
            Some(vain.warning(message).without_line())
        }));
    }
    found
}

/// What two clients hold alike: nobody could tell them apart.
fn shared_credentials(clients: &Clients) -> Vec<Diagnostic> {
    let mut secrets: HashMap<(&Name, &[u8]), (&Name, &Place)> = HashMap::new();
    let mut keys: HashMap<PublicKey, (&Name, &Place)> = HashMap::new();
    let mut fwknop_keys: HashMap<&[u8], (&Name, &Place)> = HashMap::new();
    let mut hmac_keys: HashMap<&[u8], (&Name, &Place)> = HashMap::new();
    let mut found = Vec::new();
    for (client, places) in clients {
        let name = &client.name;
        if let (Some(totp), Some(at)) = (&client.totp, &places.totp) {
            let own = [Some(&totp.secret), totp.old.as_ref().map(|(secret, _)| secret)];
            let shared = own.into_iter().flatten().find_map(|secret| {
                let mut doors = client.doors.iter();
                doors.find_map(|door| {
                    let first = *secrets.entry((door, secret.expose())).or_insert((name, at));
                    (first.0 != name).then_some(first)
                })
            });
            found.extend(shared.map(|first| alike("TOTP secret", (name, at), first)));
        }
        if let Some(spa) = &client.spa {
            for (key, at) in spa.keys.iter().zip(&places.spa_keys) {
                let first = *keys.entry(*key).or_insert((name, at));
                if first.0 != name {
                    found.push(alike("public key", (name, at), first));
                }
            }
        }
        if let (Some(fwknop), Some(at)) = (&client.fwknop, &places.fwknop) {
            let first = *fwknop_keys.entry(fwknop.key.expose()).or_insert((name, at));
            if first.0 != name {
                found.push(alike("key of fwknop's", (name, at), first));
                continue;
            }
            let Some((hmac, _)) = &fwknop.hmac else { continue };
            let first = *hmac_keys.entry(hmac.expose()).or_insert((name, at));
            if first.0 != name {
                found.push(alike("HMAC key of fwknop's", (name, at), first));
            }
        }
    }
    found
}

fn alike(what: &str, (name, at): (&Name, &Place), (first, there): (&Name, &Place)) -> Diagnostic {
    at.error(format!("client '{name}' has the same {what} as client '{first}' at {there}"))
        .without_line()
        .help("give each client one of its own: who knocks could not be told, nor be revoked alone")
}
