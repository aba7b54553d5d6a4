//! `knockctl watch`, `knockctl history` and `knockctl explain --live`: what happened, and happens.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use jiff::Timestamp;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::args::JsonArgs;
use super::output::{Timeline, object, wall};
use super::socket::Replies;
use super::{Error, Target, Timeout, args, status, wording};
use crate::config::{Door, Name, Recognition};
use crate::control::{EventLine, HistoryQuery, Reply, Request, What};
use crate::engine::Reason;
use crate::grants::OpenedBy;
use crate::proto::{Method, Network};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct HistoryArgs {
    /// Only what happened at this door
    #[arg(long)]
    door: Option<Name>,
    /// Only what this address did, or had done for it
    #[arg(long, value_name = "A", value_parser = args::address)]
    ip: Option<IpAddr>,
    /// Only from then on: so long ago (2h, 30d), or a date or time (2026-11-22, 09:30,
    /// "2026-11-22 09:30")
    #[arg(long, value_name = "WHEN", value_parser = args::since)]
    since: Option<Timestamp>,
    /// One JSON object a line, for scripts
    #[arg(long)]
    json: bool,
}

pub(super) fn watch(target: &Target, args: &JsonArgs) -> Result<(), Error> {
    follow(target, &Request::Watch, args.json, BTreeMap::new())
}

/// `knockctl explain --live`: what became of knocks, lately and from now on.
pub(super) fn explain(target: &Target, address: Option<IpAddr>, json: bool) -> Result<(), Error> {
    // As far as whoever asks may know what the doors want to hear: the daemon does not tell.
    let mut config = target.load().ok().filter(|_| !json).map(|loaded| loaded.config);
    for door in config.iter_mut().flat_map(|config| &mut config.doors) {
        // Of those that open once the current one is not that of earlier knocks, nor of those that
        // come when it is used.
        if door.one_time.is_some() {
            door.recognition.sequence.clear();
        }
    }
    let known = config.map(|config| known(&config.doors)).unwrap_or_default();
    follow(target, &Request::Explain { address }, json, known)
}

/// The recognition of each door, by its name.
pub(super) type KnownDoors = BTreeMap<String, Recognition>;

pub(super) fn known(doors: &[Door]) -> KnownDoors {
    doors.iter().map(|door| (door.name().to_string(), door.recognition.clone())).collect()
}

/// Tells of events as they happen, each at once. Ends when asked to, or when nobody reads any
/// more; that the daemon ends is an error.
fn follow(target: &Target, request: &Request, json: bool, known: KnownDoors) -> Result<(), Error> {
    for signal in [SIGINT, SIGTERM] {
        let always = Arc::new(AtomicBool::new(true));
        signal_hook::flag::register_conditional_shutdown(signal, 0, always)?;
    }
    // Whoever waits for events cannot tell a quiet daemon from one that hangs: this does.
    let mut printer = EventPrinter::new(io::stdout().lock(), json, doors(target)?.iter(), known);
    let replies = target.ask(request, Timeout::None)?;
    // A person who sees nothing should know that it works.
    if io::stderr().is_terminal() {
        let about = match request {
            Request::Explain { address: Some(address) } => format!("knocks of {address}"),
            Request::Explain { address: None } => "knocks".to_owned(),
            _ => "what happens".to_owned(),
        };
        writeln!(io::stderr(), "knockctl: waiting for {about}; Ctrl-C ends")?;
    }
    printer.tell_all(replies)?;
    Err(Error::Ended)
}

pub(super) fn history(target: &Target, args: HistoryArgs) -> Result<(), Error> {
    let HistoryArgs { door, ip: address, since, json } = args;
    let since = since.map(|since| since.as_duration().as_secs_f64());
    let query = HistoryQuery { door, address, since };
    let doors = if json { Vec::new() } else { doors(target)? };
    let replies = target.ask(&Request::History(query), Timeout::Reply)?;
    let out = BufWriter::new(io::stdout().lock());
    let mut printer = EventPrinter::new(out, json, doors.iter(), BTreeMap::new());
    printer.tell_all(replies)?;
    printer.out.flush()?;
    if printer.timeline.is_some_and(|timeline| timeline.is_empty()) {
        writeln!(io::stderr(), "nothing of that kind has happened")?;
    }
    Ok(())
}

fn doors(target: &Target) -> Result<Vec<Name>, Error> {
    Ok(status::ask(target)?.doors.into_iter().map(|door| door.door).collect())
}

/// A printer of events, as lines for people or as objects.
pub(super) struct EventPrinter<W> {
    pub(super) out: W,
    /// `None`: as JSON.
    pub(super) timeline: Option<Timeline>,
    known: KnownDoors,
    /// Who opened each door last by a code, and when.
    opened: BTreeMap<String, (Network, f64)>,
}

/// How soon a code comes again that a client has knocked over IPv4 and over IPv6, in seconds: both
/// are addresses of one name, and a browser tries both.
const RACE: f64 = 60.0;

impl<W: Write> EventPrinter<W> {
    pub(super) fn new<'a>(
        out: W,
        json: bool,
        doors: impl Iterator<Item = &'a Name>,
        known: KnownDoors,
    ) -> Self {
        let timeline = (!json).then(|| Timeline::new(doors.map(Name::as_str)));
        Self { out, timeline, known, opened: BTreeMap::new() }
    }

    /// Every event, until the daemon says that it was the last.
    fn tell_all(&mut self, mut replies: Replies) -> Result<(), Error> {
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
        let mut line = Vec::new();
        match &mut self.timeline {
            None => object(&mut line, event)?,
            Some(timeline) => {
                let source =
                    event.source.map_or_else(|| "-".to_owned(), |source| source.to_string());
                let door = event.door.as_deref().unwrap_or("-");
                let mut what = wording::event(event, self.known.get(door));
                match (&event.what, event.source, self.opened.get(door)) {
                    (What::Open { .. }, Some(address), _)
                        if event.by == Some(OpenedBy::Method(Method::Totp)) =>
                    {
                        self.opened.insert(door.to_owned(), (address, event.time));
                    }
                    (What::Refused(facts), Some(other), Some(&(first, time)))
                        if facts.reason == Some(Reason::Used)
                            && first.address().is_ipv4() != other.address().is_ipv4()
                            && event.time - time < RACE =>
                    {
                        what.push_str(&format!(
                            " by {first}: has the client knocked over IPv4 and IPv6 at once?"
                        ));
                    }
                    _ => {}
                }
                timeline.line(&mut line, wall(event.time), &source, door, &what)?;
            }
        }
        self.out.write_all(&line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_that_came_over_both_families_says_so() {
        let mut printer = EventPrinter::new(Vec::new(), false, [].iter(), BTreeMap::new());
        for text in [
            r#""time":1,"source":"192.0.2.2","event":"open","by":"totp","client":"phone""#,
            r#""time":2,"source":"192.0.2.3","event":"refused","reason":"used""#,
            r#""time":2,"source":"2001:db8::2","event":"refused","reason":"used""#,
            r#""time":99,"source":"2001:db8::2","event":"refused","reason":"used""#,
        ] {
            let line = format!("{{\"door\":\"ssh\",{text}}}");
            printer.tell(&serde_json::from_str(&line).unwrap()).unwrap();
        }
        let said = String::from_utf8(printer.out).unwrap();
        let explained = said.lines().map(|line| line.contains("by 192.0.2.2: has the client"));
        assert_eq!(explained.collect::<Vec<_>>(), [false, false, false, true, false]);
    }
}
