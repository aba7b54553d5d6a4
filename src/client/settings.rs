//! The settings of a knock, as command line, hosts file and `~/.fwknoprc` give them.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::RETRY_RANGE;
use super::names::tcp_port;
use super::values::{self, Address, NatTarget, SourcePort};
use crate::proto::fwknop::{CipherMode, Hash, User};
use crate::proto::name::Name;
use crate::proto::port_range::{parse as port_range, parse_wide};
use crate::proto::spa::PublicKey;
use crate::proto::totp::{Digits, LENGTHS, Protocols};
use crate::proto::words::words;
use crate::proto::{Knock, PortRange, Widths};

words! {
FromStr:
/// The way in which a door is asked to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Knocks that are always the same.
    Sequence = "sequence",
    /// Knocks that rotate with time.
    Totp = "totp",
    /// One datagram.
    Spa = "spa",
    /// One datagram of fwknop's.
    Fwknop = "fwknop",
}
}

/// A key of the hosts file. The command line has an [`option`] for most of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct SettingsField {
    pub key: &'static str,
    /// The modes that have a use for it.
    pub modes: &'static [Mode],
    /// The variables of `~/.fwknoprc` that do not count where it is given.
    pub variables: &'static [&'static str],
}

const fn field(
    key: &'static str,
    modes: &'static [Mode],
    variables: &'static [&'static str],
) -> SettingsField {
    SettingsField { key, modes, variables }
}

const KNOCKED: &[Mode] = &[Mode::Sequence, Mode::Totp];
const TOTP: &[Mode] = &[Mode::Totp];
const SPA: &[Mode] = &[Mode::Spa];
const REQUESTED: &[Mode] = &[Mode::Spa, Mode::Fwknop];
const FWKNOP: &[Mode] = &[Mode::Fwknop];

/// All keys of the hosts file.
pub(super) const FIELDS: [SettingsField; 37] = [
    field("host", &Mode::ALL, &[]),
    field("mode", &Mode::ALL, &[]),
    field("ports", &[Mode::Sequence, Mode::Totp, Mode::Fwknop], &[]),
    field("wait", &Mode::ALL, &[]),
    field("retry", &Mode::ALL, &[]),
    field("every", &Mode::ALL, &[]),
    field("source_port", &Mode::ALL, &[]),
    field("interface", &Mode::ALL, &[]),
    field("source", &Mode::ALL, &[]),
    // Of what opens once, one family has all the use.
    field("both", &[Mode::Sequence, Mode::Spa], &[]),
    field("delay", KNOCKED, &[]),
    field("connect", KNOCKED, &[]),
    field("one_time", &[Mode::Sequence], &[]),
    // Of fwknop's it tells which entries of a host are ways into one door.
    field("door", &[Mode::Totp, Mode::Spa, Mode::Fwknop], &[]),
    field("base", TOTP, &[]),
    field("length", TOTP, &[]),
    field("protocol", TOTP, &[]),
    field("digits", TOTP, &[]),
    field("step", TOTP, &[]),
    field("secret_file", TOTP, &[]),
    field("server_key", SPA, &[]),
    field("key_file", REQUESTED, &["KEY", "KEY_BASE64", "KEY_FILE"]),
    field("spa_port", REQUESTED, &["SPA_SERVER_PORT", "RAND_PORT"]),
    field("address", REQUESTED, &["ALLOW_IP"]),
    field("width", SPA, &[]),
    field("open_for", REQUESTED, &["FW_TIMEOUT"]),
    field("close", SPA, &[]),
    field("fwknoprc", FWKNOP, &[]),
    field("hmac_key_file", FWKNOP, &["HMAC_KEY", "HMAC_KEY_BASE64", "HMAC_KEY_FILE"]),
    field("hmac_digest_type", FWKNOP, &["HMAC_DIGEST_TYPE"]),
    field("digest_type", FWKNOP, &["DIGEST_TYPE"]),
    field("encryption_mode", FWKNOP, &["ENCRYPTION_MODE"]),
    field("user", FWKNOP, &["SPOOF_USER"]),
    field("time_offset", FWKNOP, &["TIME_OFFSET"]),
    field("nat_access", FWKNOP, &["NAT_ACCESS"]),
    field("nat_local", FWKNOP, &["NAT_LOCAL"]),
    field("nat_port", FWKNOP, &["NAT_PORT", "NAT_RAND_PORT"]),
];

