//! `knock://` links: in one line all that a client is told when it is enrolled; see knock-spa(7).

use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::num::NonZeroU16;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::escape::escape;
use super::fwknop::Hash;
use super::knock::Knock;
use super::name::Name;
use super::port_range::PortRange;
use super::secret::Secret;
use super::spa::{PrivateKey, PublicKey};
use super::totp::Scheme;

/// What a link begins with, and its version.
const START: &str = "knock://1/";
/// Characters that say how many follow: a mistyped one of them touches nothing else.
const HEAD: usize = 4;
/// No link has as many bytes; one of a hundred doors has a fifth.
const MAX_BYTES: usize = 16_384;
/// How many bytes fwknop's keys have together: 32 of the one for the encryption, 64 of the one for the
/// HMAC.
pub const FWKNOP_KEYS: usize = 96;
const CONTEXT: &[u8] = b"knock link v1\0";

/// All that a client is told of a server. What is new to the client has its secret with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// A name or an address.
    pub host: String,
    /// What entries and files are called.
    pub label: Name,
    /// The TOTP secret.
    pub secret: Option<Secret>,
    /// The private key for SPA.
    pub key: Option<PrivateKey>,
    /// The server's public key, and where it listens to requests; `None`: where all do.
    pub server: Option<(PublicKey, Option<PortRange>)>,
    /// At least one.
    pub entries: Vec<LinkEntry>,
}

/// One way into one door.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkEntry {
    pub door: Name,
    pub way: Way,
    /// A TCP port that it opens.
    pub wait: Option<NonZeroU16>,
}

/// The way in which an entry's door is asked to open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    Spa,
    /// Sequences that rotate.
    Totp(Scheme),
    /// A request of fwknop's.
    Fwknop(FwknopWay),
}

/// All that a request of fwknop's takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FwknopWay {
    /// Both keys, see [`FWKNOP_KEYS`]; those of the first entry that has them count.
    pub keys: Option<Secret>,
    /// That of the HMAC.
    pub hash: Hash,
    /// Where the server listens to it; `None`: where all do.
    pub port: Option<NonZeroU16>,
    /// At least one that the door opens.
    pub ports: Vec<Knock>,
    /// Where these shall lead, if not to the server.
    pub nat: Option<SocketAddrV4>,
}

/// The reason why a text is not a link. Nothing of it is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    #[error("this is no link of 'knockctl enroll': one begins with {START}")]
    Foreign,
    #[error("the link is cut off, and {0} characters of it are missing: copy it to its end")]
    CutOff(usize),
    #[error("the link has a wrong character, or one too many: copy it anew")]
    Mistyped,
    #[error("the link is of a newer knockctl, and a newer knock reads it")]
    Newer,
    #[error("this is more than a link holds: enroll the client for fewer doors")]
    TooLong,
}

impl Link {
    /// The names of the entries, as they are given to `knock`: the label, and as much more as it
    /// takes to tell them apart.
    pub fn names(&self) -> Vec<String> {
        let doors: BTreeSet<&Name> = self.entries.iter().map(|entry| &entry.door).collect();
        let name = |entry: &LinkEntry| {
            let door = (doors.len() > 1).then(|| entry.door.as_str());
            // As a way into another door may be called.
            let taken = |it: &LinkEntry| format!("{}-{}", it.door, it.mode());
            let alike = |it: &&LinkEntry| it.door == entry.door || taken(it) == entry.door.as_str();
            let ways = self.entries.iter().filter(alike).count();
            let more = door.into_iter().chain((ways > 1).then(|| entry.mode()));
            more.fold(self.label.to_string(), |name, more| format!("{name}-{more}"))
        };
        self.entries.iter().map(name).collect()
    }

    /// Both keys of fwknop's in base64, where they are new to the client.
    pub fn fwknop_keys(&self) -> Option<[Zeroizing<String>; 2]> {
        let keys = self.entries.iter().find_map(|entry| entry.fwknop()?.keys.as_ref())?;
        let (key, hmac_key) = keys.expose().split_at_checked(32)?;
        Some([key, hmac_key].map(|key| Zeroizing::new(BASE64.encode(key))))
    }

