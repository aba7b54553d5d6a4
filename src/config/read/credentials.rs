//! Reader of what a client proves itself with: secrets and keys, written out or in files.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::date;
use super::files::{exposed, one_line, read_secret};
use crate::config::diagnostic::Parsed;
use crate::config::tree::{
    KnownKeys, Mapping, MappingEntry, Node, Reader, given_twice, refuse_repetitions,
};
use crate::config::{
    AddressPolicy, Diagnosed, Diagnostic, FwknopClient, Options, Place, Problems, SpaClient,
    TotpClient,
};
use crate::proto::{Network, fwknop, spa, totp};

pub(super) const TOTP: KnownKeys =
    KnownKeys { of: "a client's totp", known: &["secret secret_file old_secret_file old_until"] };
pub(super) const SPA: KnownKeys =
    KnownKeys { of: "a client's spa", known: &["public_key", "address"] };
const FWKNOP_KEYS: &str = "key key_base64 key_file key_base64_file";
const FWKNOP_HMAC_KEYS: &str = "hmac_key hmac_key_base64 hmac_key_file hmac_key_base64_file";
pub(super) const FWKNOP: KnownKeys = KnownKeys {
    of: "a client's fwknop",
    known: &[
        FWKNOP_KEYS,
        FWKNOP_HMAC_KEYS,
        "hmac_type mode without_hmac from destination username address force_nat",
        "old_key_base64_file old_hmac_key_base64_file old_until",
    ],
};

/// Reads secrets, where they are written or from their files.
pub(super) struct Secrets {
    options: Options,
    /// The files that have been said to show their secrets.
    told: HashSet<PathBuf>,
    /// Those that were read.
    pub(super) files: Vec<PathBuf>,
}

/// The text of a secret, and where it is written or its file is named.
struct SecretText<'a> {
    at: &'a Place,
    text: Zeroizing<String>,
    base64: bool,
}

impl SecretText<'_> {
    fn error(&self, message: impl Display) -> Diagnostic {
        self.at.error(message.to_string())
    }

    /// The key of fwknop's that it is, as it stands there or in base64.
    fn key<const MOST: usize>(&self) -> Diagnosed<fwknop::KeyOf<MOST>> {
        let key = if self.base64 {
            fwknop::KeyOf::from_base64(&self.text)
        } else {
            fwknop::KeyOf::new(self.text.as_bytes().to_vec())
        };
        key.map_err(|error| self.error(error))
    }
}

impl Secrets {
    pub(super) fn new(options: Options) -> Self {
        Self { options, told: HashSet::new(), files: Vec::new() }
    }

    /// The one of these keys that is there.
    fn find<'a>(&mut self, reader: &mut Reader<'a>, keys: &str) -> Parsed<Option<SecretText<'a>>> {
        let is_one = |entry: &&MappingEntry| keys.split(' ').any(|key| key == entry.key);
        let mut given = reader.mapping.entries.iter().filter(is_one);
        let Some(entry) = given.next() else { return Ok(None) };
        if let Some(second) = given.next() {
            let message = format!("{} and {} exclude each other", entry.key, second.key);
            return reader.fail(second.at.error(message).help("remove one of them"));
        }
        let at = &entry.node.at;
        let text = if entry.key.ends_with("_file") {
            self.read_file(&entry.node)
        } else {
            // Said once of each file.
            reader.problems.extend(exposed(at).filter(|_| self.told.insert(at.path().to_owned())));
            let text = entry.node.text("a secret").map_err(Diagnostic::without_line);
            text.map(|text| Zeroizing::new(text.to_owned()))
        };
        let text = reader.problems.report(text)?;
        Ok(Some(SecretText { at, text, base64: entry.key.contains("base64") }))
    }

    /// The one line of the file that a node names.
    pub(super) fn read_file(&mut self, node: &Node) -> Diagnosed<Zeroizing<String>> {
        let path = node.path()?;
        let text = read_secret(&path, self.options);
        let text = text.map_err(|problem| problem.named_at(&node.at))?;
        self.files.push(path.clone());
        let line = one_line(&text).map(|line| Zeroizing::new(line.to_owned()));
        line.map_err(|why| node.at.error(format!("{} {why}", path.display())))
    }
}

/// Reports unknown keys as elsewhere, but names none that may be a secret itself, such as a key
/// without its colon.
fn reader<'a>(mapping: &'a Mapping, keys: &KnownKeys, problems: &'a mut Problems) -> Reader<'a> {
    let misspelt = mapping.check_keys_named(keys, |_| "this".to_owned(), problems);
    Reader { mapping, misspelt, problems }
}

