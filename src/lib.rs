//! Port knocking: the library behind `knock`, `knockd`, `knockctl` and `knock-courier`.
//!
//! The layers, each importing only from those below it and from the left in its own row:
//!
//! ```text
//! bin              knock · knockd · knockctl · knock-courier
//! client  watcher  courier  keeper  ctl    the shells: sockets, processes, files, clocks
//! control  ipc  log                        what the shells share
//! sys  firewall  ledger  capture           one outside thing each; `sys` alone may hold `unsafe`
//! engine  grants  fleet                    pure: (now, input) -> decision
//! proto  wire  config                      pure but for config's file reading
//! time                                     Now { monotonic, wall }: passed in, never asked for
//! ```

pub mod client;
#[cfg_attr(not(feature = "daemon"), allow(dead_code, reason = "the client reads less with it"))]
pub mod config;
pub mod proto;
pub mod sys;
pub mod time;

#[cfg(feature = "fleet")]
pub mod courier;

cfg_if::cfg_if! {
    if #[cfg(feature = "daemon")] {
        pub mod capture;
        pub mod control;
        pub mod ctl;
        pub mod engine;
        pub mod firewall;
        pub mod fleet;
        pub mod grants;
        pub mod ipc;
        pub mod keeper;
        pub mod ledger;
        mod log;
        pub mod watcher;
        pub mod wire;
    }
}
