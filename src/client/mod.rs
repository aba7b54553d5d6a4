//! `knock`: the client.
#![forbid(unsafe_code)]

pub mod cli;
pub mod names;
pub mod plan;
pub mod send;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::process::ExitCode;
use std::time::Duration;

use cli::{Options, UsageError};
use names::{Family, HostError};
use plan::Plan;
use send::{Packet, Progress, SendError, Sender, Waited};

use crate::proto::knock::Knock;

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
    Host(#[from] HostError),
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
            Self::Host(_) | Self::Send(_) | Self::Output(_) => 1,
        }
    }
}

/// Runs `knock` with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    let options = match cli::read(std::env::args_os()) {
        Ok(options) => options,
        Err(refused) => return cli::refuse(&refused),
    };
    match job(&options).and_then(|job| run(&job)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in error.to_string().lines() {
                eprintln!("knock: {line}");
            }
            ExitCode::from(error.status())
        }
    }
}

fn job(options: &Options) -> Result<Job, Error> {
    let knocks = options.knocks()?;
    let wait = options.wait()?;
    Ok(Job {
        host: options.host.clone(),
        knocks,
        delay: options.delay.unwrap_or_default(),
        wait,
        retries: options.retries(wait.is_some())?,
        family: options.family(),
        dry_run: options.dry_run,
        verbose: options.verbose,
    })
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
