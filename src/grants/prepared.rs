//! The first half of opening a door: decided, to be recorded, not yet done.

use super::hold::Session;
use super::{Action, Grant, GrantBackend, GrantId, GrantKey, GrantPhase, GrantRecord, Origin};
use crate::time::{BootId, Monotonic, Now, Wall};

/// A grant, or a later deadline, that is decided on. Nothing has happened yet: what is in it can be
/// recorded first, and [`Grants::apply`](super::Grants::apply) then makes it so.
#[must_use]
#[derive(Debug)]
pub struct PreparedGrant {
    pub key: GrantKey,
    pub origin: Origin,
    /// When it would end. What had to close first may have taken longer.
    pub until: Monotonic,
    pub(super) action: Action,
    pub(super) transition: Transition,
}

/// The transition of the grant that there is for its key, or of a new one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Transition {
    Open(GrantId),
    Act,
    Extend(GrantId, Monotonic),
    Wait(GrantId),
}

/// A change that the ledger has to know before it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrantChange {
    Record(GrantRecord),
    Extend(GrantId, Extension),
}

/// A later deadline for an open grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    pub deadline: Monotonic,
    pub until: Wall,
    pub origin: Origin,
}

impl Extension {
    pub(super) fn new(now: Now, deadline: Monotonic, origin: &Origin) -> Self {
        let until = now.wall + deadline.since(now.monotonic);
        Self { deadline, until, origin: origin.clone() }
    }
}

impl PreparedGrant {
    /// What has to be recorded; `None`: it makes no grant, or not yet.
    pub fn change(&self, now: Now, boot: BootId) -> Option<GrantChange> {
        match self.transition {
            Transition::Open(id) => Some(GrantChange::Record(self.grant(id).record(now, boot))),
            Transition::Extend(id, deadline) => {
                Some(GrantChange::Extend(id, Extension::new(now, deadline, &self.origin)))
            }
            Transition::Act | Transition::Wait(_) => None,
        }
    }

    /// Whether the kernel both opens and ends it.
    pub const fn is_the_kernels(&self) -> bool {
        matches!(self.action.backend, GrantBackend::Kernel(_))
    }

    /// When that was asked for.
    pub(super) fn knocked(&self) -> Monotonic {
        self.until - self.action.open_for
    }

    pub(super) fn grant(&self, id: GrantId) -> Grant {
        Grant {
            id,
            key: self.key.clone(),
            origin: self.origin.clone(),
            state: GrantPhase::Starting { was_open: false, again: None },
            deadline: self.until,
            ceiling: self.action.hold.map(|hold| self.knocked() + hold.at_most),
            backend: self.action.backend.clone(),
            session: Session::new(self.knocked()),
            addresses: self.action.addresses,
            is_own: self.action.is_own,
            turn: id.0,
        }
    }
}
