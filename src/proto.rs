//! The ground that client and daemon share: knocks, networks, ports, and proofs of who knocks.

pub mod duration;
pub mod flags;
pub mod fwknop;
pub mod interface;
pub mod knock;
pub mod method;
pub mod name;
pub mod network;
pub mod port_range;
pub mod ports;
pub mod secret;
pub mod spa;
pub mod totp;
pub(crate) mod words;
