//! A watcher process, as its keeper sees it.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use nix::net::if_::InterfaceFlags;
use zeroize::Zeroizing;

use super::output_lines::OutputLines;
use crate::config::Config;
use crate::engine::spa::SpaServer;
use crate::ipc::{Assignment, Channel, FromWatcher, Received, ToWatcher};
use crate::proto::InterfaceName;
use crate::sys::sandbox::SandboxReport;
use crate::sys::{clock, files, host, process};
use crate::time::Monotonic;

/// A running watcher and the configuration that it was given.
pub(super) struct WatcherProcess {
    pub(super) config: Arc<Config>,
    /// What it was given to take native SPA datagrams with.
    pub(super) server: Option<SpaServer>,
    pub(super) generation: u64,
    pub(super) since: Monotonic,
    /// By when a new one has to be at work, or one that leaves to have gone.
    pub(super) limit: Monotonic,
    /// What it listens on, by the numbers that the interfaces had just before it began.
    pub(super) interfaces: Vec<(InterfaceName, Option<u32>)>,
    /// Whether a loopback interface is one of them.
    pub(super) looped: bool,
    child: Child,
    channel: Channel,
    stderr: OutputLines,
    /// How much of its sandbox holds, once it has said so.
    pub(super) sandbox: Option<SandboxReport>,
    /// What it has been told of the addresses of this host, and when to tell it the rest.
    addresses: BTreeSet<IpAddr>,
    pub(super) addresses_due: Option<Monotonic>,
    /// Since when its channel is: it ends, or has.
    closed: Option<Monotonic>,
    /// How much more is heard before the keeper looks after everything else.
    budget: u32,
}

/// How many frames one watcher may send at a time: none can keep the keeper from closing doors.
const BUDGET: u32 = 256;
/// How soon a watcher that did not keep up is told more.
const RETRY: Duration = Duration::from_millis(10);
/// How many of them a line on standard error takes the place of: an honest one has little to say.
const LINE: u32 = 8;

/// How long one may take to end.
const TIME_TO_END: Duration = Duration::from_secs(1);

/// The output of a watcher: what it has to say.
pub(super) enum WatcherOutput {
    Frame(FromWatcher),
    /// It wrote this to standard error.
    StderrLine(String),
    /// It has ended, or should have; the status is missing where it could not be learnt.
    Ended(Option<ExitStatus>),
    /// It sent what no watcher sends.
    Malformed,
}

impl WatcherProcess {
    /// Starts a watcher.
    ///
    /// # Errors
    /// When there is no memory, or no process to be had.
    pub(super) fn start(
        generation: u64,
        since: Monotonic,
        config: Arc<Config>,
        assignment: Assignment,
    ) -> io::Result<Self> {
        let bytes = Zeroizing::new(serde_json::to_vec(&assignment)?);
        let (server, addresses) = (assignment.setup.spa, assignment.addresses);
        let names = assignment.interfaces.iter();
        let interfaces = names.map(|name| (name.clone(), host::index(name))).collect();
        let is_loopback = |name: &str| host::has(name, InterfaceFlags::IFF_LOOPBACK);
        let looped = assignment.interfaces.iter().any(|name| &**name == "any" || is_loopback(name));
        let assignment = files::sealed("knockd configuration", &bytes)?;
        let (ours, theirs) = files::frame_channel()?;
        let (ours_stderr, stderr) = files::output_pipe()?;
        let child = process::run_watcher(theirs, assignment, stderr)?;
        Ok(Self {
            config,
            server,
            generation,
            since,
            limit: Monotonic::MAX,
            interfaces,
            looped,
            child,
            channel: Channel(ours),
            stderr: OutputLines::of(ours_stderr),
            closed: None,
            sandbox: None,
            addresses,
            addresses_due: None,
            budget: BUDGET,
        })
    }

    /// Tells the watcher something. One that does not listen is found out when it ends.
    pub(super) fn tell(&self, order: ToWatcher) {
        let _ = self.channel.send(&order);
    }

    /// Tells how the addresses of this host have changed, where that is due: as much as it has room
    /// for, and the rest later. First those that have come, so that a knock at one that stays counts.
    pub(super) fn tell_addresses(&mut self, now: Monotonic, all: &BTreeSet<IpAddr>) {
        if self.closed.is_some() {
            self.addresses_due = None;
        }
        if self.addresses_due.is_none_or(|due| due > now) {
            return;
        }
        let come = all.difference(&self.addresses).map(|&address| (address, true));
        let gone = self.addresses.difference(all).map(|&address| (address, false));
        for (address, is_own) in come.chain(gone).collect::<Vec<_>>() {
            if self.channel.send(&ToWatcher::Address { address, is_own }).is_err() {
                return self.addresses_due = Some(now + RETRY);
            }
            if is_own {
                self.addresses.insert(address);
            } else {
                self.addresses.remove(&address);
            }
        }
        self.addresses_due = None;
    }

