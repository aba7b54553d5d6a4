//! The firewall: the guard's table, sets of nftables, and commands, which open and close doors.

pub(crate) mod command;
pub(crate) mod connections;
pub mod cut;
pub mod guard;
pub mod netlink;
pub mod nft_set;
pub mod ruleset;
