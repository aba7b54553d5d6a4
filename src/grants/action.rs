//! The action of a door, rendered for one address.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{GrantBackend, GrantKey, KernelElement};
use crate::config::{Command, Door, Family, Hold, Holes, Mechanism, Name, Opening, Rendered};
use crate::engine::Reason;

/// The action of a door for one address: what opening it does, ready to be done.
///
/// The close commands are rendered with the open commands, so a later change of configuration
/// cannot alter them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    pub backend: GrantBackend,
    pub open_for: Duration,
    /// By commands of the door's own: one that fails may have opened, and is closed at its time.
    pub is_own: bool,
    /// How it follows the session that it lets in, if it does.
    pub hold: Option<Hold>,
    /// How many grants the door may have.
    pub most: usize,
    /// How many addresses of one family its client may have open there.
    pub addresses: Option<NonZeroUsize>,
    /// How long after it the door does nothing more.
    pub cooldown: Duration,
}

/// A command that opens and the one that closes what it opened, rendered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandPair {
    pub open: Rendered,
    pub close: Option<Rendered>,
    /// Exits 0 while what `open` did is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Rendered>,
    /// `open` is told for how long: what it opens ends by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_timed: bool,
}

impl Action {
    /// What opening `door` for `key` does, for this long or as long as the door says.
    ///
    /// # Errors
    /// [`Reason::NoCommand`] when nothing opens the door for the family of the address,
    /// [`Reason::Width`] when it is open for single addresses alone,
    /// [`Reason::SourcePort`] when it cannot be opened for one source port only.
    pub fn of(
        door: &Door,
        key: &GrantKey,
        client: Option<&Name>,
        open_for: Option<Duration>,
    ) -> Result<Self, Reason> {
        let opening = &door.opening;
        let (network, source_port) = (key.network, key.source_port);
        let address = network.address();
        let open_for = open_for.unwrap_or(opening.open_for);
        let open_for = opening.hold.map_or(open_for, |hold| open_for.min(hold.at_most));
        let mut is_own = false;
        let backend = match &opening.mechanism {
            // What is forwarded has no element for one source port.
            Mechanism::Guard if source_port.is_some() && !opening.forwards.is_empty() => {
                return Err(Reason::SourcePort);
            }
            Mechanism::Guard if !opening.is_for(address) => return Err(Reason::NoCommand),
            Mechanism::Guard => GrantBackend::Kernel(KernelElement::Guard),
            _ if source_port.is_some() => return Err(Reason::SourcePort),
            Mechanism::Set(set) => {
                let address = network.single().ok_or(Reason::Width)?;
                let set = set.reference(Family::of(address.to_canonical()));
                GrantBackend::Kernel(KernelElement::Set(set.ok_or(Reason::NoCommand)?))
            }
            Mechanism::Commands { commands, template } => {
                is_own = template.is_none();
                let pair = commands.of(Family::of(address));
                let open = pair.open.as_ref().ok_or(Reason::NoCommand)?;
                let pair = |port| {
                    let seconds = open_for.as_secs();
                    let holes = Holes { network, door: door.name(), client, port, seconds };
                    let render = |command: &Option<Command>| Some(command.as_ref()?.render(&holes));
                    let (close, verify) = (render(&pair.close), render(&pair.verify));
                    let (open, is_timed) = (open.render(&holes), open.is_timed());
                    CommandPair { open, close, verify, is_timed }
                };
                GrantBackend::Commands(if opening.ports.is_empty() {
                    vec![pair(None)]
                } else {
                    opening.ports.iter().map(|&port| pair(Some(port))).collect()
                })
            }
        };
        let Opening { hold, max_grants: most, addresses, cooldown, .. } = *opening;
        Ok(Self { backend, open_for, is_own, hold, most, addresses, cooldown })
    }

    /// Whether nothing undoes it: it then runs at every completed knock, and makes no grant.
    pub fn is_act(&self) -> bool {
        self.backend.element().is_none()
            && self.backend.pairs().iter().all(|pair| pair.close.is_none())
    }
}

impl CommandPair {
    /// What it holds, where several grants can hold it: the command that takes it away.
    pub(super) fn held(&self) -> Option<&[String]> {
        self.verify.as_ref().filter(|_| !self.is_timed)?;
        Some(&self.close.as_ref()?.argv)
    }
}
