//! `knockctl open`, `close` and `unlock`: what the daemon does when told to.

use std::io::{self, Write};
use std::net::IpAddr;
use std::time::Duration;

use super::{Error, Target, Timeout, args};
use crate::config::Name;
use crate::control::{GrantStatus, Reply, Request};
use crate::log::escape;
use crate::proto::{Network, duration};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct OpenArgs {
    /// The name of the door
    door: Name,
    /// The address to open it for
    #[arg(value_parser = args::source)]
    ip: IpAddr,
    /// For how long, such as 30s, 5m or 1h30m [default: what the door says]
    #[arg(long = "for", value_name = "D", value_parser = args::open_for)]
    seconds: Option<u64>,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct CloseArgs {
    /// The name of the door
    #[arg(required_unless_present = "all", requires = "ip")]
    door: Option<Name>,
    /// The address or network to close it for
    ip: Option<Network>,
    /// Close every door, for every address
    #[arg(long, conflicts_with_all = ["door", "ip"])]
    all: bool,
    /// End the connections too that were let in
    #[arg(long)]
    cut: bool,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct UnlockArgs {
    /// The address to listen to again
    #[arg(value_parser = args::address)]
    ip: IpAddr,
}

pub(super) fn unlock(target: &Target, args: &UnlockArgs) -> Result<(), Error> {
    target.act(&Request::Unlock { address: args.ip }, Timeout::Reply)
}

pub(super) fn open(target: &Target, args: OpenArgs) -> Result<(), Error> {
    let OpenArgs { door, ip: address, seconds } = args;
    let mut replies = target.ask(&Request::Open { door, address, seconds }, Timeout::Commands)?;
    let said = loop {
        match replies.next()? {
            Reply::Opened(GrantStatus { door, address, state, seconds_left, .. }) => {
                let left = Duration::try_from_secs_f64(seconds_left.round()).unwrap_or_default();
                break format!(
                    "{door} is {} for {address}, closes in {}",
                    state.as_str(),
                    duration::format(left)
                );
            }
            Reply::Done { text } => break text,
            _ => {}
        }
    };
    Ok(writeln!(io::stdout(), "{}", escape(&said))?)
}

pub(super) fn close(target: &Target, args: CloseArgs) -> Result<(), Error> {
    let cut = args.cut;
    let request = match (args.door, args.ip) {
        (Some(door), Some(address)) => Request::Close { door, address, cut },
        _ => Request::CloseAll { cut },
    };
    target.act(&request, Timeout::Commands)
}
