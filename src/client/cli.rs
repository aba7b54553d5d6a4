//! The command line of `knock`.

mod wanted;

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser};

pub use self::wanted::{Code, Wanted};
use super::fwknop::time_offset;
use super::usage::UsageError;
use super::values::{self, AddressWord, PortRange, SourcePort};
use super::{MAX_DELAY, MAX_RETRIES};
use crate::proto::fwknop::{Hash, Mode as Encryption, User};
use crate::proto::name::Name;
use crate::proto::spa::PublicKey;
use crate::proto::totp::{Digits, Protocols};

/// Knock on ports of a host, in order; without ports, as the hosts file says.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "knock",
    version,
    override_usage = "knock [OPTIONS] HOST PORT[:PROTO]...\n       \
                      knock [OPTIONS] HOST\n       \
                      knock [OPTIONS] --fwknop HOST PORT[/PROTO]...\n       \
                      knock [OPTIONS] --fwknoprc STANZA\n       \
                      knock [OPTIONS] --proxy HOST PORT\n       \
                      knock --keygen FILE",
    after_help = "Example: knock -d 50 gw.example.com 7000 8000:udp 9000",
    disable_help_flag = true,
    disable_version_flag = true
)]
pub struct Options {
    /// Name or address; without ports: an entry of the hosts file
    #[arg(
        value_name = "HOST",
        value_parser = NonEmptyStringValueParser::new(),
        required_unless_present_any = ["proxy", "keygen", "fwknoprc"]
    )]
    host: Option<String>,

    /// Port number or service name, and tcp (the default) or udp; with --fwknop: to open
    #[arg(value_name = "PORT[:PROTO]")]
    knocks: Vec<String>,

    /// Make every knock a UDP one, whatever PROTO says
    #[arg(short, long)]
    udp: bool,

    /// Milliseconds between knocks [default: 0; with --totp and from the hosts file: 15]
    #[arg(short, long, value_name = "MS", value_parser = delay, allow_hyphen_values = true)]
    delay: Option<Duration>,

    /// Use IPv4 only
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    ipv4: bool,

    /// Use IPv6 only
    #[arg(short = '6', long)]
    ipv6: bool,

    /// Knock until this TCP port accepts a connection
    #[arg(long, value_name = "PORT")]
    wait: Option<String>,

    /// With --wait or --proxy: knock again up to N times [default: 3]
    #[arg(long, value_name = "N", value_parser = retries, allow_hyphen_values = true)]
    retry: Option<u16>,

    /// Knock, connect to PORT of HOST and be the connection: for ssh's ProxyCommand
    #[arg(long, num_args = 2, value_names = ["HOST", "PORT"])]
    proxy: Option<Vec<String>>,

    /// Connect from this port, or auto, and ask with --spa that only it is let in
    #[arg(long, value_name = "PORT")]
    source_port: Option<SourcePort>,

    /// The door, with --totp and --spa
    #[arg(long, value_name = "NAME")]
    door: Option<Name>,

    /// Make a private key, write it to FILE and print the public one
    #[arg(long, value_name = "FILE", exclusive = true)]
    keygen: Option<PathBuf>,

    /// Read this hosts file [default: ~/.config/knock/hosts.yaml]
    #[arg(long, value_name = "FILE")]
    hosts: Option<PathBuf>,

    /// Print the packets that would be sent, and send none
    #[arg(short = 'n', long)]
    dry_run: bool,

    /// Say what is done
    #[arg(short, long)]
    verbose: bool,

    /// Print the version
    #[arg(short = 'V', long, action = clap::ArgAction::Version)]
    version: (),

    /// Print this help
    #[arg(short, long, action = clap::ArgAction::HelpShort)]
    help: (),

    #[command(flatten)]
    rotation: RotationOptions,

    #[command(flatten)]
    request: RequestOptions,

    #[command(flatten)]
    fwknop: FwknopOptions,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Sequences that rotate with time")]
struct RotationOptions {
    /// Knock the sequence that is valid now
    #[arg(long)]
    totp: bool,

    /// Knock this code, typed from an authenticator; -: ask for it
    #[arg(long, value_name = "DIGITS")]
    code: Option<String>,

    /// The file with the TOTP secret
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,

    /// The range of the ports of a rotating sequence
    #[arg(long, value_name = "LOW-HIGH", value_parser = values::wide_range)]
    ports: Option<PortRange>,

