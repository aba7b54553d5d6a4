//! What clients and doors have to do with each other.

use std::collections::{HashMap, HashSet};

use crate::config::diagnostic::{Diagnostic, Place};
use crate::config::{Client, ClientPlaces, Door, DoorPlaces, Name, Recognition};

type Clients = [(Client, ClientPlaces)];
type LintedDoors = [(Door, DoorPlaces)];

/// A way to open a door that needs a client.
struct Way {
    name: &'static str,
    opens: fn(&Recognition) -> bool,
    /// Where a door says so.
    place: fn(&DoorPlaces) -> Option<&Place>,
    is_held: fn(&Client) -> bool,
    /// Where a client has what it takes.
    held_at: fn(&ClientPlaces) -> Option<&Place>,
}

const WAYS: [Way; 3] = [
    Way {
        name: "totp",
        opens: |door| door.totp.is_some(),
        place: |places| places.totp.as_ref(),
        is_held: |client| client.totp.is_some(),
        held_at: |places| places.totp.as_ref(),
    },
    Way {
        name: "spa",
        opens: |door| door.spa,
        place: |places| places.spa.as_ref(),
        is_held: |client| client.spa.is_some(),
        held_at: |places| places.spa_keys.first(),
    },
    Way {
        name: "fwknop",
        opens: |door| door.fwknop,
        place: |places| places.fwknop.as_ref(),
        is_held: |client| client.fwknop.is_some(),
        held_at: |places| places.fwknop.as_ref(),
    },
];

impl Way {
    /// The ways that open a door.
    fn of(door: &Door) -> impl Iterator<Item = &'static Self> {
        WAYS.iter().filter(|way| (way.opens)(&door.recognition))
    }
}

/// Credentials that two clients share, as errors, and those that open nothing, as warnings.
///
/// Takes time in proportion to the doors that clients name.
pub(crate) fn check(clients: &Clients, doors: &LintedDoors) -> Vec<Diagnostic> {
    let mut found = shared_credentials(clients);
    let doors: HashMap<&Name, &Door> = doors.iter().map(|(door, _)| (door.name(), door)).collect();
    found.extend(clients.iter().flat_map(|(client, places)| useless(client, places, &doors)));
    found
}

/// The doors that take what no client of theirs has, as warnings.
pub(crate) fn unopened(clients: &Clients, doors: &LintedDoors) -> Vec<Diagnostic> {
    let mut opened: HashSet<(&Name, &str)> = HashSet::new();
    for (client, _) in clients {
        let ways = WAYS.iter().filter(|way| (way.is_held)(client));
        opened.extend(ways.flat_map(|way| client.doors.iter().map(|door| (door, way.name))));
    }
    let mut found = Vec::new();
    for (door, places) in doors {
        let name = door.name();
        let ways = Way::of(door).filter(|way| !opened.contains(&(name, way.name)));
        found.extend(ways.map(|way| {
            let at = (way.place)(places).unwrap_or(&places.name);
            let message = format!("no client may open door '{name}' by {}", way.name);
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
    let mut found: Vec<Diagnostic> = own
        .iter()
        .zip(&places.doors)
        .filter_map(|(door, at)| Some((door.as_ref()?, at)))
        .filter(|(door, _)| !Way::of(door).any(|way| (way.is_held)(client)))
        .map(|(door, at)| {
            let message =
                format!("door '{}' takes nothing that client '{}' has", door.name(), client.name);
            let takes = Way::of(door).map(|way| way.name).collect::<Vec<_>>().join(", ");
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
        found.extend(WAYS.iter().filter_map(|way| {
            let is_vain = !own.iter().flatten().any(|door| (way.opens)(&door.recognition));
            let at = (way.held_at)(places).filter(|_| is_vain)?;
            let message = format!("no door of client '{}' takes {}", client.name, way.name);
            Some(at.warning(message).without_line())
        }));
    }
    found
}

/// What two clients hold alike: nobody could tell them apart.
fn shared_credentials(clients: &Clients) -> Vec<Diagnostic> {
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
        if let (Some(totp), Some(at)) = (&client.totp, &places.totp) {
            let own = [Some(&totp.secret), totp.old.as_ref().map(|(secret, _)| secret)];
            let mut secrets = own.into_iter().flatten();
            found.extend(secrets.find_map(|secret| {
                let mut doors = client.doors.iter();
                doors.find_map(|door| check("TOTP secret", Some(door), secret.expose(), at))
            }));
        }
        let spa = client.spa.iter().flat_map(|spa| &spa.keys).zip(&places.spa_keys);
        found.extend(spa.filter_map(|(key, at)| check("public key", None, key.as_bytes(), at)));
        if let (Some(fwknop), Some(at)) = (&client.fwknop, &places.fwknop) {
            let key = check("key of fwknop's", None, fwknop.key.expose(), at);
            let hmac = fwknop.hmac.as_ref().map(|(hmac, _)| hmac.expose());
            let alike = || check("HMAC key of fwknop's", None, hmac?, at);
            found.extend(key.or_else(alike));
        }
    }
    found
}

fn alike(what: &str, (name, at): (&Name, &Place), (first, there): (&Name, &Place)) -> Diagnostic {
    at.error(format!("client '{name}' has the same {what} as client '{first}' at {there}"))
        .without_line()
        .help("give each client one of its own: who knocks could not be told, nor be revoked alone")
}
