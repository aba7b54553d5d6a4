//! What is to be done, all of it known and checked before anything is sent.

mod fwknop;

use std::io::{self, BufRead, IsTerminal, Read};
use std::num::NonZeroU16;
use std::path::Path;
use std::time::Duration;

use zeroize::Zeroizing;

use super::attempts::Attempts;
use super::cli::{Code, Wanted};
use super::fwknop::{StanzaError, stanza};
use super::fwknoprc::Stanza;
use super::hosts::{self, DELAY, Hint, Host, Hosts, HostsError};
use super::keys::{self, KeyFileError};
use super::names::Family;
use super::plan::Plan;
use super::requests::Requests;
use super::rotating::Rotating;
use super::send::{self, Target};
use super::settings::{Mode, Settings};
use super::stamps::Stamps;
use super::usage::{UsageError, WhatToDo};
use super::values::{Address, SourcePort};
use super::voice::{Voice, complain};
use crate::proto::fwknop::FwknopKeyError;
use crate::proto::spa::PORTS;
use crate::proto::totp::{self, Digits, Protocols, Scheme, SchemeError, TotpKey, knocks_of_code};

/// How often to knock again unless told otherwise.
const RETRIES: u16 = 3;

/// A host, and how to knock there.
#[derive(Clone, Debug)]
pub struct Job {
    /// Name or address.
    pub host: String,
    pub attempts: Attempts,
    pub then: Then,
    pub family: Family,
    pub dry_run: bool,
}

/// What comes after knocking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Nothing,
    /// Knock until the port is open.
    Wait(Target),
    /// The same, and be the connection.
    Proxy(Target),
}

