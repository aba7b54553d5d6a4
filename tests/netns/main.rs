//! Daemons, firewalls and other people's programs, between network namespaces.
//!
//! Needs root, and for some tests programs: what cannot run says `SKIPPED:` on standard error.

mod abuse;
mod alerts;
mod clock;
mod containers;
mod control;
mod courier;
mod crash;
mod cut;
mod daemon;
mod end_to_end;
mod exhaustion;
mod faults;
#[cfg(feature = "fleet")]
mod fleet;
mod flooded_socket;
mod floods;
mod forward;
mod fwknop;
mod fwknop_client;
mod fwknop_nat;
mod guard;
mod guard_daemon;
mod guard_fixture;
mod guard_hold;
mod guard_model;
mod guard_networks;
mod guard_packets;
mod hold;
mod idle;
mod import_end_to_end;
mod interfaces;
mod knock_routes;
mod ledger;
mod life;
mod lock_only;
mod lying_watcher;
mod metrics;
mod networks;
mod observe;
mod one_time;
mod page;
mod pages;
mod privileges;
mod sandbox;
mod service;
mod spa;
mod ssh;
mod start;
mod stay;
mod syslog;
mod templates;
mod totp;
mod tracked;
mod unseen;
mod windows;

#[path = "../support/mod.rs"]
mod support;
