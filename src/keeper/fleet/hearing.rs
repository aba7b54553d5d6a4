//! What comes from the store, and what of it holds here.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tracing::{debug, warn};

use super::telling::OF_GATEWAYS;
use super::{CLOCK_PAUSE, Decided, Fleet};
use crate::config::Name;
use crate::fleet::{Beat, Closings, Entry, News, may_open};
use crate::grants::{GrantKey, OpenedBy};
use crate::ipc::courier::FromCourier;
use crate::keeper::child::ChildProcess;
use crate::keeper::claim::Claim;
use crate::keeper::state::Keeper;
use crate::ledger::{Durability, Proof};
use crate::proto::duration;
use crate::time::{Monotonic, Now, Wall};

/// How many entries take effect before the keeper looks after everything else.
const AT_A_TIME: usize = 32;
/// How long a gateway is remembered that is not heard of any more.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// For how long a gateway counts as one of this name.
const NAMESAKE: Duration = Duration::from_secs(10);
/// How much longer an entry has to keep a door open to be worth anything.
const WORTH: Duration = Duration::from_secs(1);

/// What a gateway said of itself last, and when that was heard.
pub(super) struct HeardBeat {
    pub(super) at: Monotonic,
    counter: u64,
    pub(super) beat: Beat,
}

/// What the others have told.
#[derive(Default)]
pub(super) struct Hearing {
    /// What the store has kept, while a courier tells that; each once, in the order of counters.
    pub(super) kept: Option<BTreeMap<(u64, Name), Entry>>,
    pub(super) backlog: VecDeque<Entry>,
    /// The counter of the latest entry of each gateway that has come. Whoever repeats entries fills
    /// neither the backlog with them, nor the place of other closings.
    come: BTreeMap<Name, u64>,
    /// The counter of the latest entry of each gateway that has taken effect.
    pub(super) heard: BTreeMap<Name, u64>,
    closings: Closings,
    pub(super) beats: BTreeMap<Name, HeardBeat>,
    pub(super) lag: Option<Duration>,
    /// How many entries and stamps the store keeps.
    pub(super) in_store: Option<(u64, u64)>,
    /// When something came last that another gateway told by this one's name.
    pub(super) namesake: Option<Monotonic>,
    /// Whether the store knows of this gateway, as far as that has been told since it was asked.
    pub(super) is_listed: Option<bool>,
}

impl Fleet {
    pub(super) fn hear(&mut self, now: Now, message: FromCourier, decided: &mut Vec<Decided>) {
        match message {
            FromCourier::Sandbox { report } => self.link.sandbox = Some(report),
            FromCourier::Joined { clock } => {
                if self.agrees(now, clock) {
                    self.begin_anew(now);
                    self.hearing.kept = Some(BTreeMap::new());
                }
            }
            FromCourier::Entry { sealed } => {
                let Some(entry) = self.open(now, &sealed) else { return };
                match &mut self.hearing.kept {
                    Some(kept) => _ = kept.insert((entry.counter, entry.gateway.clone()), entry),
                    None => self.come(now, entry),
                }
            }
            FromCourier::Live => self.has_told_all(now),
            FromCourier::Taken { ask, is_new } => self.taken(now, ask, is_new, decided),
            FromCourier::Told { number } => {
                let arrived =
                    self.telling.unsent.iter().take_while(|it| it.number <= number).count();
                self.telling.unsent.drain(..arrived);
            }
            FromCourier::Beat { sealed } => {
                if let Some(entry) = self.open(now, &sealed) {
                    self.has_beaten(now, entry);
                }
            }
            FromCourier::Store { clock, kept, stamps } => {
                self.link.pause = Duration::ZERO;
                self.hearing.in_store = Some((kept, stamps));
                let sent = self.telling.beat_sent.take();
                sent.into_iter().for_each(|sent| self.has_answered(now, sent));
                if self.agrees(now, clock)
                    && sent.is_some()
                    && self.hearing.is_listed.replace(false) == Some(false)
                {
                    if self.lines.pass(now.monotonic) {
                        warn!(
                            "fleet: the store has forgotten what it was told, and is told it anew"
                        );
                    }
                    self.has_to_tell(BTreeMap::new());
                }
            }
        }
    }

    /// Whether the clocks of store and gateway are near enough; where they are not, it leaves.
    fn agrees(&mut self, now: Now, clock: Wall) -> bool {
        let apart = clock.since(now.wall).max(now.wall.since(clock));
        if apart <= self.window {
            return true;
        }
        let how = if clock > now.wall { "behind" } else { "ahead of" };
        let apart = duration::format_seconds(apart);
        let why = format!("this gateway's clock is {apart} {how} the store's: set it right");
        self.lose(now, Some(CLOCK_PAUSE), why);
        false
    }