    /// How many knocks a rotating sequence has [default: 4]
    #[arg(long, value_name = "N", value_parser = values::length)]
    length: Option<u8>,

    /// tcp, udp or mixed, for a rotating sequence [default: tcp]
    #[arg(long, value_name = "PROTO")]
    protocol: Option<Protocols>,

    /// The port of the digits 00, at a door that takes codes
    #[arg(long, value_name = "PORT", value_parser = values::base)]
    base: Option<u16>,

    /// How many digits a code has, 6 or 8 [default: 6]
    #[arg(long, value_name = "N", value_parser = values::digits)]
    digits: Option<Digits>,

    /// How long a rotating sequence is valid [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = values::step)]
    step: Option<u32>,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Requests")]
struct RequestOptions {
    /// Ask with one encrypted datagram
    #[arg(long)]
    spa: bool,

    /// The server's public key
    #[arg(long, value_name = "KEY")]
    server_key: Option<PublicKey>,

    /// The file with your private key; with --fwknop: with the encryption key
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,

    /// The port that takes requests, or a range [default: 62201]
    #[arg(long, value_name = "PORT")]
    spa_port: Option<PortRange>,

    /// Whom to open for: auto, observed or an IP, one of each family [default: auto]
    #[arg(long, value_name = "ADDRESS")]
    address: Vec<AddressWord>,

    /// Ask that the door is open for so long
    #[arg(long, value_name = "TIME", value_parser = values::open_for)]
    open_for: Option<NonZeroU32>,

    /// Ask to close the door instead
    #[arg(long)]
    close: bool,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Requests as fwknop makes them")]
struct FwknopOptions {
    /// Ask as fwknop does, with one datagram, for the ports that follow the host
    #[arg(long)]
    fwknop: bool,

    /// The same, as this stanza of ~/.fwknoprc says
    #[arg(long, value_name = "STANZA")]
    fwknoprc: Option<String>,

    /// The file with fwknop's HMAC key, if it is not in that of --key
    #[arg(long, value_name = "FILE")]
    hmac_key: Option<PathBuf>,

    /// The hash of fwknop's HMAC [default: sha256]
    #[arg(long, value_name = "HASH")]
    hmac_digest_type: Option<Hash>,

    /// The hash of fwknop's digest [default: sha256]
    #[arg(long, value_name = "HASH")]
    digest_type: Option<Hash>,

    /// How fwknop encrypts: cbc, ecb, cfb, ofb, ctr or legacy [default: cbc]
    #[arg(long, value_name = "MODE")]
    encryption_mode: Option<Encryption>,

    /// The user that fwknop names [default: who runs knock]
    #[arg(long, value_name = "NAME", value_parser = user)]
    user: Option<User>,

    /// Add this to the clock, for fwknop: 60s, -5min
    #[arg(long, value_name = "TIME", value_parser = time_offset, allow_hyphen_values = true)]
    time_offset: Option<i64>,
}

fn delay(text: &str) -> Result<Duration, String> {
    let delay = text.parse().ok().map(Duration::from_millis);
    delay.filter(|delay| *delay <= MAX_DELAY).ok_or_else(|| {
        format!("write a number of milliseconds from 0 to {}", MAX_DELAY.as_millis())
    })
}

fn user(text: &str) -> Result<User, String> {
    text.parse().map_err(|_| "write 1 to 48 letters and digits".to_owned())
}

fn retries(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(retries @ 0..=MAX_RETRIES) => Ok(retries),
        _ => Err(format!("write a number from 0 to {MAX_RETRIES}")),
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
    Knock(Box<Wanted>),
    /// A new key in this file.
    Keygen(PathBuf),
    /// The help or the version: this text.
    Print(String),
}

/// Reads the arguments; the first is the name of the program.
///
/// # Errors
/// [`UsageError`] with what is wrong and what to write instead.
pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Asked, UsageError> {
    match Options::try_parse_from(arguments) {
        Ok(Options { keygen: Some(file), .. }) => Ok(Asked::Keygen(file)),
        Ok(options) => options.wanted().map(Box::new).map(Asked::Knock),
        Err(error) => {
            let text = error.render().to_string();
            let text = text.trim_end();
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                    Ok(Asked::Print(text.to_owned()))
                }
                _ => {
                    Err(UsageError::Syntax(text.strip_prefix("error: ").unwrap_or(text).to_owned()))
                }
            }
        }
    }
}
