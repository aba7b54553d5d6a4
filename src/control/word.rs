//! Types that are written by their word in JSON.

use super::GrantCondition;
use crate::engine::Reason;
use crate::grants::OpenedBy;
use crate::proto::method::Method;
use crate::proto::words::{UnknownWord, serde_as_text};

serde_as_text! {
    OpenedBy: Self::to_string, str::parse;
    GrantCondition: Self::to_string, str::parse;
    Method: Self::to_string, str::parse;
    Reason: |reason: &Self| reason.as_str(), |word: &str| {
        Self::of_word(word).ok_or_else(|| UnknownWord(word.to_owned(), "is not known"))
    };
}
