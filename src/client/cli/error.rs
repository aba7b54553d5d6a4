//! Usage errors: what is wrong with a command line, and what to write instead.

use std::path::PathBuf;

use crate::client::names::PortError;
use crate::client::settings::{Exclusion, Mode, option};
use crate::client::values::AddressWordError;
use crate::proto::totp::CodeError;

/// An error in a command line, with what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// In clap's words, several lines.
    #[error("{0}")]
    Syntax(String),
    /// All ports that are none, a line each.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Ports(Vec<PortError>),
    #[error("--proxy: {0}")]
    ProxyPort(#[source] PortError),
    #[error("--retry belongs to --wait: without it nothing says that a knock has failed")]
    RetryWithoutWait,
    #[error(
        "--stay shows the ports again and again to whoever watches the way: \
         give it twice, --stay --stay, if they may be seen"
    )]
    StayInTheOpen,
    #[error("--source-port belongs to --wait, --proxy and --spa: knocks have ports of their own")]
    SourcePortForNothing,
    #[error(
        "no ports given, and no hosts file {}to look them up in: \
         write them after the host, as in '{as_in} 7000 8000 9000'",
        hosts.as_ref().map(|path| format!("{} ", path.display())).unwrap_or_default()
    )]
    NoPorts { as_in: String, hosts: Option<PathBuf> },
    #[error("no host is called so: 'knock import -' takes up a link of 'knockctl enroll'")]
    NoLink,
    #[error("--hosts has no meaning where ports are given: leave out one of the two")]
    HostsWithPorts,
    #[error("'{0}' is a port and not a host: write the host before the ports")]
    HostIsPort(String),
    #[error("'{0}' has a user in it, and a knock has none: write only what follows the '@'")]
    User(String),
    #[error("{one} and {other} are two ways to knock: leave out one of them")]
    TwoModes { one: &'static str, other: &'static str },
    #[error("{option} says itself what to send: leave out {ports}")]
    ModeWithPorts { option: &'static str, ports: String },
    /// `modes` are those that the option belongs to, `what` is the remedy.
    #[error("{} belongs to {}: {what}", option(key), belongs(modes))]
    OtherMode { key: &'static str, modes: &'static [Mode], what: String },
    #[error("{} and {} do not go together: {}", option(.0.0), option(.0.1), .0.2)]
    Together(Exclusion),
    #[error("{} has no meaning beside '{}' in the hosts file: {}", option(.0.0), .0.1, .0.2)]
    OtherKind(Exclusion),
    #[error("--address: {0}")]
    Address(#[from] AddressWordError),
    #[error("--address: fwknop's servers open for IPv4 addresses only: name one of these")]
    NotIpv4,
    #[error("--open-for: {0}")]
    OpenFor(String),
    #[error("'{0}' is not a user name for fwknop: give one of letters and digits with --user")]
    UserName(String),
    #[error("--nat-port belongs to --nat-access and --nat-local: without them it leads nowhere")]
    NatPortForNothing,
    #[error("--nat-port is one port, and leads to one: write only one port after the host")]
    NatPortForMany,
    #[error("fwknop has no way to write the host '{0}': name it with --nat-access")]
    NatHost(String),
    #[error("{} does not work on this system: {}", option(.0), .1)]
    Unsupported(&'static str, &'static str),
    #[error("the stanza has no SPA_SERVER: write the host, as in 'knock --fwknoprc {0} HOST'")]
    NoServer(String),
    #[error("--code: {0}")]
    Code(#[from] CodeError),
    #[error("mode {mode} needs {what}: give it with {option}, or as '{key}' in the hosts file")]
    Missing { mode: Mode, what: &'static str, option: &'static str, key: &'static str },
}

fn belongs(modes: &[Mode]) -> String {
    let name = |mode: &Mode| match mode {
        Mode::Sequence => "ports".to_owned(),
        Mode::Totp | Mode::Spa | Mode::Fwknop => format!("--{mode}"),
    };
    modes.iter().map(name).collect::<Vec<_>>().join(" and ")
}
