//! The file of one client that `enroll` writes and reads again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{RoundMode, SignedDuration, Timestamp, TimestampRound, Unit};
use zeroize::Zeroizing;

use crate::config::tree::{Mapping, MappingEntry, Node, Value};
use crate::config::yaml_writer::YamlWriter;
use crate::config::{Diagnosed, Diagnostic, Name, Place, Problems, SourceText, yaml};
use crate::proto::Method;
use crate::proto::spa::PublicKey;

/// The first line of every file that may be written anew.
const HEADER: &str = "# knockctl enroll has written this file, and writes it anew as a whole; \
                      without this line it does not.";

/// What is written of a client's credentials, or kept where it was added, in this order.
const KEPT: [(Method, &str); 3] = [
    (Method::Totp, "secret_file old_secret_file old_until"),
    (Method::Spa, "public_key address"),
    (
        Method::Fwknop,
        "key_base64_file hmac_key_base64_file old_key_base64_file old_hmac_key_base64_file \
         old_until hmac_type address",
    ),
];
/// The one key of these whose value is a list.
const PUBLIC_KEY: &str = "public_key";
/// What the keys of secrets begin with that hold no longer than until `old_until`.
const OLD: &str = "old_";

/// A client, as its file has it. Whether its values are good is for who reads the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClientFile {
    pub name: Name,
    /// Never empty.
    pub doors: Vec<Name>,
    /// As it was written: a date or a time.
    pub expires: Option<String>,
    /// Keys and values for each method: paths of secrets, and nothing secret itself. A list has its
    /// key again for each item.
    credentials: BTreeMap<Method, Vec<(String, String)>>,
}

impl ClientFile {
    /// A client that may do nothing yet.
    pub(super) const fn new(name: Name) -> Self {
        Self { name, doors: Vec::new(), expires: None, credentials: BTreeMap::new() }
    }

    /// Adds those that it has not yet.
    pub(super) fn add_doors(&mut self, doors: &[Name]) {
        for door in doors {
            if !self.doors.contains(door) {
                self.doors.push(door.clone());
            }
        }
    }

    /// Its secrets for a method are in these files from now on; those before hold for `grace` too.
    pub(super) fn rotate(
        &mut self,
        method: Method,
        files: Vec<(&str, PathBuf)>,
        now: Timestamp,
        grace: Duration,
    ) {
        // A whole second, and none too early.
        let whole = TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Ceil);
        let end = SignedDuration::try_from(grace).ok().filter(|grace| !grace.is_zero());
        let until = end.and_then(|grace| now.checked_add(grace).ok()?.round(whole).ok());
        let held = self.credentials.entry(method).or_default();
        held.retain(|(key, _)| !key.starts_with(OLD));
        for (key, path) in files {
            let before = held.extract_if(.., |(held, _)| held == key).last();
            if let (Some((key, before)), Some(until)) = (before, until) {
                held.retain(|(key, _)| key != "old_until");
                held.push((format!("{OLD}{key}"), before));
                held.push(("old_until".to_owned(), until.to_string()));
            }
            held.push((key.to_owned(), path.to_string_lossy().into_owned()));
        }
    }

    /// Until when the secrets before those of a method hold, if there are any.
    pub(super) fn old_until(&self, method: Method) -> Option<Timestamp> {
        let mut held = self.credentials.get(&method)?.iter();
        held.find(|(key, _)| key == "old_until")?.1.parse().ok()
    }

    /// Forgets secrets that hold no longer.
    pub(super) fn forget_expired(&mut self, now: Timestamp) {
        for (method, _) in KEPT {
            if self.old_until(method).is_some_and(|until| until <= now) {
                let held = self.credentials.entry(method).or_default();
                held.retain(|(key, _)| !key.starts_with(OLD));
            }
        }
    }

    /// Adds a key, or puts it in the place of all others.
    pub(super) fn add_key(&mut self, key: PublicKey, replace: bool) {
        let held = self.credentials.entry(Method::Spa).or_default();
        let new = (PUBLIC_KEY.to_owned(), key.to_string());
        held.retain(|(key, _)| key != PUBLIC_KEY || !replace);
        if !held.contains(&new) {
            held.push(new);
        }
    }

    /// Whether it has what a method takes.
    pub(super) fn has(&self, method: Method) -> bool {
        self.credentials.contains_key(&method)
    }

    /// The files that hold its secrets.
    pub(super) fn secret_files(&self) -> impl Iterator<Item = &Path> {
        let held = self.credentials.values().flatten();
        held.filter(|(key, _)| key.ends_with("_file")).map(|(_, path)| Path::new(path))
    }
}

