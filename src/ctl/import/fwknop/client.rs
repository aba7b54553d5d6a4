//! What a stanza says, read as fwknopd reads it.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::cycle::{Cycle, read_cycle};
use super::keys::{Key, read_keys};
use super::stanzas::{Given, Stanza};
use crate::config::diagnostic::{Diagnostic, Place, Problems};
use crate::proto::fwknop::{Hash, Mode, User};
use crate::proto::knock::Knock;
use crate::proto::network::Network;

/// In seconds, where a stanza says nothing.
const FW_ACCESS_TIMEOUT: u64 = 30;
const MAX_FW_TIMEOUT: u64 = 300;
const CENTURY: u64 = 100 * 365 * 86_400;

pub(super) struct Client {
    pub(super) at: Place,
    pub(super) origin: String,
    /// What it is probably called.
    pub(super) called: Option<String>,
    pub(super) key: Key,
    pub(super) hmac: Option<Key>,
    pub(super) hmac_type: Option<Hash>,
    pub(super) mode: Option<Mode>,
    pub(super) from: Vec<Network>,
    pub(super) destination: Vec<Network>,
    pub(super) username: Option<String>,
    pub(super) explicit_address: bool,
    pub(super) expires: Option<Timestamp>,
    /// `None`: any that it asks for.
    pub(super) ports: Option<Vec<Knock>>,
    pub(super) restricted: Vec<Knock>,
    pub(super) cycle: Option<Cycle>,
    /// In seconds.
    pub(super) open_for: u64,
    pub(super) open_for_max: u64,
}

/// Reads a stanza. `None` where what it says cannot be carried over; the notes say why.
pub(super) fn read(stanza: &Stanza, zone: &TimeZone, notes: &mut Problems) -> Option<Client> {
    let read = read_stanza(stanza, zone, notes);
    read.map_err(|problem| notes.push(problem)).ok()
}

fn read_stanza(
    stanza: &Stanza,
    zone: &TimeZone,
    notes: &mut Problems,
) -> Result<Client, Diagnostic> {
    if let Some(nat) = stanza.get("FORCE_NAT") {
        return Err(nat.at.error("the stanza is left out: it opens ports of another host"));
    }
    let (key, hmac) = read_keys(stanza)?;
    if hmac.is_none() {
        let message = "this client has no HMAC key: nothing says that its requests are not altered";
        notes.push(stanza.at.warning(message));
    }
    let hmac_type = named(stanza, "HMAC_DIGEST_TYPE")?.filter(|_| hmac.is_some());
    let mode = named(stanza, "ENCRYPTION_MODE")?;
    let username = stanza.get("REQUIRE_USERNAME").map(username).transpose()?;
    let cycle = read_cycle(stanza, notes)?;
    notes.extend(without_effect(stanza, cycle.as_ref(), hmac.is_some()));
    let ports = stanza.get("OPEN_PORTS").map(|given| read_ports(given, notes));
    if ports.as_ref().is_some_and(Vec::is_empty) {
        return Err(stanza.at.error("the stanza is left out: it opens no port"));
    }
    let restricted = stanza.get("RESTRICT_PORTS").map(|given| read_ports(given, notes));
    let most = seconds(stanza, "MAX_FW_TIMEOUT", MAX_FW_TIMEOUT, notes);
    let open_for = match &cycle {
        Some(cycle) => cycle.timer,
        None => seconds(stanza, "FW_ACCESS_TIMEOUT", FW_ACCESS_TIMEOUT, notes),
    };
    if open_for > most {
        let message = format!(
            "opens for {open_for} s, more than MAX_FW_TIMEOUT: who asks for a time gets up to \
             {open_for} s too"
        );
        notes.push(stanza.at.warning(message));
    }
    Ok(Client {
        at: stanza.at.clone(),
        origin: stanza.origin.clone(),
        called: username.clone().or_else(|| stanza.file.clone()),
        key,
        hmac,
        hmac_type,
        mode,
        from: networks(stanza, "SOURCE")?,
        destination: networks(stanza, "DESTINATION")?,
        username,
        explicit_address: stanza.get("REQUIRE_SOURCE_ADDRESS").is_some_and(Given::is_yes),
        expires: expires(stanza, zone)?,
        ports,
        restricted: restricted.unwrap_or_default(),
        cycle,
        open_for,
        open_for_max: most.max(open_for),
    })
}

/// What a stanza says in vain, or needs not say here.
fn without_effect(stanza: &Stanza, cycle: Option<&Cycle>, hmac: bool) -> Vec<Diagnostic> {
    let say = |name, message: &str| Some(stanza.get(name)?.at.warning(format!("{name} {message}")));
    let mut found = Vec::new();
    if !hmac {
        found.push(say("HMAC_DIGEST_TYPE", "has no effect without HMAC_KEY: left out"));
    }
    match cycle {
        Some(cycle) => {
            let message = "has no effect beside CMD_CYCLE_OPEN: left out";
            found.push(say("FW_ACCESS_TIMEOUT", message));
            if cycle.depends_on_port() {
                let message = "has no effect in fwknopd, which runs CMD_CYCLE_OPEN in any case; \
                               here only these ports are opened";
                found.push(say("OPEN_PORTS", message));
            } else {
                found.extend([say("OPEN_PORTS", message), say("RESTRICT_PORTS", message)]);
            }
        }
        None => {
            let message = "needs no counterpart: a client opens only what its doors name";
            found.push(say("RESTRICT_PORTS", message));
        }
    }
    found.into_iter().flatten().collect()
}

