//! Supervision of watchers: one at work, its successor, and those that see old sequences out.
//!
//! Hand-over: the successor captures first, and only then comes the cut. From the cut on, the old
//! watcher reports only sequences that began before it, the new one those that began after it. The
//! two may disagree about when a packet came by some microseconds, so their reports overlap a
//! little, and what both report is counted once.

mod ending;

use std::collections::BTreeSet;
use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::UnixCredentials;
use tracing::{error, info, warn};

use self::ending::{EndingWatchers, WatcherEnd, how_ended};
use super::child::ChildOutput;
use super::credible::Lie;
use super::home::Home;
use super::intake::{Intake, Notice, OVERLAP};
use super::interfaces::Interfaces;
use super::metrics::RESTARTS;
use super::watcher::WatcherProcess;
use crate::config::{Config, LogLevel, Name};
use crate::control::WatcherSandbox;
use crate::engine::spa::SpaServer;
use crate::engine::{Setup, UncleanStart};
use crate::ipc::{Assignment, ExplainFilter, FromWatcher, ToWatcher};
use crate::sys::privileges::{self, Identity};
use crate::sys::sandbox::SandboxReport;
use crate::sys::{clock, memory};
use crate::time::Monotonic;

/// How long a watcher may take until it captures.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How much longer than its longest sequence a leaving watcher may live.
const GRACE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A watcher that has worked this long was not started in vain.
const STEADY: Duration = Duration::from_secs(60);
/// How many watchers may be killed before the first of them works.
const FIRST_TRIES: u64 = 5;
/// How many watchers may see sequences out at once, and how many doors they may have in all: each
/// has a copy of its own. One may be there however many doors it has.
const LEAVING: usize = 8;
const LEAVING_DOORS: usize = 10_000;
/// How long another configuration may have to wait for such room.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// All watchers: who works, who takes over, who sees old sequences out, and when another starts.
pub(super) struct Watchers {
    current: Option<WatcherProcess>,
    successor: Option<WatcherProcess>,
    leaving: Vec<WatcherProcess>,
    ending: EndingWatchers,
    /// The configuration in force.
    pub(super) config: Arc<Config>,
    /// The keys that go with it.
    pub(super) server: Option<SpaServer>,
    last_generation: u64,
    /// When to start another in place of one that has died, and how long to wait after that.
    restart: Option<Monotonic>,
    pause: Duration,
    interfaces: Interfaces,
    home: Home,
    pub(super) intake: Intake,
    /// What `user` says, and whom it names.
    identity: Option<(Option<String>, Identity)>,
    /// How much of the sandbox of the watcher at work holds.
    pub(super) sandbox: Option<SandboxReport>,
    /// Whether the one at work was not heard in the last turn, for the sake of those that leave.
    current_waits: bool,
    /// The ids of the users that watchers have been so far.
    users: BTreeSet<u32>,
}

impl Watchers {
    /// No watcher yet; follows the interfaces and addresses of this host from now on.
    ///
    /// # Errors
    /// When the kernel does not tell the addresses.
    pub(super) fn new(
        config: Arc<Config>,
        server: Option<SpaServer>,
        missing: UncleanStart,
    ) -> io::Result<Self> {
        Ok(Self {
            current: None,
            successor: None,
            leaving: Vec::new(),
            ending: EndingWatchers::default(),
            config,
            server,
            last_generation: 0,
            restart: None,
            pause: FIRST_PAUSE,
            interfaces: Interfaces::follow(),
            intake: Intake::new(missing),
            identity: None,
            home: Home::follow()?,
            sandbox: None,
            current_waits: false,
            users: BTreeSet::new(),
        })
    }

