//! The reader of one entry of the hosts file.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::HostProfile;
use crate::client::fwknop::open_for;
use crate::client::names;
use crate::client::settings::{
    ClientSettings, EXCLUDES, FIELDS, FwknopOptions, KINDS, Mode, RequestOptions, RotationOptions,
    RouteOptions,
};
use crate::client::values::{self, A_NAT_TARGET, A_WIDTH, Address};
use crate::client::{MAX_DELAY, RETRY_RANGE};
use crate::config::diagnostic::closest_match;
use crate::config::tree::{KnownKeys, Mapping, MappingEntry, Node, Value};
use crate::config::width::read_widths;
use crate::config::{Diagnosed, Problems};
use crate::proto::port_range::{parse as port_range, parse_wide};
use crate::proto::totp::LENGTHS;
use crate::proto::words::UnknownWord;
use crate::proto::{Knock, duration};

/// The time between two knocks, unless something else is said: packets to different ports can
/// overtake each other on the way.
pub const DELAY: Duration = Duration::from_millis(15);

/// The keys of an entry.
pub const KEYS: KnownKeys = KnownKeys {
    of: "a host",
    known: &{
        let mut known = [""; FIELDS.len()];
        let mut at = 0;
        while at < known.len() {
            known[at] = FIELDS[at].key;
            at += 1;
        }
        known
    },
};

/// Reads an entry of the hosts file `file`. What is wrong in it is left out.
pub(super) fn host(
    entry: &MappingEntry,
    file: &Path,
    problems: &mut Problems,
) -> Option<HostProfile> {
    let fields =
        problems.ok_or_report(entry.node.mapping("a host: a mapping with the key 'ports'"))?;
    fields.check_keys(&KEYS, problems);
    let mode = match fields.value("mode") {
        Some(node) => problems.ok_or_report(mode(node))?,
        None if fields.value("fwknoprc").is_some() => Mode::Fwknop,
        None => Mode::Sequence,
    };
    let mut reader = ProfileReader { fields, file, problems };
    reader.check_keys(mode);
    let host = reader.read("host", |node| node.text("a name or an address").map(str::to_owned));
    let mut settings = ClientSettings {
        mode: Some(mode),
        delay: Some(reader.delay().unwrap_or(DELAY)),
        wait: reader.read("wait", |node| node.read("a TCP port", names::tcp_port)),
        retry: reader.read("retry", |node| node.read("a number", values::number(RETRY_RANGE))),
        every: reader.read("every", |node| node.read("a duration such as 30s", values::every)),
        source_port: reader.read("source_port", |node| node.parsed("a port or auto")),
        route: RouteOptions {
            interface: reader.read("interface", |node| node.parsed("an interface")),
            source: reader.read("source", |node| node.parsed("an address")),
            both: reader.flag("both"),
            connect: reader.flag("connect"),
        },
        one_time: reader.path("one_time"),
        door: reader.read("door", |node| node.parsed("the name of a door")),
        ..ClientSettings::default()
    };
    match mode {
        Mode::Sequence if settings.one_time.is_some() => {}
        Mode::Sequence => settings.knocks = reader.knocks(entry)?,
        Mode::Totp => settings.rotation = reader.rotation(),
        Mode::Spa => settings.request = reader.request(values::open_for),
        Mode::Fwknop => {
            if fields.value("ports").is_some() {
                settings.knocks = reader.knocks(entry)?;
            }
            settings.request = reader.request(open_for);
            settings.fwknop = reader.fwknop();
        }
    }
    Some(HostProfile { name: entry.key.clone(), at: entry.at.clone(), host, settings })
}

fn mode(node: &Node) -> Diagnosed<Mode> {
    let text = node.text("sequence, totp, spa or fwknop")?;
    text.parse().map_err(|_: UnknownWord| {
        let known = Mode::ALL.map(Mode::as_str);
        let help = format!("write one of: {}", known.join(", "));
        node.at.misspelt(&format!("'{text}' is not a mode"), closest_match(text, known), &help)
    })
}

/// The fields of an entry, and where to say what is wrong with them.
struct ProfileReader<'a> {
    fields: &'a Mapping,
    file: &'a Path,
    problems: &'a mut Problems,
}

