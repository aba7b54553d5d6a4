//! `knockctl explain`: what the engine makes of a capture file. Opens nothing.

mod text;

use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::events::{self, EventPrinter, known};
use super::{Error, Target};
use crate::capture::Recording;
use crate::config::{Config, Door, Options, read_server_key};
use crate::control::{EventLine, RefusalFacts, What, client_of, door_of};
use crate::engine::spa::{ServerKey, SpaServer};
use crate::engine::{Credential, DatagramRequest, Engine, Event, Reason, Setup, Verdict};
use crate::grants::OpenedBy;
use crate::proto::Method;
use crate::time::{Monotonic, Now, Wall};
use crate::wire::{self, Packet};
use text::Tally;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    /// A capture file, pcap or pcapng; - is standard input
    #[arg(value_name = "FILE.pcap", required_unless_present = "live", conflicts_with = "live")]
    file: Option<PathBuf>,
    /// Ask the running knockd instead
    #[arg(long)]
    live: bool,
    /// Only what this address did, and also what became of knocks that changed nothing
    #[arg(long, value_name = "A", value_parser = super::args::address)]
    ip: Option<IpAddr>,
    /// One JSON object a line, for scripts
    #[arg(long)]
    json: bool,
}

/// Explains a capture file, or what the running knockd sees, on standard output.
///
/// # Errors
/// Where the file cannot be read to its end, after all that could be explained.
pub(super) fn run(target: &Target, args: &ExplainArgs) -> Result<(), Error> {
    let Some(file) = &args.file else {
        return events::explain(target, args.ip, args.json);
    };
    let options = target.options();
    let config = target.load()?.config;
    let mut recording = Recording::open(file)?;
    let stdout = io::stdout().lock();
    // Standard input may be a capture that is still running: its lines are wanted as they come.
    let out: Box<dyn Write> =
        if file == Path::new("-") { Box::new(stdout) } else { Box::new(BufWriter::new(stdout)) };
    let (server, sealed) = match server(&config, options) {
        Ok(server) => (server, None),
        Err(why) => (None, Some((why, 0))),
    };
    let doors = config.doors.iter().map(Door::name);
    let lines = EventPrinter::new(out, args.json, doors, known(&config.doors));
    let explainer = Explainer { config: &config, only: args.ip, lines, tally: Tally::default() };
    let engine = Engine::new(Setup::new(&config, server));
    let mut explanation = Explanation { engine, sealed, latest: Monotonic::ZERO, explainer };
    let mut read_to_end = explanation.read(&mut recording);
    if !matches!(read_to_end, Err(Error::Output(_))) {
        read_to_end = explanation.search_to_end().map_err(Error::from).and(read_to_end);
    }
    if let Some((why, count @ 1..)) = &explanation.sealed {
        let _ =
            writeln!(io::stderr(), "{count} datagrams that may be requests are not read: {why}");
    }
    if !matches!(read_to_end, Err(Error::Output(_))) {
        explanation.explainer.finish(explanation.engine.crowded())?;
    }
    read_to_end
}

/// The keys that native SPA datagrams are opened with; `None`: no door takes any.
///
/// # Errors
/// Why they cannot be opened here, in words.
fn server(config: &Config, options: Options) -> Result<Option<SpaServer>, String> {
    if !config.doors.iter().any(|door| door.recognition.spa) {
        return Ok(None);
    }
    let spa = &config.settings.spa;
    let old = spa.old_key.as_ref().map(|(path, until)| (path, Some(*until)));
    let mut keys = Vec::new();
    for (path, until) in [(&spa.key_file, None)].into_iter().chain(old) {
        let key = read_server_key(path, options).map_err(|error| error.to_string())?;
        keys.extend(key.map(|key| ServerKey { key, until }));
    }
    if keys.is_empty() {
        return Err(format!("there is no key {}", spa.key_file.display()));
    }
    Ok(Some(SpaServer::new(spa, keys)))
}

/// An engine, run by the time of a capture.
struct Explanation<'a> {
    engine: Engine,
    /// Why no key opens datagrams, where none does, and how many there are.
    sealed: Option<(String, u64)>,
    latest: Monotonic,
    explainer: Explainer<'a>,
}

