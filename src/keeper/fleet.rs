//! The fleet, as the keeper of one gateway sees it: what the store is asked, what the others are
//! told, and what of theirs holds here.
//!
//! The store is asked and told by a courier. It is believed no more than the store: what is told is
//! sealed here, and opened here.

mod asking;
mod hearing;
mod telling;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use tracing::{error, info, warn};

use self::asking::{Asking, Decided};
use self::hearing::{HeardBeat, Hearing};
use self::telling::Telling;
pub(super) use self::telling::news_of;
use super::child::{ChildOutput, ChildProcess};
use super::state::Keeper;
use crate::config::{Config, Door, FleetSettings, Name, WhenLost};
use crate::control::{FleetLink, FleetState, FleetStatus, GatewayStatus, seconds};
use crate::fleet::Beat;
use crate::ipc::Channel;
use crate::ipc::courier::{CourierAssignment, ToCourier};
use crate::log::limit::Limit;
use crate::proto::fleet::{Run, Sealer};
use crate::sys::sandbox::SandboxReport;
use crate::sys::{clock, process};
use crate::time::{Monotonic, Now, Wall};

/// How soon another courier starts in place of one that has ended; twice as long each time until one
/// has reached the store.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How soon a gateway looks at its clock again that may not join because of it.
const CLOCK_PAUSE: Duration = Duration::from_secs(10);
/// How often a gateway says that it is there.
const BEAT_EVERY: Duration = Duration::from_secs(2);
/// How long a courier may owe a reply and say nothing: longer than it waits for the store itself.
const SILENCE: Duration = Duration::from_secs(5);
/// How soon a courier that did not keep up is told more.
const RETRY: Duration = Duration::from_millis(5);
/// How many reasons are logged of one loss.
const MOST_REASONS: usize = 4;
/// How many messages may wait for the courier.
const MOST_QUEUED: usize = 500_000;

/// The keeper's end of the fleet.
pub(super) struct Fleet {
    pub(super) settings: FleetSettings,
    assignment: CourierAssignment,
    sealer: Sealer,
    /// When this run began.
    began: Now,
    /// How far the clocks of store and gateway may be apart.
    window: Duration,
    /// How long closings are kept for those that come later.
    longest: Duration,
    /// Since when its state is what it is.
    since: Wall,
    lines: Limit,
    unreadable: Limit,
    pub(super) link: Link,
    asking: Asking,
    telling: Telling,
    hearing: Hearing,
}

/// What ties the keeper to the store.
#[derive(Default)]
pub(super) struct Link {
    courier: Option<ChildProcess>,
    /// The one before, which may not have ended yet.
    ending: Option<ChildProcess>,
    restart: Option<Monotonic>,
    pause: Duration,
    /// When the courier has said something last.
    heard: Monotonic,
    pub(super) sandbox: Option<SandboxReport>,
    /// Whether what comes from the store happens now, and whether an answer of its is overdue.
    is_live: bool,
    is_late: bool,
    /// Why the store is not to be had.
    why: Option<String>,
    /// What the log has said last: that it is lost, or is not; and all reasons since.
    has_logged_loss: Option<bool>,
    said: Vec<String>,
    /// What could not be told the courier at once.
    queue: VecDeque<ToCourier>,
}

impl Fleet {
    /// No courier yet; the first [`poll`](Self::poll) starts one.
    pub(super) fn new(
        now: Now,
        config: &Config,
        settings: FleetSettings,
        assignment: CourierAssignment,
        run: Run,
    ) -> Self {
        let mut fleet = Self {
            sealer: Sealer::new(&settings.key, run),
            began: now,
            since: now.wall,
            window: Duration::ZERO,
            longest: Duration::ZERO,
            settings,
            assignment,
            lines: Limit::new(10, Duration::from_secs(60)),
            unreadable: Limit::new(1, Duration::from_secs(60)),
            link: Link::default(),
            asking: Asking::default(),
            telling: Telling::default(),
            hearing: Hearing::default(),
        };
        fleet.follow(config);
        fleet
    }

    /// Takes over what another configuration says that leaves the fleet as it is.
    fn follow(&mut self, config: &Config) {
        let of_fleet = config.doors.iter().map(|door| &door.opening).filter(|it| it.fleet);
        self.longest = of_fleet.map(|it| it.open_for_max).max().unwrap_or_default();
        self.window = config.settings.spa.max_age;
    }