    /// Starts a watcher for a configuration, beside the one at work if there is one.
    ///
    /// # Errors
    /// When it cannot be started at all; then everything stays as it is.
    pub(super) fn start(
        &mut self,
        now: Monotonic,
        config: Arc<Config>,
        server: Option<SpaServer>,
    ) -> io::Result<()> {
        let settings = &config.settings;
        let identity = self.resolve(settings.user.as_ref())?;
        let assignment = Assignment {
            setup: Setup {
                unclean_start: self.intake.missing,
                locks: self.intake.lockouts.of(now, &config),
                ..Setup::new(&config, server)
            },
            interfaces: settings.interfaces.clone(),
            addresses: self.home.addresses.clone(),
            identity,
            sandbox: settings.sandbox,
            verbose: settings.log.level >= LogLevel::Debug,
        };
        self.last_generation += 1;
        let mut watcher = WatcherProcess::start(self.last_generation, now, config, assignment)?;
        // All that came before it this turn takes no time away from it.
        watcher.limit = clock::now().monotonic + START_LIMIT;
        self.successor = Some(watcher);
        self.restart = None;
        Ok(())
    }

    /// The user that watchers become by this setting. It is looked up once: where users are kept,
    /// nothing may be reached any more that was replaced.
    fn resolve(&mut self, user: Option<&String>) -> io::Result<Identity> {
        if let Some((setting, identity)) = &self.identity
            && setting.as_ref() == user
        {
            return Ok(identity.clone());
        }
        let (identity, missed) =
            Identity::resolve(user.map(String::as_str)).map_err(io::Error::other)?;
        if let Some(missed) = missed {
            warn!("there is no user '{missed}': the watcher runs as nobody");
        }
        if identity == Identity::Unchanged && privileges::is_root() {
            warn!("user: root: the watcher keeps the ids that it has in this user namespace");
        }
        if let Identity::User { uid, .. } = identity {
            self.users.insert(uid);
        }
        self.identity = Some((user.cloned(), identity.clone()));
        Ok(identity)
    }