/// The mapping of credentials; what else there is may be a secret, and is not shown.
fn credentials<'a>(node: &'a Node, example: &str, problems: &mut Problems) -> Parsed<&'a Mapping> {
    let mapping = node.mapping(&format!("a mapping such as {example}"));
    problems.report(mapping.map_err(Diagnostic::without_line))
}

/// Reads a client's `totp`.
pub(super) fn read_totp(
    node: &Node,
    secrets: &mut Secrets,
    problems: &mut Problems,
) -> Parsed<TotpClient> {
    let example = "{secret_file: /etc/knock.d/keys/phone.totp}";
    let mut reader = reader(credentials(node, example, problems)?, &TOTP, problems);
    let mut secret = |reader: &mut Reader<'_>, keys: &str| {
        let Some(found) = secrets.find(reader, keys)? else { return Ok(None) };
        let secret = totp::parse_secret(&found.text).map_err(|error| found.error(error));
        reader.problems.report(secret).map(Some)
    };
    let current = secret(&mut reader, "secret secret_file");
    let old = secret(&mut reader, "old_secret_file");
    let until = reader.read("old_until", |node| node.read("a date", date::parse));
    let current = current.and_then(|current| {
        let error = node.at.error("totp has no secret").without_line();
        let error = error.help("write secret_file, or let 'knockctl enroll' make one");
        current.map_or_else(|| reader.missing(TOTP.known, error), Ok)
    });
    let old = reader.both(("old_secret_file", old), ("old_until", until));
    Ok(TotpClient { secret: current?, old: old? })
}

const POLICIES: [(&str, AddressPolicy); 2] =
    [("any", AddressPolicy::Any), ("explicit", AddressPolicy::Explicit)];

/// Reads a client's `spa`, and where its keys are written.
pub(super) fn read_spa(node: &Node, problems: &mut Problems) -> Parsed<(SpaClient, Vec<Place>)> {
    let mut reader = reader(credentials(node, "{public_key: BASE64}", problems)?, &SPA, problems);
    let address = reader.read("address", |node| node.one_of(&POLICIES));
    let Some(given) = reader.value("public_key") else {
        let error = node.at.error("spa has no public_key").without_line();
        let help = "write the one that 'knock --keygen' printed";
        return reader.missing(SPA.known, error.help(help));
    };
    let mut first: HashMap<spa::PublicKey, &Place> = HashMap::new();
    let mut keys = Vec::new();
    if given.items().is_empty() {
        return reader.fail(given.at.error("the list names no public key"));
    }
    for item in given.items() {
        let key: spa::PublicKey = reader.problems.report(item.parsed("a public key in base64"))?;
        match first.insert(key, &item.at) {
            Some(first) => reader.problems.push(given_twice(&item.at, "this public key", first)),
            None => keys.push((key, item.at.clone())),
        }
    }
    let (keys, places) = keys.into_iter().unzip();
    Ok((SpaClient { keys, address: address?.unwrap_or_default() }, places))
}

/// Reads a client's `fwknop`, whose keys may be in either case, as fwknop writes them.
pub(super) fn read_fwknop(
    node: &Node,
    secrets: &mut Secrets,
    problems: &mut Problems,
) -> Parsed<FwknopClient> {
    let example = "{key_base64: BASE64, hmac_key_base64: BASE64}";
    let mapping = lowercase(credentials(node, example, problems)?, problems);
    let reader = &mut reader(&mapping, &FWKNOP, problems);
    let key = secrets.find(reader, FWKNOP_KEYS);
    let hmac_key = secrets.find(reader, FWKNOP_HMAC_KEYS);
    let old_key = read_old_key(reader, secrets, "old_key_base64_file");
    let old_hmac_key = read_old_key(reader, secrets, "old_hmac_key_base64_file");
    let until = reader.read("old_until", |node| node.read("a date", date::parse));
    let old = reader
        .both(("old_key_base64_file", old_key), ("old_hmac_key_base64_file", old_hmac_key))
        .and_then(|keys| reader.both(("old_key_base64_file", Ok(keys)), ("old_until", until)));
    let mode = reader.read("mode", |node| node.parsed::<fwknop::CipherMode>("a mode such as cbc"));
    let hmac_type = reader.read("hmac_type", |node| node.parsed("a hash such as sha256"));
    let without = reader.read("without_hmac", Node::boolean);
    let from = read_networks(reader, "from");
    let destination = read_networks(reader, "destination");
    let username = reader.read("username", read_username);
    let address = reader.read("address", |node| node.one_of(&POLICIES));
    let force_nat = reader.read("force_nat", Node::boolean);
    let (key, hmac_key) = (key?, hmac_key?);
    let (without, mode) = (without?.unwrap_or_default(), mode?.unwrap_or_default());
    let error = node.at.error("fwknop has no key").without_line();
    let error = error.help("write key or key_base64, as in fwknop's access.conf");
    let key = key.map_or_else(|| reader.missing(FWKNOP.known, error), Ok)?;
    check_hmac(reader, hmac_key.is_some(), without, &node.at)?;
    warn_of_doubtful(reader, hmac_key.is_some(), mode, &node.at);
    let hmac = hmac_key
        .as_ref()
        .map(|found| Ok((reader.problems.report(found.key())?, hmac_type?.unwrap_or_default())));
    let hmac = hmac.transpose()?;
    let key: fwknop::FwknopKey = reader.problems.report(key.key())?;
    if let (Some(found), Some((hmac_key, _))) = (&hmac_key, &hmac)
        && key.is_same_as(hmac_key)
    {
        let error = found.error("the HMAC key is the encryption key: fwknop refuses that");
        return reader.fail(error.help("let 'fwknop --key-gen' make two keys"));
    }
    let (from, destination, username, old) = (from?, destination?, username?, old?);
    let (address, force_nat) = (address?.unwrap_or_default(), force_nat?.unwrap_or_default());
    Ok(FwknopClient { key, mode, hmac, from, destination, username, address, force_nat, old })
}

