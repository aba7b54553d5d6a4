//! The operating system: clocks, privileges, processes, descriptors. `unsafe` lives here alone.
#![allow(unsafe_code, reason = "the one module that may")]

#[cfg(feature = "daemon")]
pub(crate) mod capabilities;
pub mod clock;
#[cfg(feature = "daemon")]
pub(crate) mod command_table;
pub mod fault;
pub mod files;
pub(crate) mod host;
#[cfg(feature = "daemon")]
pub(crate) mod landlock;
#[cfg(feature = "daemon")]
pub(crate) mod lock_file;
pub(crate) mod memory;
#[cfg(feature = "daemon")]
pub(crate) mod privileges;
#[cfg(feature = "daemon")]
pub mod process;
#[cfg(feature = "daemon")]
pub(crate) mod sandbox;
#[cfg(feature = "daemon")]
pub mod scheduling;
#[cfg(feature = "daemon")]
pub(crate) mod seccomp;
#[cfg(feature = "daemon")]
pub(crate) mod signals;
#[cfg(feature = "daemon")]
pub(crate) mod socket_filter;
