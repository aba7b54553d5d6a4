//! What administrators ask of the daemon, and what they are told.

use std::collections::{BTreeMap, HashMap};
use std::process;
use std::time::Duration;

use serde_json::Value;
use tracing::info;

use super::ask::Ask;
use super::control::{ConnectionId, Follows};
use super::doors::Answer;
use super::run::Keeper;
use super::watchers::Notice;
use super::words::{broken, locked_out, missed};
use crate::config::{Door, Name};
use crate::control::{DoorStatus, EventLine, GrantStatus, HistoryQuery, Reply, Request, Status};
use crate::engine::{Event, EventKind, Knocked};
use crate::grants::{By, GrantState, Place};
use crate::ipc::ToWatcher;
use crate::ledger::{Entry, LedgerError, Query};
use crate::log;
use crate::proto::duration;
use crate::proto::network::is_a_hosts;
use crate::sys::clock;
use crate::time::{Monotonic, Now, Wall};

/// How much history is told at once: the latest of it.
const MOST_HISTORY: u32 = 10_000;
/// How many grants a status shows.
const MOST_GRANTS: usize = 25_000;
/// How long a status may wait for commands that look what is open.
const TIME_TO_LOOK: Duration = Duration::from_secs(2);

impl Keeper {
    /// Hears what administrators ask, and tells those who follow what has happened.
    pub(super) fn serve(&mut self, now: Now) {
        let requests = self.control.poll(now.monotonic, self.watchers.users());
        if !requests.is_empty() {
            let began = clock::now().monotonic;
            requests.into_iter().for_each(|(id, request)| self.answer(now, id, request));
            self.control.answered(began, clock::now().monotonic);
        }
        for event in log::take_events() {
            let source = event.source.as_deref().and_then(|source| source.parse().ok());
            self.control.publish(&Reply::Event(event), |follows| match follows {
                Follows::Nothing => false,
                Follows::Events | Follows::Knocks(None) => true,
                Follows::Knocks(wanted) => wanted == source,
            });
        }
        for (job, outcome) in self.doors.take_ended() {
            let Some((asked_by, place)) = self.opening.remove(&job) else { continue };
            let reply = self.has_opened(now, &place, outcome);
            self.control.reply(asked_by, &reply);
        }
        if !self.asked_status.is_empty()
            && (!self.doors.is_looking() || self.status_by.is_some_and(|by| by <= now.monotonic))
        {
            self.doors.stop_looking();
            let status = self.status(now);
            self.status_by = None;
            for id in std::mem::take(&mut self.asked_status) {
                self.control.reply(id, &Reply::Status(status.clone()));
                self.control.reply(id, &Reply::Done { text: String::new() });
            }
        }
        let asked = self.control.follows().fold(Asked::default(), Asked::and);
        if asked != self.asked {
            log::keep_events(asked.follows);
            if self.asked.knocks && !asked.knocks {
                self.watchers.tell(ToWatcher::ExplainNothing);
            }
            self.asked = asked;
        }
    }

    fn answer(&mut self, now: Now, id: ConnectionId, request: Request) {
        let reply = match request {
            Request::Status => {
                self.doors.look(now);
                self.status_by.get_or_insert(now.monotonic + TIME_TO_LOOK);
                // Answered when it is known what is open, in this turn if nothing has to be run.
                return self.asked_status.push(id);
            }
            Request::Open { address, .. } if !is_a_hosts(address) => {
                Reply::Failed { why: format!("no packet comes from {address}") }
            }
            Request::Open { door, address, seconds } => match self.find(&door) {
                None => no_such_door(&door),
                Some(door) => {
                    let open_for = seconds.map(Duration::from_secs);
                    let place = Place::new(door.name().clone(), address);
                    let ask = Ask::by_hand(door, address, now.monotonic, open_for);
                    let outcome = match self.doors.ask(now, &ask) {
                        Ok(Answer::Done) => Ok(()),
                        Ok(Answer::UnderWay(job)) => {
                            self.opening.insert(job, (id, place));
                            return;
                        }
                        Ok(Answer::Failed(why)) => Err(why.to_owned()),
                        Err(reason) => Err(reason.to_string()),
                    };
                    self.has_opened(now, &place, outcome)
                }
            },
            Request::Close { door, address } => {
                if self.doors.close(now, &door, address) {
                    Reply::Done { text: format!("{door} closes for {address}") }
                } else if self.find(&door).is_none() {
                    no_such_door(&door)
                } else {
                    Reply::Failed { why: format!("{door} is not open for {address}") }
                }
            }
            Request::CloseAll => {
                let text = match self.doors.list().len() {
                    0 => "nothing is open".to_owned(),
                    1 => "1 open door closes".to_owned(),
                    count => format!("{count} open doors close"),
                };
                self.doors.close_all(now);
                Reply::Done { text }
            }
            Request::Revoke { client } => {
                let text = match self.doors.close_client(now, &client) {
                    0 => String::new(),
                    1 => format!("1 door that '{client}' has opened closes"),
                    count => format!("{count} doors that '{client}' has opened close"),
                };
                Reply::Done { text }
            }
            Request::Unlock { address } => {
                if self.watchers.unlock(now.monotonic, address) {
                    info!(source = %address, event = "unlocked", "listened to again");
                    Reply::Done { text: format!("{address} is listened to again") }
                } else {
                    Reply::Failed { why: format!("{address} is not locked out") }
                }
            }
            Request::ResetClient { client } => match self.reset_client(now, &client) {
                Ok(text) => Reply::Done { text },
                Err(why) => Reply::Failed { why },
            },
            Request::Try { seconds } => match self.try_out(now, id, seconds.into()) {
                // Answered when it is in force.
                Ok(()) => return,
                Err(why) => Reply::Failed { why },
            },
            Request::Confirm => match self.confirm(now) {
                Ok(()) => Reply::Done { text: "confirmed: the configuration stays".to_owned() },
                Err(why) => Reply::Failed { why },
            },
            Request::Reload => return self.reload_for(now, id),
            Request::Watch => return self.control.follow(id, Follows::Events),
            Request::Explain { address } => {
                self.past_for = Some(id);
                self.watchers.tell(match address {
                    Some(source) => ToWatcher::Explain { source },
                    None => ToWatcher::ExplainAll,
                });
                return self.control.follow(id, Follows::Knocks(address));
            }
            Request::History(query) => match self.history(&query) {
                Err(why) => Reply::Failed { why: why.to_string() },
                Ok(entries) => {
                    for entry in entries.iter().rev() {
                        self.control.reply(id, &Reply::Event(past_entry(entry)));
                    }
                    Reply::Done { text: String::new() }
                }
            },
        };
        self.control.reply(id, &reply);
    }

