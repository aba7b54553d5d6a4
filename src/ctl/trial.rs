//! `knockctl try` and `knockctl lock`: a configuration that goes again unless it is confirmed.

use std::io::{self, Write};

use jiff::tz::TimeZone;

use super::output::wall;
use super::{Error, Target, Timeout, status};
use crate::config::Name;
use crate::control::{Reply, Request, Status, TrialTime};
use crate::proto::duration;
use crate::sys::clock;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct TryArgs {
    /// For how long, 10s to 1h
    #[arg(long = "for", value_name = "D", default_value = "2m", value_parser = super::args::trial_time)]
    time: TrialTime,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct LockArgs {
    /// The name of the door
    pub(super) door: Name,
    #[command(flatten)]
    pub(super) trial: TryArgs,
}

pub(super) fn start(target: &Target, args: &TryArgs, lock: Option<Name>) -> Result<(), Error> {
    let in_force = || "the configuration is in force".to_owned();
    let said = lock.as_ref().map_or_else(in_force, |door| format!("door '{door}' is locked"));
    let is_try = lock.is_none();
    let request = Request::Try { seconds: args.time, lock };
    let mut replies = target.ask(&request, Timeout::Watcher).map_err(|error| match error {
        Error::NotRunning { path, .. } if is_try => {
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
        "{said}, on trial\n\
         check from a NEW connection that you still get in, then: {confirm}\n\
         otherwise everything goes back at {back}\n"
    )?)
}

/// The end of a trial, as people read it.
pub(super) fn end(until: f64) -> String {
    status::time_and_left(wall(until), clock::now().wall, &TimeZone::system())
}
