//! The command line as a value without contradictions.

use std::mem::take;
use std::num::NonZeroU16;
use std::path::PathBuf;

use super::{KnockArgs, UsageError};
use crate::client::names;
use crate::client::settings::{ClientSettings, EXCLUDES, KINDS, Mode, modes_of_option};
use crate::client::values::Address;
use crate::proto::{Family, Knock, Protocol};

/// A command line that asks for knocks, each part of it right for itself.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// `None`: the stanza of `~/.fwknoprc` names it.
    pub host: Option<String>,
    /// The settings that win over the hosts file; without a mode, the hosts file says which.
    pub settings: ClientSettings,
    pub code: Option<Code>,
    /// The port of the host that the program becomes a connection to.
    pub proxy: Option<NonZeroU16>,
    /// How often `--stay` is given.
    pub stay: u8,
    /// The connection is handed over on standard output.
    pub fdpass: bool,
    /// The protocol of all knocks of a sequence, where one is forced on them.
    pub protocol: Option<Protocol>,
    /// The only addresses of the host that may be used.
    pub family: Option<Family>,
    pub hosts: Option<PathBuf>,
    pub dry_run: bool,
    pub verbose: bool,
    /// The options that are given, by their keys in the hosts file where they have one.
    pub given: Vec<&'static str>,
}

/// A code of an authenticator.
#[derive(Clone, derive_more::Debug, PartialEq, Eq)]
pub enum Code {
    #[debug("Typed(..)")]
    Typed(String),
    /// To be asked for.
    Ask,
}

impl Invocation {
    /// Checks the options that are given against a mode.
    ///
    /// # Errors
    /// If an option was given that `mode` has no use for; `what` says what to do about it.
    pub fn check_mode(&self, mode: Mode, what: &str) -> Result<(), UsageError> {
        for &key in &self.given {
            if let Some(modes) = modes_of_option(key).filter(|modes| !modes.contains(&mode)) {
                return Err(UsageError::OtherMode { key, modes, what: what.to_owned() });
            }
        }
        Ok(())
    }

    /// Two options of which one makes the other pointless.
    fn check_together(&self) -> Result<(), UsageError> {
        let is_given = |key: &str| self.given.contains(&key);
        let mut excluded = KINDS.into_iter().chain(EXCLUDES);
        let both = excluded.find(|(one, other, _)| is_given(one) && is_given(other));
        both.map_or(Ok(()), |both| Err(UsageError::Together(both)))
    }
}

impl KnockArgs {
    /// The arguments as a value.
    ///
    /// # Errors
    /// [`UsageError`] with the first contradiction.
    pub fn invocation(mut self) -> Result<Invocation, UsageError> {
        let (host, proxy) = self.host_and_proxy()?;
        match &host {
            Some(host) if proxy.is_none() && is_port(host) => {
                return Err(UsageError::HostIsPort(host.clone()));
            }
            Some(host) if host.contains('@') => return Err(UsageError::User(host.clone())),
            _ => {}
        }
        if self.hosts.is_some() && !self.knocks.is_empty() {
            return Err(UsageError::HostsWithPorts);
        }
        let mode = self.mode()?;
        let protocol = self.udp.then_some(Protocol::Udp);
        let settings = self.settings(mode, protocol)?;
        let flags = [("udp", self.udp), ("ipv4", self.ipv4), ("ipv6", self.ipv6)];
        let others =
            [("code", self.code.is_some()), ("proxy", proxy.is_some()), ("stay", self.stay > 0)];
        let others =
            flags.into_iter().chain(others).filter_map(|(key, is_given)| is_given.then_some(key));
        let invocation = Invocation {
            host,
            given: settings.keys().into_iter().chain(others).collect(),
            settings,
            proxy,
            stay: self.stay,
            fdpass: self.fdpass,
            protocol,
            family: self.ipv4.then_some(Family::V4).or(self.ipv6.then_some(Family::V6)),
            dry_run: self.dry_run,
            verbose: self.verbose,
            code: self.code.map(|text| match text.as_str() {
                "-" => Code::Ask,
                _ => Code::Typed(text),
            }),
            hosts: self.hosts,
        };
        invocation.check_together()?;
        if let Some(mode) = mode {
            let is_plain = mode == Mode::Sequence;
            let what = if is_plain { "leave it out where ports are given" } else { "leave it out" };
            invocation.check_mode(mode, what)?;
        }
        Ok(invocation)
    }

    /// The host, and with `--proxy` the port to connect to: then all that is not an option is a
    /// port to knock on.
    fn host_and_proxy(&mut self) -> Result<(Option<String>, Option<NonZeroU16>), UsageError> {
        let positional = self.host.take();
        let Some([host, port]) = self.proxy.as_deref() else { return Ok((positional, None)) };
        let port = names::tcp_port(port).map_err(UsageError::ProxyPort)?;
        self.knocks.splice(0..0, positional);
        Ok((Some(host.clone()), Some(port)))
    }

    /// The mode that the command line asks for; `None`: the hosts file says which.
    fn mode(&self) -> Result<Option<Mode>, UsageError> {
        let mut asked = [
            ("--totp", Mode::Totp, self.totp),
            ("--code", Mode::Totp, self.code.is_some()),
            ("--one-time", Mode::Sequence, self.settings.one_time.is_some()),
            ("--spa", Mode::Spa, self.spa),
            ("--fwknop", Mode::Fwknop, self.fwknop),
            ("--fwknoprc", Mode::Fwknop, self.settings.fwknop.fwknoprc.is_some()),
        ]
        .into_iter()
        .filter(|(_, _, is_given)| *is_given);
        let Some((one, mode, _)) = asked.next() else {
            return Ok((!self.knocks.is_empty()).then_some(Mode::Sequence));
        };
        match asked.next_back() {
            Some((other, second, _)) if mode != second => Err(UsageError::TwoModes { one, other }),
            _ if !self.knocks.is_empty() && mode != Mode::Fwknop => {
                Err(UsageError::ModeWithPorts { option: one, ports: self.knocks.join(" ") })
            }
            _ => Ok(Some(mode)),
        }
    }

    fn settings(
        &mut self,
        mode: Option<Mode>,
        protocol: Option<Protocol>,
    ) -> Result<ClientSettings, UsageError> {
        let mut wrong = Vec::new();
        let read =
            |text: &String| names::knock(text, protocol).map_err(|error| wrong.push(error)).ok();
        let knocks: Vec<Knock> = self.knocks.iter().filter_map(read).collect();
        if !wrong.is_empty() {
            return Err(UsageError::Ports(wrong));
        }
        let mut settings = take(&mut self.settings);
        settings.request.address = Address::of(&take(&mut settings.request.words))?;
        Ok(ClientSettings { mode, knocks, ..settings })
    }
}

/// Whether what stands in the place of the host is a port. A resolver would take the number for an
/// address.
fn is_port(host: &str) -> bool {
    host.bytes().all(|byte| byte.is_ascii_digit())
        || (host.starts_with(|first: char| first.is_ascii_digit())
            && names::knock(host, None).is_ok())
}
