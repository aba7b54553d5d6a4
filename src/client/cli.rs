//! The command line of `knock`.

use std::ffi::OsString;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::MAX_DELAY;
use super::names::{self, Family, PortError};
use crate::proto::knock::{Knock, Protocol};

/// How often `--wait` knocks again unless told otherwise.
pub const RETRIES: u16 = 3;
const MAX_RETRIES: u16 = 1_000;

/// Knock on ports of a host, in order; without ports, on those that the hosts file names.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "knock",
    version,
    override_usage = "knock [OPTIONS] HOST PORT[:PROTO]...\n       knock [OPTIONS] HOST",
    after_help = "Example: knock -d 50 gw.example.com 7000 8000:udp 9000",
    disable_help_flag = true,
    disable_version_flag = true
)]
pub struct Options {
    /// Name or address; without ports: an entry of the hosts file
    #[arg(value_name = "HOST", value_parser = NonEmptyStringValueParser::new())]
    pub host: String,

    /// Port number or service name, and tcp (the default) or udp
    #[arg(value_name = "PORT[:PROTO]")]
    ports: Vec<String>,

    /// Make every knock a UDP one, whatever PROTO says
    #[arg(short, long)]
    udp: bool,

    /// Milliseconds between knocks [default: 0; hosts file: 15]
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

    /// With --wait: knock again up to N times [default: 3]
    #[arg(long, value_name = "N", value_parser = retries, allow_hyphen_values = true)]
    retry: Option<u16>,

    /// Read this hosts file [default: ~/.config/knock/hosts.yaml]
    #[arg(long, value_name = "FILE")]
    pub hosts: Option<PathBuf>,

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

/// A command line that asks for nothing that could be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// In clap's words, several lines.
    #[error("{0}")]
    Syntax(String),
    /// All ports that are none, a line each.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Ports(Vec<PortError>),
    #[error("--wait: {0}")]
    Wait(PortError),
    #[error("--wait {0}: only a TCP port can be waited for")]
    WaitUdp(Knock),
    #[error("--retry belongs to --wait: without it nothing says that a knock has failed")]
    RetryWithoutWait,
    #[error(
        "no ports given, and no hosts file {}to look them up in: \
         write them after the host, as in 'knock {host} 7000 8000 9000'",
        hosts.as_ref().map(|path| format!("{} ", path.display())).unwrap_or_default()
    )]
    NoPorts { host: String, hosts: Option<PathBuf> },
    #[error("--hosts has no meaning where ports are given: leave out one of the two")]
    HostsWithPorts,
    #[error("'{0}' is a port and no host: write the host before the ports")]
    HostIsPort(String),
    #[error("'{0}' has a user in it, and a knock has none: write only what follows the '@'")]
    User(String),
}

fn delay(text: &str) -> Result<Duration, String> {
    let delay = text.parse().ok().map(Duration::from_millis);
    delay.filter(|delay| *delay <= MAX_DELAY).ok_or_else(|| {
        format!("write a number of milliseconds from 0 to {}", MAX_DELAY.as_millis())
    })
}

fn retries(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(retries @ 0..=MAX_RETRIES) => Ok(retries),
        _ => Err(format!("write a number from 0 to {MAX_RETRIES}")),
    }
}

/// Whether what stands in the place of the host is a port. A resolver would take the number for an
/// address.
fn is_port(host: &str) -> bool {
    host.bytes().all(|byte| byte.is_ascii_digit())
        || (host.starts_with(|first: char| first.is_ascii_digit())
            && names::knock(host, None).is_ok())
}

impl Options {
    /// The knocks on the command line; none: the hosts file names them.
    ///
    /// # Errors
    /// Every port that is none.
    pub fn knocks(&self) -> Result<Vec<Knock>, UsageError> {
        if is_port(&self.host) {
            return Err(UsageError::HostIsPort(self.host.clone()));
        }
        if self.host.contains('@') {
            return Err(UsageError::User(self.host.clone()));
        }
        if self.hosts.is_some() && !self.ports.is_empty() {
            return Err(UsageError::HostsWithPorts);
        }
        let mut wrong = Vec::new();
        let knocks = self
            .ports
            .iter()
            .filter_map(|text| names::knock(text, self.protocol()).map_err(|e| wrong.push(e)).ok())
            .collect();
        if wrong.is_empty() { Ok(knocks) } else { Err(UsageError::Ports(wrong)) }
    }

    /// The protocol of all knocks, where one is forced on them.
    #[must_use]
    pub fn protocol(&self) -> Option<Protocol> {
        self.udp.then_some(Protocol::Udp)
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

/// What the command line asks for.
#[derive(Clone, Debug)]
pub enum Asked {
    Knock(Options),
    /// The help or the version: this text.
    Print(String),
}

/// Reads the arguments; the first is the name of the program.
///
/// # Errors
/// [`UsageError::Syntax`] with what clap found wrong.
pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Asked, UsageError> {
    Options::try_parse_from(arguments).map(Asked::Knock).or_else(|error| {
        let text = error.render().to_string();
        let text = text.trim_end();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Asked::Print(text.to_owned())),
            _ => Err(UsageError::Syntax(text.strip_prefix("error: ").unwrap_or(text).to_owned())),
        }
    })
}
