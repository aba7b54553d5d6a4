//! Knocking with requests as fwknop makes them, with keys from where fwknop has them.

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::fwknoprc::{self, RcError, RcKeys, RcStanza};
use super::keys::{self, KeyFileError};
use super::requested_address::{RequestedAddress, own_address};
use super::route::Route;
use super::schedule::{RequestDatagram, Schedule};
use super::spa::RequestError;
use super::values::{self, Address};
use super::{messages, platform};
use crate::proto::fwknop::{
    self, Access, CipherMode, FwknopKey, FwknopKeyError, FwknopKeys, FwknopRequest, Hash, HmacKey,
    MAX_TIMEOUT, NatAccess, Random, User,
};
use crate::proto::port_range::pick;
use crate::proto::{Knock, PortRange};
use crate::time::Wall;

/// A client's requests of a fwknop server, or of one that understands it.
#[derive(Clone, Debug)]
pub(super) struct FwknopKnocker {
    pub key: FwknopKey,
    pub hmac: Option<(HmacKey, Hash)>,
    pub digest: Hash,
    pub mode: CipherMode,
    pub port: PortRange,
    /// The port that the datagram is sent from; `None`: the kernel chooses.
    pub from: Option<NonZeroU16>,
    /// Never empty.
    pub ports: Vec<Knock>,
    /// Where they shall lead, if not to themselves.
    pub nat: Option<NatAccess>,
    /// Of the given ones only that of IPv4 is asked for.
    pub address: Address,
    /// Seconds; `None`: as the server says.
    pub open_for: Option<NonZeroU32>,
    pub user: User,
    /// Added to the clock, in seconds.
    pub time_offset: i64,
}

impl FwknopKnocker {
    /// A request on this route that was never made before.
    ///
    /// # Errors
    /// [`RequestError`] if no server would take it.
    pub(super) fn request(&self, now: Wall, route: &Route) -> Result<Schedule, RequestError> {
        let port = pick(&self.port, getrandom::u64()?);
        let own = || own_address(route, port).and_then(only_v4);
        let whom = RequestedAddress::of(self.address, route.host.ip(), own)?;
        messages::say(|| format!("asking for {whom}"));
        let mut random = [0; 16];
        getrandom::fill(&mut random)?;
        let mut salt = [0; 8];
        getrandom::fill(&mut salt)?;
        let seconds = now.since(Wall::ZERO).as_secs();
        let request = FwknopRequest {
            random: Random::new(random),
            user: self.user.clone(),
            timestamp: seconds.saturating_add_signed(self.time_offset),
            access: Access {
                address: whom.named().and_then(|named| named.v4()),
                ports: self.ports.clone(),
                nat: self.nat.clone(),
                timeout: self.open_for.map(NonZeroU32::get),
            },
        };
        let hmac = self.hmac.as_ref().map(|(key, hash)| (key, *hash));
        let keys = FwknopKeys { key: &self.key, mode: self.mode, hmac };
        let bytes = fwknop::seal(&request, self.digest, keys, salt)?.into_bytes();
        Ok(Schedule::request(port, RequestDatagram { from: self.from, bytes, stamps: None }))
    }
}

/// fwknop's servers open for nothing else.
fn only_v4(own: IpAddr) -> io::Result<IpAddr> {
    if own.is_ipv4() { Ok(own) } else { Err(io::ErrorKind::AddrNotAvailable.into()) }
}

/// Reads the time that a door of fwknop's shall stay open, in seconds.
///
/// # Errors
/// Says which durations are possible.
pub(super) fn open_for(text: &str) -> Result<NonZeroU32, String> {
    values::open_for(text).and_then(check_open_for)
}

/// The time itself, in seconds, where fwknop's servers take it.
///
/// # Errors
/// If that is longer than any of fwknop's servers takes.
pub(super) fn check_open_for(seconds: NonZeroU32) -> Result<NonZeroU32, String> {
    let is_taken = seconds.get() <= MAX_TIMEOUT;
    let why = || format!("fwknop's servers take {MAX_TIMEOUT}s at most, not {seconds}s");
    is_taken.then_some(seconds).ok_or_else(why)
}

/// The name that a request has where none is given: that of whoever runs the program. It is that of
/// the `account`, not `$USER`, as fwknop's own client takes it.
///
/// # Errors
/// If it is one that fwknop does not take.
pub(super) fn user(
    variable: impl Fn(&str) -> Option<String>,
    account: Option<String>,
) -> Result<User, String> {
    let given = |name| variable(name).filter(|value| !value.is_empty());
    let name = given("SPOOF_USER").or_else(|| given("LOGNAME")).or(account);
    let name = name.or_else(|| given("USER")).unwrap_or_else(|| "NO_USER".to_owned());
    name.parse().map_err(|_| name)
}

