//! `knockctl explain`: what the engine makes of a capture file. Opens nothing.

mod text;

use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use crate::capture::{CaptureError, Recording};
use crate::config::load::{self, Report};
use crate::config::{Client, Config, Door, Family, Name, read_server_key};
use crate::engine::spa::{Server, ServerKey};
use crate::engine::{
    ClientId, Credential, DoorId, Engine, Event, EventKind, Knocked, Reason, Setup, Verdict,
};
use crate::grants::By;
use crate::time::{Monotonic, Now, Wall};
use crate::wire::{self, Ignored, Packet};
use text::Text;

#[derive(Clone, Debug, clap::Args)]
pub struct ExplainArgs {
    /// A capture file, pcap or pcapng; - is standard input
    #[arg(value_name = "FILE.pcap", required_unless_present = "live", conflicts_with = "live")]
    file: Option<PathBuf>,
    /// Ask the running knockd instead
    #[arg(long)]
    live: bool,
    /// Only what this address did, and also what became of knocks that changed nothing
    #[arg(long, value_name = "A", value_parser = super::hand::address)]
    ip: Option<IpAddr>,
    /// One JSON object a line, for scripts
    #[arg(long)]
    json: bool,
}

/// What is to be explained.
pub(super) enum Of {
    File(FileArgs),
    Live { address: Option<IpAddr>, json: bool },
}

pub(super) struct FileArgs {
    file: PathBuf,
    ip: Option<IpAddr>,
    json: bool,
}

impl ExplainArgs {
    pub(super) fn of(self) -> Of {
        let Self { file, ip, json, .. } = self;
        match file {
            Some(file) => Of::File(FileArgs { file, ip, json }),
            None => Of::Live { address: ip, json },
        }
    }
}

