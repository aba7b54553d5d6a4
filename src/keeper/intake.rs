//! Intake of what watchers report: checked, deduplicated, counted, limited, logged or passed on.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, error, warn};

use super::claim::{Claim, Grounds, JudgedClaim};
use super::credible::{self, Lie};
use super::interfaces::Interfaces;
use super::lockouts::LockoutTable;
use super::metrics::{Counts, DROPPED, LOCKOUTS, REQUESTS, SEEN};
use super::watcher::WatcherProcess;
use crate::config::{Config, Door, Name};
use crate::control::{EventLine, What, door_of};
use crate::engine::{Event, EventKind, Local, Reason, UncleanStart};
use crate::grants::{GrantKey, OpenedBy};
use crate::ipc::FromWatcher;
use crate::log::limit::Limit;
use crate::proto::{Method, push_latest};
use crate::sys::clock;
use crate::time::Monotonic;

/// How far two watchers may disagree about when a packet came.
pub(super) const OVERLAP: Duration = Duration::from_millis(1);
/// How many completed sequences are remembered, to know those that two watchers report.
const REMEMBERED: usize = 1024;
/// How much may be asked for in all, however many doors there are.
const CLAIMS: (u32, Duration) = (4_000, Duration::from_millis(10));

/// A notice of what the rest of the keeper has to act upon.
#[must_use]
pub(super) enum Notice {
    /// Somebody may have what this asks for.
    Claim(Box<Claim>),
    /// Somebody might have had it, and may not, or not any more.
    StaleClaim(Box<Claim>, Reason),
    /// A sequence was completed that opens nothing any more.
    Reused { key: GrantKey, reason: Reason },
    /// Something has happened that everybody may know.
    Happened(EventLine),
    /// A packet that changed nothing: somebody asks about such.
    Seen(EventLine),
    /// Something that was reported before: somebody asks what happened lately.
    Replayed(EventLine),
    /// A source has failed too often, at a door or at all.
    LockedOut { door: Option<Name>, source: IpAddr, until: Monotonic },
    /// This configuration is at work from now on.
    InForce(Arc<Config>),
    /// No watcher could start with this configuration. Fatal only where none has ever worked.
    Failed(Arc<Config>),
}

/// The intake: what all watchers have reported, and what of it nobody has acted upon yet.
pub(super) struct Intake {
    pub(super) notices: Vec<Notice>,
    /// What the ledger may not say.
    pub(super) missing: UncleanStart,
    /// Who is not listened to.
    pub(super) lockouts: LockoutTable,
    /// How many packets came to nothing so far, by reason.
    pub(super) counts: HashMap<Reason, u64>,
    /// How many packets the kernel dropped so far.
    pub(super) dropped: u64,
    /// What else is counted for monitoring.
    pub(super) metrics: Counts,
    completed: VecDeque<(u64, Name, IpAddr, Monotonic)>,
    claims: Limit,
    /// How much may be asked for of a door in each way, or of all doors together.
    claims_by: HashMap<(Method, Option<Name>), Limit>,
    stderr_lines: Limit,
    /// More than any watcher says that limits itself, as ours do.
    lines: Limit,
    /// Whoever repeats what was sniffed cannot push everything else out of the history.
    reused: Limit,
    floods: Limit,
}

impl Intake {
    pub(super) fn new(missing: UncleanStart) -> Self {
        Self {
            notices: Vec::new(),
            missing,
            lockouts: LockoutTable::default(),
            counts: HashMap::new(),
            dropped: 0,
            metrics: Counts::default(),
            completed: VecDeque::new(),
            claims: Limit::new(CLAIMS.0, CLAIMS.1),
            claims_by: HashMap::new(),
            stderr_lines: Limit::new(20, Duration::from_secs(1)),
            lines: Limit::new(1000, Duration::from_millis(10)),
            reused: Limit::new(20, Duration::from_secs(60)),
            floods: Limit::new(1, Duration::from_secs(60)),
        }
    }

