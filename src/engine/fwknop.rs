//! Requests of fwknop's: whose they are, and what they may open.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use smallvec::SmallVec;

use super::replay::{Arrival, REMEMBERED};
use super::{
    ClientId, Credential, DatagramRequest, Denial, DoorId, Judgement, Lifetime, Local, Reason,
    Refusal, Setup, UncleanStart, is_over,
};
use crate::config::{AddressPolicy, Client, FwknopClient, FwknopSettings, Recognition};
use crate::proto::fwknop::{
    Access, END_LEN, FwknopDatagram, FwknopError, FwknopKeys, FwknopReceiver, MIN_LEN,
    OpenedRequest,
};
use crate::proto::network::may_ask_for;
use crate::proto::{Knock, Method, Network};
use crate::time::{Now, Wall};
use crate::wire::filter::Datagrams;
use crate::wire::{Packet, Transport};

/// Judges requests of fwknop's, by the keys of the clients that hold any.
#[derive(Debug)]
pub(crate) struct FwknopJudge {
    /// Where datagrams are sent to.
    ports: Vec<RangeInclusive<NonZeroU16>>,
    holders: Vec<FwknopHolder>,
    /// Whether somebody's request can have so many characters.
    lengths: Box<[bool; END_LEN]>,
    index: Index,
    lifetime: Lifetime,
    /// By the digest of what a request authenticates.
    seen: LruCache<[u8; 32], Arrival>,
}

/// A pair of keys, and the client that it is of.
#[derive(Debug)]
struct FwknopHolder {
    client: ClientId,
    receiver: FwknopReceiver,
    expires: Option<Wall>,
    is: FwknopClient,
    doors: Vec<(DoorId, Arc<Recognition>)>,
}

impl FwknopJudge {
    /// The clients among all that hold fwknop's keys.
    pub(super) fn new(setup: &Setup) -> Self {
        let doors = (0..).map(DoorId).zip(setup.doors.iter().cloned().map(Arc::new));
        let doors: Vec<_> = doors.filter(|(_, door)| door.fwknop).collect();
        let clients = (0..).map(ClientId).zip(&setup.clients);
        let holders = clients.flat_map(|(id, client)| FwknopHolder::all(id, client, &doors));
        let holders: Vec<FwknopHolder> = holders.collect();
        let mut lengths = Box::new([false; END_LEN]);
        for length in holders.iter().flat_map(|holder| holder.receiver.lengths()) {
            lengths[length] = true;
        }
        let ports = [&setup.fwknop.ports].into_iter().chain(&setup.spa_ports).cloned().collect();
        let lifetime = lifetime(&setup.fwknop, setup.unclean_start);
        let (index, seen) = (Index::new(&holders), LruCache::new(REMEMBERED));
        Self { ports, holders, lengths, index, lifetime, seen }
    }

