//! The file of one client that `enroll` writes and reads again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::config::Name;
use crate::config::diagnostic::{Diagnostic, Place, Problems, SourceText};
use crate::config::tree::{Mapping, MappingEntry, Node, Value};
use crate::config::yaml;
use crate::ctl::yaml_writer::YamlWriter;
use crate::proto::spa::PublicKey;

/// The first line of every file that may be written anew.
const HEADER: &str = "# knockctl enroll has written this file, and writes it anew as a whole; \
                      without this line it does not.";

/// A client, as its file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::ctl) struct ClientFile {
    pub name: Name,
    /// Never empty.
    pub doors: Vec<Name>,
    /// As it was written: a date or a time.
    pub expires: Option<String>,
    pub totp: Option<TotpKeys>,
    pub spa: Option<SpaKeys>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::ctl) struct TotpKeys {
    pub secret_file: PathBuf,
    /// The secret before, and until when it holds.
    pub old: Option<(PathBuf, Timestamp)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::ctl) struct SpaKeys {
    /// Never empty.
    pub public_keys: Vec<PublicKey>,
    /// `any` or `explicit`, where it says so.
    pub address: Option<String>,
}

impl ClientFile {
    /// A client that may do nothing yet.
    pub(in crate::ctl) const fn new(name: Name) -> Self {
        Self { name, doors: Vec::new(), expires: None, totp: None, spa: None }
    }

    /// Adds those that it has not yet.
    pub(in crate::ctl) fn add_doors(&mut self, doors: &[Name]) {
        for door in doors {
            if !self.doors.contains(door) {
                self.doors.push(door.clone());
            }
        }
    }

    /// Its secret is another one from now on; the one before holds for `grace` too.
    pub(in crate::ctl) fn rotate(&mut self, secret_file: PathBuf, now: Timestamp, grace: Duration) {
        // A whole second, and none too early.
        let seconds = i64::try_from(grace.as_secs()).ok().and_then(|grace| {
            now.as_second().checked_add(grace)?.checked_add((now.subsec_nanosecond() > 0).into())
        });
        let until = seconds.filter(|_| !grace.is_zero());
        let until = until.and_then(|seconds| Timestamp::from_second(seconds).ok());
        let before = self.totp.take().map(|totp| totp.secret_file);
        self.totp = Some(TotpKeys { secret_file, old: before.zip(until) });
    }

    /// Forgets a secret that holds no longer.
    pub(in crate::ctl) fn forget_expired(&mut self, now: Timestamp) {
        if let Some(totp) = &mut self.totp {
            totp.old.take_if(|(_, until)| *until <= now);
        }
    }

    /// Adds a key, or puts it in the place of all others.
    pub(in crate::ctl) fn add_key(&mut self, key: PublicKey, replace: bool) {
        let spa =
            self.spa.get_or_insert_with(|| SpaKeys { public_keys: Vec::new(), address: None });
        if replace {
            spa.public_keys.clear();
        }
        if !spa.public_keys.contains(&key) {
            spa.public_keys.push(key);
        }
    }

