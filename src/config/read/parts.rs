//! The parts of a configuration, before they are put in order.

use crate::config::{Client, ClientPlaces, Door, DoorPlaces, Places, Settings};

/// What the text of a configuration says, with its places; doors and clients are in any order.
pub(super) struct Parts {
    pub settings: Settings,
    /// But for those of doors and clients.
    pub places: Places,
    pub doors: Vec<(Door, DoorPlaces)>,
    pub clients: Vec<(Client, ClientPlaces)>,
}
