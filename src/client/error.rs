//! The errors that end `knock`, how they are shown, and its exit statuses.

use std::io;

use super::cli::UsageError;
use super::fwknop::StanzaError;
use super::hosts::HostsError;
use super::import::ImportError;
use super::keys::{KeyFileError, KeygenError};
use super::messages::complain;
use super::names::ResolveError;
use super::proxy::ProxyError;
use super::send::{SendError, WaitTarget};
use super::spa::RequestError;
use crate::proto::fwknop::FwknopKeyError;
use crate::proto::totp::SchemeError;

const USAGE: u8 = 2;
const GAVE_UP: u8 = 3;

/// An error that ends the program: nothing was sent, or not everything, or not to any effect.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) enum ClientError {
    Usage(#[from] UsageError),
    Hosts(#[from] HostsError),
    Import(#[from] ImportError),
    Stanza(#[from] StanzaError),
    KeyFile(#[from] KeyFileError),
    Key(#[from] FwknopKeyError),
    Scheme(#[from] SchemeError),
    #[error("no port is free to connect from: {0}")]
    NoFreePort(#[source] io::Error),
    #[error("there is nobody to ask for the code: {0}: write it after --code")]
    AskCode(#[source] io::Error),
    #[error("no key can be asked for: {0}: give a file with --key")]
    AskKey(#[source] io::Error),
    Keygen(#[from] KeygenError),
    Resolve(#[from] ResolveError),
    Request(#[from] RequestError),
    Send(#[from] SendError),
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
    GaveUp(#[from] GaveUp),
    Proxy(#[from] ProxyError),
}

/// The port stayed shut.
#[derive(Debug, thiserror::Error)]
#[error(
    "{to} did not accept a connection: gave up after {} {what}{}{}",
    u32::from(target.retries) + 1,
    if target.retries == 0 { "" } else { "s" },
    advice.iter().map(|advice| format!("; {advice}")).collect::<String>()
)]
pub(super) struct GaveUp {
    pub to: String,
    pub target: WaitTarget,
    pub what: &'static str,
    pub advice: Vec<String>,
}

impl ClientError {
    /// The exit status of the program.
    pub(super) const fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            // What a proxy is for knows other exit statuses.
            Self::GaveUp(GaveUp { target, .. }) if !target.for_proxy => GAVE_UP,
            _ => 1,
        }
    }

    /// Says it on standard error.
    pub(super) fn say(&self) {
        let text = self.to_string();
        match self {
            // It begins with the place, as editors want it.
            Self::Hosts(HostsError::Wrong(_)) => complain(&text),
            Self::Usage(UsageError::Ports(_)) => {
                text.lines().for_each(|line| complain(&format!("knock: error: {line}")));
            }
            _ => complain(&format!("knock: error: {text}")),
        }
    }
}
