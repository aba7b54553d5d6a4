//! A command line without contradictions.

use std::num::NonZeroU16;
use std::path::PathBuf;

use super::Options;
use crate::client::names::{self, Family};
use crate::client::settings::{Fwknop, Kind, Mode, Request, Rotation, Settings};
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
            Some(&(option, modes)) => {
                Err(UsageError::OtherMode { option, modes, what: what.clone() })
            }
            None => Ok(()),
        }
    }
}

impl Options {
    /// # Errors
    /// [`UsageError`] with the first contradiction.
    pub fn wanted(mut self) -> Result<Wanted, UsageError> {
        self.check_together()?;
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
            bound: self.bound(),
            code: self.rotation.code.map(|text| match text.as_str() {
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
            ("--totp", Mode::Totp, self.rotation.totp),
            ("--code", Mode::Totp, self.rotation.code.is_some()),
            ("--spa", Mode::Spa, self.request.spa),
            ("--fwknop", Mode::Fwknop, self.fwknop.fwknop),
            ("--fwknoprc", Mode::Fwknop, self.fwknop.fwknoprc.is_some()),
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
    fn check_together(&self) -> Result<(), UsageError> {
        let ports = ("--ports", self.rotation.ports.is_some());
        let length = ("--length", self.rotation.length.is_some());
        let protocol = ("--protocol", self.rotation.protocol.is_some());
        let digits = ("--digits", self.rotation.digits.is_some());
        let base = ("--base", self.rotation.base.is_some());
        let code = ("--code", self.rotation.code.is_some());
        let wait = ("--wait", self.wait.is_some());
        let proxy = ("--proxy", self.proxy.is_some());
        let close = ("--close", self.request.close);
        let table = [
            (ports, base, "keep the one that the door has"),
            (length, base, "a code's digits say how many knocks there are"),
            (protocol, base, "a code is knocked over tcp"),
            (digits, ports, "only a code has digits"),
            (ports, code, "a door that takes codes has a --base"),
            (length, code, "a code's digits say how many knocks there are"),
            (protocol, code, "a code is knocked over tcp"),
            (digits, code, "the code shows how many digits it has"),
            (("--step", self.rotation.step.is_some()), code, "the code is of its step already"),
            (
                ("--secret-file", self.rotation.secret_file.is_some()),
                code,
                "with the secret, --totp makes the code by itself",
            ),
            (("--open-for", self.request.open_for.is_some()), close, "nothing opens"),
            (wait, close, "nothing opens"),
            (proxy, close, "nothing opens"),
            (wait, proxy, "--proxy waits for its own port"),
        ];
        match table.into_iter().find(|((_, one), (_, other), _)| *one && *other) {
            Some(((one, _), (other, _), why)) => Err(UsageError::Together { one, other, why }),
            None => Ok(()),
        }
    }

    /// The given options that only some modes have a use for.
    fn bound(&self) -> Vec<Bound> {
        const FIXED: &[Mode] = &[Mode::Sequence];
        const KNOCKS: &[Mode] = &[Mode::Sequence, Mode::Totp];
        const TOTP: &[Mode] = &[Mode::Totp];
        const SPA: &[Mode] = &[Mode::Spa];
        const FWKNOP: &[Mode] = &[Mode::Fwknop];
        const REQUESTS: &[Mode] = &[Mode::Spa, Mode::Fwknop];
        [
            ("--udp", FIXED, self.udp),
            ("--delay", KNOCKS, self.delay.is_some()),
            ("--door", &[Mode::Totp, Mode::Spa], self.door.is_some()),
            ("--secret-file", TOTP, self.rotation.secret_file.is_some()),
            ("--ports", TOTP, self.rotation.ports.is_some()),
            ("--length", TOTP, self.rotation.length.is_some()),
            ("--protocol", TOTP, self.rotation.protocol.is_some()),
            ("--base", TOTP, self.rotation.base.is_some()),
            ("--digits", TOTP, self.rotation.digits.is_some()),
            ("--step", TOTP, self.rotation.step.is_some()),
            ("--server-key", SPA, self.request.server_key.is_some()),
            ("--key", REQUESTS, self.request.key.is_some()),
            ("--spa-port", REQUESTS, self.request.spa_port.is_some()),
            ("--address", REQUESTS, !self.request.address.is_empty()),
            ("--open-for", REQUESTS, self.request.open_for.is_some()),
            ("--close", SPA, self.request.close),
            ("--hmac-key", FWKNOP, self.fwknop.hmac_key.is_some()),
            ("--hmac-digest-type", FWKNOP, self.fwknop.hmac_digest_type.is_some()),
            ("--digest-type", FWKNOP, self.fwknop.digest_type.is_some()),
            ("--encryption-mode", FWKNOP, self.fwknop.encryption_mode.is_some()),
            ("--user", FWKNOP, self.fwknop.user.is_some()),
            ("--time-offset", FWKNOP, self.fwknop.time_offset.is_some()),
        ]
        .into_iter()
        .filter_map(|(option, modes, given)| given.then_some((option, modes)))
        .collect()
    }

    fn settings(
        &self,
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
        Ok(Settings {
            mode,
            knocks,
            delay: self.delay,
            wait,
            retry: self.retry,
            source_port: self.source_port,
            door: self.door.clone(),
            rotation: Rotation {
                kind: self.rotation.ports.map(Kind::Ports).or(self.rotation.base.map(Kind::Code)),
                length: self.rotation.length,
                protocol: self.rotation.protocol,
                digits: self.rotation.digits,
                step: self.rotation.step,
                secret_file: self.rotation.secret_file.clone(),
            },
            request: Request {
                server_key: self.request.server_key,
                key_file: self.request.key.clone(),
                port: self.request.spa_port,
                address: Address::of(&self.request.address)?,
                open_for: self.request.open_for,
                close: self.request.close,
            },
            fwknop: Fwknop {
                stanza: self.fwknop.fwknoprc.clone(),
                hmac_key_file: self.fwknop.hmac_key.clone(),
                digest: self.fwknop.digest_type,
                hmac: self.fwknop.hmac_digest_type,
                encryption: self.fwknop.encryption_mode,
                user: self.fwknop.user.clone(),
                time_offset: self.fwknop.time_offset,
            },
        })
    }
}

fn tcp_port(option: &'static str, text: &str) -> Result<NonZeroU16, UsageError> {
    let knock = names::knock(text, None).map_err(|error| UsageError::Port(option, error))?;
    match knock.protocol {
        Protocol::Tcp => Ok(knock.port),
        Protocol::Udp => Err(UsageError::UdpPort(option, knock)),
    }
}
