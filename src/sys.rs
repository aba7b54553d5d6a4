//! The operating system: clocks, privileges, processes, descriptors. `unsafe` lives here alone.
#![allow(unsafe_code, reason = "the one module that may")]

#[cfg(any(windows, test))]
pub(crate) mod access;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) mod changes;
pub mod clock;
pub mod fault;
pub mod files;
#[cfg(windows)]
pub(crate) mod windows;

cfg_if::cfg_if! {
    if #[cfg(feature = "daemon")] {
        pub(crate) mod capabilities;
        pub(crate) mod command_table;
        pub mod descriptors;
        pub(crate) mod host;
        pub(crate) mod landlock;
        pub(crate) mod lock_file;
        pub(crate) mod memory;
        pub(crate) mod privileges;
        pub mod process;
        pub(crate) mod sandbox;
        pub mod scheduling;
        pub(crate) mod seccomp;
        pub(crate) mod signals;
    }
}
