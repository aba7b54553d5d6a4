//! `knockctl client`: what is known of a client.

use std::io::{self, Write};
use std::path::Path;

use super::hand;
use super::socket::{ControlError, Daemon, Patience};
use crate::config::Name;
use crate::control::Request;
use crate::log::escape;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct ClientArgs {
    #[command(subcommand)]
    task: ClientTask,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum ClientTask {
    /// Forget what a client seems to have used in the future, which keeps it out until then
    ///
    /// That happens where the clock of this host was wrong. What it can have used by now stays
    /// used.
    #[command(after_help = "Example: knockctl client reset laptop")]
    Reset {
        /// The name of the client
        #[arg(value_parser = hand::door)]
        client: Name,
    },
}

pub(super) fn run(config: &Path, insecure: bool, args: &ClientArgs) -> Result<(), ControlError> {
    let ClientTask::Reset { client } = &args.task;
    let mut daemon = Daemon::find(config, insecure)?;
    let request = Request::ResetClient { client: client.clone() };
    let text = daemon.ask(&request, Patience::Answer)?.done()?;
    Ok(writeln!(io::stdout(), "{}", escape(&text))?)
}
