//! Firewall commands with holes.
//!
//! What fills a hole is typed, so nothing that came off the wire as text reaches a command.

use std::net::IpAddr;

use super::Name;
use crate::proto::knock::Knock;

/// The commands of a door, for both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commands {
    pub v4: Pair,
    pub v6: Pair,
}

/// What opens and what closes. Without `open` the family cannot be opened; without `close` the
/// door is an act.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    pub open: Option<Command>,
    pub close: Option<Command>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Commands {
    #[must_use]
    pub const fn of(&self, family: Family) -> &Pair {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

impl Family {
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// One command, its holes still open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Runs under `/bin/sh -c`.
    Shell(CommandText),
    /// Runs as it is. Never empty.
    Exec(Vec<CommandText>),
}

/// Literal text and holes, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandText(pub(super) Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Literal(String),
    Hole(Hole),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hole {
    Ip,
    Family,
    Port,
    Proto,
    Door,
    Client,
    Seconds,
}

/// What fills the holes of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holes<'a> {
    pub address: IpAddr,
    pub door: &'a Name,
    pub client: Option<&'a Name>,
    pub port: Option<Knock>,
    /// How long the door will be open.
    pub seconds: u64,
}

/// A command that can be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The program and its arguments; `/bin/sh -c TEXT` for a shell command.
    pub argv: Vec<String>,
    /// `KNOCK_IP` and the others: the same values as in the holes.
    pub environment: Vec<(&'static str, String)>,
}
