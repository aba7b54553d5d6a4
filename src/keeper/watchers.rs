//! Supervision: one watcher at work, one that relieves it, and those that see old sequences out.
//!
//! Hand-over: the relief captures first, and only then comes the cut. From the cut on, the old
//! watcher reports only sequences that began before it, the new one those that began after it. The
//! two may disagree about when a packet came by some microseconds, so their reports overlap a
//! little, and what both report is counted once.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::ask::{self, Ask, Grounds, Unfounded};
use super::credible::{self, Lie};
use super::interfaces::Interfaces;
use super::locks::Locks;
use super::watcher::{Heard, Watcher};
use crate::config::{Config, LogLevel, Name};
use crate::control::{EventLine, What};
use crate::engine::spa::Server;
use crate::engine::{EventKind, Local, Missing, Reason, Setup};
use crate::grants::Place;
use crate::ipc::{Assignment, FromWatcher, ToWatcher};
use crate::log::limit::Limit;
use crate::sys::memory;
use crate::sys::privileges::Identity;
use crate::sys::{clock, host};
use crate::time::Monotonic;

/// How far two watchers may disagree about when a packet came.
const OVERLAP: Duration = Duration::from_millis(1);
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
/// How many completed sequences are remembered, to know those that two watchers report.
const REMEMBERED: usize = 1024;

/// How long the addresses of this host are taken to be what they were.
const HOME_HOLDS: Duration = Duration::from_secs(1);

/// What the rest of the keeper has to act upon.
#[must_use]
pub(super) enum Notice {
    /// Somebody may have what this asks for.
    Asked(Box<Ask>),
    /// Somebody might have had it, and may not, or not any more.
    Refused(Box<Ask>, Reason),
    /// A sequence was completed that opens nothing any more.
    Spent { place: Place, reason: Reason },
    /// Something has happened that everybody may know.
    Happened(EventLine),
    /// A packet that changed nothing: somebody asks about such.
    Seen(EventLine),
    /// Something that was reported before: somebody asks what happened lately.
    Past(EventLine),
    /// This configuration is at work from now on.
    InForce(Arc<Config>),
    /// No watcher could start with this configuration. Fatal only where none has ever worked.
    Failed(Arc<Config>),
}

pub(super) struct Watchers {
    current: Option<(Watcher, Monotonic)>,
    relief: Option<(Watcher, Monotonic)>,
    leaving: Vec<(Watcher, Monotonic)>,
    config: Arc<Config>,
    /// The keys that go with it.
    server: Option<Server>,
    /// What the ledger may not say.
    missing: Missing,
    last_generation: u64,
    /// When to start another in place of one that has died, and how long to wait after that.
    restart: Option<Monotonic>,
    pause: Duration,
    interfaces: Interfaces,
    completed: VecDeque<(u64, Name, IpAddr, Monotonic)>,
    complaints: Limit,
    /// More than any watcher says that limits itself, as ours do.
    lines: Limit,
    /// Whoever repeats what was sniffed cannot push everything else out of the history.
    spent: Limit,
    floods: Limit,
    counts: HashMap<Reason, u64>,
    dropped: u64,
    locks: Locks,
    /// The addresses of this host, as they were lately, and how long that holds.
    home: (Arc<Local>, Monotonic),
    users: BTreeSet<u32>,
}

impl Watchers {
    pub(super) fn new(config: Arc<Config>, server: Option<Server>, missing: Missing) -> Self {
        Self {
            current: None,
            relief: None,
            leaving: Vec::new(),
            config,
            server,
            missing,
            last_generation: 0,
            restart: None,
            pause: FIRST_PAUSE,
            interfaces: Interfaces::follow(),
            completed: VecDeque::new(),
            complaints: Limit::new(20, Duration::from_secs(1)),
            lines: Limit::new(1000, Duration::from_millis(5)),
            spent: Limit::new(20, Duration::from_secs(60)),
            floods: Limit::new(1, Duration::from_secs(60)),
            counts: HashMap::new(),
            dropped: 0,
            locks: Locks::default(),
            home: Default::default(),
            users: BTreeSet::new(),
        }
    }

