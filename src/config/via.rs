//! What a door's `via` says: how it is opened.

use super::commands::{Template, Templates, missing_program};
use super::diagnostic::{Diagnostic, Place, Problems, meant};
use super::opening::{Fills, check_holes};
use super::raw::{Keys, Mapping, Node, Value};
use super::{Family, How, Name, NftFamily, NftName, NftSet};

pub(super) const VIA: Keys = Keys { of: "via", known: &["nft_set"] };
pub(super) const NFT_SET: Keys = Keys { of: "nft_set", known: &["table", "set4", "set6"] };

const A_SET: &str = "via: {nft_set: {table: inet filter, set4: ssh4, set6: ssh6}}";

/// Reads what `via` says of a door with these `fills`. `None` after an error.
pub(super) fn read_via(
    via: &Node,
    fills: Fills,
    templates: &Templates,
    problems: &mut Problems,
) -> Option<How> {
    if let Value::Mapping(mapping) = &via.value {
        return read_nft_set(mapping, &via.at, problems).map(How::Set);
    }
    let name = problems.keep(via.text("guard, the name of a template or an nft_set"))?;
    if name == "guard" {
        if !fills.port {
            let error = via.at.error("the guard has nothing to lock: the door has no 'open'");
            problems
                .push(error.help("write the ports that the door opens, such as open: [22/tcp]"));
            return None;
        }
        return Some(How::Guard);
    }
    let Some((name, template)) = templates.iter().find(|(known, _)| known.as_str() == name) else {
        problems.push(no_template(name, &via.at, templates));
        return None;
    };
    let Template { commands, built_in } = template;
    if *built_in {
        // What a shell runs is not looked into.
        let program = if name.as_str() == "firewalld" { "firewall-cmd" } else { name.as_str() };
        problems.extend(missing_program(program, &via.at));
    }
    check_holes(commands, fills, &via.at, problems);
    Some(How::Commands { template: Some(name.clone()), commands: commands.clone() })
}

fn no_template(name: &str, at: &Place, templates: &Templates) -> Diagnostic {
    if name == "nft_set" {
        return at.error("nft_set wants a table and sets").help(format!("write {A_SET}"));
    }
    let known = || std::iter::once("guard").chain(templates.keys().map(Name::as_str));
    let message = format!("there is no template '{name}'");
    match meant(name, known()) {
        Some(meant) => at.error(format!("{message}: did you mean '{meant}'?")),
        None => {
            let known: Vec<_> = known().skip(1).collect();
            let known = known.join(", ");
            at.error(message).help(format!("write guard, or a template: {known}"))
        }
    }
}

fn read_nft_set(via: &Mapping, at: &Place, problems: &mut Problems) -> Option<NftSet> {
    let meant = via.check_keys(&VIA, problems);
    let Some(node) = via.value("nft_set") else {
        // A key that is wrong has been said to be.
        if meant.is_empty() && via.entries.iter().all(|entry| entry.key == "nft_set") {
            problems.push(at.error("nft_set is empty").help(format!("write {A_SET}")));
        }
        return None;
    };
    let wanted = "a mapping such as {table: inet filter, set4: ssh4, set6: ssh6}";
    let mapping = problems.keep(node.mapping(wanted))?;
    let meant = mapping.check_keys(&NFT_SET, problems);
    let table = match mapping.value("table") {
        Some(table) => read_table(table, problems),
        None => {
            if !meant.contains(&"table") {
                let error = node.at.error("nft_set does not say in which table the sets are");
                problems.push(error.help("write for example table: inet filter"));
            }
            None
        }
    };
    let family = table.as_ref().map(|(family, _)| *family);
    let mut set = |key, packets| match mapping.value(key) {
        Some(node) => read_set(node, family, packets, problems).map(Some),
        None => Some(None),
    };
    let (set4, set6) = (set("set4", Family::V4), set("set6", Family::V6));
    let ((family, table), set4, set6) = (table?, set4?, set6?);
    if set4.is_none() && set6.is_none() {
        if meant.is_empty() {
            let error = node.at.error("nft_set names no set: nothing would be opened");
            problems.push(error.help("write set4, for IPv4 addresses, or set6, or both"));
        }
        return None;
    }
    if set4 == set6 {
        let at = mapping.value("set6").map_or(&node.at, |node| &node.at);
        let error = at.error("one set cannot hold the addresses of both families");
        problems.push(error.help("make one of 'type ipv4_addr' and one of 'type ipv6_addr'"));
        return None;
    }
    Some(NftSet { family, table, set4, set6 })
}

fn read_table(node: &Node, problems: &mut Problems) -> Option<(NftFamily, NftName)> {
    let text = problems.keep(node.text("a table such as inet filter"))?;
    let mut words = text.split_whitespace();
    let (Some(family), Some(name), None) = (words.next(), words.next(), words.next()) else {
        let error = node.at.error(format!("'{text}' does not name a table by its family and name"));
        problems.push(error.help("write for example inet filter; 'nft list tables' shows them"));
        return None;
    };
    let Some(found) = NftFamily::ALL.into_iter().find(|known| known.as_str() == family) else {
        let known = NftFamily::ALL.map(NftFamily::as_str);
        let message = format!("'{family}' is not a family of tables that see addresses");
        problems.push(match meant(family, known) {
            Some(meant) => node.at.error(format!("{message}: did you mean '{meant}'?")),
            None => node.at.error(message).help(format!("write one of {}", known.join(", "))),
        });
        return None;
    };
    let name = name.parse::<NftName>().map_err(|error| node.at.error(error.to_string()));
    let name = problems.keep(name)?;
    if found == NftFamily::Inet && name.as_str() == "knockd" {
        let error = node.at.error("the table 'inet knockd' is the guard's own");
        problems.push(error.help("make sets in a table of your own, or write via: guard"));
        return None;
    }
    Some((found, name))
}

fn read_set(
    node: &Node,
    family: Option<NftFamily>,
    packets: Family,
    problems: &mut Problems,
) -> Option<NftName> {
    let name = problems.keep(node.parsed("the name of a set"))?;
    let Some(family) = family.filter(|family| !family.sees(packets)) else { return Some(name) };
    let (version, key) = match packets {
        Family::V4 => (4, "set6"),
        Family::V6 => (6, "set4"),
    };
    let family = family.as_str();
    let message = format!("a table of the family {family} never sees an IPv{version} packet");
    problems.push(node.at.error(message).help(format!("write {key}, or name a table of inet")));
    None
}
