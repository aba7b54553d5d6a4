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

use crate::config::width::WIDTH;

/// Every key that a configuration can have, with the keys above it: `doors.NAME.sequence`.
pub fn keys() -> Vec<String> {
    let tables = [
        ("", &load::TOP),
        ("knockd.", &settings::SETTINGS),
        ("knockd.log.", &settings::LOG),
        ("knockd.track.", &settings::TRACK),
        ("knockd.alert.", &settings::ALERT),
        ("knockd.metrics.", &settings::METRICS),
        ("knockd.fleet.", &fleet::FLEET),
        ("knockd.spa.", &datagrams::SPA),
        ("knockd.fwknop.", &datagrams::FWKNOP),
        ("knockd.lockout.", &lockout::LOCKOUT),
        ("templates.NAME.", &commands::TEMPLATE),
        ("clients.NAME.", &clients::CLIENT),
        ("clients.NAME.width.", &WIDTH),
        ("clients.NAME.totp.", &credentials::TOTP),
        ("clients.NAME.spa.", &credentials::SPA),
        ("clients.NAME.fwknop.", &credentials::FWKNOP),
        ("doors.NAME.", &door::DOOR),
        ("doors.NAME.totp.", &rotation::TOTP),
        ("doors.NAME.forward.", &forward::FORWARD),
        ("doors.NAME.hold.", &hold::HOLD),
        ("doors.NAME.width.", &WIDTH),
        ("doors.NAME.lockout.", &lockout::LOCKOUT),
        ("doors.NAME.via.", &via::VIA),
        ("doors.NAME.via.nft_set.", &via::NFT_SET),
    ];
    tables
        .into_iter()
        .flat_map(|(above, keys)| keys.names().map(move |key| format!("{above}{key}")))
        .collect()
}