    /// Takes in one frame of a watcher at work. `current` is the configuration in force, `local`
    /// what this host's addresses are.
    ///
    /// # Errors
    /// [`Lie`]: no honest watcher sends it, so this one has to be ended.
    pub(super) fn frame(
        &mut self,
        now: Monotonic,
        watcher: &WatcherProcess,
        current: &Config,
        local: &Local,
        interfaces: &mut Interfaces,
        frame: FromWatcher,
    ) -> Result<(), Lie> {
        let config = &*watcher.config;
        let grounds = Grounds {
            then: config,
            server: watcher.server.as_ref(),
            current,
            missing: self.missing,
            local,
            looped: watcher.looped,
            // A frame may have come after the others of this turn, and after a sleep.
            now: clock::now(),
        };
        credible::check(&grounds, watcher.since, &frame)?;
        match frame {
            FromWatcher::Event { event, at } => {
                self.event(now, watcher.generation, &grounds, &event, at)?;
            }
            FromWatcher::Request { request, at } => {
                let Some(door) = door_of(config, request.door) else { return Ok(()) };
                if self.is_new(watcher.generation, door.name(), request.source, at) {
                    self.claim(now, Claim::of_request(&grounds, &request, at)?);
                }
            }
            FromWatcher::Interface { index, state } => {
                if interfaces.note(config, index, state) {
                    interfaces.announce(config);
                }
            }
            FromWatcher::Suppressed { count } if self.may_log(now) => {
                warn!(count, "{count} more knocks were not logged one by one");
            }
            FromWatcher::Captured { index, seen, dropped: count } => {
                if let Some(interface) = config.settings.interfaces.get(index as usize) {
                    self.metrics.add(SEEN, &[interface], seen);
                    self.metrics.add(DROPPED, &[interface], count);
                }
                self.dropped = self.dropped.saturating_add(count);
                if count > 0 && self.may_log(now) {
                    warn!(count, "the kernel dropped {count} packets before they were looked at");
                }
            }
            FromWatcher::Count { reason, count } => self.nothing(now, reason, count),
            FromWatcher::Refused { refusal, at } => {
                let door = refusal.door.and_then(|id| door_of(config, id));
                self.requested(door, refusal.by.as_str(), refusal.reason.as_str());
                if self.may_log(now) {
                    let line = EventLine::of_refusal(config, &refusal, grounds.when(at));
                    self.notices.push(Notice::Happened(line));
                }
            }
            FromWatcher::Ignored { source, knock, reason, at } => {
                let what = What::Ignored { knock, reason };
                let line = EventLine::new(
                    grounds.when(at),
                    Some(source.into()),
                    None,
                    what,
                    reason.to_string(),
                );
                self.notices.push(Notice::Seen(line));
            }
            FromWatcher::ReplayedRefusal { refusal, at } => {
                let line = EventLine::of_refusal(config, &refusal, grounds.when(at));
                self.notices.push(Notice::Replayed(line));
            }
            FromWatcher::ReplayedEvent { event, at } => {
                let line = EventLine::of_event(config, &event, at, grounds.when(at));
                self.notices.push(Notice::Replayed(line));
            }
            FromWatcher::Sandbox { .. }
            | FromWatcher::Ready
            | FromWatcher::Done
            | FromWatcher::Suppressed { .. } => {}
        }
        Ok(())
    }

    fn event(
        &mut self,
        now: Monotonic,
        generation: u64,
        grounds: &Grounds<'_>,
        event: &Event,
        at: Monotonic,
    ) -> Result<(), Lie> {
        let door = event.door.and_then(|id| door_of(grounds.then, id));
        match (event.kind, door) {
            (EventKind::Open(knocked), Some(door)) => {
                if self.is_new(generation, door.name(), event.source, event.began) {
                    self.claim(now, Claim::of_sequence(grounds, event, knocked, at)?);
                }
                return Ok(());
            }
            (
                EventKind::Reset { reason: reason @ (Reason::Used | Reason::Expired), .. },
                Some(door),
            ) => {
                self.requested(Some(door), Method::Totp.as_str(), reason.as_str());
                if self.reused.pass(now) {
                    let key = GrantKey::new(door.name().clone(), event.source);
                    self.notices.push(Notice::Reused { key, reason });
                }
            }
            (EventKind::LockedOut { until }, _) => {
                self.metrics.add(LOCKOUTS, &[&door.map_or("", |door| door.name().as_str())], 1);
                let (door, source) = (door.map(Door::name).cloned(), event.source);
                let until = self.lockouts.note(now, grounds.then, door.as_ref(), source, until);
                let locked = until.map(|until| Notice::LockedOut { door, source, until });
                self.notices.extend(locked);
            }
            (EventKind::Missed { .. } | EventKind::Unmatched, _) => {
                self.requested(door, Method::Totp.as_str(), "unmatched");
            }
            _ => {}
        }
        if self.may_log(now) {
            let line = EventLine::of_event(grounds.then, event, at, grounds.when(at));
            self.notices.push(Notice::Happened(line));
        }
        Ok(())
    }

