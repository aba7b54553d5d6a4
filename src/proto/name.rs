//! Names of doors, clients and templates.

use std::str::FromStr;
use std::sync::Arc;

use derive_more::Display;
use serde_with::{DeserializeFromStr, SerializeDisplay};

/// A name of 1 to 32 of the characters `A-Z a-z 0-9 _ . -`: safe in logs, commands and file names.
#[derive(Clone, Debug, Display, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[display("{_0}")]
#[derive(SerializeDisplay, DeserializeFromStr)]
pub struct Name(Arc<str>);

impl Name {
    /// The name that is nearest to a text that may be none.
    pub fn closest(text: &str) -> Self {
        let valid = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let name: String = text.chars().map(|c| if valid(c) { c } else { '_' }).take(32).collect();
        Self(if name.is_empty() { "_".into() } else { name.into() })
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name is 1 to 32 of the characters A-Z a-z 0-9 _ . -")]
pub struct NameError;

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let closest = Self::closest(text);
        if closest.as_str() == text { Ok(closest) } else { Err(NameError) }
    }
}
