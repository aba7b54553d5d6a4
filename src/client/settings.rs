//! What command line and hosts file say about a knock, before anything is made of it.

use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;

use super::values::{Address, PortRange, SourcePort};
use crate::proto::fwknop::{Hash, Mode as Encryption, User};
use crate::proto::knock::Knock;
use crate::proto::name::Name;
use crate::proto::spa::PublicKey;
use crate::proto::totp::{Digits, Protocols};
use crate::proto::words::words;

words! {
Display:
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

/// Everything that can be said about a knock; `None` where nothing was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

/// What [`Mode::Totp`] has beside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    pub kind: Option<Kind>,
    pub length: Option<u8>,
    pub protocol: Option<Protocols>,
    pub digits: Option<Digits>,
    /// Seconds.
    pub step: Option<u32>,
    pub secret_file: Option<PathBuf>,
}

/// From what the ports of a rotating sequence come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From a range.
    Ports(PortRange),
    /// From a code, from this base.
    Code(u16),
}

/// What [`Mode::Spa`] and in part [`Mode::Fwknop`] have beside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub server_key: Option<PublicKey>,
    pub key_file: Option<PathBuf>,
    pub port: Option<PortRange>,
    pub address: Option<Address>,
    /// Seconds.
    pub open_for: Option<NonZeroU32>,
    pub close: bool,
}

impl Settings {
    /// These, and where they say nothing what `file` says. Of a `file` with another mode only what
    /// all modes share is taken.
    #[must_use]
    pub fn over(self, file: &Self) -> Self {
        let file = match (self.mode, file.mode) {
            (Some(own), Some(other)) if own != other => Self {
                delay: file.delay,
                wait: file.wait,
                retry: file.retry,
                source_port: file.source_port,
                ..Self::default()
            },
            _ => file.clone(),
        };
        Self {
            mode: self.mode.or(file.mode),
            knocks: if self.knocks.is_empty() { file.knocks } else { self.knocks },
            delay: self.delay.or(file.delay),
            wait: self.wait.or(file.wait),
            retry: self.retry.or(file.retry),
            source_port: self.source_port.or(file.source_port),
            door: self.door.or(file.door),
            rotation: self.rotation.over(file.rotation),
            request: self.request.over(file.request),
            fwknop: self.fwknop.over(file.fwknop),
        }
    }
}

impl Rotation {
    fn over(self, file: Self) -> Self {
        Self {
            kind: self.kind.or(file.kind),
            length: self.length.or(file.length),
            protocol: self.protocol.or(file.protocol),
            digits: self.digits.or(file.digits),
            step: self.step.or(file.step),
            secret_file: self.secret_file.or(file.secret_file),
        }
    }
}

impl Request {
    fn over(self, file: Self) -> Self {
        Self {
            server_key: self.server_key.or(file.server_key),
            key_file: self.key_file.or(file.key_file),
            port: self.port.or(file.port),
            address: self.address.or(file.address),
            open_for: self.open_for.or(file.open_for),
            close: self.close || file.close,
        }
    }
}

/// What [`Mode::Fwknop`] alone has beside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fwknop {
    /// The name of a stanza of `~/.fwknoprc`.
    pub stanza: Option<String>,
    pub hmac_key_file: Option<PathBuf>,
    pub digest: Option<Hash>,
    pub hmac: Option<Hash>,
    pub encryption: Option<Encryption>,
    pub user: Option<User>,
    /// Seconds.
    pub time_offset: Option<i64>,
}

impl Fwknop {
    fn over(self, file: Self) -> Self {
        Self {
            stanza: self.stanza.or(file.stanza),
            hmac_key_file: self.hmac_key_file.or(file.hmac_key_file),
            digest: self.digest.or(file.digest),
            hmac: self.hmac.or(file.hmac),
            encryption: self.encryption.or(file.encryption),
            user: self.user.or(file.user),
            time_offset: self.time_offset.or(file.time_offset),
        }
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