    /// The files that hold its secrets.
    pub(in crate::ctl) fn secret_files(&self) -> impl Iterator<Item = &Path> {
        let totp = self.totp.iter();
        let old = totp.clone().flat_map(|totp| &totp.old).map(|(old, _)| old.as_path());
        totp.map(|totp| totp.secret_file.as_path()).chain(old)
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
    pub(in crate::ctl) fn text(&self) -> Zeroizing<String> {
        let mut page = YamlWriter::default();
        page.line(0, HEADER);
        page.open(0, "clients");
        page.open(1, self.name.as_str());
        page.list(2, "doors", &self.doors.iter().map(Name::as_str).collect::<Vec<_>>());
        page.optional(2, "expires", self.expires.as_ref());
        if let Some(TotpKeys { secret_file, old }) = &self.totp {
            page.open(2, "totp");
            page.entry(3, "secret_file", &secret_file.to_string_lossy());
            if let Some((old, until)) = old {
                page.entry(3, "old_secret_file", &old.to_string_lossy());
                page.line(3, &format!("old_until: {until}"));
            }
        }
        if let Some(SpaKeys { public_keys, address }) = &self.spa {
            page.open(2, "spa");
            page.open(3, "public_key");
            public_keys.iter().for_each(|key| page.item(4, &key.to_string()));
            page.optional(3, "address", address.as_ref());
        }
        Zeroizing::new(page.into_text())
    }

    /// Reads a file that [`text`](Self::text) has made and somebody may have changed.
    ///
    /// # Errors
    /// [`NotOurs`] when writing it anew would lose something.
    pub(in crate::ctl) fn read(source: &SourceText, name: &Name) -> Result<Self, NotOurs> {
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
pub(in crate::ctl) fn files_of(source: &SourceText, name: &Name) -> Result<Vec<PathBuf>, NotOurs> {
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
fn fields<'a>(node: &'a Node, known: &[&str]) -> Result<&'a Mapping, Diagnostic> {
    let mapping = node.mapping("a mapping")?;
    match mapping.entries.iter().find(|entry| !known.contains(&entry.key.as_str())) {
        Some(MappingEntry { key, at, .. }) => Err(by_hand(at, &format!("'{key}'"))),
        None => Ok(mapping),
    }
}

fn needed<'a>(fields: &'a Mapping, key: &str, within: &Node) -> Result<&'a Node, Diagnostic> {
    fields.value(key).ok_or_else(|| within.at.error(format!("'{key}' is missing here")))
}

/// The client, where there is nothing else.
fn only<'a>(root: &'a Node, name: &Name) -> Result<&'a Node, Diagnostic> {
    let clients = needed(fields(root, &["clients"])?, "clients", root)?;
    needed(fields(clients, &[name.as_str()])?, name.as_str(), clients)
}

fn client(root: &Node, name: &Name) -> Result<ClientFile, Diagnostic> {
    let node = only(root, name)?;
    let keys = fields(node, &["doors", "expires", "totp", "spa"])?;
    let doors = needed(keys, "doors", node)?
        .list("a list of doors")?
        .iter()
        .map(|door| door.parsed("the name of a door"))
        .collect::<Result<_, _>>()?;
    Ok(ClientFile {
        name: name.clone(),
        doors,
        expires: text_of(keys, "expires", "a date")?,
        totp: keys.value("totp").map(totp).transpose()?,
        spa: keys.value("spa").map(spa).transpose()?,
    })
}

fn text_of(fields: &Mapping, key: &str, wanted: &str) -> Result<Option<String>, Diagnostic> {
    fields.value(key).map(|node| node.text(wanted).map(str::to_owned)).transpose()
}

fn totp(node: &Node) -> Result<TotpKeys, Diagnostic> {
    let keys = fields(node, &["secret_file", "old_secret_file", "old_until"])?;
    let file = |node: &Node| node.text("the path of a file").map(PathBuf::from);
    let old = match (keys.value("old_secret_file"), keys.value("old_until")) {
        (Some(old), Some(until)) => Some((file(old)?, until.parsed("a time")?)),
        (None, None) => None,
        _ => return Err(node.at.error("'old_secret_file' and 'old_until' go together")),
    };
    Ok(TotpKeys { secret_file: file(needed(keys, "secret_file", node)?)?, old })
}

