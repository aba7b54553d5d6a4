//! `knock`: the client.

mod attempts;
pub mod cli;
mod fwknop;
pub mod fwknoprc;
pub mod hosts;
mod job;
mod keys;
mod names;
pub mod plan;
mod proxy;
mod requests;
pub mod rotating;
mod send;
mod settings;
mod stamps;
mod usage;
mod values;
mod voice;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, SystemTime};

use attempts::Attempts;
use cli::{Asked, Wanted};
use hosts::HostsError;
use job::{Job, JobError, Then};
use keys::KeygenError;
use names::ResolveError;
use plan::Attempt;
use proxy::ProxyError;
use requests::RequestError;
use rotating::Start;
use send::{Packet, Progress, SendError, Sender, Target, Waited};
use usage::UsageError;
pub use voice::complain;
use voice::{Stream, Voice};

use crate::time::Wall;

/// The longest time between two knocks.
const MAX_DELAY: Duration = Duration::from_secs(3_600);
/// How often a client may be told to knock again.
const MAX_RETRIES: u16 = 1_000;

const USAGE: u8 = 2;
const GAVE_UP: u8 = 3;

/// Why nothing was sent, or not everything, or not to any effect.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error(transparent)]
    Job(#[from] JobError),
    #[error(transparent)]
    Keygen(#[from] KeygenError),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Send(#[from] SendError),
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
    #[error(transparent)]
    GaveUp(GaveUp),
    #[error(transparent)]
    NotConnected(GaveUp),
    #[error(transparent)]
    Proxy(#[from] ProxyError),
}

/// The port stayed shut.
#[derive(Debug, thiserror::Error)]
#[error(
    "{to} did not accept a connection: gave up after {knocked} {}{}",
    if *knocked == 1 { (*what).to_owned() } else { format!("{what}s") },
    advice.iter().map(|advice| format!("; {advice}")).collect::<String>()
)]
struct GaveUp {
    to: SocketAddr,
    knocked: u32,
    what: &'static str,
    advice: Vec<String>,
}

impl Error {
    const fn status(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Job(JobError::Usage(_)) => USAGE,
            Self::GaveUp(_) => GAVE_UP,
            _ => 1,
        }
    }
}

/// Runs `knock` with the arguments of this process.
pub fn main() -> ExitCode {
    let done = cli::read(std::env::args_os()).map_err(Error::Usage).and_then(|asked| match asked {
        Asked::Knock(wanted) => knock(&wanted),
        Asked::Keygen(file) => print(&keys::keygen(&file)?.to_string()),
        Asked::Print(text) => print(&text),
        Asked::ListHosts => list_hosts(),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error);
            ExitCode::from(error.status())
        }
    }
}

fn list_hosts() -> Result<(), Error> {
    let Some(path) = hosts::default_path() else { return Ok(()) };
    let (hosts, _) = hosts::read(&path).map_err(JobError::from)?;
    hosts.names().try_for_each(print)
}

fn say(error: &Error) {
    let text = error.to_string();
    match error {
        // It begins with the place, as editors want it.
        Error::Job(JobError::Hosts(HostsError::Wrong(_))) => complain(&text),
        Error::Usage(UsageError::Ports(_)) => {
            text.lines().for_each(|line| complain(&format!("knock: error: {line}")));
        }
        _ => complain(&format!("knock: error: {text}")),
    }
}

fn knock(wanted: &Wanted) -> Result<(), Error> {
    let aloud =
        if wanted.proxy.is_some() && !wanted.dry_run { Stream::Error } else { Stream::Output };
    let voice = Voice { aloud: wanted.verbose.then_some(aloud) };
    run(&job::job(wanted, voice)?, voice)
}

fn run(job: &Job, voice: Voice) -> Result<(), Error> {
    if voice.aloud.is_none() {
        voice.say_what_lasts(|| format!("looking up the address of {}", job.host));
    }
    let host = names::resolve(&job.host, job.family)?;
    if host.others > 0 {
        let (ip, count) = (host.address.ip(), host.others + 1);
        voice.say(|| format!("{} has {count} addresses, using {ip}", job.host));
    }
    if job.attempts.is_mistimed(now()) {
        voice.warn(&"this machine's clock is wrong, and what is sent depends on it: set it");
    }
    if job.dry_run {
        let now = match job.attempts.start(now()) {
            Start::Now => now(),
            Start::At(turn) => turn,
        };
        let attempt = job.attempts.next(now, host.address, voice)?;
        return Packet::all(host.address, &attempt)
            .iter()
            .try_for_each(|packet| print(&packet.to_string()));
    }
    let mut sender = Sender::new(host.address, |progress| {
        let line = || match progress {
            Progress::Hitting(packet) => format!("hitting {packet}"),
            Progress::Waiting(to) => format!("waiting for {to}"),
            Progress::StillShut(to) => format!("{to} is still shut, knocking again"),
            Progress::Open(to) => format!("{to} is open"),
        };
        if let Progress::Open(_) = progress { voice.say(line) } else { voice.say_what_lasts(line) }
    });
    let attempt = || next(&job.attempts, host.address, voice);
    let gave_up = |target: Target, knocked| {
        let mut to = host.address;
        to.set_port(target.port.get());
        let other = |option| format!("{option} takes another address of this host");
        let advice = job.attempts.advice().into_iter().chain(host.other_family.map(other));
        let what = match job.attempts {
            Attempts::Requests(_) | Attempts::Fwknop(_) => "request",
            Attempts::Same(_) | Attempts::Typed(_) | Attempts::Rotating(_) => "knock",
        };
        GaveUp { to, knocked, what, advice: advice.collect() }
    };
    match job.then {
        Then::Nothing => Ok(sender.send(&attempt()?)?),
        Then::Wait(target) => match sender.send_until_open(target, attempt)? {
            Waited::Open(_) => Ok(()),
            Waited::GaveUp { knocked } => Err(Error::GaveUp(gave_up(target, knocked))),
        },
        Then::Proxy(target) => match sender.send_until_open(target, attempt)? {
            Waited::Open(stream) => Ok(proxy::pipe(&stream)?),
            Waited::GaveUp { knocked } => Err(Error::NotConnected(gave_up(target, knocked))),
        },
    }
}

/// What to send now; waits for the moment at which it may leave.
fn next(attempts: &Attempts, host: SocketAddr, voice: Voice) -> Result<Attempt, Error> {
    loop {
        let now = now();
        match attempts.start(now) {
            Start::Now => return Ok(attempts.next(now, host, voice)?),
            Start::At(turn) => {
                let left = turn.since(now);
                voice.say_what_lasts(|| {
                    format!("the sequence changes in {left:.1?}: waiting for the next one")
                });
                thread::sleep(left);
            }
        }
    }
}

/// Prints a line. A reader that has gone away is no error.
fn print(line: &str) -> Result<(), Error> {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(Error::Output),
    }
}

/// Calendar time; before 1970 it is 1970.
#[expect(clippy::disallowed_methods, reason = "the shell that is asked what time it is")]
fn now() -> Wall {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Wall::ZERO + since.unwrap_or_default()
}
