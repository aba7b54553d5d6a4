//! A reader of `~/.fwknoprc`, the file of fwknop's own client, as that client reads it.

use std::error::Error;
use std::net::Ipv4Addr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;

use super::settings::ClientSettings;
use super::values::{self, Address};
use crate::proto::PortRange;
use crate::proto::fwknop::{FwknopKey, FwknopKeyError, HmacKey, read_ports};
use crate::proto::knock::parse_port;
use crate::proto::spa::NamedAddresses;

/// The stanza that comes before every other.
const DEFAULT: &str = "default";

/// The ports that fwknop chooses from if it is to choose itself.
const RANDOM: PortRange = {
    let low = NonZeroU16::new(10_000).expect("is not zero");
    low..=NonZeroU16::new(65_534).expect("is not zero")
};

/// A stanza of the file, with that of `[default]` below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RcStanza {
    pub server: Option<String>,
    /// The part that options can say too.
    pub settings: ClientSettings,
    /// The port that the datagram is sent from.
    pub source_port: Option<NonZeroU16>,
    pub keys: RcKeys,
    /// The file with the key, if that is not here.
    pub key_file: Option<PathBuf>,
    /// An HMAC is wanted, also where no key for it is here.
    pub use_hmac: bool,
}

/// The keys of a stanza, or of a file that `fwknop --key-gen` wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RcKeys {
    pub key: Option<FwknopKey>,
    pub hmac: Option<HmacKey>,
}

