//! The text that a client needs: its link, and how to knock by hand.

use std::net::IpAddr;

use zeroize::Zeroizing;

use crate::config::Name;
use crate::ctl::error::Error;
use crate::ctl::page::in_url;
use crate::ctl::qr;
use crate::proto::link::{Link, LinkEntry, Way};
use crate::proto::totp::{Digits, Scheme, TotpMode, uri};

/// A code to show what is knocked for it.
const EXAMPLE: [u16; 3] = [49, 38, 17];

/// A short name for this host, for entries and files. `host` is the one by which its clients reach
/// it, `own` the one that it has for itself.
pub(super) fn label(host: &str, own: &str) -> Name {
    let named = if host.parse::<IpAddr>().is_ok() { own } else { host };
    let label = named.split('.').next().filter(|label| !label.is_empty());
    Name::closest(label.unwrap_or("server"))
}

/// How to knock with nothing but a code in hand; `None` where that cannot be done.
fn by_hand(host: &str, scheme: &Scheme) -> Option<String> {
    let TotpMode::Code { base, digits } = scheme.mode() else { return None };
    let pairs = EXAMPLE.iter().cycle().take(digits.count() / 2);
    let (code, ports): (String, Vec<String>) =
        pairs.map(|pair| (format!("{pair:02}"), base.saturating_add(*pair).to_string())).collect();
    let (host, first) = (in_url(host), ports.first()?);
    Some(format!(
        "for the code {code} connect to the ports {} one after the other,\n\
         for example in a browser: http://{host}:{first}/ and so on",
        ports.join(", ")
    ))
}

/// A QR code. What is too long for one is on its way as text already, and has to arrive.
pub(super) fn drawn(text: &str, colours: bool) -> Zeroizing<String> {
    let drawn = qr::draw(text, colours);
    Zeroizing::new(drawn.unwrap_or_else(|| "No QR code: this is too long for a QR code.\n".into()))
}

/// The text for a client that is enrolled; `qr`: with codes too, in colours or not.
///
/// # Errors
/// When a name does not fit into a URI, or all of it not into a link.
pub(super) fn text(
    client: &Name,
    link: &Link,
    qr: Option<bool>,
) -> Result<Zeroizing<String>, Error> {
    let code = link.encode().map_err(Error::unfit)?;
    let names = link.names().join(", or knock ");
    let mut text = Zeroizing::new(format!(
        "For knock: 'knock import -' asks for this link; then it is: knock {names}\n\n{}\n\n",
        *code
    ));
    if let Some(colours) = qr {
        text.push_str(&format!("{}\n", *drawn(&code, colours)));
    }
    add_authenticator(&mut text, client, link, qr)?;
    Ok(text)
}

