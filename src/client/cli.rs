//! The command line of `knock`.

use std::ffi::OsString;
use std::io::Write;
use std::num::NonZeroU16;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::names::{self, Family, PortError};
use crate::proto::knock::{Knock, Protocol};

/// How often `--wait` knocks again unless told otherwise.
pub const RETRIES: u16 = 3;
const MAX_RETRIES: u16 = 1_000;
/// The longest delay between two knocks that makes any sense, in milliseconds: an hour.
const MAX_DELAY: u64 = 3_600_000;

/// Knock on ports of a host, in order.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "knock",
    version,
    override_usage = "knock [OPTIONS] HOST PORT[:PROTO]...",
    after_help = "Example: knock -d 50 gw.example.com 7000 8000:udp 9000",
    disable_help_flag = true,
    disable_version_flag = true
)]
pub struct Options {
    /// Name or address of the host
    #[arg(value_name = "HOST")]
    pub host: String,

    /// Ports to knock on: a number or a service name; PROTO is tcp (the default) or udp
    #[arg(value_name = "PORT[:PROTO]")]
    ports: Vec<String>,

    /// Make every knock a UDP one, whatever PROTO says
    #[arg(short, long)]
    udp: bool,

    /// Wait this many milliseconds between knocks
    #[arg(short, long, value_name = "MS", value_parser = delay, allow_hyphen_values = true)]
    pub delay: Option<Duration>,

    /// Use IPv4 only
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    ipv4: bool,

    /// Use IPv6 only
    #[arg(short = '6', long)]
    ipv6: bool,

    /// Knock until this TCP port accepts a connection
    #[arg(long, value_name = "PORT")]
    wait: Option<String>,

    /// With --wait: knock again up to N times (3 by default)
    #[arg(long, value_name = "N", value_parser = retries, allow_hyphen_values = true)]
    retry: Option<u16>,

    /// Print the packets that would be sent, and send none
    #[arg(short = 'n', long)]
    pub dry_run: bool,

    /// Say what is done
    #[arg(short, long)]
    pub verbose: bool,

    /// Print the version
    #[arg(short = 'V', long, action = clap::ArgAction::Version)]
    version: (),

    /// Print this help
    #[arg(short, long, action = clap::ArgAction::HelpShort)]
    help: (),
}

/// A command line that is well-formed and still cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// All ports that are none, a line each.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Ports(Vec<PortError>),
    #[error("--wait: {0}")]
    Wait(PortError),
    #[error("--wait {0}: only a TCP port can be waited for")]
    WaitUdp(Knock),
    #[error("--retry belongs to --wait: without it nothing says that a knock has failed")]
    RetryWithoutWait,
    #[error("no ports given: write them after the host, as in 'knock {0} 7000 8000 9000'")]
    NoPorts(String),
    #[error("'{0}' is a port and no host: write the host before the ports")]
    HostIsPort(String),
}

fn delay(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(millis @ 0..=MAX_DELAY) => Ok(Duration::from_millis(millis)),
        _ => Err(format!("write a number of milliseconds from 0 to {MAX_DELAY}")),
    }
}

fn retries(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(retries @ 0..=MAX_RETRIES) => Ok(retries),
        _ => Err(format!("write a number from 0 to {MAX_RETRIES}")),
    }
}

impl Options {
    /// The knocks on the command line.
    ///
    /// # Errors
    /// Every port that is none, or that there is no port at all.
    pub fn knocks(&self) -> Result<Vec<Knock>, UsageError> {
        if self.host.parse::<u16>().is_ok() {
            return Err(UsageError::HostIsPort(self.host.clone()));
        }
        if self.ports.is_empty() {
            return Err(UsageError::NoPorts(self.host.clone()));
        }
        let protocol = self.udp.then_some(Protocol::Udp);
        let mut wrong = Vec::new();
        let knocks = self
            .ports
            .iter()
            .filter_map(|text| names::knock(text, protocol).map_err(|e| wrong.push(e)).ok())
            .collect();
        if wrong.is_empty() { Ok(knocks) } else { Err(UsageError::Ports(wrong)) }
    }

    #[must_use]
    pub const fn family(&self) -> Family {
        match (self.ipv4, self.ipv6) {
            (true, _) => Family::V4,
            (_, true) => Family::V6,
            _ => Family::Any,
        }
    }

    /// The TCP port that `--wait` names.
    ///
    /// # Errors
    /// If there is no such port.
    pub fn wait(&self) -> Result<Option<NonZeroU16>, UsageError> {
        let Some(text) = &self.wait else { return Ok(None) };
        let knock = names::knock(text, None).map_err(UsageError::Wait)?;
        match knock.protocol {
            Protocol::Tcp => Ok(Some(knock.port)),
            Protocol::Udp => Err(UsageError::WaitUdp(knock)),
        }
    }

    /// How often to knock again.
    ///
    /// # Errors
    /// If nothing is waited for.
    pub const fn retries(&self, waits: bool) -> Result<u16, UsageError> {
        match self.retry {
            Some(_) if !waits => Err(UsageError::RetryWithoutWait),
            Some(retries) => Ok(retries),
            None => Ok(RETRIES),
        }
    }
}

/// The command line as a value, for whoever compares it with the manual.
#[must_use]
pub fn command() -> clap::Command {
    Options::command()
}

/// Reads the arguments; the first is the name of the program.
///
/// # Errors
/// What clap found wrong, or that help or the version is asked for: for [`refuse`].
pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Options, clap::Error> {
    Options::try_parse_from(arguments)
}

/// Says why [`read`] gave no options, and with which status to end.
#[must_use]
pub fn refuse(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match super::print(text.trim_end()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        _ => {
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            let _ = write!(std::io::stderr(), "knock: {text}");
            ExitCode::from(super::USAGE)
        }
    }
}
