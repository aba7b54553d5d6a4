//! The stanzas of `~/.fwknoprc` by which fwknop's own client knocks.

use std::net::{IpAddr, SocketAddrV4};
use std::num::NonZeroU16;

use zeroize::Zeroizing;

use super::bundle::drawn;
use crate::config::{AddressPolicy, Door, Family, Name};
use crate::proto::fwknop::Hash;
use crate::proto::link::{FwknopWay, Link};
use crate::proto::{Knock, Protocol};

/// How many ports are named: more may not fit a request.
const MOST_PORTS: usize = 10;

/// Whether a request of fwknop's, which comes over IPv4, opens a door.
pub(super) fn opens(door: &Door) -> bool {
    let is_ipv4 = door.recognition.target.is_none_or(|target| target.is_ipv4())
        && door.opening.mechanism.opens(Family::V4)
        && door.opening.is_for(Family::V4.unspecified());
    door.recognition.fwknop && is_ipv4
}

/// How a client asks for it, at this port: for ports that it opens, or forwards.
pub(super) fn way(door: &Door, port: Option<NonZeroU16>, hash: Hash) -> FwknopWay {
    // Of a range fwknop can name one port.
    let ports = door.opening.ports.iter().map(|ports| ports.first());
    let forward = door.opening.forwards.iter().find_map(|it| match it.to {
        IpAddr::V4(to) => Some((it.on, SocketAddrV4::new(to, it.port.get()))),
        IpAddr::V6(_) => None,
    });
    let (on, nat) = forward.filter(|_| door.opening.ports.is_empty()).unzip();
    // Where a door runs commands of its own, any port does.
    let any = Knock::new(Protocol::Tcp, NonZeroU16::MIN);
    let any = (door.opening.ports.is_empty() && on.is_none()).then_some(any);
    let ports = ports.chain(on).chain(any).take(MOST_PORTS).collect();
    FwknopWay { keys: None, hash, port, ports, nat }
}

/// Says how a client knocks as the link says; `qr`: with a code of new keys for the app, in colours
/// or not. Empty where no door is asked so.
pub(super) fn show(
    client: &Name,
    link: &Link,
    address: AddressPolicy,
    qr: Option<bool>,
) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::new());
    let asked: Vec<_> =
        link.entries.iter().filter_map(|entry| Some((&entry.door, entry.fwknop()?))).collect();
    if asked.is_empty() {
        return text;
    }
    let keys = link.fwknop_keys();
    let of_keys =
        if keys.is_some() { "" } else { "KEY_BASE64 and HMAC_KEY_BASE64 are those it has." };
    let [key, hmac_key] = keys.clone().unwrap_or_default();
    let (allow, of_address) = match address {
        AddressPolicy::Any => ("source", "The address that the server sees, behind NAT too."),
        AddressPolicy::Explicit => {
            ("", "Its address has to be named: fwknop -a ADDRESS, or -R; knock --address ADDRESS.")
        }
    };
    text.push_str("For fwknop, in ~/.fwknoprc, which nobody else may read (chmod 600):\n\n");
    for (door, FwknopWay { hash, port, ports, nat, .. }) in &asked {
        let stanza = if asked.len() == 1 { client.to_string() } else { format!("{client}-{door}") };
        text.push_str(&format!(
            "# Then it is: fwknop -n {stanza}, or: knock --fwknoprc {stanza}\n[{stanza}]\n"
        ));
        let ports: Vec<_> = ports.iter().map(|it| format!("{}/{}", it.protocol, it.port)).collect();
        for (variable, value) in [
            ("SPA_SERVER", &*link.host),
            ("SPA_SERVER_PORT", &port.map(|it| it.to_string()).unwrap_or_default()),
            ("#", "Each port here opens the whole door."),
            ("ACCESS", &ports.join(",")),
            ("NAT_ACCESS", &nat.map(|it| it.to_string()).unwrap_or_default()),
            ("#", of_address),
            ("ALLOW_IP", allow),
            ("#", of_keys),
            ("KEY_BASE64", &key),
            ("HMAC_KEY_BASE64", &hmac_key),
            ("USE_HMAC", "Y"),
            ("HMAC_DIGEST_TYPE", hash.as_str()),
        ] {
            // What is usual need not be said.
            if !value.is_empty() && (variable, value) != ("HMAC_DIGEST_TYPE", "sha256") {
                text.push_str(&format!("{variable} {value}\n"));
            }
        }
        text.push('\n');
    }
    if let Some(colours) = qr.filter(|_| keys.is_some()) {
        let keys = Zeroizing::new(format!("KEY_BASE64:{} HMAC_KEY_BASE64:{}", *key, *hmac_key));
        let code = drawn(&keys, colours);
        text.push_str(&format!("For the app Fwknop2, which asks for the rest:\n\n{}\n", *code));
    }
    text
}
