//! What a client proves itself with, as a configuration writes it.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::client::{AddressPolicy, FwknopClient, SpaClient, TotpClient};
use super::diagnostic::{Diagnostic, Place, Problems, meant};
use super::files::{Named, Options, exposed, one_line, read_named};
use super::moment;
use super::raw::{Entry, Keys, Mapping, Node, given_twice};
use crate::proto::network::Network;
use crate::proto::{fwknop, spa, totp};

pub(super) const TOTP: Keys = Keys {
    of: "a client's totp",
    known: &["secret", "secret_file", "old_secret_file", "old_until"],
};
pub(super) const SPA: Keys = Keys { of: "a client's spa", known: &["public_key", "address"] };
pub(super) const FWKNOP: Keys = Keys {
    of: "a client's fwknop",
    known: &[
        "key",
        "key_base64",
        "key_file",
        "key_base64_file",
        "hmac_key",
        "hmac_key_base64",
        "hmac_key_file",
        "hmac_key_base64_file",
        "hmac_type",
        "mode",
        "without_hmac",
        "from",
        "destination",
        "username",
        "address",
    ],
};

/// Reads secrets, where they are written or from their files.
pub(super) struct Secrets {
    options: Options,
    /// The files that have been said to show their secrets.
    told: HashSet<PathBuf>,
}

/// The text of a secret, and where it is written or its file is named.
struct Found<'a> {
    at: &'a Place,
    text: Zeroizing<String>,
    base64: bool,
}

impl Found<'_> {
    fn error(&self, message: impl Display) -> Diagnostic {
        self.at.error(message.to_string())
    }

    /// What one of two parsers makes of it: that of keys as they are, or in base64.
    fn key<T, E: Display>(
        &self,
        plain: impl FnOnce(Vec<u8>) -> Result<T, E>,
        base64: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, Diagnostic> {
        let key =
            if self.base64 { base64(&self.text) } else { plain(self.text.as_bytes().to_vec()) };
        key.map_err(|error| self.error(error))
    }
}

impl Secrets {
    pub(super) fn new(options: Options) -> Self {
        Self { options, told: HashSet::new() }
    }

    /// The one of these keys that is there. `None` after an error, `Some(None)` if none is.
    #[expect(clippy::option_option, reason = "absent and wrong are two things")]
    fn find<'a>(
        &mut self,
        mapping: &'a Mapping,
        keys: &[&str],
        problems: &mut Problems,
    ) -> Option<Option<Found<'a>>> {
        let mut given = mapping.entries.iter().filter(|entry| keys.contains(&entry.key.as_str()));
        let Some(entry) = given.next() else { return Some(None) };
        if let Some(second) = given.next() {
            let message = format!("'{}' and '{}' exclude each other", entry.key, second.key);
            problems.push(second.at.error(message).help("remove one of them"));
            return None;
        }
        let at = &entry.node.at;
        let is_file = entry.key.ends_with("_file");
        let text = if is_file {
            self.read_file(&entry.node, problems)?
        } else {
            self.tell_exposed(at, problems);
            let text =
                problems.keep(entry.node.text("a secret").map_err(Diagnostic::without_line))?;
            Zeroizing::new(text.to_owned())
        };
        Some(Some(Found { at, text, base64: entry.key.contains("base64") }))
    }

    /// The one line of the file that a node names.
    fn read_file(&self, node: &Node, problems: &mut Problems) -> Option<Zeroizing<String>> {
        let path = problems.keep(node.path())?;
        let text = problems.keep(read_named(&path, &node.at, Named::Secret, self.options))?;
        match one_line(&text) {
            Ok(line) => Some(Zeroizing::new(line.to_owned())),
            Err(why) => {
                problems.push(node.at.error(format!("{} {why}", path.display())));
                None
            }
        }
    }

    /// Said once of each file.
    fn tell_exposed(&mut self, at: &Place, problems: &mut Problems) {
        if let Some(problem) = exposed(at)
            && self.told.insert(at.path().to_owned())
        {
            problems.push(problem);
        }
    }
}

/// Reports unknown keys as elsewhere, but names none that may be a secret itself, such as a key
/// without its colon.
fn check_keys(mapping: &Mapping, keys: &Keys, problems: &mut Problems) -> Vec<&'static str> {
    let (known, others): (Vec<Entry>, Vec<Entry>) =
        mapping.entries.iter().cloned().partition(|entry| {
            keys.known.contains(&entry.key.as_str())
                || entry.key == "<<"
                || meant(&entry.key, keys.known.iter().copied()).is_some()
        });
    for entry in others {
        let error = entry.at.error(format!("this is not a key of {}", keys.of));
        problems.push(error.help(format!("its keys are: {}", keys.known.join(", "))));
    }
    Mapping { entries: known }.check_keys(keys, problems)
}

/// The mapping of credentials; what else there is may be a secret, and is not shown.
fn credentials<'a>(node: &'a Node, example: &str) -> Result<&'a Mapping, Diagnostic> {
    node.mapping(&format!("a mapping such as {example}")).map_err(Diagnostic::without_line)
}

