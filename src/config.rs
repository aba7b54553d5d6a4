//! The configuration: what an administrator wrote, checked once, here.
//!
//! What comes out of [`load::load`] is valid; nothing past this module checks it again.

mod access;
mod client;
mod clients;
mod commands;
mod credentials;
mod datagrams;
pub mod diagnostic;
mod door;
mod email;
mod files;
mod how;
pub mod knockd_conf;
pub mod lint;
pub mod load;
mod lockout;
mod moment;
pub(crate) mod names;
pub mod one_time;
mod opening;
pub mod raw;
mod rotation;
pub(crate) mod sections;
mod sequence;
mod server_key;
mod settings;
pub mod sleeps;
mod template;
pub mod trusted_path;
mod via;
pub mod watch;
mod yaml;

pub use crate::proto::name::{Name, NameError};
pub use client::{AddressPolicy, Client, FwknopClient, SpaClient, TotpClient};
pub use clients::ClientPlaces;
pub use commands::PATH;
pub use datagrams::{Fwknop, Spa};
#[cfg(feature = "daemon")]
pub(crate) use door::parse_target;
pub use door::{Door, DoorPlaces, OneTime, Recognition};
pub use email::{Email, EmailError};
pub(crate) use files::{OTHERS_WRITE, unsafe_to_use};
pub use files::{cannot_be_read, read_list};
pub use how::{How, NftFamily, NftName, NftNameError, NftSet};
pub use lockout::Lockout;
pub use opening::Opening;
#[cfg(feature = "daemon")]
pub(crate) use sequence::MAX_KNOCKS;
pub use server_key::read_server_key;
pub use settings::{COMMAND_LIMIT, Log, LogFormat, LogLevel, OnExit, Settings};
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

impl Config {
    /// The index of a door.
    pub fn place_of(&self, door: &Name) -> Option<usize> {
        self.doors.binary_search_by_key(&door, Door::name).ok()
    }

    pub fn door(&self, name: &Name) -> Option<&Door> {
        self.doors.get(self.place_of(name)?)
    }

    pub fn client(&self, name: &Name) -> Option<&Client> {
        let place = self.clients.binary_search_by_key(&name, |client| &client.name).ok()?;
        self.clients.get(place)
    }
}

/// Every key that a configuration can have, with the keys above it: `doors.NAME.sequence`.
pub fn keys() -> Vec<String> {
    let tables = [
        ("", &load::TOP),
        ("knockd.", &settings::SETTINGS),
        ("knockd.log.", &settings::LOG),
        ("knockd.track.", &settings::TRACK),
        ("knockd.alert.", &settings::ALERT),
        ("knockd.spa.", &datagrams::SPA),
        ("knockd.fwknop.", &datagrams::FWKNOP),
        ("knockd.lockout.", &lockout::LOCKOUT),
        ("templates.NAME.", &commands::TEMPLATE),
        ("clients.NAME.", &clients::CLIENT),
        ("clients.NAME.totp.", &credentials::TOTP),
        ("clients.NAME.spa.", &credentials::SPA),
        ("clients.NAME.fwknop.", &credentials::FWKNOP),
        ("doors.NAME.", &door::DOOR),
        ("doors.NAME.totp.", &rotation::TOTP),
        ("doors.NAME.lockout.", &lockout::LOCKOUT),
        ("doors.NAME.via.", &via::VIA),
        ("doors.NAME.via.nft_set.", &via::NFT_SET),
    ];
    tables
        .into_iter()
        .flat_map(|(above, keys)| keys.known.iter().map(move |key| format!("{above}{key}")))
        .collect()
}
