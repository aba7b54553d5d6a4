//! The plan of a knock: all that is to be done, known and checked before anything is sent.

mod fwknop;

use std::io::{self, BufRead, IsTerminal, Read};
use std::mem::take;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::Path;
use std::time::Duration;

use zeroize::Zeroizing;

use self::fwknop::settled;
use super::cli::{Code, Invocation, UsageError};
use super::error::ClientError;
use super::fwknop::stanza;
use super::fwknoprc::RcStanza;
use super::hosts::{self, DELAY, HostProfile, HostProfiles, HostsError};
use super::keys;
use super::knocker::Knocker;
use super::messages::complain;
use super::one_time::{OneTimeKnocker, first};
use super::platform::{HAS_INTERFACES, prompt_hidden};
use super::schedule::Schedule;
use super::send::{self, CONNECTED, WaitTarget};
use super::settings::{ClientSettings, KINDS, Mode, RouteOptions, SettingsPart};
use super::spa::SpaKnocker;
use super::stamps::Stamps;
use super::totp::TotpKnocker;
use super::values::{Address, SourcePort};
use crate::proto::spa::PORTS;
use crate::proto::totp::{self, Digits, Protocols, Scheme, TotpKey, knocks_of_code};
use crate::proto::{Family, Widths};

/// The number of knocks after the first, unless told otherwise.
const RETRIES: u16 = 3;
/// The seconds between two knocks of a client that stays and asks for no time: half of that for which
/// doors open, unless told otherwise.
const EVERY: u32 = 15;
/// The longest that follows from what it asks for: a server that is started anew has forgotten it.
const EVERY_LONG: u32 = 600;

/// A plan: a host, how to knock there, and what then.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Name or address.
    pub host: String,
    /// Of the addresses that are used; `None`: any.
    pub family: Option<Family>,
    pub route: RouteOptions,
    pub knocker: Knocker,
    /// Knock until this port is open; `None`: knock once.
    pub wait: Option<WaitTarget>,
    /// Knock again each time that this is over; `None`: do not stay.
    pub stay: Option<Duration>,
}

impl Plan {
    /// The plan that a command line asks for, with what the hosts file and `~/.fwknoprc` add.
    ///
    /// # Errors
    /// [`ClientError`] with what is wrong, or missing.
    pub(super) fn new(invocation: &Invocation) -> Result<Self, ClientError> {
        let profile = look_up(invocation)?;
        let profile = profile.as_ref();
        let own = invocation.settings.clone();
        let mut settings = match profile {
            Some(profile) => own.or_else(&profile.settings),
            None => own,
        };
        if !HAS_INTERFACES && settings.route.interface.is_some() {
            let instead = "name an address of it with --source";
            return Err(UsageError::Unsupported("interface", instead).into());
        }
        let mode = settings.mode.unwrap_or(Mode::Sequence);
        let source_port = match settings.source_port {
            None => None,
            Some(SourcePort::Fixed(port)) => Some(port),
            Some(SourcePort::Auto) => Some(send::free_port().map_err(ClientError::NoFreePort)?),
        };
        let mut stanza = match &settings.fwknop.fwknoprc {
            Some(name) if mode == Mode::Fwknop => stanza(name, &settled(&settings))?,
            _ => RcStanza::default(),
        };
        settings = settings.or(take(&mut stanza.settings));
        let planner = Planner { invocation, profile, settings: &settings, source_port };
        let host = planner.host(stanza.server.clone())?;
        planner.check_kind()?;
        Ok(Self {
            family: invocation.family.or(settings.route.source.map(Family::of)),
            route: settings.route.clone(),
            knocker: match mode {
                Mode::Sequence => planner.sequence()?,
                Mode::Totp => planner.totp()?,
                Mode::Spa => Knocker::Spa(planner.spa()?),
                Mode::Fwknop => planner.fwknop(stanza, &host)?,
            },
            host,
            wait: planner.wait(mode)?,
            stay: planner.stay(mode)?,
        })
    }
}

