//! What somebody asks of a door, and whether the configuration in force still grants it.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use crate::config::{Client, Config, Door, Name};
use crate::engine::{AHEAD, ClientId, Credential, DoorId, Event, Knocked, Request};
use crate::grants::{By, Opener, Place, Wanted};
use crate::ledger::{Flush, Proof};
use crate::time::{Monotonic, Wall};

/// How much longer than it can be good what was used is remembered: a clock may be set back.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// That a door be opened, or closed, for some addresses.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) door: Door,
    pub(super) opener: Opener,
    /// At least one.
    pub(super) addresses: Vec<IpAddr>,
    /// Only for connections from this port.
    pub(super) source_port: Option<NonZeroU16>,
    /// When the last knock came.
    pub(super) since: Monotonic,
    /// For how long, where that is not left to the door.
    pub(super) open_for: Option<Duration>,
    /// What may be used once.
    pub(super) proof: Option<Proof>,
    /// When a client made the request, as it says itself.
    pub(super) stamp: Option<Wall>,
    pub(super) close: bool,
}

/// Why nobody gets what a watcher says that they may have.
#[derive(Debug)]
pub(super) enum Unfounded {
    /// The watcher names what it was never given.
    Invented,
    /// The configuration in force no longer says so.
    Changed(Box<Ask>),
}

impl Ask {
    /// What an administrator asks for.
    pub(super) fn by_hand(
        door: Door,
        address: IpAddr,
        since: Monotonic,
        open_for: Option<Duration>,
    ) -> Self {
        Self { open_for, ..Self::of(door, By::Knockctl.into(), vec![address], since) }
    }

    fn of(door: Door, opener: Opener, addresses: Vec<IpAddr>, since: Monotonic) -> Self {
        Self {
            door,
            opener,
            addresses,
            source_port: None,
            since,
            open_for: None,
            proof: None,
            stamp: None,
            close: false,
        }
    }

    /// What a sequence asks for that was completed under the configuration `then`.
    ///
    /// # Errors
    /// [`Unfounded`].
    pub(super) fn of_sequence(
        then: &Config,
        current: &Config,
        event: &Event,
        knocked: Knocked,
        at: Monotonic,
    ) -> Result<Self, Unfounded> {
        let meant = door(then, event.door).ok_or(Unfounded::Invented)?;
        let stands = current.door(meant.name());
        let addresses = vec![event.source];
        let (ask, holds) = match knocked {
            Knocked::Sequence => {
                let by = meant.one_time.as_ref().map_or(By::Sequence, |_| By::OneTimeSequence);
                let proof = meant.one_time.as_ref().map(|one_time| Proof::Once {
                    door: meant.name().clone(),
                    client: None,
                    kind: By::OneTimeSequence.as_str(),
                    bytes: one_time_proof(one_time.line, meant),
                    until: None,
                });
                let holds = stands.is_some_and(|stands| {
                    stands.recognition.sequence == meant.recognition.sequence
                        && stands.one_time.is_some() == meant.one_time.is_some()
                });
                let door = stands.unwrap_or(meant).clone();
                (Self { proof, ..Self::of(door, by.into(), addresses, at) }, holds)
            }
            Knocked::Totp { client: id, step } => {
                let client = client(then, id).ok_or(Unfounded::Invented)?;
                let scheme = meant.recognition.totp.ok_or(Unfounded::Invented)?;
                let proof = Proof::Once {
                    door: meant.name().clone(),
                    client: Some(client.name.clone()),
                    kind: By::Totp.as_str(),
                    bytes: step.to_be_bytes().to_vec(),
                    until: Some(
                        scheme.turns_at(step.saturating_add(u64::from(scheme.skew()))) + KEPT,
                    ),
                };
                let holds = stands.is_some_and(|door| door.recognition.totp == Some(scheme))
                    && current.client(&client.name).is_some_and(|now| {
                        now.totp == client.totp && now.doors.contains(meant.name())
                    });
                let opener = Opener { by: By::Totp, client: Some(client.name.clone()) };
                let door = stands.unwrap_or(meant).clone();
                (Self { proof: Some(proof), ..Self::of(door, opener, addresses, at) }, holds)
            }
        };
        if holds { Ok(ask) } else { Err(Unfounded::Changed(Box::new(ask))) }
    }