/// Reads a client's `totp`. `None` after an error.
pub(super) fn read_totp(
    node: &Node,
    secrets: &mut Secrets,
    problems: &mut Problems,
) -> Option<TotpClient> {
    let example = "{secret_file: /etc/knock.d/keys/phone.totp}";
    let mapping = problems.keep(credentials(node, example))?;
    let meant = check_keys(mapping, &TOTP, problems);
    let mut secret = |keys: &[&str], problems: &mut Problems| {
        let Some(found) = secrets.find(mapping, keys, problems)? else { return Some(None) };
        let secret = totp::parse_secret(&found.text).map_err(|error| found.error(error));
        problems.keep(secret).map(Some)
    };
    let current = secret(&["secret", "secret_file"], problems);
    let old = secret(&["old_secret_file"], problems);
    let until = match mapping.value("old_until") {
        Some(node) => problems.keep(node.read("a date", moment::parse)).map(Some),
        None => Some(None),
    };
    if matches!(current, Some(None)) && meant.is_empty() {
        let error = node.at.error("totp has no secret").without_line();
        problems.push(error.help("write secret_file, or let 'knockctl enroll' make one"));
    }
    let old = old.zip(until).and_then(|(old, until)| {
        problems.keep(both(old, until, ("old_secret_file", "old_until"), mapping))
    });
    Some(TotpClient { secret: current??, old: old? })
}

/// Two values of which none makes sense alone.
///
/// # Errors
/// Says which is missing.
pub(super) fn both<A, B>(
    one: Option<A>,
    other: Option<B>,
    (key, other_key): (&str, &str),
    mapping: &Mapping,
) -> Result<Option<(A, B)>, Diagnostic> {
    let (there, missing) = match (one, other) {
        (Some(one), Some(other)) => return Ok(Some((one, other))),
        (None, None) => return Ok(None),
        (Some(_), None) => (key, other_key),
        (None, Some(_)) => (other_key, key),
    };
    match mapping.get(there) {
        Some(entry) => Err(entry
            .at
            .error(format!("'{there}' without '{missing}'"))
            .help(format!("write {missing} too, or remove {there}"))),
        None => Ok(None),
    }
}

const POLICIES: [(&str, AddressPolicy); 2] =
    [("any", AddressPolicy::Any), ("explicit", AddressPolicy::Explicit)];

fn read_policy(mapping: &Mapping, problems: &mut Problems) -> Option<AddressPolicy> {
    match mapping.value("address") {
        Some(node) => problems.keep(node.one_of(&POLICIES)),
        None => Some(AddressPolicy::Any),
    }
}

/// Reads a client's `spa`, and where its keys are written. `None` after an error.
pub(super) fn read_spa(node: &Node, problems: &mut Problems) -> Option<(SpaClient, Vec<Place>)> {
    let mapping = problems.keep(credentials(node, "{public_key: BASE64}"))?;
    let meant = check_keys(mapping, &SPA, problems);
    let address = read_policy(mapping, problems);
    let Some(given) = mapping.value("public_key") else {
        if meant.is_empty() {
            let error = node.at.error("spa has no public_key").without_line();
            problems.push(error.help("write the one that 'knock --keygen' printed"));
        }
        return None;
    };
    let mut first: HashMap<spa::PublicKey, &Place> = HashMap::new();
    let mut keys = Vec::new();
    if given.items().is_empty() {
        problems.push(given.at.error("the list names no public key"));
        return None;
    }
    for item in given.items() {
        let key: spa::PublicKey = problems.keep(item.parsed("a public key in base64"))?;
        match first.insert(key, &item.at) {
            Some(first) => problems.push(given_twice(&item.at, "this public key", first)),
            None => keys.push((key, item.at.clone())),
        }
    }
    let (keys, places) = keys.into_iter().unzip();
    Some((SpaClient { keys, address: address? }, places))
}

