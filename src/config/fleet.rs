//! The fleet that a gateway is of: its name there, its store, and what it does without that.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use derive_more::Display;
use serde::{Deserialize, Serialize};

use super::Name;
use crate::proto::Secret;
use crate::proto::fleet::FleetKey;
use crate::proto::words::words;

/// The fleet that this gateway is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetSettings {
    /// This gateway's name, which no other of the fleet has.
    pub name: Name,
    pub store: Store,
    pub key: FleetKey,
    /// The longest time that a request waits for the store.
    pub wait: Duration,
    pub when_lost: WhenLost,
}

/// The store of a fleet, and how to be let in there.
#[derive(Clone, Debug, Display, PartialEq, Eq, Serialize, Deserialize)]
#[display("{}", addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
pub struct Store {
    /// One, or Sentinels that tell where it is. Never empty.
    pub addresses: Vec<StoreAddress>,
    pub password: Option<Secret>,
    /// The certificates of those who vouch for it, in PEM, where TLS is spoken.
    pub authorities: Option<String>,
}

/// Where a store listens; shown without who asks there, and how.
#[derive(Clone, Debug, Display, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreAddress {
    #[display("{}", _0.display())]
    Unix(PathBuf),
    #[display("{host} port {port}")]
    Tcp {
        /// Who this gateway is there; `None`: the default user.
        user: Option<String>,
        host: String,
        port: u16,
        tls: bool,
        /// What a Sentinel calls the store.
        service: Option<String>,
    },
}

words! {
/// What becomes of a request whose proof the store cannot be asked about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenLost {
    /// This gateway's ledger decides alone.
    #[default]
    Alone = "alone",
    Refuse = "refuse",
}
}

impl StoreAddress {
    /// Whether nobody between this gateway and the store can read or alter what they tell each other.
    pub fn is_private(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { host, tls, .. } => {
                *tls || host == "localhost" || host.parse().is_ok_and(|it: IpAddr| it.is_loopback())
            }
        }
    }
}

/// The reason why a text does not say where a store is. It never quotes a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreAddressError {
    #[error(
        "a store is unix:/PATH, rediss://[USER@]HOST[:PORT] by TLS, or redis://[USER@]HOST[:PORT]; \
         an IPv6 address stands in brackets"
    )]
    Form,
    #[error("a password does not belong here: write it to a file, and name that as password_file")]
    Password,
    #[error("what follows a host is what a Sentinel calls the store; its database is always 0")]
    Database,
}

/// Reads `unix:/run/valkey/valkey.sock`, `rediss://gw1@valkey.example.net:6379` or, of a Sentinel,
/// `rediss://sentinel.example.net:26379/SERVICE`.
impl FromStr for StoreAddress {
    type Err = StoreAddressError;

    fn from_str(text: &str) -> Result<Self, StoreAddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return path.is_absolute().then_some(Self::Unix(path)).ok_or(StoreAddressError::Form);
        }
        let (scheme, rest) = text.split_once("://").ok_or(StoreAddressError::Form)?;
        let tls = match scheme {
            "redis" => false,
            "rediss" => true,
            _ => return Err(StoreAddressError::Form),
        };
        let (user, rest) =
            rest.rsplit_once('@').map_or((None, rest), |(user, it)| (Some(user), it));
        if user.is_some_and(|user| user.contains(':')) {
            return Err(StoreAddressError::Password);
        }
        let (place, service) = rest.split_once('/').map_or((rest, None), |(it, of)| (it, Some(of)));
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse().map_err(|_| StoreAddressError::Form)?)
            }
            _ => (place, PORT),
        };
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').filter(|it| it.parse::<Ipv6Addr>().is_ok()),
            None => Some(host).filter(|it| !it.contains([':', ']'])),
        };
        let host = host.ok_or(StoreAddressError::Form)?;
        if service.is_some_and(|it| it.bytes().all(|it| it.is_ascii_digit())) {
            return Err(StoreAddressError::Database);
        }
        let is_word = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_graphic());
        let words = [Some(host), user, service].into_iter().flatten();
        if port == 0 || !words.into_iter().all(is_word) {
            return Err(StoreAddressError::Form);
        }
        let [user, service] = [user, service].map(|word| word.map(str::to_owned));
        Ok(Self::Tcp { user, host: host.to_owned(), port, tls, service })
    }
}

/// Where stores listen unless they say otherwise.
const PORT: u16 = 6379;
