//! Reverse look-ups of addresses, in a process that nobody waits for.
//!
//! It runs as the watcher's user, and has nothing but the files and sockets that a resolver needs:
//! name servers, and whatever answers for them, speak to it and not to the keeper. What it says is
//! a stranger's text: a name of an address that was asked for, or the end of that process.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, ExitCode};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use tracing::{info, warn};

use super::rights::{LIBRARIES, NAMES};
use crate::config::SandboxMode;
use crate::sys::landlock::{self, LandlockRules};
use crate::sys::privileges::Identity;
use crate::sys::seccomp::{self, Phase};
use crate::sys::{files, process};
use crate::time::Monotonic;

/// How many look-ups may wait; a name is a comfort, so more are left out.
const WAITING: usize = 64;
/// How long there is no other process in place of one that has ended; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// The longest name in the text form (RFC 1035, 2.3.4).
const LONGEST_NAME: usize = 253;
/// An address at the front of each answer: IPv4 ones are mapped.
const ADDRESS: usize = 16;
const LONGEST_FRAME: usize = 512;

/// The asker of names: the keeper's end.
pub(super) struct ReverseDns {
    running: Option<(Child, OwnedFd)>,
    /// The one before, which may not have ended yet.
    ending: Option<Child>,
    asked: HashSet<IpAddr>,
    pause: Duration,
    not_before: Monotonic,
}

impl ReverseDns {
    pub(super) fn new() -> Self {
        let asked = HashSet::new();
        Self { running: None, ending: None, asked, pause: FIRST_PAUSE, not_before: Monotonic::ZERO }
    }

    /// Asks for the name of an address, which is logged when it is known.
    pub(super) fn look_up(&mut self, now: Monotonic, identity: &Identity, address: IpAddr) {
        if self.running.is_none() && self.not_before <= now && !self.is_ending() {
            match start(identity) {
                Ok(running) => self.running = Some(running),
                Err(why) => self.end(now, &format!("could not start: {why}")),
            }
        }
        if let Some((_, channel)) = &self.running
            && self.asked.len() < WAITING
            && tell(channel, &bytes(address)).is_ok()
        {
            self.asked.insert(address);
        }
    }

    /// Logs the names that have come.
    pub(super) fn poll(&mut self, now: Monotonic) {
        let mut buffer = [0; LONGEST_FRAME];
        while let Some((_, channel)) = &self.running {
            let heard = recv(channel.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT);
            let answer = match heard {
                Err(Errno::EAGAIN | Errno::EINTR) => return,
                Ok(length) if length > 0 => parse(buffer.get(..length).unwrap_or_default()),
                _ => return self.end(now, "ended"),
            };
            match answer.filter(|(address, _)| self.asked.remove(address)) {
                Some((_, None)) => {}
                Some((address, Some(name))) => info!(source = %address, name, "is {name}"),
                None => return self.end(now, "is ended: it sent what is no answer"),
            }
        }
    }

