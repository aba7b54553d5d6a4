//! Reader of one entry of the `doors:` mapping.

use std::net::IpAddr;
use std::time::Duration;

use super::commands::Templates;
use super::lockout::read_lockout;
use super::opening::read_opening;
use super::rotation::read_scheme;
use super::sequence::{Sequence, read_sequence};
use crate::config::diagnostic::Parsed;
use crate::config::door::{SEQ_TIMEOUT, TRIP_WIRES};
use crate::config::lockout::CODE_LOCKOUT;
use crate::config::tree::{KnownKeys, Mapping, MappingEntry, Node, Reader, Value};
use crate::config::width::read_width;
use crate::config::{
    Diagnosed, Diagnostic, Door, DoorPlaces, Lockout, Mechanism, Options, Place, Problems,
    Recognition, Settings,
};
use crate::proto::totp::{Scheme, TotpMode};
use crate::proto::{FlagTest, Knock, OpenPorts};

/// The keys of all methods: a door has at least one of them.
const METHODS: &str = "sequence one_time_sequences totp spa fwknop";

pub(super) const DOOR: KnownKeys = KnownKeys {
    of: "a door",
    known: &[
        METHODS,
        "seq_timeout tcpflags target trip_wires lockout",
        "open forward open_for open_for_max max_grants hold on_expiry addresses fleet width cooldown",
        "via guard on_open on_close start_command stop_command start_command_6 stop_command_6",
        "verify_command verify_command_6 cmd_timeout command_limit no_new_privs",
    ],
};

const MAX_TRIP_WIRES: u16 = 1000;

/// Reads one entry of `doors:`; `settings` are those of `knockd:`.
pub(super) fn read_door(
    entry: &MappingEntry,
    templates: &Templates,
    settings: &Settings,
    options: Options,
    problems: &mut Problems,
) -> Parsed<(Door, DoorPlaces)> {
    let name = problems.report(entry.name());
    let wanted = "a door, with its sequence,";
    if entry.node.mapping(wanted).is_err() && DOOR.names().any(|key| key == entry.key) {
        let message = format!("'{}' stands where the name of a door belongs", entry.key);
        let error = entry.at.error(message).help("indent it below the name of its door");
        return problems.report(Err(error));
    }
    let mut reader = Reader::new(&entry.node, wanted, &DOOR, problems)?;
    let seq_timeout = reader.duration("seq_timeout", Duration::from_millis(1));
    let flags = read_flags(&mut reader);
    let target = reader.read("target", |node| parse_target(node.text("an IP address")?, &node.at));
    let trip_wires = reader.read("trip_wires", |node| node.integer(0, MAX_TRIP_WIRES));
    let trip_wires = trip_wires.map(|number| number.unwrap_or(TRIP_WIRES));
    let sequence = read_sequence(&mut reader, trip_wires.unwrap_or_default(), options);
    let totp = reader.value("totp").map(|node| read_scheme(node, reader.problems)).transpose();
    let spa = read_switch(&mut reader, "spa");
    let fwknop = read_switch(&mut reader, "fwknop");
    let width = read_width(&mut reader);
    let lockout = read_own_lockout(&mut reader, totp.ok().flatten());
    let opening = read_opening(&mut reader, entry, templates, settings);
    let (Sequence { knocks, places: sequence_places, one_time }, totp, spa, fwknop) =
        (sequence?, totp?, spa?, fwknop?);
    let knocked = !knocks.is_empty() || one_time.is_some() || totp.is_some();
    if !knocked && !spa && !fwknop {
        let message = format!("nothing opens door '{}': it has no sequence", entry.key);
        let help = "write for example sequence: [7000, 8000/udp, 9000]; or one_time_sequences, \
                    totp, spa or fwknop";
        return reader.missing(&[METHODS], entry.at.error(message).help(help));
    }
    let effects = without_effect(reader.mapping, knocked, !knocks.is_empty(), spa || fwknop);
    reader.problems.extend(effects);
    let (opening, [opens_places, forwards_places]) = opening?;
    let why = match &settings.fleet {
        // It may be there, and be wrong.
        None => (!reader.problems.has_errors()).then_some("'knockd:' has no fleet"),
        Some(_) => (!opening.mechanism.closes()).then_some("what never closes opens here alone"),
    };
    let in_vain = reader.mapping.get("fleet").filter(|_| opening.fleet).zip(why);
    reader.problems.extend(in_vain.map(|(it, why)| it.without_effect(why, "remove it")));
    if opening.mechanism == Mechanism::Guard {
        let on = opening.forwards.iter().map(|forward| forward.on.into());
        let ports = opening.ports.iter().copied().chain(on);
        let ports = ports.zip(opens_places.iter().chain(&forwards_places));
        reader.problems.extend(guarded_knocks(&knocks, totp, ports));
    }
    let door = Door {
        recognition: Recognition {
            sequence: knocks,
            totp,
            spa,
            fwknop,
            lockout: lockout?,
            seq_timeout: seq_timeout?.unwrap_or(SEQ_TIMEOUT),
            flags: flags?,
            target: target?,
            trip_wires: trip_wires?,
            opens: opening.ports.clone(),
            forwards: opening.forwards.clone(),
            width: width?,
            ..Recognition::new(name?)
        },
        opening,
        one_time,
    };
    let placed = ["trip_wires", "target", "totp", "spa", "fwknop", "via", "guard", "width"];
    let places = DoorPlaces {
        name: entry.at.clone(),
        sequence: sequence_places,
        opens: opens_places,
        forwards: forwards_places,
        keys: reader.places(placed),
    };
    Ok((door, places))
}

