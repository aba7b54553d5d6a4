//! What needs neither programs nor the system: the core under virtual time, the model of the
//! configuration, and the source and its manual pages as texts.

mod config_model;
mod docs;
mod layers;
mod link;
#[allow(unsafe_code, reason = "an allocator is")]
mod memory;
mod simulation;
mod simulation_totp;
