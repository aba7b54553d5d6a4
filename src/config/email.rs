//! Mail addresses for what is told about doors.

use std::str::FromStr;

use derive_more::Display;

/// A mail address, or the name of a local mailbox such as `root`.
///
/// Safe as an argument and in a header: of letters, digits and `._+%='~@-` alone, and it does not
/// begin with `-`. At most 254 bytes (RFC 5321, 4.5.3.1.3).
#[derive(Clone, Debug, Display, PartialEq, Eq)]
pub struct Email(String);

/// The text is no mail address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a mail address: write for example admin@example.com, or root")]
pub struct EmailError(String);

impl FromStr for Email {
    type Err = EmailError;

    fn from_str(text: &str) -> Result<Self, EmailError> {
        let (mailbox, domain) = text.split_once('@').unzip();
        let mailbox = mailbox.unwrap_or(text);
        let is_of = |text: &str, marks: &[u8]| {
            text.bytes().all(|byte| byte.is_ascii_alphanumeric() || marks.contains(&byte))
        };
        let atoms = mailbox.split('.').all(|atom| !atom.is_empty() && is_of(atom, b"_+%='~-"));
        let labels = domain.is_none_or(|domain| {
            domain
                .split('.')
                .all(|label| !label.is_empty() && is_of(label, b"-") && !label.starts_with('-'))
        });
        let is_one = atoms && labels && !mailbox.starts_with('-') && text.len() <= 254;
        is_one.then(|| Self(text.to_owned())).ok_or_else(|| EmailError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_and_local_mailboxes_are_taken() {
        for text in ["root", "admin@example.com", "o'neil+door.22@mx-1.example.com", "a@localhost"]
        {
            assert_eq!(text.parse::<Email>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_would_be_more_than_an_address_is_refused() {
        for text in [
            "",
            "-oQ/tmp",
            "a b@example.com",
            "a@example.com,b@example.com",
            "Admin <a@example.com>",
            "a@b@c",
            "a@-x",
            "|/bin/sh",
            "/dev/null",
            "a..b@example.com",
            "a@",
            "@example.com",
            "a@example.com\nBcc: b@example.com",
        ] {
            assert!(text.parse::<Email>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_is_printable_and_no_option(text in ".{0,40}") {
            if let Ok(email) = text.parse::<Email>() {
                prop_assert!(email.0.bytes().all(|byte| byte.is_ascii_graphic()));
                prop_assert!(!email.0.starts_with('-'));
            }
        }
    }
}
