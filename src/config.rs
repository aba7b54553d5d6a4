//! The configuration: what an administrator wrote, checked once, here.
//!
//! The model stands in this folder, what reads it in `read`, what doubts it in `lint`. What comes
//! out of [`load::load`] is valid; nothing past this module checks it again. What the client reads its
//! own files with is here too: all else is the daemon's.

pub mod diagnostic;
pub mod one_time;
#[cfg(unix)]
mod permissions;
pub(crate) mod tree;
pub(crate) mod width;
pub(crate) mod yaml;
pub(crate) mod yaml_writer;

cfg_if::cfg_if! {
    if #[cfg(feature = "daemon")] {
        mod client;
        mod datagrams;
        mod door;
        mod email;
        mod fleet;
        pub mod lint;
        mod loaded;
        mod lockout;
        mod mechanism;
        pub(crate) mod names;
        mod opening;
        mod read;
        mod settings;
        pub(crate) mod sleeps;
        mod template;
        pub(crate) mod trusted_path;
        pub mod watch;
    }
}

pub use crate::proto::Family;
pub use crate::proto::name::{Name, NameError};
pub use diagnostic::{Diagnosed, Diagnostic, Place, Problems, SourceText};
#[cfg(unix)]
pub use permissions::Options;
#[cfg(unix)]
pub(crate) use permissions::{OTHERS_WRITE, unsafe_to_use};

#[cfg(feature = "daemon")]
pub use self::{
    client::{AddressPolicy, Client, ClientPlaces, FwknopClient, SpaClient, TotpClient},
    datagrams::{FwknopSettings, SpaSettings},
    door::{Door, DoorPlaces, OneTime, Recognition},
    email::{Email, EmailError},
    fleet::{FleetSettings, Store, StoreAddress, WhenLost},
    loaded::{Loaded, Places},
    lockout::Lockout,
    mechanism::{Mechanism, NftFamily, NftName, NftNameError, NftSet, SetRef},
    opening::{Forward, Hold, Opening},
    read::{PATH, cannot_be_read, classic, list_directory, load, read_list, read_server_key},
    settings::{
        COMMAND_LIMIT, Directories, GuardMode, Log, LogFormat, LogLevel, MetricsSocket,
        NewPrivileges, OnExit, SandboxMode, Settings,
    },
    template::{Command, CommandText, Commands, Hole, Holes, Pair, Rendered, TextError},
};
#[cfg(feature = "daemon")]
pub(crate) use read::{classic_lines, parse_target};

/// A whole configuration.
#[cfg(feature = "daemon")]
#[derive(Clone, Debug)]
pub struct Config {
    pub settings: Settings,
    /// In the order of their names. The place of a door in it is its index everywhere else.
    pub doors: Vec<Door>,
    /// In the order of their names, likewise.
    pub clients: Vec<Client>,
}

#[cfg(feature = "daemon")]
impl Config {
    /// The index of a door.
    pub fn place_of(&self, door: &Name) -> Option<usize> {
        self.doors.binary_search_by_key(&door, Door::name).ok()
    }

    /// The door of this name.
    pub fn door(&self, name: &Name) -> Option<&Door> {
        self.doors.get(self.place_of(name)?)
    }

    /// Has the guard lock a door that only observes.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn lock(&mut self, name: &Name) -> Result<(), String> {
        let place = self.place_of(name).ok_or_else(|| format!("there is no door '{name}'"))?;
        let opening = &mut self.doors[place].opening;
        if opening.is_locked() {
            return Err(format!("door '{name}' is locked already"));
        }
        if opening.ports.is_empty() && !opening.forwards.is_empty() {
            return Err(format!("door '{name}' only forwards: it has no port to lock"));
        }
        if !opening.is_observed() {
            let via = &opening.mechanism;
            return Err(format!(
                "door '{name}' is opened via {via}, and only the guard locks doors"
            ));
        }
        opening.guard = GuardMode::Lock;
        Ok(())
    }

    /// The client of this name.
    pub fn client(&self, name: &Name) -> Option<&Client> {
        self.clients.get(self.clients.binary_search_by_key(&name, |client| &client.name).ok()?)
    }
}
