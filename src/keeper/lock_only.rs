//! `knockd --lock-only`: locks the guarded ports before there is a network, and before knockd runs.
//!
//! It reads files and asks the kernel, needs no other process, and writes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use jiff::Timestamp;

use super::cli::KnockdCli;
use super::guard_copy::GuardCopy;
use super::kernel_sets;
use super::run::WRONG_CONFIGURATION;
use super::trial_file::TrialFile;
use crate::config::{GuardMode, Loaded, load};
use crate::control;
use crate::firewall::guard::{self, Guard};
use crate::firewall::netlink::{Netlink, NetlinkError};
use crate::sys::clock;

/// The reason why the ports are not locked.
#[derive(Debug, thiserror::Error)]
enum LockError {
    #[error("the configuration is wrong, and there is no copy of one that worked: {0}")]
    NoCopy(String),
    #[error("the configuration is wrong, and by the copy {} no door was guarded", .0.display())]
    EmptyCopy(PathBuf),
    #[error("cannot set up the guard: {0}")]
    Guard(#[from] NetlinkError),
}

/// Locks what the configuration guards; where that is broken, what the copy of the last one that
/// worked says. Says what it did on standard error.
///
/// Exit status: 0 what is to be locked is; [`WRONG_CONFIGURATION`] and there is no copy; 1 the
/// kernel refuses.
pub fn lock_only(cli: &KnockdCli) -> ExitCode {
    let (said, status) = match lock(cli) {
        Ok(done) => (done, 0),
        Err(error @ LockError::Guard(_)) => (error.to_string(), 1),
        Err(error) => (error.to_string(), WRONG_CONFIGURATION),
    };
    let nothing = if status == 0 { "" } else { "nothing has been locked: " };
    say(&format!("knockd: {nothing}{said}"));
    ExitCode::from(status)
}

/// Whoever does not listen does not keep the ports from being locked.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Says what has been done.
fn lock(cli: &KnockdCli) -> Result<String, LockError> {
    if matches!(Netlink::open(), Err(NetlinkError::NotPermitted)) {
        return Err(NetlinkError::NotPermitted.into());
    }
    let now = clock::now().monotonic;
    let options = cli.options();
    let (settings, ruleset, why) = match load::load(&cli.config, &options) {
        Ok(Loaded { config, .. }) => {
            // What nobody has confirmed must not be locked for good.
            let trial_file =
                clock::boot_id().map(|boot| TrialFile::new(&config.settings.state_dir, boot));
            let trial = trial_file.ok().and_then(|trial_file| trial_file.left(now));
            let ruleset = kernel_sets::ruleset(&config, trial);
            (config.settings, ruleset.unwrap_or_default(), String::new())
        }
        Err(report) => {
            say(&report.to_string());
            let (settings, _) = load::settings(&cli.config, &options);
            let copy = GuardCopy::new(&settings.state_dir);
            let ruleset = copy.read(options).map_err(LockError::NoCopy)?;
            if ruleset.doors.is_empty() {
                return Err(LockError::EmptyCopy(copy.path));
            }
            let written = fs::metadata(&copy.path).and_then(|metadata| metadata.modified());
            let written = written.ok().and_then(|time| Timestamp::try_from(time).ok());
            let written = written.unwrap_or_default().strftime("%F %T UTC");
            let path = copy.path.display();
            let why = format!("the configuration is wrong, so by the copy {path} of {written}: ");
            (settings, ruleset, why)
        }
    };
    let locked = ruleset.doors.values().filter(|door| door.mode == GuardMode::Lock);
    let ports = locked.flat_map(|it| it.ports.iter().map(|port| (it.target, port)));
    let count = ports.collect::<BTreeSet<_>>().len();
    Ok(if count == 0 {
        format!("{why}nothing to lock, since the guard locks no door")
    } else if guard::is_standing()
        && UnixStream::connect(control::socket(&settings.run_dir)).is_ok()
    {
        "left as it is: a knockd is at work, and its ports are locked".to_owned()
    } else {
        // As when knockd starts: who was let in stays so until the grant ends.
        Guard::set_up(now, ruleset, &guard::standing()?)?;
        format!("{why}locked {count} port{}", if count == 1 { "" } else { "s" })
    })
}
