//! What command line and hosts file say about a knock, before anything is made of it.

use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::fwknop::time_offset;
use super::values::{self, Address, AddressWord, SourcePort};
use crate::proto::fwknop::{CipherMode, Hash, User};
use crate::proto::knock::Knock;
use crate::proto::name::Name;
use crate::proto::port_range::{PortRange, parse as port_range, parse_wide};
use crate::proto::spa::PublicKey;
use crate::proto::totp::{Digits, Protocols};
use crate::proto::words::words;

words! {
FromStr:
/// How a door is asked to open.
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

/// The keys of the hosts file, and with [`option`] the options of the command line, that only some
/// modes have a use for. What the word `ports` means is another thing in each of the two.
pub const OF_MODES: [(&str, &[Mode]); 21] = [
    ("delay", &[Mode::Sequence, Mode::Totp]),
    ("door", &[Mode::Totp, Mode::Spa]),
    ("base", &[Mode::Totp]),
    ("length", &[Mode::Totp]),
    ("protocol", &[Mode::Totp]),
    ("digits", &[Mode::Totp]),
    ("step", &[Mode::Totp]),
    ("secret_file", &[Mode::Totp]),
    ("server_key", &[Mode::Spa]),
    ("key_file", &[Mode::Spa, Mode::Fwknop]),
    ("spa_port", &[Mode::Spa, Mode::Fwknop]),
    ("address", &[Mode::Spa, Mode::Fwknop]),
    ("open_for", &[Mode::Spa, Mode::Fwknop]),
    ("close", &[Mode::Spa]),
    ("fwknoprc", &[Mode::Fwknop]),
    ("hmac_key_file", &[Mode::Fwknop]),
    ("hmac_digest_type", &[Mode::Fwknop]),
    ("digest_type", &[Mode::Fwknop]),
    ("encryption_mode", &[Mode::Fwknop]),
    ("user", &[Mode::Fwknop]),
    ("time_offset", &[Mode::Fwknop]),
];

/// Two keys that do not go together, and why.
pub type Exclusion = (&'static str, &'static str, &'static str);

/// What the two kinds of rotating sequences do not have in common.
pub const OF_KINDS: [Exclusion; 3] = [
    ("length", "base", "a code's digits say how many knocks there are"),
    ("protocol", "base", "a code is knocked over tcp"),
    ("digits", "ports", "only a code has digits"),
];

/// What is for opening.
pub const OF_CLOSING: [Exclusion; 2] =
    [("open_for", "close", "nothing opens"), ("wait", "close", "nothing opens")];

/// The option that says what a key of the hosts file says.
pub fn option(key: &str) -> String {
    let name = match key {
        "key_file" | "hmac_key_file" => key.trim_end_matches("_file"),
        _ => key,
    };
    format!("--{}", name.replace('_', "-"))
}

/// Puts what was said in one place before what was said in another, as `Option::or` does.
trait Or {
    fn or(self, other: Self) -> Self;
}

impl Or for bool {
    fn or(self, other: Self) -> Self {
        self || other
    }
}

impl<T> Or for Vec<T> {
    fn or(self, other: Self) -> Self {
        if self.is_empty() { other } else { self }
    }
}

macro_rules! settings {
    ($(#[$of:meta])* pub struct $name:ident { $($(#[$each:meta])* pub $field:ident: $kind:ty,)+ }) => {
        $(#[$of])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$each])* pub $field: $kind,)+ }

        impl Or for $name {
            fn or(self, other: Self) -> Self {
                Self { $($field: self.$field.or(other.$field),)+ }
            }
        }
    };
}

settings! {
/// Everything that can be said about a knock; `None` where nothing was said.
pub struct Settings {
    pub mode: Option<Mode>,
    /// What to knock on; for [`Mode::Fwknop`] the ports to open.
    pub knocks: Vec<Knock>,
    /// Between two knocks.
    pub delay: Option<Duration>,
    /// The TCP port to wait for.
    pub wait: Option<NonZeroU16>,
    pub retry: Option<u16>,
    /// Of the connection, and of the one that a request lets in.
    pub source_port: Option<SourcePort>,
    pub door: Option<Name>,
    pub rotation: Rotation,
    pub request: Request,
    pub fwknop: Fwknop,
}
}

// From here on the first line of a doc comment is the help of the option.

settings! {
#[derive(Args)]
#[command(next_help_heading = "Sequences that rotate with time")]
pub struct Rotation {
    /// The file with the TOTP secret
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,

    /// The range of the ports of a rotating sequence
    #[arg(long, value_name = "LOW-HIGH", value_parser = parse_wide)]
    pub ports: Option<PortRange>,

    /// How many knocks a rotating sequence has [default: 4]
    #[arg(long, value_name = "N", value_parser = values::length)]
    pub length: Option<u8>,

    /// tcp, udp or mixed, for a rotating sequence [default: tcp]
    #[arg(long, value_name = "PROTO")]
    pub protocol: Option<Protocols>,

    /// The port of the digits 00, at a door that takes codes
    #[arg(long, value_name = "PORT", value_parser = values::base)]
    pub base: Option<u16>,

    /// How many digits a code has, 6 or 8 [default: 6]
    #[arg(long, value_name = "N", value_parser = values::digits)]
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
pub struct Request {
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
    pub words: Vec<AddressWord>,

    #[arg(skip)]
    pub address: Option<Address>,

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
pub struct Fwknop {
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
    #[arg(long, value_name = "TIME", value_parser = time_offset, allow_hyphen_values = true)]
    pub time_offset: Option<i64>,
}
}

impl Settings {
    /// These, and where they say nothing what `file` says. Of a `file` with another mode only what
    /// all modes share is taken.
    pub fn over(self, file: &Self) -> Self {
        let mut file = match (self.mode, file.mode) {
            (Some(own), Some(other)) if own != other => Self {
                delay: file.delay,
                wait: file.wait,
                retry: file.retry,
                source_port: file.source_port,
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
        let own = Settings { wait: NonZeroU16::new(22), ..Settings::default() };
        let file = Settings {
            mode: Some(Mode::Totp),
            wait: NonZeroU16::new(80),
            retry: Some(5),
            door: Some("ssh".parse().unwrap()),
            ..Settings::default()
        };
        let both = own.over(&file);
        assert_eq!((both.wait, both.retry), (NonZeroU16::new(22), Some(5)));
        assert_eq!((both.mode, both.door), (file.mode, file.door));
    }

    #[test]
    fn of_an_entry_with_another_mode_only_what_all_modes_share_is_taken() {
        let own = Settings { mode: Some(Mode::Spa), ..Settings::default() };
        let file = Settings {
            mode: Some(Mode::Totp),
            wait: NonZeroU16::new(80),
            door: Some("ssh".parse().unwrap()),
            ..Settings::default()
        };
        let both = own.over(&file);
        assert_eq!((both.mode, both.wait, both.door), (Some(Mode::Spa), file.wait, None));
    }
}
