//! `knockctl try` and `knockctl confirm`: a configuration that goes again unless it is confirmed.

use std::io::{self, Write};

use jiff::tz::TimeZone;

use super::error::Error;
use super::output::wall;
use super::socket::Timeout;
use super::status;
use super::target::Target;
use crate::control::{Reply, Request, Status, TrialTime};
use crate::proto::duration;
use crate::sys::clock;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct TryArgs {
    /// For how long, 10s to 1h
    #[arg(long = "for", value_name = "D", default_value = "2m", value_parser = super::args::trial_time)]
    time: TrialTime,
}

pub(super) fn start(target: &Target, args: &TryArgs) -> Result<(), Error> {
    let request = Request::Try { seconds: args.time };
    let mut replies = target.ask(&request, Timeout::Watcher).map_err(|error| match error {
        Error::NotRunning { path, .. } => {
            let time = duration::format(args.time.into());
            Error::NothingRuns { path, command: target.command("knockd", &format!("--try {time}")) }
        }
        error => error,
    })?;
    let Reply::Status(Status { on_trial_until: Some(until), .. }) = replies.next()? else {
        return Err(Error::Ended);
    };
    let (confirm, back) = (target.command("knockctl", "confirm"), end(until));
    Ok(write!(
        io::stdout(),
        "the configuration is in force, on trial\n\
         check from a NEW connection that you still get in, then: {confirm}\n\
         otherwise everything goes back at {back}\n"
    )?)
}

/// The end of a trial, as people read it.
pub(super) fn end(until: f64) -> String {
    status::time_and_left(wall(until), clock::now().wall, &TimeZone::system())
}