fn add_authenticator(
    text: &mut String,
    client: &Name,
    link: &Link,
    qr: Option<bool>,
) -> Result<(), Error> {
    let Some(secret) = &link.secret else { return Ok(()) };
    let (mut shown, mut doors) = (Vec::new(), String::new());
    // The issuer that an authenticator shows has no colon.
    let issuer = if link.host.contains(':') { link.label.as_str() } else { &link.host };
    for LinkEntry { door, way, .. } in &link.entries {
        let Way::Totp(scheme) = way else { continue };
        let how = by_hand(&link.host, scheme).unwrap_or_else(|| {
            "its codes cannot be knocked: only knock knows the ports".to_owned()
        });
        doors.push_str(&format!("At the door {door}, {how}\n\n"));
        let digits = match scheme.mode() {
            TotpMode::Code { digits, .. } => digits,
            TotpMode::Ports { .. } => Digits::Six,
        };
        if shown.contains(&(scheme.step(), digits)) {
            continue;
        }
        shown.push((scheme.step(), digits));
        let uri = uri(secret, issuer, client.as_str(), scheme.step(), digits);
        let uri = uri.map_err(Error::unfit)?;
        text.push_str(&format!("For an authenticator app:\n\n{}\n\n", *uri));
        if let Some(colours) = qr {
            text.push_str(&format!("{}\n", *drawn(&uri, colours)));
        }
    }
    text.push_str(&doors);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use crate::proto::Secret;
    use crate::proto::spa::PrivateKey;
    use crate::proto::totp::Protocols;

    fn port(port: u16) -> NonZeroU16 {
        port.try_into().unwrap()
    }

    fn ports(protocol: Protocols, step: u32) -> Scheme {
        let mode = TotpMode::Ports { low: port(20000), high: port(29999), length: 4, protocol };
        Scheme::new(mode, step, 1).unwrap()
    }

    fn code(digits: Digits) -> Scheme {
        Scheme::new(TotpMode::Code { base: 7000, digits }, 30, 1).unwrap()
    }

    #[test]
    fn a_server_known_by_its_address_has_the_name_that_it_gives_itself() {
        for (host, own, expected) in [
            ("box.example.com", "box.example.com", "box"),
            ("192.0.2.1", "box", "box"),
            ("2001:db8::1", "box", "box"),
            ("gw", "box", "gw"),
            (".x", "box", "server"),
        ] {
            assert_eq!(label(host, own).as_str(), expected);
        }
    }

    #[test]
    fn a_code_is_explained_by_an_example() {
        let said = by_hand("gw.example.com", &code(Digits::Six)).unwrap();
        assert!(said.starts_with("for the code 493817 connect to the ports 7049, 7038, 7017 "));
        assert!(said.contains("http://gw.example.com:7049/"), "{said}");
        let said = by_hand("gw.example.com", &code(Digits::Eight)).unwrap();
        assert!(
            said.starts_with("for the code 49381749 connect to the ports 7049, 7038, 7017, 7049")
        );
        assert!(
            by_hand("2001:db8::1", &code(Digits::Six))
                .unwrap()
                .contains("http://[2001:db8::1]:7049/")
        );
        assert_eq!(by_hand("gw.example.com", &ports(Protocols::Tcp, 30)), None);
    }

    /// What a client with a secret is told about these doors, or one with such a key about another.
    fn bundle(rotating: &[(&str, Scheme)], key: Option<PrivateKey>, qr: bool) -> String {
        let entry = |door: &str, way| LinkEntry { door: door.parse().unwrap(), way, wait: None };
        let rotate = rotating.iter().map(|(door, scheme)| entry(door, Way::Totp(*scheme)));
        let asks = rotating.is_empty().then(|| entry("vpn", Way::Spa));
        let secret = Secret::new(b"Hello!\xde\xad\xbe\xefHello!\xde\xad\xbe\xef".to_vec());
        let link = Link {
            host: "gw.example.com".to_owned(),
            label: "gw".parse().unwrap(),
            secret: asks.is_none().then_some(secret),
            server: asks.is_some().then(|| (PrivateKey::from([9; 32]).public(), None)),
            key,
            entries: rotate.chain(asks).collect(),
        };
        let text = text(&"phone".parse().unwrap(), &link, qr.then_some(false)).unwrap();
        let text = text.to_string();
        let printed = text.lines().find(|line| line.starts_with("knock://")).unwrap();
        assert_eq!(Link::decode(printed), Ok(link));
        text
    }

    #[test]
    fn a_client_is_told_all_that_it_needs() {
        let text = bundle(&[("ssh", code(Digits::Six))], None, false);
        for part in [
            "otpauth://totp/gw.example.com:phone?secret=JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP",
            "At the door ssh, for the code 493817 connect",
            "then it is: knock gw\n",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        let text = bundle(&[], Some([7; 32].into()), false);
        assert!(!text.contains("authenticator") && !text.contains("private key"), "{text}");
    }

    #[test]
    fn doors_that_rotate_alike_share_one_uri() {
        let alike = [("ssh", ports(Protocols::Tcp, 30)), ("web", ports(Protocols::Udp, 30))];
        assert_eq!(bundle(&alike, None, false).matches("otpauth://").count(), 1);
        let apart = [("ssh", ports(Protocols::Tcp, 30)), ("web", code(Digits::Eight))];
        assert_eq!(bundle(&apart, None, false).matches("otpauth://").count(), 2);
    }

    #[test]
    fn a_qr_code_is_drawn_of_the_link_and_of_the_uri() {
        let door = [("ssh", code(Digits::Six))];
        assert!(!bundle(&door, None, false).contains('█'));
        let finders = bundle(&door, None, true).matches("█▀▀▀▀▀█ ").count();
        assert!(finders >= 4, "two codes have two corners in their first line each: {finders}");
    }
}
