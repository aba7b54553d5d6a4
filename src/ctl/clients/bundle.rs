//! The text that a client needs: the entries of its hosts file, and how to knock by hand.

use std::net::IpAddr;
use std::num::NonZeroU16;

use zeroize::Zeroizing;

use crate::config::Name;
use crate::ctl::error::Error;
use crate::ctl::qr;
use crate::ctl::yaml_writer::YamlWriter;
use crate::proto::spa::PublicKey;
use crate::proto::totp::{Digits, Protocols, STEP, Scheme, TotpMode, encode_secret, uri};
use crate::proto::{Secret, duration};

/// A code to show what is knocked for it.
const EXAMPLE: [u16; 3] = [49, 38, 17];

/// This host, as its clients know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerName {
    /// A name or an address.
    pub host: String,
    /// A short name, for entries and files.
    label: String,
}

impl ServerName {
    /// `own` is the name that the host has for itself.
    pub(super) fn new(host: Option<&str>, own: &str) -> Self {
        let host = host.unwrap_or(own);
        let named = if host.parse::<IpAddr>().is_ok() { own } else { host };
        let label = named.split('.').next().filter(|label| !label.is_empty()).unwrap_or("server");
        Self { host: host.to_owned(), label: Name::closest(label).to_string() }
    }

    /// The issuer that an authenticator shows, which has no colon.
    pub(super) fn issuer(&self) -> &str {
        if self.host.contains(':') { &self.label } else { &self.host }
    }

    /// The name of a file beside the client's hosts file.
    pub(super) fn file(&self, ending: &str) -> String {
        format!("{}.{ending}", self.label)
    }
}

/// One way into one door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostsEntry {
    pub door: Name,
    pub mode: HostsMode,
    /// A TCP port that it opens.
    pub wait: Option<NonZeroU16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HostsMode {
    Totp(Scheme),
    Spa {
        /// The server's.
        key: PublicKey,
        /// Where it listens: a port or a range; `None`: where all do.
        port: Option<String>,
    },
}

impl HostsMode {
    /// Its word in a hosts file.
    const fn word(&self) -> &'static str {
        match self {
            Self::Totp(_) => "totp",
            Self::Spa { .. } => "spa",
        }
    }
}

/// A hosts file for `knock` with these entries.
pub(super) fn hosts(server: &ServerName, entries: &[HostsEntry]) -> String {
    let mut page = YamlWriter::default();
    page.open(0, "hosts");
    for entry in entries {
        page.open(1, &name(server, entry, entries));
        write_entry(&mut page, server, entry);
    }
    page.into_text()
}

/// The names of all entries, as they are given to `knock`.
pub(super) fn names(server: &ServerName, entries: &[HostsEntry]) -> Vec<String> {
    entries.iter().map(|entry| name(server, entry, entries)).collect()
}

/// The label, and as much more as it takes to tell the entries apart.
fn name(server: &ServerName, entry: &HostsEntry, all: &[HostsEntry]) -> String {
    let mut name = server.label.clone();
    if all.iter().any(|other| other.door != entry.door) {
        name.push_str(&format!("-{}", entry.door));
    }
    if all.iter().any(|other| other.door == entry.door && other.mode != entry.mode) {
        name.push_str(&format!("-{}", entry.mode.word()));
    }
    name
}

fn write_entry(page: &mut YamlWriter, server: &ServerName, entry: &HostsEntry) {
    page.entry(2, "host", &server.host);
    page.entry(2, "mode", entry.mode.word());
    page.entry(2, "door", entry.door.as_str());
    match &entry.mode {
        HostsMode::Totp(scheme) => {
            match scheme.mode() {
                TotpMode::Ports { low, high, length, protocol } => {
                    page.entry(2, "ports", &format!("{low}-{high}"));
                    page.entry(2, "length", &length.to_string());
                    let unusual = (protocol != Protocols::Tcp).then_some(protocol.as_str());
                    page.optional(2, "protocol", unusual);
                }
                TotpMode::Code { base, digits } => {
                    page.entry(2, "base", &base.to_string());
                    page.optional(2, "digits", (digits != Digits::Six).then(|| digits.count()));
                }
            }
            let unusual = Some(scheme.step_length()).filter(|_| scheme.step() != STEP);
            page.optional(2, "step", unusual.map(duration::format));
            page.entry(2, "secret_file", &server.file("totp"));
        }
        HostsMode::Spa { key, port } => {
            page.entry(2, "server_key", &key.to_string());
            page.entry(2, "key_file", &server.file("key"));
            page.optional(2, "spa_port", port.as_ref());
        }
    }
    page.optional(2, "wait", entry.wait);
}

