//! A watcher process, as its keeper sees it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use nix::net::if_::InterfaceFlags;
use zeroize::Zeroizing;

use crate::config::Config;
use crate::engine::spa::SpaServer;
use crate::ipc::{Assignment, Channel, FromWatcher, Received, ToWatcher};
use crate::proto::interface::InterfaceName;
use crate::sys::{clock, files, host, process};
use crate::time::Monotonic;

/// A running watcher and the configuration that it was given.
pub(super) struct WatcherProcess {
    pub(super) config: Arc<Config>,
    /// What it was given to take native SPA datagrams with.
    pub(super) server: Option<SpaServer>,
    pub(super) generation: u64,
    pub(super) since: Monotonic,
    /// What it listens on, by the numbers that the interfaces had just before it began.
    pub(super) interfaces: Vec<(InterfaceName, Option<u32>)>,
    /// Whether a loopback interface is one of them.
    pub(super) looped: bool,
    child: Child,
    channel: Channel,
    stderr: StderrLines,
    /// What it has been told of the addresses of this host, and when to tell it the rest.
    addresses: BTreeSet<IpAddr>,
    pub(super) addresses_due: Option<Monotonic>,
    /// Since when its channel is: it ends, or has.
    closed: Option<Monotonic>,
    /// How much more is heard before the keeper looks after everything else.
    budget: u32,
}

/// How many frames one watcher may send at a time: none can keep the keeper from closing doors.
const BUDGET: u32 = 1024;
/// How soon a watcher that did not keep up is told more.
const RETRY: Duration = Duration::from_millis(10);
/// How many of them a line on standard error takes the place of: an honest one has little to say.
const LINE: u32 = 32;

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
        let looped = assignment.interfaces.iter().any(|name| *name == "any" || is_loopback(name));
        let assignment = files::sealed("knockd configuration", &bytes)?;
        let (ours, theirs) = files::frame_channel()?;
        let (ours_stderr, stderr) = files::output_pipe()?;
        let child = process::run_watcher(theirs, assignment, stderr)?;
        Ok(Self {
            config,
            server,
            generation,
            since,
            interfaces,
            looped,
            child,
            channel: Channel(ours),
            stderr: StderrLines { pipe: Some(ours_stderr.into()), read: Vec::new() },
            closed: None,
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
    /// for, and the rest later. It goes by the old ones until it has heard all.
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
        let told = self.channel.send(&ToWatcher::AddressesTold);
        self.addresses_due = told.is_err().then(|| now + RETRY);
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
        let channel = self.closed.is_none().then(|| self.channel.as_fd());
        channel.into_iter().chain(self.stderr.pipe.as_ref().map(File::as_fd))
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

/// Standard error of a watcher, in lines.
struct StderrLines {
    pipe: Option<File>,
    /// What has been read and not told.
    read: Vec<u8>,
}

impl StderrLines {
    const WIDTH: usize = 500;

    /// The next line that is not empty. Reads once at most, however much there is: whoever writes
    /// without end must not keep the keeper here.
    fn next(&mut self) -> Option<String> {
        let line = self.take_line();
        if line.is_some() {
            return line;
        }
        let mut buffer = [0; 4096];
        match self.pipe.as_mut()?.read(&mut buffer) {
            Ok(0) => self.pipe = None,
            Ok(count) => self.read.extend(buffer.iter().take(count)),
            Err(_) => return None,
        }
        self.take_line()
    }

    /// The first line of what has been read; one without an end is cut.
    fn take_line(&mut self) -> Option<String> {
        let empty = self.read.iter().take_while(|&&byte| byte == b'\n').count();
        self.read.drain(..empty);
        let longest = self.read.len().min(Self::WIDTH);
        let is_whole = longest == Self::WIDTH || self.pipe.is_none();
        let end = self.read.iter().take(longest).position(|&byte| byte == b'\n');
        let end = end.or((is_whole && longest > 0).then_some(longest))?;
        let line: Vec<u8> = self.read.drain(..end).collect();
        Some(String::from_utf8_lossy(&line).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::config::NewPrivileges;
    use crate::config::load::{self, load};

    /// One that works, its end of the channel, and that of its standard error.
    fn watcher() -> (WatcherProcess, Channel, File) {
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
            interfaces: Vec::new(),
            looped: false,
            child: process::run(&argv, &[], NewPrivileges::Granted, output, None).unwrap(),
            channel: Channel(ours),
            stderr: StderrLines { pipe: Some(read.into()), read: Vec::new() },
            closed: None,
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
                theirs.send(&FromWatcher::Dropped { count: 1 }).unwrap();
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

    #[test]
    fn stderr_comes_line_by_line_and_one_without_an_end_is_cut() {
        let (read, write) = files::output_pipe().unwrap();
        let mut stderr = StderrLines { pipe: Some(read.into()), read: Vec::new() };
        let mut write = File::from(write);
        write.write_all(b"one\n\ntwo\n").unwrap();
        write.write_all(&[b'x'; 1200]).unwrap();
        let lengths: Vec<usize> =
            std::iter::from_fn(|| stderr.next()).map(|line| line.len()).collect();
        assert_eq!(lengths, [3, 3, 500, 500]);
        drop(write);
        assert_eq!(stderr.next().map(|line| line.len()), Some(200));
        assert_eq!(stderr.next(), None);
    }

    #[test]
    fn stderr_without_lines_is_read_a_part_at_a_time() {
        let (read, write) = files::output_pipe().unwrap();
        let mut stderr = StderrLines { pipe: Some(read.into()), read: Vec::new() };
        File::from(write).write_all(&[b'\n'; 10_000]).unwrap();
        let reads = (1..).find(|_| stderr.next().is_none() && stderr.pipe.is_none());
        assert_eq!(reads, Some(4), "4096, 4096, the rest, its end");
    }
}
