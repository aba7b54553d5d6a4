//! Command lines, error texts and shipped files: the programs as a person meets them.

#[cfg(feature = "daemon")]
mod check;
mod client;
mod config_client_errors;
mod config_errors;
mod config_fleet_errors;
#[cfg(feature = "daemon")]
mod enroll;
#[cfg(feature = "daemon")]
mod explain;
#[cfg(feature = "daemon")]
mod fwknop_import;
#[cfg(feature = "daemon")]
mod import;
#[cfg(feature = "daemon")]
mod init;
#[cfg(feature = "daemon")]
mod install;
mod knock;
mod knock_import;
mod knock_modes;
mod knock_proxy;
mod knock_routes;
mod knock_stay;
#[cfg(feature = "daemon")]
mod knockctl;
#[cfg(feature = "daemon")]
mod output;
#[cfg(feature = "daemon")]
mod page;
mod shipped_config;

#[cfg(feature = "daemon")]
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "what only the tests between namespaces need")]
mod support;
