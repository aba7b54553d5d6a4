//! Errors of fwknop's requests: why one is refused, and why one cannot be sent.

use super::hash::Hash;
use crate::proto::words::words;

words! {
/// The reason why a datagram asks for nothing that is done here. Names no value from within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum FwknopError {
    #[error(
        "not as long as any request of the clients' can be: cut off, or with another kind of HMAC \
         than theirs, or with none"
    )]
    Length = "fwknop-bad-length",
    #[error("sent over HTTP: only UDP is listened to")]
    Http = "fwknop-http",
    #[error("encrypted with GnuPG: only keys that both sides share are understood")]
    Gnupg = "fwknop-gnupg",
    #[error("not base64")]
    NotBase64 = "fwknop-not-base64",
    #[error("base64 with padding or left-over bits: the copy of a request, altered")]
    NotCanonical = "fwknop-not-canonical",
    #[error("begins with the characters that fwknop cuts off: the copy of a request, altered")]
    Prefix = "fwknop-prefixed",
    #[error("does not begin as fwknop's requests do")]
    NotSalted = "fwknop-not-salted",
    #[error("the HMAC is wrong: another HMAC key or hash, or altered on the way")]
    Hmac = "fwknop-bad-hmac",
    #[error("cannot be decrypted: another key or mode, or an HMAC where none is expected")]
    Undecryptable = "fwknop-undecryptable",
    #[error("the digest within it is wrong")]
    Digest = "fwknop-bad-digest",
    #[error("too few or too many fields")]
    FieldCount = "fwknop-field-count",
    #[error("its random number does not have 16 digits")]
    Random = "fwknop-bad-random",
    #[error("its user name is empty, too long or has a forbidden character")]
    User = "fwknop-bad-user",
    #[error("its time stamp is not a number of seconds")]
    Timestamp = "fwknop-bad-timestamp",
    #[error("its version is empty or too long")]
    Version = "fwknop-bad-version",
    #[error("a type of message that fwknop does not have")]
    Type = "fwknop-bad-type",
    #[error("asks for a command: only ports are opened")]
    Command = "fwknop-command",
    #[error("asks for NAT to a host and port that none of the client's doors forwards to")]
    Nat = "fwknop-nat",
    #[error("asks for local NAT to a port that none of the client's doors forwards to")]
    LocalNat = "fwknop-local-nat",
    #[error("asks for NAT to a host by its name: no name is looked up, so write its address")]
    NatName = "fwknop-nat-name",
    #[error("where to lead is not a host and a port such as 192.0.2.1,22")]
    NatAccess = "fwknop-bad-nat-access",
    #[error("the address to open for is not a plain IPv4 address")]
    Address = "fwknop-bad-address",
    #[error("the ports to open are not a list such as tcp/22,udp/53")]
    Ports = "fwknop-bad-ports",
    #[error("the time to stay open is missing or not 0 to 65536 seconds")]
    Timeout = "fwknop-bad-timeout",
    #[error("its field for a server's password is not base64 or too long")]
    ServerAuth = "fwknop-bad-server-auth",
    #[error("no client sends from this address to this one")]
    Source = "fwknop-source",
    #[error("names another user than the client's")]
    Username = "fwknop-username",
    #[error("the address to open for is not a single host's")]
    ForbiddenAddress = "fwknop-forbidden-address",
    #[error("asks for a port that none of the client's doors opens")]
    NoDoor = "fwknop-no-door",
}
}

impl FwknopError {
    /// Whether, after some keys were tried, nothing proves that it is more than noise.
    pub const fn is_noise(self) -> bool {
        matches!(
            self,
            Self::Length
                | Self::Http
                | Self::Gnupg
                | Self::NotBase64
                | Self::Prefix
                | Self::NotSalted
                | Self::Hmac
                | Self::Undecryptable
                | Self::Source
        )
    }
}

/// The reason why no fwknop server would take a request. Nothing has been sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("no ports to ask for")]
    NoPorts,
    #[error("fwknop's servers take a timeout of at most 65536 seconds, not {0}")]
    Timeout(u32),
    #[error("fwknop's servers understand no time after 2038-01-19: the clock says {0}")]
    Timestamp(u64),
    #[error(
        "the encryption key and the HMAC key are the same: fwknop takes them only if they differ"
    )]
    SameKeys,
    #[error(
        "the request is too long: with {}, a fwknop server takes {most} bytes, and these are {length}: \
         ask for fewer ports at once, or use a shorter user name",
        describe(*.hmac)
    )]
    TooLong { length: usize, most: usize, hmac: Option<Hash> },
    #[error("the request is too short for a fwknop server: use a longer digest")]
    TooShort,
}

fn describe(hmac: Option<Hash>) -> String {
    hmac.map_or_else(|| "no HMAC".to_owned(), |hash| format!("an HMAC of type {hash}"))
}

/// The reason why bytes are no key that fwknop could use. Shows none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FwknopKeyError {
    #[error("the key is empty")]
    Empty,
    #[error("invalid key length: {length} bytes, where fwknop takes {most} at most")]
    TooLong { length: usize, most: usize },
    #[error("the key is not base64")]
    NotBase64,
    #[error("the key still is the placeholder __CHANGEME__: write a key of your own")]
    Placeholder,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_a_word_and_a_sentence_of_its_own() {
        let words: BTreeSet<_> = FwknopError::ALL.iter().map(|error| error.as_str()).collect();
        let texts: BTreeSet<_> = FwknopError::ALL.iter().map(ToString::to_string).collect();
        assert_eq!((words.len(), texts.len()), (FwknopError::ALL.len(), FwknopError::ALL.len()));
        assert!(words.iter().all(|word| word.starts_with("fwknop-")));
    }
}