fn spa(node: &Node) -> Result<SpaKeys, Diagnostic> {
    let keys = fields(node, &["public_key", "address"])?;
    let key = |node: &Node| node.parsed("a public key");
    let listed = needed(keys, "public_key", node)?;
    let public_keys = match &listed.value {
        Value::List(items) => items.iter().map(key).collect::<Result<_, _>>()?,
        _ => vec![key(listed)?],
    };
    Ok(SpaKeys { public_keys, address: text_of(keys, "address", "any or explicit")? })
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
        ClientFile {
            name: "phone".parse().unwrap(),
            doors: vec!["ssh".parse().unwrap()],
            expires: None,
            totp: Some(TotpKeys { secret_file: "/etc/knock.d/keys/phone.totp".into(), old: None }),
            spa: None,
        }
    }

    #[test]
    fn a_file_is_such_as_a_person_would_write() {
        let mut phone = phone();
        phone.spa = Some(SpaKeys { public_keys: vec![KEY.parse().unwrap()], address: None });
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
"
        );
    }

    #[test]
    fn what_a_person_has_added_is_not_lost() {
        let text = phone().text();
        for (added, error) in [
            (
                "    fwknop: {key: x}\n",
                "client-phone.yaml:7:5: error: 'fwknop' was added by hand, and would be lost",
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
        let old = || phone_files(&["new", "/etc/knock.d/keys/phone.totp"]);
        phone.rotate("new".into(), at(1000), Duration::from_secs(600));
        assert_eq!(phone.totp.as_ref().unwrap().old.as_ref().unwrap().1, at(1600));
        phone.forget_expired(at(1599));
        assert_eq!(phone.secret_files().collect::<Vec<_>>(), old());
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
        phone.rotate("new".into(), now, Duration::from_secs(600));
        assert_eq!(phone.totp.unwrap().old.unwrap().1, at(1601));
    }

    #[test]
    fn without_grace_only_the_new_secret_holds() {
        let mut phone = phone();
        phone.rotate("new".into(), at(1000), Duration::ZERO);
        assert_eq!(phone.secret_files().collect::<Vec<_>>(), phone_files(&["new"]));
    }

    #[test]
    fn of_three_secrets_the_last_two_may_hold() {
        let mut phone = phone();
        phone.rotate("second".into(), at(1000), Duration::from_secs(600));
        phone.rotate("third".into(), at(1001), Duration::from_secs(600));
        assert_eq!(phone.secret_files().collect::<Vec<_>>(), phone_files(&["third", "second"]));
    }

    #[test]
    fn what_is_there_already_is_not_added_again() {
        let mut phone = phone();
        let names = ["ssh", "web", "web"].map(|name| name.parse().unwrap());
        phone.add_doors(&names);
        assert_eq!(phone.doors, names[..2]);
        let [one, other] = [KEY.parse().unwrap(), [7; 32].try_into().unwrap()];
        for key in [one, other, one] {
            phone.add_key(key, false);
        }
        assert_eq!(phone.spa.as_ref().unwrap().public_keys, [one, other]);
        phone.add_key(one, true);
        assert_eq!(phone.spa.unwrap().public_keys, [one]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            doors in prop::collection::vec("[A-Za-z0-9_.-]{1,32}", 1..4),
            expires in prop::option::of("[0-9]{4}-[0-9]{2}-[0-9]{2}"),
            secret_file in "/[^\\x00]{0,20}",
            old in prop::option::of(("/[a-z@ :#'\"]{0,12}", 0i64..4_000_000_000)),
            public_keys in prop::collection::vec(any::<[u8; 32]>(), 0..3),
            address in prop::option::of(Just("explicit".to_owned())),
        ) {
            let old = old.map(|(path, until)| {
                (path.into(), Timestamp::from_second(until).unwrap())
            });
            let has_comment = secret_file.contains(" #")
                || old.as_ref().is_some_and(|(path, _): &(PathBuf, _)| {
                    path.to_string_lossy().contains(" #")
                });
            prop_assume!(!has_comment);
            let public_keys: Vec<PublicKey> =
                public_keys.into_iter().filter_map(|key| key.try_into().ok()).collect();
            let file = ClientFile {
                name: "phone".parse().unwrap(),
                doors: doors.iter().map(|door| door.parse().unwrap()).collect(),
                expires,
                totp: Some(TotpKeys { secret_file: secret_file.into(), old }),
                spa: (!public_keys.is_empty()).then_some(SpaKeys { public_keys, address }),
            };
            let source = SourceText::new("f", file.text().as_str());
            prop_assert_eq!(ClientFile::read(&source, &file.name).unwrap(), file);
        }

        #[test]
        fn no_text_makes_it_panic(text in "(clients:|\n|  phone:|    [a-z_]{1,8}: |[\\[\\]{}0-9:,# ]|.){0,20}") {
            let _ = read(&format!("{HEADER}\n{text}"));
        }
    }
}
