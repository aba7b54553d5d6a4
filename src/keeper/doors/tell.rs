//! Events of doors, told at once in the log, in the history, and by hooks and mail.

use std::time::Duration;

use tracing::{debug, warn};

use super::Doors;
use crate::config::Name;
use crate::control::{EventLine, What};
use crate::engine::Reason;
use crate::grants::{GrantKey, OpenedBy, Origin};
use crate::keeper::claim::Claim;
use crate::keeper::metrics::{CLOSED, OPENED, REQUESTS};
use crate::ledger::{HistoryEntry, HistoryEvent};
use crate::log::{self, limit::Limit};
use crate::proto::Method;
use crate::sys::clock;
use crate::time::{Monotonic, Now};

/// How many lines about a door there may be at once, and how often one more.
const LINES: u32 = 1_000;
const LINE_EVERY: Duration = Duration::from_millis(50);

/// An event of a door.
#[derive(Clone, Copy, Debug)]
pub(super) enum DoorEvent<'a> {
    /// What opens it has been done; `None`: before, and it opens again now.
    Asked(Option<&'a Claim>),
    /// A sequence is complete, and yet it does not open, as is told next.
    Complete(&'a Claim),
    /// It is open; how, where there is more to say.
    Open(&'a str),
    /// It was open before, or had gone, and stays so, until then where that is later.
    Extended { was_gone: bool, until: Option<Monotonic> },
    /// It begins to close, for this reason.
    Closing(&'a str),
    /// It has closed, for this reason.
    Closed(&'a str),
    /// It has no close, and does its work.
    Act,
    /// What was granted did not work, and why.
    Failed(&'a str, &'a str),
    /// It does not open, since the ledger cannot be written.
    NotRecorded,
    /// What was asked for is not granted.
    Refused(Reason, &'a Claim),
    /// A rotating sequence opened nothing, which has been logged.
    Spent(Reason),
}

impl DoorEvent<'_> {
    /// What the log says, if anything.
    fn lines(self, now: Now, key: &GrantKey, origin: &Origin) -> Vec<EventLine> {
        let line = |what, text: &str| {
            EventLine::new(clock::now().wall, Some(key.network), Some(&key.door), what, text)
        };
        let completed = |what, claim: Option<&Claim>| {
            // The stage that a sequence ended with is told here: until now nothing waited for the log.
            let last = claim.and_then(Claim::last_stage);
            let stage = last.map(|(stage, knock)| {
                line(What::Stage { stage, knock }, &format!("Stage {stage}"))
            });
            let gateway = claim.and_then(|claim| claim.gateway.as_ref());
            let text = match origin.by {
                OpenedBy::Method(_) => "OPEN SESAME",
                OpenedBy::Knockctl => "opened by hand",
                OpenedBy::Fleet => {
                    &format!("opened at {}", gateway.map_or("another gateway", Name::as_str))
                }
            };
            let asked_by = claim.and_then(|claim| claim.asked_by);
            let done = line(what, text).of_client(origin.client.as_ref()).asked_by(asked_by);
            stage.into_iter().chain([EventLine { by: Some(origin.by), ..done }]).collect()
        };
        let line = match self {
            Self::Asked(claim) => return completed(What::Open { knock: None }, claim),
            Self::Complete(claim) => return completed(What::Complete, Some(claim)),
            Self::Extended { until, .. } => {
                let seconds = until.map(|until| until.since(now.monotonic).as_secs());
                line(What::Extend { seconds }, &self.extension(now))
            }
            Self::Closing(why) => line(What::Close, why),
            Self::Failed(what, why) => line(What::Failed, &format!("{what}: {why}")),
            Self::NotRecorded => line(What::Failed, "not opened, since it cannot be recorded"),
            Self::Refused(reason, claim) => {
                let line = line(What::refused(Some(reason)), &format!("not opened: {reason}"));
                line.of_client(origin.client.as_ref()).asked_by(claim.asked_by)
            }
            Self::Open(_) | Self::Closed(_) | Self::Act | Self::Spent(_) => return Vec::new(),
        };
        vec![line]
    }

    /// What the history says; `None`: nothing.
    fn history(self, now: Now) -> Option<(HistoryEvent, String)> {
        Some(match self {
            Self::Asked(_) | Self::Complete(_) | Self::Closing(_) => return None,
            Self::Open(how) => (HistoryEvent::Open, how.to_owned()),
            Self::Extended { .. } => (HistoryEvent::Extend, self.extension(now)),
            Self::Closed(why) => (HistoryEvent::Close, why.to_owned()),
            Self::Act => (HistoryEvent::Act, String::new()),
            Self::Failed(_, why) => (HistoryEvent::Failed, why.to_owned()),
            Self::NotRecorded => (HistoryEvent::Failed, "cannot be recorded".to_owned()),
            Self::Refused(reason, _) | Self::Spent(reason) => {
                (HistoryEvent::Refused, reason.as_str().to_owned())
            }
        })
    }

    fn extension(self, now: Now) -> String {
        let Self::Extended { was_gone, until } = self else { return String::new() };
        let what = if was_gone { "opened again, since it was gone" } else { "open already" };
        match until.map(|until| until.since(now.monotonic).as_secs()) {
            Some(seconds) => format!("{what}, now for another {seconds} s"),
            None => what.to_owned(),
        }
    }
}

impl Doors {
    /// Tells of something at a door, at once in the log, in the history, and to whoever wants to be
    /// told. False: the history cannot be written.
    pub(super) fn tell(
        &mut self,
        now: Now,
        key: &GrantKey,
        origin: &Origin,
        what: DoorEvent<'_>,
    ) -> bool {
        if let DoorEvent::Refused(_, claim) = what {
            // Strangers can cause it as often as they like: the history is not filled either.
            if !self.may_log(now, &key.door) {
                return true;
            }
            // A sequence that was completed is told of; what follows says what became of it.
            if matches!(origin.by, OpenedBy::Method(Method::Sequence) | OpenedBy::Knockctl) {
                self.tell(now, key, origin, DoorEvent::Complete(claim));
            }
        }
        let lines = what.lines(now, key, origin);
        let is_unlimited = matches!(what, DoorEvent::NotRecorded | DoorEvent::Refused(..));
        if !lines.is_empty() && (is_unlimited || self.may_log(now, &key.door)) {
            lines.into_iter().for_each(|line| self.log_event(line));
        }
        let is_written = what.history(now).is_none_or(|(event, detail)| {
            self.journal.append(&HistoryEntry {
                at: now.wall,
                door: Some(key.door.clone()),
                network: Some(key.network),
                client: origin.client.clone(),
                by: Some(origin.by),
                event,
                detail,
            })
        });
        // What is refused is counted where it is known whether anybody asked.
        let outcome = match what {
            DoorEvent::Open(_) => Some("opened"),
            DoorEvent::Extended { .. } => Some("extended"),
            DoorEvent::Act => Some("acted"),
            DoorEvent::Failed(..) | DoorEvent::NotRecorded => Some("failed"),
            _ => None,
        };
        if let Some(outcome) = outcome {
            self.metrics.add(REQUESTS, &[&key.door, &origin.by, &outcome], 1);
        }
        match what {
            DoorEvent::Open(_) => {
                self.metrics.add(OPENED, &[&key.door], 1);
                debug!(source = %key.network, door = %key.door, "open");
                let until = self.grants.open_until(key);
                self.note_open(key, origin, until);
                let until = until.map(|until| now.wall + until.since(now.monotonic));
                self.alerts.tell(now, key, origin, true, until);
            }
            DoorEvent::Extended { until, .. } => self.note_open(key, origin, until),
            DoorEvent::Closed(_) => {
                self.metrics.add(CLOSED, &[&key.door], 1);
                debug!(source = %key.network, door = %key.door, "closed");
                self.alerts.tell(now, key, origin, false, None);
            }
            _ => {}
        }
        is_written
    }

    /// Logs what has happened, for those who follow as well.
    pub(in crate::keeper) fn log_event(&mut self, line: EventLine) {
        log::event(&line);
        self.logged.push(line);
    }

    /// Whether one more thing about a door may be logged: whoever makes thousands of grants does
    /// not fill the log.
    fn may_log(&mut self, now: Now, door: &Name) -> bool {
        let limit = self.lines.entry(door.clone()).or_insert_with(|| Limit::new(LINES, LINE_EVERY));
        let passed = limit.pass_after(now.monotonic);
        if let Some(left_out @ 1..) = passed {
            warn!(door = %door, "so much happens here that {left_out} lines are left out");
        }
        passed.is_some()
    }
}
