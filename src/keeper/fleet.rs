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

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use tracing::{error, info, warn};

use self::asking::Decided;
use self::hearing::{HeardBeat, Kept};
pub(super) use self::telling::news_of;
use self::telling::{ToldByHand, Unsent};
use super::child::{ChildOutput, ChildProcess};
use super::claim::Claim;
use super::state::Keeper;
use crate::config::{Config, Door, FleetSettings, Name, WhenLost};
use crate::control::{FleetLink, FleetState, FleetStatus, GatewayStatus, seconds};
use crate::fleet::{Closings, Entry};
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
    began: Wall,
    /// How far the clocks of store and gateway may be apart.
    window: Duration,
    /// How long closings are kept for those that come later.
    longest: Duration,
    courier: Option<ChildProcess>,
    /// The one before, which may not have ended yet.
    ending: Option<ChildProcess>,
    restart: Option<Monotonic>,
    pause: Duration,
    pub(super) sandbox: Option<SandboxReport>,
    /// Whether what comes from the store happens now, and whether an answer of its is overdue.
    is_live: bool,
    is_late: bool,
    since: Wall,
    /// Why the store is not to be had.
    why: Option<String>,
    /// What the log has said last: that it is lost, or is not; and all reasons since.
    has_logged_loss: Option<bool>,
    said: Vec<String>,
    lines: Limit,
    /// What could not be told the courier at once.
    queue: VecDeque<ToCourier>,
    asked: BTreeMap<u64, (Monotonic, Box<Claim>)>,
    last_ask: u64,
    alone: u64,
    unsent: VecDeque<Unsent>,
    by_hand: Vec<ToldByHand>,
    /// What the store has kept, while a courier tells that.
    kept: Option<Vec<Entry>>,
    /// What is open here and in the store is not, to be told once all that was kept has been heard.
    missing_there: Option<Kept>,
    backlog: VecDeque<Entry>,
    heard: BTreeMap<Name, u64>,
    /// The counter of what was told last of a door that opened here.
    last_open: u64,
    closings: Closings,
    beats: BTreeMap<Name, HeardBeat>,
    next_beat: Monotonic,
    beat_sent: Option<Monotonic>,
    lag: Option<Duration>,
    in_store: Option<(u64, u64)>,
    is_namesake: bool,
    /// Whether what this gateway says of itself was still in the store; `None`: not asked yet.
    is_listed: Option<bool>,
    unreadable: Limit,
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
            began: now.wall,
            window: Duration::ZERO,
            longest: Duration::ZERO,
            has_logged_loss: None,
            said: Vec::new(),
            settings,
            assignment,
            courier: None,
            ending: None,
            restart: None,
            pause: FIRST_PAUSE,
            sandbox: None,
            is_live: false,
            is_late: false,
            since: now.wall,
            why: None,
            lines: Limit::new(10, Duration::from_secs(60)),
            queue: VecDeque::new(),
            asked: BTreeMap::new(),
            last_ask: 0,
            alone: 0,
            unsent: VecDeque::new(),
            by_hand: Vec::new(),
            kept: None,
            missing_there: None,
            backlog: VecDeque::new(),
            heard: BTreeMap::new(),
            last_open: 0,
            closings: Closings::default(),
            beats: BTreeMap::new(),
            next_beat: now.monotonic,
            beat_sent: None,
            lag: None,
            in_store: None,
            is_namesake: false,
            is_listed: None,
            unreadable: Limit::new(1, Duration::from_secs(60)),
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
        self.ending.take_if(|process| !process.is_alive());
        if self.courier.is_none()
            && self.ending.is_none()
            && self.restart.is_none_or(|at| at <= now.monotonic)
        {
            self.start(now);
        }
        let mut decided = Vec::new();
        while let Some(courier) = &mut self.courier {
            match courier.hear(Channel::receive_message) {
                None => break,
                Some(ChildOutput::Frame(message)) => self.hear(now, message, &mut decided),
                Some(ChildOutput::StderrLine(line)) => {
                    self.why = Some(line);
                    self.log(now);
                }
                Some(ChildOutput::Malformed) => {
                    self.why = Some("it sent what no courier of ours sends".to_owned());
                    self.lose(now, None);
                }
                Some(ChildOutput::Ended(status)) => {
                    let how = || status.map_or("status unknown".to_owned(), |it| it.to_string());
                    self.why.get_or_insert_with(|| format!("the courier ended ({})", how()));
                    self.lose(now, None);
                }
            }
        }
        self.flush(now);
        self.decide_overdue(now, &mut decided);
        decided
    }

    fn start(&mut self, now: Now) {
        match ChildProcess::start(process::run_courier, &self.assignment) {
            Ok(courier) => {
                (self.courier, self.restart) = (Some(courier), None);
                self.queue.clear();
            }
            Err(why) => {
                let program = process::courier().unwrap_or_default();
                self.why = Some(format!("cannot start {}: {why}", program.display()));
                self.lose(now, None);
            }
        }
    }

    /// The store is not to be had any more. Another courier starts after this time, or a while.
    fn lose(&mut self, now: Now, pause: Option<Duration>) {
        if let Some(mut courier) = self.courier.take() {
            courier.kill();
            self.ending = Some(courier);
        }
        (self.kept, self.beat_sent, self.lag, self.is_listed) = (None, None, None, None);
        self.restart = Some(now.monotonic + pause.unwrap_or(self.pause));
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        if std::mem::take(&mut self.is_live) {
            self.since = now.wall;
        }
        self.is_late = false;
        self.log(now);
    }

    /// The store answers, and all that it has kept has been told.
    fn is_back(&mut self, now: Now) {
        (self.is_live, self.is_late, self.pause) = (true, false, FIRST_PAUSE);
        (self.since, self.why, self.next_beat) = (now.wall, None, now.monotonic);
        self.log(now);
    }

    fn state(&self) -> FleetState {
        let is_joined = self.is_live && !self.is_late;
        if is_joined { FleetState::Joined } else { state(self.settings.when_lost) }
    }

    /// Says how the state has changed, if it has.
    fn log(&mut self, now: Now) {
        let (state, store) = (self.state(), &self.assignment.store);
        if state == FleetState::Joined {
            if self.has_logged_loss != Some(false) && self.lines.pass(now.monotonic) {
                info!("fleet: {} has joined, by the store {store}", self.settings.name);
                (self.has_logged_loss, self.said) = (Some(false), Vec::new());
            }
            return;
        }
        let Some(why) = self.why.as_ref().filter(|why| !self.said.contains(why)) else { return };
        if self.said.len() < MOST_REASONS && self.lines.pass(now.monotonic) {
            let what = match state {
                FleetState::Refusing => "what has to be proved is refused",
                _ => "this gateway decides alone",
            };
            warn!("fleet: the store {store} is not to be had, and {what}: {why}");
            self.has_logged_loss = Some(true);
            self.said.push(why.clone());
        }
    }

    /// Tells the courier something, or later where it does not keep up.
    fn send(&mut self, now: Now, message: ToCourier) {
        self.queue.push_back(message);
        self.flush(now);
    }

    fn flush(&mut self, now: Now) {
        let Some(courier) = &self.courier else { return self.queue.clear() };
        while let Some(message) = self.queue.front()
            && courier.channel.send_message(message).is_ok()
        {
            self.queue.pop_front();
        }
        if self.queue.len() > MOST_QUEUED {
            self.why = Some("the courier does not keep up".to_owned());
            self.lose(now, None);
        }
    }

    /// When [`poll`](Self::poll) has to be called next.
    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        let now = || clock::now().monotonic;
        let deadlines = [
            self.restart.filter(|_| self.courier.is_none()),
            self.ending.as_ref().map(|_| now() + RETRY),
            self.courier.as_ref().and_then(|courier| courier.end_by()),
            self.asked.first_key_value().map(|(_, (by, _))| *by),
            self.by_hand.iter().map(|told| told.by).min(),
            self.is_live.then_some(self.next_beat),
            (!self.queue.is_empty()).then(|| now() + RETRY),
            (!self.backlog.is_empty()).then_some(Monotonic::ZERO),
        ];
        deadlines.into_iter().flatten().min()
    }

    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.courier.iter().flat_map(|courier| courier.fds())
    }

    fn status(&self, now: Now, config: &Config, open: u64) -> FleetStatus {
        let own = GatewayStatus {
            gateway: self.settings.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            heard_seconds_ago: 0.0,
            lag_seconds: self.lag.unwrap_or_default().as_secs_f64(),
            open,
            is_this: true,
        };
        let others = self.beats.iter().map(|(name, heard)| GatewayStatus {
            gateway: name.clone(),
            version: heard.beat.version.clone(),
            heard_seconds_ago: now.monotonic.since(heard.at).as_secs_f64(),
            lag_seconds: heard.beat.lag.as_secs_f64(),
            open: heard.beat.open,
            is_this: false,
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
                why: self.why.clone().filter(|_| self.state() != FleetState::Joined),
            },
            when_lost: self.settings.when_lost.as_str().to_owned(),
            wait_seconds: self.settings.wait.as_secs_f64(),
            gateways,
            doors: doors.map(|door| door.name().clone()).collect(),
            kept: self.in_store.map(|(kept, _)| kept),
            stamps: self.in_store.map(|(_, stamps)| stamps),
            lag_seconds: self.lag.map(|lag| lag.as_secs_f64()),
            unsent: self.unsent.len(),
            alone: self.alone,
            namesake: self.is_namesake,
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
        self.fleet = None;
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
