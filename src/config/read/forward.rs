//! Reader of a door's `forward`: the ports that lead to other hosts.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use crate::config::diagnostic::Parsed;
use crate::config::tree::{KnownKeys, Node, Reader, given_twice};
use crate::config::{Diagnosed, Diagnostic, Family, Forward, Place, Problems};
use crate::proto::Knock;
use crate::proto::network::is_a_hosts;

const FORWARD: KnownKeys = KnownKeys { of: "forward", known: &["on", "to", "port", "masquerade"] };

const AN_ENTRY: &str = "{on: 2222/tcp, to: 192.168.1.10, port: 22}";

/// Reads what a door forwards, and where each is written.
pub(super) fn read_forwards(reader: &mut Reader<'_>) -> Parsed<Vec<(Forward, Place)>> {
    let Some(given) = reader.get("forward") else { return Ok(Vec::new()) };
    let items = given.node.items();
    if items.is_empty() {
        let error = given.node.at.error("'forward' leads nowhere");
        return reader.fail(error.help(format!("write for example forward: [{AN_ENTRY}]")));
    }
    let found: Vec<_> = items.iter().map(|item| read_forward(item, reader.problems)).collect();
    let found = found.into_iter().collect::<Parsed<Vec<_>>>()?;
    let mut seen: HashMap<(Knock, Family), &Place> = HashMap::new();
    for (forward, at) in &found {
        if let Some(first) = seen.insert((forward.on, Family::of(forward.to)), at) {
            reader.problems.push(given_twice(at, &format!("a forward of {}", forward.on), first));
        }
    }
    Ok(found)
}

fn read_forward(node: &Node, problems: &mut Problems) -> Parsed<(Forward, Place)> {
    let mut reader = Reader::new(node, AN_ENTRY, &FORWARD, problems)?;
    let missing = |key: &str| {
        let error = node.at.error(format!("a forward without '{key}'"));
        error.help(format!("write for example {AN_ENTRY}"))
    };
    let one_port = |error: Diagnostic| error.help("an entry is for one port, such as 2222/tcp");
    let read_on = |node: &Node| node.parsed::<Knock>("a port").map_err(one_port);
    let on = reader.require("on", read_on, missing("on"));
    let to = reader.require("to", read_host, missing("to"));
    let port = reader.read("port", |node| node.integer(NonZeroU16::MIN, NonZeroU16::MAX));
    let masquerade = reader.read("masquerade", Node::boolean);
    let (on, to) = (on?, to?);
    let (port, masquerade) = (port?.unwrap_or(on.port), masquerade?.unwrap_or_default());
    Ok((Forward { on, to, port, masquerade }, node.at.clone()))
}

/// The address of a host that packets can be led to.
fn read_host(node: &Node) -> Diagnosed<IpAddr> {
    let text = node.text("the address of a host")?;
    let address = text.parse::<IpAddr>().map_err(|_| {
        let error = node.at.error(format!("'{text}' is not an IP address"));
        error.help(match text.parse::<SocketAddr>() {
            Ok(it) => format!("write to: \"{}\", port: {}", it.ip(), it.port()),
            Err(_) => "write an address such as 192.168.1.10; names are not looked up".to_owned(),
        })
    })?;
    let address = address.to_canonical();
    let why = match address {
        _ if address.is_loopback() => "the kernel leads nothing from outside there",
        IpAddr::V6(address) if address.is_unicast_link_local() => "it is good on one link only",
        _ if !is_a_hosts(address) => "it is not the address of one host",
        _ => return Ok(address),
    };
    let error = node.at.error(format!("nothing can be forwarded to {address}: {why}"));
    Err(error.help("write the address of the host in its network"))
}