    /// Starts a watcher for a configuration, beside the one at work if there is one.
    ///
    /// # Errors
    /// When it cannot be started at all; then everything stays as it is.
    pub(super) fn start(
        &mut self,
        now: Monotonic,
        config: Arc<Config>,
        server: Option<Server>,
    ) -> io::Result<()> {
        let settings = &config.settings;
        let (identity, missed) =
            Identity::resolve(settings.user.as_deref()).map_err(io::Error::other)?;
        if let Some(missed) = missed {
            warn!("there is no user '{missed}': the watcher runs as nobody");
        }
        if identity == Identity::Unchanged {
            warn!("user: root: the watcher keeps the ids that it has in this user namespace");
        }
        if let Identity::User { uid, .. } = identity {
            self.users.insert(uid);
        }
        let assignment = Assignment {
            setup: Setup {
                missing: self.missing,
                locks: self.locks.of(now, &config),
                ..Setup::new(&config, server)
            },
            interfaces: settings.interfaces.clone(),
            identity,
            verbose: settings.log.level >= LogLevel::Debug,
        };
        self.last_generation += 1;
        let watcher = Watcher::start(self.last_generation, now, config, assignment)?;
        // All that came before it this turn takes no time away from it.
        self.relief = Some((watcher, clock::now().monotonic + START_LIMIT));
        self.restart = None;
        Ok(())
    }

    /// The keys that go with the configuration in force.
    pub(super) const fn server(&self) -> Option<&Server> {
        self.server.as_ref()
    }

    /// Who is not listened to.
    pub(super) const fn locks(&self) -> &Locks {
        &self.locks
    }

    /// Lets a source be listened to again. False: it was not locked out.
    pub(super) fn unlock(&mut self, now: Monotonic, source: IpAddr) -> bool {
        for watcher in self.all() {
            watcher.tell(ToWatcher::Unlock { source });
        }
        self.locks.forget(now, source)
    }

    fn all(&self) -> impl Iterator<Item = &Watcher> {
        let leaving = self.leaving.iter().map(|(watcher, _)| watcher);
        let others =
            [&self.current, &self.relief].into_iter().flatten().map(|(watcher, _)| watcher);
        others.chain(leaving)
    }

    /// The ids of the users that watchers have been so far.
    pub(super) const fn users(&self) -> &BTreeSet<u32> {
        &self.users
    }

    /// Whether a watcher is starting that has not taken over yet.
    pub(super) const fn is_changing(&self) -> bool {
        self.relief.is_some()
    }

    /// Whether another configuration may be taken up: no watcher is starting, and there is room.
    pub(super) fn may_change(&self) -> bool {
        !self.is_changing() && self.has_room()
    }

    /// Whether the watcher at work may join those that see old sequences out.
    fn has_room(&self) -> bool {
        let leaving = self.leaving.iter().map(|(watcher, _)| &watcher.config);
        let doors: usize = leaving.chain([&self.config]).map(|config| config.doors.len()).sum();
        self.leaving.is_empty() || (self.leaving.len() < LEAVING && doors <= LEAVING_DOORS)
    }

    /// Somebody waits for another configuration, perhaps to revoke a client: where there is no
    /// room, the first of those that see old sequences out does so only for so long.
    pub(super) fn hurry(&mut self, now: Monotonic) {
        if !self.has_room()
            && let Some((_, until)) = self.leaving.first_mut()
        {
            *until = (*until).min(now + LONGEST_WAIT);
            let left = until.since(now).as_secs() + 1;
            info!("reloading within {left} s: sequences begun under earlier ones come first");
        }
    }

    /// Hears what all watchers have to say, and does what is due.
    pub(super) fn poll(&mut self, now: Monotonic) -> Vec<Notice> {
        let mut notices = Vec::new();
        // They report what came first: of two requests of one client the later would bar the earlier.
        self.poll_leaving(now, &mut notices);
        self.poll_current(now, &mut notices);
        self.poll_relief(now, &mut notices);
        if self.restart.is_some_and(|restart| restart <= now) && self.relief.is_none() {
            self.replace(now, &mut notices);
        }
        if let Some((watcher, _)) = &self.current
            && ((self.may_change() && self.interfaces.have_moved(&watcher.interfaces))
                || (self.relief.is_none() && self.interfaces.one_is_back(now)))
        {
            self.replace(now, &mut notices);
        }
        notices
    }

    /// Starts another watcher with the configuration in force.
    fn replace(&mut self, now: Monotonic, notices: &mut Vec<Notice>) {
        if let Err(error) = self.start(now, Arc::clone(&self.config), self.server.clone()) {
            error!("cannot start a watcher: {error}");
            self.restart_later(now);
            notices.push(Notice::Failed(Arc::clone(&self.config)));
        }
    }