    /// The user that the latest watcher has become.
    pub(super) fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref().map(|(_, identity)| identity)
    }

    /// Has a source that another gateway has locked out not be listened to here either, where this
    /// configuration locks out, and for no longer than it does.
    pub(super) fn lock(
        &mut self,
        now: Monotonic,
        door: Option<&Name>,
        source: IpAddr,
        until: Monotonic,
    ) {
        let locks = &mut self.intake.lockouts;
        if locks.note(now, &self.config, door, source, until).is_some() {
            for watcher in self.all() {
                let locks = self.intake.lockouts.of(now, &watcher.config).into_iter();
                let locks = locks.filter(|lock| lock.source == source);
                locks.for_each(|lock| watcher.tell(ToWatcher::Lock { lock }));
            }
        }
    }

    /// Lets a source be listened to again. False: it was not locked out.
    pub(super) fn unlock(&mut self, now: Monotonic, source: IpAddr) -> bool {
        for watcher in self.all() {
            watcher.tell(ToWatcher::Unlock { source });
        }
        self.intake.lockouts.forget(now, source)
    }

    fn all(&self) -> impl Iterator<Item = &WatcherProcess> {
        self.current.iter().chain(&self.successor).chain(&self.leaving)
    }

    /// Whether one of them is at the other end of a socket, or may be: its user is there.
    pub(super) fn include(&self, peer: &UnixCredentials) -> bool {
        let pid = u32::try_from(peer.pid()).ok();
        self.users.contains(&peer.uid()) || self.all().any(|watcher| Some(watcher.pid()) == pid)
    }

    /// Whether a watcher is starting that has not taken over yet.
    pub(super) const fn is_changing(&self) -> bool {
        self.successor.is_some()
    }

    /// Whether another configuration may be taken up: no watcher is starting, and there is room.
    pub(super) fn may_change(&self) -> bool {
        !self.is_changing() && self.has_room()
    }

    /// Whether the watcher at work may join those that see old sequences out.
    fn has_room(&self) -> bool {
        let leaving = self.leaving.iter().map(|watcher| &watcher.config);
        let doors: usize = leaving.chain([&self.config]).map(|config| config.doors.len()).sum();
        self.leaving.is_empty() || (self.leaving.len() < LEAVING && doors <= LEAVING_DOORS)
    }

    /// Somebody waits for another configuration, perhaps to revoke a client: where there is no
    /// room, the first of those that see old sequences out does so only for so long.
    pub(super) fn hurry(&mut self, now: Monotonic) {
        if !self.has_room()
            && let Some(WatcherProcess { limit, .. }) = self.leaving.first_mut()
        {
            *limit = (*limit).min(now + LONGEST_WAIT);
            let left = limit.since(now).as_secs() + 1;
            info!("reloading within {left} s: sequences begun under earlier ones come first");
        }
    }

    /// Hears what all watchers have to say, and does what is due.
    pub(super) fn poll(&mut self, now: Monotonic) -> Vec<Notice> {
        let have_moved = self.home.poll(now);
        let Self { current, successor, leaving, home, .. } = self;
        for watcher in leaving.iter_mut().chain(current).chain(successor) {
            watcher.addresses_due = watcher.addresses_due.or(have_moved.then_some(now));
            watcher.tell_addresses(now, &home.addresses);
        }
        self.ending.poll(now);
        // They report what came first: of two requests of one client the later would bar the earlier.
        // But the one at work waits for them a turn at most.
        self.poll_leaving(now);
        let has_claim = self.intake.notices.iter().any(|it| matches!(it, Notice::Claim(_)));
        self.current_waits = has_claim && !self.current_waits;
        if !self.current_waits {
            self.poll_current(now);
        }
        self.poll_successor(now);
        if self.restart.is_some_and(|restart| restart <= now) && self.successor.is_none() {
            match self.ending.are_too_many() {
                false => self.replace(now),
                true => self.restart_later(now),
            }
        }
        if let Some(watcher) = &self.current
            && ((self.may_change() && self.interfaces.have_moved(&watcher.interfaces))
                || (self.successor.is_none()
                    && self.leaving.len() < LEAVING
                    && self.interfaces.one_is_back(now)))
        {
            self.replace(now);
        }
        mem::take(&mut self.intake.notices)
    }

    /// Starts another watcher with the configuration in force.
    fn replace(&mut self, now: Monotonic) {
        if let Err(error) = self.renew(now) {
            error!("cannot start a watcher: {error}");
            self.restart_later(now);
            self.intake.notices.push(Notice::Failed(Arc::clone(&self.config)));
        }
    }

    /// Starts another watcher, which remembers nothing, unless one is starting anyway.
    ///
    /// # Errors
    /// When it cannot be started; then the one at work stays.
    pub(super) fn renew(&mut self, now: Monotonic) -> io::Result<()> {
        if self.successor.is_some() {
            return Ok(());
        }
        self.start(now, Arc::clone(&self.config), self.server.clone())
    }

    fn restart_later(&mut self, now: Monotonic) {
        self.restart = Some(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    fn poll_current(&mut self, now: Monotonic) {
        let Some(mut watcher) = self.current.take() else { return };
        let Some(end) = self.listen(now, &mut watcher, true) else {
            return self.current = Some(watcher);
        };
        if now.since(watcher.since) >= STEADY {
            self.pause = FIRST_PAUSE;
        }
        self.intake.metrics.add(RESTARTS, &[], 1);
        self.restart_later(now);
        let millis = self.restart.map_or(Duration::ZERO, |restart| restart.since(now)).as_millis();
        error!("{end}; another starts in {millis} ms");
        self.ending.end(watcher);
    }

    fn poll_leaving(&mut self, now: Monotonic) {
        let before = self.leaving.len();
        for mut watcher in mem::take(&mut self.leaving) {
            match self.listen(now, &mut watcher, false) {
                None if watcher.limit > now => self.leaving.push(watcher),
                end => {
                    if let Some(end @ WatcherEnd::Lied(_)) = end {
                        error!("{end}");
                    }
                    self.ending.end(watcher);
                }
            }
        }
        if self.leaving.len() < before {
            memory::give_back();
        }
    }

    /// Takes in what a watcher has to say, until a door may have to open; `None`: it goes on.
    fn listen(
        &mut self,
        now: Monotonic,
        watcher: &mut WatcherProcess,
        is_current: bool,
    ) -> Option<WatcherEnd> {
        loop {
            match watcher.hear()? {
                ChildOutput::Frame(FromWatcher::Done) if !is_current => {
                    return Some(WatcherEnd::Over(None));
                }
                ChildOutput::Frame(frame) => {
                    let (intake, interfaces) = (&mut self.intake, &mut self.interfaces);
                    let local = &self.home.local;
                    let taken = intake.frame(now, watcher, &self.config, local, interfaces, frame);
                    if let Err(Lie(lie)) = taken {
                        return Some(WatcherEnd::Lied(lie));
                    }
                    // A door opens before more is heard.
                    if matches!(self.intake.notices.last(), Some(Notice::Claim(_))) {
                        return None;
                    }
                }
                ChildOutput::StderrLine(line) => self.intake.stderr_line(now, &line),
                ChildOutput::Malformed => return Some(WatcherEnd::Lied("a malformed message")),
                ChildOutput::Ended(status) => return Some(WatcherEnd::Over(status)),
            }
        }
    }

    fn poll_successor(&mut self, now: Monotonic) {
        let Some(mut watcher) = self.successor.take() else { return };
        let mut was_killed = false;
        let how = loop {
            match watcher.hear() {
                None if now < watcher.limit => return self.successor = Some(watcher),
                None => break format!("did not start within {} s", START_LIMIT.as_secs()),
                Some(ChildOutput::Frame(FromWatcher::Ready)) => return self.hand_over(watcher),
                Some(ChildOutput::Frame(FromWatcher::Interface { index, state }))
                    if watcher.config.settings.interfaces.len() > index as usize =>
                {
                    self.interfaces.note(&watcher.config, index, state);
                }
                Some(ChildOutput::Frame(FromWatcher::Sandbox { report })) => {
                    watcher.sandbox = Some(report);
                }
                Some(ChildOutput::StderrLine(line)) => self.intake.stderr_line(now, &line),
                Some(ChildOutput::Ended(status)) => {
                    was_killed = status.is_some_and(|status| status.signal().is_some());
                    break format!("could not start ({})", how_ended(status));
                }
                Some(ChildOutput::Frame(_) | ChildOutput::Malformed) => {
                    break "sent a malformed message and is ended".to_owned();
                }
            }
        };
        error!("the new watcher {how}");
        let config = Arc::clone(&watcher.config);
        self.ending.end(watcher);
        if self.current.is_none() {
            self.restart_later(now);
            // It has not found anything wrong: the next one may be luckier.
            if was_killed
                && Arc::ptr_eq(&config, &self.config)
                && self.last_generation < FIRST_TRIES
            {
                return;
            }
        }
        self.intake.notices.push(Notice::Failed(config));
    }

    /// The cut between the watcher at work and its successor.
    fn hand_over(&mut self, successor: WatcherProcess) {
        // The successor may have begun to capture since this turn began: nobody would know what began
        // between a cut as old as the turn and that.
        let cut = clock::now().monotonic;
        match self.current.take() {
            Some(mut old) => {
                successor.tell(ToWatcher::After { time: cut - OVERLAP });
                // What it has not told yet would go with it.
                old.tell(ToWatcher::Explain { asked: ExplainFilter::All });
                old.tell(ToWatcher::Until { time: cut + OVERLAP });
                let longest = old.config.doors.iter().map(|door| door.recognition.seq_timeout);
                let longest = longest.max().unwrap_or_default();
                old.limit = cut + longest + GRACE;
                self.leaving.push(old);
            }
            None => successor.tell(ToWatcher::After { time: Monotonic::ZERO }),
        }
        // Said where it is news.
        let before = mem::replace(&mut self.sandbox, successor.sandbox);
        if let Some(report) = self.sandbox.filter(|_| self.sandbox != before) {
            let extent = if report.is_whole() { "holds" } else { "holds in part" };
            info!("the watcher's sandbox {extent}: {}", WatcherSandbox::from(report));
        }
        self.config = Arc::clone(&successor.config);
        self.server = successor.server.clone();
        self.interfaces.announce(&self.config);
        self.intake.forget_doors(&self.config);
        self.current = Some(successor);
        self.intake.notices.push(Notice::InForce(Arc::clone(&self.config)));
    }

    /// Ends all of them.
    pub(super) fn stop(&mut self) {
        let Self { current, successor, leaving, ending, .. } = self;
        let others = current.take().into_iter().chain(successor.take());
        others.chain(leaving.drain(..)).for_each(|watcher| ending.end(watcher));
        self.restart = None;
    }

    /// Whether all have ended that have been told to, but for those that do not.
    pub(super) fn have_ended(&mut self, now: Monotonic) -> bool {
        self.ending.poll(now);
        self.ending.due().next().is_none()
    }

    /// Tells the watcher at work what somebody asks about.
    pub(super) fn tell(&self, order: ToWatcher) {
        if let Some(watcher) = &self.current {
            watcher.tell(order);
        }
    }

    /// What is listened on at the moment, and what is waited for.
    pub(super) fn listening(&self) -> (Vec<String>, Vec<String>) {
        self.interfaces.listening(&self.config)
    }

    pub(super) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let changes = self.interfaces.fd().filter(|_| self.may_change() && self.current.is_some());
        let changes = changes.into_iter().chain([self.home.fd()]);
        self.all().flat_map(|watcher| watcher.fds()).chain(changes).collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        let restart = self.restart.filter(|_| self.successor.is_none());
        let may_look = self.current.is_some() && self.leaving.len() < LEAVING;
        let interfaces = self.interfaces.next_look.filter(|_| self.successor.is_none() && may_look);
        let limits = self.successor.iter().chain(&self.leaving).map(|watcher| watcher.limit);
        let addresses = self.all().filter_map(|watcher| watcher.addresses_due);
        let addresses = addresses.chain(self.home.next_deadline());
        let end_by = self.all().chain(self.ending.due()).filter_map(|watcher| watcher.end_by());
        let others = [restart, interfaces].into_iter().flatten();
        limits.chain(others).chain(addresses).chain(end_by).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{CompletedBy, DoorId, Event, EventKind};
    use crate::ipc::Channel;
    use crate::keeper::watcher::tests::watcher;

    /// Reports that this host of a network has completed the sequence of the only door.
    fn complete(watcher: &Channel, host: u8) {
        let at = clock::now().monotonic;
        let source = [203, 0, 113, host].into();
        let kind = EventKind::Open(CompletedBy::Sequence);
        let event = Event { door: Some(DoorId(0)), source, kind, began: at };
        watcher.send(&FromWatcher::Event { event, at }).unwrap();
    }

    #[test]
    fn the_watcher_at_work_waits_no_more_than_a_turn_for_those_that_leave() {
        let ((current, of_current, _one), (mut leaving, of_leaving, _other)) =
            (watcher(), watcher());
        leaving.generation = 2;
        let config = Arc::clone(&current.config);
        let mut watchers = Watchers::new(config, None, UncleanStart::default()).unwrap();
        watchers.current = Some(current);
        watchers.leaving.push(leaving);
        (1..=3).for_each(|host| complete(&of_leaving, host));
        (11..=12).for_each(|host| complete(&of_current, host));
        let turns: Vec<Vec<u8>> = (0..4)
            .map(|_| {
                let notices = watchers.poll(clock::now().monotonic).into_iter();
                let hosts = notices.filter_map(|notice| match notice {
                    Notice::Claim(claim) => Some(claim.networks[0].address()),
                    _ => None,
                });
                let last = |address| match address {
                    IpAddr::V4(v4) => v4.octets()[3],
                    IpAddr::V6(_) => 0,
                };
                hosts.map(last).collect()
            })
            .collect();
        assert_eq!(turns, [vec![1], vec![2, 11], vec![3], vec![12]]);
    }
}