    /// The link as a text of one line.
    ///
    /// # Errors
    /// [`LinkError::TooLong`]
    pub fn encode(&self) -> Result<Zeroizing<String>, LinkError> {
        let mut bytes = Zeroizing::new(vec![0; MAX_BYTES]);
        let length = postcard::to_slice(self, &mut bytes).map_err(|_| LinkError::TooLong)?.len();
        bytes.truncate(length);
        let sum = checksum(&bytes);
        bytes.extend(sum);
        let count = BASE64URL_NOPAD.encode_len(bytes.len());
        // Never grown: no copy of a secret stays behind.
        let mut text = Zeroizing::new(String::with_capacity(START.len() + HEAD + count));
        text.push_str(START);
        let [.., high, middle, low] = count.to_be_bytes();
        BASE64URL_NOPAD.encode_append(&[high, middle, low], &mut text);
        BASE64URL_NOPAD.encode_append(&bytes, &mut text);
        Ok(text)
    }

    /// Reads a link; blanks and ends of lines in it are passed over, as mail breaks it, and so is
    /// what stands behind it.
    ///
    /// # Errors
    /// [`LinkError`], which tells a text that is none from one that was damaged on its way.
    pub fn decode(text: &str) -> Result<Self, LinkError> {
        let mut whole = Zeroizing::new(String::with_capacity(text.len()));
        whole.extend(text.chars().filter(|c| !c.is_ascii_whitespace()));
        let (start, coded) = whole.split_at_checked(START.len()).ok_or(LinkError::Foreign)?;
        if !start.eq_ignore_ascii_case(START) {
            let is_versioned = matches!(start.as_bytes(), [.., b'0'..=b'9', b'/']);
            let is_newer = is_versioned && Self::is_meant(start);
            return Err(if is_newer { LinkError::Newer } else { LinkError::Foreign });
        } else if coded.len() < HEAD {
            return Err(LinkError::CutOff(HEAD));
        }
        let (head, rest) = coded.split_at_checked(HEAD).ok_or(LinkError::Mistyped)?;
        let head = BASE64URL_NOPAD.decode(head.as_bytes()).ok();
        let count = head.map(|it| it.iter().fold(0, |count, byte| count << 8 | usize::from(*byte)));
        let rest = count.and_then(|count| rest.get(..count)).unwrap_or(rest);
        let bytes = BASE64URL_NOPAD.decode(rest.as_bytes()).map(Zeroizing::new);
        let body = bytes.as_ref().ok().and_then(|bytes| bytes.split_last_chunk());
        match (body.filter(|(body, sum)| checksum(body) == **sum), count) {
            (Some((body, _)), Some(count)) if count == rest.len() => {
                let link: Self = postcard::from_bytes(body).map_err(|_| LinkError::Newer)?;
                // One link has one text.
                let is_whole = link.is_valid() && link.encode()?.ends_with(rest);
                is_whole.then_some(link).ok_or(LinkError::Newer)
            }
            (None, Some(count)) if count > rest.len() => Err(LinkError::CutOff(count - rest.len())),
            _ => Err(LinkError::Mistyped),
        }
    }

    /// Whether a text begins as a link does, of whatever version.
    pub fn is_meant(text: &str) -> bool {
        text.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("knock://"))
    }

    /// Whether all is as its types cannot say.
    fn is_valid(&self) -> bool {
        let range = self.server.as_ref().and_then(|(_, range)| range.as_ref());
        let mut ways = BTreeSet::new();
        let mut keys = self.entries.iter().filter_map(|entry| entry.fwknop()?.keys.as_ref());
        !self.host.is_empty()
            && !self.host.contains(char::is_whitespace)
            && escape(&self.host) == self.host
            && self.secret.as_ref().is_none_or(|it| it.expose().len() >= 16)
            && range.is_none_or(|range| !range.is_empty())
            && !self.entries.is_empty()
            && self.entries.iter().all(|it| ways.insert((&it.door, it.mode())))
            && keys.all(|keys| keys.expose().len() == FWKNOP_KEYS)
            && self.entries.iter().any(|it| it.way == Way::Spa) == self.server.is_some()
    }
}

impl LinkEntry {
    /// Its word in a hosts file.
    pub const fn mode(&self) -> &'static str {
        match self.way {
            Way::Spa => "spa",
            Way::Totp(_) => "totp",
            Way::Fwknop(_) => "fwknop",
        }
    }

    /// How it is asked by requests of fwknop's, if so.
    pub const fn fwknop(&self) -> Option<&FwknopWay> {
        if let Way::Fwknop(asked) = &self.way { Some(asked) } else { None }
    }
}

