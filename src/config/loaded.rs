//! A configuration with its warnings, and where its parts are written.

use std::collections::HashMap;
use std::path::PathBuf;

use super::diagnostic::{Diagnostic, Place};
use super::{Client, ClientPlaces, Config, Door, DoorPlaces, Settings};

/// A configuration that can be used, and what is doubtful about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<Diagnostic>,
    pub places: Places,
    /// The files from which secrets of clients were read.
    pub secret_files: Vec<PathBuf>,
}

impl Loaded {
    /// Puts doors and clients in order; `places` lacks theirs. There are no warnings yet.
    pub(super) fn new(
        settings: Settings,
        places: Places,
        mut doors: Vec<(Door, DoorPlaces)>,
        mut clients: Vec<(Client, ClientPlaces)>,
    ) -> Self {
        doors.sort_by(|(one, _), (other, _)| one.name().cmp(other.name()));
        clients.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
        let (doors, door_places) = doors.into_iter().unzip();
        let (clients, client_places) = clients.into_iter().unzip();
        let places = Places { doors: door_places, clients: client_places, ..places };
        let config = Config { settings, doors, clients };
        Self { config, warnings: Vec::new(), places, secret_files: Vec::new() }
    }
}

/// The places where the parts of a configuration are written.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// One for each interface that is named.
    pub interfaces: Vec<Place>,
    /// What each key of `knockd` says.
    pub settings: HashMap<String, Place>,
    /// One for each door, in the same order.
    pub doors: Vec<DoorPlaces>,
    /// One for each client, in the same order.
    pub clients: Vec<ClientPlaces>,
}