    /// Hears the courier, starts one where there is none, and gives what the store or the time has
    /// decided about claims that waited.
    fn poll(&mut self, now: Now) -> Vec<Decided> {
        self.link.ending.take_if(|process| !process.is_alive());
        if self.link.courier.is_none()
            && self.link.ending.is_none()
            && self.link.restart.is_none_or(|at| at <= now.monotonic)
        {
            self.start(now);
        }
        let mut decided = Vec::new();
        while let Some(courier) = &mut self.link.courier {
            match courier.hear(Channel::receive_message) {
                None => break,
                Some(ChildOutput::Frame(message)) => {
                    self.link.heard = now.monotonic;
                    self.hear(now, message, &mut decided);
                }
                Some(ChildOutput::StderrLine(line)) => {
                    self.link.why = Some(line);
                    self.log(now);
                }
                Some(ChildOutput::Malformed) => {
                    self.lose(now, None, "it sent what no courier of ours sends");
                }
                Some(ChildOutput::Ended(status)) => {
                    let how = || status.map_or("status unknown".to_owned(), |it| it.to_string());
                    let why = self.link.why.take();
                    let why = why.unwrap_or_else(|| format!("the courier ended ({})", how()));
                    self.lose(now, None, why);
                }
            }
        }
        if self
            .telling
            .beat_sent
            .is_some_and(|sent| now.monotonic.since(sent.max(self.link.heard)) >= SILENCE)
        {
            self.lose(now, None, "the courier says nothing any more");
        }
        self.flush(now);
        self.decide_overdue(now, &mut decided);
        // What there was to say may have been too much before.
        self.log(now);
        decided
    }

    fn start(&mut self, now: Now) {
        match ChildProcess::start(process::run_courier, &self.assignment) {
            Ok(courier) => {
                (self.link.courier, self.link.restart) = (Some(courier), None);
                self.link.queue.clear();
            }
            Err(why) => {
                let program = process::courier().unwrap_or_default();
                self.lose(now, None, format!("cannot start {}: {why}", program.display()));
            }
        }
    }

    /// The store is not to be had any more, and why. Another courier starts after this time, or a
    /// while.
    fn lose(&mut self, now: Now, pause: Option<Duration>, why: impl Into<String>) {
        self.link.why = Some(why.into());
        if self.state() == FleetState::Joined {
            self.since = now.wall;
        }
        if let Some(mut courier) = self.link.courier.take() {
            courier.kill();
            self.link.ending = Some(courier);
        }
        (self.hearing.kept, self.telling.beat_sent, self.hearing.lag, self.hearing.is_listed) =
            (None, None, None, None);
        self.link.restart = Some(now.monotonic + pause.unwrap_or(self.link.pause.max(FIRST_PAUSE)));
        self.link.pause = (self.link.pause.max(FIRST_PAUSE) * 2).min(LONGEST_PAUSE);
        (self.link.is_live, self.link.is_late) = (false, false);
        self.log(now);
    }

    /// The store answers, and all that it has kept has been told.
    fn is_back(&mut self, now: Now) {
        (self.link.is_live, self.link.is_late) = (true, false);
        self.telling.next_beat = now.monotonic;
    }

    /// The store has answered a beat: it takes what it is told, too.
    fn has_answered(&mut self, now: Now, sent: Monotonic) {
        if self.hearing.lag.replace(now.monotonic.since(sent)).is_none() {
            self.turns(now, None);
        }
    }

    /// Its state is another one from now on, for this reason where the store is not to be had.
    fn turns(&mut self, now: Now, why: Option<String>) {
        (self.since, self.link.why) = (now.wall, why);
        self.log(now);
    }

    fn state(&self) -> FleetState {
        let is_joined = self.link.is_live && !self.link.is_late && self.hearing.lag.is_some();
        if is_joined { FleetState::Joined } else { state(self.settings.when_lost) }
    }

    /// Says how the state has changed, if it has.
    fn log(&mut self, now: Now) {
        let (state, store) = (self.state(), &self.assignment.store);
        if state == FleetState::Joined {
            if self.link.has_logged_loss != Some(false) && self.lines.pass(now.monotonic) {
                info!("fleet: {} has joined, by the store {store}", self.settings.name);
                (self.link.has_logged_loss, self.link.said) = (Some(false), Vec::new());
            }
            return;
        }
        let Some(why) = self.link.why.as_ref().filter(|why| !self.link.said.contains(why)) else {
            return;
        };
        if self.link.said.len() < MOST_REASONS && self.lines.pass(now.monotonic) {
            let what = match state {
                FleetState::Refusing => "what has to be proved is refused",
                _ => "this gateway decides alone",
            };
            warn!("fleet: the store {store} is not to be had, and {what}: {why}");
            self.link.has_logged_loss = Some(true);
            self.link.said.push(why.clone());
        }
    }

    /// Tells the courier something, or later where it does not keep up.
    fn send(&mut self, now: Now, message: ToCourier) {
        self.link.queue.push_back(message);
        self.flush(now);
    }

    fn flush(&mut self, now: Now) {
        let Some(courier) = &self.link.courier else { return self.link.queue.clear() };
        while let Some(message) = self.link.queue.front()
            && courier.channel.send_message(message).is_ok()
        {
            self.link.queue.pop_front();
        }
        if self.link.queue.len() > MOST_QUEUED {
            self.lose(now, None, "the courier does not keep up");
        }
    }