    /// Takes note of what has been asked for. What is refused strangers can repeat.
    fn claim(&mut self, now: Monotonic, (claim, holds): JudgedClaim) {
        let claim = Box::new(claim);
        let holds = holds.and_then(|()| self.is_not_too_much(now, &claim));
        let Err(reason) = holds else { return self.notices.push(Notice::Claim(claim)) };
        self.refused(&claim, reason);
        if self.reused.pass(now) {
            self.notices.push(Notice::StaleClaim(claim, reason));
        }
    }

    /// Whether the doors are not asked for more than people and their programs do: whoever has
    /// taken over a watcher opens them no more often, uses no list up, and fills no disk.
    fn is_not_too_much(&mut self, now: Monotonic, claim: &Claim) -> Result<(), Reason> {
        let OpenedBy::Method(by) = claim.origin.by else { return Ok(()) };
        let door = Some(claim.door.name().clone());
        let (door, burst, interval) = match by {
            // A line that is used up is so for good.
            Method::OneTimeSequence => (door, 10, Duration::from_secs(60)),
            // Each is remembered for a day: 150 MB at most.
            Method::Fwknop => (None, 1_000, Duration::from_millis(100)),
            _ => (door, 1_000, Duration::from_millis(20)),
        };
        let limit = self.claims_by.entry((by, door));
        let limit = limit.or_insert_with(|| Limit::new(burst, interval));
        // What is too much at one door takes nothing away from the others.
        (limit.pass(now) && self.claims.pass(now)).then_some(()).ok_or(Reason::TooMany)
    }

    /// Forgets how much was asked for of doors that there are no more.
    pub(super) fn forget_doors(&mut self, config: &Config) {
        let is_there = |door: &Name| config.door(door).is_some();
        self.claims_by.retain(|(_, door), _| door.as_ref().is_none_or(is_there));
    }

