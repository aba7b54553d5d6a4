//! The state of a fleet, as one of its gateways sees it.

use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay, skip_serializing_none};

use crate::config::Name;
use crate::proto::words::words;

words! {
FromStr:
/// The state of a gateway in its fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[derive(SerializeDisplay, DeserializeFromStr)]
pub enum FleetState {
    /// The store says what has been used up.
    Joined = "joined",
    /// The store is not to be had: this gateway's ledger decides alone.
    Alone = "alone",
    /// The store is not to be had: what has a proof is refused.
    Refusing = "refusing",
}
}

/// What ties a gateway to its fleet.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FleetLink {
    /// This gateway's name in the fleet.
    pub name: Name,
    /// Where the store is, for people.
    pub store: String,
    pub state: FleetState,
    /// In seconds since 1970-01-01 UTC.
    pub since: f64,
    /// Why it has not joined.
    pub why: Option<String>,
}

/// A fleet, its store and what is on the way there.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FleetStatus {
    #[serde(flatten)]
    pub link: FleetLink,
    /// What becomes of requests while the store is lost, by its word in the configuration.
    pub when_lost: String,
    /// The longest time that a request waits for the store.
    pub wait_seconds: f64,
    /// Those that have been heard of in the last day, this one too.
    pub gateways: Vec<GatewayStatus>,
    /// Those of this gateway that are the fleet's.
    pub doors: Vec<Name>,
    /// How many entries the store keeps, and how many stamps, as far as that is known.
    pub kept: Option<u64>,
    pub stamps: Option<u64>,
    /// How long the latest word took to the store and back.
    pub lag_seconds: Option<f64>,
    /// How many entries have not reached the store yet.
    pub unsent: usize,
    /// How many requests were decided without the store, since the start.
    pub alone: u64,
    /// Whether another gateway has this one's name.
    pub namesake: bool,
}

/// A gateway, as it spoke of itself last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatewayStatus {
    pub gateway: Name,
    pub version: String,
    pub heard_seconds_ago: f64,
    pub lag_seconds: f64,
    /// How many doors of the fleet are open there.
    pub open: u64,
    pub is_this: bool,
}