    fn open(&mut self, now: Now, sealed: &[u8]) -> Option<Entry> {
        // The clocks of gateways that may join are no further apart.
        let latest = now.wall + self.window * 2;
        let why = match Entry::open(&self.settings.key, sealed) {
            Ok(entry) if entry.counter <= latest.as_nanos() => return Some(entry),
            Ok(Entry { gateway, .. }) => {
                format!("of a time to come: was the clock of {gateway} wrong?")
            }
            Err(why) => format!("{why}: is key_file the same at all gateways?"),
        };
        if self.unreadable.pass(now.monotonic) {
            warn!("fleet: an entry in the store is {why}");
        }
        None
    }

    /// An entry has come. What this gateway has told itself is known.
    fn come(&mut self, now: Now, entry: Entry) {
        if entry.gateway != self.settings.name {
            let latest = self.hearing.come.entry(entry.gateway.clone()).or_default();
            if *latest < entry.counter {
                *latest = entry.counter;
                self.hearing.closings.note(&entry);
                self.hearing.backlog.push_back(entry);
            }
        } else if entry.run != self.sealer.run {
            self.is_anothers(now, entry.counter);
        }
    }

    /// Something that was told by this gateway's name, and not by this knockd.
    fn is_anothers(&mut self, now: Now, counter: u64) {
        // Before this one started, it was this gateway.
        if counter <= self.began.wall.as_nanos() {
            return;
        }
        let was_known = self.has_namesake(now);
        self.hearing.namesake = Some(now.monotonic);
        if !was_known {
            let name = &self.settings.name;
            warn!("fleet: another gateway is called '{name}' too: give each a name of its own");
        }
    }

    /// Whether another gateway has this one's name: it would say so every two seconds.
    pub(super) fn has_namesake(&self, now: Now) -> bool {
        self.hearing.namesake.is_some_and(|at| now.monotonic.since(at) < NAMESAKE)
    }

    /// All that was kept has come: closings first, so that nothing opens that has been closed.
    fn has_told_all(&mut self, now: Now) {
        let Some(kept) = self.hearing.kept.take() else { return };
        let mut open = BTreeMap::new();
        for entry in kept.into_values() {
            if let News::Open { key, until, .. } = &entry.news {
                open.insert(key.clone(), *until);
            }
            self.come(now, entry);
        }
        self.has_to_tell(open);
        self.is_back(now);
    }

    /// The store knows nothing of this gateway's, but until when these are open.
    fn has_to_tell(&mut self, open: BTreeMap<GrantKey, Wall>) {
        (self.telling.missing_there, self.telling.has_to_catch_up) = (Some(open), true);
    }

    fn has_beaten(&mut self, now: Now, entry: Entry) {
        let News::Beat(beat) = entry.news else { return };
        if entry.gateway == self.settings.name {
            self.hearing.is_listed = Some(true);
            if entry.run != self.sealer.run {
                self.is_anothers(now, entry.counter);
            }
            return;
        }
        let age = now.wall.since(Wall::from_nanos(entry.counter));
        let known = self.hearing.beats.get(&entry.gateway);
        let at = if known.is_some() { now.monotonic } else { now.monotonic - age };
        let is_news = known.is_none_or(|known| known.counter < entry.counter);
        if is_news && now.monotonic.since(at) < REMEMBERED {
            let counter = entry.counter;
            self.hearing.beats.insert(entry.gateway, HeardBeat { at, counter, beat });
        }
        self.hearing.beats.retain(|_, heard| now.monotonic.since(heard.at) < REMEMBERED);
    }

    /// What keeps the entries of a gateway that have taken effect from doing so once more.
    fn mark_of(&self, gateway: &Name, counter: u64) -> Proof {
        let id = self.settings.key.id(format!("gateway {gateway}").as_bytes());
        let mut key = [0; 32];
        key[..16].copy_from_slice(&OF_GATEWAYS);
        key[16..].copy_from_slice(&id);
        Proof::Monotonic { key, stamp: Wall::from_nanos(counter) }
    }
}

