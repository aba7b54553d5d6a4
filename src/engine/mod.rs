//! The pure core of the watcher: `(now, packet) -> Verdict`.
#![forbid(unsafe_code)]

mod verdict;

pub use verdict::{DoorId, Event, EventKind, Reason, Verdict};
