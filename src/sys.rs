//! The operating system: clocks, privileges, processes, descriptors. `unsafe` lives here alone.
#![allow(unsafe_code, reason = "the one module that may")]

#[cfg(any(windows, test))]
pub(crate) mod access;
#[cfg(feature = "daemon")]
pub(crate) mod capabilities;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) mod changes;
pub mod clock;
#[cfg(feature = "daemon")]
pub(crate) mod command_table;
#[cfg(feature = "daemon")]
pub mod descriptors;
pub mod fault;
pub mod files;
#[cfg(feature = "daemon")]
pub(crate) mod host;
#[cfg(feature = "daemon")]
pub(crate) mod landlock;
#[cfg(feature = "daemon")]
pub(crate) mod lock_file;
#[cfg(feature = "daemon")]
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
#[cfg(windows)]
pub(crate) mod windows;
