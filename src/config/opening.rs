//! The keeper's half of a door: what opening it does.

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU16, NonZeroUsize};
use std::time::Duration;

use derive_more::Display;
use serde::{Deserialize, Serialize};

use super::mechanism::Mechanism;
use super::settings::{GuardMode, NewPrivileges};
use super::template::{Command, Commands};
use crate::proto::{Family, Knock, OpenPorts};

/// The opening of a door, what that does: the keeper's half.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    pub mechanism: Mechanism,
    /// Whether what opens here opens at every gateway of the fleet that has the door.
    pub fleet: bool,
    /// What the guard does there, where it opens the door.
    pub guard: GuardMode,
    /// What is opened. Firewall commands run once for each of these; once, without `%PORT%`, if
    /// there are none.
    pub ports: Vec<OpenPorts>,
    /// What is passed on to other hosts. Only the guard does that.
    pub forwards: Vec<Forward>,
    /// At least a second.
    pub open_for: Duration,
    /// The longest time that a request may ask for; not less than `open_for`.
    pub open_for_max: Duration,
    /// How many grants there may be of it at once.
    pub max_grants: usize,
    /// How its grants follow the sessions that they let in, if they do.
    pub hold: Option<Hold>,
    /// Whether the connections that it let in end with a grant whose time is over.
    pub cuts: bool,
    /// How many addresses of one family a client may have open at once: a newer one takes the place
    /// of the oldest. `None`: any number.
    pub addresses: Option<NonZeroUsize>,
    /// How long after a knock that it has done something for it does nothing for another.
    pub cooldown: Duration,
    /// Runs when the door has been opened for an address; no grant waits for it or fails with it.
    pub on_open: Option<Command>,
    /// Likewise, when it has been closed.
    pub on_close: Option<Command>,
    /// How long each of its commands may run before it is killed; `None`: without end.
    pub command_limit: Option<Duration>,
    /// Whether its commands may gain privileges that knockd does not have.
    pub new_privileges: NewPrivileges,
}

/// The times of a grant that follows the session it lets in.
///
/// Without a connection it ends at its `open_for`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// After the last packet that came through it.
    pub idle: Duration,
    /// After its last connection has ended.
    pub grace: Duration,
    /// After it opened, whatever comes.
    pub at_most: Duration,
}

impl Hold {
    pub(super) const DEFAULT: Self = Self {
        idle: Duration::from_secs(60),
        grace: Duration::from_secs(30),
        at_most: Duration::from_secs(12 * 3600),
    };
}

/// A port of this host that leads whoever a door is open for to another host.
///
/// Shown as `2222/tcp->192.168.1.10:22`.
#[derive(Clone, Copy, Debug, Display, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[display("{on}->{}", SocketAddr::new(*to, port.get()))]
#[serde(deny_unknown_fields)]
pub struct Forward {
    pub on: Knock,
    /// Who comes by an address of its family is led there.
    pub to: IpAddr,
    pub port: NonZeroU16,
    /// Whether it comes to that host from this one: for a host whose way back leads elsewhere.
    #[serde(default)]
    pub masquerade: bool,
}

impl Forward {
    /// The port of that host.
    pub const fn inner(&self) -> Knock {
        Knock::new(self.on.protocol, self.port)
    }

    /// Whether it is for whoever comes from this address.
    pub fn is_for(&self, address: IpAddr) -> bool {
        Family::of(self.to) == Family::of(address.to_canonical())
    }
}

impl Opening {
    /// Whether the guard keeps those out who have not knocked.
    pub fn is_locked(&self) -> bool {
        self.is_guarded() && self.guard == GuardMode::Lock
    }

    /// Whether the guard only notes who they are.
    pub fn is_observed(&self) -> bool {
        self.is_guarded() && self.guard == GuardMode::Observe
    }

    /// Whether it has ports of this host that the guard opens; one that only forwards has none.
    pub fn is_guarded(&self) -> bool {
        self.mechanism == Mechanism::Guard && !self.ports.is_empty()
    }

    /// Whether it opens or forwards something for whoever comes from this address.
    pub fn is_for(&self, address: IpAddr) -> bool {
        let is_led = self.forwards.iter().any(|forward| forward.is_for(address));
        let is_let_in = self.forwards.is_empty() || !self.ports.is_empty();
        self.mechanism.opens(Family::of(address.to_canonical())) && (is_led || is_let_in)
    }

    /// Whether it opens for single addresses alone.
    pub(super) fn is_for_one_address(&self) -> bool {
        let is_set = matches!(self.mechanism, Mechanism::Set(_));
        is_set || self.all_commands().any(Command::is_for_one_address)
    }

    /// The commands that open and close it, and those that tell of it.
    pub(super) fn all_commands(&self) -> impl Iterator<Item = &Command> {
        let hooks = [&self.on_open, &self.on_close].into_iter().flatten();
        self.commands().into_iter().flat_map(Commands::all).chain(hooks)
    }

    /// The firewall commands, where it is opened by commands.
    pub const fn commands(&self) -> Option<&Commands> {
        match &self.mechanism {
            Mechanism::Commands { commands, .. } => Some(commands),
            Mechanism::Guard | Mechanism::Set(_) => None,
        }
    }

    /// Whether there is a command to run.
    pub const fn runs_commands(&self) -> bool {
        self.commands().is_some() || self.on_open.is_some() || self.on_close.is_some()
    }

    /// The ports that it opens, where it is one entry: what fills `%PORT%` and `%PROTO%` in `on_open`
    /// and `on_close`.
    pub fn single_port(&self) -> Option<OpenPorts> {
        if let [ports] = self.ports.as_slice() { Some(*ports) } else { None }
    }
}

/// Classic knockd's `Cmd_Timeout`: what a door with commands of its own has.
pub(super) const CMD_TIMEOUT: Duration = Duration::from_secs(10);
/// The default of `open_for`.
pub(super) const OPEN_FOR: Duration = Duration::from_secs(30);

/// The most grants that can be asked for.
pub(super) const MAX_GRANTS: usize = 1_000_000;

/// The default of `max_grants`. What the kernel holds is cheap; what commands open takes some
/// milliseconds each, and as long to close again.
pub(super) const fn default_max_grants(mechanism: &Mechanism) -> usize {
    match mechanism {
        Mechanism::Commands { .. } => 1_000,
        Mechanism::Guard | Mechanism::Set(_) => 20_000,
    }
}
