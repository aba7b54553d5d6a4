//! The methods of asking a door to open.

use serde_with::{DeserializeFromStr, SerializeDisplay};

use super::words::words;

words! {
FromStr:
/// A method of asking a door to open, by its word in JSON and in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[derive(SerializeDisplay, DeserializeFromStr)]
pub enum Method {
    /// Knocks that are always the same.
    Sequence = "sequence",
    /// Knocks of which each sequence is good once.
    OneTimeSequence = "one_time_sequence",
    /// Knocks that rotate with time.
    Totp = "totp",
    /// One authenticated datagram.
    Spa = "spa",
    /// One datagram of fwknop's.
    Fwknop = "fwknop",
}
}