/// The host's entry in the hosts file; `None` where the command line says enough without it.
fn look_up(invocation: &Invocation) -> Result<Option<HostProfile>, ClientError> {
    let mode = invocation.settings.mode;
    let Some(host) = &invocation.host else { return Ok(None) };
    if !invocation.settings.knocks.is_empty() && mode == Some(Mode::Sequence) {
        return Ok(None);
    }
    let path = invocation.hosts.clone().or_else(hosts::default_path);
    let read = |path| read(path, invocation.hosts.is_some());
    let hosts = path.as_deref().map(read).transpose()?.flatten();
    let port = invocation.proxy.or(invocation.settings.wait);
    let found = hosts.as_ref().map(|hosts| hosts.find(host, mode, port)).transpose()?.flatten();
    match (found, mode) {
        (None, Some(_)) => Ok(None),
        (Some(entry), _) => {
            if mode.is_none() {
                let mode = entry.settings.mode.unwrap_or(Mode::Sequence);
                let name = &entry.name;
                let what = format!("the hosts file says mode {mode} for '{name}'");
                invocation.check_mode(mode, &what)?;
            }
            Ok(Some(entry.clone()))
        }
        (None, None) => {
            invocation.check_mode(Mode::Sequence, "add that")?;
            Err(match hosts {
                _ if host == "import" => UsageError::NoLink.into(),
                Some(hosts) => hosts.missing(host).into(),
                None => {
                    let as_in = match invocation.proxy {
                        Some(port) => format!("knock --proxy {host} {port}"),
                        None => format!("knock {host}"),
                    };
                    UsageError::NoPorts { as_in, hosts: path }.into()
                }
            })
        }
    }
}

/// The hosts file; `None` if there is none, and none was named.
fn read(path: &Path, named: bool) -> Result<Option<HostProfiles>, HostsError> {
    match hosts::read(path) {
        Err(error) if !named && error.is_missing() => Ok(None),
        Err(error) => Err(error),
        Ok((hosts, warnings)) => {
            warnings.iter().for_each(|warning| complain(&warning.to_string()));
            Ok(Some(hosts))
        }
    }
}

/// The maker of a plan: what was said, and where.
struct Planner<'a> {
    invocation: &'a Invocation,
    profile: Option<&'a HostProfile>,
    /// All settings, whichever place they are from.
    settings: &'a ClientSettings,
    source_port: Option<NonZeroU16>,
}

