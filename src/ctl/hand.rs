//! `knockctl open`, `close`, `unlock` and `client`: what the daemon does by hand.

use std::net::IpAddr;

use super::error::Error;
use super::socket::Patience;
use super::target::Target;
use crate::config::Name;
use crate::control::Request;
use crate::proto::duration;
use crate::proto::network::is_a_hosts;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct OpenArgs {
    /// The name of the door
    door: Name,
    /// The address to open it for
    #[arg(value_parser = source)]
    ip: IpAddr,
    /// For how long, such as 30s, 5m or 1h30m [default: what the door says]
    #[arg(long = "for", value_name = "D", value_parser = seconds)]
    seconds: Option<u64>,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct CloseArgs {
    /// The name of the door
    #[arg(required_unless_present = "all", requires = "ip")]
    door: Option<Name>,
    /// The address to close it for
    #[arg(value_parser = address)]
    ip: Option<IpAddr>,
    /// Close every door, for every address
    #[arg(long, conflicts_with_all = ["door", "ip"])]
    all: bool,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct UnlockArgs {
    /// The address to listen to again
    #[arg(value_parser = address)]
    ip: IpAddr,
}

#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum ClientTask {
    /// Forget what a client seems to have used in the future, which keeps it out until then
    ///
    /// That happens where the clock of this host was wrong. What it can have used by now stays
    /// used.
    #[command(after_help = "Example: knockctl client reset laptop")]
    Reset {
        /// The name of the client
        client: Name,
    },
}

/// An address; one of IPv4 in IPv6's clothes is the IPv4 address, as on the wire.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map(|address: IpAddr| address.to_canonical())
        .map_err(|_| "not an IP address: write one such as 192.0.2.2 or 2001:db8::2".to_owned())
}

/// An address that packets can come from.
fn source(text: &str) -> Result<IpAddr, String> {
    let source = address(text)?;
    if is_a_hosts(source) { Ok(source) } else { Err("no packet comes from there".to_owned()) }
}

fn seconds(text: &str) -> Result<u64, String> {
    let duration = duration::parse(text).map_err(|error| error.to_string())?;
    match duration.as_secs() {
        0 => Err("a door is open for 1s or more".to_owned()),
        _ if duration.subsec_nanos() > 0 => Err("write whole seconds".to_owned()),
        seconds => Ok(seconds),
    }
}

pub(super) fn unlock(target: &Target, args: &UnlockArgs) -> Result<(), Error> {
    target.act(&Request::Unlock { address: args.ip }, Patience::Answer, "")
}

pub(super) fn open(target: &Target, args: OpenArgs) -> Result<(), Error> {
    let OpenArgs { door, ip: address, seconds } = args;
    target.act(&Request::Open { door, address, seconds }, Patience::Commands, "")
}

pub(super) fn close(target: &Target, args: CloseArgs) -> Result<(), Error> {
    let (request, done) = match (args.door, args.ip) {
        (Some(door), Some(address)) => {
            let done = format!("{door}: closed for {address}");
            (Request::Close { door, address }, done)
        }
        _ => (Request::CloseAll, "every door is closed".to_owned()),
    };
    target.act(&request, Patience::Commands, &done)
}

pub(super) fn client(target: &Target, task: ClientTask) -> Result<(), Error> {
    let ClientTask::Reset { client } = task;
    target.act(&Request::ResetClient { client }, Patience::Answer, "")
}
