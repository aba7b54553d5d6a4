//! Reverse look-ups of addresses, in a process that nobody waits for.
//!
//! It runs as the watcher's user, and has nothing but the files and sockets that a resolver needs:
//! name servers, and whatever answers for them, speak to it and not to the keeper. What it says is
//! a stranger's text: a name of an address that was asked for, or the end of that process.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::process::{Child, ExitCode};
use std::time::Duration;

use tracing::{info, warn};

use super::output_lines::OutputLines;
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

/// The asker of names: the keeper's end.
pub(super) struct ReverseDns {
    running: Option<NamesProcess>,
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
        // One that does not read is told no more.
        if let Some(NamesProcess { input, .. }) = &mut self.running
            && self.asked.len() < WAITING
            && input.write_all(format!("{address}\n").as_bytes()).is_ok()
        {
            self.asked.insert(address);
        }
    }

    /// Logs the names that have come.
    pub(super) fn poll(&mut self, now: Monotonic) {
        while let Some(NamesProcess { output, .. }) = &mut self.running {
            let Some(line) = output.next() else {
                if output.fd().is_none() {
                    self.end(now, "ended");
                }
                return;
            };
            match parse(&line).filter(|(address, _)| self.asked.remove(address)) {
                Some((_, None)) => {}
                Some((address, Some(name))) => info!(source = %address, name, "is {name}"),
                None => return self.end(now, "is ended: it sent what is no answer"),
            }
        }
    }

    fn end(&mut self, now: Monotonic, how: &str) {
        if let Some(NamesProcess { mut child, .. }) = self.running.take() {
            // An error means that it may not be, or has ended already: with nothing to read it will.
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
        self.running.as_ref().and_then(|running| running.output.fd())
    }
}

/// The process that looks names up, and ends when nobody can ask any more; what goes in and comes out
/// of it is a line each: first who it becomes, then addresses; an answer is the address, and after a
/// space its name.
struct NamesProcess {
    child: Child,
    input: File,
    output: OutputLines,
}

fn start(identity: &Identity) -> io::Result<NamesProcess> {
    let (asked, input) = files::input_pipe()?;
    let (output, answers) = files::output_pipe()?;
    let mut input = File::from(input);
    writeln!(input, "{}", serde_json::to_string(identity)?)?;
    let child = process::run_names(asked, answers)?;
    Ok(NamesProcess { child, input, output: OutputLines::of(output) })
}

/// An answer: an address, and its name where it has one. `None`: that is none.
fn parse(line: &str) -> Option<(IpAddr, Option<&str>)> {
    let (address, name) = line.split_once(' ')?;
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_fit = name.len() <= LONGEST_NAME && name.bytes().all(is_of_name);
    let address = address.parse().ok().filter(|_| is_fit)?;
    Some((address, Some(name).filter(|name| !name.is_empty())))
}

/// Runs the process that looks names up, one after the other, until its keeper is gone.
pub fn look_up_names() -> ExitCode {
    match answer() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn answer() -> io::Result<()> {
    let mut asked = io::stdin().lines();
    let Some(identity) = asked.next().transpose()? else { return Ok(()) };
    let identity: Identity = serde_json::from_str(&identity)?;
    identity.assume().map_err(io::Error::other)?;
    let read = NAMES.iter().chain(&LIBRARIES).map(Path::new).collect();
    let rules = LandlockRules { read, scoped: true, ..LandlockRules::default() };
    // Where these are not to be had, the identity holds. What opens captures runs no program either,
    // and touches no other process.
    let _ = landlock::restrict(&rules);
    let _ = seccomp::restrict(Phase::Opening, SandboxMode::Enforce);
    for address in asked {
        let address = address?.parse().map_err(io::Error::other)?;
        let name = dns_lookup::lookup_addr(&address).unwrap_or_default();
        let answer = format!("{address} {name}");
        // What is no name is not told: the keeper would take it for a lie.
        match parse(&answer) {
            Some(_) if name != address.to_string() => writeln!(io::stdout(), "{answer}")?,
            _ => writeln!(io::stdout(), "{address} ")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_answer_is_an_address_and_a_name_that_can_be_logged() {
        for address in ["192.0.2.2", "2001:db8::2"] {
            let name = "host-1.example.com";
            let asked = address.parse().unwrap();
            assert_eq!(parse(&format!("{address} {name}")), Some((asked, Some(name))));
            assert_eq!(parse(&format!("{address} ")), Some((asked, None)));
        }
    }

    #[test]
    fn what_is_no_name_is_no_answer() {
        let long = "a".repeat(LONGEST_NAME + 1);
        for name in ["a b", "a\nb", "a\u{1b}[31m", "ä", "a: OPEN SESAME", &long] {
            assert_eq!(parse(&format!("192.0.2.2 {name}")), None, "{name:?}");
        }
        for line in ["", "192.0.2.2", "192.0.2 a", " a"] {
            assert_eq!(parse(line), None, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic_or_breaks_a_line(name in any::<String>()) {
            if let Some((_, Some(name))) = parse(&format!("192.0.2.2 {name}")) {
                prop_assert!(name.len() <= LONGEST_NAME && name.bytes().all(|it| it.is_ascii_graphic()));
            }
        }
    }
}
