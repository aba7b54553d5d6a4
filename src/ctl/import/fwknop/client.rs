//! The client of a stanza, read as fwknopd reads it.

use std::fmt::Display;
use std::iter;
use std::net::{IpAddr, Ipv4Addr};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::super::atoi;
use super::cycle::{Cycle, read_cycle};
use super::keys::read_keys;
use super::nat::{ForcedNat, Translation, read_nat};
use super::stanzas::{AccessStanza, StanzaVariable};
use crate::config::yaml_writer::YamlWriter;
use crate::config::{Diagnosed, Diagnostic, Place, Problems};
use crate::proto::fwknop::{CipherMode, Hash, User};
use crate::proto::{Knock, Network};

/// In seconds, where a stanza says nothing, or 0.
const FW_ACCESS_TIMEOUT: u64 = 30;
const MAX_FW_TIMEOUT: u64 = 300;
/// The longest time that fwknopd takes, in seconds.
const LONGEST: u64 = 8_388_608;

pub(super) struct ImportedClient {
    pub(super) at: Place,
    pub(super) origin: String,
    /// What it is probably called.
    pub(super) called: Option<String>,
    /// What it proves itself by, of either kind.
    pub(super) keys: Vec<(&'static str, Vec<u8>)>,
    /// What is written of it below its doors.
    pub(super) page: YamlWriter,
    /// `None`: any that it asks for.
    pub(super) ports: Option<Vec<Knock>>,
    pub(super) restricted: Vec<Knock>,
    pub(super) cycle: Option<Cycle>,
    pub(super) nat: Option<ForcedNat>,
    /// How long its doors are open, and how long at the most, in seconds.
    pub(super) times: [(&'static str, u64); 2],
}

/// Reads a stanza.
///
/// # Errors
/// Says why what it says cannot be carried over.
pub(super) fn read(
    stanza: &AccessStanza,
    translation: &Translation,
    zone: &TimeZone,
    notes: &mut Problems,
) -> Diagnosed<ImportedClient> {
    let (key, hmac) = read_keys(stanza)?;
    if hmac.is_none() {
        let message = "this client has no HMAC key: nothing says that its requests are not altered";
        notes.push(stanza.at.warning(message));
    }
    let hmac_type = stanza.word::<Hash>("HMAC_DIGEST_TYPE")?.filter(|_| hmac.is_some());
    let mode = stanza.word::<CipherMode>("ENCRYPTION_MODE")?;
    let username = stanza.get("REQUIRE_USERNAME").map(username).transpose()?;
    let cycle = read_cycle(stanza, notes)?;
    let nat = read_nat(stanza, translation, notes)?.filter(|_| cycle.is_none());
    notes.extend(without_effect(stanza, cycle.as_ref(), hmac.is_some()));
    let ports = stanza.get("OPEN_PORTS").map(|given| read_ports(given, notes));
    if ports.as_ref().is_some_and(Vec::is_empty) {
        return Err(stanza.at.error("the stanza is left out: it opens no port"));
    }
    let restricted = stanza.get("RESTRICT_PORTS").map(|given| read_ports(given, notes));
    let mut time = |name, default| match stanza.get(name).map(|given| seconds(given, notes)) {
        None | Some(Ok(0)) => Ok(default),
        Some(seconds) => seconds,
    };
    let most = time("MAX_FW_TIMEOUT", MAX_FW_TIMEOUT)?;
    let open_for = match &cycle {
        Some(cycle) => cycle.timer,
        None => time("FW_ACCESS_TIMEOUT", FW_ACCESS_TIMEOUT)?,
    };
    if open_for > most {
        let message = format!(
            "opens for {open_for} s, more than MAX_FW_TIMEOUT: who asks for a time gets up to \
             {open_for} s too"
        );
        notes.push(stanza.at.warning(message));
    }
    let networks =
        [("from", networks(stanza, "SOURCE")?), ("destination", networks(stanza, "DESTINATION")?)];
    let mut page = YamlWriter::default();
    page.optional(2, "expires", expires(stanza, zone, notes)?);
    page.open(2, "fwknop");
    key.write(&mut page, "key");
    match &hmac {
        Some(hmac) => hmac.write(&mut page, "hmac_key"),
        None => page.entry(3, "without_hmac", "true"),
    }
    page.optional(3, "hmac_type", hmac_type);
    page.optional(3, "mode", mode);
    for (name, networks) in networks.iter().filter(|(_, networks)| !networks.is_empty()) {
        page.list(3, name, networks);
    }
    page.optional(3, "username", username.as_ref());
    let is_explicit = stanza.get("REQUIRE_SOURCE_ADDRESS").is_some_and(StanzaVariable::is_yes);
    page.optional(3, "address", is_explicit.then_some("explicit"));
    page.optional(3, "force_nat", nat.map(|_| "true"));
    let hmac = hmac.map(|hmac| ("HMAC_KEY", hmac.bytes));
    let (at, origin) = (stanza.at.clone(), stanza.origin.clone());
    let called = username.or_else(|| stanza.file.clone());
    let keys = iter::once(("KEY", key.bytes)).chain(hmac).collect();
    let restricted = restricted.unwrap_or_default();
    let times = [("open_for", open_for), ("open_for_max", most.max(open_for))];
    Ok(ImportedClient { at, origin, called, keys, page, ports, restricted, cycle, nat, times })
}

/// Warnings about variables without effect.
fn without_effect(stanza: &AccessStanza, cycle: Option<&Cycle>, hmac: bool) -> Vec<Diagnostic> {
    let say = |name, message: &str| Some(stanza.get(name)?.at.warning(format!("{name} {message}")));
    let beside = "has no effect beside CMD_CYCLE_OPEN: left out";
    let of_port = "has no effect in fwknopd, which runs CMD_CYCLE_OPEN in any case; here only \
                   these ports are opened";
    let unneeded = "needs no counterpart: a client opens only what its doors name";
    let (by_port, by_any) = (cycle.is_some_and(|it| it.depends_on_port()), cycle.is_some());
    let found = [
        (!hmac, "HMAC_DIGEST_TYPE", "has no effect without HMAC_KEY: left out"),
        (by_any, "FW_ACCESS_TIMEOUT", beside),
        (by_any, "FORCE_NAT", beside),
        (by_any, "OPEN_PORTS", if by_port { of_port } else { beside }),
        (by_any && !by_port, "RESTRICT_PORTS", beside),
        (!by_any, "RESTRICT_PORTS", unneeded),
    ];
    found.into_iter().filter(|(holds, ..)| *holds).filter_map(|(_, it, why)| say(it, why)).collect()
}

fn username(given: &StanzaVariable) -> Diagnosed<String> {
    let text = given.text();
    match text.parse::<User>() {
        Ok(_) => Ok(text),
        Err(_) => Err(given.left_out("no request can hold this REQUIRE_USERNAME")),
    }
}

/// Empty: anywhere.
fn networks(stanza: &AccessStanza, name: &str) -> Diagnosed<Vec<Network>> {
    let Some(given) = stanza.get(name) else { return Ok(Vec::new()) };
    let text = given.text();
    let items = text.split(',').map(str::trim_start);
    let (any, items): (Vec<_>, Vec<_>) = items.partition(|it| it.eq_ignore_ascii_case("any"));
    let why = |item| format!("'{item}' in {name} is not an IPv4 address or network");
    let networks = items.iter().map(|it| network(it).ok_or_else(|| given.left_out(why(it))));
    let networks = networks.collect::<Result<Vec<_>, _>>()?;
    Ok(if any.is_empty() { networks } else { Vec::new() })
}

/// An IPv4 network, with its prefix or with its mask. fwknopd takes no `/0`, but a mask of zeros.
fn network(text: &str) -> Option<Network> {
    let (address, length) = text.split_once('/').unwrap_or((text.trim_end(), "32"));
    let ones = match length.parse::<Ipv4Addr>() {
        Ok(mask) => {
            let ones = mask.to_bits().leading_ones();
            u8::try_from(ones).ok().filter(|_| mask.to_bits().count_ones() == ones)?
        }
        Err(_) if length.bytes().all(|byte| byte.is_ascii_digit()) && length.len() <= 2 => {
            length.parse().ok().filter(|ones| (1..=32).contains(ones))?
        }
        Err(_) => return None,
    };
    Some(Network::around(IpAddr::V4(address.parse().ok()?), ones))
}

/// fwknopd takes a day to end as it begins, where the server is.
fn expires(
    stanza: &AccessStanza,
    zone: &TimeZone,
    notes: &mut Problems,
) -> Diagnosed<Option<Timestamp>> {
    let Some(given) = stanza.get("ACCESS_EXPIRE") else { return Ok(None) };
    let text = given.text();
    let read = if given.name == "ACCESS_EXPIRE" {
        day(&text).and_then(|day| Some(day.to_zoned(zone.clone()).ok()?.timestamp()))
    } else {
        let second = atoi(&text);
        notes.extend((second.to_string() != text).then(|| read_as(given, &second)));
        // What is not a number, or later than jiff can tell, never comes.
        Some(Timestamp::from_second(second.max(0)).unwrap_or(Timestamp::UNIX_EPOCH))
    };
    match read {
        Some(at) if at == Timestamp::UNIX_EPOCH => Ok(None),
        Some(at) if at > Timestamp::UNIX_EPOCH => {
            // Nobody lives to see what is later than the loader can tell.
            Ok(Some(at).filter(|at| u64::try_from(at.as_nanosecond()).is_ok()))
        }
        _ => Err(given.left_out(format!("'{text}' is not a day on which it could expire"))),
    }
}

/// `MM/DD/YYYY` or `MM/DD/YY`; what stands behind it is not looked at.
fn day(text: &str) -> Option<Date> {
    let mut parts = text.splitn(3, '/').map(str::trim_start);
    let mut short = || {
        let part = parts.next()?;
        (part.len() <= 2).then(|| part.parse::<i8>().ok()).flatten()
    };
    let (month, day) = (short()?, short()?);
    let year = parts.next()?;
    let digits = year.bytes().take(4).take_while(u8::is_ascii_digit).count();
    let year: i16 = year.get(..digits)?.parse().ok()?;
    Date::new(if year < 100 { year + 2000 } else { year }, month, day).ok()
}

/// A number of seconds as fwknopd reads it: cut to 32 bits, whatever stands behind it.
///
/// # Errors
/// If fwknopd does not start with it.
pub(super) fn seconds(given: &StanzaVariable, notes: &mut Problems) -> Diagnosed<u64> {
    let text = given.text();
    let Some(seconds) =
        u64::try_from(atoi(&text) & 0xffff_ffff).ok().filter(|seconds| *seconds <= LONGEST)
    else {
        let why = format!("'{text}' is out of range: {} goes up to {LONGEST}", given.name);
        return Err(given.left_out(why));
    };
    let behind = text.trim_start_matches(|letter: char| "+0123456789 ".contains(letter));
    if !behind.is_empty() || seconds.to_string() != text {
        let note = read_as(given, &seconds);
        let is_meant = behind.starts_with(['s', '#']) || behind.is_empty();
        notes.push(if is_meant { note.into_warning() } else { note });
    }
    Ok(seconds)
}

fn read_as(given: &StanzaVariable, number: &dyn Display) -> Diagnostic {
    let (name, text) = (given.name, given.text());
    given.at.error(format!("fwknopd reads '{text}' as {number} in {name}"))
}

/// `tcp/22, udp/53`; what fwknopd does not read is told.
fn read_ports(given: &StanzaVariable, notes: &mut Problems) -> Vec<Knock> {
    let text = given.text();
    let mut ports = Vec::new();
    for item in text.split(',').map(str::trim_start) {
        let (protocol, rest) = item.split_once('/').unwrap_or((item, ""));
        let behind = rest.trim_start_matches(|letter: char| "+0123456789 ".contains(letter));
        match format!("{}/{protocol}", atoi(rest)).parse::<Knock>() {
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
                let message = format!("left out: '{item}' is not a port such as tcp/22 or udp/53");
                notes.push(given.at.error(message));
            }
        }
    }
    ports
}
