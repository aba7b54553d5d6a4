//! Sets and what is in them.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use crate::config::{NftFamily, NftName, NftNameError};

/// The number of a family of tables in messages (linux/netfilter.h).
pub(super) const fn number(family: NftFamily) -> u8 {
    match family {
        NftFamily::Inet => 1,
        NftFamily::Ip => 2,
        NftFamily::Ip6 => 10,
    }
}

/// A set in a table: `inet knockd g_ssh_4`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SetRef {
    pub family: NftFamily,
    pub table: NftName,
    pub set: NftName,
}

impl SetRef {
    /// # Errors
    /// When a name is one that nft itself would not take.
    pub fn new(family: NftFamily, table: &str, set: &str) -> Result<Self, NftNameError> {
        Ok(Self { family, table: table.parse()?, set: set.parse()? })
    }
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
    /// The first word of the comments of elements that knockd adds.
    pub const OURS: &str = "knockd";

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

impl Entry {
    /// Whether knockd has added it. An element that does not end is the administrator's, whatever
    /// it says: to add one again without a timeout makes it permanent, under its old comment.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.left.is_some() && self.comment.as_str().split(' ').next() == Some(Comment::OURS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_what_nft_can_show_and_read_again() {
        assert_eq!(Comment::new("door \"x\"\n\\é").as_str(), "door ?x????");
        assert_eq!(Comment::new(&"x".repeat(200)).as_str().len(), 127);
    }

    #[test]
    fn an_element_that_is_permanent_or_says_nothing_of_knockd_is_somebody_elses() {
        let key = Key { address: "192.0.2.2".parse().unwrap(), port: None };
        let entry = |left, comment| Entry { key, left, comment: Comment::new(comment) };
        let timed = Some(Duration::from_secs(9));
        assert!(entry(timed, "knockd ssh sequence").is_ours());
        for (left, comment) in [
            (None, "knockd ssh sequence"),
            (None, ""),
            (timed, ""),
            (timed, "knockdoor"),
            (timed, "me"),
        ] {
            assert!(!entry(left, comment).is_ours(), "{comment}");
        }
    }
}