/// The reason why a file is not written anew.
#[derive(Debug, thiserror::Error)]
pub(in crate::ctl) enum NotOurs {
    #[error("knockctl: error: {0} was not written by 'knockctl enroll', so it stays as it is")]
    Foreign(PathBuf),
    #[error("{at}: error: '{client}' is written here by hand, so it stays as it is")]
    Elsewhere { client: Name, at: Place },
    /// Written by `enroll`, and changed since in a way that would be lost.
    #[error("{0}")]
    Changed(Diagnostic),
}

impl ClientFile {
    /// The text of the file, without any secret. It has to be read as the same client.
    pub(super) fn text(&self) -> Zeroizing<String> {
        let mut page = YamlWriter::default();
        page.line(0, HEADER);
        page.open(0, "clients");
        page.open(1, self.name.as_str());
        page.list(2, "doors", &self.doors);
        page.optional(2, "expires", self.expires.as_ref());
        for (method, keys) in KEPT {
            let Some(held) = self.credentials.get(&method) else { continue };
            page.open(2, method.as_str());
            for key in keys.split(' ') {
                let mut values = held.iter().filter(|(held, _)| held == key).map(|(_, it)| it);
                if key == PUBLIC_KEY {
                    page.open(3, key);
                    values.for_each(|value| page.item(4, value));
                } else {
                    page.optional(3, key, values.next());
                }
            }
        }
        Zeroizing::new(page.into_text())
    }

    /// Reads a file that [`text`](Self::text) has made and somebody may have changed.
    ///
    /// # Errors
    /// [`NotOurs`] when writing it anew would lose something.
    pub(super) fn read(source: &SourceText, name: &Name) -> Result<Self, NotOurs> {
        let root = ours(source)?;
        let comment = |line: &str| line.trim_start().starts_with('#') || line.contains(" #");
        let lines = (1..).zip(source.text().lines()).skip(1);
        if let Some((number, line)) = lines.into_iter().find(|(_, line)| comment(line)) {
            let column = line.chars().take_while(|&c| c != '#').count();
            let at = source.place(number, u32::try_from(column + 1).unwrap_or(1), 1);
            return Err(NotOurs::Changed(by_hand(&at, "this comment")));
        }
        client(&root, name).map_err(NotOurs::Changed)
    }
}

/// The files that a client's secrets are in, if nothing but that client is in this file.
///
/// # Errors
/// [`NotOurs`] when removing the file would lose something else.
pub(super) fn files_of(source: &SourceText, name: &Name) -> Result<Vec<PathBuf>, NotOurs> {
    let root = ours(source)?;
    let client = only(&root, name).map_err(NotOurs::Changed)?;
    let mut files = Vec::new();
    let mut left = vec![client];
    while let Some(node) = left.pop() {
        let Value::Mapping(mapping) = &node.value else { continue };
        for MappingEntry { key, node, .. } in &mapping.entries {
            match &node.value {
                Value::Scalar(path) if key.ends_with("_file") => files.push((&path.text).into()),
                _ => left.push(node),
            }
        }
    }
    Ok(files)
}

