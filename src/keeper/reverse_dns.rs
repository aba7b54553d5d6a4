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
use std::process::{Child, ExitCode};
use std::time::Duration;

use tracing::{info, warn};

use super::output_lines::OutputLines;
use crate::config::SandboxMode;
use crate::sys::landlock::{self, LandlockRules};
use crate::sys::privileges::Identity;
use crate::sys::seccomp::{self, Phase};
use crate::sys::{descriptors, process};
use crate::time::Monotonic;

/// How many look-ups may wait; a name is a comfort, so more are left out.
const WAITING: usize = 64;
/// How long there is no other process in place of one that has ended; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// One that has worked this long was not started in vain.
const STEADY: Duration = Duration::from_secs(60);
/// The longest time without an answer: twice what a resolver takes to give up three name servers.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest name in the text form (RFC 1035, 2.3.4).
const LONGEST_NAME: usize = 253;

/// The asker of names: the keeper's end.
#[derive(Default)]
pub(super) struct ReverseDns {
    running: Option<NamesProcess>,
    /// The one before, which may not have ended yet.
    ending: Option<Child>,
    asked: HashSet<IpAddr>,
    /// When it has to have answered; `None`: nothing is asked.
    pub(super) answer_by: Option<Monotonic>,
    pause: Duration,
    not_before: Monotonic,
}

impl ReverseDns {
    pub(super) fn new() -> Self {
        Self { pause: FIRST_PAUSE, ..Self::default() }
    }

    /// Asks for the name of an address, which is logged when it is known.
    pub(super) fn look_up(&mut self, now: Monotonic, identity: &Identity, address: IpAddr) {
        if self.running.is_none() && self.not_before <= now && self.ending.is_none() {
            match start(now, identity) {
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
            self.answer_by.get_or_insert(now + PATIENCE);
        }
    }

    /// Logs the names that have come, and ends the process where none comes.
    pub(super) fn poll(&mut self, now: Monotonic) {
        self.ending.take_if(|child| !matches!(child.try_wait(), Ok(None)));
        if self.answer_by.is_some_and(|by| by <= now) {
            self.end(now, "is ended: it did not answer");
        }
        while let Some(NamesProcess { output, .. }) = &mut self.running {
            let Some(line) = output.next() else {
                if output.fd().is_none() {
                    self.end(now, "ended");
                }
                return;
            };
            let answer = parse(&line).filter(|(address, _)| self.asked.remove(address));
            self.answer_by = (!self.asked.is_empty()).then_some(now + PATIENCE);
            match answer {
                Some((_, None)) => {}
                Some((address, Some(name))) => info!(source = %address, name, "is {name}"),
                None => return self.end(now, "is ended: it sent what is no answer"),
            }
        }
    }

    fn end(&mut self, now: Monotonic, how: &str) {
        if let Some(NamesProcess { mut child, since, .. }) = self.running.take() {
            if now.since(since) >= STEADY {
                self.pause = FIRST_PAUSE;
            }
            // An error means that it may not be, or has ended already: with nothing to read it will.
            let _ = child.kill();
            self.ending = Some(child);
        }
        self.asked.clear();
        self.answer_by = None;
        self.not_before = now + self.pause;
        let pause = self.pause.as_secs();
        warn!("the process that looks up names {how}; no name is looked up for {pause} s");
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.running.as_ref().and_then(|running| running.output.fd())
    }
}

/// The process that looks names up, and ends when nobody can ask any more; what goes in and comes out
/// of it is a line each: first who it becomes, then addresses; an answer is the address, and after a
/// space its name.
struct NamesProcess {
    since: Monotonic,
    child: Child,
    input: File,
    output: OutputLines,
}

fn start(since: Monotonic, identity: &Identity) -> io::Result<NamesProcess> {
    let (asked, input) = descriptors::input_pipe()?;
    let (output, answers) = descriptors::output_pipe()?;
    let mut input = File::from(input);
    writeln!(input, "{}", serde_json::to_string(identity)?)?;
    let child = process::run_names(asked, answers)?;
    Ok(NamesProcess { since, child, input, output: OutputLines::of(output) })
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
    if answer().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn answer() -> io::Result<()> {
    let mut asked = io::stdin().lines();
    let Some(identity) = asked.next().transpose()? else { return Ok(()) };
    let identity: Identity = serde_json::from_str(&identity)?;
    identity.assume().map_err(io::Error::other)?;
    // Where these are not to be had, the identity holds. What opens captures runs no program either,
    // and touches no other process.
    let _ = landlock::restrict(&LandlockRules::of_resolver());
    let _ = seccomp::restrict(Phase::Opening, SandboxMode::Enforce);
    for address in asked {
        let address = address?.parse().map_err(io::Error::other)?;
        let name = dns_lookup::lookup_addr(&address).unwrap_or_default();
        // What is no name is not told: the keeper would take it for a lie.
        let is_name = name != address.to_string() && parse(&format!("{address} {name}")).is_some();
        writeln!(io::stdout(), "{address} {}", if is_name { &*name } else { "" })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::NewPrivileges;

    const ASKED: &str = "192.0.2.2";

    /// One whose process this shell script is, asked for an address.
    fn asked(now: Monotonic, script: &str) -> ReverseDns {
        let (input, output) =
            (descriptors::input_pipe().unwrap(), descriptors::output_pipe().unwrap());
        let argv = ["/bin/sh", "-c", script].map(str::to_owned);
        let denied = NewPrivileges::Denied;
        let child = process::run(&argv, &[], denied, output.1, None).unwrap();
        let mut names = ReverseDns::new();
        let (input, output) = (File::from(input.1), OutputLines::of(output.0));
        names.running = Some(NamesProcess { since: now, child, input, output });
        names.asked.insert(ASKED.parse().unwrap());
        names.answer_by = Some(now + PATIENCE);
        names
    }

    /// Polls at one time until it is so.
    fn poll_until(names: &mut ReverseDns, now: Monotonic, is_so: impl Fn(&ReverseDns) -> bool) {
        while !is_so(names) {
            names.poll(now);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn one_that_does_not_answer_is_ended_and_none_that_has_ended_is_left() {
        let now = Monotonic::ZERO;
        let mut names = asked(now, "exec sleep 1000");
        names.poll(now + PATIENCE - Duration::from_millis(1));
        assert!(names.running.is_some());
        poll_until(&mut names, now + PATIENCE, |names| names.running.is_none());
        assert_eq!((names.answer_by, names.asked.len()), (None, 0));
        poll_until(&mut names, now + PATIENCE, |names| names.ending.is_none());
    }

    #[test]
    fn whoever_has_answered_is_waited_for_only_where_more_is_asked() {
        let now = Monotonic::ZERO;
        let mut names = asked(now, &format!("echo {ASKED} a.example.com; exec sleep 1000"));
        poll_until(&mut names, now, |names| names.asked.is_empty());
        assert_eq!(names.answer_by, None);
        names.poll(now + PATIENCE * 2);
        assert!(names.running.is_some());
    }

    #[test]
    fn the_pause_is_short_again_after_one_that_has_worked_for_long() {
        for (worked, pause) in [(Duration::ZERO, 4), (STEADY, 2)] {
            let mut names = asked(Monotonic::ZERO, "exit 0");
            names.pause = Duration::from_secs(2);
            names.answer_by = None;
            poll_until(&mut names, Monotonic::ZERO + worked, |names| names.running.is_none());
            assert_eq!(names.pause, Duration::from_secs(pause));
        }
    }

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
