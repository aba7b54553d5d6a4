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
use tracing::warn;
use zeroize::Zeroizing;

use crate::config::Config;
use crate::engine::spa::SpaServer;
use crate::ipc::{Assignment, Channel, FromWatcher, Received, ToWatcher};
use crate::proto::interface::InterfaceName;
use crate::sys::sandbox::SandboxReport;
use crate::sys::{files, host, process};
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
    closed: bool,
    /// How much of its sandbox holds, once it has said so.
    pub(super) sandbox: Option<SandboxReport>,
    /// What it has been told of the addresses of this host, and when to tell it the rest.
    addresses: BTreeSet<IpAddr>,
    pub(super) addresses_due: Option<Monotonic>,
    /// How much more is heard before the keeper looks after everything else.
    budget: u32,
}

/// How much one watcher may say at a time: none can keep the keeper from closing doors.
const BUDGET: u32 = 1024;
/// How soon a watcher that did not keep up is told more.
const RETRY: Duration = Duration::from_millis(10);

/// The output of a watcher: what it has to say.
pub(super) enum WatcherOutput {
    Frame(FromWatcher),
    /// It wrote this to standard error.
    StderrLine(String),
    /// It has ended; the status is missing where it could not be learnt.
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
            stderr: StderrLines { pipe: Some(ours_stderr.into()), line: Vec::new() },
            closed: false,
            sandbox: None,
            addresses,
            addresses_due: None,
            budget: BUDGET,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells the watcher something. One that does not listen is found out when it ends.
    pub(super) fn tell(&self, order: ToWatcher) {
        let _ = self.channel.send(&order);
    }

    /// Tells how the addresses of this host have changed, where that is due: as much as it has room
    /// for, and the rest later. It goes by the old ones until it has heard all.
    pub(super) fn tell_addresses(&mut self, now: Monotonic, all: &BTreeSet<IpAddr>) {
        if self.closed {
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
        self.budget = if heard.is_some() { self.budget - 1 } else { BUDGET };
        heard
    }

    fn hear_next(&mut self) -> Option<WatcherOutput> {
        // First what may open a door.
        if !self.closed {
            match self.channel.receive() {
                Received::Frame(frame) => return Some(WatcherOutput::Frame(frame)),
                Received::Malformed => return Some(WatcherOutput::Malformed),
                Received::Nothing => {}
                Received::Closed => self.closed = true,
            }
        }
        if let Some(line) = self.stderr.next() {
            return Some(WatcherOutput::StderrLine(line));
        }
        if !self.closed {
            return None;
        }
        self.child.try_wait().transpose().map(|status| WatcherOutput::Ended(status.ok()))
    }

    /// What to poll: a closed channel is always readable, so it is left out.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let channel = (!self.closed).then(|| self.channel.as_fd());
        channel.into_iter().chain(self.stderr.pipe.as_ref().map(File::as_fd))
    }

    /// Ends it at once: a watcher ends when its channel does, which needs no right to kill. Nothing
    /// is heard any more of what it has said since.
    pub(super) fn kill(&mut self) {
        self.closed = true;
        self.channel.shut();
        if !process::end(&mut self.child) {
            warn!("a watcher (process {}) does not end, and may not be killed", self.child.id());
        }
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
    line: Vec<u8>,
}

impl StderrLines {
    const WIDTH: usize = 500;

    fn next(&mut self) -> Option<String> {
        let mut byte = [0];
        loop {
            let end = match self.pipe.as_mut()?.read(&mut byte) {
                Ok(0) => {
                    self.pipe = None;
                    true
                }
                Ok(_) if byte == *b"\n" => true,
                // A line without an end is cut.
                Ok(_) => {
                    self.line.extend(byte);
                    self.line.len() >= Self::WIDTH
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => false,
                Err(_) => return None,
            };
            if end && !self.line.is_empty() {
                let line = String::from_utf8_lossy(&self.line).into_owned();
                self.line.clear();
                return Some(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn stderr_comes_line_by_line_and_one_without_an_end_is_cut() {
        let (read, write) = files::output_pipe().unwrap();
        let mut stderr = StderrLines { pipe: Some(read.into()), line: Vec::new() };
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
}
