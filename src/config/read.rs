//! Readers of the configuration: from files, in YAML or as classic knockd has them, to the model.

pub mod classic;
pub(crate) mod classic_lines;
mod clients;
mod commands;
mod credentials;
mod datagrams;
mod date;
mod door;
mod files;
mod fleet;
mod forward;
mod hold;
pub mod load;
mod lockout;
mod opening;
mod rotation;
mod sequence;
mod server_key;
mod settings;
mod via;

pub use commands::PATH;
pub(crate) use door::parse_target;
pub use files::{cannot_be_read, list_directory, read_list};
pub use server_key::read_server_key;