    /// Starts another watcher, which remembers nothing, unless one is starting anyway.
    ///
    /// # Errors
    /// When it cannot be started; then the one at work stays.
    pub(super) fn renew(&mut self, now: Monotonic) -> io::Result<()> {
        if self.relief.is_some() {
            return Ok(());
        }
        self.start(now, Arc::clone(&self.config), self.server.clone())
    }

    fn restart_later(&mut self, now: Monotonic) {
        self.restart = Some(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    fn poll_current(&mut self, now: Monotonic, notices: &mut Vec<Notice>) {
        let Some((mut watcher, since)) = self.current.take() else { return };
        loop {
            match watcher.hear() {
                None => break self.current = Some((watcher, since)),
                Some(Heard::Frame(frame)) => {
                    if let Err(Lie(lie)) = self.frame(now, &watcher, frame, notices) {
                        end(&mut watcher, lie);
                    }
                    // A door opens before more is heard.
                    if matches!(notices.last(), Some(Notice::Asked(_))) {
                        break self.current = Some((watcher, since));
                    }
                }
                Some(Heard::Complaint(line)) => self.complaint(now, &line),
                Some(Heard::Malformed) => {
                    end(&mut watcher, "a malformed message");
                }
                Some(Heard::Ended(status)) => {
                    if now.since(since) >= STEADY {
                        self.pause = FIRST_PAUSE;
                    }
                    self.restart_later(now);
                    let pause = self.restart.map_or(Duration::ZERO, |restart| restart.since(now));
                    error!(
                        "the watcher ended ({}); another starts in {} ms",
                        ending(status),
                        pause.as_millis()
                    );
                    break;
                }
            }
        }
    }

    fn poll_leaving(&mut self, now: Monotonic, notices: &mut Vec<Notice>) {
        let before = self.leaving.len();
        let mut still_leaving = Vec::new();
        for (mut watcher, until) in std::mem::take(&mut self.leaving) {
            loop {
                match watcher.hear() {
                    None if until <= now => break,
                    None => break still_leaving.push((watcher, until)),
                    Some(Heard::Frame(FromWatcher::Done) | Heard::Ended(_)) => break,
                    Some(Heard::Malformed) => break end(&mut watcher, "a malformed message"),
                    Some(Heard::Frame(frame)) => {
                        if let Err(Lie(lie)) = self.frame(now, &watcher, frame, notices) {
                            break end(&mut watcher, lie);
                        }
                    }
                    Some(Heard::Complaint(line)) => self.complaint(now, &line),
                }
            }
        }
        self.leaving = still_leaving;
        if self.leaving.len() < before {
            memory::give_back();
        }
    }

    fn poll_relief(&mut self, now: Monotonic, notices: &mut Vec<Notice>) {
        let Some((mut watcher, limit)) = self.relief.take() else { return };
        let mut was_killed = false;
        loop {
            match watcher.hear() {
                None if now < limit => return self.relief = Some((watcher, limit)),
                None => error!("the new watcher did not start within {} s", START_LIMIT.as_secs()),
                Some(Heard::Frame(FromWatcher::Ready)) => {
                    return self.take_over(watcher, notices);
                }
                Some(Heard::Frame(FromWatcher::Interface { index, state })) => {
                    self.interfaces.note(&watcher.config, index, state);
                    continue;
                }
                Some(Heard::Complaint(line)) => {
                    self.complaint(now, &line);
                    continue;
                }
                Some(Heard::Ended(status)) => {
                    was_killed = status.is_some_and(|status| status.signal().is_some());
                    error!("the new watcher could not start ({})", ending(status));
                }
                Some(Heard::Frame(_) | Heard::Malformed) => {
                    error!("the new watcher sent a malformed message and is ended");
                }
            }
            break;
        }
        if self.current.is_none() {
            self.restart_later(now);
            // It has not found anything wrong: the next one may be luckier.
            if was_killed
                && Arc::ptr_eq(&watcher.config, &self.config)
                && self.last_generation < FIRST_TRIES
            {
                return;
            }
        }
        notices.push(Notice::Failed(Arc::clone(&watcher.config)));
    }

    /// The cut between the watcher at work and its relief.
    fn take_over(&mut self, relief: Watcher, notices: &mut Vec<Notice>) {
        // The relief may have begun to capture since this turn began: nobody would know what began
        // between a cut as old as the turn and that.
        let cut = clock::now().monotonic;
        match self.current.take() {
            Some((old, _)) => {
                relief.tell(ToWatcher::After { time: cut - OVERLAP });
                // What it has not told yet would go with it.
                old.tell(ToWatcher::ExplainAll);
                old.tell(ToWatcher::Until { time: cut + OVERLAP });
                let longest = old.config.doors.iter().map(|door| door.recognition.seq_timeout);
                let longest = longest.max().unwrap_or_default();
                self.leaving.push((old, cut + longest + GRACE));
            }
            None => relief.tell(ToWatcher::After { time: Monotonic::ZERO }),
        }
        self.config = Arc::clone(&relief.config);
        self.server = relief.server.clone();
        self.interfaces.announce(&self.config);
        self.current = Some((relief, cut));
        notices.push(Notice::InForce(Arc::clone(&self.config)));
    }

    /// Acts on a frame of a watcher at work.
    fn frame(
        &mut self,
        now: Monotonic,
        watcher: &Watcher,
        frame: FromWatcher,
        notices: &mut Vec<Notice>,
    ) -> Result<(), Lie> {
        if matches!(frame, FromWatcher::Event { .. } | FromWatcher::Asked { .. }) {
            self.look_home(now);
        }
        let (current, local) = (Arc::clone(&self.config), Arc::clone(&self.home.0));
        let grounds = Grounds {
            then: &watcher.config,
            server: watcher.server.as_ref(),
            current: &current,
            missing: self.missing,
            local: &local,
            looped: watcher.looped,
            // A frame may have come after the others of this turn, and after a sleep.
            now: clock::now(),
        };
        credible::check(&grounds, watcher.since, &frame)?;
        // By the calendar of now.
        let when = |at| grounds.now.wall - grounds.now.monotonic.since(at);
        match frame {
            FromWatcher::Event { event, at } => {
                let Some(door) = ask::door(&watcher.config, event.door) else { return Ok(()) };
                if let EventKind::Reset {
                    reason: reason @ (Reason::Used | Reason::Expired), ..
                } = event.kind
                {
                    let place = Place::new(door.name().clone(), event.source);
                    if self.spent.pass(now) {
                        notices.push(Notice::Spent { place, reason });
                    }
                }
                if let EventKind::LockedOut { until, everywhere } = event.kind {
                    let lock = (until, everywhere);
                    self.locks.note(now, &watcher.config, event.door, event.source, lock);
                }
                let EventKind::Open(knocked) = event.kind else {
                    if self.may_log(now) {
                        let wall = grounds.now.wall;
                        let line = EventLine::of_event(&watcher.config, &event, at, wall);
                        notices.push(Notice::Happened(line));
                    }
                    return Ok(());
                };
                if self.is_new(watcher.generation, door.name(), event.source, event.began) {
                    let ask = Ask::of_sequence(&grounds, &event, knocked, at);
                    self.notice(now, ask, notices)?;
                }
            }
            FromWatcher::Asked { request, at } => {
                let Some(door) = ask::door(&watcher.config, request.door) else { return Ok(()) };
                if self.is_new(watcher.generation, door.name(), request.source, at) {
                    self.notice(now, Ask::of_request(&grounds, &request, at), notices)?;
                }
            }
            FromWatcher::Interface { index, state } => {
                if self.interfaces.note(&watcher.config, index, state) {
                    self.interfaces.announce(&watcher.config);
                }
            }
            FromWatcher::Suppressed { count } if self.may_log(now) => {
                warn!(count, "{count} more knocks were not logged one by one");
            }
            FromWatcher::Dropped { count } => {
                self.dropped = self.dropped.saturating_add(count);
                if self.may_log(now) {
                    warn!(count, "the kernel dropped {count} packets before they were looked at");
                }
            }
            FromWatcher::Count { reason, count } => {
                let total = self.count(reason, count);
                if reason == Reason::Crowded && self.floods.pass(now) {
                    warn!(
                        count,
                        "a flood: for {count} knocks there was no room to follow or to count their sources"
                    );
                } else if self.may_log(now) {
                    debug!(
                        reason = reason.as_str(),
                        count = total,
                        "packets so far that came to nothing: {total}, {}",
                        reason.as_str()
                    );
                }
            }
            FromWatcher::Refused { refusal, .. } => {
                if self.may_log(now) {
                    let line = EventLine::of_refusal(&watcher.config, &refusal, grounds.now.wall);
                    notices.push(Notice::Happened(line));
                }
            }
            FromWatcher::Seen { source, knock, reason, at } => {
                let what = What::Ignored { knock, reason };
                let line = EventLine::new(when(at), Some(source), None, what, reason.to_string());
                notices.push(Notice::Seen(line));
            }
            FromWatcher::PastRefusal { refusal, at } => {
                let line = EventLine::of_refusal(&watcher.config, &refusal, when(at));
                notices.push(Notice::Past(line));
            }
            FromWatcher::Past { event, at } => {
                let line = EventLine::of_event(&watcher.config, &event, at, when(at));
                notices.push(Notice::Past(line));
            }
            FromWatcher::Ready | FromWatcher::Done | FromWatcher::Suppressed { .. } => {}
        }
        Ok(())
    }

    /// Takes note of what has been asked for. What is refused strangers can repeat.
    fn notice(
        &mut self,
        now: Monotonic,
        ask: Result<Ask, Unfounded>,
        notices: &mut Vec<Notice>,
    ) -> Result<(), Lie> {
        match ask {
            Ok(ask) => notices.push(Notice::Asked(Box::new(ask))),
            Err(Unfounded::Lie(lie)) => return Err(lie),
            Err(Unfounded::Refused(ask, reason)) => {
                self.count(reason, 1);
                if self.spent.pass(now) {
                    notices.push(Notice::Refused(ask, reason));
                }
            }
        }
        Ok(())
    }

    /// Asks the kernel anew for the addresses of this host, where that is some time ago.
    fn look_home(&mut self, now: Monotonic) {
        if self.home.1 <= now
            && let Ok(addresses) = host::addresses()
        {
            self.home = (Arc::new(Local::Addresses(addresses)), now + HOME_HOLDS);
        }
    }

    /// Adds to what has come to nothing for a reason; how much that is now.
    pub(super) fn count(&mut self, reason: Reason, count: u64) -> u64 {
        let total = self.counts.entry(reason).or_default();
        *total = total.saturating_add(count);
        *total
    }

    /// Whether no other watcher has reported already what a source did at a door.
    fn is_new(&mut self, generation: u64, door: &Name, source: IpAddr, began: Monotonic) -> bool {
        let known = self.completed.iter().any(|(by, name, other, at)| {
            let apart = at.since(began).max(began.since(*at));
            *by != generation && name == door && *other == source && apart <= OVERLAP
        });
        if self.completed.len() >= REMEMBERED {
            self.completed.pop_front();
        }
        self.completed.push_back((generation, door.clone(), source, began));
        !known
    }

    /// Whether one more line may be logged because a watcher says so: one that has been taken over
    /// may say anything, as often as it likes.
    fn may_log(&mut self, now: Monotonic) -> bool {
        let may = self.lines.pass(now);
        if may {
            let count = self.lines.take_refused();
            if count > 0 {
                warn!(count, "{count} more lines of the watcher were not logged");
            }
        }
        may
    }

    fn complaint(&mut self, now: Monotonic, line: &str) {
        if self.complaints.pass(now) {
            error!("watcher: {line}");
        }
    }

    /// Ends all of them.
    pub(super) fn stop(&mut self) {
        self.current = None;
        self.relief = None;
        self.leaving.clear();
        self.restart = None;
    }

    /// Tells the watcher at work what somebody asks about.
    pub(super) fn tell(&self, order: ToWatcher) {
        if let Some((watcher, _)) = &self.current {
            watcher.tell(order);
        }
    }

    /// What is listened on at the moment, and what is waited for.
    pub(super) fn listening(&self) -> (Vec<String>, Vec<String>) {
        self.interfaces.listening(&self.config)
    }

    /// The configuration in force.
    pub(super) const fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// How many packets came to nothing so far, by reason.
    pub(super) const fn counts(&self) -> &HashMap<Reason, u64> {
        &self.counts
    }

    /// How many packets the kernel dropped so far.
    pub(super) const fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(super) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let heeds_changes = self.may_change() && self.current.is_some();
        let changes = self.interfaces.fd().filter(|_| heeds_changes);
        self.all().flat_map(Watcher::fds).chain(changes).collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        let relief = self.relief.as_ref().map(|&(_, limit)| limit);
        let restart = self.restart.filter(|_| self.relief.is_none());
        let interfaces =
            self.interfaces.next_look().filter(|_| relief.is_none() && self.current.is_some());
        let leaving = self.leaving.iter().map(|&(_, until)| until);
        [relief, restart, interfaces].into_iter().flatten().chain(leaving).min()
    }
}

/// Ends a watcher that somebody must have taken over.
fn end(watcher: &mut Watcher, lie: &str) {
    error!("the watcher is ended: it sent {lie}, which no watcher of ours does");
    watcher.kill();
}

fn ending(status: Option<ExitStatus>) -> String {
    status.map_or_else(|| "status unknown".to_owned(), |status| status.to_string())
}
