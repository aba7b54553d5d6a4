//! What a stanza means, as fwknopd prints it and as it is imported.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use jiff::tz::TimeZone;
use libknock::config::{AddressPolicy, Config};

use crate::support::command;

/// What matters of a stanza, name by name.
pub(super) type Meaning = BTreeMap<&'static str, String>;

/// What fwknopd says that it has read.
pub(super) fn dumped(directory: &Path) -> Option<Vec<Meaning>> {
    let output = command("fwknopd")
        .env("TZ", "UTC")
        .arg("-D")
        .arg("-r")
        .arg(directory)
        .arg("-c")
        .arg(directory.join("fwknopd.conf"))
        .arg("-a")
        .arg(directory.join("access.conf"))
        .output()
        .unwrap();
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (settings, stanzas) = text.split_once("Current fwknopd access settings:")?;
    let is_on = |line: &str| line.contains("ENABLE_IPT_SNAT ") && line.contains("'Y'");
    let snat = settings.lines().any(is_on);
    Some(stanzas.split("\nSOURCE (").skip(1).map(|text| dumped_stanza(text, snat)).collect())
}

/// `snat`: fwknopd changes where connections to other hosts come from.
pub(super) fn dumped_stanza(text: &str, snat: bool) -> Meaning {
    let (source, lines) = text.split_once('\n').unwrap();
    let source = source.split_once(":  ").map_or("", |(_, source)| source);
    let values: BTreeMap<&str, &str> = lines
        .lines()
        .filter_map(|line| line.split_once(":  "))
        .map(|(name, value)| (name.trim_start(), value))
        .collect();
    let get = |name: &str| values.get(name).copied().filter(|value| *value != "<not set>");
    let number = |name: &str| get(name).map_or(0, |value| value.parse::<u64>().unwrap());
    let is_on = |name: &str| get(name) == Some("Yes");
    let has_commands = get("CMD_CYCLE_OPEN").is_some();
    let open_for = match number("CMD_CYCLE_TIMER") {
        _ if !has_commands => number("FW_ACCESS_TIMEOUT"),
        timer => timer,
    };
    // Without a command that closes it does not matter.
    let is_act = has_commands && get("CMD_CYCLE_CLOSE").is_some_and(|it| it.starts_with("NONE"));
    // Commands that name the port run for those of OPEN_PORTS only.
    let commands = ["CMD_CYCLE_OPEN", "CMD_CYCLE_CLOSE"].map(get);
    let runs_alone =
        has_commands && !commands.into_iter().flatten().any(|command| command.contains("$PORT"));
    let hashes = ["none", "md5", "sha1", "sha256", "sha384", "sha512", "sha3_256", "sha3_512"];
    let hash = usize::try_from(number("HMAC_DIGEST_TYPE")).unwrap();
    let hmac = match number("HMAC_KEY_LEN") {
        0 => "none".to_owned(),
        length => format!("{length} {}", hashes[hash]),
    };
    let expires = get("ACCESS_EXPIRE").map(|date| {
        let time = jiff::civil::DateTime::strptime("%a %b %e %H:%M:%S %Y", date).unwrap();
        time.to_zoned(TimeZone::UTC).unwrap().timestamp().as_second()
    });
    let nat = get("FORCE_NAT (ip)").filter(|_| !has_commands).map(|to| {
        let how = if snat { " masqueraded" } else { "" };
        format!("{to} {}{how}", number("FORCE_NAT (port)"))
    });
    // Later than a clock here can tell.
    let expires = expires.filter(|second| *second < 18_446_744_073);
    Meaning::from([
        ("source", networks(Some(source))),
        ("destination", networks(get("DESTINATION"))),
        ("ports", if runs_alone { "commands".into() } else { ports(get("OPEN_PORTS")) }),
        (
            "times",
            if is_act {
                "none".to_owned()
            } else {
                format!("{open_for} {}", number("MAX_FW_TIMEOUT").max(open_for))
            },
        ),
        ("nat", nat.unwrap_or_default()),
        ("key", number("KEY_LEN").to_string()),
        ("hmac", hmac),
        ("username", get("REQUIRE_USERNAME").unwrap_or_default().to_owned()),
        ("explicit", is_on("REQUIRE_SOURCE_ADDRESS").to_string()),
        ("expires", expires.map_or("never".to_owned(), |second| second.to_string())),
    ])
}

