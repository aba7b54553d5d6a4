//! `knockctl open` and `knockctl close`: doors by hand.

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::socket::{ControlError, Daemon, PATIENCE_WITH_COMMANDS, Patience, Replies};
use super::status;
use crate::config::Name;
use crate::control::{GrantStatus, Reply, Request};
use crate::log::escape;
use crate::proto::duration;
use crate::proto::network::is_a_hosts;
use crate::sys::clock;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct OpenArgs {
    /// The name of the door
    #[arg(value_parser = door)]
    door: Name,
    /// The address to open it for
    #[arg(value_parser = source)]
    ip: IpAddr,
    /// For how long, such as 30s, 5m or 1h30m [default: what the door says]
    #[arg(long = "for", value_name = "D", value_parser = seconds)]
    seconds: Option<u64>,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct CloseArgs {
    /// The name of the door
    #[arg(value_parser = door, required_unless_present = "all", requires = "ip")]
    door: Option<Name>,
    /// The address to close it for
    #[arg(value_parser = address)]
    ip: Option<IpAddr>,
    /// Close every door, for every address
    #[arg(long, conflicts_with_all = ["door", "ip"])]
    all: bool,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct UnlockArgs {
    /// The address to listen to again
    #[arg(value_parser = address)]
    ip: IpAddr,
}

pub(super) fn door(text: &str) -> Result<Name, String> {
    text.parse().map_err(|error| format!("{error}"))
}

/// An address; one of IPv4 in IPv6's clothes is the IPv4 address, as on the wire.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map(|address: IpAddr| address.to_canonical())
        .map_err(|_| "not an IP address: write one such as 192.0.2.2 or 2001:db8::2".to_owned())
}

/// An address that packets can come from.
fn source(text: &str) -> Result<IpAddr, String> {
    let source = address(text)?;
    if is_a_hosts(source) { Ok(source) } else { Err("no packet comes from there".to_owned()) }
}

fn seconds(text: &str) -> Result<u64, String> {
    let duration = duration::parse(text).map_err(|error| error.to_string())?;
    match duration.as_secs() {
        0 => Err("a door is open for 1s or more".to_owned()),
        _ if duration.subsec_nanos() > 0 => Err("write whole seconds".to_owned()),
        seconds => Ok(seconds),
    }
}

pub(super) fn unlock(config: &Path, insecure: bool, args: &UnlockArgs) -> Result<(), ControlError> {
    let mut daemon = Daemon::find(config, insecure)?;
    let request = Request::Unlock { address: args.ip };
    say(&daemon.ask(&request, Patience::Glance)?.done()?)
}

pub(super) fn open(config: &Path, insecure: bool, args: OpenArgs) -> Result<(), ControlError> {
    let mut daemon = Daemon::find(config, insecure)?;
    let OpenArgs { door, ip: address, seconds } = args;
    // Asked for first: what goes wrong when the door's commands run is told as an event.
    let mut events = daemon.ask(&Request::Watch, Patience::Glance)?;
    let request = Request::Open { door: door.clone(), address, seconds };
    let text = daemon.ask(&request, Patience::Commands)?.done()?;
    match opened(&mut daemon, &door, address)? {
        Some(grant) => {
            let closes = status::closes(&grant, clock::now().wall, &TimeZone::system());
            say(&format!("{door} is open for {address}, closes {closes}"))
        }
        None if has_failed(&mut events, &door, address) => {
            Err(ControlError::NotOpened { door, address })
        }
        // Nothing has to be closed.
        None => say(if text.is_empty() { "done" } else { &text }),
    }
}

/// The grant, once the commands that open it have run; `None`: there is none.
fn opened(
    daemon: &mut Daemon,
    door: &Name,
    address: IpAddr,
) -> Result<Option<GrantStatus>, ControlError> {
    let mut pause = Duration::from_millis(5);
    let mut patience = PATIENCE_WITH_COMMANDS;
    loop {
        let grants = status::ask(daemon)?.grants;
        let ours = grants.into_iter().find(|it| it.door == *door && it.address == address);
        match ours {
            Some(grant) if grant.state == "starting" && patience > pause => {
                thread::sleep(pause);
                patience -= pause;
                pause = (pause * 2).min(Duration::from_millis(200));
            }
            Some(grant) if grant.state == "closing" => return Ok(None),
            grant => return Ok(grant),
        }
    }
}

/// Whether this door could not be opened, as has just been told.
fn has_failed(events: &mut Replies, door: &Name, address: IpAddr) -> bool {
    let (door, address) = (door.as_str(), address.to_string());
    while let Ok(reply) = events.next() {
        if let Reply::Event(event) = reply
            && event.event == "failed"
            && event.door.as_deref() == Some(door)
            && event.source.as_ref() == Some(&address)
        {
            return true;
        }
    }
    false
}

pub(super) fn close(config: &Path, insecure: bool, args: CloseArgs) -> Result<(), ControlError> {
    let mut daemon = Daemon::find(config, insecure)?;
    let (request, done) = match (args.door, args.ip) {
        (Some(door), Some(address)) => {
            let done = format!("{door}: closed for {address}");
            (Request::Close { door, address }, done)
        }
        _ => (Request::CloseAll, "every door is closed".to_owned()),
    };
    let text = daemon.ask(&request, Patience::Commands)?.done()?;
    say(if text.is_empty() { &done } else { &text })
}

fn say(text: &str) -> Result<(), ControlError> {
    Ok(writeln!(io::stdout(), "{}", escape(text))?)
}