    /// So many packets came to nothing.
    fn nothing(&mut self, now: Monotonic, reason: Reason, count: u64) {
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

    /// What was asked for was not granted.
    pub(super) fn refused(&mut self, claim: &Claim, reason: Reason) {
        self.count(reason, 1);
        self.requested(Some(&claim.door), claim.origin.by.as_str(), reason.as_str());
    }

    fn requested(&mut self, door: Option<&Door>, by: &str, outcome: &str) {
        let door = door.map_or("", |door| door.name().as_str());
        self.metrics.add(REQUESTS, &[&door, &by, &outcome], 1);
    }

    /// Adds to what has come to nothing for a reason; how much that is now.
    pub(super) fn count(&mut self, reason: Reason, count: u64) -> u64 {
        let total = self.counts.entry(reason).or_default();
        *total = total.saturating_add(count);
        *total
    }

    /// Logs a line that a watcher has written to standard error.
    pub(super) fn stderr_line(&mut self, now: Monotonic, line: &str) {
        if self.stderr_lines.pass(now) {
            error!("watcher: {line}");
        }
    }

    /// Whether no other watcher has reported already what a source did at a door.
    fn is_new(&mut self, generation: u64, door: &Name, source: IpAddr, began: Monotonic) -> bool {
        let known = self.completed.iter().any(|(by, name, other, at)| {
            let apart = at.since(began).max(began.since(*at));
            *by != generation && name == door && *other == source && apart <= OVERLAP
        });
        push_latest(&mut self.completed, REMEMBERED, (generation, door.clone(), source, began));
        !known
    }

    /// Whether one more line may be logged because a watcher says so: one that has been taken over
    /// may say anything, as often as it likes.
    fn may_log(&mut self, now: Monotonic) -> bool {
        let passed = self.lines.pass_after(now);
        if let Some(count @ 1..) = passed {
            warn!(count, "{count} more lines of the watcher were not logged");
        }
        passed.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OneTime;
    use crate::engine::{CompletedBy, DatagramRequest};
    use crate::keeper::credible::tests::{CODE, PLAIN, SPA, World, address};

    /// How many of so many are not too much.
    fn passed(intake: &mut Intake, now: Monotonic, claim: &Claim, count: u32) -> usize {
        (0..count).filter(|_| intake.is_not_too_much(now, claim).is_ok()).count()
    }

    #[test]
    fn a_lockout_is_told_of_once_it_is_remembered() {
        let (world, mut intake) = (World::new(), Intake::new(UncleanStart::default()));
        let (now, source) = (world.now.monotonic, address("198.51.100.7"));
        let until = now + Duration::from_secs(1);
        let event = Event { source, ..world.event(CODE, EventKind::LockedOut { until }) };
        intake.event(now, 1, &world.grounds(), &event, now).unwrap();
        let told = intake.notices.iter().find_map(|notice| match notice {
            Notice::LockedOut { door, source, until } => Some((door.clone(), *source, *until)),
            _ => None,
        });
        let door = world.config.doors[CODE.0 as usize].name().clone();
        assert_eq!(told, Some((Some(door), source, until)));
        assert_eq!(intake.lockouts.status(now).len(), 1);
    }

    #[test]
    fn a_door_is_asked_for_so_often_and_what_is_too_much_takes_nothing_from_others() {
        let (world, mut intake) = (World::new(), Intake::new(UncleanStart::default()));
        let now = world.now.monotonic;
        let asked = |request| Claim::of_request(&world.grounds(), &request, now).unwrap().0;
        let (spa, fwknop) = (asked(world.spa()), asked(world.fwknop()));
        let closes = asked(DatagramRequest { close: true, door: SPA, ..world.spa() });
        for (claim, first) in [(&spa, 1_000), (&fwknop, 1_000), (&closes, 0)] {
            assert_eq!(passed(&mut intake, now, claim, 100_000), first);
        }
        let later = now + Duration::from_secs(1);
        assert_eq!(passed(&mut intake, later, &fwknop, 1_000), 10);
        assert_eq!(passed(&mut intake, later, &spa, 1_000), 50);
        let by_hand = Claim::by_administrator(spa.door.clone(), world.spa().source, now, None);
        assert_eq!(passed(&mut intake, later, &by_hand, 9_000), 9_000);
    }

    #[test]
    fn all_doors_together_are_asked_for_so_often() {
        let (world, mut intake) = (World::new(), Intake::new(UncleanStart::default()));
        let now = world.now.monotonic;
        let (claim, _) = Claim::of_request(&world.grounds(), &world.spa(), now).unwrap();
        let at = |number: u32| {
            let mut claim = claim.clone();
            claim.door.recognition.name = format!("door{number}").parse().unwrap();
            claim
        };
        let all = (0..10).map(|number| passed(&mut intake, now, &at(number), 1_000)).sum::<usize>();
        assert_eq!(all, 4_000);
    }

    #[test]
    fn a_door_that_is_no_more_is_forgotten_and_one_that_stays_gets_no_more_for_that() {
        let (world, mut intake) = (World::new(), Intake::new(UncleanStart::default()));
        let now = world.now.monotonic;
        let (claim, _) = Claim::of_request(&world.grounds(), &world.spa(), now).unwrap();
        let mut gone = claim.clone();
        gone.door.recognition.name = "gone".parse().unwrap();
        assert_eq!(passed(&mut intake, now, &claim, 2_000), 1_000);
        assert_eq!(passed(&mut intake, now, &gone, 1), 1);
        intake.forget_doors(&world.config);
        assert_eq!(intake.claims_by.len(), 1);
        assert_eq!(passed(&mut intake, now, &claim, 1), 0);
    }

    #[test]
    fn a_list_of_lines_that_open_once_lasts() {
        let (mut world, mut intake) = (World::new(), Intake::new(UncleanStart::default()));
        let file = "list".into();
        world.config.doors[PLAIN.0 as usize].one_time =
            Some(OneTime { file, line: Some(1), left: 99 });
        let (now, by) = (world.now.monotonic, CompletedBy::Sequence);
        let event = world.event(PLAIN, EventKind::Open(by));
        let (claim, _) = Claim::of_sequence(&world.grounds(), &event, by, now).unwrap();
        assert_eq!(passed(&mut intake, now, &claim, 100), 10);
        assert_eq!(passed(&mut intake, now + Duration::from_secs(300), &claim, 100), 5);
    }
}
