//! Types that are written by their word in JSON.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::GrantCondition;
use crate::engine::Reason;
use crate::grants::OpenedBy;
use crate::proto::method::Method;

/// For each type how its word is made, and read.
macro_rules! by_word {
    ($($name:ty: $word:expr, $read:expr;)+) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&$word(self))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let word = String::deserialize(deserializer)?;
                $read(&word).ok_or_else(|| D::Error::custom(format!("'{word}' is not known")))
            }
        }
    )+};
}

by_word! {
    OpenedBy: Self::to_string, |word: &str| word.parse().ok();
    GrantCondition: Self::to_string, |word: &str| word.parse().ok();
    Method: Self::to_string, |word: &str| word.parse().ok();
    Reason: |reason: &Self| reason.as_str(), Self::of_word;
}