/// The networks that a list names, as fwknopd reads them.
pub(super) fn networks(list: Option<&str>) -> String {
    let items: Vec<&str> = list.unwrap_or("ANY").split(',').map(str::trim).collect();
    if items.iter().any(|item| item.eq_ignore_ascii_case("any")) {
        return "any".to_owned();
    }
    let read = |item: &&str| {
        let (address, mask) = item.split_once('/').unwrap_or((item, "32"));
        let bits = |text: &str| Some(text.parse::<std::net::Ipv4Addr>().ok()?.to_bits());
        let mask = bits(mask).or_else(|| Some(u32::MAX << (32 - mask.parse::<u32>().ok()?)));
        let (address, mask) = (bits(address)?, mask?);
        let network = std::net::Ipv4Addr::from(address & mask);
        let prefix = mask.leading_ones();
        Some(if prefix == 32 { network.to_string() } else { format!("{network}/{prefix}") })
    };
    let read: Option<Vec<String>> = items.iter().map(read).collect();
    read.map_or_else(|| format!("? {items:?}"), |networks| networks.join(","))
}

/// fwknopd prints them as they are written.
pub(super) fn ports(list: Option<&str>) -> String {
    let items: BTreeSet<String> = list
        .unwrap_or("tcp/22")
        .split(',')
        .filter_map(|item| {
            let (protocol, port) = item.trim_start().split_once('/')?;
            let port = port.trim_start();
            let digits = port.trim_start_matches('+');
            let digits = digits.split(|it: char| !it.is_ascii_digit()).next()?;
            let port = digits.parse::<u16>().unwrap_or(0);
            (port > 0).then(|| format!("{port}/{}", protocol.to_ascii_lowercase()))
        })
        .collect();
    items.into_iter().collect::<Vec<_>>().join(",")
}

pub(super) fn meanings(config: &Config) -> Vec<Meaning> {
    config
        .clients
        .iter()
        .filter(|client| !client.doors.is_empty())
        .map(|client| {
            let fwknop = client.fwknop.as_ref().unwrap();
            let doors = config.doors.iter().filter(|door| client.doors.contains(door.name()));
            let openings: Vec<_> = doors.map(|door| &door.opening).collect();
            let forwards = || openings.iter().flat_map(|opening| &opening.forwards);
            let opened = openings.iter().flat_map(|opening| &opening.ports);
            let opened: BTreeSet<String> = opened
                .map(ToString::to_string)
                .chain(forwards().map(|it| it.on.to_string()))
                .collect();
            let nat: BTreeSet<String> = forwards()
                .map(|it| {
                    let how = if it.masquerade { " masqueraded" } else { "" };
                    format!("{} {}{how}", it.to, it.port)
                })
                .collect();
            let times: BTreeSet<String> = openings
                .iter()
                .map(|opening| {
                    if !opening.mechanism.closes() {
                        return "none".to_owned();
                    }
                    let (time, most) = (opening.open_for, opening.open_for_max);
                    format!("{} {}", time.as_secs(), most.as_secs())
                })
                .collect();
            let list = |networks: &[libknock::proto::network::Network]| {
                let list: Vec<String> = networks.iter().map(ToString::to_string).collect();
                if list.is_empty() { "any".to_owned() } else { list.join(",") }
            };
            let hmac = fwknop.hmac.as_ref();
            Meaning::from([
                ("source", list(&fwknop.from)),
                ("destination", list(&fwknop.destination)),
                (
                    "ports",
                    if opened.is_empty() {
                        "commands".to_owned()
                    } else {
                        opened.into_iter().collect::<Vec<_>>().join(",")
                    },
                ),
                ("times", times.into_iter().collect::<Vec<_>>().join(", ")),
                ("nat", nat.into_iter().collect::<Vec<_>>().join(", ")),
                ("key", fwknop.key.expose().len().to_string()),
                (
                    "hmac",
                    hmac.map_or("none".to_owned(), |(key, hash)| {
                        format!("{} {hash}", key.expose().len())
                    }),
                ),
                ("username", fwknop.username.clone().unwrap_or_default()),
                ("explicit", (fwknop.address == AddressPolicy::Explicit).to_string()),
                (
                    "expires",
                    client.expires.map_or("never".to_owned(), |at| {
                        (at.as_nanos() / 1_000_000_000).to_string()
                    }),
                ),
            ])
        })
        .collect()
}