/// The keys in a file that only its owner can read: what `fwknop --key-gen` writes, or nothing but
/// the encryption key.
///
/// # Errors
/// [`KeyFileError`] if others can read it, or if it holds no key.
pub(super) fn keys(path: &Path) -> Result<RcKeys, KeyFileError> {
    keys::parsed(path, |text| match generated(text)? {
        RcKeys { key: None, hmac: None } => {
            Ok(RcKeys { key: Some(FwknopKey::new(one_line(text).into())?), hmac: None })
        }
        keys => Ok::<_, FwknopKeyError>(keys),
    })
}

/// The HMAC key in a file that only its owner can read: what `fwknop --key-gen` writes, or nothing
/// but this key.
///
/// # Errors
/// [`KeyFileError`] if others can read it, or if it holds no key.
pub(super) fn hmac_key(path: &Path) -> Result<HmacKey, KeyFileError> {
    keys::parsed(path, |text| match generated(text)?.hmac {
        Some(key) => Ok(key),
        None => HmacKey::new(one_line(text).into()),
    })
}

/// The encryption key in a file of fwknop's that has one for each server.
///
/// # Errors
/// [`KeyFileError`] if others can read it, or if it has none for this server.
pub(super) fn key_for(path: &Path, server: &str) -> Result<FwknopKey, KeyFileError> {
    let of_server = |line: &'_ str| {
        let key = line.trim().strip_prefix(server)?.strip_prefix(':')?.trim();
        Some(FwknopKey::new(key.into()).map_err(|error| error.to_string()))
    };
    let none = || Err(format!("there is no key for {server} in it"));
    keys::parsed(path, |text| text.lines().find_map(of_server).unwrap_or_else(none))
}

fn one_line(text: &str) -> &str {
    text.trim_end_matches(['\n', '\r'])
}

fn generated(text: &str) -> Result<RcKeys, FwknopKeyError> {
    let mut keys = RcKeys::default();
    for (name, value) in text.lines().filter_map(|line| fwknoprc::pair(line.trim())) {
        keys.take(name, value)?;
    }
    Ok(keys)
}

/// The reason why a stanza of `~/.fwknoprc` is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum StanzaError {
    #[error("no home directory is known, so there is no ~/.fwknoprc")]
    NoHome,
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{}:{error}", path.display())]
    Wrong { path: PathBuf, error: RcError },
}