    /// What becomes of opening a door by hand.
    fn has_opened(&self, now: Now, place: &Place, outcome: Result<(), String>) -> Reply {
        let Place { door, address, .. } = place;
        match (outcome, self.doors.open_until(place)) {
            (Err(why), _) => {
                Reply::Failed { why: format!("{door} could not be opened for {address}: {why}") }
            }
            (Ok(()), Some(until)) => {
                let left =
                    Duration::from_secs(until.since(now.monotonic).as_secs_f64().round() as u64);
                let left = duration::format(left);
                Reply::Done { text: format!("{door} is open for {address}, closes in {left}") }
            }
            (Ok(()), None) => Reply::Done { text: format!("{door} opens for {address}") },
        }
    }

    fn find(&self, name: &Name) -> Option<Door> {
        self.watchers.config().door(name).cloned()
    }

    /// Passes on what a watcher says because somebody asked.
    pub(super) fn explain(&mut self, now: Now, notice: &Notice) {
        match *notice {
            Notice::Seen { source, knock, reason, at } => {
                let line = EventLine {
                    time: seconds(wall(now, at)),
                    source: Some(source.to_string()),
                    door: None,
                    event: "ignored".to_owned(),
                    message: reason.to_string(),
                    facts: facts([
                        ("knock", knock.to_string().into()),
                        ("reason", reason.as_str().into()),
                    ]),
                };
                self.control.publish(&Reply::Event(line), |follows| match follows {
                    Follows::Knocks(wanted) => wanted.is_none_or(|wanted| wanted == source),
                    _ => false,
                });
            }
            Notice::PastRefusal { ref door, ref client, refusal, at } => {
                let Some(id) = self.past_for else { return };
                let client = client.as_ref().map(|client| ("client", client.as_str().into()));
                let reason = ("reason", refusal.reason.as_str().into());
                let line = EventLine {
                    time: seconds(wall(now, at)),
                    source: Some(refusal.source.to_string()),
                    door: door.as_ref().map(ToString::to_string),
                    event: "refused".to_owned(),
                    message: format!("request refused: {}", refusal.reason),
                    facts: client
                        .into_iter()
                        .chain([reason])
                        .map(|(name, value): (&str, Value)| (name.to_owned(), value))
                        .collect(),
                };
                self.control.reply(id, &Reply::Event(line));
            }
            Notice::Past { ref door, ref client, event, at } => {
                if let Some(id) = self.past_for {
                    let line = past(door, client.as_ref(), &event, wall(now, at));
                    self.control.reply(id, &Reply::Event(line));
                }
            }
            _ => {}
        }
    }

    fn history(&self, query: &HistoryQuery) -> Result<Vec<Entry>, LedgerError> {
        let nanos = |seconds: f64| Wall::from_nanos((seconds.max(0.0) * 1e9) as u64);
        self.doors.books().history(&Query {
            door: query.door.clone(),
            address: query.address,
            since: query.since.map(nanos),
            limit: MOST_HISTORY,
        })
    }

