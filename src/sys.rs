//! The operating system: clocks, privileges, processes, descriptors. `unsafe` lives here alone.
#![allow(unsafe_code, reason = "the one module that may")]

pub mod clock;
pub mod command_table;
pub mod fault;
pub mod files;
pub mod host;
pub mod lock_file;
pub mod memory;
pub mod privileges;
pub mod process;
pub mod signals;
pub mod turns;
