//! What the fuzz targets reach of the keeper. No program has it.

use std::path::Path;
use std::time::Duration;

use super::claim::{Claim, Grounds};
use super::control::{Control, Language};
use super::credible::check;
use crate::config::{Config, Door};
use crate::control::{Reply, Request};
use crate::engine::spa::SpaServer;
use crate::engine::{EventKind, Local, Reason, UncleanStart};
use crate::ipc::FromWatcher;
use crate::proto::network::Network;
use crate::time::{Monotonic, Now};

/// What a frame claims: which door, for whom, for how long, and whether it holds.
pub type Claimed = (Door, Vec<Network>, Option<Duration>, Result<(), Reason>);

/// What a frame claims, if anything, or the lie that it is.
pub fn judge(
    (config, server, local): (&Config, Option<&SpaServer>, &Local),
    now: Now,
    frame: &FromWatcher,
) -> Result<Option<Claimed>, &'static str> {
    let (then, current, missing) = (config, config, UncleanStart::default());
    let grounds = Grounds { then, server, current, missing, local, looped: false, now };
    check(&grounds, Monotonic::ZERO, frame).map_err(|lie| lie.0)?;
    let judged = match frame {
        FromWatcher::Request { request, at } => Claim::of_request(&grounds, request, *at),
        FromWatcher::Event { event, at } => match event.kind {
            EventKind::Open(by) => Claim::of_sequence(&grounds, event, by, *at),
            _ => return Ok(None),
        },
        _ => return Ok(None),
    };
    let (claim, holds) = judged.map_err(|lie| lie.0)?;
    Ok(Some((claim.door, claim.networks, claim.open_for, holds)))
}

/// A control socket, as the daemon has it.
pub struct ControlSocket(Control);

impl ControlSocket {
    pub fn listen(path: &Path) -> Self {
        Self(Control::listen(Language::Json, path, None).expect("a path for a socket"))
    }

    /// The requests that have come until now. Each has been answered.
    pub fn poll(&mut self, now: Monotonic) -> Vec<Request> {
        let heard = self.0.poll(now, |_| false);
        let answer = Reply::Done { text: String::new() };
        heard.iter().for_each(|(id, _)| self.0.reply(*id, &answer));
        heard.into_iter().map(|(_, request)| request).collect()
    }
}