    /// The next thing it has to say; `None`: nothing now, or it has said enough for now.
    pub(super) fn hear(&mut self) -> Option<WatcherOutput> {
        let heard = if self.budget > 0 { self.hear_next() } else { None };
        self.budget = match heard {
            None => BUDGET,
            Some(WatcherOutput::StderrLine(_)) => self.budget.saturating_sub(LINE),
            Some(_) => self.budget - 1,
        };
        heard
    }

    fn hear_next(&mut self) -> Option<WatcherOutput> {
        // First what may open a door.
        if self.closed.is_none() {
            match self.channel.receive() {
                Received::Frame(frame) => return Some(WatcherOutput::Frame(frame)),
                Received::Malformed => return Some(WatcherOutput::Malformed),
                Received::Nothing => {}
                // Who has no channel has no work.
                Received::Closed => self.kill(),
            }
        }
        if let Some(line) = self.stderr.next() {
            return Some(WatcherOutput::StderrLine(line));
        }
        let end_by = self.end_by()?;
        match self.child.try_wait() {
            Ok(None) if clock::now().monotonic < end_by => None,
            status => Some(WatcherOutput::Ended(status.ok().flatten())),
        }
    }

    /// When it has to have ended; `None`: it may work.
    pub(super) fn end_by(&self) -> Option<Monotonic> {
        self.closed.map(|since| since + TIME_TO_END)
    }

    /// What to poll: a closed channel is always readable, so it is left out.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.closed.is_none().then(|| self.channel.as_fd()).into_iter().chain(self.stderr.fd())
    }

    /// Ends it, and does not wait for that: a watcher ends when its channel does, which needs no
    /// right to kill. Nothing is heard any more of what it has said since.
    pub(super) fn kill(&mut self) {
        self.closed.get_or_insert_with(|| clock::now().monotonic);
        self.channel.shut();
        // An error means that it may not be, or has ended already.
        let _ = self.child.kill();
    }

    /// Whether it has not ended.
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for WatcherProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;
    use crate::config::NewPrivileges;
    use crate::config::load::{self, load};

    /// One that works, its end of the channel, and that of its standard error.
    pub(in crate::keeper) fn watcher() -> (WatcherProcess, Channel, File) {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        std::fs::write(file.path(), "doors: {ssh: {sequence: [7000], open: [22]}}").unwrap();
        let options = load::Options { insecure_permissions: true };
        let config = Arc::new(load(file.path(), &options).unwrap().config);
        let (ours, theirs) = files::frame_channel().unwrap();
        let (read, write) = files::output_pipe().unwrap();
        let argv = ["/bin/sleep", "1000"].map(str::to_owned);
        let output = files::output_pipe().unwrap().1;
        let watcher = WatcherProcess {
            config,
            server: None,
            generation: 1,
            since: Monotonic::ZERO,
            limit: Monotonic::MAX,
            interfaces: Vec::new(),
            looped: false,
            child: process::run(&argv, &[], NewPrivileges::Granted, output, None).unwrap(),
            channel: Channel(ours),
            stderr: OutputLines::of(read),
            closed: None,
            sandbox: None,
            addresses: BTreeSet::new(),
            addresses_due: None,
            budget: BUDGET,
        };
        (watcher, Channel(theirs), write.into())
    }

    #[test]
    fn however_much_it_says_the_keeper_has_its_turn() {
        let (mut watcher, theirs, mut stderr) = watcher();
        for _turn in 0..3 {
            let frames = (0..).find(|_| {
                theirs.send(&FromWatcher::Captured { index: 0, seen: 1, dropped: 1 }).unwrap();
                watcher.hear().is_none()
            });
            assert_eq!(frames, Some(BUDGET));
        }
        while watcher.hear().is_some() {}
        for _turn in 0..3 {
            let lines = (0..).find(|_| {
                stderr.write_all(b"a line\n").unwrap();
                watcher.hear().is_none()
            });
            assert_eq!(lines, Some(BUDGET / LINE));
        }
    }

    #[test]
    fn one_that_has_closed_its_channel_is_killed_and_not_waited_for() {
        let (mut watcher, theirs, _stderr) = watcher();
        assert!(watcher.hear().is_none());
        assert!(watcher.end_by().is_none() && watcher.is_alive());
        drop(theirs);
        let mut ended = None;
        while ended.is_none() {
            ended = watcher.hear();
        }
        assert!(matches!(ended, Some(WatcherOutput::Ended(Some(_)))));
        assert!(!watcher.is_alive());
    }
}