fn read_old_key<const MOST: usize>(
    reader: &mut Reader<'_>,
    secrets: &mut Secrets,
    name: &str,
) -> Parsed<Option<fwknop::KeyOf<MOST>>> {
    let found = secrets.find(reader, name)?;
    found.map(|found| reader.problems.report(found.key())).transpose()
}

/// The mapping with its keys in lower case.
fn lowercase(mapping: &Mapping, problems: &mut Problems) -> Mapping {
    let lower = |entry: &MappingEntry| MappingEntry {
        key: entry.key.to_ascii_lowercase(),
        ..entry.clone()
    };
    let mut entries = mapping.entries.iter().map(lower).collect();
    let twice = refuse_repetitions(&mut entries, |_| "this key".to_owned());
    problems.extend(twice.into_iter().map(Diagnostic::without_line));
    Mapping { entries }
}

/// Where an HMAC key is neither there nor given up, or both.
fn check_hmac(reader: &mut Reader<'_>, hmac: bool, without: bool, at: &Place) -> Parsed<()> {
    if hmac && without {
        let at = reader.get("without_hmac").map_or(at, |entry| &entry.at);
        let error = at.error("without_hmac and an HMAC key exclude each other");
        return reader.fail(error.help("remove one of them"));
    }
    if hmac || without || reader.misspelt.iter().any(|key| key.starts_with("hmac_key")) {
        return Ok(());
    }
    let help = "write hmac_key_base64, or without_hmac: true for a client that has none";
    reader.fail(at.error("fwknop has no HMAC key").without_line().help(help))
}

fn warn_of_doubtful(reader: &mut Reader<'_>, hmac: bool, mode: fwknop::CipherMode, at: &Place) {
    let place = |key| reader.mapping.get(key).map_or(at, |entry| &entry.at);
    if !hmac {
        let warning = place("without_hmac")
            .warning("without an HMAC anyone may alter a datagram and see what comes of it");
        let help = "give the client an HMAC key: fwknop has had them since 2.5";
        let hmac_type = reader
            .get("hmac_type")
            .map(|given| given.at.warning("hmac_type has no effect without an HMAC key"));
        reader.problems.extend([warning.help(help)].into_iter().chain(hmac_type));
    } else if mode == fwknop::CipherMode::Legacy {
        let warning = place("mode").warning("fwknop's clients send no HMAC in legacy mode");
        reader.problems.push(warning.help("write another mode, or without_hmac: true"));
    }
}

fn read_networks(reader: &mut Reader<'_>, key: &str) -> Parsed<Vec<Network>> {
    let Some(node) = reader.value(key) else { return Ok(Vec::new()) };
    if node.items().is_empty() {
        let error = node.at.error(format!("'{key}' names no network"));
        let help = "write for example [192.0.2.0/24], or remove it for anywhere";
        return reader.fail(error.help(help));
    }
    let network = |item: &Node| item.parsed("a network such as 192.0.2.0/24");
    reader.problems.report_all(node.items().iter().map(network))
}

fn read_username(node: &Node) -> Diagnosed<String> {
    let name = node.text("the name of a user")?;
    name.parse::<fwknop::User>().map(|_| name.to_owned()).map_err(|_| {
        let error = node.at.error("no client of fwknop can send this name");
        error.help("it is up to 48 letters, digits, blanks and marks such as @ . - _")
    })
}
