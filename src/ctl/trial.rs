//! `knockctl try` and `knockctl confirm`: a configuration that goes again unless it is confirmed.

use std::io::{self, Write};

use jiff::tz::TimeZone;

use super::error::Error;
use super::lines::wall;
use super::socket::{ControlError, Patience};
use super::status;
use super::target::Target;
use crate::control::{Reply, Request, Status, TrialTime, command};
use crate::log::escape;
use crate::proto::duration;
use crate::sys::clock;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct TryArgs {
    /// For how long, 10s to 1h
    #[arg(long = "for", value_name = "D", default_value = "2m", value_parser = time)]
    time: TrialTime,
}

fn time(text: &str) -> Result<TrialTime, String> {
    let time = duration::parse(text).map_err(|error| error.to_string())?;
    if time.subsec_nanos() > 0 {
        return Err("write whole seconds".to_owned());
    }
    time.as_secs().try_into().map_err(|error| format!("{error}"))
}

pub(super) fn start(target: &Target, args: &TryArgs) -> Result<(), Error> {
    let request = Request::Try { seconds: args.time };
    let mut replies =
        target.daemon()?.ask(&request, Patience::Watcher).map_err(|error| match error {
            ControlError::NotRunning { path, .. } => {
                let time = duration::format(args.time.into());
                let command = command("knockd", &target.config, &format!("--try {time}"));
                ControlError::NothingRuns { path, command }
            }
            error => error,
        })?;
    let Reply::Status(Status { on_trial_until: Some(until), .. }) = replies.next()? else {
        return Err(ControlError::Ended.into());
    };
    let back = status::time_and_left(wall(until), clock::now().wall, &TimeZone::system());
    let confirm = escape(&command("knockctl", &target.config, "confirm"));
    Ok(write!(
        io::stdout(),
        "the configuration is in force, on trial\n\
         check from a NEW connection that you still get in, then: {confirm}\n\
         otherwise everything goes back at {back}\n"
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_takes_ten_seconds_to_an_hour() {
        for (text, seconds) in [("10s", 10), ("2m", 120), ("1h", 3600), ("90", 90)] {
            assert_eq!(time(text).map(u64::from), Ok(seconds), "{text}");
        }
        for text in ["9s", "0", "1h1s", "1500ms", "10500ms", "soon", ""] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