impl Explanation<'_> {
    fn read(&mut self, recording: &mut Recording) -> Result<(), Error> {
        let link = recording.link;
        while let Some(frame) = recording.next()? {
            // Whatever the packet is, it tells what time it was.
            self.advance(frame.time)?;
            match wire::parse(link, frame.bytes) {
                Ok((mut packet, payload)) => {
                    // A capture does not say which interface it is of.
                    packet.looped = true;
                    let now = Now { monotonic: self.latest, wall: frame.time };
                    let settings = &self.explainer.config.settings.spa;
                    if let Some((_, count)) = &mut self.sealed
                        && SpaServer::is_datagram(settings, &packet, payload)
                    {
                        *count += 1;
                    }
                    match self.engine.receive(now, &packet, payload) {
                        // A capture has all the time that there is.
                        Verdict::Waits => {
                            while let Some(tried) = self.engine.try_waiting() {
                                self.explainer.packet(frame.time, &packet, &tried.verdict)?;
                            }
                        }
                        verdict => self.explainer.packet(frame.time, &packet, &verdict)?,
                    }
                }
                Err(ignored) => self.explainer.tally.unread(ignored),
            }
        }
        Ok(())
    }

    /// Whose clock is off is looked for when a source has gone quiet, which it has at the end.
    fn search_to_end(&mut self) -> io::Result<()> {
        while let Some(search) = self.engine.next_search() {
            self.latest = self.latest.max(search);
            self.work()?;
        }
        Ok(())
    }

    /// The work that a running watcher does beside its packets.
    fn work(&mut self) -> io::Result<()> {
        while self.engine.next_work().is_some_and(|at| at <= self.latest) {
            let wall = Wall::from_nanos(self.latest.as_nanos());
            for event in self.engine.work(Now { monotonic: self.latest, wall }) {
                self.explainer.event(wall, event, None)?;
            }
        }
        Ok(())
    }

    /// Everything that ended up to then, each at its own time. What ends after the last packet is
    /// not certain: the capture may have ended too early.
    fn advance(&mut self, time: Wall) -> io::Result<()> {
        // Packets of several interfaces may be out of order; the engine's clock never goes back.
        self.latest = self.latest.max(Monotonic::from_nanos(time.as_nanos()));
        while let Some(deadline) = self.engine.next_deadline().filter(|&at| at <= self.latest) {
            let wall = Wall::from_nanos(deadline.as_nanos());
            for event in self.engine.on_deadline(Now { monotonic: deadline, wall }) {
                self.explainer.event(wall, event, None)?;
            }
        }
        self.work()
    }
}

/// The events of a capture, printed and counted.
struct Explainer<'a> {
    config: &'a Config,
    only: Option<IpAddr>,
    lines: EventPrinter<Box<dyn Write>>,
    tally: Tally,
}

impl Explainer<'_> {
    fn packet(&mut self, at: Wall, packet: &Packet, verdict: &Verdict<'_>) -> io::Result<()> {
        let wanted = self.only.is_none_or(|only| only == packet.source);
        self.tally.count(wanted, verdict);
        if let (true, Some(_), Some(timeline)) = (wanted, self.only, &mut self.lines.timeline) {
            let source = packet.source.to_string();
            for (door, what) in text::unseen(&self.config.doors, packet, verdict) {
                timeline.line(&mut self.lines.out, at, &source, door, &what)?;
            }
        }
        match verdict {
            Verdict::Ignored(_) | Verdict::NotOurs | Verdict::Waits => {}
            Verdict::Knock(events) => {
                for event in *events {
                    self.event(at, event, Some(packet))?;
                }
            }
            Verdict::Requests(requests) => {
                for request in *requests {
                    self.request(at, request)?;
                }
            }
            Verdict::Refused(refusal) => {
                self.tell(&EventLine::of_refusal(self.config, refusal, at))?;
            }
        }
        Ok(())
    }

    /// One event, and the packet that brought it about, unless it was time.
    fn event(&mut self, at: Wall, event: &Event, packet: Option<&Packet>) -> io::Result<()> {
        // The engine's clock is that of the capture.
        let seen = Monotonic::from_nanos(at.as_nanos());
        let mut line = EventLine::of_event(self.config, event, seen, at);
        if let What::Open { knock } = &mut line.what {
            *knock = packet.map(Packet::knock);
            let door = event.door.and_then(|id| door_of(self.config, id));
            if door.is_some_and(|door| !door.opening.is_for(event.source)) {
                let (knock, reason) = (*knock, Some(Reason::NoCommand));
                line.what = What::Refused(RefusalFacts { reason, knock, ..Default::default() });
                line.message = format!("not opened: {}", Reason::NoCommand);
            }
        }
        self.tell(&line)
    }

    /// The event of a client's request, one for each network.
    fn request(&mut self, at: Wall, request: &DatagramRequest) -> io::Result<()> {
        let by = match request.credential {
            Credential::Spa { .. } => OpenedBy::Method(Method::Spa),
            Credential::Fwknop { .. } => OpenedBy::Method(Method::Fwknop),
        };
        let (what, message) = match request.close {
            true => (What::Close, "closed as asked"),
            false => (What::Open { knock: None }, "OPEN SESAME"),
        };
        let door = door_of(self.config, request.door).map(Door::name);
        for network in request.networks() {
            let line = EventLine::new(at, Some(network), door, what.clone(), message);
            let line =
                line.of_client(client_of(self.config, request.client).map(|client| &client.name));
            self.tell(&EventLine { by: Some(by), ..line.asked_by(Some(request.source)) })?;
        }
        Ok(())
    }

    fn tell(&mut self, line: &EventLine) -> io::Result<()> {
        if !line.is_about(self.only) {
            return Ok(());
        }
        self.tally.note(line);
        self.lines.tell(line)
    }

    /// The last lines. `crowded` is how many sequences the engine gave up for want of room.
    fn finish(&mut self, crowded: u64) -> io::Result<()> {
        let EventPrinter { out, timeline, .. } = &mut self.lines;
        if let Some(timeline) = timeline {
            if !timeline.is_empty() {
                writeln!(out)?;
            }
            self.tally.finish(out, &self.config.doors, self.only)?;
            if crowded > 0 {
                writeln!(
                    out,
                    "{crowded} begun sequences were given up: too many sources at once for \
                     knockd.track.sources"
                )?;
            }
        } else if let Some(only) = self.only.filter(|_| self.tally.is_empty()) {
            writeln!(io::stderr(), "no packet from {only} in this file")?;
        }
        out.flush()
    }
}
