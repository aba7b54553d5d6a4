//! `knockctl revoke`: a client opens nothing any more.

use std::path::PathBuf;

use super::site::Site;
use crate::config::Name;
use crate::control::Request;
use crate::ctl::edit::Edit;
use crate::ctl::{Error, Target, Timeout, say};

#[derive(Clone, Debug, clap::Args)]
pub(in crate::ctl) struct RevokeArgs {
    /// The name of the client
    client: Name,
    /// End the connections too that were let in for it
    #[arg(long)]
    cut: bool,
}

pub(in crate::ctl) fn run(target: &Target, args: &RevokeArgs) -> Result<(), Error> {
    let name = &args.client;
    // At once, and whatever is wrong with the configuration.
    let running = end_grants(target, args)?;
    let site = Site::open(target)?;
    let files = match site.files_of(name) {
        Ok(Some(files)) => files,
        Ok(None) => return Err(Error::no_client(site.config(), name)),
        Err(Error::NotOurs(why)) => return Err(Error::NotRevoked(why)),
        Err(error) => return Err(error),
    };
    let mut edit = Edit::default();
    edit.remove(site.client_file(name));
    site.commit(edit)?;
    let reloaded = site.reload();
    site.forget(files.iter().map(PathBuf::as_path))?;
    if reloaded.is_err() {
        say(&format!("'{name}' is out of the files, and can still knock at the running knockd"));
        return reloaded;
    }
    say(&format!("'{name}' is revoked"));
    // What it has opened since.
    if running {
        end_grants(target, args)?;
    }
    Ok(())
}

/// Closes what the client has opened; false: there is no daemon to do so.
fn end_grants(target: &Target, args: &RevokeArgs) -> Result<bool, Error> {
    let RevokeArgs { client, cut } = args.clone();
    match target.text(&Request::Revoke { client, cut }, Timeout::Commands) {
        Ok(text) => {
            if !text.is_empty() {
                say(&text);
            }
            Ok(true)
        }
        Err(Error::NotRunning { .. }) => {
            say("knockd is not running: what stands open closes when its time is over");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