    /// Whether nobody holds keys: no datagram can open anything.
    pub(super) const fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }

    /// What a capture has to pass on.
    pub(crate) fn datagrams(&self) -> impl Iterator<Item = Datagrams> {
        // What is longer or shorter than any request is nobody's.
        let lengths = MIN_LEN as u16..=END_LEN as u16 - 1;
        self.ports
            .iter()
            .map(move |ports| Datagrams { ports: ports.clone(), lengths: lengths.clone() })
    }

    /// Whether a packet may be a request, by its port and length.
    pub(crate) fn takes(&self, packet: &Packet, payload: &[u8]) -> bool {
        let is_port = |port| self.ports.iter().any(|ports| ports.contains(&port));
        (MIN_LEN..END_LEN).contains(&payload.len())
            && matches!(packet.transport, Transport::Udp { port, .. } if is_port(port))
    }

    /// How many clients' keys may have to be tried with a datagram; 0: it is nobody's by its looks.
    pub(super) fn trials(&self, source: IpAddr, payload: &[u8]) -> usize {
        self.look_at(payload).map_or(0, |_| self.index.lists_at(source).map(Vec::len).sum())
    }

    /// Looks at a datagram without any key.
    fn look_at<'p>(&self, payload: &'p [u8]) -> Result<FwknopDatagram<'p>, FwknopError> {
        let datagram = FwknopDatagram::new(payload)?;
        let is_somebodys = self.lengths.get(payload.len()) == Some(&true);
        if is_somebodys { Ok(datagram) } else { Err(FwknopError::Length) }
    }

    /// What a datagram comes to. Only the keys of those clients are tried whose networks it comes
    /// from. What is not sent to one of the `local` addresses has to be sent by a client that is
    /// said to do so.
    ///
    /// # Errors
    /// [`Denial`].
    pub(crate) fn judge(
        &mut self,
        now: Now,
        packet: &Packet,
        local: &Local,
        payload: &[u8],
    ) -> Judgement {
        let source = packet.source;
        let ignored = |error: FwknopError| Denial::Ignored(error.into());
        let datagram = self.look_at(payload).map_err(ignored)?;
        let mut noise = FwknopError::Source;
        for place in self.index.holders_at(source) {
            let Some(holder) = self.holders.get(place) else { continue };
            if !holder.is_sent_to(packet.destination, local) {
                continue;
            }
            let client = Some(holder.client);
            let refusal =
                |reason| Refusal { client, ..Refusal::new(Method::Fwknop, source, reason) };
            let refused = |reason| Denial::Refused(refusal(reason));
            let opened = match datagram.open(&holder.receiver) {
                Ok(opened) => opened,
                Err(error) if error.is_noise() => {
                    noise = error;
                    continue;
                }
                Err(error) => return Err(refused(error.into())),
            };
            let stamp = Some(Wall::ZERO + Duration::from_secs(opened.request.timestamp));
            let requests = holder
                .ask(now, self.lifetime, source, &opened, local)
                .map_err(|reason| Denial::Refused(Refusal { stamp, ..refusal(reason) }))?;
            let arrival = Arrival::new(now, packet);
            return match self.seen.put(opened.replay, arrival) {
                None => Ok(requests),
                Some(earlier) if arrival.is_copy_of(earlier) => {
                    Err(Denial::Ignored(Reason::Duplicate))
                }
                Some(_) => Err(refused(Reason::Used)),
            };
        }
        Err(ignored(noise))
    }
}

impl FwknopHolder {
    /// With the keys that a client has, and with those that it had before.
    fn all(id: ClientId, client: &Client, doors: &[(DoorId, Arc<Recognition>)]) -> Vec<Self> {
        let Some(is) = &client.fwknop else { return Vec::new() };
        let doors = doors.iter().filter(|(_, door)| client.doors.contains(&door.name));
        let doors: Vec<_> = doors.cloned().collect();
        let holder = |key, hmac, until: Option<Wall>| {
            let receiver = FwknopKeys { key, mode: is.mode, hmac }.into();
            let expires = [until, client.expires].into_iter().flatten().min();
            Self { client: id, receiver, expires, is: is.clone(), doors: doors.clone() }
        };
        let hmac = is.hmac.as_ref().map(|(key, hash)| (key, *hash));
        let hash = hmac.map(|(_, hash)| hash).unwrap_or_default();
        let old = is.old.as_ref();
        let old = old.map(|((key, hmac), until)| holder(key, Some((hmac, hash)), Some(*until)));
        [holder(&is.key, hmac, None)].into_iter().chain(old).collect()
    }

    fn is_sent_to(&self, destination: IpAddr, local: &Local) -> bool {
        match &*self.is.destination {
            [] => local.contains(destination),
            networks => networks.iter().any(|network| network.contains(destination)),
        }
    }

    /// What a request that is this client's asks for, if it may.
    fn ask(
        &self,
        now: Now,
        lifetime: Lifetime,
        source: IpAddr,
        opened: &OpenedRequest,
        local: &Local,
    ) -> Result<Vec<DatagramRequest>, Reason> {
        let OpenedRequest { request, replay } = opened;
        if is_over(self.expires, now.wall) {
            return Err(Reason::Expired);
        }
        let stamp = Wall::ZERO + Duration::from_secs(request.timestamp);
        lifetime.judge(stamp, now)?;
        let address = address(&self.is, source, request.access.address)?;
        if self.is.username.as_ref().is_some_and(|name| name != request.user.as_str()) {
            return Err(FwknopError::Username.into());
        }
        let doors = self.doors_for(&request.access, address, local)?;
        let network = Some(Network::from(address));
        let (v4, v6) = if address.is_ipv4() { (network, None) } else { (None, network) };
        let credential = Credential::Fwknop { digest: *replay, stamp };
        let request = |door| DatagramRequest {
            door,
            client: self.client,
            credential,
            source,
            v4,
            v6,
            open_for: request.access.timeout.filter(|seconds| *seconds > 0),
            source_port: None,
            close: false,
        };
        Ok(doors.map(request).collect())
    }