impl Keeper {
    /// Follows the fleet: decides what waited for the store, does what others have told, and tells
    /// them what has happened here.
    pub(in crate::keeper) fn follow_fleet(&mut self, now: Now) {
        self.couriers_left.retain_mut(ChildProcess::is_alive);
        let Some(fleet) = &mut self.fleet else {
            // Nobody is to be told.
            let _untold = std::mem::take(&mut self.doors.news);
            return;
        };
        let decided = fleet.poll(now);
        if fleet.link.is_live && std::mem::take(&mut fleet.telling.has_to_catch_up) {
            let valid = self.watchers.config.settings.spa.max_age;
            let used = self.doors.journal.recent_proofs(now.wall - valid, now.wall);
            fleet.catch_up(now, used);
        }
        for (claim, outcome) in decided {
            self.decide(now, &claim, outcome);
        }
        let Some(mut fleet) = self.fleet.take() else { return };
        self.do_as_told(now, &mut fleet);
        self.tell_news(now, &mut fleet);
        if fleet.is_beat_due(now) {
            fleet.beat(now, self.open_in_fleet());
        }
        for (asked_by, said) in fleet.take_done(now) {
            self.done(asked_by, Ok(said));
        }
        self.fleet = Some(fleet);
    }

    /// Does what others have told, some of it. That it has been done is written after it, for all of
    /// that at once: after a crash it is done once more, which changes nothing.
    fn do_as_told(&mut self, now: Now, fleet: &mut Fleet) {
        let mut heard = BTreeMap::new();
        for _ in 0..AT_A_TIME {
            let Some(entry) = fleet.hearing.backlog.pop_front() else { break };
            if self.takes(now, fleet, &entry) {
                fleet.hearing.heard.insert(entry.gateway.clone(), entry.counter);
                heard.insert(entry.gateway, entry.counter);
            }
        }
        for (gateway, counter) in heard {
            let mark = fleet.mark_of(&gateway, counter);
            let _logged = self.doors.journal.write(&[], Some(&mark), Durability::Crash);
        }
    }

    /// Does what an entry tells, if that holds here and nothing newer of its gateway has been done.
    /// False: something newer has.
    fn takes(&mut self, now: Now, fleet: &mut Fleet, entry: &Entry) -> bool {
        if let News::Done { gateway, counter } = &entry.news {
            if *gateway == fleet.settings.name {
                fleet.is_done(&entry.gateway, *counter);
            }
            return false;
        }
        let known = fleet.hearing.heard.get(&entry.gateway).copied();
        let ledger = &self.doors.journal.ledger;
        let before = || ledger.is_used(&fleet.mark_of(&entry.gateway, entry.counter));
        if known.map_or_else(before, |known| known >= entry.counter) {
            return false;
        }
        if let News::Open { key, client, until } = &entry.news
            && let Some(claim) = self.claim_of(now, fleet, entry, (key, client, *until))
        {
            // What comes of it is logged.
            let _outcome = self.doors.carry_out(now, &claim);
            return true;
        }
        let unheard = self.unheard(now, fleet, entry);
        let by = OpenedBy::Fleet;
        match &entry.news {
            News::Close { key, cut } => _ = self.doors.close(now, key, *cut, by),
            News::CloseAll { cut } => self.doors.close_all(now, *cut, by),
            News::Revoke { client, cut } => _ = self.doors.close_client(now, client, *cut, by),
            News::LockOut { door, source, until } => {
                let until = now.monotonic + until.since(now.wall);
                self.watchers.lock(now.monotonic, door.as_ref(), *source, until);
            }
            News::Unlock { source } => _ = self.watchers.unlock(now.monotonic, *source),
            News::Struck { door, line } => self.strike(now, door, line),
            News::Open { .. } | News::Done { .. } | News::Beat(_) => {}
        }
        for closing in unheard {
            fleet.tell(now, closing, false);
        }
        if entry.is_waiting {
            let (gateway, counter) = (entry.gateway.clone(), entry.counter);
            fleet.tell(now, News::Done { gateway, counter }, false);
        }
        true
    }

    /// What a door that has opened elsewhere asks for here; `None`: nothing, or no more than is open.
    fn claim_of(
        &self,
        now: Now,
        fleet: &Fleet,
        entry: &Entry,
        (key, client, until): (&GrantKey, &Option<Name>, Wall),
    ) -> Option<Claim> {
        if fleet.hearing.closings.end(entry) {
            return None;
        }
        let config = &self.watchers.config;
        let (door, open_for) = may_open(config, now.wall, key, client.as_ref(), until)
            .inspect_err(|why| {
                let gateway = &entry.gateway;
                debug!(source = %key.network, door = %key.door, "told by {gateway}, and {why}");
            })
            .ok()?;
        let stands = self.doors.stands_until(key);
        if stands.is_some_and(|stands| stands + WORTH >= now.monotonic + open_for) {
            return None;
        }
        let (door, gateway) = (door.clone(), entry.gateway.clone());
        let at = now.monotonic;
        Some(Claim::by_gateway(door, gateway, client.clone(), key, at, open_for))
    }
}