impl Planner<'_> {
    /// The host: of the hosts file, as it was typed, of the stanza, in this order.
    fn host(&self, of_stanza: Option<String>) -> Result<String, UsageError> {
        let name = match self.profile {
            Some(profile) => {
                profile.host.clone().or(of_stanza).or_else(|| Some(profile.name.clone()))
            }
            None => self.invocation.host.clone().or(of_stanza),
        };
        let stanza = || self.settings.fwknop.fwknoprc.clone().unwrap_or_default();
        name.ok_or_else(|| UsageError::NoServer(stanza()))
    }

    fn delay(&self) -> Duration {
        self.settings.delay.unwrap_or(DELAY)
    }

    fn sequence(&self) -> Result<Knocker, ClientError> {
        if let Some(file) = &self.settings.one_time {
            let (file, line, delay) = (file.clone(), first(file)?, self.delay());
            return Ok(Knocker::OneTime(OneTimeKnocker { file, line, delay }));
        }
        let mut knocks = self.settings.knocks.clone();
        if let Some(protocol) = self.invocation.protocol {
            knocks.iter_mut().for_each(|knock| knock.protocol = protocol);
        }
        // The classic client leaves no time; tunnels in userspace reorder what comes at once.
        let delay = self.settings.delay.unwrap_or(Duration::from_millis(1));
        Ok(Knocker::Sequence(Schedule::new(&knocks, delay)))
    }

    fn totp(&self) -> Result<Knocker, ClientError> {
        let rotation = &self.settings.rotation;
        if let Some(code) = &self.invocation.code {
            let what = "the port that the digits 00 stand for";
            let base = self.need(rotation.base, what, "--base", "base")?;
            let typed = match code {
                Code::Typed(text) => Zeroizing::new(text.clone()),
                Code::Ask => {
                    ask_for_code(self.invocation.proxy.is_some()).map_err(ClientError::AskCode)?
                }
            };
            let knocks = knocks_of_code(base, &typed).map_err(UsageError::Code)?;
            return Ok(Knocker::Code(Schedule::new(&knocks, self.delay())));
        }
        let door = self.settings.door.as_ref().map(ToString::to_string);
        let (mode, door) = match (&rotation.ports, rotation.base) {
            (Some(range), _) => {
                let (low, high) = range.clone().into_inner();
                let length = rotation.length.unwrap_or(totp::LENGTH);
                let protocol = rotation.protocol.unwrap_or(Protocols::Tcp);
                let mode = totp::TotpMode::Ports { low, high, length, protocol };
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
        // Each knock has its time: the step shall not turn meanwhile.
        let takes = if self.settings.route.connect { CONNECTED } else { Duration::ZERO };
        let delay = self.delay().max(takes);
        Ok(Knocker::Totp(TotpKnocker { key, scheme, door, delay }))
    }

    /// Refuses an option that does not go with what the hosts file says, as where the door has the
    /// other kind of rotating sequence.
    fn check_kind(&self) -> Result<(), UsageError> {
        let (given, said) = (&self.invocation.given, self.settings.keys());
        let mut kinds = KINDS.into_iter();
        let both = kinds.find(|(one, other, _)| given.contains(one) && said.contains(other));
        both.map_or(Ok(()), |both| Err(UsageError::OtherKind(both)))
    }

    fn spa(&self) -> Result<SpaKnocker, ClientError> {
        let request = &self.settings.request;
        let server =
            self.need(request.server_key, "the server's public key", "--server-key", "server_key")?;
        let file = request.key_file.as_deref();
        let file = self.need(file, "the file with your private key", "--key", "key_file")?;
        Ok(SpaKnocker {
            client: keys::private_key(file)?,
            server,
            port: request.spa_port.clone().unwrap_or(PORTS),
            address: request.address.unwrap_or(Address::Auto),
            width: request.width.unwrap_or(Widths::SINGLE),
            door: self.settings.door.clone(),
            open_for: request.open_for,
            close: request.close,
            source_port: self.source_port,
            stamps: (!self.invocation.dry_run).then(|| Stamps::of(file)),
        })
    }

    fn wait(&self, mode: Mode) -> Result<Option<WaitTarget>, UsageError> {
        let (own, proxy) = (&self.invocation.settings, self.invocation.proxy);
        // What is closed does not open.
        let waits = !self.settings.request.close && self.invocation.stay == 0;
        let waited_for = self.settings.wait.filter(|_| waits);
        match proxy.or(waited_for) {
            Some(port) => Ok(Some(WaitTarget {
                port,
                source_port: self.source_port,
                retries: self.settings.retry.unwrap_or(RETRIES),
                for_proxy: proxy.is_some(),
            })),
            None if own.retry.is_some() => Err(UsageError::RetryWithoutWait),
            None if own.source_port.is_some() && mode != Mode::Spa => {
                Err(UsageError::SourcePortForNothing)
            }
            None => Ok(None),
        }
    }

    fn stay(&self, mode: Mode) -> Result<Option<Duration>, UsageError> {
        let asked = self.settings.request.open_for;
        let half = asked.map_or(EVERY, |asked| (asked.get() / 2).clamp(1, EVERY_LONG));
        let every = self.settings.every.map_or(half, NonZeroU32::get);
        match (mode, self.invocation.stay) {
            (_, 0) => Ok(None),
            (Mode::Sequence, 1) => Err(UsageError::StayInTheOpen),
            _ => Ok(Some(Duration::from_secs(every.into()))),
        }
    }

    /// A setting without which there is no plan.
    fn need<T>(
        &self,
        value: Option<T>,
        what: &'static str,
        option: &'static str,
        key: &'static str,
    ) -> Result<T, ClientError> {
        let mode = self.settings.mode.unwrap_or(Mode::Sequence);
        value.ok_or_else(|| match self.profile {
            Some(profile) if profile.settings.mode == Some(mode) => {
                profile.lacks(key, what, &format!("write it below it, or give {option}")).into()
            }
            _ => UsageError::Missing { mode, what, option, key }.into(),
        })
    }
}

/// The code that somebody types, or that another program writes.
fn ask_for_code(input_is_taken: bool) -> io::Result<Zeroizing<String>> {
    if input_is_taken || io::stdin().is_terminal() {
        return prompt_hidden("Code: ");
    }
    let mut line = Zeroizing::new(String::new());
    io::stdin().lock().take(64).read_line(&mut line)?;
    Ok(line)
}
