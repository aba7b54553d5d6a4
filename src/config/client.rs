//! A client: what it proves itself with, and the doors that it may open.

use std::collections::HashMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Name;
use super::diagnostic::Place;
use crate::proto::spa::PublicKey;
use crate::proto::{Method, Network, Secret, Widths, fwknop};
use crate::time::Wall;

/// A named holder of credentials. It is handed to the watcher as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    pub name: Name,
    /// The doors that it may open, in the order of their names; each exists.
    pub doors: Vec<Name>,
    /// From then on its credentials prove nothing.
    pub expires: Option<Wall>,
    /// The widest networks that its requests may ask for; `None`: the door's.
    pub width: Option<Widths>,
    pub totp: Option<TotpClient>,
    pub spa: Option<SpaClient>,
    pub fwknop: Option<FwknopClient>,
}

impl Client {
    /// Whether it has what a method takes.
    pub(crate) const fn has(&self, method: Method) -> bool {
        match method {
            Method::Sequence | Method::OneTimeSequence => false,
            Method::Totp => self.totp.is_some(),
            Method::Spa => self.spa.is_some(),
            Method::Fwknop => self.fwknop.is_some(),
        }
    }
}

/// The TOTP secrets of a client. Whoever holds one can knock this client's rotating sequences.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TotpClient {
    pub secret: Secret,
    /// The secret before this one, and until when it holds too.
    pub old: Option<(Secret, Wall)>,
}

/// The public keys of a client for native SPA, and what its requests may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaClient {
    /// At least one. The place of a key in it is its number everywhere else.
    pub keys: Vec<PublicKey>,
    pub address: AddressPolicy,
}

/// Which addresses a request may ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddressPolicy {
    /// Also the one that the packet seems to come from.
    #[default]
    Any,
    /// Only those named in the request itself.
    Explicit,
}

/// The keys that a client of fwknop's shares with the server, and what narrows its requests down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FwknopClient {
    pub key: fwknop::FwknopKey,
    pub mode: fwknop::CipherMode,
    /// `None`: requests are not authenticated, as the administrator wants it.
    pub hmac: Option<(fwknop::HmacKey, fwknop::Hash)>,
    /// Where its packets come from; empty: from anywhere.
    pub from: Vec<Network>,
    /// Where its packets go to; empty: anywhere.
    pub destination: Vec<Network>,
    pub username: Option<String>,
    pub address: AddressPolicy,
    /// Whether whatever port it asks for leads where a door forwards it, asked for or not.
    pub force_nat: bool,
    /// The keys before these, which are used in the same way, and until when they hold too.
    pub old: Option<((fwknop::FwknopKey, fwknop::HmacKey), Wall)>,
}

impl FwknopClient {
    /// Whether its packets may come from an address.
    pub fn sends_from(&self, source: IpAddr) -> bool {
        self.from.is_empty() || self.from.iter().any(|network| network.contains(source))
    }
}

/// The places where the parts of a client are written.
#[derive(Clone, Debug)]
pub struct ClientPlaces {
    pub name: Place,
    /// One for each door.
    pub doors: Vec<Place>,
    /// One for each public key.
    pub spa_keys: Vec<Place>,
    /// Where other keys are that a message may be about, each if it is there.
    pub keys: HashMap<&'static str, Place>,
}

impl ClientPlaces {
    /// Where the client has what a method takes; nothing takes no place.
    pub(super) fn of(&self, method: Method) -> Option<&Place> {
        match method {
            Method::Spa => self.spa_keys.first(),
            other => self.keys.get(other.as_str()),
        }
    }
}
