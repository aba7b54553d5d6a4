//! How datagrams are taken that open doors: native SPA and fwknop's.

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::credentials::both;
use super::diagnostic::Problems;
use super::door::read_time;
use super::moment;
use super::raw::{Keys, Mapping, Node};
use crate::proto::knock::parse_port;
use crate::proto::port_range::{self, PortRange};
use crate::proto::spa::PORTS;
use crate::time::Wall;

/// How native SPA datagrams are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spa {
    /// Where they are sent to; a client picks one of these.
    pub ports: PortRange,
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
            ports: PORTS,
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
        Self { port: *PORTS.start(), max_age: Duration::from_secs(120) }
    }
}

pub(super) const SPA: Keys = Keys {
    of: "spa",
    known: &["port", "key_file", "old_key_file", "old_until", "max_age", "max_ahead"],
};
pub(super) const FWKNOP: Keys = Keys { of: "fwknop", known: &["port", "max_age"] };

const SECOND: Duration = Duration::from_secs(1);

/// Reads `knockd.spa`. `None` after an error.
pub(super) fn read_spa(node: &Node, problems: &mut Problems) -> Option<Spa> {
    let mapping = problems.keep(node.mapping("a mapping such as {port: 62201}"))?;
    mapping.check_keys(&SPA, problems);
    let default = Spa::default();
    let ports = match mapping.value("port") {
        Some(node) => problems.keep(node.read("a port, or a range of ports,", port_range::parse)),
        None => Some(default.ports),
    };
    let key_file = read_path(mapping, "key_file", problems);
    let old_key_file = read_path(mapping, "old_key_file", problems);
    let until = match mapping.value("old_until") {
        Some(node) => problems.keep(node.read("a date", moment::parse)).map(Some),
        None => Some(None),
    };
    let max_age = read_time(mapping, "max_age", SECOND, problems);
    let max_ahead = read_time(mapping, "max_ahead", Duration::ZERO, problems);
    let old = old_key_file.zip(until).and_then(|(file, until)| {
        problems.keep(both(file, until, ("old_key_file", "old_until"), mapping))
    });
    Some(Spa {
        ports: ports?,
        key_file: key_file?.unwrap_or(default.key_file),
        old_key: old?,
        max_age: max_age?.unwrap_or(default.max_age),
        max_ahead: max_ahead?.unwrap_or(default.max_ahead),
    })
}

/// Reads `knockd.fwknop`. `None` after an error.
pub(super) fn read_fwknop(node: &Node, problems: &mut Problems) -> Option<Fwknop> {
    let mapping = problems.keep(node.mapping("a mapping such as {port: 62201}"))?;
    mapping.check_keys(&FWKNOP, problems);
    let default = Fwknop::default();
    let port = match mapping.value("port") {
        Some(node) => problems.keep(node.read("a port", parse_port)),
        None => Some(default.port),
    };
    let max_age = read_time(mapping, "max_age", SECOND, problems);
    Some(Fwknop { port: port?, max_age: max_age?.unwrap_or(default.max_age) })
}

/// `None` after an error, `Some(None)` where it is absent.
#[expect(clippy::option_option, reason = "absent and wrong are two things")]
fn read_path(mapping: &Mapping, key: &str, problems: &mut Problems) -> Option<Option<PathBuf>> {
    match mapping.value(key) {
        Some(node) => problems.keep(node.path()).map(Some),
        None => Some(None),
    }
}