/// How to knock with nothing but a code in hand; `None` where that cannot be done.
pub(super) fn by_hand(server: &ServerName, scheme: &Scheme) -> Option<String> {
    let TotpMode::Code { base, digits } = scheme.mode() else { return None };
    let pairs = EXAMPLE.iter().cycle().take(digits.count() / 2);
    let (code, ports): (String, Vec<String>) =
        pairs.map(|pair| (format!("{pair:02}"), base.saturating_add(*pair).to_string())).collect();
    let host = match server.host.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => server.host.clone(),
    };
    let first = ports.first().cloned().unwrap_or_default();
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

/// The text for a client that is enrolled.
pub(super) struct Bundle<'a> {
    pub client: &'a Name,
    pub server: &'a ServerName,
    pub entries: &'a [HostsEntry],
    /// Its new TOTP secret.
    pub secret: Option<&'a Secret>,
    /// Its new private key for SPA, where it was made here.
    pub key: Option<&'a str>,
    /// Whether it is to have codes too, and those whether in colours.
    pub qr: Option<bool>,
}

impl Bundle<'_> {
    /// All of it, for the one who is enrolled.
    ///
    /// # Errors
    /// When a name does not fit into a URI.
    pub(super) fn text(&self) -> Result<Zeroizing<String>, Error> {
        let mut text = Zeroizing::new(String::new());
        if let Some(secret) = self.secret {
            self.add_authenticator(&mut text, secret)?;
        }
        let hosts = hosts(self.server, self.entries);
        let names = names(self.server, self.entries);
        text.push_str(&format!(
            "For knock, in ~/.config/knock/hosts.yaml; then it is: knock {}\n\n{hosts}\n",
            names.join(", or knock ")
        ));
        let secret = self.secret.map(encode_secret);
        let secret = secret.as_ref().map(|secret| secret.as_str());
        for (secret, ending) in [(secret, "totp"), (self.key, "key")] {
            if let Some(secret) = secret {
                let file = self.server.file(ending);
                text.push_str(&format!(
                    "And in ~/.config/knock/{file}, which nobody else may read (chmod 600):\n\n\
                     {secret}\n\n"
                ));
            }
        }
        let is_spa = |entry: &HostsEntry| matches!(entry.mode, HostsMode::Spa { .. });
        if self.key.is_none() && self.entries.iter().any(is_spa) {
            text.push_str("Its key_file is the file that 'knock --keygen' has made.\n\n");
        }
        if let Some((key, colours)) = self.key.zip(self.qr) {
            let all = Zeroizing::new(format!("{hosts}\n# {}:\n{key}\n", self.server.file("key")));
            text.push_str(&drawn(&all, colours));
        }
        Ok(text)
    }

    fn add_authenticator(&self, text: &mut String, secret: &Secret) -> Result<(), Error> {
        let (mut shown, mut doors) = (Vec::new(), String::new());
        for HostsEntry { door, mode, .. } in self.entries {
            let HostsMode::Totp(scheme) = mode else { continue };
            let how = by_hand(self.server, scheme).unwrap_or_else(|| {
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
            let (issuer, account) = (self.server.issuer(), self.client.as_str());
            let uri = uri(secret, issuer, account, scheme.step(), digits).map_err(Error::unfit)?;
            text.push_str(&format!("For an authenticator app:\n\n{}\n\n", *uri));
            if let Some(colours) = self.qr {
                text.push_str(&drawn(&uri, colours));
                text.push('\n');
            }
        }
        text.push_str(&doors);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(port: u16) -> NonZeroU16 {
        port.try_into().unwrap()
    }

    fn gateway() -> ServerName {
        ServerName::new(Some("gw.example.com"), "box")
    }

    fn ports(protocol: Protocols, step: u32) -> HostsMode {
        let mode = TotpMode::Ports { low: port(20000), high: port(29999), length: 4, protocol };
        HostsMode::Totp(Scheme::new(mode, step, 1).unwrap())
    }

    fn code(digits: Digits) -> Scheme {
        Scheme::new(TotpMode::Code { base: 7000, digits }, 30, 1).unwrap()
    }

    fn spa(port: Option<&str>) -> HostsMode {
        let key = "4BbmHjtWeVM7bEaAdK2cj0F9oCf/oNUue5BUuSUn6kA=".parse().unwrap();
        HostsMode::Spa { key, port: port.map(str::to_owned) }
    }

    fn entry(door: &str, mode: HostsMode) -> HostsEntry {
        HostsEntry { door: door.parse().unwrap(), mode, wait: Some(port(22)) }
    }

    #[test]
    fn an_entry_says_what_knock_cannot_know_and_leaves_out_what_is_usual() {
        assert_eq!(
            hosts(&gateway(), &[entry("ssh", ports(Protocols::Tcp, 30))]),
            "hosts:
  gw:
    host: gw.example.com
    mode: totp
    door: ssh
    ports: 20000-29999
    length: 4
    secret_file: gw.totp
    wait: 22
"
        );
        let text = hosts(&gateway(), &[entry("ssh", ports(Protocols::Mixed, 90))]);
        assert!(text.contains("    protocol: mixed\n    step: 1m30s\n"), "{text}");
        let text = hosts(&gateway(), &[entry("ssh", HostsMode::Totp(code(Digits::Eight)))]);
        assert!(text.contains("    base: 7000\n    digits: 8\n"), "{text}");
        let text = hosts(&gateway(), &[entry("ssh", spa(Some("62000-62999")))]);
        let expected = "    server_key: 4BbmHjtWeVM7bEaAdK2cj0F9oCf/oNUue5BUuSUn6kA=\n    \
                        key_file: gw.key\n    spa_port: 62000-62999\n    wait: 22\n";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn entries_have_names_that_tell_them_apart() {
        let totp = || ports(Protocols::Tcp, 30);
        let of = |entries: &[HostsEntry]| names(&gateway(), entries);
        assert_eq!(of(&[entry("ssh", totp())]), ["gw"]);
        assert_eq!(of(&[entry("ssh", totp()), entry("web", totp())]), ["gw-ssh", "gw-web"]);
        assert_eq!(of(&[entry("ssh", totp()), entry("ssh", spa(None))]), ["gw-totp", "gw-spa"]);
        assert_eq!(
            of(&[entry("ssh", totp()), entry("ssh", spa(None)), entry("web", totp())]),
            ["gw-ssh-totp", "gw-ssh-spa", "gw-web"]
        );
    }

    #[test]
    fn a_server_known_by_its_address_has_the_name_that_it_gives_itself() {
        for (host, own, label, issuer) in [
            (None, "box.example.com", "box", "box.example.com"),
            (Some("192.0.2.1"), "box", "box", "192.0.2.1"),
            (Some("2001:db8::1"), "box", "box", "box"),
            (Some("gw"), "box", "gw", "gw"),
            (Some(".x"), "box", "server", ".x"),
        ] {
            let server = ServerName::new(host, own);
            assert_eq!((&*server.label, server.issuer()), (label, issuer));
        }
    }

    #[test]
    fn a_code_is_explained_by_an_example() {
        let said = by_hand(&gateway(), &code(Digits::Six)).unwrap();
        assert!(said.starts_with("for the code 493817 connect to the ports 7049, 7038, 7017 "));
        assert!(said.contains("http://gw.example.com:7049/"), "{said}");
        let said = by_hand(&gateway(), &code(Digits::Eight)).unwrap();
        assert!(
            said.starts_with("for the code 49381749 connect to the ports 7049, 7038, 7017, 7049")
        );
        let address = ServerName::new(Some("2001:db8::1"), "box");
        assert!(
            by_hand(&address, &code(Digits::Six)).unwrap().contains("http://[2001:db8::1]:7049/")
        );
        let HostsMode::Totp(scheme) = ports(Protocols::Tcp, 30) else { panic!("it is a scheme") };
        assert_eq!(by_hand(&gateway(), &scheme), None);
    }

    fn bundle(entries: &[HostsEntry], qr: bool) -> String {
        let secret = Secret::new(b"Hello!\xde\xad\xbe\xefHello!\xde\xad\xbe\xef".to_vec());
        let has_spa = entries.iter().any(|entry| matches!(entry.mode, HostsMode::Spa { .. }));
        let bundle = Bundle {
            client: &"phone".parse().unwrap(),
            server: &gateway(),
            entries,
            secret: entries
                .iter()
                .any(|entry| matches!(entry.mode, HostsMode::Totp(_)))
                .then_some(&secret),
            key: has_spa.then_some("PRIVATE"),
            qr: qr.then_some(false),
        };
        bundle.text().unwrap().to_string()
    }

    #[test]
    fn a_client_is_told_all_that_it_needs() {
        let text = bundle(&[entry("ssh", HostsMode::Totp(code(Digits::Six)))], false);
        for part in [
            "otpauth://totp/gw.example.com:phone?secret=JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP",
            "At the door ssh, for the code 493817 connect",
            "\nhosts:\n  gw:\n",
            "then it is: knock gw\n",
            "~/.config/knock/gw.totp",
            "\nJBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP\n",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        let text = bundle(&[entry("ssh", spa(None))], false);
        assert!(text.contains("~/.config/knock/gw.key") && text.contains("\nPRIVATE\n"), "{text}");
        assert!(!text.contains("authenticator"), "{text}");
    }

    #[test]
    fn knock_reads_every_entry_without_a_doubt() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts.yaml");
        let entries = [
            entry("ssh", ports(Protocols::Tcp, 30)),
            entry("null", ports(Protocols::Mixed, 90)),
            entry("-x", HostsMode::Totp(code(Digits::Six))),
            HostsEntry { wait: None, ..entry("8", HostsMode::Totp(code(Digits::Eight))) },
            entry("ssh", spa(None)),
            entry("web", spa(Some("62000-62999"))),
        ];
        for host in ["gw.example.com", "192.0.2.1", "2001:db8::1"] {
            let server = ServerName::new(Some(host), "null");
            std::fs::write(&path, hosts(&server, &entries)).unwrap();
            let (read, doubts) = crate::client::hosts::read(&path).unwrap();
            assert!(doubts.is_empty(), "{doubts:?}");
            for name in names(&server, &entries) {
                let found = read.find(&name, None, None).unwrap();
                assert!(found.is_some(), "{name}");
            }
        }
    }

    #[test]
    fn doors_that_rotate_alike_share_one_uri() {
        let alike =
            [entry("ssh", ports(Protocols::Tcp, 30)), entry("web", ports(Protocols::Udp, 30))];
        assert_eq!(bundle(&alike, false).matches("otpauth://").count(), 1);
        let apart = [
            entry("ssh", ports(Protocols::Tcp, 30)),
            entry("web", HostsMode::Totp(code(Digits::Eight))),
        ];
        assert_eq!(bundle(&apart, false).matches("otpauth://").count(), 2);
    }

    #[test]
    fn a_qr_code_is_drawn_of_each_secret() {
        let both = [entry("ssh", HostsMode::Totp(code(Digits::Six))), entry("ssh", spa(None))];
        assert!(!bundle(&both, false).contains('█'));
        let finders = bundle(&both, true).matches("█▀▀▀▀▀█ ").count();
        assert!(finders >= 4, "two codes have two corners in their first line each: {finders}");
    }
}
