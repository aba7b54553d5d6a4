//! `knockctl fleet` and `fleet-key`: the gateways that share what they know, and the key of theirs.

use std::io::{self, Write};
use std::path::PathBuf;

use jiff::tz::TimeZone;
use zeroize::Zeroizing;

use super::args::JsonArgs;
use super::edit::{make_directory, write_new};
use super::output::{self, local, table, wall};
use super::{Error, Target, Timeout, say};
use crate::config::{Diagnostic, Loaded};
use crate::control::{FleetLink, FleetStatus, Reply, Request};
use crate::proto::fleet::FleetKey;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct FleetKeyArgs {
    /// The file to make [default: keys/fleet.key in the directory of the configuration]
    file: Option<PathBuf>,
}

pub(super) fn run(target: &Target, args: &JsonArgs) -> Result<(), Error> {
    let fleet = ask(target)?;
    Ok(output::print(args.json, &[&fleet], |out| print(out, &fleet, &TimeZone::system()))?)
}

fn ask(target: &Target) -> Result<FleetStatus, Error> {
    let reply = target.ask(&Request::Fleet, Timeout::Reply)?.next()?;
    if let Reply::Fleet(fleet) = reply { Ok(fleet) } else { Err(Error::Ended) }
}

/// Makes a key where none is; nobody is shown it.
pub(super) fn make_key(target: &Target, args: FleetKeyArgs) -> Result<(), Error> {
    let keys = target.config.join("keys");
    let default = || make_directory(&keys).map(|()| keys.join("fleet.key"));
    let path = args.file.map_or_else(default, Ok)?;
    let mut key = Zeroizing::new([0; 32]);
    getrandom::fill(key.as_mut())?;
    write_new(&path, &Zeroizing::new(format!("{}\n", *FleetKey::from(*key).encode())))?;
    say(&format!(
        "{path} is for 'key_file' under 'fleet'; copy it to each gateway by a way that nobody else \
         reads, such as 'scp -p {path} root@gw2:{path}': who has it can open the fleet's doors",
        path = path.display()
    ));
    Ok(())
}

/// The warning that another gateway has this one's name, where a running daemon knows of one.
pub(super) fn namesake(target: &Target, loaded: &Loaded) -> Option<Diagnostic> {
    let name = &loaded.config.settings.fleet.as_ref()?.name;
    ask(target).ok().filter(|it| it.namesake && it.link.name == *name)?;
    let at = loaded.places.settings.get("fleet")?;
    let warning = at.warning(format!("another gateway of the fleet is called {name} too"));
    Some(warning.help("each takes for its own what the other tells: rename one of them"))
}

/// How a gateway stands to its fleet, in a line.
pub(super) fn link(link: &FleetLink, zone: &TimeZone) -> String {
    let FleetLink { name, state, since, why, .. } = link;
    let since = local(wall(*since), zone).strftime("%Y-%m-%d %H:%M:%S");
    let why = why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
    format!("{name}, {state} since {since}{why}")
}

fn print(out: &mut dyn Write, fleet: &FleetStatus, zone: &TimeZone) -> io::Result<()> {
    let doors: Vec<_> = fleet.doors.iter().map(|door| door.as_str()).chain(["proofs"]).collect();
    let namesake = if fleet.namesake { "; another gateway has this name" } else { "" };
    let kept = fleet.kept.map_or_else(String::new, |kept| format!("; kept there: {kept}"));
    let FleetStatus { when_lost, alone, unsent, wait_seconds, .. } = fleet;
    let facts = [
        ("gateway", link(&fleet.link, zone) + namesake),
        ("store", format!("{}{kept}; waiting here: {unsent}", fleet.link.store)),
        ("shared", doors.join(", ")),
        ("if lost", format!("{when_lost} after {wait_seconds:.3}s; requests so far: {alone}")),
    ];
    table(out, &[], facts.into_iter().map(|(name, value)| vec![name.to_owned(), value]))?;
    writeln!(out)?;
    let rows = fleet.gateways.iter().map(|it| {
        let (name, version) = (it.gateway.to_string(), it.version.clone());
        let heard = format!("{:.1}s ago", it.heard_seconds_ago);
        let heard = if it.is_this { "this one".to_owned() } else { heard };
        vec![name, version, heard, format!("{:.1}ms", it.lag_seconds * 1e3), it.open.to_string()]
    });
    table(out, &["GATEWAY", "VERSION", "HEARD", "LAG", "OPEN"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StoreAddress;
    use crate::control::{FleetState, GatewayStatus};

    fn fleet() -> FleetStatus {
        let gateway = |name: &str, lag_seconds, is_this| GatewayStatus {
            gateway: name.parse().unwrap(),
            version: "0.1.0".to_owned(),
            heard_seconds_ago: 65.4,
            lag_seconds,
            open: 3,
            is_this,
        };
        FleetStatus {
            link: FleetLink {
                name: "gw1".parse().unwrap(),
                store: "valkey.example.net port 6379".to_owned(),
                state: FleetState::Joined,
                since: 60.0,
                why: None,
            },
            when_lost: "alone".to_owned(),
            wait_seconds: 0.02,
            gateways: vec![gateway("gw1", 0.0012, true), gateway("gw2", 0.4, false)],
            doors: vec!["ssh".parse().unwrap()],
            kept: Some(12),
            stamps: Some(34),
            lag_seconds: Some(0.001),
            unsent: 0,
            alone: 0,
            namesake: false,
        }
    }

    fn said(fleet: &FleetStatus) -> String {
        let mut out = Vec::new();
        print(&mut out, fleet, &TimeZone::UTC).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_fleet_is_its_store_what_is_shared_there_and_a_line_for_each_gateway() {
        assert_eq!(
            said(&fleet()),
            "gateway  gw1, joined since 1970-01-01 00:01:00\n\
             store    valkey.example.net port 6379; kept there: 12; waiting here: 0\n\
             shared   ssh, proofs\n\
             if lost  alone after 0.020s; requests so far: 0\n\
             \n\
             GATEWAY  VERSION  HEARD      LAG      OPEN\n\
             gw1      0.1.0    this one   1.2ms    3\n\
             gw2      0.1.0    65.4s ago  400.0ms  3\n"
        );
    }

    #[test]
    fn a_store_is_shown_as_where_it_listens_and_no_more() {
        for (written, shown) in [
            ("rediss://gw1@[2001:db8::1]:6380/service", "2001:db8::1 port 6380"),
            ("unix:/run/valkey/valkey.sock", "/run/valkey/valkey.sock"),
        ] {
            assert_eq!(written.parse::<StoreAddress>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn a_gateway_that_has_lost_its_store_says_since_when_and_why() {
        let mut lost = fleet();
        lost.link.state = FleetState::Refusing;
        lost.link.why = Some("Connection refused".to_owned());
        (lost.kept, lost.unsent, lost.alone) = (None, 7, 2);
        let said = said(&lost);
        for line in [
            "gateway  gw1, refusing since 1970-01-01 00:01:00: Connection refused\n",
            "store    valkey.example.net port 6379; waiting here: 7\n",
            "if lost  alone after 0.020s; requests so far: 2\n",
        ] {
            assert!(said.contains(line), "{said}");
        }
    }

    #[test]
    fn a_name_that_two_gateways_have_is_said_to_be() {
        let said = said(&FleetStatus { namesake: true, ..fleet() });
        assert!(said.contains("00:01:00; another gateway has this name\n"), "{said}");
    }
}
