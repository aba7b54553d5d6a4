//! Cross-checks of clients and doors: shared or useless credentials, and doors without a client.

use std::collections::{HashMap, HashSet};

use crate::config::{Client, ClientPlaces, Diagnostic, Door, DoorPlaces, Name, Place};
use crate::proto::{Method, Widths};

type PlacedClient = (Client, ClientPlaces);
type PlacedDoor = (Door, DoorPlaces);

/// Credentials that two clients share, and doors that networks may be asked for and cannot be open
/// for them, as errors; credentials that open nothing, as warnings.
///
/// Takes time in proportion to the doors that clients name.
pub(crate) fn check(clients: &[PlacedClient], doors: &[PlacedDoor]) -> Vec<Diagnostic> {
    let mut found = shared_credentials(clients);
    let of_door = |(door, at): &PlacedDoor| too_wide(door, door.recognition.width, &at.keys);
    found.extend(doors.iter().filter_map(of_door));
    let doors: HashMap<&Name, &Door> = doors.iter().map(|(door, _)| (door.name(), door)).collect();
    found.extend(clients.iter().flat_map(|(client, places)| useless(client, places, &doors)));
    for (client, places) in clients {
        let own = client.doors.iter().filter_map(|name| doors.get(name));
        let own = own.filter(|door| door.recognition.spa && door.recognition.width.is_none());
        found.extend(own.filter_map(|door| too_wide(door, client.width, &places.keys)));
    }
    found
}

/// A door that networks may be asked for, and that opens for single addresses alone.
fn too_wide(door: &Door, width: Option<Widths>, at: &HashMap<&str, Place>) -> Option<Diagnostic> {
    let is_wide = width.is_some_and(|width| width != Widths::SINGLE);
    let at = at.get("width").filter(|_| is_wide && door.opening.is_for_one_address())?;
    let (name, via) = (door.name(), &door.opening.mechanism);
    let message = format!("door '{name}' opens for single addresses alone, via {via}");
    let help = "write %NET% where its commands have %IP%, or open it via guard, or remove 'width'";
    // A client may have secrets beside it.
    Some(at.error(message).without_line().help(help))
}

/// The doors that take what no client of theirs has, as warnings.
pub(crate) fn unopened(clients: &[PlacedClient], doors: &[PlacedDoor]) -> Vec<Diagnostic> {
    let mut opened: HashSet<(&Name, Method)> = HashSet::new();
    for (client, places) in clients {
        let held = held(places);
        opened.extend(held.flat_map(|method| client.doors.iter().map(move |door| (door, method))));
    }
    let mut found = Vec::new();
    for (door, places) in doors {
        let name = door.name();
        let unopened = taken(door).filter(|method| !opened.contains(&(name, *method)));
        found.extend(unopened.map(|method| {
            let message = format!("no client may open door '{name}' by {}", method.as_str());
            let help = "write one under 'clients:'; 'knockctl enroll' does it for you";
            places.of(method.as_str()).warning(message).help(help)
        }));
    }
    found
}

/// The methods that open a door and take a client's credentials.
fn taken(door: &Door) -> impl Iterator<Item = Method> {
    Method::ALL.into_iter().filter(|method| door.takes(*method))
}

/// The methods that a client has what they take for.
fn held(places: &ClientPlaces) -> impl Iterator<Item = Method> {
    Method::ALL.into_iter().filter(|method| places.of(*method).is_some())
}

/// The doors that a client names in vain, and what it holds in vain.
fn useless(
    client: &Client,
    places: &ClientPlaces,
    doors: &HashMap<&Name, &Door>,
) -> Vec<Diagnostic> {
    // A door that is not here has errors of its own.
    let own: Vec<_> = client.doors.iter().map(|name| doors.get(name)).collect();
    let mut found: Vec<Diagnostic> = own
        .iter()
        .zip(&places.doors)
        .filter_map(|(door, at)| Some((door.as_ref()?, at)))
        .filter(|(door, _)| !held(places).any(|method| door.takes(method)))
        .map(|(door, at)| {
            let message =
                format!("door '{}' takes nothing that client '{}' has", door.name(), client.name);
            let takes = taken(door).map(Method::as_str).collect::<Vec<_>>().join(", ");
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
        found.extend(Method::ALL.into_iter().filter_map(|method| {
            let is_vain = !own.iter().flatten().any(|door| door.takes(method));
            let at = places.of(method).filter(|_| is_vain)?;
            let message = format!("no door of client '{}' takes {}", client.name, method.as_str());
            Some(at.warning(message).without_line())
        }));
    }
    found
}

/// What two clients hold alike: nobody could tell them apart.
fn shared_credentials(clients: &[PlacedClient]) -> Vec<Diagnostic> {
    // Who is the first to hold a credential.
    let mut holders = HashMap::new();
    let mut found = Vec::new();
    for (client, places) in clients {
        // Where they open different doors, two TOTP secrets may be the same.
        let mut check = |what, door, credential, at| {
            let own = (&client.name, at);
            let first = *holders.entry((what, door, credential)).or_insert(own);
            (first.0 != own.0).then(|| alike(what, own, first))
        };
        if let (Some(totp), Some(at)) = (&client.totp, places.of(Method::Totp)) {
            let own = [Some(&totp.secret), totp.old.as_ref().map(|(secret, _)| secret)];
            let mut secrets = own.into_iter().flatten();
            found.extend(secrets.find_map(|secret| {
                let mut doors = client.doors.iter();
                doors.find_map(|door| check("TOTP secret", Some(door), secret.expose(), at))
            }));
        }
        let spa = client.spa.iter().flat_map(|spa| &spa.keys).zip(&places.spa_keys);
        found.extend(spa.filter_map(|(key, at)| check("public key", None, key.as_bytes(), at)));
        if let (Some(fwknop), Some(at)) = (&client.fwknop, places.of(Method::Fwknop)) {
            let old = fwknop.old.as_ref().map(|(keys, _)| keys);
            let keys = [Some(&fwknop.key), old.map(|(key, _)| key)].into_iter().flatten();
            let hmacs = [fwknop.hmac.as_ref().map(|(key, _)| key), old.map(|(_, key)| key)];
            let mut all = keys.map(|key| ("key of fwknop's", key.expose())).chain(
                hmacs.into_iter().flatten().map(|key| ("HMAC key of fwknop's", key.expose())),
            );
            found.extend(all.find_map(|(what, key)| check(what, None, key, at)));
        }
    }
    found
}

fn alike(what: &str, (name, at): (&Name, &Place), (first, there): (&Name, &Place)) -> Diagnostic {
    at.error(format!("client '{name}' has the same {what} as client '{first}' at {there}"))
        .without_line()
        .help("give each client one of its own: who knocks could not be told, nor be revoked alone")
}
