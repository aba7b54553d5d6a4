//! A command line without contradictions.

use std::mem::take;
use std::num::NonZeroU16;
use std::path::PathBuf;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::Options;
use crate::client::names::{self, Family};
use crate::client::settings::{Exclusion, Mode, OF_CLOSING, OF_KINDS, OF_MODES, Settings, option};
use crate::client::usage::{UsageError, WhatToDo};
use crate::client::values::Address;
use crate::proto::knock::{Knock, Protocol};

/// What the command line says, each part of it right for itself.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// `None`: the stanza of `~/.fwknoprc` names it.
    pub host: Option<String>,
    /// What wins over the hosts file; without a mode, the hosts file says which.
    pub settings: Settings,
    pub code: Option<Code>,
    /// The port of the host that the program becomes a connection to.
    pub proxy: Option<NonZeroU16>,
    /// The protocol of all knocks of a sequence, where one is forced on them.
    pub protocol: Option<Protocol>,
    pub family: Family,
    pub hosts: Option<PathBuf>,
    pub dry_run: bool,
    pub verbose: bool,
    /// The given options that only some modes have a use for.
    bound: Vec<Bound>,
}

/// A code of an authenticator.
#[derive(Clone, PartialEq, Eq)]
pub enum Code {
    Typed(String),
    /// To be asked for.
    Ask,
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Typed(_) => "Typed(..)",
            Self::Ask => "Ask",
        })
    }
}

type Bound = (&'static str, &'static [Mode]);

/// As [`OF_MODES`], of the command line alone.
const OPTIONS: [Bound; 2] = [("udp", &[Mode::Sequence]), ("ports", &[Mode::Totp])];

/// Whether what stands in the place of the host is a port. A resolver would take the number for an
/// address.
fn is_port(host: &str) -> bool {
    host.bytes().all(|byte| byte.is_ascii_digit())
        || (host.starts_with(|first: char| first.is_ascii_digit())
            && names::knock(host, None).is_ok())
}

impl Wanted {
    /// # Errors
    /// If an option was given that `mode` has no use for; `what` says what to do about it.
    pub fn check_mode(&self, mode: Mode, what: &WhatToDo) -> Result<(), UsageError> {
        match self.bound.iter().find(|(_, modes)| !modes.contains(&mode)) {
            Some(&(key, modes)) => {
                Err(UsageError::OtherMode { option: option(key), modes, what: what.clone() })
            }
            None => Ok(()),
        }
    }
}

impl Options {
    /// # Errors
    /// [`UsageError`] with the first contradiction.
    pub fn wanted(mut self, matches: &ArgMatches) -> Result<Wanted, UsageError> {
        Self::check_together(matches)?;
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
        let wanted = Wanted {
            host,
            settings: self.settings(mode, protocol)?,
            proxy,
            protocol,
            family: match (self.ipv4, self.ipv6) {
                (true, _) => Family::V4,
                (_, true) => Family::V6,
                _ => Family::Any,
            },
            dry_run: self.dry_run,
            verbose: self.verbose,
            bound: OF_MODES
                .into_iter()
                .chain(OPTIONS)
                .filter(|(key, _)| is_given(matches, key))
                .collect(),
            code: self.code.map(|text| match text.as_str() {
                "-" => Code::Ask,
                _ => Code::Typed(text),
            }),
            hosts: self.hosts,
        };
        if let Some(mode) = mode {
            let what = if mode == Mode::Sequence { WhatToDo::Ports } else { WhatToDo::LeaveOut };
            wanted.check_mode(mode, &what)?;
        }
        Ok(wanted)
    }

    /// The host, and with `--proxy` the port to connect to: then all that is not an option is a
    /// port to knock on.
    fn host_and_proxy(&mut self) -> Result<(Option<String>, Option<NonZeroU16>), UsageError> {
        let positional = self.host.take();
        match self.proxy.take().as_deref() {
            Some([host, port]) => {
                self.knocks.splice(0..0, positional);
                Ok((Some(host.clone()), Some(tcp_port("--proxy", port)?)))
            }
            Some(_) => Err(UsageError::ProxyTwice),
            None => Ok((positional, None)),
        }
    }

