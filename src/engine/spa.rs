//! Native SPA datagrams: the checks of knock-spa(7) in their order, the cheapest first.

use std::collections::HashMap;
use std::hash::RandomState;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::ops::RangeInclusive;
use std::time::Duration;

use lru::LruCache;
use serde::{Deserialize, Serialize};

use super::replay::{Arrival, REMEMBERED};
use super::{
    ClientId, Credential, DatagramRequest, Denial, DoorId, Judgement, Lifetime, NAME_LEN, Reason,
    Refusal, Setup, UncleanStart, is_over,
};
use crate::config::{self, AddressPolicy, Name};
use crate::proto::network::may_ask_for;
use crate::proto::spa::{
    Addresses, LEN, NamedAddresses, PrivateKey, PublicKey, Receiver, SpaError, SpaRequest,
};
use crate::proto::{Method, Network, Widths};
use crate::time::{Now, Wall};
use crate::wire::filter::Datagrams;
use crate::wire::{Packet, Transport};

/// The server's side of native SPA: keys, ports and limits. The watcher gets it as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaServer {
    /// Where datagrams are sent to.
    pub ports: RangeInclusive<NonZeroU16>,
    pub keys: Vec<ServerKey>,
    pub max_age: Duration,
    pub max_ahead: Duration,
}

impl SpaServer {
    /// As the settings say, with a ledger that misses nothing.
    pub fn new(settings: &config::SpaSettings, keys: Vec<ServerKey>) -> Self {
        let &config::SpaSettings { max_age, max_ahead, .. } = settings;
        Self { ports: settings.ports.clone(), keys, max_age, max_ahead }
    }

    /// When a request has to have been made.
    pub const fn lifetime(&self, unclean_start: UncleanStart) -> Lifetime {
        Lifetime { max_age: self.max_age, max_ahead: self.max_ahead, unclean_start }
    }

    /// Whether a packet is a native SPA datagram by its port and length.
    pub fn is_datagram(settings: &config::SpaSettings, packet: &Packet, payload: &[u8]) -> bool {
        is_sent_to(&settings.ports, packet) && payload.len() == LEN
    }
}

/// A key of the server, and until when it is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerKey {
    pub key: PrivateKey,
    pub until: Option<Wall>,
}

/// Judges native requests. Its memory is bounded by the keys and by a constant.
#[derive(Debug)]
pub struct SpaJudge {
    ports: RangeInclusive<NonZeroU16>,
    receivers: Vec<(Receiver, Option<Wall>)>,
    lifetime: Lifetime,
    holders: HashMap<PublicKey, KeyHolder>,
    doors: HashMap<Name, DoorId>,
    /// Each with what is said where it comes again. Whoever has caught one can send it again and
    /// again, but must not make the server open it again and again.
    seen: LruCache<[u8; 16], (Arrival, Refusal), RandomState>,
}

/// The holder of a public key, and what they may open with it.
#[derive(Debug)]
struct KeyHolder {
    client: ClientId,
    key: u16,
    /// The latest stamp that it has used up as far as is known here.
    latest_stamp: Option<Wall>,
    expires: Option<Wall>,
    address: AddressPolicy,
    /// Those that exist and take datagrams, and how wide a network may be there.
    doors: Vec<(DoorId, Widths)>,
}

impl SpaJudge {
    /// `None`: native datagrams are not looked at. The place of a public key among its client's is
    /// its number.
    pub(super) fn new(setup: &Setup) -> Option<Self> {
        let server = setup.spa.as_ref()?;
        let doors: HashMap<Name, DoorId> =
            (0..).map(DoorId).zip(&setup.doors).map(|(id, door)| (door.name.clone(), id)).collect();
        let mut holders = HashMap::new();
        for (client, of) in (0..).map(ClientId).zip(&setup.clients) {
            let Some(spa) = &of.spa else { continue };
            let (expires, address) = (of.expires, spa.address);
            let taken = |name: &Name| {
                let id = *doors.get(name)?;
                let door = setup.doors.get(id.0 as usize).filter(|door| door.spa)?;
                Some((id, Widths::both(door.width, of.width)))
            };
            let own: Vec<_> = of.doors.iter().filter_map(taken).collect();
            for (key, public) in (0..).zip(&spa.keys) {
                let doors = own.clone();
                let holder = KeyHolder { client, key, latest_stamp: None, expires, address, doors };
                holders.insert(*public, holder);
            }
        }
        let receiver =
            |key: &ServerKey| (Receiver::new(&key.key, holders.keys().copied()), key.until);
        let receivers = server.keys.iter().map(receiver).collect();
        let (ports, lifetime) = (server.ports.clone(), server.lifetime(setup.unclean_start));
        let seen = LruCache::with_hasher(REMEMBERED, RandomState::new());
        Some(Self { ports, receivers, lifetime, holders, doors, seen })
    }

    /// What a capture has to pass on.
    pub fn datagrams(&self) -> Datagrams {
        let length = LEN as u16;
        Datagrams { ports: self.ports.clone(), lengths: length..=length }
    }

