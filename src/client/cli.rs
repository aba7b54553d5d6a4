//! The command line of `knock`.

mod error;
mod invocation;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;
use clap::builder::NonEmptyStringValueParser;
use clap::error::ErrorKind;

pub use self::error::UsageError;
pub use self::invocation::{Code, Invocation};
use super::settings::ClientSettings;
use crate::config::Name;
use crate::proto::link::Link;

/// Knock on ports of a host, in order; without ports, as the hosts file says.
#[derive(Clone, Debug, Default, Parser)]
#[command(
    name = "knock",
    version,
    override_usage = "knock [OPTIONS] HOST PORT[:PROTO]...\n       \
                      knock [OPTIONS] HOST\n       \
                      knock [OPTIONS] --fwknop HOST PORT[/PROTO]...\n       \
                      knock [OPTIONS] --fwknoprc STANZA\n       \
                      knock [OPTIONS] --proxy HOST PORT\n       \
                      knock --keygen FILE\n       \
                      knock import [OPTIONS] LINK|-",
    after_help = "Example: knock -d 50 gw.example.com 7000 8000:udp 9000",
    disable_help_flag = true,
    disable_version_flag = true
)]
pub struct KnockArgs {
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

    /// Use IPv4 only
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    ipv4: bool,

    /// Use IPv6 only
    #[arg(short = '6', long)]
    ipv6: bool,

    /// Knock the sequence that is valid now
    #[arg(long, help_heading = "Sequences that rotate with time")]
    totp: bool,

    /// Knock this code, typed from an authenticator; -: ask for it
    #[arg(long, value_name = "DIGITS", help_heading = "Sequences that rotate with time")]
    code: Option<String>,

    /// Ask with one encrypted datagram
    #[arg(long, help_heading = "Requests")]
    spa: bool,

    /// Ask as fwknop does, with one datagram, for the ports that follow the host
    #[arg(long, help_heading = "Requests as fwknop makes them")]
    fwknop: bool,

    #[command(flatten)]
    settings: ClientSettings,

    /// Knock again and again until stopped, and at once where the network changes
    #[arg(long, action = clap::ArgAction::Count)]
    stay: u8,

    /// Knock, connect to PORT of HOST and be the connection: for ssh's ProxyCommand
    #[arg(long, num_args = 2, value_names = ["HOST", "PORT"], action = clap::ArgAction::Set)]
    proxy: Option<Vec<String>>,

    /// With --proxy: hand the connection to ssh and end, for ProxyUseFdpass
    #[arg(long, requires = "proxy")]
    fdpass: bool,

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
}

/// Take up the link that 'knockctl enroll' has printed.
#[derive(Clone, derive_more::Debug, Parser)]
#[command(name = "knock import", no_binary_name = true)]
pub struct ImportArgs {
    /// The link; -: read it from standard input, or ask for it at a terminal
    #[arg(value_name = "LINK|-", required = true)]
    #[debug("..")]
    pub link: Vec<String>,

    /// Add to this hosts file [default: ~/.config/knock/hosts.yaml]
    #[arg(long, value_name = "FILE")]
    pub hosts: Option<PathBuf>,

    /// Call the entry, and the files with its secrets, NAME
    #[arg(long)]
    pub name: Option<Name>,

    /// Overwrite what is there and says something else, and do not ask
    #[arg(long)]
    pub force: bool,
}

/// The command that a command line gives.
#[derive(Clone, Debug)]
pub enum KnockCommand {
    Knock(Box<Invocation>),
    Import(ImportArgs),
    /// A new key in this file.
    Keygen(PathBuf),
    /// The names in the hosts file, for the completions of shells.
    ListHosts,
    /// The help or the version: this text.
    Print(String),
}

/// Reads the arguments; the first is the name of the program.
///
/// # Errors
/// [`UsageError`] with what is wrong and what to write instead.
pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<KnockCommand, UsageError> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // No option that anybody is offered.
    if only(&arguments) == Some("--list-hosts") {
        return Ok(KnockCommand::ListHosts);
    }
    let is_link = |it: &OsString| it.to_str().is_some_and(Link::is_meant);
    let read = match import(&arguments) {
        Some(import) => import.map(KnockCommand::Import),
        // Not even an error repeats a secret, and no name server is asked for it.
        None if arguments.iter().any(is_link) => return Err(UsageError::NoLink),
        None => match knock(&arguments) {
            Ok(KnockArgs { keygen: Some(file), .. }) => Ok(KnockCommand::Keygen(file)),
            Ok(arguments) => return arguments.invocation().map(Box::new).map(KnockCommand::Knock),
            Err(error) => Err(error),
        },
    };
    read.or_else(|error| {
        let text = error.render().to_string();
        let text = text.trim_end();
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            return Ok(KnockCommand::Print(text.to_owned()));
        }
        Err(UsageError::Syntax(text.strip_prefix("error: ").unwrap_or(text).to_owned()))
    })
}

/// The only argument, where there is no other.
fn only(arguments: &[OsString]) -> Option<&str> {
    arguments.get(1).filter(|_| arguments.len() == 2)?.to_str()
}

/// The arguments of a knock. To set up all the options takes a tenth of a millisecond, and most knocks
/// have none.
fn knock(arguments: &[OsString]) -> Result<KnockArgs, clap::Error> {
    match only(arguments).filter(|it| !it.is_empty() && !it.starts_with('-')) {
        Some(host) => Ok(KnockArgs { host: Some(host.to_owned()), ..KnockArgs::default() }),
        None => KnockArgs::try_parse_from(arguments),
    }
}

/// The arguments of `knock import`; `None`: import is a host, as it may be called.
fn import(arguments: &[OsString]) -> Option<Result<ImportArgs, clap::Error>> {
    let own = arguments.get(2..).filter(|_| arguments.get(1).is_some_and(|it| it == "import"))?;
    let is_meant = |it: &str| ["-", "-h", "--help"].contains(&it) || Link::is_meant(it);
    own.iter().any(|it| it.to_str().is_some_and(is_meant)).then(|| ImportArgs::try_parse_from(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_alone_is_read_as_among_options() {
        for host in
            ["gw", "192.0.2.1", "[2001:db8::1]", "=", "gw ", "7000", "a@gw", "-", "", "--", "-n"]
        {
            let said = |arguments: &[&str]| format!("{:?}", read(arguments.iter().map(Into::into)));
            let with_an_option =
                said(&["knock", "-v", host]).replace("verbose: true", "verbose: false");
            assert_eq!(said(&["knock", host]), with_an_option);
        }
    }
}
