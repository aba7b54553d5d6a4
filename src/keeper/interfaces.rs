//! Interfaces that come and go: what people are told, and when to look again.

use std::collections::HashMap;
use std::time::Duration;

use nix::net::if_::InterfaceFlags;
use tracing::{info, warn};

use crate::config::Config;
use crate::ipc::InterfaceState;
use crate::time::Monotonic;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How each interface fares, as far as people have been told.
#[derive(Default)]
pub(super) struct Interfaces {
    states: HashMap<String, InterfaceState>,
    told: HashMap<String, InterfaceState>,
    next_look: Option<Monotonic>,
    pause: Duration,
}

impl Interfaces {
    /// Takes note of a state; true if it is news.
    pub(super) fn note(&mut self, config: &Config, index: u32, state: InterfaceState) -> bool {
        let Some(name) = config.settings.interfaces.get(index as usize) else { return false };
        self.states.insert(name.clone(), state) != Some(state)
    }

    /// Says what has changed since it was last said, one line an interface.
    pub(super) fn announce(&mut self, config: &Config) {
        let wanted = &config.settings.interfaces;
        self.states.retain(|name, _| wanted.contains(name));
        self.told.retain(|name, _| wanted.contains(name));
        for name in wanted {
            let Some(&state) = self.states.get(name) else { continue };
            let told = self.told.insert(name.clone(), state);
            match (told, state) {
                (told, state) if told == Some(state) => {}
                (None, InterfaceState::Listening) => {}
                (_, InterfaceState::Listening) => info!("{name} is back, listening on it"),
                (_, InterfaceState::Missing) => {
                    warn!("{name} cannot be listened on yet; waiting for it");
                }
                (_, InterfaceState::Gone) => warn!("{name} has gone; waiting for it"),
            }
        }
        if self.missing().next().is_none() {
            self.next_look = None;
        } else if self.next_look.is_none() {
            self.pause = FIRST_PAUSE;
            self.next_look = Some(Monotonic::ZERO);
        }
    }

    fn missing(&self) -> impl Iterator<Item = &String> {
        let missing = self.states.iter().filter(|(_, state)| **state != InterfaceState::Listening);
        missing.map(|(name, _)| name)
    }

    /// Whether an interface that was missing can be looked at again; asks the kernel, but no more
    /// often than the back-off allows.
    pub(super) fn one_is_back(&mut self, now: Monotonic) -> bool {
        if self.next_look.is_none_or(|next| next > now) {
            return false;
        }
        self.next_look = Some(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.missing().any(|name| is_up(name))
    }

    pub(super) const fn next_look(&self) -> Option<Monotonic> {
        self.next_look
    }

    /// What is listened on, and what is waited for.
    pub(super) fn listening(&self, config: &Config) -> (Vec<String>, Vec<String>) {
        let is_listening = |name: &&String| {
            self.states.get(*name).is_some_and(|state| *state == InterfaceState::Listening)
        };
        config.settings.interfaces.iter().cloned().partition(|name| is_listening(&name))
    }
}

/// Whether the kernel knows the interface, and it is up.
fn is_up(name: &str) -> bool {
    nix::ifaddrs::getifaddrs().is_ok_and(|mut addresses| {
        addresses.any(|address| {
            address.interface_name == name && address.flags.contains(InterfaceFlags::IFF_UP)
        })
    })
}
