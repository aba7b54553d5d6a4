//! The stanzas of `~/.fwknoprc` by which fwknop's own client knocks.

use data_encoding::BASE64;
use zeroize::Zeroizing;

use super::bundle::drawn;
use crate::config::{AddressPolicy, Client, Door, Family, FwknopClient, Settings};
use crate::proto::spa::PORTS;

/// How many ports are named: more may not fit a request.
const MOST_PORTS: usize = 10;
/// What need not be said.
const USUAL: [(&str, &str); 2] = [("SPA_SERVER_PORT", "62201"), ("HMAC_DIGEST_TYPE", "sha256")];

/// Whether a request of fwknop's, which comes over IPv4, opens a door.
pub(super) fn opens(door: &Door) -> bool {
    let is_ipv4 = door.recognition.target.is_none_or(|target| target.is_ipv4())
        && door.opening.mechanism.opens(Family::V4)
        && door.opening.is_for(Family::V4.unspecified());
    door.recognition.fwknop && is_ipv4
}

/// Says how a client knocks at those of the doors that take its requests, with its keys where they
/// are new; `qr`: with a code of them for the app, in colours or not. Empty where there are none.
pub(super) fn show(
    client: &Client,
    host: &str,
    doors: &[&Door],
    settings: &Settings,
    is_new: bool,
    qr: Option<bool>,
) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::new());
    let doors: Vec<&&Door> = doors.iter().filter(|door| opens(door)).collect();
    let Some(FwknopClient { key, hmac: Some((hmac_key, hash)), address, .. }) =
        client.fwknop.as_ref().filter(|_| !doors.is_empty())
    else {
        return text;
    };
    let range = &settings.fwknop.ports;
    let port = if range.contains(PORTS.start()) { PORTS.start() } else { range.start() };
    let encode = |key: &[u8]| if is_new { BASE64.encode(key) } else { String::new() };
    let [key, hmac_key] = [key.expose(), hmac_key.expose()].map(encode).map(Zeroizing::new);
    let of_keys = if is_new { "" } else { "KEY_BASE64 and HMAC_KEY_BASE64 are those it has." };
    let (allow, of_address) = match address {
        AddressPolicy::Any => ("source", "The address that the server sees, behind NAT too."),
        AddressPolicy::Explicit => ("", "Its address has to be named: fwknop -a ADDRESS, or -R."),
    };
    text.push_str("For fwknop, in ~/.fwknoprc, which nobody else may read (chmod 600):\n\n");
    for door in &doors {
        let stanza = match *doors {
            [_] => client.name.to_string(),
            _ => format!("{}-{}", client.name, door.name()),
        };
        text.push_str(&format!(
            "# Then it is: fwknop -n {stanza}, or: knock --fwknoprc {stanza}\n[{stanza}]\n"
        ));
        // Of a range fwknop can name one port.
        let ports = door.opening.ports.iter().map(|ports| ports.first());
        let forward = door.opening.forwards.iter().find(|it| it.to.is_ipv4());
        let forward = forward.filter(|_| door.opening.ports.is_empty());
        let ports = ports.chain(forward.map(|forward| forward.on)).take(MOST_PORTS);
        let access: Vec<_> = ports.map(|it| format!("{}/{}", it.protocol, it.port)).collect();
        // Where a door runs commands of its own, any port does.
        let access = if access.is_empty() { "tcp/1".to_owned() } else { access.join(",") };
        let nat = forward.map(|it| format!("{}:{}", it.to, it.port)).unwrap_or_default();
        for (variable, value) in [
            ("SPA_SERVER", host),
            ("SPA_SERVER_PORT", &port.to_string()),
            ("#", "Each port here opens the whole door."),
            ("ACCESS", &access),
            ("NAT_ACCESS", &nat),
            ("#", of_address),
            ("ALLOW_IP", allow),
            ("#", of_keys),
            ("KEY_BASE64", &key),
            ("HMAC_KEY_BASE64", &hmac_key),
            ("USE_HMAC", "Y"),
            ("HMAC_DIGEST_TYPE", hash.as_str()),
        ] {
            if !value.is_empty() && !USUAL.contains(&(variable, value)) {
                text.push_str(&format!("{variable} {value}\n"));
            }
        }
        text.push('\n');
    }
    if let Some(colours) = qr.filter(|_| is_new) {
        let keys = Zeroizing::new(format!("KEY_BASE64:{} HMAC_KEY_BASE64:{}", *key, *hmac_key));
        let code = drawn(&keys, colours);
        text.push_str(&format!("For the app Fwknop2, which asks for the rest:\n\n{}\n", *code));
    }
    text
}
