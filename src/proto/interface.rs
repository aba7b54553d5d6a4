//! Names of network interfaces.

use std::borrow::Cow;
use std::str::FromStr;

use derive_more::{Deref, Display};
use serde::{Deserialize, Serialize};

/// A name, or another name, that an interface can have: 1 to 15 bytes; or `any`, which is all.
#[derive(Clone, Debug, Deref, Display, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InterfaceName(#[deref(forward)] Cow<'static, str>);

/// A text that is not the name of an interface, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not the name of an interface: {1}")]
pub struct InterfaceNameError(String, &'static str);

type IsWrong = fn(char) -> bool;

/// What Linux does not take, or takes and hardly anybody means, and what to say of it.
const WRONG: [(IsWrong, &str); 5] = [
    (|c| c == '#', "a comment belongs on a line of its own"),
    (|c| c == ',', "it is several, and each has to be given by itself"),
    (|c| matches!(c, '"' | '\'' | '`'), "quotes are taken as they are here: write it without"),
    (|c| c.is_whitespace() || c.is_control(), "a name has no blanks"),
    (|c| c == '/', "a name has no slash"),
];

impl InterfaceName {
    pub const ANY: Self = Self(Cow::Borrowed("any"));
}

impl FromStr for InterfaceName {
    type Err = InterfaceNameError;

    fn from_str(text: &str) -> Result<Self, InterfaceNameError> {
        let why = match WRONG.iter().find(|(is_wrong, _)| text.contains(is_wrong)) {
            Some((_, why)) => why,
            None if text.len() > 15 => "a name has no more than 15 bytes",
            None if matches!(text, "" | "." | "..") => "write for example eth0, or any for all",
            None => return Ok(Self(text.to_owned().into())),
        };
        Err(InterfaceNameError(text.to_owned(), why))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn why(text: &str) -> &'static str {
        text.parse::<InterfaceName>().unwrap_err().1
    }

    #[test]
    fn names_that_interfaces_have_are_taken() {
        for name in
            ["eth0", "any", "wg-home", "br-0123456789ab", "eth0.100", "eth0:1", "lan@2", "ü"]
        {
            assert_eq!(name.parse::<InterfaceName>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn what_no_interface_can_be_called_is_told_with_the_reason() {
        assert!(why("eth0 # lan").contains("comment"));
        assert!(why("s0, lo").contains("several"));
        assert!(why("\"eth0\"").contains("quotes"));
        assert!(why("eth0 lo").contains("blanks"));
        assert!(why("eth0\0").contains("blanks"));
        assert!(why("net/eth0").contains("slash"));
        assert!(why("abcdefghijklmnop").contains("15 bytes"));
        assert!(why("..").contains("for example eth0"));
        assert!(why("").contains("for example eth0"));
    }

    proptest! {
        #[test]
        fn whatever_is_taken_is_a_name_to_linux(text in "\\PC{0,20}|[a-z.:/ ]{0,17}") {
            if let Ok(name) = text.parse::<InterfaceName>() {
                prop_assert_eq!(name.to_string(), text.clone());
                prop_assert!((1..16).contains(&text.len()) && text != "." && text != "..");
                prop_assert!(!text.contains(|c: char| c == '/' || c.is_whitespace() || c == '\0'));
            }
        }
    }
}