fn checksum(body: &[u8]) -> [u8; 4] {
    let hash: [u8; 32] = Sha256::new().chain_update(CONTEXT).chain_update(body).finalize().into();
    hash.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::proto::knock::Protocol;
    use crate::proto::totp::{Digits, Protocols, TotpMode};

    const KEY: &str = "4BbmHjtWeVM7bEaAdK2cj0F9oCf/oNUue5BUuSUn6kA=";

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn spa(door: &str) -> LinkEntry {
        LinkEntry { door: name(door), way: Way::Spa, wait: NonZeroU16::new(22) }
    }

    fn totp(door: &str) -> LinkEntry {
        let mode = TotpMode::Code { base: 7000, digits: Digits::Six };
        LinkEntry { way: Way::Totp(Scheme::new(mode, 30, 1).unwrap()), ..spa(door) }
    }

    fn fwknop(door: &str) -> LinkEntry {
        LinkEntry { way: Way::Fwknop(asked()), ..spa(door) }
    }

    fn asked() -> FwknopWay {
        FwknopWay {
            keys: Some(Secret::from([8; FWKNOP_KEYS])),
            hash: Hash::Sha256,
            port: None,
            ports: vec!["22/tcp".parse().unwrap()],
            nat: None,
        }
    }

    fn link(entries: &[LinkEntry]) -> Link {
        Link {
            host: "gw.example.com".to_owned(),
            label: name("gw"),
            secret: Some(Secret::new(b"12345678901234567890".to_vec())),
            key: Some([7; 32].into()),
            server: entries
                .iter()
                .any(|it| it.way == Way::Spa)
                .then(|| (KEY.parse().unwrap(), None)),
            entries: entries.to_vec(),
        }
    }

    fn whole() -> (Link, String) {
        let link = link(&[spa("ssh"), totp("ssh"), fwknop("ssh"), totp("web")]);
        let text = link.encode().unwrap().to_string();
        (link, text)
    }

    /// The link with these bytes in it, whole as it is.
    fn of_body(body: &[u8]) -> String {
        let bytes = [body, &checksum(body)].concat();
        let rest = BASE64URL_NOPAD.encode(&bytes);
        let [.., high, middle, low] = rest.len().to_be_bytes();
        format!("knock://1/{}{rest}", BASE64URL_NOPAD.encode(&[high, middle, low]))
    }

    #[test]
    fn a_link_is_read_as_it_was_written() {
        let (link, text) = whole();
        assert!(text.starts_with("knock://1/"), "{text}");
        assert_eq!(Link::decode(&text), Ok(link));
    }

    #[test]
    fn mail_may_break_a_link_and_a_scheme_may_be_shouted() {
        let (link, text) = whole();
        let broken: Vec<&str> =
            text.as_bytes().chunks(20).map(|it| std::str::from_utf8(it).unwrap()).collect();
        assert_eq!(
            Link::decode(&format!("  {}\r\n", broken.join("=\n").replace('=', "\t"))),
            Ok(link.clone())
        );
        assert_eq!(Link::decode(&text.replacen("knock", "KNOCK", 1)), Ok(link));
    }

    #[test]
    fn what_stands_behind_a_link_is_passed_over() {
        let (link, text) = whole();
        for behind in [".", "A", "\u{201d}", ">, and thanks", "\u{1b}[0m", "\0", "knock://1/AAAA"] {
            assert_eq!(Link::decode(&format!("{text}{behind}")), Ok(link.clone()), "{behind}");
        }
    }

    #[test]
    fn a_link_that_is_cut_off_anywhere_says_how_much_is_missing() {
        let (_, text) = whole();
        let start = "knock://1/".len();
        for at in start + HEAD..text.len() {
            let missing = text.len() - at;
            assert_eq!(Link::decode(&text[..at]), Err(LinkError::CutOff(missing)));
        }
        for at in start..start + HEAD {
            assert_eq!(Link::decode(&text[..at]), Err(LinkError::CutOff(HEAD)));
        }
    }

    #[test]
    fn one_wrong_character_anywhere_is_told_from_a_link_that_is_cut_off() {
        let (_, text) = whole();
        for (at, right) in text.char_indices().skip("knock://1/".len()) {
            for wrong in ['A', 'B', 'l', '_', '.', 'ß', '9'].into_iter().filter(|it| *it != right)
            {
                let mut text = text.clone();
                text.replace_range(at..=at, &wrong.to_string());
                // Where it is longer than before, too.
                assert_eq!(Link::decode(&text), Err(LinkError::Mistyped), "{at} {wrong}");
            }
        }
    }

    #[test]
    fn what_is_no_link_and_what_is_a_newer_one_are_told_apart() {
        for text in
            ["", "knock", "https://example.com/1/AAAA", "knock://gw.example.com/", "knock://x/AAAA"]
        {
            assert_eq!(Link::decode(text), Err(LinkError::Foreign), "{text}");
        }
        assert_eq!(Link::decode("knock://2/AAAA"), Err(LinkError::Newer));
        // Something after all that this version has.
        let mut body = {
            let mut buffer = [0; 999];
            postcard::to_slice(&link(&[spa("ssh")]), &mut buffer).unwrap().to_vec()
        };
        body.push(0);
        assert_eq!(Link::decode(&of_body(&body)), Err(LinkError::Newer));
    }

    #[test]
    fn a_whole_link_that_says_what_cannot_be_is_not_taken() {
        let whole = || link(&[spa("ssh"), totp("ssh")]);
        let range = |low: u16, high: u16| low.try_into().unwrap()..=high.try_into().unwrap();
        let server = |range| Some((KEY.parse().unwrap(), Some(range)));
        let short = FwknopWay { keys: Some(Secret::new(vec![8; FWKNOP_KEYS - 1])), ..asked() };
        for wrong in [
            Link { host: String::new(), ..whole() },
            Link { host: "a b".to_owned(), ..whole() },
            Link { host: "a\u{1b}b".to_owned(), ..whole() },
            Link { host: "a\u{202e}b".to_owned(), ..whole() },
            Link { secret: Some(Secret::new(vec![1; 15])), ..whole() },
            Link { server: None, ..whole() },
            Link { server: whole().server, ..link(&[totp("ssh")]) },
            Link { server: server(range(2, 1)), ..whole() },
            link(&[]),
            link(&[LinkEntry { way: Way::Fwknop(short), ..spa("ssh") }]),
            link(&[spa("ssh"), totp("web"), spa("ssh")]),
        ] {
            assert_eq!(Link::decode(&wrong.encode().unwrap()), Err(LinkError::Newer), "{wrong:?}");
        }
        let good = Link { server: server(range(1, 2)), ..whole() };
        assert_eq!(Link::decode(&good.encode().unwrap()), Ok(good));
    }

    #[test]
    fn entries_have_names_that_tell_them_apart() {
        let of = |entries: &[LinkEntry]| link(entries).names();
        assert_eq!(of(&[totp("ssh")]), ["gw"]);
        assert_eq!(of(&[totp("ssh"), totp("web")]), ["gw-ssh", "gw-web"]);
        assert_eq!(of(&[totp("ssh"), spa("ssh")]), ["gw-totp", "gw-spa"]);
        assert_eq!(
            of(&[totp("ssh"), spa("ssh"), totp("web")]),
            ["gw-ssh-totp", "gw-ssh-spa", "gw-web"]
        );
        assert_eq!(of(&[fwknop("ssh"), spa("ssh")]), ["gw-fwknop", "gw-spa"]);
        assert_eq!(
            of(&[totp("ssh"), spa("ssh"), spa("ssh-spa")]),
            ["gw-ssh-totp", "gw-ssh-spa", "gw-ssh-spa-spa"]
        );
    }

    #[test]
    fn more_than_a_link_holds_is_refused_rather_than_cut() {
        let long = Link { host: "x".repeat(MAX_BYTES), ..link(&[spa("ssh")]) };
        assert_eq!(long.encode(), Err(LinkError::TooLong));
        let many: Vec<LinkEntry> = (0..1200).map(|at| totp(&format!("door-{at}"))).collect();
        assert_eq!(link(&many).encode(), Err(LinkError::TooLong));
        assert!(Link::decode(&link(&many[..300]).encode().unwrap()).is_ok());
    }

    #[test]
    fn no_output_shows_a_secret() {
        let (link, text) = whole();
        let shown = format!("{link:?}");
        assert_eq!(shown.matches("Secret(..)").count(), 3, "of three ways: {shown}");
        assert!(["7, 7", "8, 8"].iter().all(|key| !shown.contains(key)), "{shown}");
        let error = Link::decode(&text[1..]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(&text[20..40]));
    }

    prop_compose! {
        fn scheme()(
            low in 1u16..60000, width in 0u16..5000, length in 3u8..=8,
            protocol in select(Protocols::ALL.to_vec()), digits in select(Digits::ALL.to_vec()),
            step in 1u32..=3600, skew in 0u8..=10, by_code: bool,
        ) -> Scheme {
            let (low, high) = (low.try_into().unwrap(), (low + width).try_into().unwrap());
            let mode = if by_code {
                TotpMode::Code { base: width + 1, digits }
            } else {
                TotpMode::Ports { low, high, length, protocol }
            };
            Scheme::new(mode, step, skew).unwrap()
        }
    }

    prop_compose! {
        fn way()(
            scheme in scheme(), ports in prop::collection::vec(any::<(bool, NonZeroU16)>(), 1..11),
            nat: Option<(std::net::Ipv4Addr, NonZeroU16)>, hash in select(Hash::ALL.to_vec()),
            port: Option<NonZeroU16>, which in 0..3usize,
        ) -> Way {
            let knock = |(is_tcp, port)| {
                Knock::new(if is_tcp { Protocol::Tcp } else { Protocol::Udp }, port)
            };
            let nat = nat.map(|(to, port)| SocketAddrV4::new(to, port.get()));
            let ports = ports.into_iter().map(knock).collect();
            let asked = FwknopWay { keys: None, hash, port, ports, nat };
            [Way::Spa, Way::Totp(scheme), Way::Fwknop(asked)][which].clone()
        }
    }

    proptest! {
        #[test]
        fn every_link_comes_back_and_has_one_text(
            host in "[!-~äöü]{1,60}",
            label in "[A-Za-z0-9_.-]{1,32}",
            secret in prop::option::of(prop::collection::vec(any::<u8>(), 16..65)),
            key: Option<[u8; 32]>,
            port: Option<NonZeroU16>,
            ways in prop::collection::btree_map(
                "[a-z]{1,32}", (way(), any::<Option<NonZeroU16>>()), 1..5,
            ),
            keys: bool,
        ) {
            let entry = |(door, (way, wait)): (String, _)| LinkEntry { door: name(&door), way, wait };
            let mut entries: Vec<LinkEntry> = ways.into_iter().map(entry).collect();
            let server = || (KEY.parse().unwrap(), port.map(|port| port..=NonZeroU16::MAX));
            let mut asked = entries.iter_mut().filter_map(|it| match &mut it.way {
                Way::Fwknop(asked) => Some(asked),
                _ => None,
            });
            if let Some(asked) = asked.next().filter(|_| keys) {
                asked.keys = Some(Secret::from([8; FWKNOP_KEYS]));
            }
            let link = Link {
                host,
                label: name(&label),
                secret: secret.map(Secret::new),
                key: key.map(Into::into),
                server: entries.iter().any(|it| it.way == Way::Spa).then(server),
                entries,
            };
            let text = link.encode().unwrap();
            prop_assert_eq!(Link::decode(&text), Ok(link));
        }

        #[test]
        fn whatever_is_read_is_written_alike(
            at: prop::sample::Index, to: u8, more in prop::collection::vec(any::<u8>(), 0..3),
        ) {
            let mut buffer = [0; 999];
            let link = link(&[spa("ssh"), totp("ssh"), fwknop("ssh"), totp("web")]);
            let mut body = postcard::to_slice(&link, &mut buffer).unwrap().to_vec();
            let at = at.index(body.len());
            body[at] = to;
            body.extend(more);
            let text = of_body(&body);
            if let Ok(link) = Link::decode(&text) {
                prop_assert_eq!(&*link.encode().unwrap(), &text);
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "(knock://1/)?[A-Za-z0-9_-]{0,60}.{0,9}") {
            let _ = Link::decode(&text);
        }
    }
}