    /// The mode that the command line asks for; `None`: the hosts file says which.
    fn mode(&self) -> Result<Option<Mode>, UsageError> {
        let asked: Vec<(&str, Mode)> = [
            ("--totp", Mode::Totp, self.totp),
            ("--code", Mode::Totp, self.code.is_some()),
            ("--spa", Mode::Spa, self.spa),
            ("--fwknop", Mode::Fwknop, self.fwknop),
            ("--fwknoprc", Mode::Fwknop, self.of_fwknop.fwknoprc.is_some()),
        ]
        .into_iter()
        .filter_map(|(option, mode, given)| given.then_some((option, mode)))
        .collect();
        match asked.as_slice() {
            [] => Ok((!self.knocks.is_empty()).then_some(Mode::Sequence)),
            &[(one, mode), .., (other, second)] if mode != second => {
                Err(UsageError::TwoModes { one, other })
            }
            &[(option, mode), ..] if !self.knocks.is_empty() && mode != Mode::Fwknop => {
                Err(UsageError::ModeWithPorts { option, ports: self.knocks.join(" ") })
            }
            &[(_, mode), ..] => Ok(Some(mode)),
        }
    }

    /// Two options of which one makes the other pointless.
    fn check_together(matches: &ArgMatches) -> Result<(), UsageError> {
        const OWN: [Exclusion; 9] = [
            ("ports", "base", "keep the one that the door has"),
            ("ports", "code", "a door that takes codes has a --base"),
            ("length", "code", "a code's digits say how many knocks there are"),
            ("protocol", "code", "a code is knocked over tcp"),
            ("digits", "code", "the code shows how many digits it has"),
            ("step", "code", "the code is of its step already"),
            ("secret_file", "code", "with the secret, --totp makes the code by itself"),
            ("proxy", "close", "nothing opens"),
            ("wait", "proxy", "--proxy waits for its own port"),
        ];
        let mut all = OF_KINDS.into_iter().chain(OWN).chain(OF_CLOSING);
        match all.find(|(one, other, _)| is_given(matches, one) && is_given(matches, other)) {
            Some((one, other, why)) => {
                Err(UsageError::Together { one: option(one), other: option(other), why })
            }
            None => Ok(()),
        }
    }

    fn settings(
        &mut self,
        mode: Option<Mode>,
        protocol: Option<Protocol>,
    ) -> Result<Settings, UsageError> {
        let mut wrong = Vec::new();
        let read =
            |text: &String| names::knock(text, protocol).map_err(|error| wrong.push(error)).ok();
        let knocks: Vec<Knock> = self.knocks.iter().filter_map(read).collect();
        if !wrong.is_empty() {
            return Err(UsageError::Ports(wrong));
        }
        let wait = self.wait.as_deref().map(|text| tcp_port("--wait", text)).transpose()?;
        let mut request = take(&mut self.of_request);
        request.address = Address::of(&take(&mut request.words))?;
        Ok(Settings {
            mode,
            knocks,
            delay: self.delay,
            wait,
            retry: self.retry,
            source_port: self.source_port,
            door: self.door.take(),
            rotation: take(&mut self.of_rotation),
            request,
            fwknop: take(&mut self.of_fwknop),
        })
    }
}

fn is_given(matches: &ArgMatches, key: &str) -> bool {
    matches.value_source(key) == Some(ValueSource::CommandLine)
}

fn tcp_port(option: &'static str, text: &str) -> Result<NonZeroU16, UsageError> {
    let knock = names::knock(text, None).map_err(|error| UsageError::Port(option, error))?;
    match knock.protocol {
        Protocol::Tcp => Ok(knock.port),
        Protocol::Udp => Err(UsageError::UdpPort(option, knock)),
    }
}