/// Reads a client's `fwknop`, whose keys may be in either case, as fwknop writes them. `None`
/// after an error.
pub(super) fn read_fwknop(
    node: &Node,
    secrets: &mut Secrets,
    problems: &mut Problems,
) -> Option<FwknopClient> {
    let example = "{key_base64: BASE64, hmac_key_base64: BASE64}";
    let mapping = lowercase(problems.keep(credentials(node, example))?, problems);
    let mapping = &mapping;
    let meant = check_keys(mapping, &FWKNOP, problems);
    let key = secrets.find(mapping, &FWKNOP.known[..4], problems);
    let hmac_key = secrets.find(mapping, &FWKNOP.known[4..8], problems);
    let mode = match mapping.value("mode") {
        Some(node) => problems.keep(node.parsed::<fwknop::Mode>("a mode such as cbc")),
        None => Some(fwknop::Mode::default()),
    };
    let hmac_type = match mapping.value("hmac_type") {
        Some(node) => problems.keep(node.parsed::<fwknop::Hash>("a hash such as sha256")),
        None => Some(fwknop::Hash::default()),
    };
    let without = match mapping.value("without_hmac") {
        Some(node) => problems.keep(node.boolean()),
        None => Some(false),
    };
    let from = read_networks(mapping, "from", problems);
    let destination = read_networks(mapping, "destination", problems);
    let username = read_username(mapping, problems);
    let address = read_policy(mapping, problems);
    let (key, hmac_key, without, mode) = (key?, hmac_key?, without?, mode?);
    if key.is_none() && meant.is_empty() {
        let error = node.at.error("fwknop has no key").without_line();
        problems.push(error.help("write key or key_base64, as in fwknop's access.conf"));
    }
    let key = key?;
    let hmac_key = problems.keep(with_hmac(hmac_key, without, mapping, &node.at, &meant))?;
    warn_of_doubtful(hmac_key.is_some(), mode, mapping, &node.at, problems);
    let hmac = match &hmac_key {
        Some(found) => {
            let key = found.key(fwknop::HmacKey::new, fwknop::HmacKey::from_base64);
            Some((problems.keep(key)?, hmac_type?))
        }
        None => None,
    };
    let key = problems.keep(key.key(fwknop::Key::new, fwknop::Key::from_base64))?;
    if let (Some(found), Some((hmac_key, _))) = (&hmac_key, &hmac)
        && key.is_same_as(hmac_key)
    {
        let error = found.error("the HMAC key is the encryption key: fwknop refuses that");
        problems.push(error.help("let 'fwknop --key-gen' make two keys"));
        return None;
    }
    Some(FwknopClient {
        key,
        mode,
        hmac,
        from: from?,
        destination: destination?,
        username: username?,
        address: address?,
    })
}

/// The mapping with its keys in lower case.
fn lowercase(mapping: &Mapping, problems: &mut Problems) -> Mapping {
    let mut entries: Vec<Entry> = Vec::new();
    for entry in &mapping.entries {
        let entry = Entry { key: entry.key.to_ascii_lowercase(), ..entry.clone() };
        match entries.iter().find(|other| other.key == entry.key) {
            Some(first) => {
                problems.push(given_twice(&entry.at, "this key", &first.at).without_line());
            }
            None => entries.push(entry),
        }
    }
    Mapping { entries }
}

/// # Errors
/// Says that it is neither there nor given up, or both.
fn with_hmac<'a>(
    found: Option<Found<'a>>,
    without: bool,
    mapping: &Mapping,
    at: &Place,
    meant: &[&str],
) -> Result<Option<Found<'a>>, Diagnostic> {
    let place = |key| mapping.get(key).map_or(at, |entry| &entry.at);
    match (&found, without) {
        (Some(_), true) => Err(place("without_hmac")
            .error("'without_hmac' and an HMAC key exclude each other")
            .help("remove one of them")),
        (None, false) if !meant.iter().any(|key| key.starts_with("hmac_key")) => Err(at
            .error("fwknop has no HMAC key")
            .without_line()
            .help("write hmac_key_base64, or without_hmac: true for a client that has none")),
        _ => Ok(found),
    }
}

fn warn_of_doubtful(
    hmac: bool,
    mode: fwknop::Mode,
    mapping: &Mapping,
    at: &Place,
    problems: &mut Problems,
) {
    let place = |key| mapping.get(key).map_or(at, |entry| &entry.at);
    if !hmac {
        let warning = place("without_hmac")
            .warning("without an HMAC anyone may alter a datagram and see what comes of it");
        problems.push(warning.help("give the client an HMAC key: fwknop has had them since 2.5"));
        if let Some(given) = mapping.get("hmac_type") {
            problems.push(given.at.warning("'hmac_type' has no effect without an HMAC key"));
        }
    } else if mode == fwknop::Mode::Legacy {
        let warning = place("mode").warning("fwknop's clients send no HMAC in legacy mode");
        problems.push(warning.help("write another mode, or without_hmac: true"));
    }
}

fn read_networks(mapping: &Mapping, key: &str, problems: &mut Problems) -> Option<Vec<Network>> {
    let Some(node) = mapping.value(key) else { return Some(Vec::new()) };
    if node.items().is_empty() {
        let error = node.at.error(format!("'{key}' names no network"));
        problems.push(error.help("write for example [192.0.2.0/24], or remove it for anywhere"));
        return None;
    }
    let network = |item: &Node| problems.keep(item.parsed("a network such as 192.0.2.0/24"));
    let networks: Vec<_> = node.items().iter().map(network).collect();
    networks.into_iter().collect()
}

/// `None` after an error, `Some(None)` where it is absent.
#[expect(clippy::option_option, reason = "absent and wrong are two things")]
fn read_username(mapping: &Mapping, problems: &mut Problems) -> Option<Option<String>> {
    let Some(node) = mapping.value("username") else { return Some(None) };
    let name = problems.keep(node.text("the name of a user"))?;
    let possible =
        |byte: u8| (b' '..=b'~').contains(&byte) && !b"\"/\\[]:;|=,+*?<>".contains(&byte);
    if name.len() > 48 || !name.bytes().all(possible) {
        let error = node.at.error("no client of fwknop can send this name");
        problems
            .push(error.help("it is up to 48 letters, digits, blanks and marks such as @ . - _"));
        return None;
    }
    Some(Some(name.to_owned()))
}