impl RcKeys {
    /// Takes the value of a variable; returns false where the variable is not for a key.
    ///
    /// # Errors
    /// [`FwknopKeyError`] if it cannot be the key.
    pub(super) fn take(&mut self, name: &str, value: &str) -> Result<bool, FwknopKeyError> {
        match name {
            "KEY" => self.key = Some(FwknopKey::new(value.into())?),
            "KEY_BASE64" => self.key = Some(FwknopKey::from_base64(value)?),
            "HMAC_KEY" => self.hmac = Some(HmacKey::new(value.into())?),
            "HMAC_KEY_BASE64" => self.hmac = Some(HmacKey::from_base64(value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// An error in the file, as it follows the file's name and a colon. Shows no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RcError {
    #[error(" there is no stanza [{0}] in it")]
    NoStanza(String),
    #[error("{line}: {error}")]
    Line { line: usize, error: String },
}

/// Reads the stanza of this name, in either case of letters, on top of `[default]`.
///
/// As fwknop does: a value ends at the first blank, `;` or `#`; what stands later counts, except
/// that `KEY` and `HMAC_KEY` win over those in base64; other stanzas are not looked at. What does
/// not count is not looked at either: variables that are `settled` by an option, those of
/// `[default]` that the stanza gives too, and those that are given anew further down.
///
/// # Errors
/// [`RcError`] if there is no such stanza, if a line of it is wrong, or if it asks for what is not
/// done here.
pub fn read(text: &str, name: &str, settled: &[&str]) -> Result<RcStanza, RcError> {
    let mut heads = text.lines().filter_map(|line| head(line.trim()));
    if !heads.any(|head| head.eq_ignore_ascii_case(name)) {
        return Err(RcError::NoStanza(name.to_owned()));
    }
    let given: Vec<&str> = lines_of(text, name).filter_map(|(_, line)| variable(line)).collect();
    let counts = |line, others: &[&str]| variable(line).is_none_or(|name| !others.contains(&name));
    let default = lines_of(text, DEFAULT).filter(|(_, line)| counts(line, &given));
    let mut variables: Vec<(usize, &str, &str)> = Vec::new();
    for (line, text) in default.chain(lines_of(text, name)).filter(|(_, it)| counts(it, settled)) {
        let error = "not a name and a value, with a blank between the two";
        let (name, value) =
            pair(text).ok_or_else(|| RcError::Line { line, error: error.to_owned() })?;
        variables.retain(|(_, earlier, _)| *earlier != name);
        variables.push((line, name, value));
    }
    let names: Vec<&str> = variables.iter().map(|(_, name, _)| *name).collect();
    let mut stanza = RcStanza::default();
    for (line, name, value) in variables {
        let is_moot = match name {
            "KEY_BASE64" => names.contains(&"KEY"),
            "HMAC_KEY_BASE64" => names.contains(&"HMAC_KEY"),
            "RESOLVE_IP_HTTP" | "RESOLVE_IP_HTTPS" => {
                names.contains(&"ALLOW_IP") || settled.contains(&"ALLOW_IP")
            }
            _ => false,
        };
        let wrong =
            |error: Box<dyn Error>| RcError::Line { line, error: format!("{name}: {error}") };
        if !is_moot && !stanza.take(name, value).map_err(wrong)? {
            // Which one is not told: it may be a part of a key.
            return Err(RcError::Line { line, error: "fwknop knows no such name".to_owned() });
        }
    }
    Ok(stanza)
}

/// The lines of a stanza that say something, with their numbers from 1.
fn lines_of<'a>(text: &'a str, name: &str) -> impl Iterator<Item = (usize, &'a str)> {
    let mut reads = false;
    (1..).zip(text.lines().map(str::trim)).filter(move |(_, line)| {
        if let Some(head) = head(line) {
            reads = head.eq_ignore_ascii_case(name);
            return false;
        }
        reads && !line.is_empty() && !line.starts_with(['#', ';'])
    })
}

fn variable(line: &str) -> Option<&str> {
    line.split([' ', '\t', ':']).next()
}

fn head(line: &str) -> Option<&str> {
    line.strip_prefix('[')?.split_once(']').map(|(name, _)| name)
}

impl RcStanza {
    /// Takes the value of a variable, once for each; returns false where there is none of this name.
    fn take(&mut self, name: &str, value: &str) -> Result<bool, Box<dyn Error>> {
        if self.keys.take(name, value)? {
            return Ok(true);
        }
        let ClientSettings { knocks, request, fwknop, .. } = &mut self.settings;
        match name {
            "SPA_SERVER" => self.server = Some(value.to_owned()),
            "SPA_SERVER_PORT" => {
                let port = parse_port(value)?;
                request.spa_port.get_or_insert(port..=port);
            }
            "SPA_SOURCE_PORT" => self.source_port = Some(parse_port(value)?),
            // It wins over a port, wherever that stands.
            "RAND_PORT" if is_yes(value) => request.spa_port = Some(RANDOM),
            "SPA_SERVER_PROTO" if !value.eq_ignore_ascii_case("udp") => {
                return Err("knock sends over UDP only".into());
            }
            "ACCESS" => *knocks = read_ports(value)?,
            "ALLOW_IP" if value.eq_ignore_ascii_case("resolve") => return Err(NO_RESOLVER.into()),
            "ALLOW_IP" => request.address = Some(address(value).ok_or(AN_ADDRESS)?),
            "KEY_FILE" => self.key_file = Some(value.into()),
            "USE_HMAC" => self.use_hmac = is_yes(value),
            "HMAC_DIGEST_TYPE" => fwknop.hmac_digest_type = Some(value.parse()?),
            "DIGEST_TYPE" => fwknop.digest_type = Some(value.parse()?),
            "ENCRYPTION_MODE" => fwknop.encryption_mode = Some(value.parse()?),
            "FW_TIMEOUT" => {
                let wrong = |_| format!("'{value}' is not a number of seconds");
                request.open_for = NonZeroU32::new(value.parse().map_err(wrong)?);
            }
            "TIME_OFFSET" => fwknop.time_offset = Some(values::time_offset(value)?),
            "SPOOF_USER" => {
                fwknop.user = Some(values::user(value.get(..MAX_SPOOFED).unwrap_or(value))?);
            }
            "SPOOF_SOURCE_IP" => return Err("knock sends from its own address only".into()),
            "NAT_ACCESS" => fwknop.nat_access = Some(values::nat_target(value)?),
            "NAT_LOCAL" => fwknop.nat_local = is_yes(value),
            "NAT_PORT" => {
                let port = parse_port(value)?;
                fwknop.nat_port.get_or_insert(port..=port);
            }
            // It wins too.
            "NAT_RAND_PORT" if is_yes(value) => fwknop.nat_port = Some(RANDOM),
            "USE_GPG" if is_yes(value) => return Err("knock does not encrypt with GnuPG".into()),
            "RESOLVE_IP_HTTP" | "RESOLVE_IP_HTTPS" if is_yes(value) => {
                return Err(NO_RESOLVER.into());
            }
            "CLIENT_TIMEOUT" => return Err("fwknop knows no such name: write FW_TIMEOUT".into()),
            "HMAC_KEY_FILE" => return Err(HMAC_KEY_FILE.into()),
            _ => return Ok(WITHOUT_EFFECT.split(' ').any(|known| known == name)),
        }
        Ok(true)
    }
}

/// After how many bytes fwknop cuts a user name that it is given.
const MAX_SPOOFED: usize = 29;
const AN_ADDRESS: &str = "write an IPv4 address, or the word source";
const HMAC_KEY_FILE: &str =
    "fwknop itself puts it in the wrong place: write HMAC_KEY or HMAC_KEY_BASE64";
const NO_RESOLVER: &str =
    "knock asks no web server for its address: write ALLOW_IP with an address, or ALLOW_IP source";

/// Variables that say how to do what is not done here, or how much to print, and what is off.
const WITHOUT_EFFECT: &str = "\
    SPA_SERVER_PROTO RAND_PORT NAT_RAND_PORT USE_GPG USE_GPG_AGENT GPG_RECIPIENT GPG_SIGNER \
    GPG_SIGNING_PW GPG_SIGNING_PW_BASE64 GPG_NO_SIGNING_PW GPG_HOMEDIR GPG_EXE RESOLVE_IP_HTTP \
    RESOLVE_IP_HTTPS RESOLVE_HTTP_ONLY RESOLVE_URL SERVER_RESOLVE_IPV4 WGET_CMD HTTP_USER_AGENT \
    USE_WGET_USER_AGENT VERBOSE NO_SAVE_ARGS";

/// A name, which a colon may follow, and a value.
pub(super) fn pair(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.split_once([' ', '\t'])?;
    let name = name.strip_suffix(':').unwrap_or(name);
    let value = rest.trim_start().split([' ', '\t', ';', '#']).next()?;
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (is_name && !name.is_empty() && !value.is_empty()).then_some((name, value))
}

fn is_yes(value: &str) -> bool {
    value.eq_ignore_ascii_case("y")
}

/// The address to open for: that of the source where it is `source` or 0.0.0.0.
fn address(value: &str) -> Option<Address> {
    if value.eq_ignore_ascii_case("source") {
        return Some(Address::Observed);
    }
    match value.parse().ok()? {
        Ipv4Addr::UNSPECIFIED => Some(Address::Observed),
        address => NamedAddresses::new(Some(address), None).ok().map(Address::Given),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::client::settings::{FwknopOptions, RequestOptions};
    use crate::client::values::NatTarget;
    use crate::proto::fwknop::Hash;
    use crate::proto::knock::Knock;

    const WORK: &str = "\
[default]
HMAC_DIGEST_TYPE    sha512
[work]
SPA_SERVER          gw.example.com
ACCESS              tcp/22,udp/53
ALLOW_IP            192.0.2.7
KEY_BASE64          dGVzdGtleQ==
HMAC_KEY:           hmackey   # of the gateway
FW_TIMEOUT          60
";

    fn stanza(lines: &str) -> Result<RcStanza, RcError> {
        read(&format!("[a]\n{lines}"), "a", &[])
    }

    /// What is wrong with a line.
    fn wrong(line: &str) -> String {
        stanza(line).unwrap_err().to_string()
    }

    #[test]
    fn a_stanza_stands_on_top_of_the_default() {
        let knock = |text: &str| text.parse::<Knock>().unwrap();
        assert_eq!(
            read(WORK, "Work", &[]),
            Ok(RcStanza {
                server: Some("gw.example.com".to_owned()),
                settings: ClientSettings {
                    knocks: vec![knock("22"), knock("53/udp")],
                    request: RequestOptions {
                        address: Address::of(&["192.0.2.7"]).unwrap(),
                        open_for: NonZeroU32::new(60),
                        ..RequestOptions::default()
                    },
                    fwknop: FwknopOptions {
                        hmac_digest_type: Some(Hash::Sha512),
                        ..FwknopOptions::default()
                    },
                    ..ClientSettings::default()
                },
                keys: RcKeys {
                    key: Some(FwknopKey::new(b"testkey".to_vec()).unwrap()),
                    hmac: Some(HmacKey::new(b"hmackey".to_vec()).unwrap()),
                },
                ..RcStanza::default()
            })
        );
    }

    #[test]
    fn what_an_option_says_is_not_looked_at() {
        let text = "[a]\nACCESS nonsense\nKEY: k\nALLOW_IP resolve\nRESOLVE_IP_HTTPS Y\n";
        assert!(read(text, "a", &[]).is_err());
        let stanza = read(text, "a", &["ACCESS", "ALLOW_IP", "KEY"]);
        assert_eq!(stanza, Ok(RcStanza::default()));
    }

    #[test]
    fn what_the_stanza_says_too_does_not_count_in_the_default() {
        let long = "k".repeat(40);
        let default = format!("[default]\nALLOW_IP resolve\nKEY {long}\nUSE_GPG Y\nNAT_LOCAL Y\n");
        let own = "[a]\nALLOW_IP source\nKEY k\nUSE_GPG N\nNAT_LOCAL N\n";
        let stanza = read(&(default.clone() + own), "a", &[]).unwrap();
        assert_eq!(stanza.settings.request.address, Some(Address::Observed));
        assert!(!stanza.settings.fwknop.nat_local);
        assert_eq!(stanza.keys.key, Some(FwknopKey::new(b"k".to_vec()).unwrap()));
        let error = read(&(default + "[a]\nKEY k\n"), "a", &[]).unwrap_err().to_string();
        assert!(error.starts_with("2: ALLOW_IP: knock asks no web server"), "{error}");
    }

    #[test]
    fn no_web_server_is_asked_where_an_address_is_given() {
        let text = "[default]\nRESOLVE_IP_HTTPS Y\n[a]\nALLOW_IP 192.0.2.7\n";
        assert!(read(text, "a", &[]).is_ok());
        assert!(wrong("ALLOW_IP 192.0.2.7\nALLOW_IP resolve").contains("asks no web server"));
    }

    #[test]
    fn a_user_name_is_cut_where_fwknop_cuts_it() {
        let user = stanza(&format!("SPOOF_USER {}", "u".repeat(60))).unwrap().settings.fwknop.user;
        assert_eq!(user, "u".repeat(29).parse().ok());
    }

    #[test]
    fn the_default_may_stand_below() {
        let text = "[a]\nSPOOF_USER one\n[Default]\nSPOOF_USER two\nTIME_OFFSET 5\n";
        let stanza = read(text, "a", &[]).unwrap();
        assert_eq!(stanza.settings.fwknop.user, "one".parse().ok());
        assert_eq!(stanza.settings.fwknop.time_offset, Some(5));
    }

    #[test]
    fn what_is_in_other_stanzas_does_not_matter() {
        let text = "NONSENSE\n[b]\nKEY=x\n[a] # mine\nKEY k\n [c]\nKEY other\n[a]\nACCESS tcp/1\n";
        let stanza = read(text, "a", &[]).unwrap();
        assert_eq!(stanza.keys.key, Some(FwknopKey::new(b"k".to_vec()).unwrap()));
        assert_eq!(stanza.settings.knocks.len(), 1);
        assert_eq!(read(text, "d", &[]), Err(RcError::NoStanza("d".to_owned())));
    }

    #[test]
    fn a_raw_key_wins_over_one_in_base64_wherever_it_stands() {
        for lines in ["KEY raw\nKEY_BASE64 dGVzdGtleQ==", "KEY_BASE64 dGVzdGtleQ==\nKEY raw"] {
            assert_eq!(
                stanza(lines).unwrap().keys.key,
                Some(FwknopKey::new(b"raw".to_vec()).unwrap())
            );
        }
        let text = "[default]\nHMAC_KEY raw\n[a]\nHMAC_KEY_BASE64 dGVzdGtleQ==";
        let key = read(text, "a", &[]).unwrap().keys.hmac;
        assert_eq!(key, Some(HmacKey::new(b"raw".to_vec()).unwrap()));
    }

    #[test]
    fn a_port_at_random_wins_over_one_that_is_given_wherever_it_stands() {
        for (lines, port) in [
            ("SPA_SERVER_PORT 1000\nRAND_PORT Y", Some(RANDOM)),
            ("RAND_PORT Y\nSPA_SERVER_PORT 1000", Some(RANDOM)),
            ("RAND_PORT Y\nRAND_PORT N", None),
        ] {
            assert_eq!(stanza(lines).unwrap().settings.request.spa_port, port);
        }
    }

    #[test]
    fn a_stanza_says_where_the_port_shall_lead() {
        let nat = |lines: &str| stanza(lines).unwrap().settings.fwknop;
        let target = |host: &str, port| NatTarget { host: host.to_owned(), port };
        for (text, expected) in [
            ("192.168.1.10:22", target("192.168.1.10", NonZeroU16::new(22))),
            ("192.168.1.10,22", target("192.168.1.10", NonZeroU16::new(22))),
            ("inner.example.com", target("inner.example.com", None)),
        ] {
            assert_eq!(nat(&format!("NAT_ACCESS {text}")).nat_access, Some(expected));
        }
        assert!(nat("NAT_LOCAL y").nat_local);
        let port = NonZeroU16::new(4000).unwrap();
        for (lines, port) in [
            ("NAT_PORT 4000", Some(port..=port)),
            ("NAT_RAND_PORT Y\nNAT_PORT 4000", Some(RANDOM)),
            ("NAT_PORT 4000\nNAT_RAND_PORT Y", Some(RANDOM)),
            ("NAT_RAND_PORT N", None),
        ] {
            assert_eq!(nat(lines).nat_port, port, "{lines}");
        }
    }

    #[test]
    fn a_value_ends_at_a_blank_a_semicolon_or_a_hash() {
        let is = |text: &str| Some(FwknopKey::new(text.into()).unwrap());
        assert_eq!(stanza("KEY one two").unwrap().keys.key, is("one"));
        assert_eq!(stanza("KEY\tone;two").unwrap().keys.key, is("one"));
        assert_eq!(stanza("KEY: one#two").unwrap().keys.key, is("one"));
        assert_eq!(stanza("KEY a=b:c").unwrap().keys.key, is("a=b:c"));
    }

    #[test]
    fn comments_and_empty_lines_are_skipped() {
        assert_eq!(stanza("# KEY x\n\n;KEY y\n   # KEY z\n"), Ok(RcStanza::default()));
    }

    #[test]
    fn offsets_have_a_sign_and_a_unit() {
        let offset = |text: &str| {
            stanza(&format!("TIME_OFFSET {text}")).map(|it| it.settings.fwknop.time_offset.unwrap())
        };
        for (text, seconds) in [
            ("5", 5),
            ("+5", 5),
            ("-5", -5),
            ("60sec", 60),
            ("5min", 300),
            ("5m", 300),
            ("-2days", -172_800),
            ("3hours", 10_800),
            ("1H", 3_600),
            ("-5Min", -300),
        ] {
            assert_eq!(offset(text), Ok(seconds), "{text}");
        }
        for text in ["x", "-", "5x", "min", "99999999999999999999", "9223372036854775807d"] {
            assert!(offset(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_source_is_named_by_a_word_or_by_zeros() {
        assert_eq!(
            stanza("ALLOW_IP source").unwrap().settings.request.address,
            Some(Address::Observed)
        );
        assert_eq!(
            stanza("ALLOW_IP 0.0.0.0").unwrap().settings.request.address,
            Some(Address::Observed)
        );
        assert!(wrong("ALLOW_IP resolve").contains("asks no web server"));
        assert!(wrong("ALLOW_IP localhost").contains("write an IPv4 address"));
    }

    #[test]
    fn a_timeout_of_zero_is_none() {
        assert_eq!(stanza("FW_TIMEOUT 0").unwrap().settings.request.open_for, None);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (line, text) in [
            ("KEY=x", "2: not a name and a value, with a blank between the two"),
            ("KEY", "2: not a name and a value, with a blank between the two"),
            ("key x", "2: fwknop knows no such name"),
            ("BOGUS x", "2: fwknop knows no such name"),
            ("CLIENT_TIMEOUT 60", "2: CLIENT_TIMEOUT: fwknop knows no such name: write FW_TIMEOUT"),
            (
                "SPA_SERVER_PORT 70000",
                "2: SPA_SERVER_PORT: port 70000 is out of range: ports go from 1 to 65535",
            ),
            ("ACCESS 22", "2: ACCESS: the ports to open are not a list such as tcp/22,udp/53"),
            ("FW_TIMEOUT 1m", "2: FW_TIMEOUT: '1m' is not a number of seconds"),
            ("USE_GPG Y", "2: USE_GPG: knock does not encrypt with GnuPG"),
            (
                "NAT_ACCESS 192.0.2.9:0",
                "2: NAT_ACCESS: '192.0.2.9:0' is not a host and a port such as 192.168.1.10:22",
            ),
            ("NAT_PORT 0", "2: NAT_PORT: port 0 is out of range: ports go from 1 to 65535"),
            ("SPA_SERVER_PROTO http", "2: SPA_SERVER_PROTO: knock sends over UDP only"),
        ] {
            assert_eq!(wrong(line), text);
        }
        assert!(wrong("HMAC_KEY_FILE f").contains("write HMAC_KEY"));
        assert!(wrong("DIGEST_TYPE sha224").contains("sha3_512"));
        assert!(wrong("ENCRYPTION_MODE PCBC").contains("write cbc"));
        assert!(wrong("SPOOF_USER a:b").contains("letters"));
    }

    #[test]
    fn what_is_not_done_here_can_be_taken_back_by_the_stanza() {
        let text = "[default]\nUSE_GPG Y\nGPG_SIGNER me\n[a]\nUSE_GPG N\n[b]\nACCESS tcp/1\n";
        assert_eq!(read(text, "a", &[]), Ok(RcStanza::default()));
        let error = read(text, "b", &[]).unwrap_err().to_string();
        assert_eq!(error, "2: USE_GPG: knock does not encrypt with GnuPG");
    }

    #[test]
    fn what_is_wrong_with_a_key_is_said_without_it() {
        let long = "s3cr3t".repeat(6);
        assert_eq!(
            wrong(&format!("KEY {long}")),
            "2: KEY: invalid key length: 36 bytes, where fwknop takes 32 at most"
        );
        assert_eq!(wrong("HMAC_KEY_BASE64 s3cr3t!"), "2: HMAC_KEY_BASE64: the key is not base64");
        assert!(wrong("KEY __CHANGEME__").contains("placeholder"));
    }

    #[test]
    fn what_says_how_to_do_something_else_has_no_effect() {
        for name in WITHOUT_EFFECT.split(' ') {
            assert_eq!(
                stanza(&format!("{name} {}", if name.ends_with("PROTO") { "udp" } else { "N" })),
                Ok(RcStanza::default()),
                "{name}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(\\[a\\]\n|[A-Z_]{3,12}|[ :=;#\t\n]|-?[0-9a-z./,]{1,9}){0,30}") {
            let _ = read(&text, "a", &[]);
        }

        #[test]
        fn no_line_makes_it_panic(value in ".{0,40}", name in prop::sample::select(vec![
            "ACCESS", "ALLOW_IP", "TIME_OFFSET", "KEY", "KEY_BASE64", "FW_TIMEOUT", "SPOOF_USER",
        ])) {
            let _ = stanza(&format!("{name} {value}"));
        }
    }
}
