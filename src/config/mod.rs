//! The configuration: what an administrator wrote, checked once, here.
//!
//! What comes out of [`load`] is valid; nothing past this module checks it again.
#![forbid(unsafe_code)]

pub mod diagnostic;
mod door;
pub mod load;
mod name;
pub mod raw;
mod settings;
mod template;
pub mod watch;

use std::collections::BTreeMap;

pub use door::{Door, Opening, Recognition};
pub use name::{Name, NameError};
pub use settings::{Log, LogFormat, LogLevel, Settings};
pub use template::{
    Command, CommandText, Commands, Family, Hole, Holes, Pair, Rendered, TextError,
};

/// A whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub settings: Settings,
    /// In the order of their names. The place of a door in it is its index everywhere else.
    pub doors: Vec<Door>,
    /// The client and the doors that are its.
    pub clients: BTreeMap<Name, Client>,
}

/// A named holder of credentials.
#[derive(Clone, Debug)]
pub struct Client {
    pub doors: Vec<Name>,
}
