//! Sets and what is in them.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

/// The families of tables that hold sets of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Inet,
    Ip,
    Ip6,
}

impl Family {
    pub const ALL: [Self; 3] = [Self::Inet, Self::Ip, Self::Ip6];

    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        }
    }
}

/// A set in a table: `inet knockd g_ssh_4`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetRef {
    pub(in super::super) family: Family,
    pub(in super::super) table: String,
    pub(in super::super) set: String,
}

/// The text names no set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetNameError {
    #[error("'{0}' is not the name of a table: write for example 'inet filter'")]
    Table(String),
    #[error("'{0}' is not the name of an nftables set")]
    Set(String),
}

impl SetRef {
    /// # Errors
    /// When a name is one that nft itself would not take.
    pub fn new(family: Family, table: &str, set: &str) -> Result<Self, SetNameError> {
        if !is_identifier(table) {
            return Err(SetNameError::Table(table.to_owned()));
        }
        if !is_identifier(set) {
            return Err(SetNameError::Set(set.to_owned()));
        }
        Ok(Self { family, table: table.to_owned(), set: set.to_owned() })
    }

    /// Reads `inet filter` and the name of a set; without a family it is `ip`, as for nft.
    ///
    /// # Errors
    /// When either is no name.
    pub fn parse(table: &str, set: &str) -> Result<Self, SetNameError> {
        let known = |name| Family::ALL.into_iter().find(|known| known.as_str() == name);
        let mut words = table.split_whitespace();
        let (family, name) = match (words.next(), words.next(), words.next()) {
            (Some(name), None, _) if known(name).is_none() => (Some(Family::Ip), name),
            (Some(family), Some(name), None) => (known(family), name),
            _ => (None, table),
        };
        let family = family.ok_or_else(|| SetNameError::Table(table.to_owned()))?;
        Self::new(family, name, set)
    }
}

fn is_identifier(text: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-/\\".contains(&byte);
    (1..=255).contains(&text.len())
        && text.bytes().all(valid)
        && text.starts_with(|first: char| first.is_ascii_alphabetic() || "_.".contains(first))
}

impl fmt::Display for SetRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.family.as_str(), self.table, self.set)
    }
}

/// What an element lets in: an address, or one source port of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub address: IpAddr,
    pub port: Option<NonZeroU16>,
}

/// A comment that nft can show and read again: printable ASCII without quotes, at most 127 bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Comment(String);

impl Comment {
    /// Other characters become `?`; what is too long is cut.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let printable = |c: char| (c == ' ' || c.is_ascii_graphic()) && !"\"\\".contains(c);
        Self(text.chars().map(|c| if printable(c) { c } else { '?' }).take(127).collect())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An element as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    /// Until it goes away; `None`: never.
    pub left: Option<Duration>,
    pub comment: Comment,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_table_is_of_the_family_that_stands_before_it() {
        let shown = |table: &str, set: &str| SetRef::parse(table, set).map(|set| set.to_string());
        assert_eq!(shown("inet filter", "ssh4").unwrap(), "inet filter ssh4");
        assert_eq!(shown(" ip6  filter ", "a-b.c").unwrap(), "ip6 filter a-b.c");
        assert_eq!(shown("filter", "ssh4").unwrap(), "ip filter ssh4");
        for table in ["", "inet", "inet a b", "bridge filter", "inet a;b", "inet 'a"] {
            assert!(matches!(shown(table, "s"), Err(SetNameError::Table(_))), "{table:?}");
        }
        for set in ["", "a b", "1a", "a\nb", "}"] {
            assert!(matches!(shown("inet a", set), Err(SetNameError::Set(_))), "{set:?}");
        }
    }

    #[test]
    fn a_comment_is_what_nft_can_show_and_read_again() {
        assert_eq!(Comment::new("door \"x\"\n\\é").as_str(), "door ?x????");
        assert_eq!(Comment::new(&"x".repeat(200)).as_str().len(), 127);
    }

    proptest! {
        #[test]
        fn reading_any_name_is_no_panic(table in ".{0,30}", set in ".{0,30}") {
            let _ = SetRef::parse(&table, &set);
        }
    }
}