/// What is said of a door that does not have what it is about.
fn without_effect(
    mapping: &Mapping,
    knocked: bool,
    has_sequence: bool,
    asked: bool,
) -> Vec<Diagnostic> {
    let no_sequence = "no sequence opens this door";
    let has_line = has_sequence || mapping.get("one_time_sequences").is_some();
    let rotating = "every port of a rotating sequence is watched anyway";
    let keys = [
        ("seq_timeout", knocked, no_sequence),
        ("tcpflags", knocked, no_sequence),
        ("trip_wires", has_line, if knocked { rotating } else { no_sequence }),
        ("open_for_max", asked, "only requests by SPA or fwknop ask for a time"),
        ("width", mapping.value("spa").is_some(), "only requests by SPA ask for a network"),
        ("addresses", asked || mapping.get("totp").is_some(), "no sequence says whose it is"),
    ];
    let vain = keys.into_iter().filter(|(_, has_effect, _)| !has_effect);
    vain.filter_map(|(key, _, why)| Some(mapping.get(key)?.without_effect(why, "remove it")))
        .collect()
}

/// A key that turns something on; off where it is absent.
fn read_switch(reader: &mut Reader<'_>, key: &str) -> Parsed<bool> {
    let read = |node: &Node| {
        node.boolean().map_err(|error| match &node.value {
            Value::Mapping(_) => error
                .help(format!("write {key}: true; who may open it is written under 'clients:'")),
            _ => error,
        })
    };
    reader.read(key, read).map(Option::unwrap_or_default)
}

/// The failure budget of a door that opens by codes; nothing else has one of its own.
fn read_own_lockout(reader: &mut Reader<'_>, totp: Option<Scheme>) -> Parsed<Option<Lockout>> {
    let by_code = totp.is_some_and(|scheme| matches!(scheme.mode(), TotpMode::Code { .. }));
    let Some(given) = reader.get("lockout") else {
        return Ok(by_code.then_some(CODE_LOCKOUT));
    };
    if !by_code {
        let error = given.at.error("only a door with totp in mode: code has a lockout of its own");
        return reader.fail(error.help("write it under 'knockd:' for all doors, or remove it"));
    }
    let lockout = read_lockout(&given.node, CODE_LOCKOUT, reader.problems)?;
    if lockout.is_none() {
        let warning = given.node.at.warning(
            "without a lockout anyone who keeps trying hits a code in the end, however many there are",
        );
        reader.problems.push(warning.help("remove this line, or write for example {failures: 5}"));
    }
    Ok(lockout)
}

/// Whoever uses a port that the guard opens would knock at the same door again.
fn guarded_knocks<'a>(
    sequence: &[Knock],
    totp: Option<Scheme>,
    ports: impl Iterator<Item = (OpenPorts, &'a Place)>,
) -> Vec<Diagnostic> {
    let mut knocked = totp.map(|scheme| scheme.watched()).unwrap_or_default();
    knocked.extend(sequence.iter().copied());
    let both = ports.filter(|(ports, _)| knocked.meets(*ports));
    both.map(|(port, at)| {
        at.error(format!("{port} is both knocked on and opened by this door"))
            .help("knock on ports that nothing else uses")
    })
    .collect()
}

fn read_flags(reader: &mut Reader<'_>) -> Parsed<FlagTest> {
    let Some(node) = reader.value("tcpflags") else { return Ok(FlagTest::SYN) };
    let mut test = Ok(FlagTest::ANY);
    for item in node.items() {
        let one = item.parsed::<FlagTest>("a TCP flag such as syn");
        let one = reader.problems.report(one.map_err(|error| match &item.value {
            Value::Scalar(word) if ["any", "all"].contains(&word.text.as_str()) => {
                error.help("an empty list, [], takes any TCP packet")
            }
            _ => error,
        }));
        test = test.and_then(|test: FlagTest| {
            reader.problems.report(test.and(one?).map_err(|error| item.at.error(error.to_string())))
        });
    }
    test
}

/// The address that a door says has to be knocked at.
///
/// # Errors
/// Says that the text is no address that a packet could be sent to.
pub(crate) fn parse_target(text: &str, at: &Place) -> Diagnosed<IpAddr> {
    match text.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() => Err(at
            .error(format!("no packet is sent to {address}"))
            .help("without 'target' a knock at any address of this host counts")),
        Ok(address) => Ok(address),
        Err(_) => Err(at
            .error(format!("'{text}' is not an IP address"))
            .help("write an address such as 192.0.2.10 or 2001:db8::10; names are not looked up")),
    }
}