/// What a variable names, in fwknop's words.
fn named<T: FromStr<Err: Display>>(stanza: &Stanza, name: &str) -> Result<Option<T>, Diagnostic> {
    let Some(given) = stanza.get(name) else { return Ok(None) };
    given.text().parse().map(Some).map_err(|error| given.left_out(error))
}

fn username(given: &Given) -> Result<String, Diagnostic> {
    let text = given.text();
    match text.parse::<User>() {
        Ok(_) => Ok(text),
        Err(_) => Err(given.left_out("no request can hold this REQUIRE_USERNAME")),
    }
}

fn networks(stanza: &Stanza, name: &str) -> Result<Vec<Network>, Diagnostic> {
    let Some(given) = stanza.get(name) else { return Ok(Vec::new()) };
    let text = given.text();
    let items: Vec<&str> = text.split(',').map(str::trim).collect();
    if items.contains(&"ANY") {
        return Ok(Vec::new());
    }
    let read = |item: &&str| {
        network(item).ok_or_else(|| {
            let why = format!("'{item}' in {name} is no IPv4 address or network");
            given.left_out(why)
        })
    };
    items.iter().map(read).collect()
}

/// An IPv4 network, with its prefix or with its mask.
fn network(text: &str) -> Option<Network> {
    let masked = text.split_once('/').and_then(|(address, mask)| {
        let mask: Ipv4Addr = mask.parse().ok()?;
        let ones = mask.to_bits().leading_ones();
        (mask.to_bits().count_ones() == ones).then(|| format!("{address}/{ones}"))
    });
    let network: Network = masked.as_deref().unwrap_or(text).parse().ok()?;
    matches!(network.address(), IpAddr::V4(_)).then_some(network)
}

/// fwknopd takes a day to end as it begins, where the server is.
fn expires(stanza: &Stanza, zone: &TimeZone) -> Result<Option<Timestamp>, Diagnostic> {
    let Some((name, given)) = stanza.last_of("ACCESS_EXPIRE", "ACCESS_EXPIRE_EPOCH") else {
        return Ok(None);
    };
    let text = given.text();
    let read = if name == "ACCESS_EXPIRE" {
        day(&text).and_then(|day| Some(day.to_zoned(zone.clone()).ok()?.timestamp()))
    } else {
        text.parse().ok().and_then(|second| Timestamp::from_second(second).ok())
    };
    match read {
        Some(at) if at == Timestamp::UNIX_EPOCH => Ok(None),
        // Nobody lives to see what is later than the loader can tell.
        Some(at) if u64::try_from(at.as_nanosecond()).is_ok() => Ok(Some(at)),
        _ => Err(given.left_out(format!("'{text}' is no time at which it could expire"))),
    }
}

/// `MM/DD/YYYY` or `MM/DD/YY`.
fn day(text: &str) -> Option<Date> {
    let mut parts = text.split('/');
    let mut part = || parts.next()?.trim().parse::<u16>().ok();
    let (month, day, year) = (part()?, part()?, part()?);
    let year = if year < 100 { year + 2000 } else { year };
    let ended = parts.next().is_none();
    let date =
        Date::new(i16::try_from(year).ok()?, i8::try_from(month).ok()?, i8::try_from(day).ok()?);
    date.ok().filter(|_| ended)
}

fn seconds(stanza: &Stanza, name: &str, default: u64, notes: &mut Problems) -> u64 {
    let Some(given) = stanza.get(name) else { return default };
    let text = given.text();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number = text.get(..digits).and_then(|digits| digits.parse::<u64>().ok());
    let taken = number.filter(|number| (1..=CENTURY).contains(number)).unwrap_or(default);
    if digits < text.len() || number != Some(taken) && number != Some(0) {
        let message = format!("'{text}' is not a number of seconds: {name} is taken for {taken}");
        notes.push(given.at.error(message));
    }
    taken
}

/// `tcp/22, udp/53`; what fwknopd does not read is told.
fn read_ports(given: &Given, notes: &mut Problems) -> Vec<Knock> {
    let text = given.text();
    let mut ports = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let (protocol, rest) = item.split_once('/').unwrap_or((item, ""));
        let rest = rest.trim_start();
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (port, behind) = rest.split_at_checked(digits).unwrap_or((rest, ""));
        match format!("{port}/{}", protocol.trim()).parse::<Knock>() {
            Ok(port) => {
                if !behind.is_empty() {
                    let read = port.port;
                    let message = format!("of '{item}' fwknopd reads only {protocol}/{read}");
                    let help = "put a comma between two ports; there are no ranges";
                    notes.push(given.at.error(message).help(help));
                }
                if !ports.contains(&port) {
                    ports.push(port);
                }
            }
            Err(_) => {
                let message = format!("left out: '{item}' is no port such as tcp/22 or udp/53");
                notes.push(given.at.error(message));
            }
        }
    }
    ports
}
