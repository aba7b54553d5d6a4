//! Interfaces that come, go and change their names: how each fares, and when to look again.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::net::if_::InterfaceFlags;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::ipc::InterfaceState::{self, Gone, Listening, Missing};
use crate::proto::InterfaceName;
use crate::sys::changes::{Changes, LINKS};
use crate::sys::host;
use crate::time::Monotonic;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// After so long without a look the pauses are short again.
const STEADY: Duration = Duration::from_secs(60);

/// The state of each interface, as far as people have been told.
#[derive(Default)]
pub(super) struct Interfaces {
    states: HashMap<InterfaceName, InterfaceState>,
    told: HashMap<InterfaceName, InterfaceState>,
    pub(super) next_look: Option<Monotonic>,
    pause: Duration,
    /// When the next look may be: a watcher that says again and again that one has gone causes no
    /// more of them.
    look_from: Monotonic,
    /// `None`: the kernel does not tell, so what is missing is looked for now and then.
    changes: Option<Changes>,
}

impl Interfaces {
    pub(super) fn follow() -> Self {
        let changes = Changes::follow(LINKS).ok();
        Self { changes, pause: FIRST_PAUSE, ..Self::default() }
    }

    /// Takes note of a state; true if it is news.
    pub(super) fn note(&mut self, config: &Config, index: u32, state: InterfaceState) -> bool {
        let Some(name) = config.settings.interfaces.get(index as usize) else { return false };
        self.states.insert(name.clone(), state) != Some(state)
    }

    /// Says what has changed since it was last said, one line an interface, and one more where none
    /// is left.
    pub(super) fn announce(&mut self, config: &Config) {
        let wanted = &config.settings.interfaces;
        let heard = |all: &HashMap<_, _>| all.is_empty() || all.values().any(|it| *it == Listening);
        self.states.retain(|name, _| wanted.contains(name));
        self.told.retain(|name, _| wanted.contains(name));
        let was_heard = heard(&self.told);
        for name in wanted {
            let Some(&state) = self.states.get(name) else { continue };
            let told = self.told.insert(name.clone(), state);
            match (told, state) {
                (told, state) if told == Some(state) => {}
                (None, Listening) | (Some(Gone), Missing) => {}
                (_, Listening) => info!("{name} is back, listening on it"),
                (_, Gone) | (Some(Listening), _) => warn!("{name} has gone; waiting for it"),
                (_, Missing) => warn!("{name} cannot be listened on yet; waiting for it"),
            }
        }
        if was_heard && !heard(&self.told) {
            error!("listening on nothing: nobody can knock, and the guarded ports stay locked");
        }
        let is_missing = self.missing().next().is_some();
        self.next_look = is_missing.then(|| self.next_look.unwrap_or(self.look_from));
    }

    fn missing(&self) -> impl Iterator<Item = &InterfaceName> {
        let missing = self.states.iter().filter(|(_, state)| **state != Listening);
        missing.map(|(name, _)| name)
    }

    /// Whether a name that is listened on is another interface's now, or nobody's: libpcap goes on
    /// with the one that had it. `listened` are the numbers of those that had the names.
    pub(super) fn have_moved(&mut self, listened: &[(InterfaceName, Option<u32>)]) -> bool {
        if !self.changes.as_ref().is_some_and(Changes::have_come) {
            return false;
        }
        // One that is waited for may be there.
        self.next_look = self.next_look.map(|_| Monotonic::ZERO);
        let mut moved = false;
        for (name, had) in listened {
            let now = host::index(name);
            let is_heard = self.states.get(name) == Some(&Listening);
            // The watcher tells of one that has been deleted.
            if is_heard && now != *had && now.or(*had).and_then(host::name_of).is_some() {
                info!("{name} is not the interface that it was");
                moved = true;
            }
        }
        moved
    }

    /// Whether an interface that was missing can be looked at again; asks the kernel, but no more
    /// often than the back-off allows.
    pub(super) fn one_is_back(&mut self, now: Monotonic) -> bool {
        if self.next_look.is_none_or(|next| next > now) {
            return false;
        }
        if now.since(self.look_from) >= STEADY {
            self.pause = FIRST_PAUSE;
        }
        self.look_from = now + self.pause;
        self.next_look = Some(self.look_from);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.missing().any(|name| host::has(name, InterfaceFlags::IFF_UP))
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.changes.as_ref().map(|changes| changes.as_fd())
    }

    /// What is listened on, and what is waited for.
    pub(super) fn listening(&self, config: &Config) -> (Vec<String>, Vec<String>) {
        let all = config.settings.interfaces.iter();
        let (on, off): (Vec<_>, Vec<_>) =
            all.partition(|name| self.states.get(*name) == Some(&Listening));
        let names = |list: Vec<&InterfaceName>| list.into_iter().map(ToString::to_string).collect();
        (names(on), names(off))
    }
}