/// Why there is nothing that could be done.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error(transparent)]
    Hosts(#[from] HostsError),
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    #[error(transparent)]
    Scheme(#[from] SchemeError),
    #[error("no port is free to connect from: {0}")]
    NoFreePort(#[source] io::Error),
    #[error("there is nobody to ask for the code: {0}: write it after --code")]
    Ask(#[source] io::Error),
    #[error(transparent)]
    Stanza(#[from] StanzaError),
    #[error(transparent)]
    Key(FwknopKeyError),
    #[error("no key can be asked for: {0}: give a file with --key")]
    AskKey(#[source] io::Error),
}

/// What the command line wants, with what the hosts file adds.
///
/// # Errors
/// [`JobError`] with what is wrong, or missing.
pub fn job(wanted: &Wanted, voice: Voice) -> Result<Job, JobError> {
    let entry = look_up(wanted)?;
    let entry = entry.as_ref();
    let own = wanted.settings.clone();
    let settings = match entry {
        Some(entry) => own.over(&entry.settings),
        None => own,
    };
    let mode = settings.mode.unwrap_or(Mode::Sequence);
    let source_port = match settings.source_port {
        None => None,
        Some(SourcePort::Fixed(port)) => Some(port),
        Some(SourcePort::Auto) => Some(send::free_port().map_err(JobError::NoFreePort)?),
    };
    let builder = Builder { wanted, entry, settings: &settings, source_port };
    let stanza = match &settings.fwknop.fwknoprc {
        Some(name) if mode == Mode::Fwknop => stanza(name, &builder.settled(), voice)?,
        _ => Stanza::default(),
    };
    let host = builder.host(&stanza)?;
    Ok(Job {
        attempts: match mode {
            Mode::Sequence => Attempts::Same(builder.sequence()),
            Mode::Totp => builder.rotating()?,
            Mode::Spa => Attempts::Requests(builder.requests()?),
            Mode::Fwknop => Attempts::Fwknop(Box::new(builder.fwknop(stanza, &host)?)),
        },
        host,
        then: builder.then(mode)?,
        family: wanted.family,
        dry_run: wanted.dry_run,
    })
}

/// The host's entry in the hosts file; `None` where the command line says enough without it.
fn look_up(wanted: &Wanted) -> Result<Option<Host>, JobError> {
    let mode = wanted.settings.mode;
    let Some(host) = &wanted.host else { return Ok(None) };
    if mode == Some(Mode::Sequence) {
        return Ok(None);
    }
    let path = wanted.hosts.clone().or_else(hosts::default_path);
    let read = |path| read(path, wanted.hosts.is_some());
    let hosts = path.as_deref().map(read).transpose()?.flatten();
    let hint = Hint { mode, port: wanted.proxy.or(wanted.settings.wait) };
    let found = hosts.as_ref().map(|hosts| hosts.find(host, hint)).transpose()?.flatten();
    match (found, mode) {
        (None, Some(_)) => Ok(None),
        (Some(entry), _) => {
            if mode.is_none() {
                let mode = entry.settings.mode.unwrap_or(Mode::Sequence);
                wanted.check_mode(mode, &WhatToDo::Entry { host: entry.name.clone(), mode })?;
            }
            Ok(Some(entry.clone()))
        }
        (None, None) => {
            wanted.check_mode(Mode::Sequence, &WhatToDo::Add)?;
            Err(match hosts {
                Some(hosts) => hosts.missing(host).into(),
                None => UsageError::NoPorts { as_in: as_in(wanted, host), hosts: path }.into(),
            })
        }
    }
}

/// The start of a command line that names ports.
fn as_in(wanted: &Wanted, host: &str) -> String {
    match wanted.proxy {
        Some(port) => format!("knock --proxy {host} {port}"),
        None => format!("knock {host}"),
    }
}

/// The hosts file; `None` if there is none, and none was named.
fn read(path: &Path, named: bool) -> Result<Option<Hosts>, HostsError> {
    match hosts::read(path) {
        Err(error) if !named && error.is_missing() => Ok(None),
        Err(error) => Err(error),
        Ok((hosts, warnings)) => {
            warnings.iter().for_each(|warning| complain(&warning.to_string()));
            Ok(Some(hosts))
        }
    }
}

/// Makes what is to be done of what was said.
struct Builder<'a> {
    wanted: &'a Wanted,
    entry: Option<&'a Host>,
    /// What was said in either place.
    settings: &'a Settings,
    source_port: Option<NonZeroU16>,
}

impl Builder<'_> {
    /// What the hosts file says, what was typed, what the stanza says: in this order.
    fn host(&self, stanza: &Stanza) -> Result<String, UsageError> {
        let stanzas = || stanza.server.clone();
        let name = match self.entry {
            Some(Host { host, says_host: true, .. }) => Some(host.clone()),
            Some(Host { host, .. }) => stanzas().or_else(|| Some(host.clone())),
            None => self.wanted.host.clone().or_else(stanzas),
        };
        let stanza = || self.settings.fwknop.fwknoprc.clone().unwrap_or_default();
        name.ok_or_else(|| UsageError::NoServer(stanza()))
    }

    fn delay(&self) -> Duration {
        self.settings.delay.unwrap_or(DELAY)
    }

    fn sequence(&self) -> Plan {
        let mut knocks = self.settings.knocks.clone();
        if let Some(protocol) = self.wanted.protocol {
            knocks.iter_mut().for_each(|knock| knock.protocol = protocol);
        }
        // The classic client leaves no time; tunnels in userspace reorder what comes at once.
        let delay = self.settings.delay.unwrap_or(Duration::from_millis(1));
        Plan::sequence(&knocks, delay)
    }

    fn rotating(&self) -> Result<Attempts, JobError> {
        let rotation = &self.settings.rotation;
        self.check_kind()?;
        if let Some(code) = &self.wanted.code {
            let what = "the port that the digits 00 stand for";
            let base = self.need(rotation.base, what, "--base", "base")?;
            let typed = match code {
                Code::Typed(text) => Zeroizing::new(text.clone()),
                Code::Ask => ask_for_code(self.wanted.proxy.is_some()).map_err(JobError::Ask)?,
            };
            let knocks = knocks_of_code(base, &typed).map_err(UsageError::Code)?;
            return Ok(Attempts::Typed(Plan::sequence(&knocks, self.delay())));
        }
        let door = self.settings.door.as_ref().map(ToString::to_string);
        let (mode, door) = match (&rotation.ports, rotation.base) {
            (Some(range), _) => {
                let mode = totp::TotpMode::Ports {
                    low: *range.start(),
                    high: *range.end(),
                    length: rotation.length.unwrap_or(totp::LENGTH),
                    protocol: rotation.protocol.unwrap_or(Protocols::Tcp),
                };
                (mode, self.need(door, "the name of the door", "--door", "door")?)
            }
            (None, Some(base)) => {
                let digits = rotation.digits.unwrap_or(Digits::Six);
                (totp::TotpMode::Code { base, digits }, door.unwrap_or_default())
            }
            (None, None) => {
                let what = "the range of the door's ports, or the base of its codes";
                self.need(None, what, "--ports or --base", "ports")?
            }
        };
        // What the server takes beside the step of the moment is its own affair.
        let scheme = Scheme::new(mode, rotation.step.unwrap_or(totp::STEP), 0)?;
        let file = rotation.secret_file.as_deref();
        let file = self.need(file, "the file with the secret", "--secret-file", "secret_file")?;
        let key = TotpKey::from(&keys::totp_secret(file)?);
        Ok(Attempts::Rotating(Rotating { key, scheme, door, delay: self.delay() }))
    }

    /// Refuses an option for the kind of rotating sequence that the door does not have.
    fn check_kind(&self) -> Result<(), UsageError> {
        let (own, both) = (&self.wanted.settings.rotation, &self.settings.rotation);
        let pointless = [
            ("--length", own.length.is_some(), "a base", both.base.is_some()),
            ("--protocol", own.protocol.is_some(), "a base", both.base.is_some()),
            ("--digits", own.digits.is_some(), "a range of ports", both.ports.is_some()),
        ];
        match pointless.into_iter().find(|(_, given, _, is_so)| *given && *is_so) {
            Some((option, _, has, _)) => Err(UsageError::OtherKind { option, has }),
            None => Ok(()),
        }
    }

    fn requests(&self) -> Result<Requests, JobError> {
        let request = &self.settings.request;
        let server =
            self.need(request.server_key, "the server's public key", "--server-key", "server_key")?;
        let file = request.key_file.as_deref();
        let file = self.need(file, "the file with your private key", "--key", "key_file")?;
        Ok(Requests {
            client: keys::private_key(file)?,
            server,
            port: request.spa_port.clone().unwrap_or(PORTS),
            address: request.address.unwrap_or(Address::Auto),
            door: self.settings.door.clone(),
            open_for: request.open_for,
            close: request.close,
            source_port: self.source_port,
            stamps: (!self.wanted.dry_run).then(|| Stamps::of(file)),
        })
    }

    fn then(&self, mode: Mode) -> Result<Then, UsageError> {
        let target = |port| Target {
            port,
            source_port: self.source_port,
            retries: self.settings.retry.unwrap_or(RETRIES),
        };
        let own = &self.wanted.settings;
        match (self.wanted.proxy, self.settings.wait) {
            (Some(port), _) => Ok(Then::Proxy(target(port))),
            // What is closed does not open.
            (None, Some(port)) if !self.settings.request.close => Ok(Then::Wait(target(port))),
            _ if own.retry.is_some() => Err(UsageError::RetryWithoutWait),
            _ if own.source_port.is_some() && mode != Mode::Spa => {
                Err(UsageError::SourcePortForNothing)
            }
            _ => Ok(Then::Nothing),
        }
    }

    /// What has to be said in one place or the other.
    fn need<T>(
        &self,
        value: Option<T>,
        what: &'static str,
        option: &'static str,
        key: &'static str,
    ) -> Result<T, JobError> {
        let mode = self.settings.mode.unwrap_or(Mode::Sequence);
        value.ok_or_else(|| match self.entry {
            Some(entry) if entry.settings.mode == Some(mode) => {
                entry.lacks(key, what, &format!("write it below it, or give {option}")).into()
            }
            _ => UsageError::Missing { mode, what, option, key }.into(),
        })
    }
}

/// The code that somebody types, or that another program writes.
fn ask_for_code(input_is_taken: bool) -> io::Result<Zeroizing<String>> {
    if input_is_taken || io::stdin().is_terminal() {
        return rpassword::prompt_password("Code: ").map(Zeroizing::new);
    }
    let mut line = Zeroizing::new(String::new());
    io::stdin().lock().take(64).read_line(&mut line)?;
    Ok(line)
}