    /// The datagram, if a packet is one by its port and length.
    pub fn datagram<'p>(&self, packet: &Packet, payload: &'p [u8]) -> Option<&'p [u8; LEN]> {
        if is_sent_to(&self.ports, packet) { payload.try_into().ok() } else { None }
    }

    /// What a datagram comes to. Until its tag is known to be good nothing is allocated, nothing
    /// remembered.
    ///
    /// # Errors
    /// [`Denial`].
    pub fn judge(&mut self, now: Now, packet: &Packet, datagram: &[u8; LEN]) -> Judgement {
        let tagged = self
            .receivers
            .iter()
            .position(|(receiver, until)| receiver.has_tag(datagram) && !is_over(*until, now.wall));
        let receiver = tagged.ok_or(Denial::Ignored(Reason::BadTag))?;
        let arrival = Arrival::new(now, packet);
        let tag = datagram.first_chunk().copied().unwrap_or_default();
        if let Some(&(earlier, again)) = self.seen.get(&tag) {
            if arrival.is_copy_of(earlier) {
                return Err(Denial::Ignored(Reason::Duplicate));
            }
            // What was too early may be right by now.
            if arrival.is_soon_after(earlier) || again.reason != Reason::TooFarAhead {
                return Err(Denial::Refused(Refusal { source: packet.source, ..again }));
            }
        }
        let outcome = self.open(now, packet.source, receiver, datagram);
        let again = match &outcome {
            Ok(request) => request.refused(Reason::Used),
            Err(refusal) => *refusal,
        };
        self.seen.put(tag, (arrival, again));
        outcome.map(|request| vec![request]).map_err(Denial::Refused)
    }

    fn open(
        &mut self,
        now: Now,
        source: IpAddr,
        receiver: usize,
        datagram: &[u8; LEN],
    ) -> Result<DatagramRequest, Refusal> {
        let refuse = |reason| Refusal::new(Method::Spa, source, reason);
        let (receiver, _) = self.receivers.get(receiver).ok_or(refuse(Reason::BadTag))?;
        let (key, asked) = match receiver.open(datagram) {
            Ok((key, asked)) => (key, Some(asked)),
            Err(SpaError::Malformed { client, .. }) => (client, None),
            Err(SpaError::Undecryptable) => return Err(refuse(Reason::Undecryptable)),
            Err(SpaError::BadTag) => return Err(refuse(Reason::BadTag)),
        };
        let holder = self.holders.get_mut(&key).ok_or(refuse(Reason::UnknownClient))?;
        let client = holder.client;
        let refuse = |reason| Refusal { client: Some(client), ..refuse(reason) };
        if is_over(holder.expires, now.wall) {
            return Err(refuse(Reason::Expired));
        }
        let asked = asked.ok_or(refuse(Reason::MalformedRequest))?;
        let stamp = Wall::from(asked.stamp);
        let at = |reason| Refusal { stamp: Some(stamp), ..refuse(reason) };
        self.lifetime.judge(stamp, now).map_err(at)?;
        if holder.latest_stamp.is_some_and(|latest_stamp| stamp <= latest_stamp) {
            return Err(refuse(Reason::Used));
        }
        holder.latest_stamp = Some(stamp);
        let credential = Credential::Spa { key: holder.key, stamp };
        let asked_for = asked.door.as_ref().map(|name| {
            let mut bytes = [0; NAME_LEN];
            bytes.iter_mut().zip(name.as_str().bytes()).for_each(|(to, byte)| *to = byte);
            bytes
        });
        let named = asked.door.as_ref().and_then(|name| self.doors.get(name)).copied();
        let found = match (named, &*holder.doors) {
            (Some(id), own) => own.iter().find(|(own, _)| *own == id).ok_or(Reason::NotAllowed),
            (None, [only]) if asked.door.is_none() => Ok(only),
            (None, _) => Err(Reason::NoSuchDoor),
        };
        let no_door = |reason| Refusal { asked_for, door: named, ..refuse(reason) };
        let (door, widest) = *found.map_err(no_door)?;
        let refuse = |reason| Refusal { door: Some(door), ..refuse(reason) };
        let [v4, v6] = networks(&asked, source, holder.address).map_err(refuse)?;
        if ![v4, v6].iter().flatten().all(|network| widest.allows(network)) {
            return Err(refuse(Reason::Width));
        }
        Ok(DatagramRequest {
            door,
            client,
            credential,
            source,
            v4,
            v6,
            open_for: asked.open_for.map(NonZeroU32::get),
            source_port: asked.source_port,
            close: asked.close,
        })
    }
}

/// The networks to open for, where `source` asks: of IPv4 and of IPv6.
fn networks(
    asked: &SpaRequest,
    source: IpAddr,
    policy: AddressPolicy,
) -> Result<[Option<Network>; 2], Reason> {
    let named = match asked.open {
        Addresses::Observed if policy == AddressPolicy::Explicit => {
            return Err(Reason::AddressNotNamed);
        }
        Addresses::Observed => {
            NamedAddresses::try_from(source).map_err(|_| Reason::MalformedRequest)?
        }
        Addresses::Named(named) => named,
    };
    let of_family = |is_ipv4| named.iter().find(|it| it.is_ipv4() == is_ipv4);
    let networks = [true, false].map(|is_ipv4| Some(asked.widths.around(of_family(is_ipv4)?)));
    let may = networks.iter().flatten().all(|network| may_ask_for(source, *network));
    if may { Ok(networks) } else { Err(Reason::ImpossibleAddress) }
}

fn is_sent_to(ports: &RangeInclusive<NonZeroU16>, packet: &Packet) -> bool {
    matches!(packet.transport, Transport::Udp { port, .. } if ports.contains(&port))
}

#[cfg(test)]
mod tests;