impl ProfileReader<'_> {
    fn read<T>(&mut self, key: &str, reader: impl FnOnce(&Node) -> Diagnosed<T>) -> Option<T> {
        self.problems.ok_or_report(reader(self.fields.value(key)?))
    }

    fn flag(&mut self, key: &str) -> bool {
        self.read(key, Node::boolean).unwrap_or(false)
    }

    /// A path, of which the hosts file's directory is the start.
    fn path(&mut self, key: &str) -> Option<PathBuf> {
        let text = self.read(key, |node| node.text("the path of a file").map(str::to_owned))?;
        if let (Some(rest), Some(home)) = (text.strip_prefix("~/"), std::env::home_dir()) {
            return Some(home.join(rest));
        }
        Some(self.file.parent().unwrap_or(Path::new("")).join(text))
    }

    /// Reports every key that another mode has a use for and this one has not, and every one that
    /// stands beside another that it does not go with.
    fn check_keys(&mut self, mode: Mode) {
        let (fits, others): (Vec<_>, Vec<_>) = FIELDS
            .iter()
            .filter_map(|field| Some((field, self.fields.get(field.key)?)))
            .partition(|(field, _)| field.modes.contains(&mode));
        for (field, entry) in others {
            let modes: Vec<&str> = field.modes.iter().map(|mode| mode.as_str()).collect();
            let message = format!("'{}' has no meaning in mode: {mode}", field.key);
            let help = format!("remove it, or write mode: {}", modes.join(" or "));
            self.problems.push(entry.at.error(message).help(help));
        }
        let says = |key: &str| {
            let (_, entry) = fits.iter().find(|(field, _)| field.key == key)?;
            let is_flag = ["both", "close", "connect"].contains(&key);
            let is_off = is_flag && !matches!(entry.node.boolean(), Ok(true));
            (!is_off && !matches!(entry.node.value, Value::Null)).then_some(entry)
        };
        for (one, other, why) in KINDS.iter().chain(&EXCLUDES) {
            if let (Some(entry), Some(_)) = (says(one), says(other)) {
                let message = format!("'{one}' and '{other}' do not go together");
                let help = format!("remove one of them: {why}");
                self.problems.push(entry.at.error(message).help(help));
            }
        }
    }

    fn delay(&mut self) -> Option<Duration> {
        let node = self.fields.value("delay")?;
        let read = node.read("a duration such as 50ms", duration::parse);
        let delay = self.problems.ok_or_report(read)?;
        if delay > MAX_DELAY {
            let error = node.at.error("more than an hour between two knocks");
            let help = "write ms after a number of milliseconds, as in 50ms";
            self.problems.push(error.help(help));
            return None;
        }
        let bare =
            matches!(&node.value, Value::Scalar(scalar) if scalar.text.parse::<u64>().is_ok());
        if bare && !delay.is_zero() {
            let seconds = delay.as_secs();
            let message = format!("a bare number is seconds: {seconds}s between two knocks");
            let help =
                format!("write {seconds}ms for milliseconds, {seconds}s if you mean seconds");
            self.problems.push(node.at.warning(message).help(help));
        }
        Some(delay)
    }

    fn knocks(&mut self, entry: &MappingEntry) -> Option<Vec<Knock>> {
        let Some(ports) = self.fields.value("ports") else {
            let error = entry.at.error(format!("'{}' has no ports to knock on", entry.key));
            let help = "write them below it: ports: [7000, 8000/udp, 9000]";
            self.problems.push(error.help(help));
            return None;
        };
        let listed = ports
            .list("a list of ports")
            .map_err(|error| error.help("write it in brackets: [7000, 8000/udp, 9000]"))
            .and_then(|list| match list {
                [] => Err(ports.at.error("there is no port in this list")),
                list => Ok(list),
            });
        let read = |node: &Node| node.read("a port", |text| names::knock(text, None));
        let ports = self.problems.ok_or_report(listed)?;
        Some(ports.iter().filter_map(|node| self.problems.ok_or_report(read(node))).collect())
    }

    fn rotation(&mut self) -> RotationOptions {
        RotationOptions {
            ports: self.read("ports", |node| {
                node.read("a range of ports such as 20000-29999", parse_wide)
            }),
            base: self.read("base", |node| node.read("a port", values::base)),
            length: self.read("length", |node| node.read("a number", values::number(LENGTHS))),
            protocol: self.read("protocol", |node| node.parsed("tcp, udp or mixed")),
            digits: self.read("digits", |node| node.parsed("6 or 8")),
            step: self.read("step", |node| node.read("a duration such as 30s", values::step)),
            secret_file: self.path("secret_file"),
        }
    }

    fn request(&mut self, open_for: fn(&str) -> Result<NonZeroU32, String>) -> RequestOptions {
        RequestOptions {
            server_key: self.read("server_key", |node| node.parsed("a key")),
            key_file: self.path("key_file"),
            spa_port: self
                .read("spa_port", |node| node.read("a port or a range of ports", port_range)),
            address: self.read("address", address).flatten(),
            width: self.fields.value("width").and_then(|node| match node.value {
                Value::Mapping(_) => read_widths(node, self.problems).ok(),
                _ => self.problems.ok_or_report(node.read(A_WIDTH, values::width)),
            }),
            open_for: self.read("open_for", |node| node.read("a duration such as 30s", open_for)),
            close: self.flag("close"),
            ..RequestOptions::default()
        }
    }

    fn fwknop(&mut self) -> FwknopOptions {
        let hash = |node: &Node| node.parsed("a hash such as sha256");
        FwknopOptions {
            fwknoprc: self.read("fwknoprc", |node| node.text("a stanza's name").map(str::to_owned)),
            hmac_key_file: self.path("hmac_key_file"),
            digest_type: self.read("digest_type", hash),
            hmac_digest_type: self.read("hmac_digest_type", hash),
            encryption_mode: self.read("encryption_mode", |node| node.parsed("a mode such as cbc")),
            user: self.read("user", |node| node.parsed("a user's name")),
            time_offset: self.read("time_offset", |node| node.read("a time", values::time_offset)),
            nat_access: self.read("nat_access", |node| node.read(A_NAT_TARGET, values::nat_target)),
            nat_local: self.flag("nat_local"),
            nat_port: self
                .read("nat_port", |node| node.read("a port or a range of ports", port_range)),
        }
    }
}

fn address(node: &Node) -> Diagnosed<Option<Address>> {
    let word = |node: &'_ Node| node.text("auto, observed or an address").map(str::to_owned);
    let words: Vec<String> = node.items().iter().map(word).collect::<Result<_, _>>()?;
    Address::of(&words).map_err(|error| node.at.error(error.to_string()))
}
