//! The commands of `CMD_CYCLE_OPEN` and `CMD_CYCLE_CLOSE`.

use std::time::Duration;

use super::client::seconds;
use super::stanzas::{AccessStanza, StanzaVariable};
use crate::config::sleeps::run_time;
use crate::config::{COMMAND_LIMIT, Command, CommandText, Diagnosed, Problems};
use crate::proto::duration;

/// The time of a command without a timer, in seconds.
const UNTIMED: u64 = 30;

/// The commands that open and close, word by word: fwknopd starts them without a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cycle {
    pub(super) open: Vec<String>,
    /// `None`: nothing closes.
    pub(super) close: Option<Vec<String>>,
    /// In seconds.
    pub(super) timer: u64,
}

impl Cycle {
    /// Whether it depends on what is asked for; fwknopd runs it in any case.
    pub(super) fn depends_on_port(&self) -> bool {
        let words = self.open.iter().chain(self.close.iter().flatten());
        words.into_iter().any(|word| ["%PORT%", "%PROTO%"].iter().any(|hole| word.contains(hole)))
    }

    /// Whether it matters how long it is to be open.
    pub(super) fn is_timed(&self) -> bool {
        self.close.is_some() || self.open.iter().any(|word| word.contains("%SECONDS%"))
    }

    /// Whether a command may take longer than commands may where nothing is said: fwknopd waits.
    pub(super) fn is_slow(&self) -> bool {
        [Some(&self.open), self.close.as_ref()].into_iter().flatten().any(|words| {
            let words = words.iter().map(|word| CommandText::parse(word).unwrap_or_default());
            let time = run_time(&Command::Exec(words.collect()), Duration::from_secs(self.timer));
            !time.is_known || time.exceeds(COMMAND_LIMIT)
        })
    }
}

/// Whether what these words open ends by itself, after `timer` seconds at the latest: an element
/// of a set with a timeout, or a rule of firewalld's with one.
fn closes_itself(open: &[String], timer: u64) -> bool {
    let text = open.join(" ").replace(" --timeout=", " timeout ");
    text.split_once(" timeout ").is_some_and(|(added, after)| {
        let time = after.split([' ', ',', '}']).next().unwrap_or_default();
        let seconds = duration::parse(time).map_or(0, |time| time.as_secs());
        added.contains("add") && (time == "%SECONDS%" || (1..=timer).contains(&seconds))
    })
}

/// Whether a value says that there is no command: fwknopd looks at its first four letters.
fn is_none(given: &StanzaVariable) -> bool {
    given.value.starts_with(b"NONE") || given.value.eq_ignore_ascii_case(b"__NONE__")
}

/// Variables of fwknopd, and the holes that stand for the same.
const HOLES: [(&str, &str); 5] = [
    ("IP", "%IP%"),
    ("SRC", "%IP%"),
    ("PORT", "%PORT%"),
    ("PROTO", "%PROTO%"),
    ("CLIENT_TIMEOUT", "%SECONDS%"),
];
const WITHOUT_HOLE: [&str; 3] = ["PKT_SRC", "DST", "TIMEOUT"];

/// # Errors
/// Says why the commands cannot be carried over.
pub(super) fn read_cycle(stanza: &AccessStanza, notes: &mut Problems) -> Diagnosed<Option<Cycle>> {
    let (open, close) = (stanza.get("CMD_CYCLE_OPEN"), stanza.get("CMD_CYCLE_CLOSE"));
    let timer = stanza.get("CMD_CYCLE_TIMER");
    let (open, close) = match (open, close) {
        (Some(open), Some(close)) => (open, close),
        (None, None) => {
            if let Some(timer) = timer {
                read_timer(timer, notes)?;
                let message = "CMD_CYCLE_TIMER has no effect without CMD_CYCLE_OPEN: left out";
                notes.push(timer.at.warning(message));
            }
            return Ok(None);
        }
        (Some(alone), None) | (None, Some(alone)) => {
            let message = "the stanza is left out: CMD_CYCLE_OPEN and CMD_CYCLE_CLOSE belong \
                           together, or fwknopd does not start";
            return Err(alone.at.error(message));
        }
    };
    if is_none(open) {
        return Err(open.at.error("the stanza is left out: its CMD_CYCLE_OPEN is not a command"));
    }
    let opens = words(open, notes)?;
    let seconds = timer.map(|timer| read_timer(timer, notes)).transpose()?;
    if is_none(close) {
        return Ok(Some(Cycle { open: opens, close: None, timer: seconds.unwrap_or(UNTIMED) }));
    }
    let closes = words(close, notes)?;
    let Some(timer) = seconds else {
        return Err(close.left_out("fwknopd does not start without CMD_CYCLE_TIMER"));
    };
    let ends_itself = closes_itself(&opens, timer);
    if ends_itself {
        let message = "what this opens ends by itself: written without CMD_CYCLE_CLOSE";
        notes.push(open.at.warning(message).help(
            "each request runs it anew, as in fwknopd: that renews an element with 'ipset -exist', \
             and not with 'nft add'; via: {nft_set: ...} renews in any case",
        ));
    }
    Ok(Some(Cycle { open: opens, close: (!ends_itself).then_some(closes), timer }))
}

fn read_timer(given: &StanzaVariable, notes: &mut Problems) -> Diagnosed<u64> {
    match seconds(given, notes)? {
        0 => Err(given.left_out("CMD_CYCLE_TIMER has to be a number of seconds")),
        seconds => Ok(seconds),
    }
}

fn words(given: &StanzaVariable, notes: &mut Problems) -> Diagnosed<Vec<String>> {
    let text = given.text();
    if text.contains(['"', '\'', '>', '<', '|', '`']) {
        let message = "fwknopd starts this without a shell: quotes and > go to the program";
        let help = "so it is written; to have a shell, write one command as text";
        notes.push(given.at.warning(message).help(help));
    }
    let words = text
        .split_whitespace()
        .map(|word| fill(word, given, notes))
        .collect::<Result<Vec<_>, _>>()?;
    let broken = words.iter().any(|word| CommandText::parse(word).is_err());
    let program = words.first().is_some_and(|program| !program.contains('%'));
    if broken || !program {
        return Err(given.at.error("the stanza is left out: its command does not name a program"));
    }
    Ok(words)
}

/// A word with holes in place of fwknopd's variables.
fn fill(word: &str, given: &StanzaVariable, notes: &mut Problems) -> Diagnosed<String> {
    let mut filled = String::new();
    let mut pieces = word.split('$').map(|piece| piece.replace('%', "%%"));
    filled.extend(pieces.next());
    for piece in pieces {
        if let Some(name) = WITHOUT_HOLE.iter().find(|name| piece.starts_with(**name)) {
            let message = format!("the stanza is left out: nothing fills ${name} in a command");
            let error = given.at.error(message);
            return Err(error.help("the holes are %IP% %PORT% %PROTO% %DOOR% %CLIENT% %SECONDS%"));
        }
        let found = HOLES.iter().find_map(|(name, hole)| Some((hole, piece.strip_prefix(name)?)));
        if let Some((hole, rest)) = found {
            if *hole == "%PROTO%" {
                notes.push(given.at.warning("$PROTO is a number, 6 for tcp; %PROTO% is the name"));
            }
            filled.push_str(hole);
            filled.push_str(rest);
        } else {
            let message = "fwknopd knows no such variable and drops the dollar sign; so does this";
            notes.push(given.at.error(message));
            filled.push_str(&piece);
        }
    }
    Ok(filled)
}