    /// When [`poll`](Self::poll) has to be called next.
    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        let now = || clock::now().monotonic;
        let deadlines = [
            self.link.restart.filter(|_| self.link.courier.is_none()),
            self.link.ending.as_ref().map(|_| now() + RETRY),
            self.link.courier.as_ref().and_then(|courier| courier.end_by()),
            self.asking.waiting.first_key_value().map(|(_, (by, _))| *by),
            self.telling.by_hand.iter().map(|told| told.by).min(),
            self.link.is_live.then_some(self.telling.next_beat),
            (!self.link.queue.is_empty()).then(|| now() + RETRY),
            (!self.hearing.backlog.is_empty()).then_some(Monotonic::ZERO),
        ];
        deadlines.into_iter().flatten().min()
    }

    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.link.courier.iter().flat_map(|courier| courier.fds())
    }

    fn status(&self, now: Now, config: &Config, open: u64) -> FleetStatus {
        let gateway = |name: &Name, beat: &Beat, heard: Duration, is_this| GatewayStatus {
            gateway: name.clone(),
            version: beat.version.clone(),
            heard_seconds_ago: heard.as_secs_f64(),
            lag_seconds: beat.lag.as_secs_f64(),
            open: beat.open,
            is_this,
        };
        let own = gateway(&self.settings.name, &self.own_beat(open), Duration::ZERO, true);
        let others = self.hearing.beats.iter();
        let others = others.map(|(name, HeardBeat { at, beat, .. })| {
            gateway(name, beat, now.monotonic.since(*at), false)
        });
        let mut gateways: Vec<_> = others.chain([own]).collect();
        gateways.sort_by(|one, other| one.gateway.cmp(&other.gateway));
        let doors = config.doors.iter().filter(|door| door.opening.fleet);
        FleetStatus {
            link: FleetLink {
                name: self.settings.name.clone(),
                store: self.assignment.store.to_string(),
                state: self.state(),
                since: seconds(self.since),
                why: self.link.why.clone().filter(|_| self.state() != FleetState::Joined),
            },
            when_lost: self.settings.when_lost.as_str().to_owned(),
            wait_seconds: self.settings.wait.as_secs_f64(),
            gateways,
            doors: doors.map(|door| door.name().clone()).collect(),
            kept: self.hearing.in_store.map(|(kept, _)| kept),
            stamps: self.hearing.in_store.map(|(_, stamps)| stamps),
            lag_seconds: self.hearing.lag.map(|lag| lag.as_secs_f64()),
            unsent: self.telling.unsent.len(),
            alone: self.asking.alone,
            namesake: self.has_namesake(now),
        }
    }
}

impl Keeper {
    /// Joins the fleet that a configuration names, or leaves the one before.
    pub(super) fn join_fleet(&mut self, now: Now, config: &Config) {
        let wanted = config.settings.fleet.as_ref();
        if let (Some(fleet), Some(wanted)) = (&mut self.fleet, wanted)
            && fleet.settings == *wanted
        {
            return fleet.follow(config);
        }
        if let Some(Fleet { link: Link { courier, ending, .. }, .. }) = self.fleet.take() {
            self.couriers_left.extend(courier.into_iter().chain(ending));
            self.couriers_left.iter_mut().for_each(ChildProcess::kill);
        }
        let (Some(wanted), Some(identity)) = (wanted, self.watchers.identity()) else { return };
        let mut run = Run::default();
        if let Err(why) = getrandom::fill(&mut run) {
            return error!("fleet: not joined: there is no chance to draw a number by: {why}");
        }
        let assignment = CourierAssignment {
            store: wanted.store.clone(),
            identity: identity.clone(),
            sandbox: config.settings.sandbox,
        };
        self.fleet = Some(Fleet::new(now, config, wanted.clone(), assignment, run));
    }

    /// How the fleet fares, as this gateway sees it; `None`: it is of none.
    pub(super) fn fleet_status(&self, now: Now) -> Option<FleetStatus> {
        let fleet = self.fleet.as_ref()?;
        Some(fleet.status(now, &self.watchers.config, self.open_in_fleet()))
    }

    /// How many doors of the fleet are open here.
    fn open_in_fleet(&self) -> u64 {
        let doors = &self.watchers.config.doors;
        let of_fleet = doors.iter().filter(|door| door.opening.fleet).map(Door::name);
        of_fleet.map(|door| self.doors.count(door) as u64).sum()
    }
}

/// What a gateway does that has not joined.
const fn state(when_lost: WhenLost) -> FleetState {
    match when_lost {
        WhenLost::Alone => FleetState::Alone,
        WhenLost::Refuse => FleetState::Refusing,
    }
}
