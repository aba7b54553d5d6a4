//! Reader of what lets a grant follow its sessions: `hold`.

use std::time::Duration;

use crate::config::diagnostic::Parsed;
use crate::config::tree::{KnownKeys, MappingEntry, Reader};
use crate::config::{Diagnostic, Hold, Hole, Opening};
use crate::proto::duration;

const HOLD: KnownKeys = KnownKeys { of: "hold", known: &["idle", "grace", "at_most"] };

/// Reads the times of grants that follow their sessions; what is left out has its default.
pub(super) fn read_hold(
    reader: &mut Reader<'_>,
    open_for: Parsed<Duration>,
) -> Parsed<Option<Hold>> {
    let Some(given) = reader.value("hold") else { return Ok(None) };
    let wanted = "a mapping such as {idle: 60s, grace: 30s, at_most: 12h},";
    let mut hold = Reader::new(given, wanted, &HOLD, reader.problems)?;
    let mut time = |key, default: Duration| {
        hold.duration(key, Duration::from_secs(1)).map(|given| given.unwrap_or(default))
    };
    let Hold { idle, grace, at_most } = Hold::DEFAULT;
    let times = [time("idle", idle), time("grace", grace), time("at_most", at_most)];
    let [idle, grace, at_most] = times;
    let (idle, grace, at_most) = (idle?, grace?, at_most?);
    let (longest, what) = (idle, "idle").max((open_for?, "open_for"));
    if at_most < longest {
        let at = &hold.value("at_most").unwrap_or(given).at;
        let [at_most, longest] = [at_most, longest].map(duration::format);
        let error = at.error(format!("at_most, {at_most}, is shorter than {what}, {longest}"));
        return hold
            .fail(error.help("nothing is open for longer than at_most: write at least as much"));
    }
    Ok(Some(Hold { idle, grace, at_most }))
}

/// The errors of a door that is to follow sessions, or to cut them, and cannot.
pub(super) fn unknown_sessions(reader: &Reader<'_>, opening: &Opening) -> Vec<Diagnostic> {
    let has_ports = !opening.ports.is_empty() || !opening.forwards.is_empty();
    let is_lacking = !has_ports && opening.mechanism.closes();
    let wants = [("hold", opening.hold.is_some()), ("on_expiry", opening.cuts)];
    let wants = wants.into_iter().filter(|(_, is_given)| *is_given && is_lacking);
    let no_port = |given: &MappingEntry| {
        let message = format!("'{}' needs the ports that this door opens", given.key);
        given.at.error(message).help("write them as 'open', with the guard or a template")
    };
    let timed = reader.get("hold").filter(|_| opening.mechanism.has_hole(Hole::Seconds));
    let timed = timed.map(|given| {
        let error = given.at.error("what opens this door ends by itself, after %SECONDS%");
        error.help("nothing can hold it: leave out 'hold', or use commands without %SECONDS%")
    });
    wants.filter_map(|(key, _)| reader.get(key)).map(no_port).chain(timed).collect()
}