    /// What a datagram asks for that was authenticated under the configuration `then`. How long it
    /// may ask for is what the door says.
    ///
    /// # Errors
    /// [`Unfounded`].
    pub(super) fn of_request(
        then: &Config,
        current: &Config,
        request: &Request,
        at: Monotonic,
    ) -> Result<Self, Unfounded> {
        let meant = door(then, request.door).ok_or(Unfounded::Invented)?;
        let client = client(then, request.client).ok_or(Unfounded::Invented)?;
        let stands = current.door(meant.name());
        let now = current.client(&client.name).filter(|now| now.doors.contains(meant.name()));
        let (by, stamp, proof, holds) = match request.credential {
            Credential::Spa { key, stamp } => {
                let spa = client.spa.as_ref().ok_or(Unfounded::Invented)?;
                let key = *spa.keys.get(usize::from(key)).ok_or(Unfounded::Invented)?;
                let holds = stands.is_some_and(|door| door.recognition.spa)
                    && now
                        .and_then(|now| now.spa.as_ref())
                        .is_some_and(|spa| spa.keys.contains(&key));
                (By::Spa, stamp, Proof::Later { key: *key.as_bytes(), stamp }, holds)
            }
            Credential::Fwknop { digest, stamp } => {
                let fwknop = client.fwknop.as_ref().ok_or(Unfounded::Invented)?;
                let proof = Proof::Once {
                    door: meant.name().clone(),
                    client: Some(client.name.clone()),
                    kind: By::Fwknop.as_str(),
                    bytes: digest.to_vec(),
                    until: Some(stamp + then.settings.fwknop.max_age + KEPT),
                };
                let holds = stands.is_some_and(|door| door.recognition.fwknop)
                    && now.is_some_and(|now| now.fwknop.as_ref() == Some(fwknop));
                (By::Fwknop, stamp, proof, holds)
            }
        };
        let door = stands.unwrap_or(meant).clone();
        let opener = Opener { by, client: Some(client.name.clone()) };
        let v4 = request.v4.map(IpAddr::V4);
        let addresses = v4.into_iter().chain(request.v6.map(IpAddr::V6)).collect();
        let most = door.opening.open_for_max;
        let open_for =
            request.open_for.map(|seconds| Duration::from_secs(seconds.max(1).into()).min(most));
        let ask = Self {
            source_port: request.source_port,
            open_for,
            proof: Some(proof),
            stamp: Some(stamp),
            close: request.close,
            ..Self::of(door, opener, addresses, at)
        };
        if holds { Ok(ask) } else { Err(Unfounded::Changed(Box::new(ask))) }
    }

    /// Whether its proof has to be on the disk before anything opens.
    ///
    /// What a power cut takes, [`Missing`](crate::engine::Missing) lets nobody use again: for that
    /// a stamp must not be too far ahead.
    pub(super) fn flush(&self, now: Wall) -> Flush {
        let is_safe = self.stamp.is_some_and(|stamp| stamp.since(now) < AHEAD);
        if self.proof.is_none() || is_safe { Flush::No } else { Flush::Yes }
    }

    pub(super) fn place(&self, address: IpAddr) -> Place {
        let door = self.door.name().clone();
        Place { door, address, source_port: self.source_port }
    }

    pub(super) fn wanted(&self, address: IpAddr) -> Wanted<'_> {
        let (source_port, open_for) = (self.source_port, self.open_for);
        Wanted { address, source_port, client: self.opener.client.as_ref(), open_for }
    }
}

/// A line of a list proves something once, wherever it stands in the list.
fn one_time_proof(line: Option<u32>, door: &Door) -> Vec<u8> {
    let knocks: Vec<String> = door.recognition.sequence.iter().map(ToString::to_string).collect();
    format!("{} {}", line.unwrap_or(0), knocks.join(",")).into_bytes()
}

fn door(config: &Config, DoorId(place): DoorId) -> Option<&Door> {
    config.doors.get(usize::try_from(place).ok()?)
}

fn client(config: &Config, ClientId(place): ClientId) -> Option<&Client> {
    config.clients.get(usize::try_from(place).ok()?)
}

/// The name of a client, for the log.
pub(super) fn client_name(config: &Config, id: ClientId) -> Option<&Name> {
    client(config, id).map(|client| &client.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::{self, load};

    /// What is asked for on a proof that says when it was made.
    fn ask(stamp: Option<Wall>) -> Ask {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        std::fs::write(file.path(), "doors: {ssh: {sequence: [7000], open: [22]}}").unwrap();
        let options = load::Options { insecure_permissions: true };
        let door = load(file.path(), &options).unwrap().config.doors.remove(0);
        let proof = Proof::Once {
            door: door.name().clone(),
            client: None,
            kind: By::Fwknop.as_str(),
            bytes: vec![1],
            until: None,
        };
        Ask {
            proof: Some(proof),
            stamp,
            ..Ask::of(door, By::Fwknop.into(), vec![], Monotonic::ZERO)
        }
    }

    #[test]
    fn a_proof_that_a_power_cut_may_take_needs_a_stamp_that_is_refused_after_it() {
        let now = Wall::from_nanos(1_000_000_000_000);
        let second = Duration::from_secs(1);
        for (stamp, flush) in [
            (None, Flush::Yes),
            (Some(now - second * 100), Flush::No),
            (Some(now + AHEAD - second), Flush::No),
            (Some(now + AHEAD), Flush::Yes),
        ] {
            assert_eq!(ask(stamp).flush(now), flush, "{stamp:?}");
        }
        assert_eq!(Ask { proof: None, ..ask(None) }.flush(now), Flush::No);
    }
}
