//! The `clients:` mapping.

use std::collections::{HashMap, HashSet};

use super::Name;
use super::client::Client;
use super::credentials::{self, Secrets, read_fwknop, read_spa, read_totp};
use super::diagnostic::{Diagnostic, Place, Problems, meant};
use super::moment;
use super::raw::{Entry, Keys, Mapping, Value, given_twice};

pub(super) const CLIENT: Keys =
    Keys { of: "a client", known: &["doors", "expires", "totp", "spa", "fwknop"] };

/// Where the parts of a client are written.
#[derive(Clone, Debug)]
pub struct ClientPlaces {
    pub name: Place,
    pub expires: Option<Place>,
    /// One for each door.
    pub doors: Vec<Place>,
    pub totp: Option<Place>,
    /// One for each public key.
    pub spa_keys: Vec<Place>,
    pub fwknop: Option<Place>,
}

/// Reads one entry of `clients:`; `doors` are those that are written, good or not. `None` after an
/// error.
pub(super) fn read_client(
    entry: &Entry,
    doors: &HashSet<&str>,
    secrets: &mut Secrets,
    problems: &mut Problems,
) -> Option<(Client, ClientPlaces)> {
    let mut own = Problems::default();
    let read = read_parts(entry, doors, secrets, &mut own);
    let hide = has_unknown_credentials(entry);
    let shown = |problem: Diagnostic| if hide { problem.without_line() } else { problem };
    problems.extend(own.into_sorted().into_iter().map(shown));
    read
}

/// Whether something unknown stands among the credentials: it may be a secret, or the key of one.
fn has_unknown_credentials(entry: &Entry) -> bool {
    let Value::Mapping(client) = &entry.node.value else { return false };
    [("totp", &credentials::TOTP), ("spa", &credentials::SPA), ("fwknop", &credentials::FWKNOP)]
        .into_iter()
        .filter_map(|(key, keys)| Some((client.value(key)?, keys)))
        .any(|(node, keys)| match &node.value {
            Value::Mapping(mapping) => mapping
                .entries
                .iter()
                .any(|entry| !keys.known.iter().any(|known| entry.key.eq_ignore_ascii_case(known))),
            _ => true,
        })
}

fn read_parts(
    entry: &Entry,
    doors: &HashSet<&str>,
    secrets: &mut Secrets,
    problems: &mut Problems,
) -> Option<(Client, ClientPlaces)> {
    let name = problems.keep(entry.name());
    let mapping = problems.keep(entry.node.mapping("a client, with its doors,"))?;
    let meant = mapping.check_keys(&CLIENT, problems);
    let doors = read_doors(mapping, entry, doors, &meant, problems);
    let expires = match mapping.value("expires") {
        Some(node) => problems.keep(node.read("a date", moment::parse)).map(Some),
        None => Some(None),
    };
    let (totp_node, spa_node, fwknop_node) =
        (mapping.value("totp"), mapping.value("spa"), mapping.value("fwknop"));
    let totp = totp_node.map(|node| read_totp(node, secrets, problems));
    let spa = spa_node.map(|node| read_spa(node, problems));
    let fwknop = fwknop_node.map(|node| read_fwknop(node, secrets, problems));
    if totp.is_none() && spa.is_none() && fwknop.is_none() {
        if meant.is_empty() {
            let message = format!("client '{}' has nothing to prove itself with", entry.key);
            let help = "write totp, spa or fwknop; 'knockctl enroll' does it for you";
            problems.push(entry.at.error(message).help(help));
        }
        return None;
    }
    // What is absent is good, what is wrong is not.
    let (totp, spa, fwknop) = (whole(totp)?, whole(spa)?, whole(fwknop)?);
    let (spa, spa_keys) = spa.map_or((None, Vec::new()), |(spa, places)| (Some(spa), places));
    let (doors, door_places) = doors?.into_iter().unzip();
    let client = Client { name: name?, doors, expires: expires?, totp, spa, fwknop };
    let places = ClientPlaces {
        name: entry.at.clone(),
        expires: mapping.value("expires").map(|node| node.at.clone()),
        doors: door_places,
        totp: totp_node.map(|node| node.at.clone()),
        spa_keys,
        fwknop: fwknop_node.map(|node| node.at.clone()),
    };
    Some((client, places))
}

/// `None` where something is there and wrong.
#[expect(clippy::option_option, reason = "absent and wrong are two things")]
fn whole<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    match read {
        Some(None) => None,
        Some(Some(value)) => Some(Some(value)),
        None => Some(None),
    }
}

/// The doors that are named, in the order of their names.
fn read_doors(
    mapping: &Mapping,
    entry: &Entry,
    known: &HashSet<&str>,
    misspelt: &[&str],
    problems: &mut Problems,
) -> Option<Vec<(Name, Place)>> {
    let Some(node) = mapping.value("doors").filter(|node| !node.items().is_empty()) else {
        if !misspelt.contains(&"doors") {
            let message = format!("client '{}' has no door", entry.key);
            problems.push(entry.at.error(message).help("write for example doors: [ssh]"));
        }
        return None;
    };
    let mut first: HashMap<&str, &Place> = HashMap::new();
    let mut doors = Vec::new();
    let mut good = true;
    for item in node.items() {
        let Some(name) = problems.keep(item.text("the name of a door")) else {
            good = false;
            continue;
        };
        if let Some(first) = first.insert(name, &item.at) {
            problems.push(given_twice(&item.at, &format!("door '{name}'"), first));
        } else if known.contains(name) {
            doors.extend(name.parse().ok().map(|name: Name| (name, item.at.clone())));
            continue;
        } else {
            let message = format!("there is no door '{name}'");
            problems.push(match meant(name, known.iter().copied()) {
                Some(meant) => item.at.error(format!("{message}: did you mean '{meant}'?")),
                None => item.at.error(message).help("write it under 'doors:', or remove it here"),
            });
        }
        good = false;
    }
    doors.sort_by(|(one, _), (other, _)| one.cmp(other));
    good.then_some(doors)
}
