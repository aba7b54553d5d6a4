//! Reader of `knockd.fleet`: which fleet this gateway is of, and where its store is.

use std::time::Duration;

use super::credentials::Secrets;
use super::files::read_list;
use crate::config::diagnostic::Parsed;
use crate::config::tree::{KnownKeys, Node, Reader};
use crate::config::{Diagnostic, FleetSettings, Options, Problems, Store, StoreAddress, WhenLost};
use crate::proto::Secret;
use crate::proto::spa::SpaKeyError;

const FLEET: KnownKeys =
    KnownKeys { of: "fleet", known: &["name store password_file key_file ca_file wait when_lost"] };

/// How long a request waits for the store unless that is written.
const WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Reads `knockd.fleet`.
pub(super) fn read_fleet(
    node: &Node,
    secrets: &mut Secrets,
    options: Options,
    problems: &mut Problems,
) -> Parsed<FleetSettings> {
    let wanted = "a mapping with name, store and key_file,";
    let mut reader = Reader::new(node, wanted, &FLEET, problems)?;
    let missing = |key: &str, help: &str| {
        node.at.error(format!("fleet has no '{key}'")).help(help.to_owned())
    };
    let help = "write a name for this gateway that no other of the fleet has, such as name: gw1";
    let name = reader.require("name", |node| node.parsed("a name"), missing("name", help));
    let help = "write where Valkey or Redis is: store: rediss://gw1@valkey.example.net:6379";
    let store = read_store(&mut reader, missing("store", help));
    let password = reader.read("password_file", |node| {
        Ok(Secret::new(secrets.read_file(node)?.as_bytes().to_vec()))
    });
    let help = "let 'knockctl fleet-key' make one, and copy it to every gateway of the fleet";
    let key = reader.require(
        "key_file",
        |node| {
            let wrong = |error: SpaKeyError| node.at.error(error.to_string());
            secrets.read_file(node)?.parse().map_err(wrong)
        },
        missing("key_file", help),
    );
    let authorities = reader.read("ca_file", |node| {
        let path = node.path()?;
        let text = read_list(&path, options).map_err(|problem| problem.named_at(&node.at))?;
        if !text.contains("-----BEGIN CERTIFICATE-----") {
            return Err(node.at.error(format!("{} holds no certificate in PEM", path.display())));
        }
        secrets.files.push(path);
        Ok(text.to_string())
    });
    let is_tls = |it: &StoreAddress| matches!(it, StoreAddress::Tcp { tls: true, .. });
    if let (Ok(addresses), Some(entry)) = (&store, reader.mapping.get("ca_file"))
        && !addresses.iter().any(is_tls)
    {
        reader.problems.push(entry.without_effect("only rediss:// is by TLS", "remove it"));
    }
    let wait = reader.read("wait", |node| {
        let wait = node.duration("wait", Duration::from_millis(1))?;
        if wait <= LONGEST_WAIT { Ok(wait) } else { Err(node.at.error("wait is 1s at the most")) }
    });
    let choices = WhenLost::ALL.map(|choice| (choice.as_str(), choice));
    let when_lost = reader.read("when_lost", |node| node.one_of(&choices));
    Ok(FleetSettings {
        name: name?,
        store: Store { addresses: store?, password: password?, authorities: authorities? },
        key: key?,
        wait: wait?.unwrap_or(WAIT),
        when_lost: when_lost?.unwrap_or_default(),
    })
}

/// Reads where the store is, or the Sentinels that know.
fn read_store(reader: &mut Reader<'_>, missing: Diagnostic) -> Parsed<Vec<StoreAddress>> {
    let Some(node) = reader.value("store") else { return reader.missing(&["store"], missing) };
    let items = node.items();
    // Somebody may have written a password into one.
    let read =
        |item: &Node| item.parsed("a store such as unix:/PATH").map_err(Diagnostic::without_line);
    let addresses = items.iter().map(read);
    let addresses: Vec<StoreAddress> = reader.problems.report_all(addresses)?;
    let is_sentinel = |it: &StoreAddress| matches!(it, StoreAddress::Tcp { service: Some(_), .. });
    if addresses.len() != 1
        && let Some(at) = addresses.iter().position(|it| !is_sentinel(it))
    {
        let error =
            items[at].at.error("several stores are Sentinels, and this one names no service");
        return reader.fail(error.help("write what they call it: rediss://HOST:26379/SERVICE"));
    }
    if addresses.is_empty() {
        return reader.fail(missing);
    }
    for (item, address) in items.iter().zip(&addresses).filter(|(_, it)| !it.is_private()) {
        let StoreAddress::Tcp { host, .. } = address else { continue };
        let warning = format!(
            "whoever is on the way to {host} reads the store's password, and can hold back what \
             gateways tell each other"
        );
        reader.problems.push(item.at.warning(warning).help("write rediss:// for TLS"));
    }
    Ok(addresses)
}