/// The modes that have a use for what an option says; `None`: all have.
pub(super) fn modes_of_option(key: &str) -> Option<&'static [Mode]> {
    match key {
        "udp" => Some(&[Mode::Sequence]),
        "door" => Some(&[Mode::Totp, Mode::Spa]),
        // In the hosts file the word is also for the ports that stand after the host here.
        "ports" => Some(TOTP),
        _ => FIELDS.iter().find(|field| field.key == key).map(|field| field.modes),
    }
}

/// Two keys or options that do not go together, and why.
pub(super) type Exclusion = (&'static str, &'static str, &'static str);

/// What excludes each other also where an option says the one, and the hosts file the other: above
/// all the differences between the two kinds of rotating sequences.
pub(super) const KINDS: [Exclusion; 11] = [
    ("length", "base", "a code's digits say how many knocks there are"),
    ("protocol", "base", "a code is knocked over tcp"),
    ("digits", "ports", "only a code has digits"),
    ("udp", "one_time", "the list has the protocols"),
    ("udp", "connect", "only a TCP port can be connected to"),
    ("both", "one_time", "a line opens once"),
    ("both", "source", "an address is of one family"),
    ("ipv4", "source", "the address decides it"),
    ("ipv6", "source", "the address decides it"),
    ("stay", "close", "nothing opens"),
    ("stay", "one_time", "it would use up the list"),
];

/// The other exclusions, in one place.
pub(super) const EXCLUDES: [Exclusion; 15] = [
    ("base", "ports", "keep the one that the door has"),
    ("one_time", "ports", "the list has the ports"),
    ("ports", "code", "a door that takes codes has a --base"),
    ("length", "code", "a code's digits say how many knocks there are"),
    ("protocol", "code", "a code is knocked over tcp"),
    ("digits", "code", "the code shows how many digits it has"),
    ("step", "code", "the code is of its step already"),
    ("secret_file", "code", "with the secret, --totp makes the code by itself"),
    ("proxy", "close", "nothing opens"),
    ("wait", "proxy", "--proxy waits for its own port"),
    ("open_for", "close", "nothing opens"),
    ("wait", "close", "nothing opens"),
    ("stay", "wait", "whoever stays knocks again anyway"),
    ("stay", "proxy", "a connection ends, and --stay does not"),
    ("stay", "code", "a code opens once: with the secret, --totp makes the next ones"),
];

/// The option that says what a key of the hosts file says.
pub(super) fn option(key: &str) -> String {
    let name = match key {
        "key_file" | "hmac_key_file" => key.trim_end_matches("_file"),
        _ => key,
    };
    format!("--{}", name.replace('_', "-"))
}

/// A part of the settings, or all of them.
pub(super) trait SettingsPart: Sized + Default + PartialEq {
    /// This, or where it says nothing, `other`.
    fn or(self, other: Self) -> Self {
        if self == Self::default() { other } else { self }
    }

    /// Lists the keys under which something is said; `key` is that of a single setting.
    fn list(&self, key: &'static str, keys: &mut Vec<&'static str>) {
        if *self != Self::default() {
            keys.push(key);
        }
    }
}

impl SettingsPart for bool {}
impl<T: PartialEq> SettingsPart for Option<T> {}
impl<T: PartialEq> SettingsPart for Vec<T> {}

macro_rules! settings {
    ($(#[$of:meta])* pub struct $name:ident { $($(#[$each:meta])* pub $field:ident: $kind:ty,)+ }) => {
        $(#[$of])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$each])* pub $field: $kind,)+ }

        impl SettingsPart for $name {
            fn or(self, other: Self) -> Self {
                Self { $($field: self.$field.or(other.$field),)+ }
            }

            fn list(&self, _: &'static str, keys: &mut Vec<&'static str>) {
                $(self.$field.list(stringify!($field), keys);)+
            }
        }
    };
}

// From here on the first line of a doc comment is the help of the option.

settings! {
/// Everything that can be said about a knock; `None` where nothing was said.
#[derive(Args)]
pub struct ClientSettings {
    #[arg(skip)]
    pub mode: Option<Mode>,

    // The ports to knock on; for fwknop the ports to open.
    #[arg(skip)]
    pub knocks: Vec<Knock>,

    /// Milliseconds between knocks [default: 1; with --totp and from the hosts file: 15]
    #[arg(short, long, value_name = "MS", value_parser = values::delay, allow_hyphen_values = true)]
    pub delay: Option<Duration>,

    /// Knock the first line that is left in FILE, and strike it out
    #[arg(long, value_name = "FILE")]
    pub one_time: Option<PathBuf>,

    /// Connect from this port, or auto, and ask with --spa that only it is let in
    #[arg(long, value_name = "PORT")]
    pub source_port: Option<SourcePort>,

    /// The door, with --totp and --spa
    #[arg(long, value_name = "NAME")]
    pub door: Option<Name>,

    /// Knock until this TCP port accepts a connection
    #[arg(long, value_name = "PORT", value_parser = tcp_port)]
    pub wait: Option<NonZeroU16>,

    /// With --wait or --proxy: knock again up to N times [default: 3]
    #[arg(long, value_name = "N", value_parser = values::number(RETRY_RANGE), allow_hyphen_values = true)]
    pub retry: Option<u16>,

    /// With --stay: how long to wait before it knocks again [default: 15s, or half of --open-for]
    // In seconds.
    #[arg(long, value_name = "TIME", value_parser = values::every, requires = "stay")]
    pub every: Option<NonZeroU32>,

    #[command(flatten)]
    pub rotation: RotationOptions,

    #[command(flatten)]
    pub request: RequestOptions,

    #[command(flatten)]
    pub fwknop: FwknopOptions,

    #[command(flatten)]
    pub route: RouteOptions,
}
}

settings! {
#[derive(Args)]
// They come last, and what follows them is under no heading either.
#[command(next_help_heading = None::<&'static str>)]
pub struct RouteOptions {
    /// Send from this interface only
    #[arg(long, value_name = "IF", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub interface: Option<String>,

    /// Send from this address of this machine
    #[arg(long, value_name = "IP")]
    pub source: Option<IpAddr>,

    /// Knock over IPv4 and over IPv6, where the host has both
    #[arg(long, conflicts_with_all = ["ipv4", "ipv6"])]
    pub both: bool,

    /// Make each TCP knock a connection, for networks that let no lone SYN out
    #[arg(long)]
    pub connect: bool,
}
}

settings! {
#[derive(Args)]
#[command(next_help_heading = "Sequences that rotate with time")]
pub struct RotationOptions {
    /// The file with the TOTP secret
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,

    /// The range of the ports of a rotating sequence
    #[arg(long, value_name = "LOW-HIGH", value_parser = parse_wide)]
    pub ports: Option<PortRange>,

    /// How many knocks a rotating sequence has [default: 4]
    #[arg(long, value_name = "N", value_parser = values::number(LENGTHS))]
    pub length: Option<u8>,

    /// tcp, udp or mixed, for a rotating sequence [default: tcp]
    #[arg(long, value_name = "PROTO")]
    pub protocol: Option<Protocols>,

    /// The port of the digits 00, at a door that takes codes
    #[arg(long, value_name = "PORT", value_parser = values::base)]
    pub base: Option<u16>,

    /// How many digits a code has, 6 or 8 [default: 6]
    #[arg(long, value_name = "N")]
    pub digits: Option<Digits>,

    /// How long a rotating sequence is valid [default: 30s]
    // In seconds.
    #[arg(long, value_name = "TIME", value_parser = values::step)]
    pub step: Option<u32>,
}
}

settings! {
#[derive(Args)]
#[command(next_help_heading = "Requests")]
pub struct RequestOptions {
    /// The server's public key
    #[arg(long, value_name = "KEY")]
    pub server_key: Option<PublicKey>,

    /// The file with your private key; with --fwknop: with the encryption key
    #[arg(long = "key", value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// The port that takes requests, or a range [default: 62201]
    #[arg(long, value_name = "PORT", value_parser = port_range)]
    pub spa_port: Option<PortRange>,

    /// Whom to open for: auto, observed or an IP, one of each family [default: auto]
    // Of the command line alone, and moved from here to `address`.
    #[arg(id = "address", long, value_name = "ADDRESS")]
    pub words: Vec<String>,

    #[arg(skip)]
    pub address: Option<Address>,

    /// Ask for its network too: 24 of IPv4, 64 of IPv6, or 24,64
    // How many bits of an address count.
    #[arg(long, value_name = "BITS", value_parser = values::width)]
    pub width: Option<Widths>,

    /// Ask that the door is open for so long
    // In seconds.
    #[arg(long, value_name = "TIME", value_parser = values::open_for)]
    pub open_for: Option<NonZeroU32>,

    /// Ask to close the door instead
    #[arg(long)]
    pub close: bool,
}
}

settings! {
#[derive(Args)]
#[command(next_help_heading = "Requests as fwknop makes them")]
pub struct FwknopOptions {
    /// The same, as this stanza of ~/.fwknoprc says
    #[arg(long, value_name = "STANZA")]
    pub fwknoprc: Option<String>,

    /// The file with fwknop's HMAC key, if it is not in that of --key
    #[arg(long = "hmac-key", value_name = "FILE")]
    pub hmac_key_file: Option<PathBuf>,

    /// The hash of fwknop's HMAC [default: sha256]
    #[arg(long, value_name = "HASH")]
    pub hmac_digest_type: Option<Hash>,

    /// The hash of fwknop's digest [default: sha256]
    #[arg(long, value_name = "HASH")]
    pub digest_type: Option<Hash>,

    /// How fwknop encrypts: cbc, ecb, cfb, ofb, ctr or legacy [default: cbc]
    #[arg(long, value_name = "MODE")]
    pub encryption_mode: Option<CipherMode>,

    /// The user that fwknop names [default: who runs knock]
    #[arg(long, value_name = "NAME", value_parser = values::user)]
    pub user: Option<User>,

    /// Add this to the clock, for fwknop: 60s, -5min
    // In seconds.
    #[arg(long, value_name = "TIME", value_parser = values::time_offset, allow_hyphen_values = true)]
    pub time_offset: Option<i64>,

    /// Ask that the port leads to this host behind the server, for fwknop
    #[arg(long, value_name = "HOST[:PORT]", value_parser = values::nat_target)]
    pub nat_access: Option<NatTarget>,

    /// Ask that the port leads to one of the server's own, for fwknop
    #[arg(long)]
    pub nat_local: bool,

    /// The server's port that leads there [default: the same as there]
    // Or a range to pick one from.
    #[arg(long, value_name = "PORT", value_parser = port_range)]
    pub nat_port: Option<PortRange>,
}
}

impl ClientSettings {
    /// The keys under which something is said.
    pub fn keys(&self) -> Vec<&'static str> {
        let mut keys = Vec::new();
        self.list("", &mut keys);
        keys
    }

    /// These, and where they say nothing what `file` says. Of a `file` with another mode only what
    /// all modes share is taken.
    pub fn or_else(self, file: &Self) -> Self {
        let mut file = match (self.mode, file.mode) {
            (Some(own), Some(other)) if own != other => Self {
                delay: file.delay,
                wait: file.wait,
                retry: file.retry,
                every: file.every,
                source_port: file.source_port,
                route: RouteOptions { both: false, ..file.route.clone() },
                ..Self::default()
            },
            _ => file.clone(),
        };
        if self.rotation.ports.is_some() || self.rotation.base.is_some() {
            (file.rotation.ports, file.rotation.base) = (None, None);
        }
        self.or(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_wins_and_the_file_fills_in() {
        let own = ClientSettings { wait: NonZeroU16::new(22), ..ClientSettings::default() };
        let file = ClientSettings {
            mode: Some(Mode::Totp),
            wait: NonZeroU16::new(80),
            retry: Some(5),
            door: Some("ssh".parse().unwrap()),
            ..ClientSettings::default()
        };
        let both = own.or_else(&file);
        assert_eq!((both.wait, both.retry), (NonZeroU16::new(22), Some(5)));
        assert_eq!((both.mode, both.door), (file.mode, file.door));
    }

    #[test]
    fn of_an_entry_with_another_mode_only_what_all_modes_share_is_taken() {
        let own = ClientSettings { mode: Some(Mode::Spa), ..ClientSettings::default() };
        let file = ClientSettings {
            mode: Some(Mode::Totp),
            wait: NonZeroU16::new(80),
            door: Some("ssh".parse().unwrap()),
            ..ClientSettings::default()
        };
        let both = own.or_else(&file);
        assert_eq!((both.mode, both.wait, both.door), (Some(Mode::Spa), file.wait, None));
    }
}