/// Explains a capture file on standard output.
///
/// Succeeds where whoever reads the output stops early. Fails, after all that could be explained,
/// where the file can't be read to its end.
pub(super) fn run(config: &Path, insecure: bool, args: &FileArgs) -> ExitCode {
    match explain(config, insecure, args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            let _ = writeln!(io::stderr(), "{failure}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] Report),
    #[error("knockctl: {0}")]
    Capture(#[from] CaptureError),
    #[error("knockctl: cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

fn explain(config: &Path, insecure: bool, args: &FileArgs) -> Result<(), Failure> {
    let options = load::Options { insecure_permissions: insecure };
    let config = load::load(config, &options)?.config;
    let mut recording = Recording::open(&args.file)?;
    let stdout = io::stdout().lock();
    // Standard input may be a capture that is still running: its lines are wanted as they come.
    let out: Box<dyn Write> = if args.file == Path::new("-") {
        Box::new(stdout)
    } else {
        Box::new(BufWriter::new(stdout))
    };
    let (server, sealed) = match server(&config, options) {
        Ok(server) => (server, None),
        Err(why) => (None, Some(Sealed { why, count: 0 })),
    };
    let mut explanation = Explanation {
        engine: Engine::new(Setup::new(&config, server)),
        sealed,
        latest: Monotonic::ZERO,
        teller: Teller {
            config: &config,
            only: args.ip,
            form: if args.json { Form::Json } else { Form::Text(Text::new(&config.doors)) },
            wanted: 0,
            out,
        },
    };
    let mut read_to_end = explanation.read(&mut recording);
    if !matches!(read_to_end, Err(Failure::Output(_))) {
        read_to_end = explanation.search_to_end().map_err(Failure::from).and(read_to_end);
    }
    if let Some(Sealed { why, count: count @ 1.. }) = &explanation.sealed {
        let _ =
            writeln!(io::stderr(), "{count} datagrams that may be requests are not read: {why}");
    }
    if !matches!(read_to_end, Err(Failure::Output(_))) {
        explanation.teller.finish(explanation.engine.crowded())?;
    }
    read_to_end
}

/// What native SPA datagrams are opened with; `None`: no door takes any.
///
/// # Errors
/// Why they cannot be opened here, in words.
fn server(config: &Config, options: load::Options) -> Result<Option<Server>, String> {
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
    Ok(Some(Server::new(spa, keys)))
}

/// Datagrams without a key that opens them.
struct Sealed {
    why: String,
    count: u64,
}

/// An engine, run by the time of a capture.
struct Explanation<'a> {
    engine: Engine,
    sealed: Option<Sealed>,
    latest: Monotonic,
    teller: Teller<'a>,
}

impl Explanation<'_> {
    fn read(&mut self, recording: &mut Recording) -> Result<(), Failure> {
        let link = recording.link();
        while let Some(frame) = recording.next()? {
            // Whatever the packet is, it tells what time it was.
            self.advance(frame.time)?;
            match wire::parse(link, frame.bytes) {
                Ok((mut packet, payload)) => {
                    // A capture does not say which interface it is of.
                    packet.looped = true;
                    let now = Now { monotonic: self.latest, wall: frame.time };
                    let settings = &self.teller.config.settings.spa;
                    if let Some(sealed) = &mut self.sealed
                        && Server::is_datagram(settings, &packet, payload)
                    {
                        sealed.count += 1;
                    }
                    let verdict = self.engine.receive(now, &packet, payload);
                    self.teller.packet(frame.time, &packet, &verdict)?;
                }
                Err(ignored) => self.teller.unread(ignored),
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

    /// What a running watcher does beside its packets.
    fn work(&mut self) -> io::Result<()> {
        while self.engine.next_work().is_some_and(|at| at <= self.latest) {
            let wall = Wall::from_nanos(self.latest.as_nanos());
            for event in self.engine.work(Now { monotonic: self.latest, wall }) {
                self.teller.event(wall, event, None)?;
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
                self.teller.event(wall, event, None)?;
            }
        }
        self.work()
    }
}

/// Says what happened, in one form or the other.
struct Teller<'a> {
    config: &'a Config,
    only: Option<IpAddr>,
    form: Form<'a>,
    /// How many packets are told of.
    wanted: u64,
    out: Box<dyn Write>,
}

enum Form<'a> {
    Json,
    Text(Text<'a>),
}

/// What an event comes to, once it is known what opening would run.
#[derive(Clone, Copy, Debug)]
enum Outcome<'a> {
    Stage(u8),
    Open { by: By, client: Option<&'a Name> },
    Close { by: By, client: Option<&'a Name> },
    Reset { stage: u8, reason: Reason },
    Refused { reason: Reason, client: Option<&'a Name> },
    Missed { client: Option<&'a Name>, steps: i32 },
    LockedOut { seconds: u64, everywhere: bool },
}

impl<'a> Outcome<'a> {
    fn of(config: &'a Config, door: &Door, at: Monotonic, event: &Event) -> Self {
        match event.kind {
            EventKind::Stage(stage) => Self::Stage(stage),
            EventKind::Open(_) if !door.opening.how.opens(Family::of(event.source)) => {
                Self::Refused { reason: Reason::NoCommand, client: None }
            }
            EventKind::Open(Knocked::Sequence) => {
                let by = door.one_time.as_ref().map_or(By::Sequence, |_| By::OneTimeSequence);
                Self::Open { by, client: None }
            }
            EventKind::Open(Knocked::Totp { client, .. }) => {
                Self::Open { by: By::Totp, client: name_of(config, client) }
            }
            EventKind::Reset { stage, reason, .. } => Self::Reset { stage, reason },
            EventKind::Missed { client, steps } => {
                Self::Missed { client: name_of(config, client), steps }
            }
            EventKind::LockedOut { until, everywhere } => {
                Self::LockedOut { seconds: until.since(at).as_secs(), everywhere }
            }
        }
    }
}

fn name_of(config: &Config, ClientId(place): ClientId) -> Option<&Name> {
    config.clients.get(usize::try_from(place).ok()?).map(|Client { name, .. }| name)
}

impl Teller<'_> {
    fn is_wanted(&self, source: IpAddr) -> bool {
        self.only.is_none_or(|only| only == source)
    }

    /// Bytes that are no knock, and whose source is not known.
    fn unread(&mut self, ignored: Ignored) {
        if let Form::Text(text) = &mut self.form {
            text.unread(ignored);
        }
    }

    fn packet(&mut self, at: Wall, packet: &Packet, verdict: &Verdict<'_>) -> io::Result<()> {
        let wanted = self.is_wanted(packet.source);
        self.wanted += u64::from(wanted);
        if let Form::Text(text) = &mut self.form {
            text.count(wanted, verdict);
            if wanted && self.only.is_some() {
                text.unseen(&mut self.out, at, packet, verdict)?;
            }
        }
        match verdict {
            Verdict::Ignored(_) => {}
            Verdict::Knock(events) => {
                for event in *events {
                    self.event(at, event, Some(packet))?;
                }
            }
            Verdict::Asked(requests) => {
                for request in *requests {
                    let client = name_of(self.config, request.client);
                    let by = match request.credential {
                        Credential::Spa { .. } => By::Spa,
                        Credential::Fwknop { .. } => By::Fwknop,
                    };
                    let outcome = if request.close {
                        Outcome::Close { by, client }
                    } else {
                        Outcome::Open { by, client }
                    };
                    self.tell(at, packet.source, Some(request.door), outcome, Some(packet))?;
                }
            }
            Verdict::Refused(refusal) => {
                let client = refusal.client.and_then(|client| name_of(self.config, client));
                let outcome = Outcome::Refused { reason: refusal.reason, client };
                self.tell(at, packet.source, refusal.door, outcome, Some(packet))?;
            }
        }
        Ok(())
    }

    /// One event, and the packet that brought it about, unless it was time.
    fn event(&mut self, at: Wall, event: &Event, packet: Option<&Packet>) -> io::Result<()> {
        let config = self.config;
        let Some(door) = door(&config.doors, event.door) else { return Ok(()) };
        // The engine's clock is that of the capture.
        let outcome = Outcome::of(config, door, Monotonic::from_nanos(at.as_nanos()), event);
        self.tell(at, event.source, Some(event.door), outcome, packet)
    }

    fn tell(
        &mut self,
        at: Wall,
        source: IpAddr,
        id: Option<DoorId>,
        outcome: Outcome<'_>,
        packet: Option<&Packet>,
    ) -> io::Result<()> {
        if !self.is_wanted(source) {
            return Ok(());
        }
        let door = id.and_then(|id| Some((id, door(&self.config.doors, id)?)));
        match &mut self.form {
            Form::Text(text) => text.event(&mut self.out, at, source, door, outcome, packet),
            Form::Json => {
                let door = door.map(|(_, door)| door.name());
                let line = JsonLine { time: seconds(at), source, door, outcome: outcome.into() };
                serde_json::to_writer(&mut self.out, &line)?;
                writeln!(self.out)
            }
        }
    }

    /// The last lines. `crowded` is how many sequences the engine gave up for want of room.
    fn finish(&mut self, crowded: u64) -> io::Result<()> {
        match &mut self.form {
            Form::Text(text) => {
                text.finish(&mut self.out, self.only, self.wanted)?;
                text::crowded(&mut self.out, crowded)?;
            }
            Form::Json => {
                if let Some(only) = self.only.filter(|_| self.wanted == 0) {
                    writeln!(io::stderr(), "no packet from {only} in this file")?;
                }
            }
        }
        self.out.flush()
    }
}

fn door(doors: &[Door], DoorId(place): DoorId) -> Option<&Door> {
    usize::try_from(place).ok().and_then(|place| doors.get(place))
}

/// To the microsecond, which is what a double holds.
fn seconds(at: Wall) -> f64 {
    (at.as_nanos() / 1_000) as f64 / 1e6
}

#[derive(Serialize)]
struct JsonLine<'a> {
    time: f64,
    source: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    door: Option<&'a Name>,
    #[serde(flatten)]
    outcome: JsonOutcome<'a>,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum JsonOutcome<'a> {
    Stage {
        stage: u8,
    },
    Open {
        by: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        client: Option<&'a Name>,
    },
    Close {
        by: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        client: Option<&'a Name>,
    },
    Reset {
        reason: &'static str,
    },
    Refused {
        reason: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        client: Option<&'a Name>,
    },
    Missed {
        #[serde(skip_serializing_if = "Option::is_none")]
        client: Option<&'a Name>,
        steps: i32,
    },
    LockedOut {
        seconds: u64,
        everywhere: bool,
    },
}

impl<'a> From<Outcome<'a>> for JsonOutcome<'a> {
    fn from(outcome: Outcome<'a>) -> Self {
        match outcome {
            Outcome::Stage(stage) => Self::Stage { stage },
            Outcome::Open { by, client } => Self::Open { by: by.as_str(), client },
            Outcome::Close { by, client } => Self::Close { by: by.as_str(), client },
            Outcome::Reset { reason, .. } => Self::Reset { reason: reason.as_str() },
            Outcome::Refused { reason, client } => {
                Self::Refused { reason: reason.as_str(), client }
            }
            Outcome::Missed { client, steps } => Self::Missed { client, steps },
            Outcome::LockedOut { seconds, everywhere } => Self::LockedOut { seconds, everywhere },
        }
    }
}
