//! `knock`: the client.
#![forbid(unsafe_code)]

pub mod cli;
pub mod hosts;
pub mod names;
pub mod plan;
pub mod send;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::process::ExitCode;
use std::time::Duration;

use cli::{Asked, Options, UsageError};
use hosts::{HostsError, Sequence};
use names::{Family, ResolveError};
use plan::Plan;
use send::{Packet, Progress, SendError, Sender, Waited};

use crate::proto::knock::Knock;

/// The longest time between two knocks.
const MAX_DELAY: Duration = Duration::from_secs(3_600);

const USAGE: u8 = 2;
const GAVE_UP: u8 = 3;

/// What is to be done, all of it known and checked before anything is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Job {
    host: String,
    knocks: Vec<Knock>,
    delay: Duration,
    /// The TCP port to wait for.
    wait: Option<NonZeroU16>,
    retries: u16,
    family: Family,
    dry_run: bool,
    verbose: bool,
}

/// Why nothing was sent, or not everything.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error(transparent)]
    Hosts(#[from] HostsError),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Send(#[from] SendError),
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
    #[error("{to} did not accept a connection: gave up after {knocked} {}", times(*knocked))]
    GaveUp { to: SocketAddr, knocked: u32 },
}

const fn times(number: u32) -> &'static str {
    if number == 1 { "knock" } else { "knocks" }
}

impl Error {
    const fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            Self::GaveUp { .. } => GAVE_UP,
            Self::Hosts(_) | Self::Resolve(_) | Self::Send(_) | Self::Output(_) => 1,
        }
    }
}

/// Runs `knock` with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    let done = cli::read(std::env::args_os()).map_err(Error::Usage).and_then(|asked| match asked {
        Asked::Knock(options) => run(&job(&options)?),
        Asked::Print(text) => print(&text).map_err(Error::Output),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::from(error.status())
        }
    }
}

fn complain(error: &Error) {
    let text = error.to_string();
    let mut stderr = io::stderr();
    let _ = match error {
        // It begins with the place, as editors want it.
        Error::Hosts(HostsError::Wrong(_)) => writeln!(stderr, "{text}"),
        Error::Usage(UsageError::Ports(_)) => {
            text.lines().try_for_each(|line| writeln!(stderr, "knock: {line}"))
        }
        _ => writeln!(stderr, "knock: {text}"),
    };
}

fn job(options: &Options) -> Result<Job, Error> {
    let knocks = options.knocks()?;
    let wait = options.wait()?;
    let (host, sequence) = if knocks.is_empty() {
        look_up(options)?
    } else {
        (options.host.clone(), Sequence { knocks, delay: Duration::ZERO, wait: None })
    };
    let wait = wait.or(sequence.wait);
    Ok(Job {
        host,
        knocks: sequence.knocks,
        delay: options.delay.unwrap_or(sequence.delay),
        wait,
        retries: options.retries(wait.is_some())?,
        family: options.family(),
        dry_run: options.dry_run,
        verbose: options.verbose,
    })
}

/// What the hosts file says about the host.
fn look_up(options: &Options) -> Result<(String, Sequence), Error> {
    let no_ports = |hosts| UsageError::NoPorts { host: options.host.clone(), hosts };
    let Some(path) = options.hosts.clone().or_else(hosts::default_path) else {
        return Err(no_ports(None).into());
    };
    let (hosts, warnings) = match hosts::read(&path) {
        Err(error) if options.hosts.is_none() && error.is_missing() => {
            return Err(no_ports(Some(path)).into());
        }
        result => result?,
    };
    for warning in warnings {
        let _ = writeln!(io::stderr(), "{warning}");
    }
    let (host, sequence) = hosts.find(&options.host)?;
    let mut sequence = sequence.clone();
    if let Some(protocol) = options.protocol() {
        sequence.knocks.iter_mut().for_each(|knock| knock.protocol = protocol);
    }
    Ok((host.to_owned(), sequence))
}

fn run(job: &Job) -> Result<(), Error> {
    let host = names::resolve(&job.host, job.family)?;
    let say = |line: &str| if job.verbose { print(line) } else { Ok(()) };
    if host.others > 0 {
        let (ip, count) = (host.address.ip(), host.others + 1);
        // Nothing that only accompanies the knocking may keep it from happening.
        let _ = say(&format!("{} has {count} addresses, using {ip}", job.host));
    }
    let plan = Plan::sequence(&job.knocks, job.delay);
    if job.dry_run {
        return plan
            .steps()
            .try_for_each(|step| print(&Packet::new(host.address, step.knock).to_string()))
            .map_err(Error::Output);
    }
    let mut sender = Sender::new(host.address, |progress| {
        let _ = say(&match progress {
            Progress::Hitting(packet) => format!("hitting {packet}"),
            Progress::Waiting(to) => format!("waiting for {to}"),
            Progress::StillShut(to) => format!("{to} is still shut, knocking again"),
            Progress::Open(to) => format!("{to} is open"),
        });
    });
    let Some(port) = job.wait else { return Ok(sender.knock(&plan)?) };
    match sender.knock_and_wait(&plan, port, job.retries)? {
        Waited::Open => Ok(()),
        Waited::GaveUp { knocked } => {
            let mut to = host.address;
            to.set_port(port.get());
            Err(Error::GaveUp { to, knocked })
        }
    }
}

/// Prints a line. A reader that has gone away is no error.
fn print(line: &str) -> io::Result<()> {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
