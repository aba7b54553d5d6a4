//! How datagrams are taken that open doors: native SPA and fwknop's.

use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::diagnostic::{Problems, Reported};
use super::raw::{Keys, Node, Reader};
use super::{moment, range};
use crate::proto::knock::parse_port;
use crate::time::Wall;

/// How native SPA datagrams are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spa {
    /// Where they are sent to; a client picks one of these.
    pub ports: RangeInclusive<NonZeroU16>,
    /// The server's private key.
    pub key_file: PathBuf,
    /// The key before that one, and until when it is accepted too.
    pub old_key: Option<(PathBuf, Wall)>,
    pub max_age: Duration,
    pub max_ahead: Duration,
}

impl Default for Spa {
    fn default() -> Self {
        Self {
            ports: PORT..=PORT,
            key_file: "/etc/knock.d/keys/server.key".into(),
            old_key: None,
            max_age: Duration::from_secs(60),
            max_ahead: Duration::from_secs(10),
        }
    }
}

/// How fwknop's datagrams are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fwknop {
    pub port: NonZeroU16,
    /// How far a request's clock may be from ours, in both directions.
    pub max_age: Duration,
}

impl Default for Fwknop {
    fn default() -> Self {
        Self { port: PORT, max_age: Duration::from_secs(120) }
    }
}

/// Where SPA datagrams go, of either kind.
const PORT: NonZeroU16 = NonZeroU16::new(62_201).expect("is not zero");

pub(super) const SPA: Keys = Keys {
    of: "spa",
    known: &["port", "key_file", "old_key_file", "old_until", "max_age", "max_ahead"],
};
pub(super) const FWKNOP: Keys = Keys { of: "fwknop", known: &["port", "max_age"] };

const A_MAPPING: &str = "a mapping such as {port: 62201}";
const SECOND: Duration = Duration::from_secs(1);

/// Reads `knockd.spa`.
pub(super) fn read_spa(node: &Node, problems: &mut Problems) -> Result<Spa, Reported> {
    let mut reader = Reader::new(node, A_MAPPING, &SPA, problems)?;
    let default = Spa::default();
    let ports = reader.read("port", |node| node.read("a port, or a range of ports,", range::parse));
    let key_file = reader.read("key_file", Node::path);
    let old_key_file = reader.read("old_key_file", Node::path);
    let until = reader.read("old_until", |node| node.read("a date", moment::parse));
    let max_age = reader.duration("max_age", SECOND);
    let max_ahead = reader.duration("max_ahead", Duration::ZERO);
    let old_key = reader.both(("old_key_file", old_key_file), ("old_until", until));
    Ok(Spa {
        ports: ports?.unwrap_or(default.ports),
        key_file: key_file?.unwrap_or(default.key_file),
        old_key: old_key?,
        max_age: max_age?.unwrap_or(default.max_age),
        max_ahead: max_ahead?.unwrap_or(default.max_ahead),
    })
}

/// Reads `knockd.fwknop`.
pub(super) fn read_fwknop(node: &Node, problems: &mut Problems) -> Result<Fwknop, Reported> {
    let mut reader = Reader::new(node, A_MAPPING, &FWKNOP, problems)?;
    let default = Fwknop::default();
    let port = reader.read("port", |node| node.read("a port", parse_port));
    let max_age = reader.duration("max_age", SECOND);
    Ok(Fwknop { port: port?.unwrap_or(default.port), max_age: max_age?.unwrap_or(default.max_age) })
}
