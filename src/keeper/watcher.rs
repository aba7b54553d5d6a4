//! A watcher process, as its keeper sees it.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use derive_more::{Deref, DerefMut};
use nix::net::if_::InterfaceFlags;

use super::child::{ChildOutput, ChildProcess};
use crate::config::Config;
use crate::engine::spa::SpaServer;
use crate::ipc::{Assignment, Channel, FromWatcher, ToWatcher};
use crate::proto::InterfaceName;
use crate::sys::sandbox::SandboxReport;
use crate::sys::{host, process};
use crate::time::Monotonic;

/// A running watcher and the configuration that it was given.
#[derive(Deref, DerefMut)]
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
    #[deref]
    #[deref_mut]
    process: ChildProcess,
    /// How much of its sandbox holds, once it has said so.
    pub(super) sandbox: Option<SandboxReport>,
    /// What it has been told of the addresses of this host, and when to tell it the rest.
    addresses: BTreeSet<IpAddr>,
    pub(super) addresses_due: Option<Monotonic>,
}

/// How soon a watcher that did not keep up is told more.
const RETRY: Duration = Duration::from_millis(10);

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
        let process = ChildProcess::start(process::run_watcher, &assignment)?;
        let (server, addresses) = (assignment.setup.spa, assignment.addresses);
        let names = assignment.interfaces.iter();
        let interfaces = names.map(|name| (name.clone(), host::index(name))).collect();
        let is_loopback = |name: &str| host::has(name, InterfaceFlags::IFF_LOOPBACK);
        let looped = assignment.interfaces.iter().any(|name| &**name == "any" || is_loopback(name));
        Ok(Self {
            config,
            server,
            generation,
            since,
            limit: Monotonic::MAX,
            interfaces,
            looped,
            process,
            sandbox: None,
            addresses,
            addresses_due: None,
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
            let own = &mut self.addresses;
            _ = if is_own { own.insert(address) } else { own.remove(&address) };
        }
        self.addresses_due = None;
    }

    /// The next thing it has to say; `None`: nothing now, or it has said enough for now.
    pub(super) fn hear(&mut self) -> Option<ChildOutput<FromWatcher>> {
        self.process.hear(Channel::receive)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;
    use crate::config::NewPrivileges;
    use crate::config::load::{self, load};
    use crate::keeper::child::{BUDGET, LINE};
    use crate::keeper::output_lines::OutputLines;
    use crate::sys::descriptors;

    /// One that works, its end of the channel, and that of its standard error.
    pub(in crate::keeper) fn watcher() -> (WatcherProcess, Channel, File) {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        std::fs::write(file.path(), "doors: {ssh: {sequence: [7000], open: [22]}}").unwrap();
        let options = load::Options { insecure_permissions: true };
        let config = Arc::new(load(file.path(), &options).unwrap().config);
        let (ours, theirs) = descriptors::frame_channel().unwrap();
        let (read, write) = descriptors::output_pipe().unwrap();
        let argv = ["/bin/sleep", "1000"].map(str::to_owned);
        let output = descriptors::output_pipe().unwrap().1;
        let watcher = WatcherProcess {
            config,
            server: None,
            generation: 1,
            since: Monotonic::ZERO,
            limit: Monotonic::MAX,
            interfaces: Vec::new(),
            looped: false,
            process: ChildProcess {
                child: process::run(&argv, &[], NewPrivileges::Granted, output, None).unwrap(),
                channel: Channel(ours),
                stderr: OutputLines::of(read),
                closed: None,
                budget: BUDGET,
            },
            sandbox: None,
            addresses: BTreeSet::new(),
            addresses_due: None,
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
        assert!(matches!(ended, Some(ChildOutput::Ended(Some(_)))));
        assert!(!watcher.is_alive());
    }
}