    /// The doors that do some of what is asked for. Where no door does a part of it, none opens.
    fn doors_for(
        &self,
        access: &Access,
        address: IpAddr,
        local: &Local,
    ) -> Result<impl Iterator<Item = DoorId>, Reason> {
        // Where all is forwarded, whatever the request says of it is no matter.
        let nat = access.nat.as_ref().filter(|_| !self.is.force_nat);
        let (host, error) = match nat {
            None => (None, FwknopError::NoDoor),
            Some(nat) if nat.is_local => (None, FwknopError::LocalNat),
            Some(nat) => {
                let host: IpAddr = nat.host().parse().map_err(|_| FwknopError::NatName)?;
                (Some(host), FwknopError::Nat)
            }
        };
        let does = move |Recognition { opens, forwards, .. }: &Recognition, port: Knock| {
            let mut leads = forwards.iter().filter(|it| it.on == port && it.is_for(address));
            let is_opened = opens.iter().any(|ports| ports.contains(port));
            match nat {
                // A door that runs commands of its own opens and forwards nothing: any request for
                // access is for it.
                None => {
                    is_opened
                        || (opens.is_empty() && forwards.is_empty())
                        || (self.is.force_nat && leads.next().is_some())
                }
                // By which address of this host is no matter: the client knows one that may be
                // translated on the way.
                Some(nat) if nat.is_local => {
                    leads.any(|it| it.port == nat.port && local.contains(it.to))
                        || (nat.port == port.port && is_opened)
                }
                Some(nat) => leads.any(|it| it.port == nat.port && Some(it.to) == host),
            }
        };
        if !access.ports.iter().all(|port| self.doors.iter().any(|(_, door)| does(door, *port))) {
            return Err(error.into());
        }
        let does_some = move |door: &Recognition| access.ports.iter().any(|port| does(door, *port));
        Ok(self.doors.iter().filter(move |(_, door)| does_some(door)).map(|(id, _)| *id))
    }
}

/// When a request has to have been made.
pub(crate) const fn lifetime(settings: &FwknopSettings, unclean_start: UncleanStart) -> Lifetime {
    Lifetime { max_age: settings.max_age, max_ahead: settings.max_age, unclean_start }
}

/// The address to open for, where a client's request comes from `source` and names one or none.
///
/// # Errors
/// Why it may not have it.
pub(crate) fn address(
    client: &FwknopClient,
    source: IpAddr,
    named: Option<Ipv4Addr>,
) -> Result<IpAddr, Reason> {
    match named {
        None if client.address == AddressPolicy::Explicit => Err(Reason::AddressNotNamed),
        None => Ok(source.to_canonical()),
        Some(address) if may_ask_for(source, IpAddr::V4(address).into()) => Ok(address.into()),
        Some(_) => Err(FwknopError::ForbiddenAddress.into()),
    }
}

/// The holders of keys by the networks that they send from.
///
/// A look-up costs as much as there are different lengths of prefixes, not as there are holders.
#[derive(Debug, Default)]
struct Index {
    networks: HashMap<Network, Vec<usize>>,
    /// Lengths of prefixes: of IPv4, of IPv6.
    lengths: [BTreeSet<u8>; 2],
}

impl Index {
    fn new(holders: &[FwknopHolder]) -> Self {
        let mut index = Self::default();
        let anywhere = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let anywhere = anywhere.map(|all: IpAddr| Network::around(all, 0));
        for (place, holder) in holders.iter().enumerate() {
            let own = &*holder.is.from;
            for network in if own.is_empty() { &anywhere } else { own } {
                index.networks.entry(*network).or_default().push(place);
                let lengths = &mut index.lengths[usize::from(network.address().is_ipv6())];
                lengths.insert(network.prefix());
            }
        }
        index
    }

    /// The holders by network, of those that a source is in: who has two of these is twice there.
    fn lists_at(&self, source: IpAddr) -> impl Iterator<Item = &Vec<usize>> {
        let source = source.to_canonical();
        let lengths = &self.lengths[usize::from(source.is_ipv6())];
        let networks = lengths.iter().map(move |length| Network::around(source, *length));
        networks.filter_map(|network| self.networks.get(&network))
    }

    /// Each of them once, in the order of the clients.
    fn holders_at(&self, source: IpAddr) -> SmallVec<[usize; 16]> {
        let mut places: SmallVec<[usize; 16]> = self.lists_at(source).flatten().copied().collect();
        places.sort_unstable();
        places.dedup();
        places
    }
}

#[cfg(test)]
mod tests;
