//! The plan of a request of fwknop's, from what command line, hosts file and `~/.fwknoprc` say.

use super::Planner;
use crate::client::cli::UsageError;
use crate::client::error::ClientError;
use crate::client::fwknop::{self, FwknopKnocker, check_open_for};
use crate::client::fwknoprc::{RcKeys, RcStanza};
use crate::client::knocker::Knocker;
use crate::client::messages::complain;
use crate::client::platform;
use crate::client::settings::{ClientSettings, FIELDS, FwknopOptions};
use crate::client::spa::RequestError;
use crate::client::values::Address;
use crate::proto::fwknop::{FwknopKey, FwknopKeyError, HmacKey, NatAccess, User};
use crate::proto::port_range::pick;
use crate::proto::spa::PORTS;
use crate::proto::{Knock, Protocol};

/// The variables of a stanza that an option, or the hosts file, says instead.
pub(super) fn settled(settings: &ClientSettings) -> Vec<&'static str> {
    let said = settings.keys();
    let said = FIELDS.iter().filter(|field| said.contains(&field.key));
    let access = (!settings.knocks.is_empty()).then_some("ACCESS");
    said.flat_map(|field| field.variables).copied().chain(access).collect()
}

impl Planner<'_> {
    /// The maker of requests. `stanza` has what only `~/.fwknoprc` can say; the settings have the
    /// rest of it.
    pub(super) fn fwknop(&self, stanza: RcStanza, host: &str) -> Result<Knocker, ClientError> {
        let (request, fwknop) = (&self.settings.request, &self.settings.fwknop);
        if let Some(seconds) = self.invocation.settings.request.open_for {
            check_open_for(seconds).map_err(UsageError::OpenFor)?;
        }
        let mut keys = match &request.key_file {
            Some(file) => fwknop::keys(file)?,
            None => RcKeys::default(),
        };
        if let Some(file) = &fwknop.hmac_key_file {
            keys.hmac = Some(fwknop::hmac_key(file)?);
        }
        let key = match (keys.key.or(stanza.keys.key), &stanza.key_file) {
            (Some(key), _) => key,
            (None, Some(file)) => fwknop::key_for(file, host)?,
            (None, None) => ask("Encryption key: ", FwknopKey::new)?,
        };
        let hmac = match keys.hmac.or(stanza.keys.hmac) {
            None if stanza.use_hmac => Some(ask("HMAC key: ", HmacKey::new)?),
            hmac => hmac,
        };
        let mut ports = self.ports_to_open()?;
        let nat = self.nat(host, &mut ports)?;
        Ok(Knocker::Fwknop(Box::new(FwknopKnocker {
            key,
            hmac: hmac.map(|key| (key, fwknop.hmac_digest_type.unwrap_or_default())),
            digest: fwknop.digest_type.unwrap_or_default(),
            mode: fwknop.encryption_mode.unwrap_or_default(),
            port: request.spa_port.clone().unwrap_or(PORTS),
            from: stanza.source_port,
            ports,
            nat,
            address: match request.address.unwrap_or(Address::Auto) {
                Address::Given(given) if given.v4().is_none() => {
                    return Err(UsageError::NotIpv4.into());
                }
                address => address,
            },
            open_for: request.open_for,
            user: fwknop.user.clone().map_or_else(runner, Ok)?,
            time_offset: fwknop.time_offset.unwrap_or_default(),
        })))
    }

    /// Where the ports shall lead. They are those of the server's that do: with one of its own, that
    /// takes the place of what is given.
    fn nat(&self, host: &str, ports: &mut [Knock]) -> Result<Option<NatAccess>, ClientError> {
        let FwknopOptions { nat_access, nat_local, nat_port, .. } = &self.settings.fwknop;
        let (host, port) = match nat_access {
            Some(target) => (&*target.host, target.port),
            None if *nat_local => (host, None),
            None if nat_port.is_some() => return Err(UsageError::NatPortForNothing.into()),
            None => return Ok(None),
        };
        let Some(port) = port.or_else(|| ports.first().map(|knock| knock.port)) else {
            return Ok(None);
        };
        let nat = NatAccess::new(host, port, *nat_local)
            .map_err(|_| UsageError::NatHost(host.to_owned()))?;
        let Some(range) = nat_port else { return Ok(Some(nat)) };
        let [knock] = ports else { return Err(UsageError::NatPortForMany.into()) };
        knock.port = pick(range, getrandom::u64().map_err(RequestError::Random)?);
        if range.start() != range.end() {
            complain(&format!("knock: asking that {knock} leads to {host}:{port}"));
        }
        Ok(Some(nat))
    }

    /// The ports to open; where none are given, the one that is waited for.
    fn ports_to_open(&self) -> Result<Vec<Knock>, ClientError> {
        let said = Some(self.settings.knocks.clone()).filter(|ports| !ports.is_empty());
        let waited_for = self.invocation.proxy.or(self.settings.wait);
        let waited_for = waited_for.map(|port| vec![Knock::new(Protocol::Tcp, port)]);
        self.need(said.or(waited_for), "the ports to open", "ports after the host", "ports")
    }
}

/// The user who runs the program.
fn runner() -> Result<User, UsageError> {
    fwknop::user(|name| std::env::var(name).ok(), platform::user_name())
        .map_err(UsageError::UserName)
}

/// Asks for a key at the terminal.
fn ask<K>(prompt: &str, key: fn(Vec<u8>) -> Result<K, FwknopKeyError>) -> Result<K, ClientError> {
    let typed = platform::prompt_hidden(prompt).map_err(ClientError::AskKey)?;
    Ok(key(typed.as_bytes().to_vec())?)
}
