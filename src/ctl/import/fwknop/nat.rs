//! Translation of addresses: the variables of both files that say where connections are led.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;

use super::super::atoi;
use super::stanzas::AccessStanza;
use crate::config::{Diagnosed, Place, Problems};
use crate::proto::network::is_a_hosts;

/// What `fwknopd.conf` says of translation.
#[derive(Default)]
pub(super) struct Translation {
    /// Where it lets clients ask to be led to hosts, and stanzas name one.
    pub(super) asked: Vec<Place>,
    /// Whether connections may come to the inner host from another address.
    pub(super) snat: bool,
    /// From which, where it says.
    pub(super) from: Option<String>,
}

/// The host that `FORCE_NAT` leads all ports of a stanza to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct ForcedNat {
    pub(super) to: Ipv4Addr,
    pub(super) port: NonZeroU16,
    pub(super) masquerade: bool,
}

/// Reads where a stanza leads connections, if it does.
///
/// # Errors
/// Says why what it says cannot be carried over.
pub(super) fn read_nat(
    stanza: &AccessStanza,
    daemon: &Translation,
    notes: &mut Problems,
) -> Diagnosed<Option<ForcedNat>> {
    let is_on = |name| stanza.get(name).filter(|given| given.is_yes());
    let (snat, masquerade) = (stanza.get("FORCE_SNAT"), is_on("FORCE_MASQUERADE"));
    let Some(given) = stanza.get("FORCE_NAT") else {
        return match snat.or(masquerade) {
            Some(it) => Err(it.left_out(format!("{} is of no use without FORCE_NAT", it.name))),
            None => Ok(None),
        };
    };
    if let Some(all) = is_on("FORWARD_ALL").or(is_on("DISABLE_DNAT")) {
        let why = format!("with {} it leads to no port of one host", all.name);
        return Err(all.left_out(why));
    }
    let text = given.text();
    let mut words = text.split_whitespace();
    let to = words.next().and_then(|to| to.parse::<Ipv4Addr>().ok());
    let to = to.filter(|to| is_a_hosts((*to).into()) && !to.is_loopback());
    let port = words.next().and_then(|port| u16::try_from(atoi(port)).ok()?.try_into().ok());
    let Some((to, port)) = to.zip(port) else {
        return Err(given.left_out(format!("'{text}' is not the address and the port of a host")));
    };
    if !text.split_whitespace().eq(format!("{to} {port}").split(' ')) {
        notes.push(given.at.error(format!("fwknopd reads '{text}' as {to} {port} in FORCE_NAT")));
    }
    if daemon.asked.is_empty() {
        let message = "fwknopd does not start with FORCE_NAT as long as ENABLE_IPT_FORWARDING in \
                       its fwknopd.conf is not Y";
        notes.push(given.at.error(message));
    }
    let from = match (snat, masquerade) {
        (Some(snat), _) => Some((&snat.at, snat.text())),
        (None, Some(_)) => None,
        (None, None) => daemon.from.clone().map(|from| (&given.at, from)),
    };
    if let (false, Some(it)) = (daemon.snat, snat.or(masquerade)) {
        let message = format!("{} has no effect without ENABLE_IPT_SNAT: left out", it.name);
        let help = "if the way back of that host does not lead here, write masquerade: true";
        notes.push(it.at.warning(message).help(help));
    } else if let (true, Some((at, from))) = (daemon.snat, from) {
        let from = from.trim_end();
        let message = format!("connections to {to} come from {from}: written as masquerade: true");
        let help =
            format!("that is the same if {from} is the address of this host on the way to it");
        notes.push(at.error(message).help(help));
    }
    Ok(Some(ForcedNat { to, port, masquerade: daemon.snat }))
}
