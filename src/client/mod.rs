//! `knock`: the client.
#![forbid(unsafe_code)]
