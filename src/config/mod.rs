//! The configuration: what an administrator wrote, checked once, here.
//!
//! What comes out of [`load::load`] is valid; nothing past this module checks it again.
#![forbid(unsafe_code)]

mod client;
mod commands;
pub mod diagnostic;
mod door;
mod email;
mod files;
mod how;
pub mod knockd_conf;
pub mod lint;
pub mod load;
pub mod one_time;
mod opening;
pub mod raw;
mod sections;
mod settings;
mod template;
mod via;
pub mod watch;
mod yaml;

pub use crate::proto::name::{Name, NameError};
pub use client::{AddressPolicy, Client, FwknopClient, SpaClient, TotpClient};
pub use commands::PATH;
pub use door::{Door, DoorPlaces, Recognition};
pub use email::{Email, EmailError};
pub use how::{How, NftFamily, NftName, NftNameError, NftSet};
pub use opening::Opening;
pub use settings::{Fwknop, Lockout, Log, LogFormat, LogLevel, OnExit, Settings, Spa};
pub use template::{
    Command, CommandText, Commands, Family, Hole, Holes, Pair, Rendered, TextError,
};

/// A whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub settings: Settings,
    /// In the order of their names. The place of a door in it is its index everywhere else.
    pub doors: Vec<Door>,
    /// Likewise.
    pub clients: Vec<Client>,
}

/// Every key that a configuration can have, with the keys above it: `doors.NAME.sequence`.
#[must_use]
pub fn keys() -> Vec<String> {
    let tables = [
        ("", &load::TOP),
        ("knockd.", &settings::SETTINGS),
        ("knockd.log.", &settings::LOG),
        ("knockd.track.", &settings::TRACK),
        ("templates.NAME.", &commands::TEMPLATE),
        ("knockd.alert.", &settings::ALERT),
        ("doors.NAME.", &door::DOOR),
        ("doors.NAME.via.", &via::VIA),
        ("doors.NAME.via.nft_set.", &via::NFT_SET),
    ];
    tables
        .into_iter()
        .flat_map(|(above, keys)| keys.known.iter().map(move |key| format!("{above}{key}")))
        .collect()
}
