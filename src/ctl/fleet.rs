//! `knockctl fleet` and `fleet-key`: the gateways that share what they know, and the key of theirs.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use jiff::tz::TimeZone;
use zeroize::Zeroizing;

use super::args::JsonArgs;
use super::edit::{make_directory, write_new};
use super::output::{self, local, table, wall};
use super::wording::count;
use super::{Error, Target, Timeout, say};
use crate::config::{Diagnostic, Loaded};
use crate::control::{FleetLink, FleetState, FleetStatus, Reply, Request};
use crate::proto::duration;
use crate::proto::fleet::FleetKey;
use crate::proto::spa::KEY_LEN;
use crate::sys::clock;
use crate::time::Wall;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct FleetKeyArgs {
    /// The file to make [default: keys/fleet.key in the directory of the configuration]
    file: Option<PathBuf>,
}

pub(super) fn run(target: &Target, args: &JsonArgs) -> Result<(), Error> {
    let fleet = ask(target)?;
    let (now, zone) = (clock::now().wall, TimeZone::system());
    Ok(output::print(args.json, &[&fleet], |out| print(out, &fleet, now, &zone))?)
}

fn ask(target: &Target) -> Result<FleetStatus, Error> {
    match target.ask(&Request::Fleet, Timeout::Reply)?.next()? {
        Reply::Fleet(fleet) => Ok(fleet),
        _ => Err(Error::Ended),
    }
}

/// Makes a key where none is; nobody is shown it.
pub(super) fn make_key(target: &Target, args: FleetKeyArgs) -> Result<(), Error> {
    let path = match args.file {
        Some(path) => path,
        None if target.config.is_dir() => {
            let keys = target.config.join("keys");
            make_directory(&keys)?;
            keys.join("fleet.key")
        }
        None => {
            let config = target.config.display();
            return Err(Error::Unfit(format!("{config} is no directory: name a file for the key")));
        }
    };
    let mut random = Zeroizing::new([0; KEY_LEN]);
    getrandom::fill(random.as_mut())?;
    let key = FleetKey::from(*random).encode();
    write_new(&path, &Zeroizing::new(format!("{}\n", *key)))?;
    say(&format!(
        "{path} is the key of a fleet: name it as 'key_file' under 'fleet', and copy it to every \
         gateway by a way that nobody else reads, such as 'scp -p {path} root@gw2:{path}'; \
         whoever has it can open the doors of the fleet at all of them",
        path = path.display()
    ));
    Ok(())
}

/// The warning that another gateway has the name that this one has here, where a running daemon
/// knows of one.
pub(super) fn namesake(target: &Target, loaded: &Loaded) -> Option<Diagnostic> {
    let (mine, at) =
        (&loaded.config.settings.fleet.as_ref()?.name, loaded.places.settings.get("fleet"));
    let running = ask(target).ok().filter(|it| it.namesake && it.link.name == *mine)?;
    let warning = format!("another gateway of the fleet is called {} too", running.link.name);
    let help = "each takes what the other tells for its own: give one of them another name";
    Some(at?.warning(warning).help(help))
}

/// How a gateway stands to its fleet, in a line.
pub(super) fn link(link: &FleetLink, now: Wall, zone: &TimeZone) -> String {
    let state = match link.state {
        FleetState::Joined => "joined",
        FleetState::Alone => "without its store, decides alone",
        FleetState::Refusing => "without its store, refuses what has a proof",
    };
    let since = wall(link.since);
    let at = local(since, zone).strftime("%Y-%m-%d %H:%M:%S");
    let lasts = duration::format_seconds(now.since(since));
    let why = link.why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
    format!("{}, {state} since {at}, for {lasts}{why}", link.name)
}

fn print(out: &mut dyn Write, fleet: &FleetStatus, now: Wall, zone: &TimeZone) -> io::Result<()> {
    let mut facts = Vec::new();
    let mut fact = |name: &str, value| facts.push(vec![name.to_owned(), value]);
    fact("gateway", link(&fleet.link, now, zone));
    let kept = fleet.kept.zip(fleet.stamps);
    let kept = kept.map(|(kept, stamps)| format!(", keeps {kept} entries and {stamps} stamps"));
    fact("store", fleet.link.store.clone() + &kept.unwrap_or_default());
    let doors: Vec<_> = fleet.doors.iter().map(|door| door.as_str()).collect();
    let doors = if doors.is_empty() { "no doors".to_owned() } else { doors.join(", ") };
    fact("shares", format!("{doors}, and what has been used up"));
    let alone = format!("{} decided so far", count(fleet.alone as usize, "request"));
    let wait = span(fleet.wait_seconds);
    fact("if lost", format!("{} after {wait}, {alone}", fleet.when_lost));
    if fleet.unsent > 0 {
        fact("unsent", format!("{} entries wait for the store", fleet.unsent));
    }
    table(out, &[], facts.into_iter())?;
    if fleet.namesake {
        writeln!(out, "another gateway is called {} too: give it another name", fleet.link.name)?;
    }
    writeln!(out)?;
    let rows = fleet.gateways.iter().map(|it| {
        let name = it.gateway.to_string() + if it.is_this { " (this)" } else { "" };
        let (heard, lag) = (span(it.heard_seconds_ago), span(it.lag_seconds));
        vec![name, it.version.clone(), format!("{heard} ago"), lag, it.open.to_string()]
    });
    table(out, &["GATEWAY", "VERSION", "HEARD", "LAG", "OPEN"], rows)
}

fn span(seconds: f64) -> String {
    let span = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    match span.as_micros() {
        micros @ ..10_000 => format!("{:.1}ms", micros as f64 / 1e3),
        ..1_000_000 => duration::format(span),
        _ => duration::format_seconds(span),
    }
}
