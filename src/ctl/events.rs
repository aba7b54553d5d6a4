//! `knockctl watch`, `knockctl history` and `knockctl explain --live`: what happened, and happens.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::lines::{Timeline, local, object, wall};
use super::socket::{ControlError, Daemon, Patience, Replies};
use super::target::Target;
use super::{hand, status, words};
use crate::config::{Door, Name, Recognition};
use crate::control::{EventLine, HistoryQuery, Reply, Request};
use crate::proto::duration;
use crate::sys::clock;
use crate::time::Wall;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct WatchArgs {
    /// One JSON object a line, for scripts
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct HistoryArgs {
    /// Only what happened at this door
    #[arg(long)]
    door: Option<Name>,
    /// Only what this address did, or had done for it
    #[arg(long, value_name = "A", value_parser = hand::address)]
    ip: Option<IpAddr>,
    /// Only from then on: so long ago (2h, 30d), or a date or time (2026-11-22, 09:30,
    /// "2026-11-22 09:30")
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<Timestamp>,
    /// One JSON object a line, for scripts
    #[arg(long)]
    json: bool,
}

/// A point in time as people write it, in local time.
fn since(text: &str) -> Result<Timestamp, String> {
    since_at(text, clock::now().wall, &TimeZone::system())
}

fn since_at(text: &str, now: Wall, zone: &TimeZone) -> Result<Timestamp, String> {
    let now = local(now, zone);
    if let Ok(ago) = duration::parse(text) {
        let ago = SignedDuration::try_from(ago).unwrap_or(SignedDuration::MAX);
        return now.timestamp().checked_sub(ago).map_err(|error| error.to_string());
    }
    // With a zone of its own, then without; a time without a day is today's.
    let civil = || {
        let today = || text.parse::<Time>().map(|time| now.date().to_datetime(time));
        text.parse::<DateTime>().or_else(|_| today())
    };
    text.parse::<Timestamp>().or_else(|_| zone.to_timestamp(civil()?)).map_err(|_| {
        "neither so long ago, as 2h or 30d, nor a time, as 2026-11-22 or '2026-11-22 09:30'"
            .to_owned()
    })
}

pub(super) fn watch(target: &Target, args: &WatchArgs) -> Result<(), ControlError> {
    follow(target, &Request::Watch, args.json, BTreeMap::new())
}

/// What became of knocks, lately and from now on; of one address or of all.
pub(super) fn explain(
    target: &Target,
    address: Option<IpAddr>,
    json: bool,
) -> Result<(), ControlError> {
    // As far as whoever asks may know what the doors want to hear: the daemon does not tell.
    let loaded = if json { None } else { target.load().ok() };
    let known = loaded.map(|loaded| known(&loaded.config.doors)).unwrap_or_default();
    follow(target, &Request::Explain { address }, json, known)
}

/// What the doors want to hear, by their names.
pub(super) fn known(doors: &[Door]) -> BTreeMap<String, Recognition> {
    doors.iter().map(|door| (door.name().to_string(), door.recognition.clone())).collect()
}

/// Tells of events as they happen, each at once. Ends when asked to, or when nobody reads any
/// more; that the daemon ends is an error.
fn follow(
    target: &Target,
    request: &Request,
    json: bool,
    known: BTreeMap<String, Recognition>,
) -> Result<(), ControlError> {
    for signal in [SIGINT, SIGTERM] {
        let always = Arc::new(AtomicBool::new(true));
        signal_hook::flag::register_conditional_shutdown(signal, 0, always)?;
    }
    let mut daemon = target.daemon()?;
    // Whoever waits for events cannot tell a quiet daemon from one that hangs: this does.
    let doors = doors(&mut daemon)?;
    let mut teller = Teller::new(io::stdout().lock(), json, &doors, known);
    let replies = daemon.ask(request, Patience::Endless)?;
    // A person who sees nothing should know that it works.
    if io::stderr().is_terminal() {
        let about = match request {
            Request::Explain { address: Some(address) } => format!("knocks of {address}"),
            Request::Explain { address: None } => "knocks".to_owned(),
            _ => "what happens".to_owned(),
        };
        writeln!(io::stderr(), "knockctl: waiting for {about}; Ctrl-C ends")?;
    }
    teller.tell_all(replies)?;
    Err(ControlError::Ended)
}

pub(super) fn history(target: &Target, args: HistoryArgs) -> Result<(), ControlError> {
    let mut daemon = target.daemon()?;
    let HistoryArgs { door, ip: address, since, json } = args;
    let since = since.map(|since| since.as_duration().as_secs_f64());
    let query = HistoryQuery { door, address, since };
    let doors = if json { Vec::new() } else { doors(&mut daemon)? };
    let replies = daemon.ask(&Request::History(query), Patience::Answer)?;
    let mut teller =
        Teller::new(BufWriter::new(io::stdout().lock()), json, &doors, BTreeMap::new());
    teller.tell_all(replies)?;
    teller.out.flush()?;
    if teller.told == 0 && !json {
        writeln!(io::stderr(), "nothing of that kind has happened")?;
    }
    Ok(())
}

fn doors(daemon: &mut Daemon) -> Result<Vec<Name>, ControlError> {
    Ok(status::ask(daemon)?.doors.into_iter().map(|door| door.door).collect())
}

/// Prints what happened, as lines for people or as objects.
pub(super) struct Teller<W> {
    pub(super) out: W,
    /// `None`: as JSON.
    pub(super) timeline: Option<Timeline>,
    known: BTreeMap<String, Recognition>,
    pub(super) told: u64,
}

impl<W: Write> Teller<W> {
    pub(super) fn new(
        out: W,
        json: bool,
        doors: &[Name],
        known: BTreeMap<String, Recognition>,
    ) -> Self {
        let timeline = (!json).then(|| Timeline::new(doors.iter().map(Name::as_str)));
        Self { out, timeline, known, told: 0 }
    }

    /// Every event, until the daemon says that it was the last.
    fn tell_all(&mut self, mut replies: Replies) -> Result<(), ControlError> {
        loop {
            match replies.next()? {
                Reply::Event(event) => self.tell(&event)?,
                Reply::Done { .. } => return Ok(()),
                _ => {}
            }
        }
    }

    /// One whole line in one write, which a terminal or a pipe shows at once.
    pub(super) fn tell(&mut self, event: &EventLine) -> io::Result<()> {
        self.told += 1;
        let mut line = Vec::new();
        match &mut self.timeline {
            None => object(&mut line, event)?,
            Some(timeline) => {
                let source =
                    event.source.map_or_else(|| "-".to_owned(), |source| source.to_string());
                let door = event.door.as_deref().unwrap_or("-");
                let what = words::event(event, self.known.get(door));
                timeline.line(&mut line, wall(event.time), &source, door, &what)?;
            }
        }
        self.out.write_all(&line)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Wall = Wall::from_nanos(1_700_000_000_000_000_000);

    fn seconds_before_now(text: &str) -> Result<i64, String> {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        since_at(text, NOW, &zone).map(|since| 1_700_000_000 - since.as_second())
    }

    // Now is 2023-11-15 00:13:20 at +02:00.
    #[test]
    fn a_beginning_is_so_long_ago_or_a_local_time() {
        for (text, seconds) in [
            ("2h", 7200),
            ("90", 90),
            ("30d", 30 * 86_400),
            ("2023-11-15", 800),
            ("2023-11-14 23:13:20", 3600),
            ("2023-11-14T23:13", 3620),
            ("00:13", 20),
            ("2023-11-14T22:13:00Z", 20),
        ] {
            assert_eq!(seconds_before_now(text), Ok(seconds), "{text}");
        }
    }

    #[test]
    fn what_is_no_beginning_is_an_error_that_says_what_is() {
        for text in ["", "soon", "2023-13-01", "25:00", "-2h"] {
            assert!(seconds_before_now(text).unwrap_err().contains("2026-11-22"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9TZ:dhms+. -]{0,25}") {
            let _ = seconds_before_now(&text);
        }
    }
}