/// The stanza of this name in `~/.fwknoprc`, less what is `settled`. As fwknop's, it only warns if
/// others can read the file.
///
/// # Errors
/// [`StanzaError`] with what is wrong in it, or with it.
pub(super) fn stanza(name: &str, settled: &[&str]) -> Result<RcStanza, StanzaError> {
    let path = std::env::home_dir().ok_or(StanzaError::NoHome)?.join(".fwknoprc");
    let unreadable = |source| StanzaError::Unreadable { path: path.clone(), source };
    let mut file = File::open(&path).map_err(unreadable)?;
    if let Some(remedy) = platform::others_read(&path, &file).map_err(unreadable)? {
        messages::warn(&format!("{} can be read by others: {remedy}", path.display()));
    }
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text).map_err(unreadable)?;
    fwknoprc::read(&text, name, settled).map_err(|error| StanzaError::Wrong { path, error })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::net::Ipv4Addr;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;
    use crate::client::settings::RouteOptions;
    use crate::proto::fwknop::FwknopDatagram;

    fn key(text: &str) -> FwknopKey {
        FwknopKey::new(text.into()).unwrap()
    }

    fn hmac(text: &str) -> HmacKey {
        HmacKey::new(text.into()).unwrap()
    }

    fn fwknop() -> FwknopKnocker {
        FwknopKnocker {
            key: key("testkey"),
            hmac: Some((hmac("hmackey"), Hash::Sha512)),
            digest: Hash::Sha1,
            mode: CipherMode::Ctr,
            port: crate::proto::spa::PORTS,
            from: None,
            ports: vec!["22".parse().unwrap(), "53/udp".parse().unwrap()],
            nat: None,
            address: Address::Observed,
            open_for: NonZeroU32::new(60),
            user: "alice".parse().unwrap(),
            time_offset: 0,
        }
    }

    fn route() -> Route {
        Route { host: "192.0.2.1:0".parse().unwrap(), options: RouteOptions::default() }
    }

    fn sent(fwknop: &FwknopKnocker, seconds: u64) -> FwknopRequest {
        let now = Wall::ZERO + Duration::from_secs(seconds);
        let sent = fwknop.request(now, &route()).unwrap();
        assert_eq!(sent.knocks().next().unwrap().1.port.get(), 62_201);
        let hmac = fwknop.hmac.as_ref().map(|(key, hash)| (key, *hash));
        let keys = FwknopKeys { key: &fwknop.key, mode: fwknop.mode, hmac };
        let bytes = &sent.request.as_ref().unwrap().bytes;
        FwknopDatagram::new(bytes).unwrap().open(&keys.into()).unwrap().request
    }

    #[test]
    fn the_server_reads_what_the_client_asked_for() {
        let request = sent(&fwknop(), 1_700_000_000);
        assert_eq!(request.user.as_str(), "alice");
        assert_eq!(request.timestamp, 1_700_000_000);
        let ports = fwknop().ports;
        assert_eq!(request.access, Access { address: None, ports, nat: None, timeout: Some(60) });
    }

    #[test]
    fn the_server_reads_where_the_ports_shall_lead() {
        let nat = NatAccess::new("192.168.1.10", NonZeroU16::new(22).unwrap(), false).ok();
        let request = sent(&FwknopKnocker { nat: nat.clone(), ..fwknop() }, 1_700_000_000);
        assert_eq!(request.access.nat, nat);
    }

    #[test]
    fn no_two_requests_are_alike() {
        assert_ne!(sent(&fwknop(), 1).random, sent(&fwknop(), 1).random);
    }

    #[test]
    fn an_offset_is_added_to_the_clock_and_never_leads_before_1970() {
        let off = |time_offset| FwknopKnocker { time_offset, ..fwknop() };
        assert_eq!(sent(&off(-60), 1_700_000_000).timestamp, 1_699_999_940);
        assert_eq!(sent(&off(60), 1_700_000_000).timestamp, 1_700_000_060);
        assert_eq!(sent(&off(-60), 0).timestamp, 0);
    }

    #[test]
    fn a_given_address_is_asked_for() {
        let address = Address::of(&["203.0.113.7", "2001:db8::7"]).unwrap().unwrap();
        let request = sent(&FwknopKnocker { address, ..fwknop() }, 1);
        assert_eq!(request.access.address, Some(Ipv4Addr::new(203, 0, 113, 7)));
    }

    #[test]
    fn what_no_server_takes_is_not_sent() {
        let ports = (1..=20).map(|port: u16| port.to_string().parse().unwrap()).collect();
        let long = FwknopKnocker { ports, ..fwknop() };
        let error = long.request(Wall::ZERO, &route()).unwrap_err().to_string();
        assert!(error.contains("ask for fewer ports"), "{error}");
    }

    #[test]
    fn a_request_is_named_after_who_runs_the_program() {
        let of = |set: &'static [(&str, &str)], account: Option<&str>| {
            let variable = move |name: &str| {
                let found = set.iter().find(|(variable, _)| *variable == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            user(variable, account.map(str::to_owned)).map(|user| user.as_str().to_owned())
        };
        let variables = |set| of(set, None);
        assert_eq!(of(&[("USER", "c")], Some("root")).unwrap(), "root");
        assert_eq!(of(&[("LOGNAME", "b")], Some("root")).unwrap(), "b");
        assert_eq!(variables(&[]).unwrap(), "NO_USER");
        assert_eq!(variables(&[("USER", "c"), ("LOGNAME", "b")]).unwrap(), "b");
        assert_eq!(variables(&[("SPOOF_USER", "a"), ("LOGNAME", "b")]).unwrap(), "a");
        assert_eq!(variables(&[("LOGNAME", ""), ("USER", "c")]).unwrap(), "c");
        assert_eq!(variables(&[("USER", "a:b")]).unwrap_err(), "a:b");
    }

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        (directory, path)
    }

    #[test]
    fn a_key_file_holds_what_fwknop_generates() {
        let (_directory, path) = file("KEY_BASE64: dGVzdGtleQ==\nHMAC_KEY_BASE64: aG1hY2tleQ==\n");
        let found = keys(&path).unwrap();
        assert_eq!(found, RcKeys { key: Some(key("testkey")), hmac: Some(hmac("hmackey")) });
        assert_eq!(hmac_key(&path).unwrap(), hmac("hmackey"));
    }

    #[test]
    fn a_key_file_may_hold_nothing_but_the_key() {
        let (_directory, path) = file("a pass phrase\n");
        assert_eq!(keys(&path).unwrap(), RcKeys { key: Some(key("a pass phrase")), hmac: None });
        assert_eq!(hmac_key(&path).unwrap(), hmac("a pass phrase"));
    }

    #[test]
    fn a_file_may_have_a_key_for_each_server() {
        let (_directory, path) = file("192.0.2.1: one\ngw.example.com:two\n");
        assert_eq!(key_for(&path, "192.0.2.1").unwrap(), key("one"));
        assert_eq!(key_for(&path, "gw.example.com").unwrap(), key("two"));
        assert!(key_for(&path, "gw").unwrap_err().to_string().contains("no key for gw"));
    }

    #[test]
    fn what_is_wrong_with_a_file_never_shows_what_it_holds() {
        let long = "s3cr3t".repeat(30);
        for text in ["", "\n", &long, "KEY_BASE64: s3cr3t!\n"] {
            let (_directory, path) = file(text);
            for error in [keys(&path).unwrap_err(), hmac_key(&path).unwrap_err()] {
                assert!(!error.to_string().contains("s3cr3t"), "{error}");
            }
        }
    }

    #[test]
    fn a_time_to_stay_open_has_a_limit() {
        assert_eq!(open_for("65536"), Ok(NonZeroU32::new(65_536).unwrap()));
        assert!(open_for("65537").unwrap_err().contains("65536s at most"));
        assert!(open_for("0").is_err());
    }
}
