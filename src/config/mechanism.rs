//! The mechanism by which a door is opened: the guard, a set of nftables, or commands.

use std::str::FromStr;

use derive_more::Display;
use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay};

use super::template::{Commands, Hole};
use crate::proto::Family;
use crate::proto::name::Name;
use crate::proto::words::words;

/// The mechanism by which a door is opened and closed. In a few words: `guard`, the name of a
/// template, `commands`, or `nft_set inet filter ssh4 ssh6`.
#[derive(Clone, Debug, Default, Display, PartialEq, Eq)]
pub enum Mechanism {
    /// Firewall commands: of the template that is named, or the door's own.
    #[display("{}", template.as_ref().map_or("commands", Name::as_str))]
    Commands { template: Option<Name>, commands: Commands },
    /// knockd's own table. The door opens at least one port.
    #[default]
    #[display("guard")]
    Guard,
    /// Sets in a table of the administrator's.
    #[display("nft_set {_0}")]
    Set(NftSet),
}

impl Mechanism {
    /// Whether it can open for addresses of a family.
    pub const fn opens(&self, family: Family) -> bool {
        match self {
            Self::Commands { commands, .. } => commands.of(family).open.is_some(),
            Self::Guard => true,
            Self::Set(set) => set.of(family).is_some(),
        }
    }

    /// Whether a command that opens has this hole.
    pub fn has_hole(&self, hole: Hole) -> bool {
        let Self::Commands { commands, .. } = self else { return false };
        [&commands.v4.open, &commands.v6.open].into_iter().flatten().any(|open| open.has(hole))
    }

    /// Whether what is opened is closed again; what is not is an act.
    pub const fn closes(&self) -> bool {
        match self {
            Self::Commands { commands, .. } => {
                commands.v4.close.is_some() || commands.v6.close.is_some()
            }
            Self::Guard | Self::Set(_) => true,
        }
    }
}

/// Sets that addresses are added to, with a timeout; at least one of the two.
#[derive(Clone, Debug, Display, PartialEq, Eq, Hash)]
#[display("{} {table}{}", family.as_str(), self.names())]
pub struct NftSet {
    pub family: NftFamily,
    pub table: NftName,
    pub set4: Option<NftName>,
    pub set6: Option<NftName>,
}

impl NftSet {
    /// The name of the set for addresses of a family; `None` where the door has none.
    pub fn reference(&self, family: Family) -> Option<SetRef> {
        let set = self.of(family)?.clone();
        Some(SetRef { family: self.family, table: self.table.clone(), set })
    }

    fn names(&self) -> String {
        [&self.set4, &self.set6].into_iter().flatten().map(|set| format!(" {set}")).collect()
    }

    /// The set for addresses of a family.
    pub const fn of(&self, family: Family) -> Option<&NftName> {
        match family {
            Family::V4 => self.set4.as_ref(),
            Family::V6 => self.set6.as_ref(),
        }
    }
}

/// The name of a set with that of its table: `inet knockd open_4`.
#[derive(Clone, Debug, Display, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[display("{} {table} {set}", family.as_str())]
pub struct SetRef {
    pub family: NftFamily,
    pub table: NftName,
    pub set: NftName,
}

impl SetRef {
    /// A set by the names of its table and its own.
    ///
    /// # Errors
    /// When a name is one that nft itself would not take.
    pub fn new(family: NftFamily, table: &str, set: &str) -> Result<Self, NftNameError> {
        Ok(Self { family, table: table.parse()?, set: set.parse()? })
    }
}

words! {
/// The family of a table whose sets can hold addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NftFamily {
    Inet = "inet",
    Ip = "ip",
    Ip6 = "ip6",
}
}

impl NftFamily {
    /// Whether packets of this kind come by.
    pub const fn sees(self, family: Family) -> bool {
        matches!((self, family), (Self::Inet, _) | (Self::Ip, Family::V4) | (Self::Ip6, Family::V6))
    }
}

/// The name of a table or set as nft takes it without quotes: safe in rules and messages.
///
/// 1 to 255 of the characters `A-Z a-z 0-9 _ . - /`, the first a letter, `_` or `.`.
#[derive(
    Clone,
    Debug,
    Display,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    SerializeDisplay,
    DeserializeFromStr,
)]
pub struct NftName(String);

/// The text is no name of a table or set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a name that nft takes: it begins with a letter, and goes on with letters, digits and _ . - /"
)]
pub struct NftNameError(String);

impl NftName {
    /// A name of knockd's own.
    #[cfg(feature = "daemon")]
    pub(crate) const fn own(name: String) -> Self {
        Self(name)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NftName {
    type Err = NftNameError;

    fn from_str(text: &str) -> Result<Self, NftNameError> {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-/".contains(&byte);
        let first = |first: char| first.is_ascii_alphabetic() || "_.".contains(first);
        let is_one = text.len() <= 255 && text.starts_with(first) && text.bytes().all(valid);
        is_one.then(|| Self(text.to_owned())).ok_or_else(|| NftNameError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_those_that_nft_takes_without_quotes() {
        for name in ["ssh4", "my-set", "_x", ".hidden", "a/b", "f2b.sshd"] {
            assert_eq!(name.parse::<NftName>().unwrap().as_str(), name);
        }
        let long = "a".repeat(256);
        for name in ["", "4ssh", "-x", "a b", "a;b", "a}", "\"a\"", "ä", "a\n", long.as_str()] {
            assert!(name.parse::<NftName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_set_is_shown_with_its_table() {
        let set = NftSet {
            family: NftFamily::Inet,
            table: "filter".parse().unwrap(),
            set4: Some("ssh4".parse().unwrap()),
            set6: None,
        };
        assert_eq!(Mechanism::Set(set).to_string(), "nft_set inet filter ssh4");
    }

    proptest! {
        #[test]
        fn no_name_holds_what_ends_a_word(text in ".{0,40}") {
            if let Ok(name) = text.parse::<NftName>() {
                let ends = |c: char| {
                    c.is_whitespace() || c.is_control() || ";{}\"'#@,:$`\\".contains(c)
                };
                prop_assert!(!name.as_str().contains(ends));
            }
        }
    }
}
