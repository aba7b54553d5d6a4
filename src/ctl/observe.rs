//! `knockctl observe`: who came to doors that only observe, and whom to trust before they lock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use jiff::tz::TimeZone;
use serde::Serialize;

use super::args::JsonArgs;
use super::output::{self, local, table, wall};
use super::{Error, Target, say};
use crate::control::seconds;
use crate::firewall::guard;
use crate::firewall::netlink::Counter;
use crate::firewall::ruleset::SetKind;
use crate::firewall::ruleset::observe::ObservedSource;
use crate::proto::{Network, Protocol};
use crate::sys::clock;
use crate::time::Wall;

/// Those of one network who came to one port, and as far.
#[derive(Debug, Default, Serialize)]
pub struct ObservedNetwork {
    /// Of IPv4 the address, where there is only one.
    pub network: String,
    pub addresses: usize,
    pub port: String,
    /// `tried`, `connected` or `stayed`.
    pub came: &'static str,
    /// How many packets asked for a connection, and what came by those that were made.
    pub tries: u64,
    pub packets: u64,
    pub bytes: u64,
    /// Seconds since 1970-01-01 UTC.
    pub last_seen: f64,
    /// Whether it is to be trusted before the port is locked, unless it is to knock.
    pub proposed: bool,
}

pub(super) fn run(target: &Target, args: &JsonArgs) -> Result<(), Error> {
    let config = target.load()?.config;
    let (mut sources, is_full) = guard::observed().map_err(Error::unfit)?;
    let trusted = &config.settings.trusted;
    sources.retain(|it| !trusted.iter().any(|network| network.contains(it.address)));
    let networks = networks(&mut sources, clock::now().wall);
    output::print(args.json, &networks, |out| print(out, &networks, &TimeZone::system()))?;
    if is_full {
        say("there may be others: the kernel notes no more than it has room for");
    }
    if !config.doors.iter().any(|door| door.opening.is_observed()) {
        say("no door only observes: knock.d(5) says how, at 'guard'");
    }
    Ok(())
}

/// The networks, those first that came furthest.
fn networks(sources: &mut [ObservedSource], now: Wall) -> Vec<ObservedNetwork> {
    let mut furthest = BTreeMap::new();
    let mut networks: BTreeMap<_, ObservedNetwork> = BTreeMap::new();
    sources.sort_by_key(|it| Reverse(it.came));
    for &mut ObservedSource { address, port, came: note, counter, ago } in sources {
        let around = Network::around(address, if address.is_ipv4() { 24 } else { 64 });
        let came = *furthest.entry((address, port)).or_insert(note);
        let it = networks.entry((Reverse(came), around, port)).or_default();
        if note == came {
            it.addresses += 1;
            // A host changes its IPv6 address within its network every day.
            let is_alone = it.addresses == 1 && address.is_ipv4();
            it.network = if is_alone { address.to_string() } else { around.to_string() };
            (it.port, it.came) = (port.to_string(), came.as_str());
            // By UDP a source can be forged.
            it.proposed = came == SetKind::Stayed && port.protocol == Protocol::Tcp;
        }
        let Counter { packets, bytes } = counter;
        match note {
            SetKind::Tried => it.tries = it.tries.saturating_add(packets),
            SetKind::Connected => {
                it.packets = it.packets.saturating_add(packets);
                it.bytes = it.bytes.saturating_add(bytes);
            }
            _ => {}
        }
        it.last_seen = it.last_seen.max(seconds(now) - ago.as_secs_f64());
    }
    networks.into_values().collect()
}

fn print(out: &mut dyn Write, networks: &[ObservedNetwork], zone: &TimeZone) -> io::Result<()> {
    if networks.is_empty() {
        return writeln!(out, "nobody came who had not knocked");
    }
    let columns = ["FROM", "PORT", "CAME", "ADDRESSES", "TRIES", "PACKETS", "KIB", "LAST SEEN"];
    let rows = networks.iter().map(|it| {
        let numbers = [it.addresses as u64, it.tries, it.packets, it.bytes.div_ceil(1024)];
        let last_seen = local(wall(it.last_seen), zone).strftime("%Y-%m-%d %H:%M:%S");
        let row = [it.network.clone(), it.port.clone(), it.came.to_owned()].into_iter();
        row.chain(numbers.map(|it| it.to_string())).chain([last_seen.to_string()]).collect()
    });
    table(out, &columns, rows)?;
    let proposed = networks.iter().filter(|it| it.proposed);
    let proposed: BTreeSet<_> = proposed.map(|it| format!("\"{}\"", it.network)).collect();
    if proposed.is_empty() {
        return writeln!(out, "\nnobody stayed for so long that they must have logged in");
    }
    writeln!(
        out,
        "\nwho stayed has logged in; those that are not to knock go below 'knockd:', as\n  \
         trusted: [{}]",
        proposed.into_iter().collect::<Vec<_>>().join(", ")
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn source(address: &str, port: &str, came: SetKind, ago: u64) -> ObservedSource {
        ObservedSource {
            address: address.parse().unwrap(),
            port: port.parse().unwrap(),
            came,
            counter: Counter { packets: 3, bytes: 1500 },
            ago: Duration::from_secs(ago),
        }
    }

    fn said(sources: &[ObservedSource]) -> String {
        let mut out = Vec::new();
        let now = Wall::from_nanos(100_000_000_000);
        print(&mut out, &networks(&mut sources.to_vec(), now), &TimeZone::UTC).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn who_stayed_stands_before_the_scan_from_the_same_network_and_is_proposed() {
        use SetKind::{Connected, Stayed, Tried};
        let said = said(&[
            source("192.0.2.2", "22/tcp", Tried, 9),
            source("192.0.2.3", "22/tcp", Tried, 5),
            source("192.0.2.4", "22/tcp", Tried, 6),
            source("2001:db8::2", "22/tcp", Tried, 7),
            source("192.0.2.2", "22/tcp", Connected, 4),
            source("192.0.2.9", "22/tcp", Connected, 3),
            source("2001:db8::2", "22/tcp", Connected, 2),
            source("192.0.2.2", "22/tcp", Stayed, 4),
            source("2001:db8::2", "22/tcp", Stayed, 2),
            source("203.0.113.9", "53/udp", Stayed, 2),
        ]);
        assert_eq!(
            said,
            "\
FROM           PORT    CAME       ADDRESSES  TRIES  PACKETS  KIB  LAST SEEN
192.0.2.2      22/tcp  stayed     1          3      3        2    1970-01-01 00:01:36
203.0.113.9    53/udp  stayed     1          0      0        0    1970-01-01 00:01:38
2001:db8::/64  22/tcp  stayed     1          3      3        2    1970-01-01 00:01:38
192.0.2.9      22/tcp  connected  1          0      3        2    1970-01-01 00:01:37
192.0.2.0/24   22/tcp  tried      2          6      0        0    1970-01-01 00:01:35

who stayed has logged in; those that are not to knock go below 'knockd:', as
  trusted: [\"192.0.2.2\", \"2001:db8::/64\"]
"
        );
    }

    #[test]
    fn where_nobody_came_or_nobody_stayed_that_is_said() {
        assert_eq!(said(&[]), "nobody came who had not knocked\n");
        let scan = said(&[source("192.0.2.2", "22/tcp", SetKind::Tried, 9)]);
        assert!(scan.ends_with("\nnobody stayed for so long that they must have logged in\n"));
    }
}