/// The content of a file that enrolling has written.
fn ours(source: &SourceText) -> Result<Node, NotOurs> {
    if source.text().lines().next() != Some(HEADER) {
        return Err(NotOurs::Foreign(source.path().to_owned()));
    }
    let mut problems = Problems::default();
    yaml::parse(source, &mut problems).ok_or_else(|| {
        let unread = || Diagnostic::file(source.path(), "this is not YAML");
        NotOurs::Changed(problems.into_sorted().into_iter().next().unwrap_or_else(unread))
    })
}

/// The error that something would be lost.
fn by_hand(at: &Place, what: &str) -> Diagnostic {
    at.error(format!("{what} was added by hand, and would be lost"))
        .help("change the rest of the file by hand too, and remove its first line to make it yours")
}

/// The entries of a mapping, all of which have to be among `known`.
fn fields<'a>(node: &'a Node, known: &[&str]) -> Diagnosed<&'a Mapping> {
    let mapping = node.mapping("a mapping")?;
    match mapping.entries.iter().find(|entry| !known.contains(&entry.key.as_str())) {
        Some(MappingEntry { key, at, .. }) => Err(by_hand(at, &format!("'{key}'"))),
        None => Ok(mapping),
    }
}

fn needed<'a>(fields: &'a Mapping, key: &str, within: &Node) -> Diagnosed<&'a Node> {
    fields.value(key).ok_or_else(|| within.at.error(format!("'{key}' is missing here")))
}

/// The client, where there is nothing else.
fn only<'a>(root: &'a Node, name: &Name) -> Diagnosed<&'a Node> {
    let clients = needed(fields(root, &["clients"])?, "clients", root)?;
    needed(fields(clients, &[name.as_str()])?, name.as_str(), clients)
}

