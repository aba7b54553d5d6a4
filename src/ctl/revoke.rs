//! `knockctl revoke`: a client opens nothing any more.

use std::path::{Path, PathBuf};

use super::enroll::files::Edit;
use super::enroll::site::Site;
use super::failure::{Failure, say};
use super::hand;
use super::socket::{ControlError, Daemon, Patience, Replies};
use crate::config::Name;
use crate::control::Request;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct RevokeArgs {
    /// The name of the client
    #[arg(value_parser = hand::door)]
    client: Name,
}

pub(super) fn run(config: &Path, insecure: bool, args: &RevokeArgs) -> Result<(), Failure> {
    let name = &args.client;
    // At once, and whatever is wrong with the configuration.
    let running = end_grants(config, insecure, name)?;
    let site = Site::open(config, insecure)?;
    let files = match site.files_of(name) {
        Ok(Some(files)) => files,
        Ok(None) => {
            let clients = site.config().clients.iter().map(|client| client.name.clone()).collect();
            return Err(Failure::NoClient { client: name.clone(), clients });
        }
        Err(Failure::NotOurs(why)) => return Err(Failure::NotRevoked(why)),
        Err(error) => return Err(error),
    };
    let mut edit = Edit::default();
    edit.remove(site.client_file(name));
    site.commit(edit)?;
    say(&format!("'{name}' is revoked"));
    let reloaded = site.reload();
    site.forget(files.iter().map(PathBuf::as_path))?;
    reloaded?;
    // What it has opened since.
    if running {
        end_grants(config, insecure, name)?;
    }
    Ok(())
}

/// Closes what the client has opened; false: there is no daemon to do so.
fn end_grants(config: &Path, insecure: bool, client: &Name) -> Result<bool, Failure> {
    let mut daemon = Daemon::find(config, insecure)?;
    let request = Request::Revoke { client: client.clone() };
    match daemon.ask(&request, Patience::Commands).and_then(Replies::done) {
        Ok(text) => {
            if !text.is_empty() {
                say(&text);
            }
            Ok(true)
        }
        Err(ControlError::NotRunning { .. }) => {
            say("knockd is not running: what stands open closes when its time is over");
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}
