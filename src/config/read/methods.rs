//! The keys of a door that say by which methods it opens.

use super::tree::Mapping;
use crate::proto::Method;

/// The key of a method: its word, but for the sequences of which there are many.
const fn key(method: Method) -> &'static str {
    match method {
        Method::OneTimeSequence => "one_time_sequences",
        other => other.as_str(),
    }
}

/// The keys of all methods: a door has at least one of them.
pub(super) fn keys() -> [&'static str; 5] {
    Method::ALL.map(key)
}

/// Whether anything that opens the door says who knocks.
pub(super) fn has_clients(mapping: &Mapping) -> bool {
    let by_clients = [Method::Totp, Method::Spa, Method::Fwknop];
    by_clients.into_iter().any(|method| mapping.value(key(method)).is_some())
}
