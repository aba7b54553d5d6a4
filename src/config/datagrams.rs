//! Settings for the datagrams that open doors: native SPA's and fwknop's.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::proto::PortRange;
use crate::proto::spa::PORTS;
use crate::time::Wall;

/// The settings for native SPA datagrams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpaSettings {
    /// Where they are sent to; a client picks one of these.
    pub ports: PortRange,
    /// The server's private key.
    pub key_file: PathBuf,
    /// The key before that one, and until when it is accepted too.
    pub old_key: Option<(PathBuf, Wall)>,
    pub max_age: Duration,
    pub max_ahead: Duration,
}

impl Default for SpaSettings {
    fn default() -> Self {
        Self {
            ports: PORTS,
            key_file: "/etc/knock.d/keys/server.key".into(),
            old_key: None,
            max_age: Duration::from_secs(60),
            max_ahead: Duration::from_secs(10),
        }
    }
}

/// The settings for fwknop's datagrams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FwknopSettings {
    /// Where they are sent to; the stock client can pick one of many at random.
    pub ports: PortRange,
    /// How far a request's clock may be from ours, in both directions.
    pub max_age: Duration,
}

impl Default for FwknopSettings {
    fn default() -> Self {
        Self { ports: PORTS, max_age: Duration::from_secs(120) }
    }
}
