//! Reader of the `clients:` mapping.

use std::collections::{HashMap, HashSet};

use super::credentials::{self, Secrets, read_fwknop, read_spa, read_totp};
use super::date;
use crate::config::diagnostic::{Parsed, closest_match};
use crate::config::tree::{KnownKeys, MappingEntry, Node, Reader, Value, given_twice};
use crate::config::width::read_width;
use crate::config::{Client, ClientPlaces, Diagnostic, Name, Place, Problems};

pub(super) const CLIENT: KnownKeys =
    KnownKeys { of: "a client", known: &["doors", "expires", "width", "totp", "spa", "fwknop"] };

/// Reads one entry of `clients:`; `doors` are those that are written, good or not.
pub(super) fn read_client(
    entry: &MappingEntry,
    doors: &HashSet<&str>,
    secrets: &mut Secrets,
    problems: &mut Problems,
) -> Parsed<(Client, ClientPlaces)> {
    let mut own = Problems::default();
    let read = read_parts(entry, doors, secrets, &mut own);
    let hide = has_unknown_credentials(entry);
    let shown = |problem: Diagnostic| if hide { problem.without_line() } else { problem };
    problems.extend(own.into_sorted().into_iter().map(shown));
    read
}

/// Whether something unknown stands among the credentials: it may be a secret, or the key of one.
fn has_unknown_credentials(entry: &MappingEntry) -> bool {
    let Value::Mapping(client) = &entry.node.value else { return false };
    [("totp", &credentials::TOTP), ("spa", &credentials::SPA), ("fwknop", &credentials::FWKNOP)]
        .into_iter()
        .filter_map(|(key, keys)| Some((client.value(key)?, keys)))
        .any(|(node, keys)| match &node.value {
            Value::Mapping(mapping) => mapping
                .entries
                .iter()
                .any(|entry| !keys.names().any(|known| entry.key.eq_ignore_ascii_case(known))),
            _ => true,
        })
}

fn read_parts(
    entry: &MappingEntry,
    doors: &HashSet<&str>,
    secrets: &mut Secrets,
    problems: &mut Problems,
) -> Parsed<(Client, ClientPlaces)> {
    let name = problems.report(entry.name());
    let mut reader = Reader::new(&entry.node, "a client, with its doors,", &CLIENT, problems)?;
    let doors = read_doors(&mut reader, entry, doors);
    let expires = reader.read("expires", |node| node.read("a date", date::parse));
    let width = read_width(&mut reader);
    let (totp, spa, fwknop) = (reader.value("totp"), reader.value("spa"), reader.value("fwknop"));
    if totp.or(spa).or(fwknop).is_none() {
        let message = format!("client '{}' has nothing to prove itself with", entry.key);
        let help = "write totp, spa or fwknop; 'knockctl enroll' does it for you";
        return reader.missing(CLIENT.known, entry.at.error(message).help(help));
    }
    let totp = totp.map(|node| read_totp(node, secrets, reader.problems)).transpose();
    let spa = spa.map(|node| read_spa(node, reader.problems)).transpose();
    let fwknop = fwknop.map(|node| read_fwknop(node, secrets, reader.problems)).transpose();
    let (spa, spa_keys) = spa?.unzip();
    let (doors, door_places) = doors?.into_iter().unzip();
    let (name, expires, width, totp, fwknop) = (name?, expires?, width?, totp?, fwknop?);
    let client = Client { name, doors, expires, width, totp, spa, fwknop };
    let (name, spa_keys) = (entry.at.clone(), spa_keys.unwrap_or_default());
    let keys = reader.places(["expires", "totp", "fwknop", "width"]);
    let places = ClientPlaces { name, doors: door_places, spa_keys, keys };
    Ok((client, places))
}

/// The doors that are named, in the order of their names.
fn read_doors<'a>(
    reader: &mut Reader<'a>,
    entry: &MappingEntry,
    known: &HashSet<&str>,
) -> Parsed<Vec<(Name, Place)>> {
    let Some(node) = reader.value("doors").filter(|node| !node.items().is_empty()) else {
        let error = entry.at.error(format!("client '{}' has no door", entry.key));
        return reader.missing(&["doors"], error.help("write for example doors: [ssh]"));
    };
    let mut first: HashMap<&str, &Place> = HashMap::new();
    let read = |item: &'a Node| {
        let name = item.text("the name of a door")?;
        if let Some(first) = first.insert(name, &item.at) {
            return Err(given_twice(&item.at, &format!("door '{name}'"), first));
        }
        if known.contains(name) {
            return Ok(name.parse().ok().map(|name: Name| (name, item.at.clone())));
        }
        let meant = closest_match(name, known.iter().copied());
        let help = "write it under 'doors:', or remove it here";
        Err(item.at.misspelt(&format!("there is no door '{name}'"), meant, help))
    };
    let doors = reader.problems.report_all(node.items().iter().map(read))?;
    let mut doors: Vec<_> = doors.into_iter().flatten().collect();
    doors.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(doors)
}