    pub(super) fn status(&self, now: Now) -> Status {
        let config = self.watchers.config();
        let grants = self.doors.list();
        let (listening, waiting_for) = self.watchers.listening();
        let counts = self.watchers.counts();
        let mut open: HashMap<&Name, usize> = HashMap::new();
        for grant in &grants {
            *open.entry(&grant.place.door).or_default() += 1;
        }
        let doors = config.doors.iter().map(|door| DoorStatus {
            door: door.name().clone(),
            opens: door.opening.ports.iter().map(ToString::to_string).collect(),
            via: door.opening.how.to_string(),
            open: open.get(door.name()).copied().unwrap_or_default(),
            sequences_left: door.one_time.as_ref().map(|one_time| one_time.left),
        });
        let not_shown = grants.len().saturating_sub(MOST_GRANTS);
        let grants = grants.iter().take(MOST_GRANTS).map(|grant| GrantStatus {
            door: grant.place.door.clone(),
            address: grant.place.address,
            source_port: grant.place.source_port,
            client: grant.opener.client.clone(),
            by: grant.opener.by.as_str().to_owned(),
            state: match grant.state {
                GrantState::Open if self.doors.is_gone(grant.id) => "gone".to_owned(),
                state => state.to_string(),
            },
            seconds_left: grant.deadline.since(now.monotonic).as_secs_f64(),
        });
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: process::id(),
            since: seconds(self.since),
            configuration: self.cli.config.clone(),
            on_trial_until: self
                .on_trial_until()
                .map(|until| seconds(now.wall + until.since(now.monotonic))),
            listening,
            waiting_for,
            doors: doors.collect(),
            grants: grants.collect(),
            grants_not_shown: not_shown,
            counters: counts
                .iter()
                .map(|(reason, &count)| (reason.as_str().to_owned(), count))
                .collect(),
            dropped: self.watchers.dropped(),
            locked_out: self.watchers.locks().status(now.monotonic),
        }
    }
}

/// What those who are connected want to be told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// Anything at all.
    follows: bool,
    /// What became of knocks.
    knocks: bool,
}

impl Asked {
    const fn and(self, follows: Follows) -> Self {
        match follows {
            Follows::Nothing => self,
            Follows::Events => Self { follows: true, ..self },
            Follows::Knocks(_) => Self { follows: true, knocks: true },
        }
    }
}

/// A line of the history.
fn past_entry(entry: &Entry) -> EventLine {
    let mut facts = BTreeMap::new();
    if let Some(by) = entry.by {
        facts.insert("by".to_owned(), by.as_str().into());
    }
    if let Some(client) = &entry.client {
        facts.insert("client".to_owned(), client.as_str().into());
    }
    EventLine {
        time: seconds(entry.at),
        source: entry.address.map(|address| address.to_string()),
        door: entry.door.as_ref().map(ToString::to_string),
        event: entry.event.as_str().to_owned(),
        message: entry.detail.clone(),
        facts,
    }
}

fn no_such_door(door: &Name) -> Reply {
    Reply::Failed { why: format!("there is no door '{door}'") }
}

/// When something happened, by the calendar of now.
fn wall(now: Now, at: Monotonic) -> Wall {
    now.wall - now.monotonic.since(at)
}

fn seconds(wall: Wall) -> f64 {
    (wall.as_nanos() / 1000) as f64 / 1e6
}

fn facts<const N: usize>(facts: [(&str, Value); N]) -> BTreeMap<String, Value> {
    facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// An event as it was told when it happened.
fn past(door: &Name, client: Option<&Name>, event: &Event, time: Wall) -> EventLine {
    let client = client.map(Name::as_str);
    let (name, message, mut facts) = match event.kind {
        EventKind::Stage(stage) => {
            ("stage", format!("Stage {stage}"), facts([("stage", stage.into())]))
        }
        EventKind::Open(knocked) => {
            let by = match knocked {
                Knocked::Sequence => By::Sequence,
                Knocked::Totp { .. } => By::Totp,
            };
            ("open", "OPEN SESAME".to_owned(), facts([("by", by.as_str().into())]))
        }
        EventKind::Missed { steps, .. } => {
            ("missed", missed(client, steps), facts([("steps", steps.into())]))
        }
        EventKind::LockedOut { everywhere, .. } => (
            "locked_out",
            locked_out(everywhere).to_owned(),
            facts([("everywhere", everywhere.into())]),
        ),
        EventKind::Reset { stage, reason, knock } => {
            let mut facts = facts([("stage", stage.into()), ("reason", reason.as_str().into())]);
            facts.extend(knock.map(|knock| ("knock".to_owned(), knock.to_string().into())));
            ("reset", broken(stage, reason, knock), facts)
        }
    };
    facts.extend(client.map(|client| ("client".to_owned(), client.into())));
    EventLine {
        time: seconds(time),
        source: Some(event.source.to_string()),
        door: Some(door.to_string()),
        event: name.to_owned(),
        message,
        facts,
    }
}
