//! Requests of fwknop's, from what command line, hosts file and `~/.fwknoprc` say.

use std::num::NonZeroU16;

use zeroize::Zeroizing;

use super::{Builder, JobError};
use crate::client::fwknop::{self, Fwknop, Keys, check_open_for};
use crate::client::fwknoprc::{Allow, Stanza};
use crate::client::usage::UsageError;
use crate::client::values::{Address, AddressWord};
use crate::proto::fwknop::{FwknopKey, FwknopKeyError, HmacKey, User};
use crate::proto::knock::{Knock, Protocol};
use crate::proto::port_range::PortRange;
use crate::proto::spa::PORTS;

/// Where fwknop sends to if it is to choose the port itself.
const RANDOM: PortRange = {
    let low = NonZeroU16::new(10_000).expect("is not zero");
    low..=NonZeroU16::new(65_534).expect("is not zero")
};

impl Builder<'_> {
    /// The variables of a stanza that an option, or the hosts file, says instead.
    pub(super) fn settled(&self) -> Vec<&'static str> {
        let (request, own) = (&self.settings.request, &self.settings.fwknop);
        let said: [(bool, &[&'static str]); 11] = [
            (request.key_file.is_some(), &["KEY", "KEY_BASE64", "KEY_FILE"]),
            (own.hmac_key_file.is_some(), &["HMAC_KEY", "HMAC_KEY_BASE64", "HMAC_KEY_FILE"]),
            (request.spa_port.is_some(), &["SPA_SERVER_PORT", "RAND_PORT"]),
            (!self.settings.knocks.is_empty(), &["ACCESS"]),
            (request.address.is_some(), &["ALLOW_IP"]),
            (own.hmac_digest_type.is_some(), &["HMAC_DIGEST_TYPE"]),
            (own.digest_type.is_some(), &["DIGEST_TYPE"]),
            (own.encryption_mode.is_some(), &["ENCRYPTION_MODE"]),
            (request.open_for.is_some(), &["FW_TIMEOUT"]),
            (own.user.is_some(), &["SPOOF_USER"]),
            (own.time_offset.is_some(), &["TIME_OFFSET"]),
        ];
        let said = said.into_iter().filter(|(is_said, _)| *is_said);
        said.flat_map(|(_, names)| names).copied().collect()
    }

    /// `stanza` says what nobody else says.
    pub(super) fn fwknop(&self, stanza: Stanza, host: &str) -> Result<Fwknop, JobError> {
        let (request, own) = (&self.settings.request, &self.settings.fwknop);
        let mut keys = match &request.key_file {
            Some(file) => fwknop::keys(file)?,
            None => Keys::default(),
        };
        if let Some(file) = &own.hmac_key_file {
            keys.hmac = Some(fwknop::hmac_key(file)?);
        }
        let key = match (keys.key.or(stanza.key), &stanza.key_file) {
            (Some(key), _) => key,
            (None, Some(file)) => fwknop::key_for(file, host)?,
            (None, None) => ask("Encryption key: ", FwknopKey::new)?,
        };
        let hmac = match keys.hmac.or(stanza.hmac_key) {
            None if stanza.use_hmac => Some(ask("HMAC key: ", HmacKey::new)?),
            hmac => hmac,
        };
        let port = match (&request.spa_port, stanza.random_port, stanza.port) {
            (Some(range), _, _) => range.clone(),
            (None, true, _) => RANDOM,
            (None, false, Some(port)) => port..=port,
            (None, false, None) => PORTS,
        };
        let hmac_type = own.hmac_digest_type.unwrap_or(stanza.hmac_type);
        Ok(Fwknop {
            key,
            hmac: hmac.map(|key| (key, hmac_type)),
            digest: own.digest_type.unwrap_or(stanza.digest),
            mode: own.encryption_mode.unwrap_or(stanza.mode),
            port,
            from: stanza.source_port,
            ports: self.ports_to_open(stanza.ports)?,
            address: self.address(stanza.allow)?,
            open_for: match request.open_for {
                Some(seconds) => Some(check_open_for(seconds).map_err(UsageError::OpenFor)?.get()),
                None => stanza.timeout,
            },
            user: match own.user.clone().or(stanza.user) {
                Some(user) => user,
                None => runner()?,
            },
            time_offset: own.time_offset.unwrap_or(stanza.time_offset),
        })
    }

    /// Where nothing else is said, the port that is waited for.
    fn ports_to_open(&self, of_stanza: Vec<Knock>) -> Result<Vec<Knock>, JobError> {
        let said = [self.settings.knocks.clone(), of_stanza];
        let said = said.into_iter().find(|ports| !ports.is_empty());
        let waited_for = self.wanted.proxy.or(self.settings.wait);
        let waited_for = waited_for.map(|port| vec![Knock::new(Protocol::Tcp, port)]);
        self.need(said.or(waited_for), "the ports to open", "ports after the host", "ports")
    }

    fn address(&self, allow: Option<Allow>) -> Result<Address, UsageError> {
        match (self.settings.request.address, allow) {
            (Some(Address::Given(given)), _) if given.v4().is_none() => Err(UsageError::NotIpv4),
            (Some(address), _) => Ok(address),
            (None, Some(Allow::Source)) => Ok(Address::Observed),
            (None, Some(Allow::Address(address))) => {
                let word = AddressWord::Ip(address.into());
                Ok(Address::of(&[word])?.unwrap_or(Address::Auto))
            }
            (None, None) => Ok(Address::Auto),
        }
    }
}

/// The user who runs the program.
fn runner() -> Result<User, UsageError> {
    let account = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    fwknop::user(|name| std::env::var(name).ok(), account.map(|account| account.name))
        .map_err(UsageError::UserName)
}

/// Asks for a key at the terminal.
fn ask<K>(prompt: &str, key: fn(Vec<u8>) -> Result<K, FwknopKeyError>) -> Result<K, JobError> {
    let typed = rpassword::prompt_password(prompt).map(Zeroizing::new).map_err(JobError::AskKey)?;
    key(typed.as_bytes().to_vec()).map_err(JobError::Key)
}