fn client(root: &Node, name: &Name) -> Diagnosed<ClientFile> {
    let node = only(root, name)?;
    let keys = fields(node, &["doors", "expires", "totp", "spa", "fwknop"])?;
    let doors = needed(keys, "doors", node)?.list("a list of doors")?.iter();
    let doors = doors.map(|door| door.parsed("the name of a door")).collect::<Diagnosed<_>>()?;
    let expires =
        keys.value("expires").map(|it| it.text("a date").map(str::to_owned)).transpose()?;
    let mut client = ClientFile { doors, expires, ..ClientFile::new(name.clone()) };
    for (method, known) in KEPT {
        let Some(node) = keys.value(method.as_str()) else { continue };
        let held = client.credentials.entry(method).or_default();
        for entry in &fields(node, &known.split(' ').collect::<Vec<_>>())?.entries {
            for item in entry.node.items() {
                held.push((entry.key.clone(), item.text("a text")?.to_owned()));
            }
        }
    }
    Ok(client)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "4BbmHjtWeVM7bEaAdK2cj0F9oCf/oNUue5BUuSUn6kA=";

    fn read(text: &str) -> Result<ClientFile, String> {
        let source = SourceText::new("client-phone.yaml", text);
        ClientFile::read(&source, &"phone".parse().unwrap())
            .map_err(|error| error.to_string().lines().next().unwrap().to_owned())
    }

    fn phone() -> ClientFile {
        let mut phone = ClientFile::new("phone".parse().unwrap());
        phone.add_doors(&["ssh".parse().unwrap()]);
        rotate(&mut phone, "/etc/knock.d/keys/phone.totp", at(0), Duration::ZERO);
        phone
    }

    fn rotate(phone: &mut ClientFile, file: &str, now: Timestamp, grace: Duration) {
        phone.rotate(Method::Totp, vec![("secret_file", file.into())], now, grace);
    }

    fn public_keys(phone: &ClientFile) -> Vec<&str> {
        let held = &phone.credentials[&Method::Spa];
        held.iter().filter(|(key, _)| key == PUBLIC_KEY).map(|(_, key)| &**key).collect()
    }

    #[test]
    fn a_file_is_such_as_a_person_would_write() {
        let mut phone = phone();
        phone.add_key(KEY.parse().unwrap(), false);
        let keys = ["key_base64_file", "hmac_key_base64_file"].into_iter();
        for (names, grace) in [(["/k/1", "/k/2"], 0), (["/k/3", "/k/4"], 600)] {
            let files = keys.clone().zip(names.map(PathBuf::from)).collect();
            phone.rotate(Method::Fwknop, files, at(0), Duration::from_secs(grace));
        }
        assert_eq!(
            phone.text().split_once('\n').unwrap().1,
            "clients:
  phone:
    doors: [ssh]
    totp:
      secret_file: /etc/knock.d/keys/phone.totp
    spa:
      public_key:
        - 4BbmHjtWeVM7bEaAdK2cj0F9oCf/oNUue5BUuSUn6kA=
    fwknop:
      key_base64_file: /k/3
      hmac_key_base64_file: /k/4
      old_key_base64_file: /k/1
      old_hmac_key_base64_file: /k/2
      old_until: '1970-01-01T00:10:00Z'
"
        );
    }

    #[test]
    fn what_a_person_has_added_is_not_lost() {
        let text = phone().text();
        for (added, error) in [
            (
                "    fwknop: {key: x}\n",
                "client-phone.yaml:7:14: error: 'key' was added by hand, and would be lost",
            ),
            (
                "  # my phone\n",
                "client-phone.yaml:7:3: error: this comment was added by hand, and would be lost",
            ),
            (
                "doors: {}\n",
                "client-phone.yaml:7:1: error: 'doors' was added by hand, and would be lost",
            ),
            (
                "  tablet: {doors: [ssh]}\n",
                "client-phone.yaml:7:3: error: 'tablet' was added by hand, and would be lost",
            ),
        ] {
            assert_eq!(read(&format!("{}{added}", *text)), Err(error.to_owned()));
        }
        assert_eq!(
            read(&format!("{}    expires: 2027-01-31\n", *text)).unwrap().expires.as_deref(),
            Some("2027-01-31")
        );
    }

    #[test]
    fn a_client_is_removed_with_what_was_added_to_it_and_not_with_anything_else() {
        let files = |added: &str| {
            let source =
                SourceText::new("client-phone.yaml", format!("{}{added}", *phone().text()));
            files_of(&source, &"phone".parse().unwrap()).map_err(|error| error.to_string())
        };
        let secret = PathBuf::from("/etc/knock.d/keys/phone.totp");
        let mut found =
            files("    fwknop: {key_file: /k/f, hmac_key_file: /k/h}\n  # mine\n").unwrap();
        found.sort();
        assert_eq!(found, [secret, "/k/f".into(), "/k/h".into()]);
        for added in ["doors: {}\n", "  tablet: {doors: [ssh]}\n"] {
            assert!(files(added).unwrap_err().contains("would be lost"), "{added}");
        }
    }

    #[test]
    fn a_file_that_a_person_wrote_is_left_alone() {
        let text = phone().text().replace(HEADER, "# mine");
        assert!(read(&text).unwrap_err().contains("was not written by 'knockctl enroll'"));
    }

    #[test]
    fn what_is_no_client_says_where() {
        let read = |rest: &str| read(&format!("{HEADER}\n{rest}"));
        assert_eq!(
            read("clients: {}"),
            Err("client-phone.yaml:2:10: error: 'phone' is missing here".into())
        );
        assert!(read("clients: [").is_err());
        assert!(read("").is_err());
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn a_secret_that_is_rotated_with_grace_holds_until_that_is_over() {
        let mut phone = phone();
        rotate(&mut phone, "new", at(1000), Duration::from_secs(600));
        assert_eq!(phone.old_until(Method::Totp), Some(at(1600)));
        phone.forget_expired(at(1599));
        let old = phone_files(&["/etc/knock.d/keys/phone.totp", "new"]);
        assert_eq!(phone.secret_files().collect::<Vec<_>>(), old);
        phone.forget_expired(at(1600));
        assert_eq!(phone.secret_files().collect::<Vec<_>>(), phone_files(&["new"]));
    }

    fn phone_files<'a>(names: &'a [&'a str]) -> Vec<&'a Path> {
        names.iter().map(Path::new).collect()
    }

    #[test]
    fn a_grace_ends_with_a_whole_second_and_is_not_too_short() {
        let mut phone = phone();
        let now = Timestamp::new(1000, 1).unwrap();
        rotate(&mut phone, "new", now, Duration::from_secs(600));
        assert_eq!(phone.old_until(Method::Totp), Some(at(1601)));
    }

    #[test]
    fn without_grace_only_the_new_secret_holds() {
        let mut phone = phone();
        rotate(&mut phone, "new", at(1000), Duration::ZERO);
        assert_eq!(phone.secret_files().collect::<Vec<_>>(), phone_files(&["new"]));
    }

    #[test]
    fn of_three_secrets_the_last_two_may_hold() {
        let mut phone = phone();
        rotate(&mut phone, "second", at(1000), Duration::from_secs(600));
        rotate(&mut phone, "third", at(1001), Duration::from_secs(600));
        assert_eq!(phone.secret_files().collect::<Vec<_>>(), phone_files(&["second", "third"]));
    }

    #[test]
    fn what_is_there_already_is_not_added_again() {
        let mut phone = phone();
        let names = ["ssh", "web", "web"].map(|name| name.parse().unwrap());
        phone.add_doors(&names);
        assert_eq!(phone.doors, names[..2]);
        let [one, other]: [PublicKey; 2] = [KEY.parse().unwrap(), [7; 32].try_into().unwrap()];
        for key in [one, other, one] {
            phone.add_key(key, false);
        }
        assert_eq!(public_keys(&phone), [KEY, &other.to_string()]);
        phone.add_key(one, true);
        assert_eq!(public_keys(&phone), [KEY]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            doors in prop::collection::vec("[A-Za-z0-9_.-]{1,32}", 1..4),
            expires in prop::option::of("[0-9]{4}-[0-9]{2}-[0-9]{2}"),
            secret_file in "/[^\\x00]{0,20}",
            grace in 0u64..4_000_000_000,
            old_file in "/[a-z@ :#'\"]{0,12}",
            public_keys in prop::collection::vec(any::<[u8; 32]>(), 0..3),
            options in prop::sample::subsequence(vec!["address", "hmac_type"], 0..=2),
        ) {
            prop_assume!(!secret_file.contains(" #") && !old_file.contains(" #"));
            let mut file = ClientFile::new("phone".parse().unwrap());
            file.doors = doors.iter().map(|door| door.parse().unwrap()).collect();
            file.expires = expires;
            for (path, grace) in [(old_file, 0), (secret_file, grace)] {
                let files = ["key_base64_file", "hmac_key_base64_file"].map(|key| (key, (&path).into()));
                file.rotate(Method::Fwknop, files.into(), at(1), Duration::from_secs(grace));
                rotate(&mut file, &path, at(1), Duration::from_secs(grace));
            }
            let options = options.into_iter().map(|key| (key.to_owned(), "a word".to_owned()));
            file.credentials.get_mut(&Method::Fwknop).unwrap().extend(options);
            for key in public_keys {
                file.add_key(key.try_into().unwrap(), false);
            }
            let source = SourceText::new("f", file.text().as_str());
            let mut read = ClientFile::read(&source, &file.name).unwrap();
            for held in read.credentials.values_mut().chain(file.credentials.values_mut()) {
                held.sort();
            }
            prop_assert_eq!(read, file);
        }

        #[test]
        fn no_text_makes_it_panic(text in "(clients:|\n|  phone:|    [a-z_]{1,8}: |[\\[\\]{}0-9:,# ]|.){0,20}") {
            let _ = read(&format!("{HEADER}\n{text}"));
        }
    }
}
