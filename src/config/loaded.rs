//! A configuration with its warnings, and where its parts are written.

use std::collections::HashMap;

use super::Config;
use super::client::ClientPlaces;
use super::diagnostic::{Diagnostic, Place};
use super::door::DoorPlaces;

/// A configuration that can be used, and what is doubtful about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<Diagnostic>,
    pub places: Places,
}

/// Where the parts of a configuration are written.
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
