//! Reader of a door's `via`: the mechanism by which it is opened.

use super::commands::{AvailableHoles, Template, Templates, check_holes, missing_program};
use crate::config::diagnostic::{Parsed, closest_match};
use crate::config::tree::{KnownKeys, Mapping, Node, Reader, Value};
use crate::config::{
    Diagnosed, Diagnostic, Family, Mechanism, Name, NftFamily, NftName, NftSet, Place, Problems,
};

const VIA: KnownKeys = KnownKeys { of: "via", known: &["nft_set"] };
const NFT_SET: KnownKeys = KnownKeys { of: "nft_set", known: &["table", "set4", "set6"] };

const A_SET: &str = "via: {nft_set: {table: inet filter, set4: ssh4, set6: ssh6}}";

/// Reads what `via` says of a door whose commands have these holes `available`.
pub(super) fn read_via(
    via: &Node,
    available: AvailableHoles,
    templates: &Templates,
    problems: &mut Problems,
) -> Parsed<Mechanism> {
    if let Value::Mapping(mapping) = &via.value {
        return read_nft_set(mapping, &via.at, problems).map(Mechanism::Set);
    }
    let name = problems.report(via.text("guard, the name of a template or an nft_set"))?;
    if name == "guard" {
        let error = via.at.error("the guard has nothing to lock: the door has no 'open'");
        let error = error.help("write the ports that the door opens, such as open: [22/tcp]");
        return problems.report(if available.port { Ok(Mechanism::Guard) } else { Err(error) });
    }
    let found = templates.iter().find(|(known, _)| known.as_str() == name);
    let found = found.ok_or_else(|| no_template(name, &via.at, templates));
    let (name, Template { commands, built_in }) = problems.report(found)?;
    if *built_in {
        // What a shell runs is not looked into.
        let program = if name.as_str() == "firewalld" { "firewall-cmd" } else { name.as_str() };
        problems.extend(missing_program(program, &via.at));
    }
    check_holes(commands, available, &via.at, problems);
    Ok(Mechanism::Commands { template: Some(name.clone()), commands: commands.clone() })
}

fn no_template(name: &str, at: &Place, templates: &Templates) -> Diagnostic {
    if name == "nft_set" {
        return at.error("nft_set wants a table and sets").help(format!("write {A_SET}"));
    }
    let names: Vec<_> = templates.keys().map(Name::as_str).collect();
    let meant = closest_match(name, ["guard"].iter().chain(&names).copied());
    let help = format!("write guard, or a template: {}", names.join(", "));
    at.misspelt(&format!("there is no template '{name}'"), meant, &help)
}

fn read_nft_set(via: &Mapping, at: &Place, problems: &mut Problems) -> Parsed<NftSet> {
    let meant = via.check_keys(&VIA, problems);
    let Some(node) = via.value("nft_set") else {
        // A key that is wrong has been said to be.
        if meant.is_empty() && via.entries.iter().all(|entry| entry.key == "nft_set") {
            problems.push(at.error("nft_set is empty").help(format!("write {A_SET}")));
        }
        return Err(problems.reported());
    };
    let wanted = "a mapping such as {table: inet filter, set4: ssh4, set6: ssh6}";
    let mut reader = Reader::new(node, wanted, &NFT_SET, problems)?;
    let error = node.at.error("nft_set does not say in which table the sets are");
    let error = error.help("write for example table: inet filter");
    let table = reader.require("table", read_table, error);
    let family = table.as_ref().ok().map(|(family, _)| *family);
    let set4 = reader.read("set4", |node| read_set(node, family, Family::V4));
    let set6 = reader.read("set6", |node| read_set(node, family, Family::V6));
    let ((family, table), set4, set6) = (table?, set4?, set6?);
    if set4.is_none() && set6.is_none() {
        let error = node.at.error("nft_set names no set: nothing would be opened");
        let help = "write set4, for IPv4 addresses, or set6, or both";
        return reader.missing(NFT_SET.known, error.help(help));
    }
    if set4 == set6 {
        let at = reader.value("set6").map_or(&node.at, |node| &node.at);
        let error = at.error("one set cannot hold the addresses of both families");
        let help = "make one of 'type ipv4_addr' and one of 'type ipv6_addr'";
        return reader.fail(error.help(help));
    }
    Ok(NftSet { family, table, set4, set6 })
}

fn read_table(node: &Node) -> Diagnosed<(NftFamily, NftName)> {
    let text = node.text("a table such as inet filter")?;
    let mut words = text.split_whitespace();
    let (Some(family), Some(name), None) = (words.next(), words.next(), words.next()) else {
        let error = node.at.error(format!("'{text}' does not name a table by its family and name"));
        return Err(error.help("write for example inet filter; 'nft list tables' shows them"));
    };
    let Some(found) = NftFamily::ALL.into_iter().find(|known| known.as_str() == family) else {
        let known = NftFamily::ALL.map(NftFamily::as_str);
        let message = format!("'{family}' is not a family of tables that see addresses");
        let help = format!("write one of {}", known.join(", "));
        return Err(node.at.misspelt(&message, closest_match(family, known), &help));
    };
    let name = name.parse::<NftName>().map_err(|error| node.at.error(error.to_string()))?;
    if found == NftFamily::Inet && name.as_str() == "knockd" {
        let error = node.at.error("the table 'inet knockd' is the guard's own");
        return Err(error.help("make sets in a table of your own, or write via: guard"));
    }
    Ok((found, name))
}

fn read_set(node: &Node, family: Option<NftFamily>, packets: Family) -> Diagnosed<NftName> {
    let name = node.parsed("the name of a set")?;
    let Some(family) = family.filter(|family| !family.sees(packets)) else { return Ok(name) };
    let (version, key) = match packets {
        Family::V4 => (4, "set6"),
        Family::V6 => (6, "set4"),
    };
    let family = family.as_str();
    let message = format!("a table of the family {family} never sees an IPv{version} packet");
    Err(node.at.error(message).help(format!("write {key}, or name a table of inet")))
}