    fn end(&mut self, now: Monotonic, how: &str) {
        if let Some((mut child, channel)) = self.running.take() {
            drop(channel);
            // An error means that it may not be, or has ended already: without a channel it will.
            let _ = child.kill();
            self.ending = Some(child);
        }
        self.asked.clear();
        self.not_before = now + self.pause;
        let pause = self.pause.as_secs();
        warn!("the process that looks up names {how}; no name is looked up for {pause} s");
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// Whether the one before has yet to end. It is not waited for.
    fn is_ending(&mut self) -> bool {
        let ending = self.ending.as_mut();
        ending.is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.running.as_ref().map(|(_, channel)| channel.as_fd())
    }
}

impl Drop for ReverseDns {
    fn drop(&mut self) {
        if let Some((child, _)) = &mut self.running {
            let _ = child.kill();
        }
    }
}

fn start(identity: &Identity) -> io::Result<(Child, OwnedFd)> {
    let (ours, theirs) = files::frame_channel()?;
    let child = process::run_names(theirs)?;
    tell(&ours, &serde_json::to_vec(identity)?)?;
    Ok((child, ours))
}

fn tell(channel: &OwnedFd, frame: &[u8]) -> nix::Result<()> {
    send(channel.as_raw_fd(), frame, MsgFlags::MSG_NOSIGNAL).map(drop)
}

fn bytes(address: IpAddr) -> [u8; ADDRESS] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// An answer: an address, and its name where it has one. `None`: that is none.
fn parse(frame: &[u8]) -> Option<(IpAddr, Option<&str>)> {
    let (address, name) = frame.split_first_chunk::<ADDRESS>()?;
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let is_fit = name.len() <= LONGEST_NAME && name.iter().all(is_of_name);
    let name = std::str::from_utf8(name).ok().filter(|_| is_fit)?;
    Some((Ipv6Addr::from(*address).to_canonical(), Some(name).filter(|name| !name.is_empty())))
}

/// Runs the process that looks names up, one after the other, until its keeper is gone.
pub fn look_up_names() -> ExitCode {
    match answer() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn answer() -> io::Result<()> {
    let channel = files::inherited(process::WATCHER_CHANNEL)?;
    let Some(identity) = hear(&channel)? else { return Ok(()) };
    let identity: Identity = serde_json::from_slice(&identity)?;
    identity.assume().map_err(io::Error::other)?;
    let read = NAMES.iter().chain(&LIBRARIES).map(Path::new).collect();
    let rules = LandlockRules { read, scoped: true, ..LandlockRules::default() };
    // Where these are not to be had, the identity holds. What opens captures runs no program either,
    // and touches no other process.
    let _ = landlock::restrict(&rules);
    let _ = seccomp::restrict(Phase::Opening, SandboxMode::Enforce);
    while let Some(frame) = hear(&channel)? {
        let Some((address, _)) = parse(&frame) else { return Ok(()) };
        let name = dns_lookup::lookup_addr(&address).unwrap_or_default();
        let mut frame = bytes(address).to_vec();
        // What is no name is not told: the keeper would take it for a lie.
        if name != address.to_string() {
            frame.extend(name.bytes());
        }
        if parse(&frame).is_none() {
            frame.truncate(ADDRESS);
        }
        tell(&channel, &frame)?;
    }
    Ok(())
}

/// The next frame, once it is there; `None`: the keeper is gone.
fn hear(channel: &OwnedFd) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; LONGEST_FRAME];
    files::wait(&[channel.as_fd()], None)?;
    let length = recv(channel.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    buffer.truncate(length);
    Ok(Some(buffer).filter(|frame| !frame.is_empty()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(address: &str, name: &str) -> Vec<u8> {
        [bytes(address.parse().unwrap()).as_slice(), name.as_bytes()].concat()
    }

    #[test]
    fn an_answer_is_an_address_and_a_name_that_can_be_logged() {
        for address in ["192.0.2.2", "2001:db8::2"] {
            let name = "host-1.example.com";
            assert_eq!(parse(&frame(address, name)), Some((address.parse().unwrap(), Some(name))));
            assert_eq!(parse(&frame(address, "")), Some((address.parse().unwrap(), None)));
        }
    }

    #[test]
    fn what_is_no_name_is_no_answer() {
        let long = "a".repeat(LONGEST_NAME + 1);
        for name in ["a b", "a\nb", "a\u{1b}[31m", "ä", "a: OPEN SESAME", &long] {
            assert_eq!(parse(&frame("192.0.2.2", name)), None, "{name:?}");
        }
        assert_eq!(parse(&[0; ADDRESS - 1]), None);
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic_or_breaks_a_line(frame in any::<Vec<u8>>()) {
            if let Some((_, Some(name))) = parse(&frame) {
                prop_assert!(name.len() <= LONGEST_NAME && name.bytes().all(|it| it.is_ascii_graphic()));
            }
        }
    }
}
